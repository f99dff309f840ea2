//! Limits that the operator sets on what one connection does and how many a room takes: what is said past them, over both
//! transports, and what is counted. Limits at the door are in `gate`.

use serde_json::{Value, json};
use tungstenite::Message;

use crate::harness::{Client, Event, Issuer, Launch, Server, TRANSPORTS, until};

fn say(len: usize) -> Value {
    json!({"type": "message", "room": "lobby", "content": "x".repeat(len)})
}

fn member(open: fn(&Server) -> Client, server: &Server, name: &str) -> Client {
    let mut client = open(server);
    client.connect_as(name);
    client.join("lobby");
    client
}

/// Sends so many commands at once, and gives those replies that are refusals, which must say how long to wait.
fn refusals(client: &mut Client, what: &str, commands: impl Iterator<Item = Value>) -> Vec<Event> {
    let ids: Vec<u64> = commands.map(|command| client.send_with_id(command)).collect();
    let mut replies: Vec<Event> = ids.into_iter().map(|id| client.reply_to(id)).collect();
    assert_eq!(replies[0].kind(), "ok", "a second's worth is free: {}", replies[0].text);
    replies.retain(|reply| reply.kind() == "error");
    assert!(!replies.is_empty(), "nothing was refused");
    for reply in &replies {
        assert_eq!((&reply["code"], &reply["temporary"]), (&json!("rate_limited"), &json!(true)), "{}", reply.text);
        wait_ms(reply, what);
    }
    replies
}

/// How long the refusal says to wait.
fn wait_ms(refusal: &Event, what: &str) -> u64 {
    let message = refusal["message"].as_str().unwrap();
    let number = message.strip_prefix(&format!("more {what} a second than allowed: wait "));
    let ms = number.and_then(|rest| rest.strip_suffix(" ms")).and_then(|ms| ms.parse().ok());
    let ms = ms.unwrap_or_else(|| panic!("{message:?} does not say how long to wait"));
    assert!(ms > 0, "{message}");
    ms
}

/// Waits until that many commands were counted as refused.
fn counted(server: &Server, limit: &str, count: usize) {
    server.metrics_until("the refusals to be counted", |metrics| {
        metrics.sum("hubbub_limited_total", &[("limit", limit)]) == count as u64
            && metrics.sum("hubbub_errors_total", &[("code", "rate_limited")]) == count as u64
    });
}

#[test]
fn messages_beyond_the_rate_are_refused_until_time_has_passed() {
    for open in TRANSPORTS {
        let server = Server::with(["--limits-messages-per-second=1"]);
        let mut ann = member(open, &server, "ann");
        let mut bob = member(open, &server, "bob");
        let commands = (0..30).map(|_| say(1));
        let refused = refusals(&mut ann, "messages", commands);
        assert!(refused.iter().all(|refusal| wait_ms(refusal, "messages") <= 1_000));
        counted(&server, "messages", refused.len());
        // Another one has its own second's worth, and what was refused was not said.
        bob.ok(say(2));
        assert_eq!(bob.fence_room("lobby").len(), 30 - refused.len() + 1);
        until("time to have passed", || (ann.ask(say(1)).kind() == "ok").then_some(()));
    }
}

#[test]
fn bytes_beyond_the_rate_are_refused_whatever_carries_them() {
    for open in TRANSPORTS {
        let server = Server::with(["--limits-bytes-per-second=1000"]);
        let mut ann = member(open, &server, "ann");
        let mut bob = member(open, &server, "bob");
        // One that is larger than the rate passes when nothing was used, and is worth a minute.
        ann.ok(say(60_000));
        let said = [
            say(1),
            json!({"type": "signal", "room": "lobby", "content": "x"}),
            json!({"type": "direct", "to": "bob", "content": "x"}),
        ];
        for command in said {
            let refusal = ann.refused(command, "rate_limited");
            assert!((30_000..=60_100).contains(&wait_ms(&refusal, "bytes of messages")), "{}", refusal.text);
        }
        counted(&server, "bytes", 3);
        // All else goes on.
        ann.ok(json!({"type": "history", "room": "lobby"}));
        ann.join("elsewhere");
        bob.ok(say(1));
    }
}

#[test]
fn joins_beyond_the_rate_are_refused_until_time_has_passed() {
    for open in TRANSPORTS {
        let server = Server::with(["--limits-joins-per-second=1"]);
        let mut ann = open(&server);
        ann.connect_as("ann");
        let join = |room: usize| json!({"type": "join", "room": format!("room {room}")});
        let refused = refusals(&mut ann, "joins", (0..30).map(join));
        counted(&server, "joins", refused.len());
        until("time to have passed", || (ann.ask(join(30)).kind() == "ok").then_some(()));
        let before = refused.len();
        let switch = || json!({"type": "switch", "from": "room 0", "to": "room 0"});
        assert!(before < 30 && ann.ask(switch()).kind() == "error");
        ann.ok(json!({"type": "message", "room": "room 0", "content": "still in"}));
    }
}

#[test]
fn a_thousand_refusals_in_a_row_close() {
    for (open, close) in TRANSPORTS.into_iter().zip([Some((4009, "rate limited".to_owned())), None]) {
        let server = Server::with(["--limits-bytes-per-second=1000"]);
        let mut bob = member(open, &server, "bob");
        let mut ann = member(open, &server, "ann");
        ann.ok(say(64_000));
        for _ in 0..999 {
            ann.send(&say(1));
        }
        let errors = ann.fence();
        let of_rate = errors.iter().filter(|error| error["code"] == "rate_limited").count();
        assert_eq!(of_rate, 999);
        ann.send(&say(1));
        let (events, closed) = ann.end();
        // Lines have no close frame: there the last error is of the end itself.
        assert_eq!(events.len(), if close.is_some() { 1 } else { 2 }, "{events:?}");
        assert!(events.iter().all(|event| event["code"] == "rate_limited"), "{events:?}");
        assert_eq!(closed, close);
        let metrics = server.metrics_until("the refusals to be counted", |metrics| {
            metrics.sum("hubbub_limited_total", &[("limit", "bytes")]) == 1_000
        });
        assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "rate_limited")]), 1);
        assert_eq!(bob.fence().len(), 1);
    }
}

#[test]
fn a_relay_connection_beyond_its_rate_is_closed() {
    for (flag, limit) in [("--limits-bytes-per-second=1000", "bytes"), ("--limits-messages-per-second=1", "messages")] {
        let server = Server::with([flag]);
        let mut other = server.relay("r");
        let mut relay = server.relay("r");
        let mut raw = server.raw_ws("/relay/r");
        let large = "x".repeat(60_000);
        relay.send(Message::text(large.clone()));
        assert_eq!(relay.next(), Message::text(large.clone()));
        assert_eq!(other.next(), Message::text(large));
        let frames: Vec<u8> = (0..30).flat_map(|_| crate::harness::masked_frame(0x81, b"again")).collect();
        match limit {
            "bytes" => {
                relay.send(Message::text("again"));
                assert_eq!(relay.next_or_end(), Err(Some((4009, "rate limited".to_owned()))));
            }
            _ => {
                raw.write(&frames);
                assert_eq!(raw.closed_with(), Some(4009));
            }
        }
        server.metrics_until("the end to be counted", |metrics| {
            metrics.sum("hubbub_closed_total", &[("reason", "rate_limited")]) == 1
                && metrics.sum("hubbub_limited_total", &[("limit", limit)]) == 1
        });
    }
}

#[test]
fn a_full_room_takes_nobody_but_those_who_are_in_it() {
    for open in TRANSPORTS {
        let server = Server::with(["--shards=2", "--limits-room-members=2"]);
        let (_ann, mut bob) = (member(open, &server, "ann"), member(open, &server, "bob"));
        let mut carl = open(&server);
        carl.connect_as("carl");
        let join = json!({"type": "join", "room": "lobby"});
        let text = "the room is full: it takes 2 users; try again when somebody has left";
        carl.refused_saying(join.clone(), "room_full", text);
        carl.join("elsewhere");
        carl.refused_saying(json!({"type": "switch", "from": "elsewhere", "to": "lobby"}), "room_full", text);
        let mut bob_again = member(open, &server, "bob");
        assert_eq!(server.metrics().sum("hubbub_limited_total", &[("limit", "room_members")]), 2);
        assert_eq!(server.metrics().sum("hubbub_errors_total", &[("code", "room_full")]), 2);
        // A place that is free is given again.
        for client in [&mut bob, &mut bob_again] {
            client.ok(json!({"type": "leave", "room": "lobby"}));
        }
        until("a place to be free", || (carl.ask(join.clone()).kind() == "ok").then_some(()));
    }
}

#[test]
fn a_full_room_of_the_relay_is_closed_to_others() {
    let server = Server::with(["--limits-room-members=1"]);
    let mut inside = server.relay("r");
    inside.settle("inside");
    assert_eq!(server.raw_ws("/relay/r").closed_with(), Some(1013));
    server.metrics_until("the refusal to be counted", |metrics| {
        metrics.sum("hubbub_limited_total", &[("limit", "room_members")]) == 1
            && metrics.sum("hubbub_closed_total", &[("reason", "try_again_later")]) == 1
    });
    inside.settle("still inside");
}

#[test]
fn a_consumer_has_no_more_unacknowledged_than_its_window() {
    for open in TRANSPORTS {
        let server = Server::with(["--ack-window=3"]);
        let mut bob = open(&server);
        bob.connect_as("bob");
        bob.ok(json!({"type": "join", "room": "lobby", "ack": true}));
        let mut ann = member(open, &server, "ann");
        for seq in 1..=7 {
            assert_eq!(ann.say_and_wait("lobby", seq), seq);
        }
        for (first, last) in [(1, 3), (4, 6), (7, 7)] {
            let seqs: Vec<u64> = (first..=last).map(|_| bob.expect("message").seq()).collect();
            assert_eq!(seqs, (first..=last).collect::<Vec<_>>());
            let more = bob.fence_room("lobby");
            assert!(more.is_empty(), "beyond the window came {more:?}");
            let unsent = json!({"type": "ack", "room": "lobby", "seq": last + 1});
            bob.refused(unsent, "bad_request");
            bob.ok(json!({"type": "ack", "room": "lobby", "seq": last}));
        }
        bob.expect_silence();
    }
}

#[test]
fn a_rate_that_is_set_while_the_server_runs_holds_for_who_is_there() {
    let issuer = Issuer::new();
    let mut server = issuer.launch("").start();
    let mut clients = TRANSPORTS.map(|open| {
        let mut client = open(&server);
        client.connect_with(&issuer.token("ann", json!({})));
        client.join("lobby");
        client
    });
    for client in &mut clients {
        (0..5).for_each(|_| _ = client.ok(say(9_000)));
    }
    issuer.configure("[limits]\nbytes_per_second = 100");
    server.signal(rustix::process::Signal::HUP);
    until("the reload is done", || server.stderr().contains("limits").then_some(()));
    for client in &mut clients {
        until("the limit to hold", || (client.ask(say(9_000))["code"] == "rate_limited").then_some(()));
    }
    server.stop();
}

#[test]
fn a_limit_that_makes_no_sense_ends_the_start() {
    for flag in [
        "--limits-messages-per-second=0",
        "--limits-bytes-per-second=many",
        "--limits-joins-per-second=-1",
        "--limits-room-members=0",
        "--ack-window=0",
    ] {
        let (status, said) = Launch::new().arguments([flag]).try_start().err().unwrap();
        assert_eq!(status.code(), Some(2), "{flag}: {said}");
        let key = flag.trim_start_matches("--").split('=').next().unwrap();
        let (table, name) = key.split_once('-').unwrap();
        assert!(said.contains(&format!("{table}.{}", name.replace('-', "_"))), "{flag}: {said}");
    }
}
