//! Coming back: `since` is met in full or refused, and nothing is missed or seen twice between replay and live.

use std::sync::mpsc::TryRecvError;

use serde_json::json;

use crate::harness::{Client, Event, Server};

fn rejoin(client: &mut Client, room: &str, epoch: &serde_json::Value, seq: u64) -> Event {
    client.ok(json!({"type": "join", "room": room, "since": {"epoch": epoch, "seq": seq}}))
}

#[test]
fn what_was_missed_is_replayed_and_then_it_goes_on() {
    for shards in [1, 3] {
        let server = Server::with_shards(shards);
        let mut ann = server.member("ann", "lobby");
        let mut bob = server.ws_as("bob");
        let epoch = bob.join("lobby")["epoch"].clone();
        ann.say_and_wait("lobby", 1);
        let seen = bob.expect("message").seq();
        drop(bob);
        let mut head = seen;
        for mut bob in [server.ws_as("bob"), server.tcp_as("bob")] {
            for n in 0..150 {
                ann.say("lobby", n);
            }
            ann.fence_room("lobby");
            head += 150;
            let ok = rejoin(&mut bob, "lobby", &epoch, seen);
            assert_eq!((&ok["recovered"], ok.seq()), (&json!(true), head), "{}", ok.text);
            head = ann.say_and_wait("lobby", "live");
            let messages = bob.messages((head - seen) as usize);
            assert!(messages.iter().map(Event::seq).eq(seen + 1..=head));
            bob.expect_silence();
            // At the head there is nothing to replay.
            bob.ok(json!({"type": "leave", "room": "lobby"}));
            assert_eq!(rejoin(&mut bob, "lobby", &epoch, head)["recovered"], true);
            assert!(bob.fence_room("lobby").is_empty());
            head = ann.say_and_wait("lobby", "once more");
            assert_eq!(bob.expect("message").seq(), head);
        }
    }
}

#[test]
fn what_cannot_be_met_in_full_is_refused_and_nothing_replayed() {
    let server = Server::with(["--shards=2", "--history=memory", "--limits-history-size=5"]);
    let mut ann = server.member("ann", "lobby");
    let epoch = ann.ok(json!({"type": "history", "room": "lobby"}))["epoch"].clone();
    for n in 1..=20 {
        ann.say_and_wait("lobby", n);
    }
    let mut bob = server.ws_as("bob");
    let other = json!("0123456789abcdef");
    for (epoch, seq, recovered) in [
        (&epoch, 15, true),
        (&epoch, 14, false),
        (&epoch, 0, false),
        (&epoch, 20, true),
        (&epoch, 21, false),
        (&epoch, u64::MAX, false),
        (&other, 20, false),
        (&other, 17, false),
    ] {
        let ok = rejoin(&mut bob, "lobby", epoch, seq);
        assert_eq!((&ok["recovered"], ok.seq()), (&json!(recovered), 20), "since {seq}: {}", ok.text);
        let replayed: Vec<u64> = bob.fence_room("lobby").iter().map(Event::seq).collect();
        let expected: Vec<u64> = if recovered { (seq + 1..=20).collect() } else { Vec::new() };
        assert_eq!(replayed, expected, "since {seq}");
        bob.ok(json!({"type": "leave", "room": "lobby"}));
    }
}

#[test]
fn another_server_has_another_epoch() {
    let mut epochs = Vec::new();
    for _ in 0..2 {
        let server = Server::start();
        let mut ann = server.ws_as("ann");
        epochs.push(ann.join("lobby")["epoch"].clone());
        ann.say_and_wait("lobby", 1);
        ann.ok(json!({"type": "leave", "room": "lobby"}));
        let ok = rejoin(&mut ann, "lobby", &epochs[0], 1);
        assert_eq!(ok["recovered"], epochs.len() == 1, "{}", ok.text);
        server.stop();
    }
    assert_ne!(epochs[0], epochs[1]);
}

/// Comes and goes while others talk, each time from the last place it saw.
fn come_and_go(server: &Server, rounds: usize, connect: impl Fn(&Server) -> Client) -> Vec<u64> {
    let mut seen = Vec::new();
    let mut epoch = None;
    for round in 0..rounds {
        let mut client = connect(server);
        let ok = match &epoch {
            None => client.join("lobby"),
            Some(epoch) => rejoin(&mut client, "lobby", epoch, *seen.last().unwrap()),
        };
        epoch = Some(ok["epoch"].clone());
        if round == 0 {
            seen.push(ok.seq());
        } else {
            assert_eq!(ok["recovered"], true, "{}", ok.text);
        }
        // Some of these are replayed and the rest live, and it is all one sequence.
        for _ in 0..40 + round * 7 {
            seen.push(client.expect("message").seq());
        }
    }
    seen
}

#[test]
fn between_replay_and_live_nothing_is_missed_or_seen_twice() {
    for shards in [1, 2] {
        let size = ["--limits-history-size=100000", "--limits-history-bytes=100000000"];
        let server = Server::with([&format!("--shards={shards}"), size[0], size[1]]);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        // The first message, so that everyone has a place to come back to.
        server.member("talker", "lobby").say_and_wait("lobby", "first");
        std::thread::scope(|scope| {
            let server = &server;
            let talk = scope.spawn(move || {
                let mut talker = server.member("talker", "lobby");
                let mut n = 0;
                while stopped.try_recv() == Err(TryRecvError::Empty) {
                    talker.send(&json!({"type": "message", "room": "lobby", "content": n, "echo": false}));
                    n += 1;
                    if n % 32 == 0 {
                        talker.fence_room("lobby");
                    }
                }
            });
            let over_ws = scope.spawn(|| come_and_go(server, 12, |server| server.ws_as("ws")));
            let over_tcp = scope.spawn(|| come_and_go(server, 12, |server| server.tcp_as("tcp")));
            let seen = [over_ws.join().unwrap(), over_tcp.join().unwrap()];
            stop.send(()).unwrap();
            talk.join().unwrap();
            for seen in seen {
                assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
            }
        });
    }
}

#[test]
fn a_replay_larger_than_the_outbox_arrives_whole() {
    // Three megabytes of the past to a client that reads slowly at first.
    let server = Server::with(["--shards=2", "--limits-history-bytes=10000000"]);
    let mut ann = server.member("ann", "lobby");
    let content = "x".repeat(3_000);
    for _ in 0..1_000 {
        ann.send(&json!({"type": "message", "room": "lobby", "content": content, "echo": false}));
    }
    ann.fence_room("lobby");
    let mut bob = server.ws_as("bob");
    let id = bob.send_with_id(json!({"type": "join", "room": "lobby", "history": 1_000}));
    // Live messages while the replay is held up by a reader that has not begun.
    let mut last = 0;
    for _ in 0..20 {
        last = ann.ok(json!({"type": "message", "room": "lobby", "content": "live", "echo": false})).seq();
    }
    assert_eq!(bob.next()["id"], id);
    let first = bob.expect("message").seq();
    assert!(first <= 21, "{first}");
    assert!(bob.messages((last - first) as usize).iter().map(Event::seq).eq(first + 1..=last));
}
