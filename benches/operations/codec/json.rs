//! `codec/json`: commands in, events out, and the scanning beneath both.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use hubbub::codec::json::{self, scan};
use hubbub::ids::{Epoch, Namespace, RoomName, Seq, UserName};
use hubbub::message::event::{Event, Joined, Message, Presence, Reply, Role};

use super::super::{Operation, Work, fold, fold_bytes};
use super::COMMAND;

const JOIN: &[u8] = br#"{"type":"join","room":"lobby","since":{"epoch":"00112233445566ff","seq":42},"id":1}"#;
const PING: &[u8] = br#"{"type":"ping","id":1}"#;
const CONTENT: &[u8] = br#"{"text":"hello everyone, this is a message of a usual length","n":12345}"#;
const ESCAPED: &str = r"a line\nand another \u00e9t\u00e9 with \uD83D\uDE00, a tab\t, and words enough to copy";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        decode("message", COMMAND),
        decode("join", JOIN),
        decode("ping", PING),
        encode("message", message()),
        encode("ok of a message", Event::Ok { id: Some(7), body: sent() }),
        encode("ok of a join", Event::Ok { id: Some(7), body: joined() }),
        encode("presence of 100", presence()),
        decode_event(),
        plain_len("1 KiB without escapes", vec![b'x'; 1_024]),
        plain_len("64 bytes, then a quote", [&[b'x'; 64][..], b"\"rest"].concat()),
        unescape(),
        encode_string(),
    ]
}

fn room() -> RoomName {
    RoomName::new(Namespace::Chat, "lobby").expect("a legal name")
}

fn user(name: &str) -> UserName {
    UserName::new(name).expect("a legal name")
}

fn message() -> Event {
    Event::Message(Arc::new(Message {
        room: room(),
        seq: Seq(123_456),
        prev: None,
        sender: user("ann"),
        content: Bytes::from_static(CONTENT),
        timestamp: 1_700_000_000_123,
        tag: None,
        key: Some("c-000123".into()),
        deleted: false,
    }))
}

fn sent() -> Reply {
    Reply::Sent { room: room(), seq: Seq(123_456), timestamp: 1_700_000_000_123, durable: false, duplicate: false }
}

fn joined() -> Reply {
    Reply::Joined(Box::new(Joined {
        room: room(),
        epoch: Epoch(0x0011_2233_4455_66ff),
        seq: Seq(42),
        members: 12,
        role: Role::Member,
        recovered: Some(true),
        unread: None,
    }))
}

fn presence() -> Event {
    let joined = (0..100).map(|n| user(&format!("user-{n}"))).collect();
    Event::Presence(Arc::new(Presence { room: room(), joined, left: Vec::new(), count: 100 }))
}

fn decode(what: &str, text: &'static [u8]) -> Operation {
    let prepare = move || || json::decode(black_box(text)).map_or(0, |command| command.id.unwrap_or(1));
    Operation::new("codec/json/decode", what, Work::Bytes(text.len() as u64), prepare)
}

fn encode(what: &str, event: Event) -> Operation {
    let mut written = Vec::new();
    json::encode(&event, &mut written);
    let bytes = written.len() as u64;
    let prepare = move || {
        let event = event.clone();
        let mut out = Vec::with_capacity(bytes as usize);
        move || {
            out.clear();
            json::encode(black_box(&event), &mut out);
            fold(out.len() as u64, fold_bytes(&out[out.len() - 16..]))
        }
    };
    Operation::new("codec/json/encode", what, Work::Bytes(bytes), prepare)
}

fn decode_event() -> Operation {
    let mut written = Vec::new();
    json::encode(&message(), &mut written);
    let bytes = written.len() as u64;
    let prepare = move || {
        let written = written.clone();
        move || json::decode_event(black_box(&written)).ok().and_then(|event| event.integer("seq")).unwrap_or(0)
    };
    Operation::new("codec/json/event", "message", Work::Bytes(bytes), prepare)
}

fn plain_len(what: &str, text: Vec<u8>) -> Operation {
    let bytes = text.len() as u64;
    let prepare = move || {
        let text = text.clone();
        move || scan::plain_len(black_box(&text)) as u64
    };
    Operation::new("codec/json/scan", format!("plain_len, {what}"), Work::Bytes(bytes), prepare)
}

fn unescape() -> Operation {
    let prepare = || || scan::unescape(black_box(ESCAPED)).map_or(0, |text| fold_bytes(text.as_bytes()));
    Operation::new("codec/json/scan", "unescape", Work::Bytes(ESCAPED.len() as u64), prepare)
}

fn encode_string() -> Operation {
    let text = scan::unescape(ESCAPED).expect("it is well written").into_owned();
    let bytes = text.len() as u64;
    let prepare = move || {
        let text = text.clone();
        let mut out = Vec::with_capacity(256);
        move || {
            out.clear();
            json::encode_string(black_box(&text), &mut out);
            fold_bytes(&out)
        }
    };
    Operation::new("codec/json/encode", "a text with escapes", Work::Bytes(bytes), prepare)
}
