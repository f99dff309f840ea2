//! Commands of which nothing can be made: each gets its error, and the connection stays.

use serde_json::json;

use crate::harness::{Client, Server};

fn over_both(server: &Server, test: impl Fn(&mut Client)) {
    for mut client in [server.ws_as("ann"), server.tcp_as("ann")] {
        test(&mut client);
        client.expect_silence();
    }
}

#[test]
fn what_is_no_command_is_a_bad_request() {
    let server = Server::start();
    let nothing = [
        "{",
        "{}",
        "[]",
        "5",
        "\"ping\"",
        "null",
        "{\"type\":\"ping\"",
        "{\"type\":\"ping\"}}",
        "{\"type\":\"ping\"} {}",
        "{\"type\":\"ping\",}",
        "{'type':'ping'}",
        "{type:ping}",
        "{\"type\":ping}",
        "{\"type\":5}",
        "{\"type\":null}",
        "{\"type\":[\"ping\"]}",
        "{\"typ\":\"ping\"}",
        "{\"type\":\"pi\tng\"}",
        "{\"type\":\"\\x\"}",
        "{\"type\":\"ping\",\"a\":\u{1}}",
        "{\"type\":\"ping\",\"a\":01}",
        "{\"type\":\"ping\",\"a\":1.}",
        "{\"type\":\"ping\",\"a\":+1}",
        "{\"type\":\"ping\",\"a\":NaN}",
        "{\"type\":\"ping\",\"a\":tru}",
        "{\"type\":\"ping\" \"a\":1}",
        "{\"type\":\"ping\",\"a\":\"\\ud800\",\"a\" 1}",
        "POST / HTTP/1.1",
    ];
    over_both(&server, |client| {
        for text in nothing {
            client.send_text(text);
            let error = client.expect("error");
            assert_eq!((&error["code"], error.get("id")), (&json!("bad_request"), None), "{text}: {}", error.text);
            assert!(error["message"].as_str().is_some_and(|message| message.len() > 8), "{text}: {}", error.text);
            assert_eq!(error["temporary"], false);
        }
    });
}

#[test]
fn an_error_carries_the_id_wherever_it_stands() {
    let server = Server::start();
    over_both(&server, |client| {
        for text in [
            "{\"id\":7,\"type\":\"message\",\"room\":5}",
            "{\"type\":\"message\",\"room\":5,\"id\":7}",
            "{\"type\":\"message\",\"content\":1,\"id\":7}",
            "{\"id\":7}",
            "{\"id\":7,\"type\":\"nonsense\"}",
        ] {
            client.send_text(text);
            assert_eq!(client.expect("error")["id"], 7, "{text}");
        }
        for id in ["-1", "1.5", "\"7\"", "18446744073709551616", "[]", "true"] {
            client.send_text(&format!("{{\"type\":\"ping\",\"id\":{id}}}"));
            let error = client.expect("error");
            assert_eq!((&error["code"], error.get("id")), (&json!("bad_request"), None), "{}", error.text);
        }
    });
}

#[test]
fn unknown_types_are_named_and_the_connection_stays() {
    let server = Server::start();
    over_both(&server, |client| {
        for kind in ["", "Ping", "nonsense", "😀", &"x".repeat(5_000), "\r\n{\"type\":\"ok\"}"] {
            let error = client.refused(json!({"type": kind}), "unknown_type");
            assert!(error.text.len() < 1_000, "an error does not repeat all of it: {}", error.text.len());
        }
        // What only the server says.
        for kind in ["welcome", "ok", "error", "gap"] {
            client.refused(json!({"type": kind}), "unknown_type");
        }
    });
}

#[test]
fn unknown_fields_are_ignored() {
    let server = Server::start();
    over_both(&server, |client| {
        client.ok(json!({"type": "join", "room": "lobby", "colour": {"a": [1, {"type": "leave"}]}, "": null}));
        client.ok(json!({"type": "leave", "room": "lobby", "seq": "x", "limit": []}));
    });
}

#[test]
fn nesting_has_a_limit() {
    let server = Server::start();
    over_both(&server, |client| {
        client.join("lobby");
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        // The command itself is the first level.
        for (depth, is_taken) in [(63, true), (64, false), (1_000, false), (30_000, false)] {
            for field in ["content", "whatever"] {
                let content = if field == "content" { "" } else { "\"content\":1," };
                let value = nested(depth);
                client.send_text(&format!(
                    "{{\"type\":\"message\",\"room\":\"lobby\",\"echo\":false,\"id\":9,{content}\"{field}\":{value}}}"
                ));
                let reply = client.next();
                if is_taken {
                    assert_eq!(reply.kind(), "ok", "{depth} levels of {field}: {}", reply.text);
                } else {
                    assert_eq!(reply["code"], "bad_request", "{depth} levels of {field}: {}", reply.text);
                    assert_eq!(reply["id"], 9);
                }
            }
        }
    });
}

#[test]
fn fields_that_are_missing_or_of_a_wrong_kind_are_named() {
    let server = Server::start();
    over_both(&server, |client| {
        client.join("lobby");
        for (command, field) in [
            (json!({"type": "join"}), "room"),
            (json!({"type": "join", "room": 5}), "room"),
            (json!({"type": "join", "room": "x", "presence": "yes"}), "presence"),
            (json!({"type": "join", "room": "x", "tags": [5]}), "tags"),
            (json!({"type": "join", "room": "x", "tags": vec!["t"; 17]}), "tags"),
            (json!({"type": "join", "room": "x", "since": {"epoch": "0123456789abcdef"}}), "since"),
            (json!({"type": "leave"}), "room"),
            (json!({"type": "switch", "from": "lobby"}), "to"),
            (json!({"type": "switch", "to": "x"}), "from"),
            (json!({"type": "message", "room": "lobby"}), "content"),
            (json!({"type": "message", "content": 1}), "room"),
            (json!({"type": "message", "room": "lobby", "content": 1, "echo": 0}), "echo"),
            (json!({"type": "message", "room": "lobby", "content": 1, "key": 5}), "key"),
            (json!({"type": "message", "room": "lobby", "content": 1, "key": "k".repeat(129)}), "key"),
            (json!({"type": "message", "room": "lobby", "content": 1, "tag": "t".repeat(129)}), "tag"),
            (json!({"type": "message", "room": "lobby", "content": 1, "receipt": 1}), "receipt"),
            (json!({"type": "signal", "room": "lobby"}), "content"),
            (json!({"type": "delete", "room": "lobby"}), "seq"),
            (json!({"type": "delete", "room": "lobby", "seq": "1"}), "seq"),
            (json!({"type": "history", "room": "lobby", "limit": -1}), "limit"),
            (json!({"type": "presence", "room": "lobby", "after": 5}), "after"),
            (json!({"type": "rooms", "after": 5}), "after"),
        ] {
            let error = client.refused(command, "bad_request");
            assert!(error["message"].as_str().unwrap().contains(&format!("`{field}`")), "{field}: {}", error.text);
        }
        client.send_text("{\"type\":\"ping\",\"type\":\"pong\"}");
        assert_eq!(client.expect("error")["code"], "bad_request", "a field that stands twice is no field");
    });
}

#[test]
fn errors_are_counted_by_their_code() {
    let server = Server::start();
    let mut ann = server.ws_as("ann");
    for _ in 0..3 {
        ann.refused(json!({"type": "nonsense"}), "unknown_type");
    }
    ann.refused(json!({"type": "leave", "room": "x"}), "not_member");
    let metrics = server.metrics();
    let count = |code| metrics.sum("hubbub_errors_total", &[("code", code)]);
    assert_eq!((count("unknown_type"), count("not_member"), count("bad_request")), (3, 1, 0));
}
