//! What the codecs cost per message: `cargo bench --bench codec`.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hubbub::codec::websocket::{Decoder, Opcode, Role, frame, mask};
use hubbub::codec::{json, lines};
use hubbub::ids::{Namespace, RoomName, Seq, UserName};
use hubbub::message::event::{Event, Message};

/// A command of about 150 bytes.
const COMMAND: &[u8] = br#"{"type":"message","room":"lobby","content":{"text":"hello everyone, this is a message of a usual length","n":12345},"key":"c-000123","id":4711}"#;
const CONTENT: &[u8] = br#"{"text":"hello everyone, this is a message of a usual length","n":12345}"#;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn masking(c: &mut Criterion) {
    let mut group = c.benchmark_group("mask");
    for len in [64, 150, 1_024, 65_536] {
        let mut payload = vec![b'x'; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(len.to_string(), |b| b.iter(|| mask::apply(black_box(&mut payload), KEY)));
    }
    group.finish();
}

fn websocket(c: &mut Criterion) {
    let mut group = c.benchmark_group("websocket");
    for (name, payload) in [("command", COMMAND.to_vec()), ("64 KiB", vec![b'x'; 65_536])] {
        let mut received = Vec::new();
        frame::encode_masked(Opcode::Text, &payload, KEY, &mut received);
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(format!("decode whole {name}"), |b| {
            let mut decoder = Decoder::new(Role::Server);
            let decode = |bytes: &mut Vec<u8>| {
                let mut input = &mut bytes[..];
                decoder.decode(&mut input, 1 << 20).map(|item| item.is_some())
            };
            b.iter_batched_ref(|| received.clone(), decode, BatchSize::SmallInput);
        });
        group.bench_function(format!("decode {name} in two parts"), |b| {
            let mut decoder = Decoder::new(Role::Server);
            let decode = |bytes: &mut Vec<u8>| {
                let (mut front, mut back) = bytes.split_at_mut(payload.len() / 2);
                decoder.decode(&mut front, 1 << 20).and(decoder.decode(&mut back, 1 << 20)).map(|item| item.is_some())
            };
            b.iter_batched_ref(|| received.clone(), decode, BatchSize::SmallInput);
        });
        let mut out = Vec::with_capacity(payload.len() + 16);
        group.bench_function(format!("encode {name}"), |b| {
            b.iter(|| {
                out.clear();
                frame::encode(Opcode::Text, black_box(&payload), &mut out);
            });
        });
    }
    group.finish();
}

fn text(c: &mut Criterion) {
    let mut group = c.benchmark_group("json");
    group.bench_function("decode message", |b| b.iter(|| json::decode(black_box(COMMAND)).is_ok()));
    let join = br#"{"type":"join","room":"lobby","since":{"epoch":"00112233445566ff","seq":42},"id":1}"#;
    group.bench_function("decode join", |b| b.iter(|| json::decode(black_box(join)).is_ok()));
    let message = Message {
        room: RoomName::new(Namespace::Chat, "lobby").expect("a legal name"),
        seq: Seq(123_456),
        sender: UserName::new("ann").expect("a legal name"),
        content: Bytes::from_static(CONTENT),
        timestamp: 1_700_000_000_123,
        tag: None,
        key: Some("c-000123".into()),
        deleted: false,
    };
    let event = Event::Message(Arc::new(message));
    let mut out = Vec::with_capacity(1_024);
    group.bench_function("encode message", |b| {
        b.iter(|| {
            out.clear();
            json::encode(black_box(&event), &mut out);
        });
    });
    let mut written = Vec::new();
    json::encode(&event, &mut written);
    group.bench_function("decode event", |b| b.iter(|| json::decode_event(black_box(&written)).is_ok()));
    group.finish();
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("lines");
    let chunk = [COMMAND, b"\n"].concat().repeat(8);
    group.throughput(Throughput::Bytes(chunk.len() as u64));
    group.bench_function("eight whole lines", |b| {
        let mut decoder = lines::Decoder::new();
        b.iter(|| {
            let mut input = black_box(&chunk[..]);
            let mut lines = 0;
            while let Ok(Some(line)) = decoder.decode(&mut input, 65_536) {
                lines += usize::from(!line.is_empty());
            }
            lines
        });
    });
    group.finish();
}

criterion_group!(benches, masking, websocket, text, framing);
criterion_main!(benches);
