//! The first byte picks the role, the second the size of the parts; the rest is what a peer sends. In parts it must
//! decode as in one piece, and what was decoded must survive being encoded again.

use std::borrow::Cow;

use hubbub::codec::websocket::{Decoder, Item, Opcode, ProtocolError, Role, frame};

const MESSAGE_BYTES_MAX: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
struct Read {
    items: Vec<Item<'static>>,
    error: Option<ProtocolError>,
    idle: bool,
}

fn owned(item: Item<'_>) -> Item<'static> {
    let keep = |payload: Cow<'_, [u8]>| Cow::Owned(payload.into_owned());
    match item {
        Item::Text(payload) => Item::Text(keep(payload)),
        Item::Binary(payload) => Item::Binary(keep(payload)),
        Item::Ping(payload) => Item::Ping(keep(payload)),
        Item::Pong(payload) => Item::Pong(keep(payload)),
        Item::Close { code, reason } => Item::Close { code, reason: Cow::Owned(reason.into_owned()) },
    }
}

fn read(role: Role, bytes: &[u8], part_bytes: usize) -> Read {
    let mut decoder = Decoder::new(role);
    let mut items = Vec::new();
    for part in bytes.chunks(part_bytes) {
        let mut part = part.to_vec();
        let mut input = &mut part[..];
        loop {
            match decoder.decode(&mut input, MESSAGE_BYTES_MAX) {
                Ok(Some(item)) => items.push(owned(item)),
                Ok(None) => break,
                Err(error) => return Read { items, error: Some(error), idle: false },
            }
        }
        assert!(input.is_empty());
    }
    Read { items, error: None, idle: decoder.is_idle() }
}

fn encode(role: Role, items: &[Item<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let key = [0x12, 0x34, 0x56, 0x78];
    for item in items {
        let (opcode, payload) = match item {
            Item::Text(payload) => (Opcode::Text, payload),
            Item::Binary(payload) => (Opcode::Binary, payload),
            Item::Ping(payload) => (Opcode::Ping, payload),
            Item::Pong(payload) => (Opcode::Pong, payload),
            Item::Close { code, reason } => {
                match role {
                    Role::Server => frame::encode_close_masked(*code, reason, key, &mut out),
                    Role::Client => frame::encode_close(*code, reason, &mut out),
                }
                continue;
            }
        };
        match role {
            Role::Server => frame::encode_masked(opcode, payload, key, &mut out),
            Role::Client => frame::encode(opcode, payload, &mut out),
        }
    }
    out
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let [role, part_bytes, bytes @ ..] = data else {
        return;
    };
    let role = if role % 2 == 0 { Role::Server } else { Role::Client };
    let whole = read(role, bytes, bytes.len().max(1));
    assert_eq!(read(role, bytes, usize::from(*part_bytes).max(1)), whole);
    assert_eq!(read(role, bytes, 1), whole);
    let again = encode(role, &whole.items);
    assert_eq!(read(role, &again, again.len().max(1)), Read { items: whole.items, error: None, idle: true });
}
