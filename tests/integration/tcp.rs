//! JSON lines over TCP: framing, half-close, and who is no client at all.

use std::io::Write;
use std::net::Shutdown;

use serde_json::json;

use crate::harness::{Event, Server};

#[test]
fn a_first_line_that_is_no_json_closes_at_once() {
    let server = Server::start();
    for text in [
        "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n{\"type\":\"connect\",\"name\":\"eve\"}\n",
        "\n{\"type\":\"connect\",\"name\":\"eve\"}\n",
        " {\"type\":\"connect\",\"name\":\"eve\"}\n",
        "\u{feff}{\"type\":\"connect\",\"name\":\"eve\"}\n",
        "[",
        "HUB\u{1}",
        "\u{16}\u{3}\u{1}",
    ] {
        let mut client = server.tcp();
        client.stream().write_all(text.as_bytes()).unwrap();
        let (events, _) = client.end();
        assert!(events.is_empty(), "{text:?} was answered by {events:?}");
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "not_this_protocol")]), 7);
    assert_eq!(metrics.sum("hubbub_errors_total", &[]), 0, "nothing of it was carried out");
}

#[test]
fn later_lines_may_begin_as_they_like_and_empty_ones_say_nothing() {
    let server = Server::start();
    let mut client = server.tcp();
    client
        .stream()
        .write_all(b"{\"type\":\"connect\",\"name\":\"ann\"}\r\n\n\r\n  {\"type\":\"ping\"}\t\r\nGET /\n")
        .unwrap();
    client.expect("welcome");
    client.expect("pong");
    assert_eq!(client.expect("error")["code"], "bad_request");
    client.expect_silence();
}

#[test]
fn a_line_that_is_not_utf8_is_a_bad_request() {
    let server = Server::start();
    let mut client = server.tcp_as("ann");
    client
        .stream()
        .write_all(b"{\"type\":\"ping\",\"a\":\"\xff\"}\n{\"type\":\"ping\",\"a\":\"\xed\xa0\x80\"}\n")
        .unwrap();
    for _ in 0..2 {
        assert_eq!(client.expect("error")["code"], "bad_request");
    }
    client.expect_silence();
}

#[test]
fn a_line_beyond_the_limit_ends_the_connection() {
    let server = Server::with(["--max-message-bytes=2000"]);
    let mut watcher = server.member("watcher", "lobby");
    let command = |bytes: usize| {
        let front = "{\"type\":\"message\",\"room\":\"lobby\",\"content\":\"";
        format!("{front}{}\"}}", "x".repeat(bytes - front.len() - 2))
    };
    let mut ann = server.tcp_as("ann");
    ann.join("lobby");
    ann.send_text(&command(2_000));
    ann.expect("message");
    watcher.expect("message");
    ann.send_text(&command(2_001));
    let (events, _) = ann.end();
    assert!(events.iter().all(|event| event.kind() == "error"), "{events:?}");
    // Without waiting for the line's end, of which there may be none.
    let mut bob = server.tcp_as("bob");
    bob.stream().write_all(&[b'x'; 2_500]).unwrap();
    bob.end();
    assert!(watcher.fence_room("lobby").is_empty());
    let metrics = server.metrics();
    assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "message_too_large")]), 2);
}

#[test]
fn a_half_close_is_answered_in_full() {
    for shards in [1, 4] {
        let server = Server::with_shards(shards);
        for round in 0..5 {
            let mut client = server.tcp();
            let mut text = "{\"type\":\"connect\",\"name\":\"ann\"}\n".to_owned();
            for room in 0..4 {
                text += &format!("{{\"type\":\"join\",\"room\":\"{round}-{room}\",\"id\":{room}}}\n");
            }
            for n in 0..400 {
                let room = n % 4;
                text += &format!(
                    "{{\"type\":\"message\",\"room\":\"{round}-{room}\",\"content\":{n},\"id\":{}}}\n",
                    n + 10
                );
            }
            // The last line has no end.
            text += "{\"type\":\"ping\",\"id\":9}";
            client.stream().write_all(text.as_bytes()).unwrap();
            client.stream().shutdown(Shutdown::Write).unwrap();
            let (events, _) = client.end();
            let mut ids: Vec<u64> = events.iter().filter_map(|event| event["id"].as_u64()).collect();
            ids.sort_unstable();
            assert!(ids.iter().copied().eq((0..4).chain(9..410)), "{ids:?}");
            let messages = events.iter().filter(|event| event.kind() == "message").count();
            assert_eq!(messages, 400, "its own messages come back before the end");
        }
        let metrics =
            server.metrics_until("all to be gone", |m| m.sum("hubbub_connections", &[("kind", "chat_tcp")]) == 0);
        assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "normal")]), 5);
    }
}

#[test]
fn a_half_close_without_ids_still_carries_everything_out() {
    for shards in [1, 4] {
        let server = Server::with_shards(shards);
        let mut watcher = server.member("watcher", "lobby");
        let mut text = "{\"type\":\"connect\",\"name\":\"ann\"}\n{\"type\":\"join\",\"room\":\"lobby\"}\n".to_owned();
        for n in 0..300 {
            text += &format!("{{\"type\":\"message\",\"room\":\"lobby\",\"content\":{n}}}\n");
        }
        let mut client = server.tcp();
        client.stream().write_all(text.as_bytes()).unwrap();
        client.stream().shutdown(Shutdown::Write).unwrap();
        let (events, _) = client.end();
        assert_eq!(events.iter().filter(|event| event.kind() == "message").count(), 300);
        assert!(watcher.messages(300).iter().map(Event::seq).eq(1..=300));
    }
}

#[test]
fn a_half_close_waits_for_the_replay() {
    let server = Server::with(["--shards=2", "--limits-history-bytes=10000000"]);
    let mut ann = server.member("ann", "lobby");
    for _ in 0..1_000 {
        ann.send(&json!({"type": "message", "room": "lobby", "content": "x".repeat(3_000), "echo": false}));
    }
    ann.fence_room("lobby");
    let mut bob = server.tcp();
    let text =
        "{\"type\":\"connect\",\"name\":\"bob\"}\n{\"type\":\"join\",\"room\":\"lobby\",\"history\":1000,\"id\":1}\n";
    bob.stream().write_all(text.as_bytes()).unwrap();
    bob.stream().shutdown(Shutdown::Write).unwrap();
    let (events, _) = bob.end();
    let seqs: Vec<u64> = events.iter().filter(|event| event.kind() == "message").map(Event::seq).collect();
    assert!(seqs.iter().copied().eq(1..=1_000), "{} messages came", seqs.len());
}

#[test]
fn a_peer_that_says_nothing_at_all_may_leave() {
    let server = Server::start();
    let mut client = server.tcp();
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.end(), (vec![], None));
    drop(server.tcp());
    server.metrics_until("both to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 0);
}

#[test]
fn transports_talk_to_each_other() {
    let server = Server::with_shards(2);
    let mut ws = server.member("ws", "lobby");
    let mut tcp = server.tcp_as("tcp");
    tcp.join("lobby");
    ws.say_and_wait("lobby", "from ws");
    tcp.say_and_wait("lobby", "from tcp");
    for client in [&mut ws, &mut tcp] {
        let contents: Vec<_> = client.messages(2).iter().map(|message| message["content"].clone()).collect();
        assert_eq!(contents, ["from ws", "from tcp"]);
    }
}
