//! Saying things: messages, signals, deletion, and what comes back to whom.

use std::io::Write;

use serde_json::{Value, json};

use crate::harness::{Client, Server};

/// What anyone can try with `nc`.
const EXAMPLE: &str = "{\"type\":\"connect\",\"name\":\"ann\"}\n{\"type\":\"join\",\"room\":\"lobby\",\"id\":1}\n\
                       {\"type\":\"message\",\"room\":\"lobby\",\"content\":\"hi\",\"id\":2}\n";

#[test]
fn the_first_example_prints_welcome_ok_ok_and_the_message() {
    for shards in [1, 4] {
        let server = Server::with_shards(shards);
        for piece in [EXAMPLE.len(), 1, 7] {
            let mut client = server.tcp();
            for part in EXAMPLE.as_bytes().chunks(piece) {
                client.stream().write_all(part).unwrap();
            }
            // As nc does at the end of its input.
            client.stream().shutdown(std::net::Shutdown::Write).unwrap();
            let (events, close) = client.end();
            assert_eq!(close, None);
            let kinds: Vec<_> = events.iter().map(|event| (event.kind(), event["id"].as_u64())).collect();
            assert_eq!(kinds[..2], [("welcome", None), ("ok", Some(1))], "{events:?}");
            let mut last = kinds[2..].to_vec();
            last.sort_unstable();
            assert_eq!(last, [("message", None), ("ok", Some(2))], "{events:?}");
            let message = events.iter().find(|event| event.kind() == "message").unwrap();
            assert_eq!((&message["sender"], &message["content"]), (&json!("ann"), &json!("hi")));
        }
    }
}

#[test]
fn a_message_goes_to_every_member_with_its_place_and_its_labels() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.tcp_as("bob");
    bob.join("lobby");
    let ok =
        ann.ok(json!({"type": "message", "room": "lobby", "content": {"a": [1, null]}, "key": "k-1", "tag": "goal"}));
    assert_eq!((&ok["room"], &ok["seq"], &ok["durable"]), (&json!("lobby"), &json!(1), &json!(true)), "{}", ok.text);
    for member in [&mut ann, &mut bob] {
        let message = member.expect("message");
        assert_eq!(message["room"], "lobby");
        assert_eq!(message["seq"], 1);
        assert_eq!(message["sender"], "ann");
        assert_eq!(message["content"], json!({"a": [1, null]}));
        assert_eq!(message["timestamp"], ok["timestamp"]);
        assert_eq!((&message["key"], &message["tag"]), (&json!("k-1"), &json!("goal")));
        assert_eq!(message.get("id"), None);
    }
    bob.say("lobby", "plain");
    let plain = ann.expect("message");
    assert_eq!((plain.get("key"), plain.get("tag"), plain.seq()), (None, None, 2), "{}", plain.text);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(plain["timestamp"].as_u64().is_some_and(|at| at <= now && now - at < 60_000), "{}", plain.text);
}

#[test]
fn without_id_there_is_no_ok_but_there_is_an_error() {
    let server = Server::start();
    for mut client in [server.ws_as("ann"), server.tcp_as("ann")] {
        client.send(&json!({"type": "join", "room": "lobby"}));
        client.say("lobby", 1);
        client.send(&json!({"type": "signal", "room": "elsewhere", "content": 1}));
        client.send(&json!({"type": "history", "room": "lobby"}));
        client.send(&json!({"type": "leave", "room": "lobby"}));
        client.send(&json!({"type": "pong"}));
        let events = client.fence();
        let kinds: Vec<_> = events.iter().map(|event| event.kind()).collect();
        assert_eq!(kinds, ["message", "error"], "{events:?}");
        assert_eq!((&events[1]["code"], events[1].get("id")), (&json!("not_member"), None));
    }
}

#[test]
fn ids_of_any_size_come_back() {
    let server = Server::start();
    let mut client = server.ws_as("ann");
    for id in ["0", "18446744073709551615"] {
        client.send_text(&format!("{{\"type\":\"ping\",\"id\":{id}}}"));
        assert_eq!(client.expect("pong").text, format!("{{\"type\":\"pong\",\"id\":{id}}}"));
    }
    client.send(&json!({"type": "ping"}));
    assert_eq!(client.expect("pong").text, "{\"type\":\"pong\"}");
}

#[test]
fn content_is_handed_on_as_it_was_written() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.tcp_as("bob");
    bob.join("lobby");
    let deep = format!("{}{}", "[".repeat(63), "]".repeat(63));
    let written = [
        "\"hi\"",
        "null",
        "true",
        "1.0e2",
        "123456789012345678901234567890",
        "-0",
        "{\"b\":1,  \"a\" :2,\"a\":3}",
        "\"\\u0041\\n\\/\\ud83d\\ude00\"",
        "\"größe 😀 \u{2028}\"",
        "[ ]",
        &deep,
    ];
    for content in written {
        ann.send_text(&format!("{{\"content\":{content},\"type\":\"message\",\"room\":\"lobby\"}}"));
        for member in [&mut ann, &mut bob] {
            let message = member.expect("message");
            assert!(message.text.contains(&format!("\"content\":{content},")), "{content} became {}", message.text);
        }
    }
}

#[test]
fn line_ends_in_content_cannot_forge_a_line() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.tcp_as("bob");
    bob.join("lobby");
    let forged = "{\"type\":\"message\",\"room\":\"lobby\",\"sender\":\"eve\",\"content\":1}";
    for content in [
        format!("[1,\n{forged}\n,2]"),
        format!("[1,\r\n{forged}\r,2]"),
        format!("{{\"a\":\n\n{forged}\n}}"),
        "\n\n{\n}\r\n".to_owned(),
    ] {
        for kind in ["message", "signal"] {
            ann.send_text(&format!("{{\"type\":\"{kind}\",\n\"room\":\"lobby\",\"content\":{content}\r\n}}"));
            let event = bob.expect(kind);
            assert_eq!(event["sender"], "ann", "{}", event.text);
            assert!(!event.text.contains('\r'), "{:?}", event.text);
            let expected: Value = serde_json::from_str(&content).unwrap();
            assert_eq!(event["content"], expected);
        }
    }
    // Within a string a raw line end is no JSON at all.
    ann.fence();
    ann.send_text(&format!("{{\"type\":\"message\",\"room\":\"lobby\",\"content\":\"x\n{forged}\n\"}}"));
    assert_eq!(ann.expect("error")["code"], "bad_request");
    bob.expect_silence();
}

#[test]
fn echo_false_spares_the_sending_connection_alone() {
    for shards in [1, 3] {
        let server = Server::with_shards(shards);
        let mut ann = server.member("ann", "lobby");
        let mut other_ann = server.member("ann", "lobby");
        ann.ok(json!({"type": "message", "room": "lobby", "content": 1, "echo": false}));
        ann.say("lobby", 2);
        assert_eq!(ann.expect("message").seq(), 2);
        assert_eq!(other_ann.expect("message").seq(), 1);
        assert_eq!(other_ann.expect("message").seq(), 2);
    }
}

#[test]
fn only_members_may_speak() {
    let server = Server::with_shards(2);
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.ws_as("bob");
    for kind in ["message", "signal"] {
        bob.refused(json!({"type": kind, "room": "lobby", "content": 1}), "not_member");
    }
    bob.refused(json!({"type": "leave", "room": "lobby"}), "not_member");
    bob.refused(json!({"type": "delete", "room": "lobby", "seq": 1}), "not_member");
    bob.refused(json!({"type": "history", "room": "lobby"}), "not_member");
    bob.refused(json!({"type": "presence", "room": "lobby"}), "not_member");
    bob.join("lobby");
    bob.ok(json!({"type": "leave", "room": "lobby"}));
    bob.refused(json!({"type": "message", "room": "lobby", "content": 1}), "not_member");
    assert!(ann.fence_room("lobby").is_empty());
}

#[test]
fn who_has_left_hears_nothing() {
    let server = Server::with_shards(2);
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.member("bob", "lobby");
    bob.join("den");
    bob.ok(json!({"type": "leave", "room": "lobby"}));
    ann.say_and_wait("lobby", "gone?");
    ann.join("den");
    ann.say("den", "here?");
    assert_eq!(bob.expect("message")["content"], "here?");
    bob.expect_silence();
}

#[test]
fn a_signal_is_heard_and_not_kept() {
    let server = Server::with_shards(2);
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.member("bob", "lobby");
    let reply = ann.ok(json!({"type": "signal", "room": "lobby", "content": {"typing": true}}));
    assert_eq!(reply.get("seq"), None, "{}", reply.text);
    let signal = bob.expect("signal");
    assert_eq!((&signal["room"], &signal["sender"]), (&json!("lobby"), &json!("ann")));
    assert_eq!(signal["content"], json!({"typing": true}));
    assert_eq!(signal.get("seq"), None);
    assert_eq!(ann.say_and_wait("lobby", "after"), 1, "a signal takes no place in the log");
    let page = bob.ok(json!({"type": "history", "room": "lobby", "after": 0}));
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(1), "{}", page.text);
    ann.refused(json!({"type": "signal", "room": "lobby"}), "bad_request");
}

#[test]
fn a_message_is_deleted_by_its_sender_or_the_host() {
    let server = Server::with_shards(2);
    let mut host = server.member("host", "lobby");
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.member("bob", "lobby");
    host.say_and_wait("lobby", "h");
    ann.say_and_wait("lobby", "a");
    ann.say_and_wait("lobby", "a too");
    for client in [&mut host, &mut ann, &mut bob] {
        client.messages(3);
    }
    bob.refused(json!({"type": "delete", "room": "lobby", "seq": 2}), "forbidden");
    ann.refused(json!({"type": "delete", "room": "lobby", "seq": 1}), "forbidden");
    ann.ok(json!({"type": "delete", "room": "lobby", "seq": 2}));
    host.ok(json!({"type": "delete", "room": "lobby", "seq": 3}));
    for seq in [0, 4, u64::MAX] {
        host.refused(json!({"type": "delete", "room": "lobby", "seq": seq}), "not_found");
    }
    for client in [&mut host, &mut ann, &mut bob] {
        for seq in [2, 3] {
            let deleted = client.expect("deleted");
            assert_eq!((&deleted["room"], deleted.seq()), (&json!("lobby"), seq), "{}", deleted.text);
        }
    }
    let page = bob.ok(json!({"type": "history", "room": "lobby"}));
    let kept: Vec<_> = page["messages"].as_array().unwrap().iter().map(|m| (&m["content"], &m["deleted"])).collect();
    let (null, yes) = (Value::Null, json!(true));
    assert_eq!(kept, [(&json!("h"), &null), (&null, &yes), (&null, &yes)], "{}", page.text);
    // Once more changes nothing, and is told to nobody.
    ann.ok(json!({"type": "delete", "room": "lobby", "seq": 2}));
    assert!(bob.fence_room("lobby").is_empty());
}

#[test]
fn members_with_tags_hear_theirs_and_what_has_none() {
    let server = Server::with_shards(2);
    let mut ann = server.member("ann", "match");
    let mut bob = server.tcp_as("bob");
    bob.ok(json!({"type": "join", "room": "match", "tags": ["goal", "end"]}));
    for tag in [Some("goal"), Some("card"), None, Some("end"), Some("corner")] {
        ann.ok(json!({"type": "message", "room": "match", "content": tag, "tag": tag}));
    }
    let heard: Vec<_> = bob.fence_room("match").iter().map(|event| event["content"].clone()).collect();
    assert_eq!(heard, [json!("goal"), Value::Null, json!("end")]);
    // What was kept is filtered in the same way.
    let mut cat = server.ws_as("cat");
    cat.ok(json!({"type": "join", "room": "match", "tags": ["card"], "history": 10}));
    let heard: Vec<_> = cat.fence_room("match").iter().map(|event| event["content"].clone()).collect();
    assert_eq!(heard, [json!("card"), Value::Null]);
}

#[test]
fn pipelined_commands_are_all_answered_in_order() {
    // Far more than may wait for their answers, so the connection is held up and goes on by itself.
    for shards in [1, 4] {
        let server = Server::with_shards(shards);
        for mut client in [server.ws_as("ann"), server.tcp_as("ann")] {
            let room = "lobby";
            client.join(room);
            let ids: Vec<u64> =
                (0..500).map(|n| client.send_with_id(json!({"type": "message", "room": room, "content": n}))).collect();
            let (mut oks, mut contents) = (Vec::new(), Vec::new());
            while oks.len() < ids.len() || contents.len() < ids.len() {
                let event = client.next();
                match event.kind() {
                    "ok" => oks.push(event["id"].as_u64().unwrap()),
                    _ => contents.push(event["content"].as_u64().unwrap()),
                }
            }
            assert_eq!(oks, ids);
            assert!(contents.iter().copied().eq(0..500), "{contents:?}");
            client.ok(json!({"type": "leave", "room": room}));
        }
    }
}

#[test]
fn places_are_dense_and_time_never_goes_back() {
    let server = Server::with_shards(2);
    let mut members: Vec<Client> = (0..4).map(|n| server.member(&format!("user {n}"), "lobby")).collect();
    for round in 0..50 {
        for member in &mut members {
            member.say("lobby", round);
        }
    }
    let messages = members[0].messages(200);
    assert!(messages.iter().map(|message| message.seq()).eq(1..=200));
    let times: Vec<_> = messages.iter().map(|message| message["timestamp"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}
