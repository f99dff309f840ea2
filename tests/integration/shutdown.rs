//! The end: everyone is told, what is owed is sent, and the process is gone in time.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Client, Deadline, Event, RawWs, RelayClient, Server, http, until};

/// The `closing` among the events at the end of a connection.
fn closing(events: &[Event]) -> &Event {
    let last = events.last().unwrap();
    assert_eq!(last.kind(), "closing", "{events:?}");
    last
}

#[test]
fn everyone_is_told_and_the_server_ends_well() {
    let mut server = Server::with(["--shards=2", "--drain-timeout=8s"]);
    let mut chats: Vec<Client> = (0..460)
        .map(|n| {
            let name = format!("user {n}");
            let mut client = if n % 8 == 0 { server.tcp_as(&name) } else { server.ws_as(&name) };
            client.join(&format!("room {}", n % 10));
            client
        })
        .collect();
    let relays: Vec<RelayClient> = (0..40).map(|n| server.relay(&format!("{}", n % 4))).collect();
    let begun = Deadline::patient();
    server.signal(Signal::TERM);
    let mut retries = Vec::new();
    for (n, client) in chats.iter_mut().enumerate() {
        let (events, close) = client.end();
        let closing = closing(&events);
        assert!(closing["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{}", closing.text);
        retries.push(closing["retry_after_ms"].as_u64().unwrap());
        let expected = (n % 8 != 0).then(|| (1012, "server restarts".to_owned()));
        assert_eq!(close, expected, "client {n}");
    }
    for mut relay in relays {
        assert_eq!(relay.next_or_end().unwrap_err().map(|(code, _)| code), Some(1012));
    }
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.stderr());
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    // Not all at once: they come back spread over a while.
    assert!(retries.iter().all(|retry| (1..=60_000).contains(retry)), "{retries:?}");
    retries.sort_unstable();
    retries.dedup();
    assert!(retries.len() > 300, "460 clients were given {} different times", retries.len());
}

#[test]
fn what_was_said_before_the_signal_arrives_before_the_end() {
    for shards in [1, 4] {
        let mut server = Server::with_shards(shards);
        let mut late: Vec<Client> = (0..6).map(|n| server.member(&format!("late {n}"), "lobby")).collect();
        let mut talker = server.member("talker", "lobby");
        let content = "x".repeat(2_000);
        for _ in 0..300 {
            talker.send(&json!({"type": "message", "room": "lobby", "content": content, "echo": false}));
        }
        // All of it is in the members' outboxes and sockets, and none of them has begun to read.
        server.metrics_until("all to be queued", |metrics| metrics.sum("hubbub_messages_out_total", &[]) == 6 * 300);
        server.signal(Signal::TERM);
        for client in &mut late {
            let (events, close) = client.end();
            assert_eq!(close.map(|(code, _)| code), Some(1012));
            closing(&events);
            let seqs: Vec<u64> = events.iter().filter(|e| e.kind() == "message").map(Event::seq).collect();
            assert!(seqs.iter().copied().eq(1..=300), "{} of 300 messages came", seqs.len());
        }
        talker.end();
        assert_eq!(server.wait_exit().code(), Some(0), "{}", server.stderr());
    }
}

#[test]
fn an_idle_server_ends_at_once_by_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::with_shards(2);
        let begun = Deadline::patient();
        server.signal(signal);
        assert_eq!(server.wait_exit().code(), Some(0), "{}", server.stderr());
        assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    }
}

/// A client that has been told to go and does not answer.
fn stubborn(server: &Server) -> RawWs {
    let mut raw = server.raw_ws("/ws?name=ann&room=lobby");
    for _ in 0..2 {
        raw.next_data();
    }
    raw
}

fn is_refused(address: std::net::SocketAddr) -> bool {
    matches!(TcpStream::connect(address), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn a_draining_server_takes_nobody_in_and_says_so() {
    let mut server = Server::with(["--shards=3", "--drain-timeout=2s", "--limits-close-timeout=60s"]);
    let mut raw = stubborn(&server);
    assert_eq!(http(server.admin(), "GET", "/readyz", &[]).status, 200);
    // Connected but silent: there is nothing to tell them but the end.
    let mut silent = server.tcp();
    let mut mute = RawWs::before_handshake(server.http());
    server.signal(Signal::TERM);
    while raw.next().unwrap().first != 0x88 {}
    until("both ports to refuse", || (is_refused(server.http()) && is_refused(server.lines())).then_some(()));
    for _ in 0..20 {
        assert!(is_refused(server.http()) && is_refused(server.lines()), "a listener goes on accepting");
    }
    let ready = http(server.admin(), "GET", "/readyz", &[]);
    assert!(ready.status == 503 && ready.text().contains("draining"), "{} {}", ready.head, ready.text());
    assert_eq!(http(server.admin(), "GET", "/healthz", &[]).status, 200, "it is well, though it takes nobody in");
    silent.end();
    assert_eq!(mute.next(), None);
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.stderr());
}

#[test]
fn who_does_not_answer_does_not_hold_up_the_end() {
    let mut server = Server::with(["--shards=2", "--drain-timeout=1s", "--limits-close-timeout=60s"]);
    let _raw = stubborn(&server);
    let mut talker = server.member("talker", "lobby");
    // And one that reads nothing, with more waiting for it than the kernel takes.
    let _stuck = {
        let mut raw = RawWs::connect_slow(server.http(), "/ws?name=stuck&room=lobby");
        raw.next_data();
        raw.next_data();
        raw
    };
    for _ in 0..120 {
        let content = "x".repeat(8_000);
        talker.send(&json!({"type": "message", "room": "lobby", "content": content, "echo": false}));
    }
    talker.fence_room("lobby");
    let begun = Deadline::patient();
    server.signal(Signal::TERM);
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.stderr());
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(300) && took < Duration::from_secs(3), "it took {took:?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::with(["--drain-timeout=60s", "--limits-close-timeout=60s"]);
    let mut raw = stubborn(&server);
    server.signal(Signal::TERM);
    while raw.next().unwrap().first != 0x88 {}
    assert!(!server.has_ended());
    let begun = Deadline::patient();
    server.signal(Signal::TERM);
    let status = server.wait_exit();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}
