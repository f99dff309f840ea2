//! WebSocket by RFC 6455, and what happens to those who break it.

use serde_json::{Value, json};

use crate::harness::{Frame, RawWs, Request, Server, connect_ws, http_raw, masked_frame, try_connect_ws, upgrade_head};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

fn event(frame: &Frame) -> Value {
    assert_eq!(frame.first, TEXT, "the chat sends whole text messages");
    serde_json::from_str(frame.text()).unwrap()
}

#[test]
fn the_subprotocol_is_negotiated() {
    let server = Server::start();
    let ask = |protocols: Option<&str>| {
        let request = Request::new(server.http(), "/ws");
        match protocols {
            Some(protocols) => request.header("Sec-WebSocket-Protocol", protocols),
            None => request,
        }
    };
    let (mut client, response) = connect_ws(&ask(Some("hubbub.v1.json")));
    assert_eq!(response.headers()["sec-websocket-protocol"], "hubbub.v1.json");
    client.connect_as("ann");
    let (_, response) = connect_ws(&ask(Some("hubbub.v1.protobuf, hubbub.v1.json")));
    assert_eq!(response.headers()["sec-websocket-protocol"], "hubbub.v1.json");
    let (mut client, response) = connect_ws(&ask(None));
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
    client.connect_as("ann");
    for other in ["hubbub.v1.protobuf", "mqtt"] {
        let (status, body) = try_connect_ws(&ask(Some(other))).err().unwrap();
        assert!(status == 400 && body.contains("hubbub.v1.json"), "{status} {body}");
    }
}

#[test]
fn compression_is_not_agreed_on() {
    let server = Server::start();
    let request = Request::new(server.http(), "/ws");
    let (mut client, response) =
        connect_ws(&request.header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"));
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
    client.connect_as("ann");
}

#[test]
fn pings_come_back_with_their_payload_even_between_fragments() {
    let server = Server::start();
    let mut raw = server.raw_ws("/relay/x");
    let long = [7; 125];
    for payload in [&b""[..], b"\x00\xff", &long] {
        raw.frame(PING, payload);
        assert_eq!(raw.next(), Some(Frame { first: PONG, payload: payload.to_vec() }));
    }
    raw.frame(PONG, b"nobody asked");
    raw.frame(0x01, b"one, ");
    raw.frame(PING, b"between");
    raw.frame(0x00, b"two, ");
    raw.frame(0x80, b"three");
    assert_eq!(raw.next(), Some(Frame { first: PONG, payload: b"between".to_vec() }));
    assert_eq!(raw.next(), Some(Frame { first: TEXT, payload: b"one, two, three".to_vec() }));
}

#[test]
fn a_command_may_come_in_any_pieces() {
    let server = Server::start();
    let mut raw = server.raw_ws("/ws?name=ann&room=lobby");
    assert_eq!(event(&raw.next().unwrap())["type"], "welcome");
    assert_eq!(event(&raw.next().unwrap())["type"], "ok");
    let command = json!({"type": "message", "room": "lobby", "content": "größe 😀"}).to_string();
    let bytes = command.as_bytes();
    for cut in [1, bytes.len() / 2, bytes.len() - 6, bytes.len() - 5, bytes.len() - 4] {
        // Fragments whose borders lie within characters.
        raw.frame(0x01, &bytes[..cut]);
        raw.frame(0x00, b"");
        raw.frame(0x80, &bytes[cut..]);
        assert_eq!(event(&raw.next().unwrap())["content"], "größe 😀");
    }
    for byte in masked_frame(TEXT, bytes) {
        raw.write(&[byte]);
    }
    assert_eq!(event(&raw.next().unwrap())["content"], "größe 😀");
    let many: Vec<u8> = (0..50).flat_map(|_| masked_frame(TEXT, bytes)).collect();
    raw.write(&many);
    for seq in 7..57 {
        assert_eq!(event(&raw.next().unwrap())["seq"], seq);
    }
}

#[test]
fn a_close_is_answered_with_its_code() {
    let server = Server::start();
    for code in [1000, 1001, 1003, 1011, 3000, 3999, 4000, 4999_u16] {
        let mut raw = server.raw_ws("/relay/x");
        let payload = [&code.to_be_bytes()[..], b"bye"].concat();
        raw.frame(CLOSE, &payload);
        let close = raw.next().unwrap();
        assert_eq!(close.close_code(), Some(code));
        assert_eq!(raw.next(), None, "the server closes first");
    }
    let mut raw = server.raw_ws("/ws");
    raw.frame(CLOSE, b"");
    assert_eq!(raw.next().unwrap(), Frame { first: CLOSE, payload: Vec::new() });
    assert_eq!(raw.next(), None);
}

#[test]
fn what_was_asked_before_a_close_is_answered_and_what_follows_it_is_not() {
    let server = Server::start();
    let mut raw = server.raw_ws("/ws?name=ann");
    raw.next();
    let ping = |id: u64| masked_frame(TEXT, json!({"type": "ping", "id": id}).to_string().as_bytes());
    raw.write(&[ping(1), masked_frame(CLOSE, &[0x03, 0xe8]), ping(2)].concat());
    assert_eq!(event(&raw.next().unwrap())["id"], 1);
    assert_eq!(raw.next().unwrap().close_code(), Some(1000));
    assert_eq!(raw.next(), None);
}

#[test]
fn broken_framing_is_closed_with_1002() {
    let server = Server::start();
    let unmasked = |first: u8| vec![first, 2, b'h', b'i'];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an unmasked frame", unmasked(TEXT)),
        ("an unmasked ping", unmasked(PING)),
        ("RSV1", masked_frame(0xc1, b"hi")),
        ("RSV2", masked_frame(0xa1, b"hi")),
        ("RSV3", masked_frame(0x91, b"hi")),
        ("RSV1 on a ping", masked_frame(0xc9, b"hi")),
        ("opcode 3", masked_frame(0x83, b"hi")),
        ("opcode 7", masked_frame(0x87, b"")),
        ("opcode 11", masked_frame(0x8b, b"")),
        ("opcode 15", masked_frame(0x8f, b"hi")),
        ("a fragmented ping", masked_frame(0x09, b"hi")),
        ("a fragmented close", masked_frame(0x08, b"")),
        ("a ping of 126 bytes", masked_frame(PING, &[0; 126])),
        ("a close of 126 bytes", masked_frame(CLOSE, &[3; 126])),
        ("a continuation of nothing", masked_frame(0x80, b"hi")),
        ("a message within another", [masked_frame(0x01, b"a"), masked_frame(TEXT, b"b")].concat()),
        ("half a close code", masked_frame(CLOSE, &[3])),
        ("close code 0", masked_frame(CLOSE, &[0, 0])),
        ("close code 999", masked_frame(CLOSE, &999_u16.to_be_bytes())),
        ("close code 1004", masked_frame(CLOSE, &1004_u16.to_be_bytes())),
        ("close code 1005", masked_frame(CLOSE, &1005_u16.to_be_bytes())),
        ("close code 1006", masked_frame(CLOSE, &1006_u16.to_be_bytes())),
        ("close code 1015", masked_frame(CLOSE, &1015_u16.to_be_bytes())),
        ("close code 2999", masked_frame(CLOSE, &2999_u16.to_be_bytes())),
        ("close code 5000", masked_frame(CLOSE, &5000_u16.to_be_bytes())),
        ("a length with the highest bit", [&[BINARY, 0xff, 0x80][..], &[0; 11]].concat()),
    ];
    let count = cases.len() as u64;
    for target in ["/ws", "/relay/x"] {
        for (what, bytes) in &cases {
            let mut raw = server.raw_ws(target);
            raw.write(bytes);
            assert_eq!(raw.closed_with(), Some(1002), "{what} on {target}");
        }
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "protocol_error")]), 2 * count);
}

#[test]
fn text_that_is_not_utf8_is_closed_with_1007_as_soon_as_it_shows() {
    let server = Server::start();
    let bad: [&[u8]; 6] = [b"\xff", b"a\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3(", b"ok \x80"];
    for bytes in bad {
        for target in ["/ws", "/relay/x"] {
            // Whole, in a first fragment, and in a frame of which the rest never comes.
            let endless = {
                let mut frame = masked_frame(TEXT, &[bytes, &[b' '; 50]].concat());
                frame.truncate(6 + bytes.len());
                frame
            };
            for sent in [masked_frame(TEXT, bytes), masked_frame(0x01, bytes), endless] {
                let mut raw = server.raw_ws(target);
                raw.write(&sent);
                assert_eq!(raw.closed_with(), Some(1007), "{bytes:x?} on {target}");
            }
        }
    }
    // The end of a message within a character.
    let mut raw = server.raw_ws("/relay/x");
    raw.frame(TEXT, b"\xe2\x82");
    assert_eq!(raw.closed_with(), Some(1007));
    // The reason in a close frame is text too.
    let mut raw = server.raw_ws("/relay/x");
    raw.frame(CLOSE, b"\x03\xe8\xff");
    assert_eq!(raw.closed_with(), Some(1007));
    // Binary is not.
    let mut raw = server.raw_ws("/relay/x");
    raw.frame(BINARY, b"\xff\xfe");
    assert_eq!(raw.next(), Some(Frame { first: BINARY, payload: b"\xff\xfe".to_vec() }));
}

#[test]
fn a_message_beyond_the_limit_is_closed_with_1009() {
    let server = Server::with(["--max-message-bytes=2000"]);
    let mut raw = server.raw_ws("/relay/x");
    raw.frame(BINARY, &[1; 2_000]);
    assert_eq!(raw.next().unwrap().payload.len(), 2_000);
    raw.frame(0x02, &[1; 1_500]);
    raw.frame(0x80, &[1; 500]);
    assert_eq!(raw.next().unwrap().payload.len(), 2_000);
    // The header alone is enough to know.
    raw.write(&[BINARY, 0x80 | 126, 0x07, 0xd1, 0, 0, 0, 0]);
    assert_eq!(raw.closed_with(), Some(1009));
    for target in ["/ws?name=ann", "/relay/x"] {
        let mut raw = server.raw_ws(target);
        raw.frame(TEXT, &[b' '; 2_001]);
        assert_eq!(raw.closed_with(), Some(1009));
        let mut raw = server.raw_ws(target);
        raw.frame(0x01, &[b' '; 1_500]);
        raw.frame(0x00, &[b' '; 501]);
        assert_eq!(raw.closed_with(), Some(1009));
        let mut raw = server.raw_ws(target);
        raw.write(&[&[TEXT, 0xff][..], &(i64::MAX as u64).to_be_bytes(), &[0; 4]].concat());
        assert_eq!(raw.closed_with(), Some(1009));
    }
}

#[test]
fn binary_is_no_part_of_the_chat() {
    let server = Server::start();
    let mut raw = server.raw_ws("/ws?name=ann");
    raw.next();
    raw.frame(BINARY, b"{\"type\":\"ping\",\"id\":1}");
    let error = event(&raw.next().unwrap());
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("bad_request")), "{error}");
    raw.frame(TEXT, b"{\"type\":\"ping\",\"id\":2}");
    assert_eq!(event(&raw.next().unwrap())["id"], 2);
}

#[test]
fn a_socket_that_ends_without_a_close_is_gone() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    let bob = server.raw_ws("/ws?name=bob&room=lobby");
    server.metrics_until("bob to be there", |metrics| metrics.sum("hubbub_connections", &[("kind", "chat_ws")]) == 2);
    // A FIN where WebSocket has a frame for it.
    bob.stream().shutdown(std::net::Shutdown::Write).unwrap();
    let metrics = server.metrics_until("bob to be gone", |m| m.sum("hubbub_connections", &[("kind", "chat_ws")]) == 1);
    assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "peer_gone")]), 1);
    ann.say_and_wait("lobby", "alone");
}

#[test]
fn requests_that_are_no_upgrade_get_the_status_that_fits() {
    let server = Server::start();
    let good = upgrade_head(&server.http().to_string(), "/ws");
    let table = [
        ("no upgrade", "Upgrade: websocket\r\n", "", 426),
        ("another upgrade", "Upgrade: websocket", "Upgrade: h2c", 426),
        ("no connection", "Connection: Upgrade\r\n", "", 426),
        ("version 8", "Version: 13", "Version: 8", 426),
        ("no version", "Sec-WebSocket-Version: 13\r\n", "", 426),
        ("no key", "Sec-WebSocket-Key", "X-Key", 400),
        ("a short key", "Bub25j", "", 400),
        ("HTTP/1.0", "HTTP/1.1", "HTTP/1.0", 400),
        ("HEAD", "GET /ws", "HEAD /ws", 405),
        ("broken percent-encoding", "/ws", "/ws?room=%zz", 400),
        ("a name that is not UTF-8", "/ws", "/ws?name=%ff", 400),
    ];
    for (what, from, to, status) in table {
        assert!(good.contains(from), "{what} changes something");
        let response = http_raw(server.http(), good.replacen(from, to, 1).as_bytes());
        assert_eq!(response.status, status, "{what}: {}", response.head);
    }
    let response = http_raw(server.http(), good.replace("Version: 13", "Version: 8").as_bytes());
    assert_eq!(response.header("Sec-WebSocket-Version"), Some("13"));
    let mut raw = RawWs::before_handshake(server.http());
    raw.write(good.as_bytes());
    raw.read_head();
}
