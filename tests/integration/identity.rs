//! Tokens: who is let in, who is not and what they are told, over both transports.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hubbub::token::Algorithm;
use hubbub::token::keygen::{KeyPair, generate};
use hubbub::token::mint::Signer;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Client, Deadline, HookServer, Issuer, Launch, Request, Server, connect_ws, foreign_token, now_seconds,
    try_connect_ws, until,
};

/// Both transports, each with nothing said yet.
fn both(server: &Server) -> [Client; 2] {
    [server.ws(), server.tcp()]
}

fn connect(token: &str) -> Value {
    json!({"type": "connect", "token": token})
}

#[test]
fn the_user_is_the_tokens_subject_and_its_name_and_end_are_told() {
    let issuer = Issuer::new();
    let server = issuer.launch("[token]\nleeway = '0s'").start();
    let ends = now_seconds() + 60;
    let token = issuer.token("ann", json!({"exp": ends, "name": "Ann of Green Gables", "jti": "1"}));
    for mut client in both(&server) {
        let welcome = client.ask(connect(&token));
        assert_eq!((welcome.kind(), &welcome["user"]), ("welcome", &json!("ann")), "{}", welcome.text);
        assert_eq!((&welcome["name"], &welcome["expires"]), (&json!("Ann of Green Gables"), &json!(ends * 1_000)));
        client.join("lobby");
    }
    let metrics = server.metrics_until("a token was found in the cache", |metrics| {
        metrics.sum("hubbub_token_cache_hits_total", &[]) == 1
    });
    assert_eq!(metrics.sum("hubbub_logins_total", &[("outcome", "ok")]), 2);
}

#[test]
fn every_token_that_is_no_good_is_refused_with_what_is_wrong() {
    let issuer = Issuer::new();
    let server = issuer.launch("[token]\nissuer = ['us']\naudience = ['chat']\nleeway = '5s'").start();
    let good = json!({"iss": "us", "aud": "chat"});
    let with = |claim: &str, value: Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        issuer.token("ann", claims)
    };
    let cut = |token: &str| token[..token.len() - 4].to_owned();
    let cases = [
        (connect(&with("exp", json!(now_seconds() - 60))), "expired", "get a new one"),
        (connect(&with("nbf", json!(now_seconds() + 60))), "unauthorized", "`nbf` is in the future"),
        (connect(&with("iss", json!("them"))), "unauthorized", "(`iss`)"),
        (connect(&with("aud", json!("mail"))), "unauthorized", "its `aud` does not name this server"),
        (connect(&with("exp", Value::Null)), "unauthorized", "claim `exp`"),
        (connect(&with("sub", json!("a\nb"))), "unauthorized", "claim `sub`"),
        (connect(&with("rooms", json!({"a": "king"}))), "unauthorized", "claim `rooms`"),
        (connect(&cut(&issuer.token("ann", good.clone()))), "unauthorized", "signature"),
        (connect(&foreign_token("ann")), "unauthorized", "signature"),
        (connect("no.token.at-all"), "unauthorized", "this is no token"),
        (connect(NONE), "unauthorized", "algorithm"),
        (connect(&"x".repeat(9_000)), "unauthorized", "longer than"),
        (json!({"type": "connect", "name": "ann"}), "unauthorized", "connect with `token`"),
        (json!({"type": "connect"}), "unauthorized", "connect with `token`"),
    ];
    for (command, code, text) in cases {
        for mut client in both(&server) {
            let refused = client.refused(command.clone(), code);
            assert!(refused["message"].as_str().unwrap().contains(text), "{text}: {}", refused.text);
            // The next try may be a better one.
            let token = issuer.token("ann", good.clone());
            assert_eq!(client.ask(connect(&token)).kind(), "welcome");
        }
    }
}

#[test]
fn nothing_is_done_before_it_is_known_who_asks() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    for mut client in both(&server) {
        client.refused(json!({"type": "join", "room": "lobby"}), "unauthorized");
        client.refused(json!({"type": "rooms"}), "unauthorized");
    }
}

#[test]
fn the_third_refused_connect_closes() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let [mut ws, mut tcp] = both(&server);
    for client in [&mut ws, &mut tcp] {
        for _ in 0..3 {
            client.refused(connect("x"), "unauthorized");
        }
    }
    assert_eq!(ws.end().1, Some((4503, "unauthorized".into())));
    assert_eq!(tcp.end().1, None);
}

#[test]
fn a_token_comes_in_the_query_in_authorization_or_as_a_subprotocol() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let token = issuer.token("ann", json!({}));
    let in_query = Request::new(server.http(), &format!("/ws?token={token}&room=lobby"));
    let in_header = Request::new(server.http(), "/ws?room=lobby").header("Authorization", &format!("Bearer {token}"));
    let as_protocol = Request::new(server.http(), "/ws?room=lobby")
        .header("Sec-WebSocket-Protocol", &format!("hubbub.v1.json, hubbub.token.{token}"));
    for request in [in_query, in_header, as_protocol] {
        let (mut client, response) = connect_ws(&request);
        assert_eq!(client.expect("welcome")["user"], "ann");
        assert_eq!(client.expect("ok")["room"], "lobby");
        let agreed = response.headers().get("Sec-WebSocket-Protocol").map(|value| value.to_str().unwrap());
        assert!(agreed.is_none_or(|agreed| agreed == "hubbub.v1.json"), "the token is not said back: {agreed:?}");
    }
}

#[test]
fn a_request_with_two_tokens_or_another_scheme_is_refused() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let twice = Request::new(server.http(), "/ws?token=a").header("Authorization", "Bearer b");
    let basic = Request::new(server.http(), "/ws").header("Authorization", "Basic YTpi");
    for (request, text) in [(twice, "given once"), (basic, "must be `Bearer`")] {
        let (status, body) = try_connect_ws(&request).err().unwrap();
        assert_eq!(status, 400);
        assert!(body.contains(text), "{body}");
    }
}

#[test]
fn a_bad_token_of_the_url_is_told_and_closes_at_once() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let mut client = server.ws_at("/ws?token=x.y.z&room=lobby");
    let (events, close) = client.end();
    assert_eq!(events.iter().map(|event| event["code"].clone()).collect::<Vec<_>>(), ["unauthorized"]);
    assert_eq!(close, Some((4503, "unauthorized".into())));
}

#[test]
fn a_connection_ends_with_its_token_unless_it_shows_a_fresh_one() {
    let issuer = Issuer::new();
    let server = issuer.launch("[token]\nleeway = '0s'").start();
    let short = || issuer.token("ann", json!({"exp": now_seconds() + 2}));
    let [mut ws, mut tcp] = both(&server);
    for client in [&mut ws, &mut tcp] {
        assert_eq!(client.ask(connect(&short())).kind(), "welcome");
    }
    let mut kept = server.ws();
    assert_eq!(kept.ask(connect(&short())).kind(), "welcome");
    kept.refused(connect("x"), "unauthorized");
    kept.refused(connect(&issuer.token("bob", json!({}))), "forbidden");
    kept.refused(json!({"type": "connect", "token": issuer.token("ann", json!({})), "name": "ann"}), "bad_request");
    kept.ok(connect(&issuer.token("ann", json!({}))));
    assert_eq!(ws.end(), (Vec::new(), Some((4002, "token expired".into()))));
    let (events, close) = tcp.end();
    assert_eq!(
        (&events[0]["code"], &events[0]["message"]),
        (&json!("expired"), &json!("token expired: reconnect with a fresh token"))
    );
    assert_eq!((events.len(), close), (1, None));
    kept.fence();
    server.metrics_until("both are gone", |metrics| {
        metrics.sum("hubbub_closed_total", &[("reason", "token_expired")]) == 2
    });
}

#[test]
fn a_fresh_token_that_opens_less_puts_out_of_rooms() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    for mut client in both(&server) {
        let wide = issuer.token("ann", json!({"rooms": {"team-*": "host"}}));
        assert_eq!(client.ask(connect(&wide)).kind(), "welcome");
        client.join("team-a");
        client.join("team-b");
        client.ok(connect(&issuer.token("ann", json!({"rooms": {"team-a": "guest"}}))));
        assert_eq!(client.expect("kicked")["room"], "team-b");
        client.refused(json!({"type": "message", "room": "team-a", "content": 1}), "forbidden");
        client.refused(json!({"type": "join", "room": "team-b"}), "forbidden");
    }
}

#[test]
fn the_relay_wants_a_token_too() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let mut without = server.raw_ws("/relay/r");
    assert_eq!(without.closed_with(), Some(4503));
    let token = issuer.token("ann", json!({}));
    let mut with = server.raw_ws(&format!("/relay/r?token={token}"));
    with.frame(0x81, b"hello");
    assert_eq!(with.next_data().unwrap().text(), "hello");
    let elsewhere = issuer.token("ann", json!({"rooms": {"other": "member"}}));
    let mut forbidden = server.raw_ws(&format!("/relay/r?token={elsewhere}"));
    assert_eq!(forbidden.closed_with(), Some(4505));
    let metrics = server.metrics();
    for (outcome, count) in [("ok", 2), ("missing", 1)] {
        assert_eq!(metrics.sum("hubbub_logins_total", &[("outcome", outcome)]), count, "{outcome}");
    }
}

#[test]
fn with_tokens_any_host_is_served_and_other_origins_are_not() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let target = format!("/ws?token={}", issuer.token("ann", json!({})));
    let request = Request::new(server.http(), &target).header("Host", "chat.example:443");
    assert_eq!(
        connect_ws(&request.clone().header("Origin", "https://chat.example:443")).0.expect("welcome")["user"],
        "ann"
    );
    let (status, body) = try_connect_ws(&request.header("Origin", "https://elsewhere.example")).err().unwrap();
    assert_eq!((status, body.contains("Origin")), (403, true), "{body}");
}

#[test]
fn other_keys_are_taken_up_by_a_reload_and_a_bad_file_changes_nothing() {
    let issuer = Issuer::new();
    let mut server = issuer.launch("").start();
    issuer.configure("nonsense = 1");
    server.signal(Signal::HUP);
    until("the reload is refused", || server.stderr().contains("was not reloaded").then_some(()));
    let mut client = server.tcp();
    assert_eq!(client.ask(connect(&issuer.token("ann", json!({})))).kind(), "welcome");
    issuer.configure("[token]\naudience = ['chat']\n[[permissions]]\nrooms = 'staff'\njoin = ['role:staff']");
    server.signal(Signal::HUP);
    until("the reload is done", || server.stderr().contains("permissions").then_some(()));
    until("the new rule holds", || {
        let refused = server.tcp().ask(connect(&issuer.token("ann", json!({}))));
        (refused["code"] == "unauthorized").then_some(())
    });
    let mut client = server.tcp();
    assert_eq!(client.ask(connect(&issuer.token("ann", json!({"aud": "chat"})))).kind(), "welcome");
    client.refused(json!({"type": "join", "room": "staff"}), "forbidden");
}

/// A server with one shard that takes tokens of the first key, and another key of the kind.
fn with_es256() -> (Server, Signer, Signer) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    let pair = || match generate(Algorithm::Es256).unwrap() {
        KeyPair::Pair { private, public } => (Signer::read(&private, None).unwrap(), public),
        KeyPair::Secret(_) => unreachable!(),
    };
    let ((ours, public), (theirs, _)) = (pair(), pair());
    std::fs::write(&file, public).unwrap();
    let key = format!("--token-key-files={}", file.display());
    (Launch::new().arguments(["--auth=token", "--shards=1", &key]).start(), ours, theirs)
}

/// A `connect` with a token that no other is like.
fn signed(signer: &Signer, user: &str) -> Value {
    let claims = json!({"sub": user, "exp": now_seconds() + 600});
    connect(&signer.sign(None, claims.as_object().unwrap()).unwrap())
}

#[test]
fn a_shard_does_not_sleep_while_tokens_wait() {
    let (server, ours, _) = with_es256();
    let mut guests: Vec<Client> = (0..200).map(|_| server.tcp()).collect();
    server.metrics_until("all are there", |metrics| {
        metrics.sum("hubbub_connections", &[("kind", "chat_tcp")]) == guests.len() as u64
    });
    // All of it is there when the shard goes on: more than is checked in one turn, and nothing comes after it.
    server.signal(Signal::STOP);
    for (n, client) in guests.iter_mut().enumerate() {
        client.send(&signed(&ours, &format!("ann-{n}")));
    }
    server.signal(Signal::CONT);
    let begun = Deadline::patient();
    for client in &mut guests {
        client.expect("welcome");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "the last was answered after {:?}", begun.elapsed());
}

#[test]
fn many_invented_tokens_at_once_are_refused_and_good_ones_among_them_let_in() {
    let (server, ours, theirs) = with_es256();
    let mut strangers: Vec<Client> = (0..60).map(|_| server.ws()).collect();
    let mut guests: Vec<Client> = (0..10).map(|_| server.tcp()).collect();
    // All of it is there when the shard goes on: more than is checked in one turn.
    server.signal(Signal::STOP);
    for (n, client) in strangers.iter_mut().enumerate() {
        (0..3).for_each(|again| client.send(&signed(&theirs, &format!("eve-{n}-{again}"))));
    }
    for (n, client) in guests.iter_mut().enumerate() {
        client.send(&signed(&theirs, &format!("ann-{n}")));
        client.send(&signed(&ours, &format!("ann-{n}")));
        client.send(&json!({"type": "join", "room": "lobby", "id": 1}));
    }
    server.signal(Signal::CONT);
    for client in &mut strangers {
        let (events, close) = client.end();
        let codes: Vec<_> = events.iter().map(|event| event["code"].clone()).collect();
        assert_eq!(codes, ["unauthorized"; 3]);
        assert!(events.iter().all(|event| event["message"].as_str().unwrap().contains("signature")));
        assert_eq!(close, Some((4503, "unauthorized".into())));
    }
    for (n, client) in guests.iter_mut().enumerate() {
        assert_eq!(client.expect("error")["code"], "unauthorized");
        assert_eq!(client.expect("welcome")["user"], format!("ann-{n}"));
        assert_eq!(client.expect("ok")["room"], "lobby");
    }
    let metrics = server.metrics_until("nobody waits", |metrics| metrics.sum("hubbub_token_queue", &[]) == 0);
    let logins = |outcome| metrics.sum("hubbub_logins_total", &[("outcome", outcome)]);
    assert_eq!((logins("signature"), logins("ok")), (190, 10));
}

#[test]
fn who_leaves_while_its_key_is_fetched_takes_no_place() {
    let (key, jwk) = pair();
    let claims = json!({"sub": "ann", "exp": now_seconds() + 600});
    let token = key.sign(Some("new"), claims.as_object().unwrap()).unwrap();
    let (asks, asked) = flume::bounded(8);
    let (goes_on, may_go_on) = flume::bounded::<()>(8);
    let count = AtomicUsize::new(0);
    let provider = HookServer::answering(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            return (200, json!({"keys": [jwk("old")]}).to_string());
        }
        let _ = asks.send(());
        let _ = may_go_on.recv_timeout(Duration::from_secs(4));
        (200, json!({"keys": [jwk("old"), jwk("new")]}).to_string())
    });
    let url = format!("--token-jwks-url={}", provider.url());
    let arguments = ["--auth=token", "--token-jwks-cooldown=1s", "--limits-connections-per-user=1", &url];
    let server = Launch::new().arguments(arguments).start();
    let waiting = until("the key is fetched", || {
        let mut client = server.ws();
        client.send(&connect(&token));
        asked.recv_timeout(Duration::from_millis(200)).ok().map(|()| client)
    });
    drop(waiting);
    server.metrics_until("it is gone", |metrics| metrics.sum("hubbub_connections", &[("kind", "chat_ws")]) == 0);
    goes_on.send(()).unwrap();
    let _inside = until("a place", || {
        let mut client = server.ws();
        (client.ask(connect(&token)).kind() == "welcome").then_some(client)
    });
    server.ws().refused(connect(&token), "overloaded");
}

/// A new key that signs, and its public half as a JWK under any name.
fn pair() -> (Signer, impl Fn(&str) -> Value) {
    let KeyPair::Pair { private, public } = generate(Algorithm::EdDsa).unwrap() else { unreachable!() };
    let text: String = public.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(text).unwrap();
    let x = URL_SAFE_NO_PAD.encode(&der[der.len() - 32..]);
    let jwk = move |kid: &str| json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x});
    (Signer::read(&private, None).unwrap(), jwk)
}

/// `{"alg":"none"}`, and no signature.
const NONE: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9.";
