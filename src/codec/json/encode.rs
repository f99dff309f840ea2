//! Writes events, each as one JSON object without a line end.
//!
//! Invariant: the output has no raw CR or LF, whatever names and contents say, so that it can stand in one line.
//! Field by field into one buffer; nothing is built first.

use crate::ids::UserName;
use crate::message::close::ErrorCode;
use crate::message::event::{Event, Joined, KickNotice, Message, PresentUser, Reply, RoomSummary, Welcome};

use super::scan::plain_len;

/// Appends `event`.
///
/// # Panics
/// With [`Event::Relay`], which is a frame already and has no JSON.
pub fn encode(event: &Event, out: &mut Vec<u8>) {
    match event {
        Event::Message(message) => return encode_message(message, out),
        Event::Redelivered { message, attempt } => {
            encode_message(message, out);
            // The object is open again until its last brace.
            out.pop();
            raw(",\"redelivered\":", b"true", out);
            integer(",\"attempt\":", u64::from(*attempt), out);
        }
        Event::Receipt { room, seq, delivered, members } => {
            open("receipt", None, out);
            string(",\"room\":", room.as_str(), out);
            integer(",\"seq\":", seq.0, out);
            integer(",\"delivered\":", *delivered, out);
            integer(",\"members\":", *members, out);
        }
        Event::Kicked { room, notice } => encode_kicked(room.as_str(), notice, out),
        Event::Closed { room } => {
            open("closed", None, out);
            string(",\"room\":", room.as_str(), out);
        }
        Event::Signal(signal) => {
            open("signal", None, out);
            string(",\"room\":", signal.room.as_str(), out);
            string(",\"sender\":", signal.sender.as_str(), out);
            raw(",\"content\":", &signal.content, out);
        }
        Event::Ok { id, body } => encode_ok(*id, body, out),
        Event::Error { id, code, message } => encode_error(*id, *code, message, out),
        Event::Welcome { id, body } => encode_welcome(*id, body, out),
        Event::Pong { id } => open("pong", *id, out),
        Event::Ping => open("ping", None, out),
        Event::Deleted { room, seq } => {
            open("deleted", None, out);
            string(",\"room\":", room.as_str(), out);
            integer(",\"seq\":", seq.0, out);
        }
        Event::Presence(presence) => {
            open("presence", None, out);
            string(",\"room\":", presence.room.as_str(), out);
            names(",\"joined\":[", &presence.joined, out);
            names(",\"left\":[", &presence.left, out);
            integer(",\"count\":", presence.count, out);
        }
        Event::Gap { room, from, to } => {
            open("gap", None, out);
            string(",\"room\":", room.as_str(), out);
            integer(",\"from\":", from.0, out);
            integer(",\"to\":", to.0, out);
        }
        Event::Closing { reason, retry_after_ms } => {
            open("closing", None, out);
            string(",\"reason\":", reason, out);
            integer(",\"retry_after_ms\":", *retry_after_ms, out);
        }
        Event::Relay(_) => unreachable!("the shell sends relay frames as they are"),
    }
    out.push(b'}');
}

fn encode_kicked(room: &str, notice: &KickNotice, out: &mut Vec<u8>) {
    open("kicked", None, out);
    string(",\"room\":", room, out);
    string(",\"reason\":", notice.reason, out);
    if let Some(by) = &notice.by {
        string(",\"by\":", by.as_str(), out);
    }
    if let Some(until) = notice.until_unix_ms {
        integer(",\"until\":", until, out);
    }
}

fn encode_message(message: &Message, out: &mut Vec<u8>) {
    // The fixed parts and two numbers fit in this; names with escapes may need more and get it.
    let names_len = message.room.as_str().len() + message.sender.as_str().len();
    out.reserve(MESSAGE_FIXED_BYTES + names_len + message.content.len());
    open("message", None, out);
    string(",\"room\":", message.room.as_str(), out);
    integer(",\"seq\":", message.seq.0, out);
    string(",\"sender\":", message.sender.as_str(), out);
    raw(",\"content\":", &message.content, out);
    integer(",\"timestamp\":", message.timestamp, out);
    if let Some(tag) = &message.tag {
        string(",\"tag\":", tag, out);
    }
    if let Some(key) = &message.key {
        string(",\"key\":", key, out);
    }
    if let Some(prev) = message.prev {
        integer(",\"prev\":", prev.0, out);
    }
    if message.deleted {
        out.extend_from_slice(b",\"deleted\":true");
    }
    out.push(b'}');
}

fn encode_ok(id: Option<u64>, body: &Reply, out: &mut Vec<u8>) {
    open("ok", id, out);
    match body {
        Reply::Done => {}
        Reply::Joined(joined) => encode_joined(joined, out),
        Reply::Sent { room, seq, timestamp, durable, duplicate } => {
            string(",\"room\":", room.as_str(), out);
            integer(",\"seq\":", seq.0, out);
            integer(",\"timestamp\":", *timestamp, out);
            flag(",\"durable\":", *durable, out);
            if *duplicate {
                flag(",\"duplicate\":", true, out);
            }
        }
        Reply::History { room, epoch, messages, more } => {
            string(",\"room\":", room.as_str(), out);
            hex(",\"epoch\":\"", u128::from(epoch.0), 16, out);
            list(",\"messages\":[", messages, |message, out| encode_message(message, out), out);
            flag(",\"more\":", *more, out);
        }
        Reply::Users { users, count, next } => {
            list(",\"users\":[", users, encode_user, out);
            integer(",\"count\":", *count, out);
            if let Some(next) = next {
                string(",\"next\":", next.as_str(), out);
            }
        }
        Reply::Rooms { rooms, next } => {
            list(",\"rooms\":[", rooms, encode_room, out);
            if let Some(next) = next {
                string(",\"next\":", next.as_str(), out);
            }
        }
    }
}

fn encode_joined(joined: &Joined, out: &mut Vec<u8>) {
    string(",\"room\":", joined.room.as_str(), out);
    hex(",\"epoch\":\"", u128::from(joined.epoch.0), 16, out);
    integer(",\"seq\":", joined.seq.0, out);
    integer(",\"members\":", joined.members, out);
    string(",\"role\":", joined.role.as_str(), out);
    if let Some(recovered) = joined.recovered {
        flag(",\"recovered\":", recovered, out);
    }
    if let Some(unread) = joined.unread {
        integer(",\"unread\":", unread, out);
    }
}

fn encode_error(id: Option<u64>, code: ErrorCode, message: &str, out: &mut Vec<u8>) {
    open("error", id, out);
    string(",\"code\":", code.as_str(), out);
    string(",\"message\":", message, out);
    flag(",\"temporary\":", code.is_temporary(), out);
}

fn encode_welcome(id: Option<u64>, welcome: &Welcome, out: &mut Vec<u8>) {
    open("welcome", id, out);
    string(",\"connection\":", &welcome.connection, out);
    string(",\"user\":", welcome.user.as_str(), out);
    if let Some(name) = &welcome.name {
        string(",\"name\":", name, out);
    }
    hex(",\"session\":\"", welcome.session.0, 32, out);
    integer(",\"heartbeat_ms\":", welcome.heartbeat_ms, out);
    integer(",\"limits\":{\"message_bytes\":", welcome.limits.message_bytes as u64, out);
    integer(",\"rooms\":", welcome.limits.rooms as u64, out);
    integer(",\"unanswered\":", welcome.limits.unanswered as u64, out);
    string("},\"node\":", &welcome.node, out);
    if let Some(resumed) = welcome.resumed {
        flag(",\"resumed\":", resumed, out);
    }
    if let Some(expires) = welcome.expires {
        integer(",\"expires\":", expires, out);
    }
}

fn encode_user(user: &PresentUser, out: &mut Vec<u8>) {
    string("{\"user\":", user.user.as_str(), out);
    integer(",\"since\":", user.since, out);
    out.push(b'}');
}

fn encode_room(room: &RoomSummary, out: &mut Vec<u8>) {
    string("{\"room\":", room.room.as_str(), out);
    integer(",\"members\":", room.members, out);
    out.push(b'}');
}

/// Appends `text` as a JSON string, quotes included.
pub fn encode_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, after) = rest.split_at(plain_len(rest));
        out.extend_from_slice(plain);
        let Some((byte, after)) = after.split_first() else {
            break;
        };
        escape(*byte, out);
        rest = after;
    }
    out.push(b'"');
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend([byte >> 4, byte & 0xf].map(|digit| HEX_DIGITS[usize::from(digit)]));
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Opens an object with its type and tag. All that follows begins with a comma.
fn open(kind: &str, id: Option<u64>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    if let Some(id) = id {
        integer(",\"id\":", id, out);
    }
}

fn string(label: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(label.as_bytes());
    encode_string(value, out);
}

/// Writes JSON text that is known to be free of line ends.
fn raw(label: &str, value: &[u8], out: &mut Vec<u8>) {
    debug_assert!(memchr::memchr2(b'\r', b'\n', value).is_none(), "content would break out of its line");
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(value);
}

fn flag(label: &str, value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn integer(label: &str, mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(label.as_bytes());
    out.extend_from_slice(&digits[start..]);
}

/// Writes `digits` hexadecimal digits and the closing quote; `label` has the opening one.
fn hex(label: &str, value: u128, digits: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(label.as_bytes());
    out.extend((0..digits).rev().map(|i| HEX_DIGITS[(value >> (4 * i)) as usize & 0xf]));
    out.push(b'"');
}

fn names(label: &str, users: &[UserName], out: &mut Vec<u8>) {
    list(label, users, |user, out| encode_string(user.as_str(), out), out);
}

/// Writes the elements of an array and closes it; `label` has the opening bracket.
fn list<T>(label: &str, elements: &[T], write: impl Fn(&T, &mut Vec<u8>), out: &mut Vec<u8>) {
    out.extend_from_slice(label.as_bytes());
    for (i, element) in elements.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(element, out);
    }
    out.push(b']');
}

const HEX_DIGITS: [u8; 16] = *b"0123456789abcdef";
/// What a message takes beside names and content, without tag and key.
const MESSAGE_FIXED_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::ids::{Epoch, Namespace, RoomName, Seq, SessionId};
    use crate::message::event::{Presence, Role, Signal, WelcomeLimits};

    fn written(event: &Event) -> String {
        let mut out = Vec::new();
        encode(event, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn value(event: &Event) -> Value {
        serde_json::from_str(&written(event)).unwrap()
    }

    fn room() -> RoomName {
        RoomName::new(Namespace::Chat, "the \"lobby\"").unwrap()
    }

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    fn message(content: &str) -> Message {
        Message {
            room: room(),
            seq: Seq(7),
            prev: None,
            sender: user("Ann\\é"),
            content: Bytes::copy_from_slice(content.as_bytes()),
            timestamp: 1_700_000_000_123,
            tag: None,
            key: None,
            deleted: false,
        }
    }

    #[test]
    fn a_message_is_spelled_as_the_protocol_says() {
        let mut said = message("{ \"a\":1 }");
        let expected = r#"{"type":"message","room":"the \"lobby\"","seq":7,"sender":"Ann\\é","content":{ "a":1 },"timestamp":1700000000123}"#;
        assert_eq!(written(&Event::Message(Arc::new(said.clone()))), expected);
        said.tag = Some("t\r\n".into());
        said.key = Some("k\u{1}".into());
        said.content = Bytes::from_static(b"null");
        said.deleted = true;
        let expected = json!({"type": "message", "room": "the \"lobby\"", "seq": 7, "sender": "Ann\\é", "content": null,
            "timestamp": 1_700_000_000_123_u64, "tag": "t\r\n", "key": "k\u{1}", "deleted": true});
        assert_eq!(value(&Event::Message(Arc::new(said))), expected);
        let after_a_jump = Arc::new(Message { prev: Some(Seq(2)), ..message("1") });
        let mut expected = json!({"type": "message", "room": "the \"lobby\"", "seq": 7, "sender": "Ann\\é", "content": 1,
            "timestamp": 1_700_000_000_123_u64, "prev": 2});
        assert_eq!(value(&Event::Message(Arc::clone(&after_a_jump))), expected);
        expected["redelivered"] = json!(true);
        expected["attempt"] = json!(3);
        assert_eq!(value(&Event::Redelivered { message: after_a_jump, attempt: 3 }), expected);
    }

    #[test]
    fn replies_are_spelled_as_the_protocol_says() {
        let ok = |id, body| value(&Event::Ok { id, body });
        assert_eq!(ok(None, Reply::Done), json!({"type": "ok"}));
        assert_eq!(ok(Some(u64::MAX), Reply::Done), json!({"type": "ok", "id": u64::MAX}));
        let mut joined = Joined {
            room: room(),
            epoch: Epoch(0xab),
            seq: Seq(0),
            members: 1,
            role: Role::Host,
            recovered: None,
            unread: None,
        };
        let mut expected = json!({"type": "ok", "id": 1, "room": "the \"lobby\"", "epoch": "00000000000000ab", "seq": 0,
            "members": 1, "role": "host"});
        assert_eq!(ok(Some(1), Reply::Joined(Box::new(joined.clone()))), expected);
        joined.recovered = Some(false);
        joined.unread = Some(4);
        expected["recovered"] = json!(false);
        expected["unread"] = json!(4);
        assert_eq!(ok(Some(1), Reply::Joined(Box::new(joined))), expected);
        let sent = Reply::Sent { room: room(), seq: Seq(9), timestamp: 5, durable: false, duplicate: false };
        let expected =
            json!({"type": "ok", "id": 2, "room": "the \"lobby\"", "seq": 9, "timestamp": 5, "durable": false});
        assert_eq!(ok(Some(2), sent), expected);
        let again = Reply::Sent { room: room(), seq: Seq(9), timestamp: 5, durable: true, duplicate: true };
        let expected = json!({"type": "ok", "id": 3, "room": "the \"lobby\"", "seq": 9, "timestamp": 5, "durable": true,
            "duplicate": true});
        assert_eq!(ok(Some(3), again), expected);
        let messages = vec![Arc::new(message("1")), Arc::new(message("[2]"))];
        let history = ok(Some(3), Reply::History { room: room(), epoch: Epoch(u64::MAX), messages, more: true });
        assert_eq!(history["epoch"], "ffffffffffffffff");
        assert_eq!((&history["messages"][1]["content"], &history["more"]), (&json!([2]), &json!(true)));
        assert_eq!(history["messages"][0], value(&Event::Message(Arc::new(message("1")))));
    }

    #[test]
    fn pages_are_spelled_as_the_protocol_says() {
        let ok = |body| value(&Event::Ok { id: None, body });
        let users = vec![PresentUser { user: user("a"), since: 1 }, PresentUser { user: user("b"), since: 2 }];
        let expected = json!({"type": "ok", "users": [{"user": "a", "since": 1}, {"user": "b", "since": 2}], "count": 3,
            "next": "b"});
        assert_eq!(ok(Reply::Users { users, count: 3, next: Some(user("b")) }), expected);
        let none = Reply::Users { users: vec![], count: 0, next: None };
        assert_eq!(ok(none), json!({"type": "ok", "users": [], "count": 0}));
        let rooms = vec![RoomSummary { room: room(), members: 4 }];
        let expected =
            json!({"type": "ok", "rooms": [{"room": "the \"lobby\"", "members": 4}], "next": "the \"lobby\""});
        assert_eq!(ok(Reply::Rooms { rooms, next: Some(room()) }), expected);
    }

    #[test]
    fn pushes_are_spelled_as_the_protocol_says() {
        let signal = Signal { room: room(), sender: user("a"), content: Bytes::from_static(b"\"typing\"") };
        let expected = json!({"type": "signal", "room": "the \"lobby\"", "sender": "a", "content": "typing"});
        assert_eq!(value(&Event::Signal(Arc::new(signal))), expected);
        let deleted = Event::Deleted { room: room(), seq: Seq(3) };
        assert_eq!(value(&deleted), json!({"type": "deleted", "room": "the \"lobby\"", "seq": 3}));
        let presence = Presence { room: room(), joined: vec![user("a"), user("b")], left: vec![], count: 2 };
        let expected =
            json!({"type": "presence", "room": "the \"lobby\"", "joined": ["a", "b"], "left": [], "count": 2});
        assert_eq!(value(&Event::Presence(Arc::new(presence))), expected);
        let gap = Event::Gap { room: room(), from: Seq(1), to: Seq(2) };
        assert_eq!(value(&gap), json!({"type": "gap", "room": "the \"lobby\"", "from": 1, "to": 2}));
        let receipt = Event::Receipt { room: room(), seq: Seq(3), delivered: 1, members: 2 };
        let expected = json!({"type": "receipt", "room": "the \"lobby\"", "seq": 3, "delivered": 1, "members": 2});
        assert_eq!(value(&receipt), expected);
        let kicked = Event::Kicked { room: room(), notice: Box::new(KickNotice::new("why")) };
        assert_eq!(value(&kicked), json!({"type": "kicked", "room": "the \"lobby\"", "reason": "why"}));
        let notice = KickNotice { reason: "banned", by: Some(user("a")), until_unix_ms: Some(9) };
        let banned = Event::Kicked { room: room(), notice: Box::new(notice) };
        let expected = json!({"type": "kicked", "room": "the \"lobby\"", "reason": "banned", "by": "a", "until": 9});
        assert_eq!(value(&banned), expected);
        assert_eq!(value(&Event::Closed { room: room() }), json!({"type": "closed", "room": "the \"lobby\""}));
        let closing = Event::Closing { reason: "restart", retry_after_ms: 10 };
        assert_eq!(value(&closing), json!({"type": "closing", "reason": "restart", "retry_after_ms": 10}));
        assert_eq!(value(&Event::Ping), json!({"type": "ping"}));
        assert_eq!(value(&Event::Pong { id: Some(1) }), json!({"type": "pong", "id": 1}));
    }

    #[test]
    fn welcome_and_error_are_spelled_as_the_protocol_says() {
        let limits = WelcomeLimits { message_bytes: 65_536, rooms: 128, unanswered: 64 };
        let body = Welcome {
            connection: "0-1-2".into(),
            resumed: None,
            user: user("a"),
            name: None,
            expires: None,
            session: SessionId(0xf),
            heartbeat_ms: 30_000,
            limits,
            node: "n".into(),
        };
        let expected = json!({"type": "welcome", "id": 1, "connection": "0-1-2", "user": "a",
            "session": "0000000000000000000000000000000f", "heartbeat_ms": 30_000,
            "limits": {"message_bytes": 65_536, "rooms": 128, "unanswered": 64}, "node": "n"});
        assert_eq!(value(&Event::Welcome { id: Some(1), body: Box::new(body.clone()) }), expected);
        let proven = Welcome { name: Some("Ann".into()), expires: Some(5), resumed: Some(true), ..body };
        let proven = value(&Event::Welcome { id: Some(1), body: Box::new(proven) });
        assert_eq!((&proven["name"], &proven["expires"], &proven["resumed"]), (&json!("Ann"), &json!(5), &json!(true)));
        let error = Event::Error { id: None, code: ErrorCode::Overloaded, message: "later".into() };
        let expected = json!({"type": "error", "code": "overloaded", "message": "later", "temporary": true});
        assert_eq!(value(&error), expected);
    }

    #[test]
    fn every_ascii_character_reads_back() {
        let text: String = (0..128_u8).map(char::from).collect();
        let mut out = Vec::new();
        encode_string(&text, &mut out);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    proptest! {
        #[test]
        fn strings_read_back_and_stay_in_one_line(text: String) {
            let mut out = Vec::new();
            encode_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            prop_assert!(!out.iter().any(|byte| *byte < 0x20));
        }

        #[test]
        fn integers_read_back(number: u64) {
            let mut out = Vec::new();
            integer("", number, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
