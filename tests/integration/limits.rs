//! Caps that are always on: connections, and the time a handshake may take.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Deadline, RawWs, Request, Server, connect_ws, http, try_connect_ws, until};

#[test]
fn beyond_max_connections_everyone_is_told_to_come_later() {
    for shards in [1, 2] {
        let server = Server::with([&format!("--shards={shards}"), "--max-connections=5"]);
        let mut inside: Vec<_> = (0..5).map(|n| server.member(&format!("user {n}"), "lobby")).collect();
        for _ in 0..3 {
            let refused = http(server.http(), "GET", "/", &[]);
            assert_eq!(refused.status, 503, "{}", refused.head);
            let after = refused.header("Retry-After").and_then(|seconds| seconds.parse::<u64>().ok());
            assert!(after.is_some_and(|seconds| seconds > 0), "{}", refused.head);
            assert_eq!(refused.header("Content-Length"), Some(refused.body.len().to_string().as_str()));
            let upgrade = try_connect_ws(&Request::new(server.http(), "/ws?name=late"));
            assert_eq!(upgrade.err().map(|(status, _)| status), Some(503));
            let (events, _) = server.tcp().end();
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!((&events[0]["code"], &events[0]["temporary"]), (&json!("overloaded"), &json!(true)));
        }
        let metrics = server.metrics();
        assert_eq!(metrics.sum("hubbub_refused_total", &[("reason", "max_connections")]), 9);
        assert_eq!(metrics.sum("hubbub_accepted_total", &[]), 5);
        // Those inside notice nothing, and a place that is free is given again.
        inside[0].say_and_wait("lobby", "still here");
        inside.pop();
        let mut late =
            until("a place to be free", || try_connect_ws(&Request::new(server.http(), "/ws?name=late")).ok());
        late.0.fence();
    }
}

#[test]
fn a_handshake_that_takes_too_long_is_closed() {
    let server = Server::with(["--limits-handshake-timeout=300ms"]);
    let begun = Deadline::patient();
    let mut mute_http = RawWs::before_handshake(server.http());
    let mut slow_http = RawWs::before_handshake(server.http());
    slow_http.write(b"GET / HTTP/1.1\r\nHost: local");
    let mute_ws = server.ws();
    let mut unsure_ws = server.ws();
    let mute_tcp = server.tcp();
    let slow_tcp = server.tcp();
    slow_tcp.stream().write_all(b"{\"type\":\"conn").unwrap();
    // Traffic is a sign of life, but not the `connect` that is wanted.
    unsure_ws.refused(json!({"type": "ping"}), "unauthorized");
    assert_eq!(mute_http.next(), None);
    assert!(begun.elapsed() >= Duration::from_millis(250), "closed after {:?}", begun.elapsed());
    assert_eq!(slow_http.next(), None);
    for mut ws in [mute_ws, unsure_ws] {
        assert_eq!(ws.close_code(), Some(4001));
    }
    for mut tcp in [mute_tcp, slow_tcp] {
        tcp.end();
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    let metrics = server.metrics();
    assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "handshake_timeout")]), 6);
    // Who is through, stays: also when nothing is said for longer than that.
    let mut ann = server.ws_as("ann");
    let mut relay = server.relay("x");
    let waited = Deadline::after(Duration::from_millis(700));
    until("a while to pass", || waited.left().is_none().then_some(()));
    ann.expect_silence();
    relay.settle("still here");
}

#[test]
fn refused_peers_get_their_answer_though_they_have_sent_a_lot() {
    // A close with bytes unread is a reset, which may overtake the answer.
    let server = Server::with(["--max-connections=1"]);
    let _inside = server.ws_as("ann");
    for _ in 0..20 {
        let response = crate::harness::http_raw(
            server.http(),
            format!("GET /ws HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(3_000)).as_bytes(),
        );
        assert_eq!(response.status, 503, "{:?}", response.head);
    }
}

#[test]
fn a_place_is_given_back_however_a_connection_ends() {
    let server = Server::with(["--max-connections=3"]);
    for round in 0..5 {
        let all = || until("a place to be free", || try_connect_ws(&Request::new(server.http(), "/ws?name=ann")).ok());
        let (mut closed, _) = all();
        closed.close();
        let (dropped, _) = all();
        drop(dropped);
        let mut broken = until("a place to be free", || TcpStream::connect(server.lines()).ok());
        let _ = broken.write_all(b"nonsense");
        drop(broken);
        http(server.http(), "GET", "/", &[]);
        let gone = format!("all to be gone in round {round}");
        server.metrics_until(&gone, |metrics| metrics.sum("hubbub_connections", &[]) == 0);
    }
    let three: Vec<_> = (0..3).map(|_| connect_ws(&Request::new(server.http(), "/ws?name=ann"))).collect();
    assert!(try_connect_ws(&Request::new(server.http(), "/ws?name=ann")).is_err());
    drop(three);
}
