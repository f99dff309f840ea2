//! The HTTP side of the data port: the web client, health, and requests of every malformed kind.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{Deadline, Request, Server, connect_ws, http, http_raw, try_connect_ws};

#[test]
fn the_web_client_and_all_it_refers_to_is_served() {
    let server = Server::start();
    let page = http(server.http(), "GET", "/", &[]);
    assert_eq!(page.status, 200, "{}", page.head);
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    assert!(page.header("Content-Security-Policy").is_some_and(|policy| policy.contains("default-src 'self'")));
    assert_eq!(page.header("Content-Length"), Some(page.body.len().to_string().as_str()));
    assert_eq!(page.header("X-Content-Type-Options"), Some("nosniff"));
    let text = page.text();
    let links: Vec<&str> = ["href=\"/", "src=\"/"]
        .iter()
        .flat_map(|before| text.split(before).skip(1).filter_map(|rest| rest.split('"').next()))
        .collect();
    assert!(links.iter().any(|link| link.ends_with(".js")) && links.len() >= 2, "{links:?}");
    for link in links {
        let asset = http(server.http(), "GET", &format!("/{link}"), &[]);
        assert!(asset.status == 200 && !asset.body.is_empty(), "/{link}: {}", asset.head);
    }
}

#[test]
fn an_asset_is_sent_again_only_when_it_has_changed() {
    let server = Server::start();
    let page = http(server.http(), "GET", "/", &[]);
    let etag = page.header("ETag").unwrap();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    for known in [etag, &format!("\"other\", {etag}"), &format!("W/{etag}"), "*"] {
        let again = http(server.http(), "GET", "/", &[("If-None-Match", known)]);
        assert_eq!((again.status, again.body.len(), again.header("ETag")), (304, 0, Some(etag)), "{known}");
    }
    assert_eq!(http(server.http(), "GET", "/", &[("If-None-Match", "\"other\"")]).status, 200);
    let head = http(server.http(), "HEAD", "/", &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("Content-Length"), page.header("Content-Length"));
    assert_eq!(head.header("ETag"), Some(etag));
    assert_eq!(http(server.http(), "GET", "/?room=lobby", &[]).body, page.body, "a query is the page's own business");
}

#[test]
fn what_is_not_there_is_not_found() {
    let server = Server::start();
    for target in ["/nothing", "/ws/", "/relay", "/../Cargo.toml", "/%2e%2e/x", "/metrics", "/relay/a/b"] {
        let response = http(server.http(), "GET", target, &[]);
        assert_eq!(response.status, 404, "{target}: {}", response.head);
        assert_eq!(http(server.http(), "HEAD", target, &[]).body, b"", "{target}");
    }
    for target in ["/relay/", "/relay/%40bob", "/relay/%00", "/relay/%ff", "/relay/%2"] {
        assert_eq!(http(server.http(), "GET", target, &[]).status, 400, "{target}");
    }
    assert_eq!(http(server.http(), "GET", "/relay/x", &[]).status, 426);
    let health = http(server.http(), "GET", "/healthz", &[]);
    assert_eq!((health.status, health.text().trim()), (200, "ok"));
}

#[test]
fn other_methods_are_refused_with_those_that_are_served() {
    let server = Server::start();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "FETCH"] {
        for target in ["/", "/ws", "/healthz"] {
            let response = http(server.http(), method, target, &[]);
            assert_eq!((response.status, response.header("Allow")), (405, Some("GET, HEAD")), "{method} {target}");
        }
    }
}

#[test]
fn malformed_requests_get_the_status_that_fits() {
    let server = Server::start();
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(64));
    let long_line = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(9_000));
    let long_head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(9_000));
    let endless = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(9_000));
    let table = [
        ("no host", "GET / HTTP/1.1\r\n\r\n", 400),
        ("two hosts", "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("a body", "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 400),
        ("a chunked body", "GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("two lengths", "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
        ("an absolute target", "GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("an asterisk", "GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("HTTP/2", "GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 400),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("HTTP/0.9", "GET /\r\n", 400),
        ("JSON", "{\"type\":\"connect\",\"name\":\"ann\"}\n", 400),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n", 400),
        ("a folded header", "GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\n z\r\n\r\n", 400),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        ("a zero byte", "GET / HTTP/1.1\r\nHost: local\u{0}host\r\n\r\n", 400),
        ("too many headers", &many, 431),
        ("a request line that is too long", &long_line, 414),
        ("a head that is too long", &long_head, 431),
        ("a head without end", &endless, 431),
    ];
    for (what, text, status) in table {
        let response = http_raw(server.http(), text.as_bytes());
        assert_eq!(response.status, status, "{what}: {}", response.head);
        assert_eq!(response.header("Connection").map(|value| value.contains("close")), Some(true), "{what}");
    }
    server.metrics_until("all to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 0);
}

#[test]
fn a_head_may_come_in_any_pieces() {
    let server = Server::start();
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n";
    for piece in [1, 3, 40] {
        let mut stream = TcpStream::connect(server.http()).unwrap();
        stream.set_nodelay(true).unwrap();
        for part in request.chunks(piece) {
            stream.write_all(part).unwrap();
        }
        stream.set_read_timeout(Deadline::patient().left()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    }
}

#[test]
fn in_open_mode_the_host_must_be_loopback() {
    let server = Server::start();
    let port = server.http().port();
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9", &format!("127.0.0.1:{port}"), "[::1]:9000"] {
        assert_eq!(http(server.http(), "GET", "/", &[("Host", host)]).status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "128.0.0.1", "0.0.0.0", "127.0.0.1.evil.example"] {
        for target in ["/", "/ws", "/relay/x", "/client.js"] {
            let response = http(server.http(), "GET", target, &[("Host", host)]);
            assert_eq!(response.status, 403, "{host}{target}: {}", response.head);
            assert!(response.text().contains("--allow-anonymous"), "{}", response.text());
        }
        assert_eq!(http(server.http(), "GET", "/healthz", &[("Host", host)]).status, 200, "a probe may use any name");
        let request = Request::new(server.http(), "/ws?name=eve").header("Host", host);
        assert_eq!(try_connect_ws(&request).err().map(|(status, _)| status), Some(403));
    }
    let open = Server::with(["--allow-anonymous"]);
    assert_eq!(http(open.http(), "GET", "/", &[("Host", "chat.example")]).status, 200);
    let request = Request::new(open.http(), "/ws?name=ann").header("Host", "chat.example");
    connect_ws(&request).0.expect("welcome");
}

#[test]
fn pages_of_other_sites_may_not_connect() {
    let server = Server::with(["--allowed-origins=https://chat.example,app://hubbub"]);
    let host = server.http().to_string();
    let own = format!("http://{host}");
    let other_port = format!("http://{}:1", server.http().ip());
    for target in ["/ws", "/relay/x"] {
        let try_from = |origin: &str| {
            let request = Request::new(server.http(), target).header("Origin", origin);
            try_connect_ws(&request).err().map(|(status, _)| status)
        };
        for origin in [own.as_str(), "https://chat.example", "app://hubbub"] {
            assert_eq!(try_from(origin), None, "{origin} {target}");
        }
        let others = ["https://evil.example", "null", "https://chat.example.evil", "https://chat.example:8443", ""];
        for origin in others.into_iter().chain([other_port.as_str()]) {
            assert_eq!(try_from(origin), Some(403), "{origin:?} {target}");
        }
    }
    // A page may always be looked at.
    assert_eq!(http(server.http(), "GET", "/", &[("Origin", "https://evil.example")]).status, 200);
}
