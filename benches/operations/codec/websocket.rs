//! `codec/websocket`: frames, masks and text.

use std::hint::black_box;

use hubbub::codec::websocket::frame::{self, SERVER_HEADER_BYTES_MAX};
use hubbub::codec::websocket::{Decoder, Item, Opcode, Role, mask, utf8};

use super::super::{Operation, Work, fold};
use super::COMMAND;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MESSAGE_BYTES_MAX: usize = 1 << 20;

pub(super) fn operations() -> Vec<Operation> {
    let large = || vec![b'x'; 65_536];
    let mut all = vec![
        decode("a command", 1, || masked(Opcode::Text, COMMAND)),
        decode("a command in two parts", 2, || masked(Opcode::Text, COMMAND)),
        decode("64 KiB", 1, move || masked(Opcode::Binary, &large())),
        decode("64 KiB in 16 parts", 16, move || masked(Opcode::Text, &large())),
        decode("a message of three fragments", 1, fragments),
        decode("a ping", 1, || masked(Opcode::Ping, b"are you there")),
        header(),
        encode("a command", COMMAND.to_vec()),
        encode("64 KiB", large()),
    ];
    all.extend([64, 150, 1_024, 65_536].map(unmask));
    all.extend([
        check("150 bytes of ASCII", COMMAND[..140].repeat(2)[..150].to_vec()),
        check("1 KiB of Cyrillic", "привет ".repeat(80).into_bytes()[..1_024].to_vec()),
        check("64 KiB of ASCII", large()),
    ]);
    all
}

fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::encode_masked(opcode, payload, KEY, &mut frame);
    frame
}

/// A text message in three frames: the first two without FIN, the others continuations.
fn fragments() -> Vec<u8> {
    let third = COMMAND.len() / 3;
    let mut first = masked(Opcode::Text, &COMMAND[..third]);
    let mut second = masked(Opcode::Continuation, &COMMAND[third..2 * third]);
    first[0] &= 0x7f;
    second[0] &= 0x7f;
    [first, second, masked(Opcode::Continuation, &COMMAND[2 * third..])].concat()
}

/// Decoding happens in place, so every run works on a fresh copy of what was received.
fn decode(what: &str, parts: usize, received: impl Fn() -> Vec<u8> + 'static) -> Operation {
    let bytes = received().len();
    let prepare = move || {
        let received = received();
        let mut copy = received.clone();
        let mut decoder = Decoder::new(Role::Server);
        move || {
            copy.copy_from_slice(&received);
            let mut sum = 0;
            for mut part in black_box(&mut copy).chunks_mut(bytes.div_ceil(parts)) {
                while let Ok(Some(item)) = decoder.decode(&mut part, MESSAGE_BYTES_MAX) {
                    sum = fold(sum, came(&item));
                }
            }
            sum
        }
    };
    Operation::new("codec/websocket/decoder", what, Work::Bytes(bytes as u64), prepare)
}

/// Enough of an item to know that it is right: its length and an end of it.
fn came(item: &Item<'_>) -> u64 {
    let bytes = match item {
        Item::Text(bytes) | Item::Binary(bytes) | Item::Ping(bytes) | Item::Pong(bytes) => &**bytes,
        Item::Close { reason, .. } => reason.as_bytes(),
    };
    bytes.len() as u64 * 256 + u64::from(bytes.last().copied().unwrap_or(0))
}

fn header() -> Operation {
    let prepare = || {
        let mut out = [0; SERVER_HEADER_BYTES_MAX];
        move || {
            let len = frame::header(Opcode::Text, black_box(COMMAND.len()), &mut out);
            fold(len as u64, u64::from(black_box(&out)[1]))
        }
    };
    Operation::new("codec/websocket/frame", "header", Work::Elements(1), prepare)
}

fn encode(what: &str, payload: Vec<u8>) -> Operation {
    let bytes = payload.len() as u64;
    let prepare = move || {
        let payload = payload.clone();
        let mut out = Vec::with_capacity(payload.len() + SERVER_HEADER_BYTES_MAX);
        move || {
            out.clear();
            frame::encode(Opcode::Text, black_box(&payload), &mut out);
            fold(out.len() as u64, u64::from(out[1]))
        }
    };
    Operation::new("codec/websocket/frame", format!("encode {what}"), Work::Bytes(bytes), prepare)
}

fn unmask(len: usize) -> Operation {
    let prepare = move || {
        let mut payload = vec![b'x'; len];
        move || {
            let next = mask::apply(black_box(&mut payload), KEY);
            fold(u64::from(u32::from_le_bytes(next)), u64::from(payload[len / 2]))
        }
    };
    Operation::new("codec/websocket/mask", format!("{len} bytes"), Work::Bytes(len as u64), prepare)
}

fn check(what: &str, text: Vec<u8>) -> Operation {
    let bytes = text.len() as u64;
    let prepare = move || {
        let text = text.clone();
        move || utf8::check(black_box(&text)).map_or(0, |text| text.len() as u64)
    };
    Operation::new("codec/websocket/utf8", what, Work::Bytes(bytes), prepare)
}
