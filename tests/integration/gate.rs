//! The door: how many connections an address has, how fast they come, and whom a proxy speaks for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::{DataDir, Deadline, Launch, RawWs, Server, http, run_to_end, until, upgrade_head};

const TOO_MANY: &str = "this address has as many connections as it may: close one first";
const TOO_FAST: &str = "this address opens connections too fast: try again in a second";
const ALL_TOO_FAST: &str = "too many connections are being opened: try again in a second";
const NO_PROXY: &str = "connections come through a proxy here; the operator may name more in trusted_proxies";
const NO_HEADER: &str = "the connection must begin with a PROXY header, as proxy_protocol says";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A connection from one of this machine's own addresses.
fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&format!("{source}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends bytes, finishes sending if that is asked for, and reads until the server closes.
fn ask(stream: &mut TcpStream, bytes: &[u8], finish: bool) -> String {
    // A server that refuses need not read.
    let _ = stream.write_all(bytes);
    if finish {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let deadline = Deadline::patient();
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        stream.set_read_timeout(Some(deadline.left().expect("the server closes"))).unwrap();
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8(answer).unwrap()
}

fn health(front: &[u8]) -> Vec<u8> {
    [front, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat()
}

fn greeting(front: &[u8]) -> Vec<u8> {
    [front, b"{\"type\":\"connect\",\"name\":\"ann\"}\n"].concat()
}

/// The status, the seconds of `Retry-After` and the text of a refusal over HTTP.
fn refused_over_http(answer: &str) -> (u16, Option<u64>, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    let after =
        head.lines().find_map(|line| line.strip_prefix("Retry-After: ")).map(|seconds| seconds.parse().unwrap());
    (status, after, body.trim_end())
}

/// The code, the text, and whether it is for now only, of a refusal over TCP.
fn refused_over_tcp(answer: &str) -> (String, String, bool) {
    let line: Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("{answer:?}"));
    assert_eq!(line["type"], "error");
    let text = |name: &str| line[name].as_str().unwrap().to_owned();
    (text("code"), text("message"), line["temporary"].as_bool().unwrap())
}

fn is_http_answer(answer: &str, status: u16) -> bool {
    answer.starts_with(&format!("HTTP/1.1 {status} "))
}

/// A chat connection over WebSocket that is kept, and the status of its upgrade.
fn upgrade(stream: TcpStream, front: &[u8], headers: &str) -> (TcpStream, u16) {
    let mut stream = stream;
    let head = upgrade_head("localhost", "/ws?name=held");
    let head = format!("{}{headers}\r\n", head.strip_suffix("\r\n").unwrap());
    stream.write_all(&[front, head.as_bytes()].concat()).unwrap();
    stream.set_read_timeout(Deadline::patient().left()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    (stream, std::str::from_utf8(&status[9..]).unwrap().parse().unwrap())
}

fn v2(source: [u8; 4], fields: &[u8]) -> Vec<u8> {
    let len = (12 + fields.len() as u16).to_be_bytes();
    [SIGNATURE, &[0x21, 0x11], &len, &source, &[192, 0, 2, 200, 0x30, 0x39, 0x23, 0x28], fields].concat()
}

#[test]
fn an_address_with_too_many_connections_is_told_to_close_one() {
    for shards in ["--shards=1", "--shards=2"] {
        let server = Server::with([shards, "--limits-connections-per-ip=2"]);
        let ann = server.ws_as("ann");
        let mut bob = server.tcp_as("bob");
        let response = http(server.http(), "GET", "/", &[]);
        assert_eq!((response.status, response.text().trim_end()), (503, TOO_MANY));
        assert_eq!(response.header("Retry-After"), Some("5"));
        let (_, status) = upgrade(from("127.0.0.1", server.http()), b"", "");
        assert_eq!(status, 503);
        let line = ask(&mut from("127.0.0.1", server.lines()), &greeting(b""), true);
        assert_eq!(refused_over_tcp(&line), ("overloaded".into(), TOO_MANY.into(), true));
        let metrics = server.metrics();
        assert_eq!(metrics.sum("hubbub_refused_total", &[("reason", "connections_per_ip")]), 3);
        // Another address is none of its business, and who is inside notices nothing.
        assert!(is_http_answer(&ask(&mut from("127.0.0.2", server.http()), &health(b""), false), 200));
        bob.fence();
        drop(ann);
        until("a place to be free", || {
            is_http_answer(&ask(&mut from("127.0.0.1", server.http()), &health(b""), false), 200).then_some(())
        });
    }
}

#[test]
fn an_address_that_comes_too_fast_is_told_to_wait() {
    let server = Server::with(["--limits-connects-per-second-per-ip=1"]);
    let answer = until("a refusal over HTTP", || {
        let answer = ask(&mut from("127.0.0.3", server.http()), &health(b""), false);
        (!is_http_answer(&answer, 200)).then_some(answer)
    });
    assert_eq!(refused_over_http(&answer), (429, Some(1), TOO_FAST));
    let line = until("a refusal over TCP", || {
        let line = ask(&mut from("127.0.0.4", server.lines()), &greeting(b""), true);
        line.contains("\"error\"").then_some(line)
    });
    assert_eq!(refused_over_tcp(&line), ("rate_limited".into(), TOO_FAST.into(), true));
    assert!(is_http_answer(&ask(&mut from("127.0.0.5", server.http()), &health(b""), false), 200));
    assert!(server.metrics().sum("hubbub_refused_total", &[("reason", "connects_per_second_per_ip")]) >= 2);
    until("its time to come", || {
        is_http_answer(&ask(&mut from("127.0.0.3", server.http()), &health(b""), false), 200).then_some(())
    });
}

#[test]
fn connections_of_all_together_come_no_faster_than_they_may() {
    let server = Server::with(["--limits-connects-per-second=1"]);
    let answer = until("a refusal over HTTP", || {
        let answer = ask(&mut from("127.0.0.3", server.http()), &health(b""), false);
        (!is_http_answer(&answer, 200)).then_some(answer)
    });
    assert_eq!(refused_over_http(&answer), (429, Some(1), ALL_TOO_FAST));
    let line = until("a refusal over TCP", || {
        let line = ask(&mut from("127.0.0.4", server.lines()), &greeting(b""), true);
        line.contains("\"error\"").then_some(line)
    });
    assert_eq!(refused_over_tcp(&line), ("rate_limited".into(), ALL_TOO_FAST.into(), true));
    assert!(server.metrics().sum("hubbub_refused_total", &[("reason", "connects_per_second")]) >= 2);
}

#[test]
fn a_user_with_too_many_connections_is_told_to_close_one() {
    for shards in ["--shards=1", "--shards=2"] {
        let server = Server::with([shards, "--limits-connections-per-user=2"]);
        let (ws, mut tcp) = (server.ws_as("ann"), server.tcp_as("ann"));
        let text = "this user has 2 connections: close one first";
        let mut third = server.ws();
        let error = third.refused(json!({"type": "connect", "name": "ann"}), "overloaded");
        assert_eq!((&error["message"], &error["temporary"]), (&json!(text), &json!(true)));
        assert_eq!(third.end().1, Some((4003, "too many connections".into())));
        let mut third = server.tcp();
        let error = third.refused(json!({"type": "connect", "name": "ann"}), "overloaded");
        assert_eq!((&error["message"], &error["temporary"]), (&json!(text), &json!(true)));
        third.end();
        assert_eq!(server.metrics().sum("hubbub_refused_total", &[("reason", "connections_per_user")]), 2);
        // Others come in, and who is inside notices nothing.
        server.ws_as("bob").fence();
        tcp.fence();
        drop(ws);
        until("a place to be free", || {
            let mut again = server.ws();
            again.send(&json!({"type": "connect", "name": "ann"}));
            (again.next().kind() == "welcome").then_some(())
        });
    }
}

#[test]
fn a_user_at_the_limit_may_replace_a_connection_that_is_not_known_to_be_dead() {
    for shards in ["--shards=1", "--shards=2"] {
        let server = Server::with([shards, "--limits-connections-per-user=1"]);
        let (mut older, mut newer) = (server.ws(), server.ws());
        let session = older.connect_as("ann")["session"].clone();
        let connect =
            |session: &Value| json!({"type": "connect", "name": "ann", "resume": {"session": session, "rooms": {}}});
        let mut third = server.ws();
        third.refused(json!({"type": "connect", "name": "ann"}), "overloaded");
        let welcome = newer.ask(connect(&session));
        assert_eq!((welcome.kind(), &welcome["resumed"]), ("welcome", &json!(true)), "{}", welcome.text);
        assert_eq!(older.close_code(), Some(4501));
        // A session that is not there is a place more all the same, but only one.
        let mut fourth = server.tcp();
        assert_eq!(fourth.ask(connect(&session))["resumed"], false);
        server.ws().refused(connect(&session), "overloaded");
        newer.fence();
        fourth.fence();
    }
}

#[test]
fn a_trusted_proxy_names_its_client_and_nobody_else_does() {
    let server = Server::with(["--trusted-proxies=127.0.0.1,10.0.0.0/8", "--limits-connections-per-ip=1"]);
    let through = |source: &str, named: &str| upgrade(from(source, server.http()), b"", named);
    let (held, status) = through("127.0.0.1", "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(status, 101);
    let same = [
        "X-Forwarded-For: 192.0.2.1\r\n",
        "X-Forwarded-For: 203.0.113.5, 192.0.2.1, 10.0.0.9\r\n",
        "X-Forwarded-For: 192.0.2.1:4711\r\nForwarded: for=203.0.113.5\r\n",
    ];
    for named in same {
        assert_eq!(through("127.0.0.1", named).1, 503, "{named}");
    }
    let (_other, status) = through("127.0.0.1", "X-Forwarded-For: 192.0.2.2\r\n");
    assert_eq!(status, 101);
    // Whoever is no proxy counts under their own address, whatever they say.
    let (_itself, status) = through("127.0.0.2", "X-Forwarded-For: 192.0.2.3\r\n");
    assert_eq!(status, 101);
    assert_eq!(through("127.0.0.2", "X-Forwarded-For: 192.0.2.4\r\n").1, 503);
    drop(held);
    until("the place to be free", || (through("127.0.0.1", same[0]).1 == 101).then_some(()));
}

#[test]
fn the_standard_header_is_believed_where_it_is_chosen() {
    let server =
        Server::with(["--trusted-proxies=127.0.0.1", "--limits-connections-per-ip=1", "--proxy-header=forwarded"]);
    let through = |named: &str| upgrade(from("127.0.0.1", server.http()), b"", named);
    let (_held, status) = through("Forwarded: for=192.0.2.1;proto=https\r\n");
    assert_eq!(status, 101);
    assert_eq!(through("Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.9\r\n").1, 503);
}

#[test]
fn a_proxy_header_names_the_client_on_both_ports() {
    let server = Server::with(["--trusted-proxies=127.0.0.1", "--proxy-protocol", "--limits-connections-per-ip=1"]);
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.200 56324 443\r\n".as_slice();
    let (held, status) = upgrade(from("127.0.0.1", server.http()), v1, "");
    assert_eq!(status, 101);
    // The same client in another spelling, and on the other port.
    let answer = ask(&mut from("127.0.0.1", server.http()), &health(&v2([192, 0, 2, 1], b"")), false);
    assert_eq!(refused_over_http(&answer), (503, Some(5), TOO_MANY));
    let line = ask(&mut from("127.0.0.1", server.lines()), &greeting(v1), true);
    assert_eq!(refused_over_tcp(&line), ("overloaded".into(), TOO_MANY.into(), true));
    // Other clients of the same proxy come in, however the bytes are cut.
    for front in [&v2([192, 0, 2, 2], b"\x04\x00\x02xx"), b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".as_slice()] {
        assert!(is_http_answer(&ask(&mut from("127.0.0.1", server.http()), &health(front), false), 200));
        let mut stream = from("127.0.0.1", server.lines());
        let bytes = greeting(front);
        let (last, before) = bytes.split_last().unwrap();
        before.iter().for_each(|byte| stream.write_all(&[*byte]).unwrap());
        assert!(ask(&mut stream, &[*last], true).starts_with("{\"type\":\"welcome\""));
    }
    // A proxy that looks whether the server is well counts itself.
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    assert!(is_http_answer(&ask(&mut from("127.0.0.1", server.http()), &health(&local), false), 200));
    drop(held);
    until("the place to be free", || {
        is_http_answer(&ask(&mut from("127.0.0.1", server.http()), &health(v1), false), 200).then_some(())
    });
}

#[test]
fn what_does_not_begin_with_a_proxy_header_is_refused() {
    let server = Server::with(["--trusted-proxies=127.0.0.1", "--proxy-protocol"]);
    let too_long = [SIGNATURE, &[0x21, 0x11, 0x04, 0x00]].concat();
    let wrong_sum = v2([192, 0, 2, 1], b"\x03\x00\x04\0\0\0\0");
    let fronts: [&[u8]; 6] = [
        b"",
        b"PROXY NONSENSE\r\n",
        b"PROXY TCP4 x y 1 2\r\n",
        &[b"PROXY ", [b'x'; 200].as_slice()].concat(),
        &too_long,
        &wrong_sum,
    ];
    for front in fronts {
        let answer = ask(&mut from("127.0.0.1", server.http()), &health(front), false);
        assert_eq!(refused_over_http(&answer), (400, None, NO_HEADER), "{front:?}");
        let line = ask(&mut from("127.0.0.1", server.lines()), &greeting(front), true);
        assert_eq!(refused_over_tcp(&line), ("bad_request".into(), NO_HEADER.into(), false), "{front:?}");
    }
    assert_eq!(server.metrics().sum("hubbub_refused_total", &[("reason", "proxy_header")]), 12);
    // Who is no trusted proxy is not even read.
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.200 1 2\r\n";
    let answer = ask(&mut from("127.0.0.2", server.http()), &health(v1), false);
    assert_eq!(refused_over_http(&answer), (403, None, NO_PROXY));
    let line = ask(&mut from("127.0.0.2", server.lines()), &greeting(v1), true);
    assert_eq!(refused_over_tcp(&line), ("forbidden".into(), NO_PROXY.into(), false));
    assert_eq!(server.metrics().sum("hubbub_refused_total", &[("reason", "not_a_proxy")]), 2);
}

#[test]
fn a_proxy_header_that_does_not_come_is_not_waited_for_for_ever() {
    let server = Server::with(["--trusted-proxies=127.0.0.1", "--proxy-protocol", "--limits-handshake-timeout=200ms"]);
    for address in [server.http(), server.lines()] {
        let begun = Deadline::patient();
        assert_eq!(ask(&mut from("127.0.0.1", address), b"PROXY TC", false), "");
        assert!(begun.elapsed() >= Duration::from_millis(150), "closed after {:?}", begun.elapsed());
    }
    assert_eq!(server.metrics().sum("hubbub_closed_total", &[("reason", "handshake_timeout")]), 2);
}

#[test]
fn without_proxies_a_header_is_no_request() {
    let server = Server::start();
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.200 1 2\r\n";
    assert!(is_http_answer(&ask(&mut from("127.0.0.1", server.http()), &health(v1), false), 400));
    assert_eq!(ask(&mut from("127.0.0.1", server.lines()), &greeting(v1), true), "");
}

#[test]
fn limits_change_while_the_server_runs() {
    let folder = DataDir::new();
    let file = folder.path().join("hubbub.toml");
    std::fs::write(&file, "").unwrap();
    let server = Launch::new().arguments([&format!("--config={}", file.display())]).start();
    let _held: Vec<RawWs> = (0..3).map(|n| server.raw_ws(&format!("/ws?name=user-{n}"))).collect();
    std::fs::write(&file, "[limits]\nconnections_per_ip = 1\n").unwrap();
    server.signal(Signal::HUP);
    // Who came before the limit is not counted; who comes now is.
    let mut inside = Vec::new();
    until("a refusal", || {
        let (stream, status) = upgrade(from("127.0.0.1", server.http()), b"", "");
        inside.push(stream);
        (status == 503).then_some(())
    });
    std::fs::write(&file, "").unwrap();
    server.signal(Signal::HUP);
    until("the limit to be gone", || (upgrade(from("127.0.0.1", server.http()), b"", "").1 == 101).then_some(()));
}

#[test]
fn a_proxy_protocol_without_proxies_ends_the_start() {
    let output = run_to_end(&["check-config", "--proxy-protocol"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("(--proxy-protocol): no proxy is trusted, so nobody could connect"), "{said}");
    let output = run_to_end(&["check-config", "--trusted-proxies=10.0.0.1/8"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("write IP or IP/BITS"), "{said}");
}
