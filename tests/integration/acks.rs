//! Acknowledged delivery, dead letters, receipts, read cursors, inboxes and sessions that resume.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, DataDir, Deadline, Launch, Server, http, until};

const KEY: [(&str, &str); 1] = [("Authorization", "Bearer a key of this test alone")];

fn launch() -> Launch {
    let key = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-acks-key", std::process::id()));
    std::fs::write(&key, "a key of this test alone\n").unwrap();
    Launch::new().arguments([
        "--shards=2",
        "--ack-timeout=150ms",
        "--ack-timeout-max=400ms",
        "--ack-attempts-max=3",
        &format!("--admin-key-file={}", key.display()),
    ])
}

/// A consumer of a room, and what its join said.
fn consumer(server: &Server, name: &str, room: &str) -> (Client, Value) {
    let mut client = server.tcp_as(name);
    let joined = client.ok(json!({"type": "join", "room": room, "ack": true}));
    (client, joined.value)
}

fn letters(server: &Server, room: &str) -> Vec<Value> {
    let answer = http(server.admin(), "GET", &format!("/api/v1/rooms/{room}/dead-letters"), &KEY);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: Value = serde_json::from_str(&answer.text()).unwrap();
    answer["letters"].as_array().unwrap().clone()
}

#[test]
fn a_consumer_goes_on_after_what_it_acknowledged_also_after_a_restart() {
    let launch = launch();
    let server = launch.start();
    let (mut bob, _) = consumer(&server, "bob", "jobs");
    let mut ann = server.member("ann", "jobs");
    for n in 1..=5 {
        assert_eq!(ann.say_and_wait("jobs", n), n);
    }
    assert_eq!(bob.messages(5).iter().map(|m| m.seq()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    bob.ok(json!({"type": "ack", "room": "jobs", "seq": 3}));
    bob.refused(json!({"type": "ack", "room": "jobs", "seq": 9}), "bad_request");
    ann.refused(json!({"type": "ack", "room": "jobs", "seq": 1}), "bad_request");
    drop(bob);
    assert_eq!(ann.say_and_wait("jobs", 6), 6);
    // What was sent before comes at once, and says so.
    let (mut bob, _) = consumer(&server, "bob", "jobs");
    let again = bob.messages(3);
    let seen: Vec<_> = again.iter().map(|m| (m.seq(), m["redelivered"].as_bool(), m["attempt"].as_u64())).collect();
    assert_eq!(seen[..2], [(4, Some(true), Some(2)), (5, Some(true), Some(2))]);
    // Whether the sixth was sent to the connection that was going is chance.
    assert_eq!(seen[2].0, 6);
    bob.ok(json!({"type": "ack", "room": "jobs", "seq": 5}));
    server.stop();
    let server = launch.start();
    let (mut bob, joined) = consumer(&server, "bob", "jobs");
    assert_eq!(joined["seq"], 6);
    assert_eq!(bob.expect("message").seq(), 6);
    server.stop();
}

#[test]
fn what_is_never_acknowledged_is_tried_again_and_set_aside_and_replayed() {
    let launch = launch();
    let server = launch.start();
    let (mut bob, _) = consumer(&server, "bob", "jobs");
    let mut ann = server.member("ann", "jobs");
    let started = Deadline::patient();
    ann.say_and_wait("jobs", json!({"job": 1}));
    let attempts: Vec<_> = (0..3).map(|_| (bob.expect("message"), started.elapsed())).collect();
    assert_eq!((&attempts[0].0["redelivered"], &attempts[0].0["attempt"]), (&Value::Null, &Value::Null));
    for (attempt, (message, at)) in attempts.iter().enumerate().skip(1) {
        assert_eq!((message.seq(), &message["attempt"]), (1, &json!(attempt + 1)));
        // 150 ms, then 300 ms more; the server counts in whole milliseconds.
        let due = Duration::from_millis([0, 149, 449][attempt]);
        assert!(*at >= due && *at < due + Duration::from_secs(5), "attempt {attempt} after {at:?}");
    }
    let listed = until("the letter", || Some(letters(&server, "jobs")).filter(|letters| !letters.is_empty()));
    assert_eq!(listed.len(), 1);
    // A shard reports at the end of its turn, a letter is there before that.
    let sums = || ["hubbub_redelivered_total", "hubbub_dead_letters_total"].map(|name| server.metrics().sum(name, &[]));
    until("the figures", || (sums() == [2, 1]).then_some(()));
    let letter = &listed[0];
    assert_eq!((&letter["user"], &letter["seq"], &letter["reason"]), (&json!("bob"), &json!(1), &json!("attempts")));
    assert_eq!((&letter["attempts"], &letter["content"]), (&json!(3), &json!({"job": 1})));
    // The cursor has moved on.
    ann.say_and_wait("jobs", 2);
    assert_eq!(bob.expect("message").seq(), 2);
    bob.ok(json!({"type": "ack", "room": "jobs", "seq": 2}));
    drop(bob);
    let replay = http(server.admin(), "POST", "/api/v1/rooms/jobs/dead-letters/replay?user=bob", &KEY);
    assert_eq!((replay.status, replay.text().as_str()), (202, r#"{"count":1}"#));
    until("the mark", || (letters(&server, "jobs")[0]["replay"] == true).then_some(()));
    server.stop();
    let server = launch.start();
    let (mut bob, _) = consumer(&server, "bob", "jobs");
    let again = bob.expect("message");
    assert_eq!((again.seq(), &again["redelivered"], &again["attempt"]), (1, &json!(true), &json!(4)));
    bob.ok(json!({"type": "ack", "room": "jobs", "seq": 1}));
    until("the letter to be gone", || letters(&server, "jobs").is_empty().then_some(()));
    server.stop();
}

#[test]
fn letters_are_purged_and_the_api_refuses_nonsense() {
    let server = launch().start();
    let (mut bob, _) = consumer(&server, "bob", "jobs");
    let mut ann = server.member("ann", "jobs");
    for n in 1..=3 {
        ann.say_and_wait("jobs", n);
    }
    until("all letters", || (letters(&server, "jobs").len() == 3).then_some(()));
    bob.fence();
    let purge = |query: &str| http(server.admin(), "DELETE", &format!("/api/v1/rooms/jobs/dead-letters{query}"), &KEY);
    assert_eq!(purge("?user=bob&seq=2").text(), r#"{"count":1}"#);
    until("one letter less", || (letters(&server, "jobs").len() == 2).then_some(()));
    assert_eq!(purge("?user=nobody").text(), r#"{"count":0}"#);
    assert_eq!(purge("").text(), r#"{"count":2}"#);
    until("no letter", || letters(&server, "jobs").is_empty().then_some(()));
    let bad = purge("?user=%20");
    assert_eq!((bad.status, bad.header("Content-Type")), (400, Some("application/problem+json")));
    assert_eq!(http(server.admin(), "GET", "/api/v1/rooms/jobs/dead-letters", &[]).status, 401);
    server.stop();
}

#[test]
fn what_retention_takes_before_it_is_acknowledged_can_still_be_replayed() {
    let folder = DataDir::new();
    let rules = folder.path().join("hubbub.toml");
    std::fs::write(&rules, "[[rooms]]\npattern = 'jobs'\nhistory = 'durable'\nhistory_size = 3\n").unwrap();
    let config = format!("--config={}", rules.display());
    // Here is somebody who never acknowledges, too, and is not sent anything again meanwhile.
    let launch = launch().arguments([&config, "--store-maintenance-interval=1s", "--ack-timeout=1h"]);
    let launch = launch.arguments(["--ack-timeout-max=1h"]);
    let server = launch.start();
    let (mut bob, _) = consumer(&server, "bob", "jobs");
    let (mut eve, _) = consumer(&server, "eve", "jobs");
    let mut ann = server.member("ann", "jobs");
    ann.say_and_wait("jobs", json!({"job": 1}));
    assert_eq!(bob.expect("message").seq(), 1);
    bob.ok(json!({"type": "ack", "room": "jobs", "seq": 1}));
    drop(bob);
    for job in 2..=6 {
        ann.say_and_wait("jobs", json!({"job": job}));
    }
    let listed = until("the letters", || Some(letters(&server, "jobs")).filter(|letters| letters.len() == 5));
    let about = |letter: &Value| {
        assert_eq!((&letter["reason"], &letter["attempts"]), (&json!("retention"), &json!(0)));
        assert_eq!(letter["content"], json!({"job": letter["seq"]}));
        (letter["user"].as_str().unwrap().to_owned(), letter["seq"].as_u64().unwrap())
    };
    let expected = [("bob", 2), ("bob", 3), ("eve", 1), ("eve", 2), ("eve", 3)];
    assert_eq!(listed.iter().map(about).collect::<Vec<_>>(), expected.map(|(user, seq)| (user.to_owned(), seq)));
    // Whoever is there goes on.
    assert_eq!(eve.messages(6).last().unwrap().seq(), 6);
    eve.ok(json!({"type": "ack", "room": "jobs", "seq": 6}));
    let replay = http(server.admin(), "POST", "/api/v1/rooms/jobs/dead-letters/replay?user=bob", &KEY);
    assert_eq!((replay.status, replay.text().as_str()), (202, r#"{"count":2}"#));
    until("the marks", || letters(&server, "jobs")[..2].iter().all(|letter| letter["replay"] == true).then_some(()));
    server.stop();
    let server = launch.start();
    let (mut bob, _) = consumer(&server, "bob", "jobs");
    let sent = bob.messages(5);
    let mut sent: Vec<(u64, Value)> = sent.iter().map(|m| (m.seq(), m["content"]["job"].clone())).collect();
    sent.sort_by_key(|(seq, _)| *seq);
    assert_eq!(sent, [2, 3, 4, 5, 6].map(|seq| (seq, json!(seq))), "letters of the past, and the log");
    let page = bob.ok(json!({"type": "history", "room": "jobs", "after": 0}));
    assert_eq!(page["messages"][0]["seq"], 4);
    for seq in [2, 3, 6] {
        bob.ok(json!({"type": "ack", "room": "jobs", "seq": seq}));
    }
    until("the letters to be gone", || letters(&server, "jobs").iter().all(|l| l["user"] == "eve").then_some(()));
    server.stop();
}

#[test]
fn the_newest_consumer_of_a_user_takes_over() {
    let server = launch().start();
    let (mut first, _) = consumer(&server, "bob", "jobs");
    let mut ann = server.member("ann", "jobs");
    ann.say_and_wait("jobs", 1);
    assert_eq!(first.expect("message").seq(), 1);
    let (mut second, _) = consumer(&server, "bob", "jobs");
    let kicked = first.expect("kicked");
    assert_eq!((&kicked["room"], &kicked["reason"]), (&json!("jobs"), &json!("consumer_replaced")));
    first.refused(json!({"type": "ack", "room": "jobs", "seq": 1}), "not_member");
    let again = second.expect("message");
    assert_eq!((again.seq(), &again["attempt"]), (1, &json!(2)));
    second.ok(json!({"type": "ack", "room": "jobs", "seq": 1}));
    server.stop();
}

#[test]
fn a_consumer_far_behind_is_fed_from_the_log_within_the_window() {
    const MESSAGES: u64 = 2_500;
    let server = Launch::new().arguments(["--shards=2"]).start();
    let (bob, _) = consumer(&server, "bob", "jobs");
    let mut ann = server.member("ann", "jobs");
    drop(bob);
    for n in 1..=MESSAGES {
        ann.send(&json!({"type": "message", "room": "jobs", "content": n, "echo": false}));
    }
    assert_eq!(ann.say_and_wait("jobs", "last"), MESSAGES + 1);
    let (mut bob, _) = consumer(&server, "bob", "jobs");
    let mut seen = 0;
    while seen < MESSAGES + 1 {
        let window = 256.min(MESSAGES + 1 - seen);
        for _ in 0..window {
            seen += 1;
            assert_eq!(bob.expect("message").seq(), seen);
        }
        assert!(bob.fence().is_empty(), "nothing comes beyond the window");
        bob.send(&json!({"type": "ack", "room": "jobs", "seq": seen}));
    }
    assert!(bob.fence().is_empty());
    server.stop();
}

#[test]
fn acknowledgement_needs_a_log_and_no_filter() {
    let server = Server::with(["--history=memory"]);
    let mut ann = server.member("ann", "lobby");
    ann.refused(json!({"type": "join", "room": "other", "ack": true}), "bad_request");
    ann.refused(json!({"type": "join", "room": "other", "ack": true, "tags": ["a"]}), "bad_request");
    ann.refused(json!({"type": "ack", "room": "lobby", "seq": 1}), "bad_request");
    ann.refused(json!({"type": "read", "room": "lobby", "seq": 1}), "bad_request");
    server.stop();
}

#[test]
fn receipts_say_how_many_have_a_message() {
    for shards in [1, 3] {
        let server = Launch::new().arguments([&format!("--shards={shards}")]).start();
        let mut ann = server.member("ann", "lobby");
        let _others: Vec<_> = (0..4).map(|n| server.member(&format!("user-{n}"), "lobby")).collect();
        let (mut bob, _) = consumer(&server, "bob", "lobby");
        ann.send(&json!({"type": "message", "room": "lobby", "content": 1, "receipt": true, "echo": false}));
        let receipt = ann.expect("receipt");
        let counts =
            |receipt: &Value| (receipt["seq"].clone(), receipt["delivered"].clone(), receipt["members"].clone());
        assert_eq!(counts(&receipt.value), (json!(1), json!(4), json!(5)), "{}", receipt.text);
        assert_eq!(bob.expect("message").seq(), 1);
        bob.ok(json!({"type": "ack", "room": "lobby", "seq": 1}));
        let receipt = ann.expect("receipt");
        assert_eq!(counts(&receipt.value), (json!(1), json!(5), json!(5)), "{}", receipt.text);
        server.stop();
    }
}

#[test]
fn read_cursors_count_what_is_unread_also_after_a_restart() {
    let launch = Launch::new();
    let server = launch.start();
    let mut ann = server.tcp_as("ann");
    assert_eq!(ann.join("lobby")["unread"], Value::Null);
    for n in 1..=5 {
        ann.say_and_wait("lobby", n);
    }
    ann.ok(json!({"type": "read", "room": "lobby", "seq": 3}));
    ann.ok(json!({"type": "read", "room": "lobby", "seq": 2}));
    let mut other = server.tcp_as("ann");
    assert_eq!(other.join("lobby")["unread"], 2);
    server.stop();
    let server = launch.start();
    let mut ann = server.tcp_as("ann");
    assert_eq!(ann.join("lobby")["unread"], 2);
    ann.ok(json!({"type": "read", "room": "lobby", "seq": 99}));
    ann.ok(json!({"type": "leave", "room": "lobby"}));
    assert_eq!(ann.join("lobby")["unread"], 0);
    let mut bob = server.tcp_as("bob");
    assert_eq!(bob.join("lobby")["unread"], Value::Null, "cursors are a user's own");
    server.stop();
}

#[test]
fn what_is_sent_directly_waits_in_an_inbox_that_only_its_user_reads() {
    for shards in [1, 3] {
        let launch = Launch::new().arguments([&format!("--shards={shards}")]);
        let server = launch.start();
        let mut ann = server.tcp_as("ann");
        let sent = ann.ok(json!({"type": "direct", "to": "bob", "content": "psst", "key": "k"}));
        assert_eq!((&sent["room"], &sent["seq"], &sent["durable"]), (&json!("@bob"), &json!(1), &json!(true)));
        let again = ann.ok(json!({"type": "direct", "to": "bob", "content": "psst", "key": "k"}));
        assert_eq!((again.seq(), &again["duplicate"]), (1, &json!(true)));
        ann.refused(json!({"type": "join", "room": "@bob"}), "forbidden");
        ann.refused(json!({"type": "message", "room": "@bob", "content": 1}), "not_member");
        ann.refused(json!({"type": "direct", "to": " ", "content": 1}), "bad_request");
        server.stop();
        let server = launch.start();
        let mut bob = server.tcp_as("bob");
        bob.ok(json!({"type": "join", "room": "@bob", "history": 10}));
        let message = bob.expect("message");
        assert_eq!((&message["sender"], &message["content"]), (&json!("ann"), &json!("psst")));
        let mut ann = server.tcp_as("ann");
        ann.send(&json!({"type": "direct", "to": "bob", "content": "now"}));
        assert_eq!(bob.expect("message")["content"], "now");
        assert_eq!(ann.ok(json!({"type": "rooms"}))["rooms"], json!([]), "inboxes are not listed");
        server.stop();
    }
}

#[test]
fn a_session_goes_on_with_all_its_rooms_where_the_client_left_off() {
    for shards in [1, 3] {
        let server = Launch::new().arguments([&format!("--shards={shards}")]).start();
        let mut ann = server.tcp_as("ann");
        let mut bob = server.tcp();
        let welcome = bob.connect_as("bob");
        assert_eq!(welcome["resumed"], Value::Null);
        let mut epochs = Vec::new();
        for room in ["a", "b"] {
            ann.join(room);
            epochs.push(bob.ok(json!({"type": "join", "room": room, "presence": true}))["epoch"].clone());
        }
        bob.ok(json!({"type": "join", "room": "tagged", "tags": ["x"]}));
        ann.say_and_wait("a", 1);
        bob.fence();
        // The client is lost without the server noticing: the session moves to the new connection.
        let resume = |session: &Value| {
            let rooms = json!({"a": {"epoch": epochs[0], "seq": 1}, "b": {"epoch": epochs[1], "seq": 0}});
            json!({"type": "connect", "resume": {"session": session, "rooms": rooms}})
        };
        ann.say_and_wait("a", 2);
        ann.say_and_wait("b", 1);
        let mut again = server.ws();
        let resumed = again.ask(resume(&welcome["session"]));
        assert_eq!((&resumed["resumed"], &resumed["user"]), (&json!(true), &json!("bob")), "{}", resumed.text);
        assert_ne!(resumed["session"], welcome["session"]);
        let (mut rooms, mut messages) = (Vec::new(), Vec::new());
        while rooms.len() < 3 || messages.len() < 2 {
            let event = again.next();
            match event.kind() {
                "ok" => rooms.push((event["room"].clone(), event["recovered"].clone())),
                "message" => messages.push((event["room"].clone(), event.seq())),
                "presence" => {}
                _ => panic!("{}", event.text),
            }
        }
        rooms.sort_by_key(|(room, _)| room.to_string());
        messages.sort_by_key(|(room, _)| room.to_string());
        assert_eq!(rooms, [(json!("a"), json!(true)), (json!("b"), json!(true)), (json!("tagged"), Value::Null)]);
        assert_eq!(messages, [(json!("a"), 2), (json!("b"), 1)]);
        // The secret was used up, and nobody else's session is given away.
        let mut third = server.ws();
        assert_eq!(third.ask(resume(&welcome["session"]))["resumed"], false);
        let mut eve = server.ws();
        let mut stolen = resume(&resumed["session"]);
        stolen["name"] = json!("eve");
        assert_eq!(eve.ask(stolen)["resumed"], false);
        server.stop();
    }
}
