//! Who is there: `connect`, connecting by URL, and what comes before.

use serde_json::json;

use crate::harness::{Client, Server};

/// The same test over both transports.
fn over_both(server: &Server, test: impl Fn(&mut Client)) {
    for mut client in [server.ws(), server.tcp()] {
        test(&mut client);
    }
}

#[test]
fn welcome_says_what_a_client_needs() {
    let server = Server::with(["--node=chat-1", "--max-message-bytes=5000", "--limits-heartbeat-interval=20s"]);
    over_both(&server, |client| {
        let welcome = client.ask(json!({"type": "connect", "name": "größe 1"}));
        assert_eq!(welcome.kind(), "welcome");
        assert_eq!(welcome["user"], "größe 1");
        assert_eq!(welcome["node"], "chat-1");
        assert_eq!(welcome["heartbeat_ms"], 20_000);
        assert_eq!(welcome["limits"]["message_bytes"], 5000);
        assert_eq!(welcome["limits"]["rooms"], 128);
        assert_eq!(welcome["limits"]["unanswered"], 64);
        assert!(welcome["connection"].as_str().is_some_and(|name| !name.is_empty()), "{}", welcome.text);
        let session = welcome["session"].as_str().unwrap();
        assert!(session.len() == 32 && session.bytes().all(|b| b.is_ascii_hexdigit()), "{session}");
    });
    let sessions = ["ann", "ann"].map(|name| server.ws().connect_as(name)["session"].clone());
    assert_ne!(sessions[0], sessions[1], "a session is a secret of one connection");
}

#[test]
fn what_comes_before_connect_is_refused_and_the_connection_stays() {
    let server = Server::start();
    over_both(&server, |client| {
        client.refused(json!({"type": "join", "room": "lobby"}), "unauthorized");
        client.refused(json!({"type": "message", "room": "lobby", "content": 1}), "unauthorized");
        client.refused(json!({"type": "rooms"}), "unauthorized");
        client.send(&json!({"type": "leave", "room": "lobby"}));
        let error = client.expect("error");
        assert_eq!((&error["code"], error.get("id")), (&json!("unauthorized"), None), "{}", error.text);
        client.connect_as("ann");
        client.join("lobby");
    });
}

#[test]
fn a_client_without_a_name_is_a_guest() {
    let server = Server::start();
    let names = [server.ws(), server.tcp(), server.ws()].map(|mut client| {
        client.send(&json!({"type": "connect"}));
        let welcome = client.expect("welcome");
        assert_eq!(welcome.get("id"), None, "{}", welcome.text);
        welcome["user"].as_str().unwrap().to_owned()
    });
    assert!(names.iter().all(|name| name.starts_with("guest-")), "{names:?}");
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2], "{names:?}");
}

#[test]
fn names_against_the_rules_and_tokens_are_refused_and_a_better_one_is_taken() {
    let server = Server::start();
    let named = |name: &str| json!({"type": "connect", "name": name});
    let bad = ["", " ann", "ann ", "a\nb", "a\u{202e}b", "a\u{2028}b", &"x".repeat(65)].map(named);
    let others = [
        (json!({"type": "connect", "name": 5}), "bad_request"),
        (json!({"type": "connect", "token": "ey.ey.x"}), "unauthorized"),
        (json!({"type": "connect", "token": "ey.ey.x", "name": "ann"}), "unauthorized"),
    ];
    for (command, code) in bad.into_iter().map(|command| (command, "bad_request")).chain(others) {
        over_both(&server, |client| {
            client.refused(command.clone(), code);
            client.connect_as(&"x".repeat(64));
        });
    }
}

#[test]
fn connecting_twice_is_refused() {
    let server = Server::start();
    over_both(&server, |client| {
        client.connect_as("ann");
        client.join("lobby");
        client.refused(json!({"type": "connect", "name": "bob"}), "bad_request");
        client.say("lobby", "still me");
        assert_eq!(client.expect("message")["sender"], "ann");
    });
}

#[test]
fn a_session_that_is_not_known_is_replaced_by_a_new_one() {
    let server = Server::start();
    let mut client = server.ws();
    let resume = json!({"session": "0".repeat(32), "rooms": {"lobby": {"epoch": "0".repeat(16), "seq": 4}}});
    let welcome = client.ask(json!({"type": "connect", "name": "ann", "resume": resume}));
    assert_eq!(welcome.kind(), "welcome", "{}", welcome.text);
    assert_ne!(welcome["session"], "0".repeat(32));
    assert_eq!(welcome["resumed"], false);
    client.expect_silence();
    client.refused(json!({"type": "leave", "room": "lobby"}), "not_member");
}

#[test]
fn a_url_connects_at_once_and_joins_its_rooms_in_order() {
    for shards in [1, 3] {
        let server = Server::with_shards(shards);
        let rooms: Vec<String> = (0..12).map(|n| format!("room {n}")).collect();
        let query: String = rooms.iter().map(|room| format!("&room={}", room.replace(' ', "+"))).collect();
        let mut client = server.ws_at(&format!("/ws?name=Ann%20%C3%96{query}"));
        let welcome = client.expect("welcome");
        assert_eq!((&welcome["user"], welcome.get("id")), (&json!("Ann Ö"), None), "{}", welcome.text);
        for room in &rooms {
            let ok = client.expect("ok");
            assert_eq!((ok["room"].as_str(), ok.get("id")), (Some(room.as_str()), None), "{}", ok.text);
            assert_eq!((&ok["seq"], &ok["members"], &ok["role"]), (&json!(0), &json!(1), &json!("host")));
        }
        client.say("room 7", "here");
        assert_eq!(client.expect("message")["room"], "room 7");
        client.expect_silence();
    }
}

#[test]
fn a_url_may_name_the_user_or_the_room_alone() {
    let server = Server::start();
    let mut named = server.ws_at("/ws?name=ann");
    assert_eq!(named.expect("welcome")["user"], "ann");
    named.expect_silence();
    let mut guest = server.ws_at("/ws?room=lobby");
    assert!(guest.expect("welcome")["user"].as_str().unwrap().starts_with("guest-"));
    assert_eq!(guest.expect("ok")["room"], "lobby");
    let mut other = server.ws_at("/ws?colour=red");
    other.refused(json!({"type": "join", "room": "lobby"}), "unauthorized");
}

#[test]
fn what_a_url_asks_in_vain_is_refused_by_an_error_of_its_own() {
    let server = Server::start();
    let mut client = server.ws_at("/ws?name=ann&room=a&room=%40bob&room=a&room=b");
    client.expect("welcome");
    assert_eq!(client.expect("ok")["room"], "a");
    assert_eq!(client.expect("error")["code"], "forbidden");
    assert_eq!(client.expect("error")["code"], "bad_request");
    assert_eq!(client.expect("ok")["room"], "b");
    let mut client = server.ws_at("/ws?token=ey.ey.x&room=a");
    assert_eq!(client.expect("error")["code"], "unauthorized");
    assert_eq!(client.expect("error")["code"], "unauthorized");
    client.connect_as("ann");
}

#[test]
fn commands_sent_with_the_handshake_wait_for_the_rooms_of_the_url() {
    // The messages lie in the same segment as the request, and the rooms are on other shards.
    let server = Server::with_shards(4);
    let host = server.http().to_string();
    for round in 0..8 {
        let mut raw = crate::harness::RawWs::before_handshake(server.http());
        let head = crate::harness::upgrade_head(&host, &format!("/ws?name=ann&room=a{round}&room=b{round}"));
        let mut bytes = head.into_bytes();
        for room in ["a", "b"] {
            let command = json!({"type": "message", "room": format!("{room}{round}"), "content": "early"}).to_string();
            bytes.extend_from_slice(&crate::harness::masked_frame(0x81, command.as_bytes()));
        }
        raw.write(&bytes);
        raw.read_head();
        let mut kinds = Vec::new();
        while kinds.iter().filter(|kind| *kind == "message").count() < 2 {
            let frame = raw.next().expect("the connection stays");
            let event: serde_json::Value = serde_json::from_str(frame.text()).unwrap();
            kinds.push(event["type"].as_str().unwrap().to_owned());
        }
        kinds[1..].sort_unstable();
        assert_eq!(kinds, ["welcome", "message", "message", "ok", "ok"]);
    }
}
