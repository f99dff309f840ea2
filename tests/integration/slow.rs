//! Readers that are too slow: they are told so and closed, or told what they missed. Nobody else notices.

use serde_json::{Value, json};

use crate::harness::{Client, Deadline, Event, RawWs, Server};

/// More than outbox and kernel hold together, in messages of [`MESSAGE_BYTES`].
const FLOOD: u64 = 600;
const MESSAGE_BYTES: usize = 8_000;

fn slow_member(server: &Server, name: &str) -> RawWs {
    let mut raw = RawWs::connect_slow(server.http(), &format!("/ws?name={name}&room=lobby"));
    for kind in ["welcome", "ok"] {
        assert_eq!(event(raw.next_data().unwrap().text())["type"], kind);
    }
    raw
}

fn event(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Says so many large messages, each of which `healthy` reads before the next.
fn flood(talker: &mut Client, healthy: &mut Client, messages: u64) {
    let content = "x".repeat(MESSAGE_BYTES);
    for _ in 0..messages {
        talker.send(&json!({"type": "message", "room": "lobby", "content": content, "echo": false}));
        healthy.expect("message");
    }
}

fn slow_closes(server: &Server) -> u64 {
    server.metrics().sum("hubbub_closed_total", &[("reason", "slow_consumer")])
}

#[test]
fn a_full_outbox_closes_with_4008_and_the_reader_recovers() {
    for shards in [1, 2] {
        let server = Server::with([&format!("--shards={shards}"), "--limits-history-bytes=10000000"]);
        let mut healthy = server.member("healthy", "lobby");
        let mut talker = server.member("talker", "lobby");
        let mut slow = slow_member(&server, "slow");
        let epoch = talker.ok(json!({"type": "history", "room": "lobby"}))["epoch"].clone();
        flood(&mut talker, &mut healthy, FLOOD);
        let metrics = server.metrics_until("the slow one to be closed", |metrics| {
            metrics.sum("hubbub_closed_total", &[("reason", "slow_consumer")]) == 1
        });
        assert!(metrics.sum("hubbub_dropped_total", &[("reason", "closed")]) > 0);
        // What was in flight comes whole, then the goodbye.
        let mut seen = 0;
        let close = loop {
            let frame = slow.next_data().expect("a close frame comes before the end");
            if frame.first == 0x88 {
                break frame;
            }
            seen += 1;
            assert_eq!(event(frame.text())["seq"], seen, "up to its end the sequence has no hole");
        };
        assert_eq!((close.close_code(), &close.payload[2..]), (Some(4008), &b"slow consumer"[..]));
        assert!(seen < FLOOD, "the slow one was closed after {seen} messages");
        assert_eq!(slow.next(), None);
        let mut back = server.ws_as("slow");
        let since = json!({"epoch": epoch, "seq": seen});
        let ok = back.ok(json!({"type": "join", "room": "lobby", "since": since}));
        assert_eq!(ok["recovered"], true, "{}", ok.text);
        assert!(back.messages((FLOOD - seen) as usize).iter().map(Event::seq).eq(seen + 1..=FLOOD));
        assert!(healthy.fence_room("lobby").is_empty());
    }
}

#[test]
fn a_reader_that_takes_nothing_is_closed_in_time() {
    let server = Server::with(["--limits-outbox-stall=400ms", "--limits-close-timeout=300ms"]);
    let mut healthy = server.member("healthy", "lobby");
    let mut talker = server.member("talker", "lobby");
    let slow = slow_member(&server, "slow");
    let begun = Deadline::patient();
    // More than the kernel takes, less than the outbox holds.
    flood(&mut talker, &mut healthy, 120);
    assert_eq!(slow_closes(&server), 0);
    server.metrics_until("the stalled one to be closed", |metrics| {
        metrics.sum("hubbub_closed_total", &[("reason", "slow_consumer")]) == 1
    });
    assert!(begun.elapsed().as_millis() >= 400, "closed after {:?}", begun.elapsed());
    // It does not answer the goodbye either, and is reset.
    server.metrics_until("the stalled one to be gone", |metrics| {
        metrics.sum("hubbub_connections", &[("kind", "chat_ws")]) == 2
    });
    drop(slow);
    healthy.expect_silence();
}

#[test]
fn a_reader_that_is_slow_but_reads_is_left_in_peace() {
    let server = Server::with(["--limits-outbox-stall=1s"]);
    let mut healthy = server.member("healthy", "lobby");
    let mut talker = server.member("talker", "lobby");
    let mut slow = slow_member(&server, "slow");
    let begun = Deadline::patient();
    let mut seen = 0;
    // All the while something waits for it, for several times the limit.
    flood(&mut talker, &mut healthy, 100);
    while begun.elapsed().as_millis() < 2_500 {
        for _ in 0..4 {
            seen += 1;
            assert_eq!(event(slow.next_data().unwrap().text())["seq"], seen);
        }
        flood(&mut talker, &mut healthy, 4);
        // What is read makes room within moments; the kernel tells in its own time.
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let last = talker.say_and_wait("lobby", "last");
    while seen < last {
        seen += 1;
        assert_eq!(event(slow.next_data().unwrap().text())["seq"], seen);
    }
    assert_eq!(slow_closes(&server), 0);
}

#[test]
fn a_slow_tcp_reader_is_closed_too() {
    let server = Server::start();
    let mut healthy = server.member("healthy", "lobby");
    let mut talker = server.member("talker", "lobby");
    let mut slow = server.tcp_with_small_buffer();
    slow.connect_as("slow");
    slow.join("lobby");
    flood(&mut talker, &mut healthy, FLOOD);
    server.metrics_until("the slow one to be closed", |metrics| {
        metrics.sum("hubbub_closed_total", &[("reason", "slow_consumer")]) == 1
    });
    let (events, _) = slow.end();
    assert!(events.iter().map(Event::seq).eq(1..=events.len() as u64), "no hole, and no line cut short");
    assert!(events.len() < FLOOD as usize);
}

#[test]
fn a_slow_relay_reader_is_closed_too() {
    let server = Server::with_shards(2);
    let mut healthy = server.relay("x");
    healthy.settle("healthy");
    let mut slow = RawWs::connect_slow(server.http(), "/relay/x");
    // Its own message comes back once it is in the room.
    slow.frame(0x81, b"slow");
    assert_eq!(slow.next_data().unwrap().text(), "slow");
    healthy.next();
    let message = tungstenite::Message::binary(vec![7; MESSAGE_BYTES]);
    for _ in 0..FLOOD {
        healthy.send(message.clone());
        assert_eq!(healthy.next(), message);
    }
    server.metrics_until("the slow one to be closed", |metrics| {
        metrics.sum("hubbub_closed_total", &[("reason", "slow_consumer")]) == 1
    });
    assert_eq!(slow.closed_with(), Some(4008));
}

#[test]
fn by_skip_gaps_cover_exactly_what_is_missing() {
    let server = Server::with(["--shards=2", "--limits-slow-consumer=skip"]);
    let mut healthy = server.member("healthy", "lobby");
    let mut talker = server.member("talker", "lobby");
    let mut slow = slow_member(&server, "slow");
    let (mut next, mut skipped) = (1, 0);
    for round in 1..=2 {
        flood(&mut talker, &mut healthy, FLOOD);
        // Nothing is closed; what does not fit is left out, and said so in its place.
        while next <= round * FLOOD {
            let event = event(slow.next_data().expect("the connection stays").text());
            if event["type"] == "gap" {
                assert_eq!((&event["room"], event["from"].as_u64()), (&json!("lobby"), Some(next)), "{event}");
                let to = event["to"].as_u64().unwrap();
                assert!(to >= next, "{event}");
                skipped += to + 1 - next;
                next = to + 1;
            } else {
                assert_eq!((&event["type"], event["seq"].as_u64()), (&json!("message"), Some(next)), "{event}");
                next += 1;
            }
        }
        assert_eq!(next, round * FLOOD + 1);
    }
    assert!(skipped > 0, "the reader was not slow enough to miss anything");
    let metrics = server.metrics();
    assert_eq!(metrics.sum("hubbub_dropped_total", &[("reason", "skipped")]), skipped);
    assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "slow_consumer")]), 0);
    healthy.expect_silence();
}

#[test]
fn by_skip_what_is_missing_at_the_end_is_told_before_it() {
    let server = Server::with(["--shards=2", "--limits-slow-consumer=skip"]);
    let mut healthy = server.member("healthy", "lobby");
    let mut talker = server.member("talker", "lobby");
    let mut slow = server.tcp_with_small_buffer();
    slow.connect_as("slow");
    slow.join("lobby");
    flood(&mut talker, &mut healthy, FLOOD);
    assert!(server.metrics().sum("hubbub_dropped_total", &[("reason", "skipped")]) > 0);
    slow.stream().shutdown(std::net::Shutdown::Write).unwrap();
    let (events, _) = slow.end();
    let mut next = 1;
    for event in events {
        match event.kind() {
            "gap" => {
                assert_eq!(event["from"].as_u64(), Some(next), "{}", event.text);
                next = event["to"].as_u64().unwrap() + 1;
            }
            "message" => {
                assert_eq!(event.seq(), next, "{}", event.text);
                next += 1;
            }
            _ => {}
        }
    }
    assert_eq!(next, FLOOD + 1, "the stream ended short without a word");
}

#[test]
fn while_one_stalls_nobody_else_waits_or_loses_anything() {
    let server = Server::with(["--shards=4", "--limits-outbox-stall=500ms", "--limits-close-timeout=300ms"]);
    let mut members: Vec<Client> = (0..12).map(|n| server.member(&format!("user {n}"), "lobby")).collect();
    let stalled: Vec<RawWs> = (0..4).map(|n| slow_member(&server, &format!("slow-{n}"))).collect();
    let content = "x".repeat(MESSAGE_BYTES);
    for n in 1..=400 {
        let talker = n % members.len();
        members[talker].say("lobby", content.as_str());
        for member in &mut members {
            assert_eq!(member.expect("message").seq(), n as u64);
        }
    }
    server.metrics_until("the stalled ones to be closed", |metrics| {
        metrics.sum("hubbub_closed_total", &[("reason", "slow_consumer")]) == 4
    });
    server.metrics_until("the stalled ones to be gone", |metrics| {
        metrics.sum("hubbub_connections", &[("kind", "chat_ws")]) == 12
    });
    drop(stalled);
}
