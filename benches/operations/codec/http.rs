//! `codec/http` and `codec/websocket/handshake`: how a connection begins.

use std::hint::black_box;

use hubbub::codec::http;
use hubbub::codec::websocket::handshake::Upgrade;

use super::super::{Operation, Work, fold_bytes};

/// As browsers send it.
const UPGRADE: &[u8] = b"GET /ws?room=lobby&name=ann HTTP/1.1\r\nHost: chat.example.org\r\nConnection: Upgrade\r\n\
Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, \
like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: https://chat.example.org\r\n\
Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate; \
client_max_window_bits\r\nSec-WebSocket-Protocol: hubbub.v1.json\r\n\r\n";

pub(super) fn operations() -> Vec<Operation> {
    let parse = || || http::parse(black_box(UPGRADE)).ok().flatten().map_or(0, |(_, len)| len as u64);
    let upgrade = || {
        let mut out = Vec::with_capacity(1_024);
        move || {
            let (request, _) = http::parse(black_box(UPGRADE)).expect("good").expect("whole");
            let upgrade = Upgrade::negotiate(&request, Some("hubbub.v1.json")).expect("an upgrade");
            out.clear();
            upgrade.write(&mut out);
            fold_bytes(&out)
        }
    };
    let query = || {
        || {
            let (request, _) = http::parse(black_box(UPGRADE)).expect("good").expect("whole");
            request.query_pairs().flatten().map(|(name, value)| (name.len() * 100 + value.len()) as u64).sum()
        }
    };
    let half = || || u64::from(http::parse(black_box(&UPGRADE[..UPGRADE.len() / 2])).is_ok_and(|head| head.is_none()));
    vec![
        Operation::new("codec/http", "parse an upgrade request", Work::Elements(1), parse),
        Operation::new("codec/http", "parse half a request", Work::Elements(1), half),
        Operation::new("codec/http", "parse a request and its query", Work::Elements(1), query),
        Operation::new("codec/websocket/handshake", "request to response", Work::Elements(1), upgrade),
    ]
}
