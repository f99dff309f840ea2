//! The relay: whatever comes goes to everyone on the same path, as it came.

use serde_json::json;
use tungstenite::Message;

use crate::harness::{Frame, RelayClient, Server, masked_frame};

#[test]
fn messages_come_back_as_they_went() {
    let server = Server::start();
    let mut alone = server.relay("x");
    let texts = ["", "hi", "größe 😀", "{\"type\":\"connect\"}", "a\nb\r\nc"].map(Message::text);
    let binaries = [vec![], vec![0], vec![0xff; 126], vec![7; 65_536]].map(Message::binary);
    for message in texts.into_iter().chain(binaries) {
        alone.send(message.clone());
        assert_eq!(alone.next(), message, "a room of one is an echo");
    }
}

#[test]
fn a_fragmented_message_arrives_whole() {
    let server = Server::start();
    let mut other = server.relay("x");
    other.settle("ready");
    let mut raw = server.raw_ws("/relay/x");
    raw.frame(0x02, b"one ");
    raw.frame(0x00, b"");
    raw.frame(0x80, b"two");
    assert_eq!(raw.next(), Some(Frame { first: 0x82, payload: b"one two".to_vec() }));
    assert_eq!(other.next(), Message::binary(&b"one two"[..]));
}

#[test]
fn what_was_said_before_the_end_comes_back_first() {
    let server = Server::with_shards(4);
    let echo = Frame { first: 0x81, payload: b"one".to_vec() };
    // The rooms, and the connections, are spread over the shards.
    for n in 0..24 {
        let ends = [(masked_frame(0xb1, b"two"), 1002), (masked_frame(0x88, &[0x03, 0xe8]), 1000)];
        for (end, code) in ends {
            let mut raw = server.raw_ws(&format!("/relay/room-{n}"));
            raw.write(&[masked_frame(0x81, b"one"), end, masked_frame(0x81, b"three")].concat());
            assert_eq!(raw.next(), Some(echo.clone()));
            assert_eq!(raw.next().and_then(|frame| frame.close_code()), Some(code));
        }
    }
}

#[test]
fn everyone_hears_everything_in_one_order() {
    let server = Server::with_shards(4);
    let mut members: Vec<RelayClient> = (0..24).map(|_| server.relay("crowd")).collect();
    // From its own echo on, a member hears all; the last one to settle has seen everyone in.
    for (n, member) in members.iter_mut().enumerate() {
        member.settle(&format!("settle {n}"));
    }
    let shards = server.metrics().by_shard("hubbub_connections", &[("kind", "relay")]);
    // The kernel spreads them by chance.
    let used = shards.iter().filter(|count| **count > 0).count();
    assert!(used >= 3, "24 connections were spread over {used} of 4 shards only: {shards:?}");
    let heard: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = members
            .iter_mut()
            .enumerate()
            .map(|(n, member)| {
                scope.spawn(move || {
                    for round in 0..20 {
                        member.send(Message::text(format!("{n} {round}")));
                    }
                    let mut heard = Vec::new();
                    while heard.len() < 24 * 20 {
                        let text = member.next().into_text().unwrap().to_string();
                        if !text.starts_with("settle") {
                            heard.push(text);
                        }
                    }
                    heard
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (n, other) in heard.iter().enumerate() {
        assert_eq!(other, &heard[0], "member {n} heard another order");
    }
    for n in 0..24 {
        let own: Vec<_> = heard[0].iter().filter(|text| text.starts_with(&format!("{n} "))).cloned().collect();
        assert!(own.iter().cloned().eq((0..20).map(|round| format!("{n} {round}"))), "sender {n}: {own:?}");
    }
}

#[test]
fn rooms_are_told_apart_and_names_are_decoded() {
    let server = Server::with_shards(2);
    let mut a = server.relay("r%C3%B6om%20a");
    let mut same = server.relay("r%c3%b6om%20%61");
    let mut b = server.relay("b%2Fc");
    a.settle("a");
    same.settle("same");
    b.settle("b");
    while a.next() != Message::text("same") {}
    a.send(Message::text("hello"));
    assert_eq!(same.next(), Message::text("hello"));
    b.send(Message::text("fence"));
    assert_eq!(b.next(), Message::text("fence"), "nothing of the other room came before");
}

#[test]
fn the_relay_and_the_chat_never_meet() {
    let server = Server::with_shards(2);
    let mut chat = server.member("ann", "lobby");
    let mut relay = server.relay("lobby");
    relay.settle("one");
    chat.say_and_wait("lobby", "two");
    assert_eq!(chat.expect("message")["content"], "two");
    assert!(chat.fence_room("lobby").is_empty());
    relay.send(Message::text("three"));
    assert_eq!(relay.next(), Message::text("three"), "nothing of the chat came before");
    let rooms = chat.ok(json!({"type": "rooms"}));
    assert_eq!(rooms["rooms"].as_array().map(Vec::len), Some(1), "{}", rooms.text);
    assert_eq!(rooms["rooms"][0]["members"], 1);
}

#[test]
fn nothing_is_kept_for_those_who_come_later() {
    let server = Server::start();
    let mut early = server.relay("x");
    early.settle("before");
    let mut late = server.relay("x");
    late.send(Message::text("after"));
    assert_eq!(late.next(), Message::text("after"));
    drop((early, late));
    server.metrics_until("the room to be gone", |metrics| metrics.sum("hubbub_rooms", &[]) == 0);
}

#[test]
fn messages_may_be_as_large_as_configured() {
    const MIB_16: usize = 16 * 1024 * 1024;
    let server = Server::with(["--shards=2", "--max-message-bytes=17825792"]);
    let mut ann = server.relay("x");
    let mut bob = server.relay("x");
    ann.settle("ann");
    bob.settle("bob");
    while ann.next() != Message::text("bob") {}
    let bytes: Vec<u8> = (0..MIB_16).map(|n| (n % 251) as u8).collect();
    let text = "0123456789abcdef".repeat(MIB_16 / 16);
    std::thread::scope(|scope| {
        let expected = (bytes.clone(), text.clone());
        let bob = scope.spawn(move || {
            assert!(bob.next() == Message::binary(expected.0), "the binary message was changed on its way");
            assert!(bob.next() == Message::text(expected.1), "the text message was changed on its way");
        });
        ann.send(Message::binary(bytes.clone()));
        assert!(ann.next() == Message::binary(bytes), "the echo of the binary message was changed");
        ann.send(Message::text(text.clone()));
        assert!(ann.next() == Message::text(text), "the echo of the text message was changed");
        bob.join().unwrap();
    });
}

#[test]
fn relay_messages_are_counted() {
    let server = Server::start();
    let mut members: Vec<RelayClient> = (0..3).map(|_| server.relay("x")).collect();
    for (n, member) in members.iter_mut().enumerate() {
        member.settle(&format!("settle {n}"));
    }
    let before = server.metrics();
    members[0].send(Message::text("one"));
    for member in &mut members {
        while member.next() != Message::text("one") {}
    }
    let after = server.metrics();
    let grown = |name: &str| after.sum(name, &[]) - before.sum(name, &[]);
    assert_eq!((grown("hubbub_messages_in_total"), grown("hubbub_messages_out_total")), (1, 3));
    assert_eq!(after.sum("hubbub_connections", &[("kind", "relay")]), 3);
}
