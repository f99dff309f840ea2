//! The first byte picks how much more comes at a time. Each prefix must answer as the whole, or ask for more.

use std::net::{IpAddr, Ipv4Addr};

use hubbub::codec::forwarded::{self, ProxyHeader};
use hubbub::codec::http;
use hubbub::codec::websocket::handshake::{self, SUBPROTOCOL_JSON, Upgrade};

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((step, bytes)) = data.split_first() else {
        return;
    };
    let step = usize::from(*step).max(1);
    let whole = http::parse(bytes);
    let response = handshake::read_response(bytes, [7; 16], Some(SUBPROTOCOL_JSON));
    for end in (0..bytes.len()).step_by(step) {
        match http::parse(&bytes[..end]) {
            Ok(None) => {}
            answer => assert_eq!(answer, whole),
        }
        match handshake::read_response(&bytes[..end], [7; 16], Some(SUBPROTOCOL_JSON)) {
            Ok(None) => {}
            answer => assert_eq!(answer, response),
        }
    }
    let mut out = Vec::new();
    match whole {
        Ok(None) => {}
        Ok(Some((request, len))) => {
            assert!(len <= bytes.len());
            assert!(request.path.starts_with('/'));
            for segment in request.path.split('/') {
                let _ = http::decode_segment(segment);
            }
            for pair in request.query_pairs() {
                let _ = pair;
            }
            for header in [ProxyHeader::XForwardedFor, ProxyHeader::Forwarded] {
                let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
                let client = forwarded::client(&request, header, peer, |address| address.is_loopback());
                assert!(client == peer || request.header("Forwarded").or(request.header("X-Forwarded-For")).is_some());
            }
            appended(request.header("Forwarded").unwrap_or(""), request.host);
            let _ = http::is_loopback_host(request.host);
            let _ = http::origin_matches_host(request.header("Origin").unwrap_or(""), request.host);
            match Upgrade::negotiate(&request, Some(SUBPROTOCOL_JSON)) {
                Ok(upgrade) => upgrade.write(&mut out),
                Err(error) => error.write(false, &mut out),
            }
        }
        Err(error) => error.write(false, &mut out),
    }
    assert!(out.is_empty() || out.starts_with(b"HTTP/1.1 "));
}

/// Whatever a client wrote, and whatever its Host is, the address that a proxy appended is the client's.
fn appended(before: &str, host: &str) {
    let host = host.replace('\\', "\\\\").replace('"', "\\\"");
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nForwarded: {before}, host=\"{host}\";for=192.0.2.1\r\n\r\n");
    // Longer than the other, it may be too long.
    if let Ok(Some((request, _))) = http::parse(head.as_bytes()) {
        let client = forwarded::client(&request, ProxyHeader::Forwarded, IpAddr::V4(Ipv4Addr::LOCALHOST), |_| false);
        assert_eq!(client, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    }
}
