//! TLS on both ports: versions, protocols, resumption, ends, and those who do not play by the rules.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustix::process::Signal;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use serde_json::json;

use crate::harness::{Certificate, Client, Launch, Server, VERSIONS, http_raw, until};

fn handshakes(server: &Server, outcome: &str) -> u64 {
    server.metrics().sum("hubbub_tls_handshakes_total", &[("outcome", outcome)])
}

/// One client of each transport.
fn pair(certificate: &Certificate, server: &Server) -> [Client; 2] {
    let client = certificate.any_client();
    [client.ws(server), client.tcp(server)]
}

/// All that comes on a raw socket until its end.
fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection did not end: {error}"),
    }
    bytes
}

#[test]
fn people_talk_over_both_ports_in_both_versions() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    for version in VERSIONS {
        let client = certificate.client(&[version], &[]);
        let (mut ann, mut bob) = (client.ws(&server), client.tcp(&server));
        ann.connect_as("ann");
        bob.connect_as("bob");
        ann.join("room");
        bob.join("room");
        ann.say("room", "hello");
        assert_eq!(bob.expect("message")["content"], "hello");
        bob.say_and_wait("room", "hi");
        ann.expect("message");
        assert_eq!(ann.expect("message")["content"], "hi");
        assert_eq!(bob.expect("message")["content"], "hi");
        for mut client in [ann, bob] {
            client.close();
            assert_eq!(client.end().0, []);
        }
    }
    // A ticket that has come by then saves the second one its full handshake.
    assert_eq!(handshakes(&server, "full") + handshakes(&server, "resumed"), 4);
    server.metrics_until("their ends", |metrics| metrics.sum("hubbub_closed_total", &[("reason", "normal")]) == 4);
    server.stop();
}

#[test]
fn large_messages_and_many_small_ones_arrive_in_order() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    let [mut ann, mut bob] = pair(&certificate, &server);
    ann.connect_as("ann");
    bob.connect_as("bob");
    for client in [&mut ann, &mut bob] {
        client.join("room");
    }
    let large = "x".repeat(60_000);
    for (n, name) in [(0, "ann"), (1, "bob")] {
        let sender = if n == 0 { &mut ann } else { &mut bob };
        for _ in 0..5 {
            sender.say("room", large.as_str());
        }
        for n in 0..1_000 {
            sender.say("room", n);
        }
        for client in [&mut ann, &mut bob] {
            for _ in 0..5 {
                let message = client.expect("message");
                assert_eq!((message["content"].as_str(), message["sender"].as_str()), (Some(&*large), Some(name)));
            }
            for n in 0..1_000 {
                assert_eq!(client.expect("message")["content"], n);
            }
        }
    }
}

#[test]
fn what_is_spoken_is_agreed_on() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    let agreed = |address, protocols: &[&str]| {
        let stream = certificate.client(&VERSIONS, protocols).connect(address)?;
        Ok::<_, std::io::Error>(stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    assert_eq!(agreed(server.http(), &["h2", "http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(agreed(server.http(), &[]).unwrap(), None);
    assert_eq!(agreed(server.lines(), &["hubbub.v1.json"]).unwrap().as_deref(), Some("hubbub.v1.json"));
    assert_eq!(agreed(server.lines(), &[]).unwrap(), None);
    // A browser that is lured to the port of lines does not get to say a word.
    for (address, protocol) in [(server.http(), "h2"), (server.lines(), "http/1.1")] {
        let refused = agreed(address, &[protocol]).unwrap_err().to_string();
        assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    }
    assert_eq!(handshakes(&server, "failed"), 2);
}

#[test]
fn a_client_that_was_there_before_resumes_also_after_a_renewal() {
    let mut certificate = Certificate::new();
    let server = certificate.serve(Launch::new().arguments(["--shards=2"]));
    for version in VERSIONS {
        let client = certificate.client(&[version], &[]);
        let kind = |address: SocketAddr, request: &[u8]| {
            let mut stream = client.connect(address).unwrap();
            stream.write_all(request).unwrap();
            // A ticket of TLS 1.3 comes with the first answer.
            assert!(stream.read(&mut [0; 1_000]).unwrap() > 0);
            stream.conn.handshake_kind()
        };
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(kind(server.http(), request), Some(HandshakeKind::Full));
        assert_eq!(kind(server.http(), request), Some(HandshakeKind::Resumed));
        certificate.renew();
        server.signal(Signal::HUP);
        let fresh = certificate.any_client();
        until("the new certificate", || fresh.connect(server.http()).ok());
        assert_eq!(kind(server.http(), request), Some(HandshakeKind::Resumed), "the ticket outlives the certificate");
    }
    assert_eq!(handshakes(&server, "resumed"), 4);
}

#[test]
fn a_renewed_certificate_is_for_new_connections_and_nobody_is_dropped() {
    let mut certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    let before = certificate.any_client();
    let [mut ann, mut bob] = [before.ws(&server), before.tcp(&server)];
    ann.connect_as("ann");
    bob.connect_as("bob");
    for client in [&mut ann, &mut bob] {
        client.join("room");
    }
    // One that has begun its handshake ends it as it began.
    let mut begun = before.begin(server.lines());
    begun.conn.write_tls(&mut begun.sock).unwrap();
    assert!(begun.conn.read_tls(&mut begun.sock).unwrap() > 0, "the server has answered");
    certificate.renew();
    server.signal(Signal::HUP);
    let after = certificate.any_client();
    until("the new certificate on both ports", || {
        let both = [server.http(), server.lines()].map(|address| after.connect(address));
        both.iter().all(Result::is_ok).then_some(())
    });
    assert!(certificate_is_refused(&before, server.http()), "it is the old one that the first client trusts");
    begun.conn.process_new_packets().unwrap();
    begun.write_all(b"{\"type\":\"connect\",\"name\":\"eve\"}\n").unwrap();
    let mut answer = [0; 20];
    begun.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"{\"type\":\"welcome\""));
    ann.say_and_wait("room", "still here");
    assert_eq!(bob.expect("message")["content"], "still here");
    bob.expect_silence();
}

fn certificate_is_refused(client: &crate::harness::TlsClient, address: SocketAddr) -> bool {
    let fresh = client.without_tickets();
    fresh.connect(address).is_err_and(|error| error.to_string().contains("invalid peer certificate"))
}

#[test]
fn a_bad_certificate_changes_nothing() {
    let certificate = Certificate::new();
    let mut server = certificate.serve(Launch::new());
    let good = fs::read(certificate.file()).unwrap();
    fs::write(certificate.file(), "").unwrap();
    server.signal(Signal::HUP);
    until("the complaint", || server.stderr().contains("holds no certificate").then_some(()));
    assert!(server.stderr().contains("nothing has changed"));
    certificate.any_client().connect(server.http()).unwrap();
    fs::write(certificate.file(), good).unwrap();
}

#[test]
fn what_cannot_be_served_is_refused_at_the_start_with_the_remedy() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let file = format!("--tls-certificate-file={}", certificate.file().display());
    let key = format!("--tls-key-file={}", other.key_file().display());
    let absent = "--tls-key-file=/nowhere/key.pem";
    let cases: [(&[&str], &str, &str); 3] = [
        (&[&file], "tls.key_file", "or leave out both"),
        (&[&file, &key], "tls.key_file", "is not that of the certificate"),
        (&[&file, absent], "tls.key_file", "may read"),
    ];
    for (arguments, setting, remedy) in cases {
        let mut launch = Launch::new();
        for argument in arguments {
            launch = launch.arguments([*argument]);
        }
        let (status, said) = launch.try_start().expect_err("it cannot serve");
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(setting) && said.contains(remedy), "{said}");
    }
}

#[test]
fn a_half_close_is_answered_in_full_and_both_say_goodbye() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    for version in VERSIONS {
        let mut stream = certificate.client(&[version], &[]).connect(server.lines()).unwrap();
        let mut text = String::from(
            "{\"type\":\"connect\",\"name\":\"ann\",\"id\":1}\n{\"type\":\"join\",\"room\":\"a\",\"id\":2}\n",
        );
        for id in 3..=100 {
            text += &format!("{{\"type\":\"message\",\"room\":\"a\",\"content\":1,\"echo\":false,\"id\":{id}}}\n");
        }
        // The last line ends with the stream, which says so: it is whole.
        stream.write_all(text.trim_end().as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).expect("the end is said, not cut");
        assert_eq!(answers.lines().filter(|line| line.contains("\"id\"")).count(), 100, "{answers}");
        assert!(answers.lines().last().unwrap().contains("\"id\":100"));
    }
}

#[test]
fn a_stream_that_is_cut_ends_in_no_command() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    let mut witness = certificate.any_client().tcp(&server);
    witness.connect_as("witness");
    witness.join("a");
    let mut stream = certificate.any_client().connect(server.lines()).unwrap();
    let said = "{\"type\":\"connect\",\"name\":\"ann\",\"id\":1}\n{\"type\":\"join\",\"room\":\"a\",\"id\":2}\n\
                {\"type\":\"message\",\"room\":\"a\",\"content\":\"whole\",\"id\":3}\n\
                {\"type\":\"message\",\"room\":\"a\",\"content\":\"cut\",\"id\":4}";
    stream.write_all(said.as_bytes()).unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert!(answers.contains("\"id\":3") && !answers.contains("\"id\":4"), "{answers}");
    assert_eq!(witness.expect("message")["content"], "whole");
    assert_eq!(witness.fence_room("a"), []);
}

#[test]
fn websocket_and_web_page_end_with_a_goodbye_too() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    let mut stream = certificate.any_client().connect(server.http()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("the end is said, not cut");
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<html"), "{page}");
    let mut stream = certificate.any_client().connect(server.http()).unwrap();
    stream.write_all(crate::harness::upgrade_head("localhost", "/ws?name=ann").as_bytes()).unwrap();
    // A close frame with 1000, masked with zeros.
    stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("the end is said, not cut");
    assert!(all.ends_with(&[0x88, 0x02, 0x03, 0xe8]), "{all:?}");
}

#[test]
fn a_proxy_says_whom_it_brings_before_tls_begins() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new().arguments(["--proxy-protocol=true", "--trusted-proxies=127.0.0.1"]));
    // LOCAL: the proxy itself connects, and names nobody.
    let header = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for address in [server.http(), server.lines()] {
        let mut stream = certificate.any_client().begin(address);
        stream.sock.write_all(header).unwrap();
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let line = "{\"type\":\"connect\",\"name\":\"ann\"}\n";
        stream.write_all(if address == server.http() { request } else { line }.as_bytes()).unwrap();
        let mut answer = [0; 17];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 ") || answer.starts_with(b"{\"type\":\"welcome"), "{answer:?}");
    }
}

#[test]
fn who_speaks_in_the_clear_is_told_to_speak_tls() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    let response = http_raw(server.http(), b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(response.status, 400);
    assert!(response.text().contains("this port speaks TLS: use https:// or wss://"), "{response:?}");
    let mut tcp = server.tcp();
    tcp.send(&json!({"type": "connect", "name": "ann", "id": 1}));
    let (events, _) = tcp.end();
    let said: Vec<_> = events.iter().map(|event| (event["code"].as_str(), event["message"].as_str())).collect();
    assert_eq!(said, [(Some("bad_request"), Some("this port speaks TLS: connect with TLS, as openssl s_client does"))]);
    assert_eq!(handshakes(&server, "plaintext"), 2);
}

#[test]
fn garbage_gets_an_alert_and_the_end() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    for (n, address) in [(1, server.http()), (2, server.lines())] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"\x99 and more of it").unwrap();
        let answer = read_all(&mut stream);
        assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
        // And in the middle of a session.
        let mut stream = certificate.any_client().connect(address).unwrap();
        until("the end of the handshake", || (handshakes(&server, "full") == n).then_some(()));
        stream.sock.write_all(b"\x17\x03\x03\x00\x20 this was not sealed by anyone...").unwrap();
        let error = stream.read(&mut [0; 1_000]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("BadRecordMac"), "{error}");
        let _ = read_all(&mut stream.sock);
    }
    assert_eq!(handshakes(&server, "failed"), 2);
    assert_eq!(handshakes(&server, "full"), 2);
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new().arguments(["--limits-handshake-timeout=300ms"]));
    for address in [server.http(), server.lines()] {
        // Nothing at all, a part of the first message, and all but the last one.
        let mut silent = TcpStream::connect(address).unwrap();
        let mut partial = TcpStream::connect(address).unwrap();
        partial.write_all(b"\x16\x03\x01\x02\x00\x01\x00").unwrap();
        let mut begun = certificate.any_client().begin(address);
        begun.conn.write_tls(&mut begun.sock).unwrap();
        assert_eq!(read_all(&mut silent), b"");
        assert_eq!(read_all(&mut partial), b"");
        assert!(!read_all(&mut begun.sock).is_empty());
    }
    assert_eq!(handshakes(&server, "timeout"), 6);
    assert_eq!(server.metrics().sum("hubbub_closed_total", &[("reason", "handshake_timeout")]), 6);
}

#[test]
fn who_goes_away_in_the_middle_of_a_handshake_leaves_nothing() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new());
    for address in [server.http(), server.lines()] {
        for _ in 0..20 {
            let mut begun = certificate.any_client().begin(address);
            begun.conn.write_tls(&mut begun.sock).unwrap();
        }
    }
    // One that says so in the clear, which anyone could have put in, is not believed until it is gone.
    for address in [server.http(), server.lines()] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"\x15\x03\x03\x00\x02\x01\x00").unwrap();
    }
    server.metrics_until("all are gone", |metrics| {
        metrics.sum("hubbub_connections", &[]) == 0
            && metrics.sum("hubbub_tls_handshakes_total", &[("outcome", "gone")]) == 42
    });
    let [mut ann, mut bob] = pair(&certificate, &server);
    ann.connect_as("ann");
    bob.connect_as("bob");
}

#[test]
fn a_storm_of_handshakes_is_served_to_the_last() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new().arguments(["--tls-handshake-budget=0s"]));
    let client = certificate.client(&[&TLS13], &[]);
    let mut streams: Vec<_> = (0..100).map(|n| client.begin([server.http(), server.lines()][n % 2])).collect();
    for stream in &mut streams {
        stream.conn.write_tls(&mut stream.sock).unwrap();
    }
    for stream in &mut streams {
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
    }
    server.metrics_until("all handshakes", |metrics| {
        metrics.sum("hubbub_tls_handshakes_total", &[("outcome", "full")]) == 100
    });
    assert_eq!(server.metrics().sum("hubbub_tls_handshake_queue", &[]), 0);
}

#[test]
fn who_does_not_read_is_a_slow_consumer_here_too() {
    let certificate = Certificate::new();
    let server = certificate.serve(Launch::new().arguments(["--history=off"]));
    let client = certificate.client(&[&TLS12], &[]);
    let [mut slow, mut ann] = [client.tcp(&server), client.tcp(&server)];
    slow.connect_as("slow");
    slow.join("room");
    ann.connect_as("ann");
    ann.join("room");
    let large = "x".repeat(60_000);
    until("the end of the slow one", || {
        ann.say_and_wait("room", large.as_str());
        ann.fence();
        let closed = server.metrics().sum("hubbub_closed_total", &[("reason", "slow_consumer")]);
        (closed == 1).then_some(())
    });
    assert_eq!(ann.ok(json!({"type": "join", "room": "other"}))["members"], 1);
}
