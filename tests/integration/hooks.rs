//! The application is asked and told: whom it refuses, what they are told over both transports, and what holds when it
//! fails or is slow.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::harness::{Client, HookCall, HookServer, Launch, Server, TRANSPORTS, now_seconds};

/// A server that asks an application about these events, once.
fn launch(hooks: &HookServer, events: &str) -> Launch {
    let (url, events) = (format!("--hooks-url={}", hooks.url()), format!("--hooks-events={events}"));
    let key = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-hooks-key", std::process::id()));
    std::fs::write(&key, format!("{KEY}\n")).unwrap();
    let secret = format!("--hooks-secret-file={}", key.display());
    Launch::new().arguments(["--shards=2", &url, &events, "--hooks-attempts=1", &secret])
}

/// An application that refuses what has this text in it, and says so with this answer.
fn refusing(text: &'static str, status: u16, answer: &'static str) -> HookServer {
    HookServer::answering(move |call| {
        let is_hit = String::from_utf8_lossy(&call.body).contains(text);
        if is_hit { (status, answer.to_owned()) } else { (200, "{\"allow\":true}".to_owned()) }
    })
}

fn member(open: fn(&Server) -> Client, server: &Server, name: &str) -> Client {
    let mut client = open(server);
    client.connect_as(name);
    client.join("lobby");
    client
}

fn say(content: &str) -> Value {
    json!({"type": "message", "room": "lobby", "content": content})
}

/// How many calls ended like that.
fn calls(server: &Server, event: &str, outcome: &str) -> u64 {
    server.metrics().sum("hubbub_hook_calls_total", &[("event", event), ("outcome", outcome)])
}

#[test]
fn whom_the_application_does_not_want_is_not_let_in() {
    let hooks = refusing("\"eve\"", 403, "{\"reason\":\"eve has not paid\"}");
    let server = launch(&hooks, "open").start();
    let closes = [Some((4503, "unauthorized".to_owned())), None];
    for (open, close) in TRANSPORTS.into_iter().zip(closes) {
        let as_eve = json!({"type": "connect", "name": "eve"});
        let mut client = open(&server);
        let refused = client.refused(as_eve.clone(), "forbidden");
        assert_eq!(refused["message"], "eve has not paid");
        client.refused(json!({"type": "join", "room": "lobby"}), "unauthorized");
        // Under another name it may come in.
        client.connect_as("ann");
        client.join("lobby");
        let mut client = open(&server);
        for _ in 0..3 {
            client.refused_saying(as_eve.clone(), "forbidden", "eve has not paid");
        }
        assert_eq!(client.end().1, close);
    }
    assert_eq!((calls(&server, "open", "refused"), calls(&server, "open", "allowed")), (8, 2));
    assert_eq!(server.metrics().sum("hubbub_logins_total", &[("outcome", "hook")]), 8);
}

#[test]
fn where_the_application_does_not_want_them_they_do_not_get_in() {
    let hooks = refusing("\"cellar\"", 200, "{\"allow\":false,\"reason\":\"the cellar\\u0007 is locked\"}");
    let server = launch(&hooks, "join").start();
    for open in TRANSPORTS {
        let mut ann = member(open, &server, "ann");
        let refused = ann.refused(json!({"type": "join", "room": "cellar"}), "forbidden");
        assert_eq!(refused["message"], "the cellar is locked", "without what could harm a terminal");
        ann.refused(json!({"type": "switch", "from": "lobby", "to": "cellar"}), "forbidden");
        ann.ok(say("still in"));
        ann.refused(json!({"type": "message", "room": "cellar", "content": 1}), "not_member");
    }
    let mut by_url = server.ws_at("/ws?name=bob&room=cellar&room=lobby");
    by_url.expect("welcome");
    let replies = [by_url.next(), by_url.next()];
    assert!(replies.iter().any(|reply| reply["code"] == "forbidden"), "{replies:?}");
    assert!(replies.iter().any(|reply| reply.kind() == "ok" && reply["room"] == "lobby"), "{replies:?}");
    assert_eq!(calls(&server, "join", "refused"), 5);
}

#[test]
fn what_the_application_does_not_want_said_nobody_hears() {
    let hooks = refusing("damn", 403, "");
    let server = launch(&hooks, "message").start();
    for open in TRANSPORTS {
        let mut bob = member(open, &server, "bob");
        let mut ann = member(open, &server, "ann");
        let text = "application";
        ann.refused_saying(say("damn"), "forbidden", text);
        let direct = json!({"type": "direct", "to": "bob", "content": "damn"});
        ann.refused_saying(direct, "forbidden", text);
        // Without an `id` the error comes all the same.
        ann.say("lobby", "damn");
        let error = ann.expect("error");
        assert_eq!((&error["code"], error.get("id")), (&json!("forbidden"), None));
        ann.ok(json!({"type": "signal", "room": "lobby", "content": "damn, but a signal"}));
        let last = ann.say_and_wait("lobby", "well then");
        let heard: Vec<_> = bob.fence_room("lobby").iter().map(|event| event.kind().to_owned()).collect();
        assert_eq!(heard, ["signal", "message"]);
        let kept = ann.ok(json!({"type": "history", "room": "lobby"}));
        assert!(!kept.text.contains("damn"), "{}", kept.text);
        assert!(last > 0);
    }
    assert_eq!((calls(&server, "message", "refused"), calls(&server, "message", "allowed")), (6, 2));
}

#[test]
fn without_the_application_nothing_goes_on_or_everything_as_configured() {
    let broken = || HookServer::answering(|_| (500, String::new()));
    let text = "application";
    for open in TRANSPORTS {
        let hooks = broken();
        let server = launch(&hooks, "message,join").start();
        let mut ann = open(&server);
        ann.connect_as("ann");
        ann.refused_saying(json!({"type": "join", "room": "lobby"}), "overloaded", text);
        assert_eq!(calls(&server, "join", "failed"), 1);
        let server = launch(&hooks, "message").start();
        let mut ann = member(open, &server, "ann");
        ann.refused_saying(say("hello"), "overloaded", text);
        ann.expect_silence();

        let hooks = broken();
        let server = launch(&hooks, "open,join,message").arguments(["--hooks-on-failure=allow"]).start();
        let mut ann = member(open, &server, "ann");
        assert_eq!(ann.ok(say("hello")).seq(), 1);
        for event in ["open", "join", "message"] {
            assert_eq!(calls(&server, event, "failed"), 1, "{event}");
        }
    }
}

#[test]
fn without_the_application_nobody_is_let_in_and_all_are_told_to_come_again() {
    let hooks = HookServer::answering(|_| (503, String::new()));
    let server = launch(&hooks, "open").start();
    let closes = [Some((1013, "try again later".to_owned())), None];
    for (open, close) in TRANSPORTS.into_iter().zip(closes) {
        let mut ann = open(&server);
        for _ in 0..3 {
            ann.refused_saying(json!({"type": "connect", "name": "ann"}), "overloaded", "application");
        }
        assert_eq!(ann.end().1, close);
    }
    server.metrics_until("both to be gone", |metrics| {
        metrics.sum("hubbub_closed_total", &[("reason", "try_again_later")]) == 2
    });
}

#[test]
fn an_end_is_told_with_its_code() {
    let hooks = HookServer::answering(|_| (200, String::new()));
    let server = launch(&hooks, "close").start();
    for (open, gone) in TRANSPORTS.into_iter().zip(["ann", "bob"]) {
        let mut client = open(&server);
        let connection = client.connect_as(gone)["connection"].clone();
        client.close();
        let told = hooks.next().json();
        assert_eq!((&told["event"], &told["user"]), (&json!("close"), &json!(gone)));
        assert_eq!(
            (&told["connection"], &told["code"], &told["reason"]),
            (&connection, &json!(1000), &json!("normal"))
        );
    }
    // Who never said who it is, is nobody to tell of.
    drop((server.ws(), server.tcp()));
    server.metrics_until("all to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 0);
    let mut last = server.tcp_as("last");
    last.close();
    assert_eq!(hooks.next().json()["user"], "last");
}

#[test]
fn requests_are_signed_and_say_what_it_is_about() {
    let hooks = HookServer::answering(|_| (204, String::new()));
    let server = launch(&hooks, "open,join,message").start();
    for (open, transport) in TRANSPORTS.into_iter().zip(["websocket", "tcp"]) {
        let mut ann = open(&server);
        let connection = ann.connect_as("ann")["connection"].clone();
        ann.join("lobby");
        let message = json!({"type": "message", "room": "lobby", "content": {"n": [1, 2.50]}, "key": "k", "tag": "t"});
        ann.send_text(&message.to_string().replace("2.5", "2.50"));
        ann.fence();
        let mut ids = Vec::new();
        for (event, about) in [
            ("open", json!({"transport": transport})),
            ("join", json!({"room": "lobby"})),
            ("message", json!({"room": "lobby", "content": {"n": [1, 2.50]}, "key": "k", "tag": "t"})),
        ] {
            let call = hooks.next();
            assert_eq!(call.request_line(), "POST /hooks?for=test HTTP/1.1");
            assert_eq!((call.header("Hubbub-Event"), call.header("Content-Type")), (Some(event), Some(JSON)));
            check_signature(&call);
            let said = call.json();
            assert_eq!(
                (&said["event"], &said["user"], &said["connection"]),
                (&json!(event), &json!("ann"), &connection)
            );
            for (field, value) in about.as_object().unwrap() {
                assert_eq!(&said[field], value, "{said}");
            }
            if event == "open" {
                assert!(said["address"].as_str().unwrap().starts_with("127.0.0.1"), "{said}");
            }
            ids.push(said["id"].as_str().unwrap().to_owned());
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3, "each event has a name of its own");
    }
}

#[test]
fn a_slow_application_holds_up_nobody_but_who_asked() {
    let hooks = HookServer::start();
    let server = launch(&hooks, "message").start();
    for open in TRANSPORTS {
        let mut ann = member(open, &server, "ann");
        let mut bob = member(open, &server, "bob");
        let asked = ann.send_with_id(say("slow"));
        let behind = ann.send_with_id(json!({"type": "ping"}));
        let slow = hooks.next();
        assert_eq!(slow.json()["user"], "ann");
        // All of this happens while the application thinks about it.
        bob.fence_room("lobby");
        bob.join("elsewhere");
        let said = bob.send_with_id(say("quick"));
        let quick = hooks.next();
        assert_eq!(quick.json()["user"], "bob");
        quick.answer(200, "");
        let first = bob.reply_to(said);
        assert_eq!(first.kind(), "ok");
        let carl = member(open, &server, "carl");
        drop(carl);
        slow.answer(200, "");
        assert_eq!(ann.reply_to(asked).seq(), first.seq() + 1);
        assert_eq!(ann.reply_to(behind).kind(), "pong");
    }
}

#[test]
fn what_one_sender_says_stays_in_order_and_is_asked_about_one_by_one() {
    const MESSAGES: u64 = 40;
    for open in TRANSPORTS {
        let hooks = HookServer::answering(|_| (200, String::new()));
        let server = launch(&hooks, "message").start();
        let mut bob = member(open, &server, "bob");
        let mut ann = member(open, &server, "ann");
        let ids: Vec<u64> = (1..=MESSAGES)
            .map(|n| ann.send_with_id(json!({"type": "message", "room": "lobby", "content": n})))
            .collect();
        ids.into_iter().zip(1..).for_each(|(id, seq)| assert_eq!(ann.reply_to(id).seq(), seq));
        let heard: Vec<u64> = bob.messages(40).iter().map(|message| message["content"].as_u64().unwrap()).collect();
        assert_eq!(heard, (1..=MESSAGES).collect::<Vec<_>>());
        let asked: Vec<u64> = (0..MESSAGES).map(|_| hooks.next().json()["content"].as_u64().unwrap()).collect();
        assert_eq!(asked, heard);
        assert_eq!(hooks.most_at_once(), 1);
    }
}

#[test]
fn who_leaves_while_the_application_thinks_takes_nobody_along() {
    let hooks = HookServer::start();
    let server = launch(&hooks, "open,message").start();
    for open in TRANSPORTS {
        let mut going = open(&server);
        going.send(&json!({"type": "connect", "name": "ann"}));
        let call = hooks.next();
        drop(going);
        server.metrics_until("it to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 0);
        call.answer(200, "");
        // The application closes the connection without a word: nobody is let in.
        let mut bob = open(&server);
        let id = bob.send_with_id(json!({"type": "connect", "name": "bob"}));
        drop(hooks.next());
        assert_eq!(bob.reply_to(id)["code"], "overloaded");
    }
}

/// Checks what the docs tell applications to check.
fn check_signature(call: &HookCall) {
    let timestamp = call.header("Hubbub-Timestamp").unwrap();
    assert!(timestamp.parse::<u64>().unwrap().abs_diff(now_seconds()) < 60, "{timestamp}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes());
    let signed = [timestamp.as_bytes(), b".", &call.body].concat();
    let mut wanted = String::from("v1=");
    for byte in hmac::sign(&key, &signed).as_ref() {
        write!(wanted, "{byte:02x}").unwrap();
    }
    assert_eq!(call.header("Hubbub-Signature"), Some(wanted.as_str()));
}

const JSON: &str = "application/json";
const KEY: &str = "0123456789abcdef0123456789abcdef";
