//! What the core costs per message, per join and per connection: `cargo bench --bench chat`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hubbub::chat::{ConnKind, CoreConfig, Handled, Input, Output, State, placement};
use hubbub::clock::Time;
use hubbub::ids::{ConnId, Namespace, RoomName, ShardId};
use hubbub::limits::{EXCHANGE_BACKLOG_MAX, Limits};
use hubbub::message::command::{Command, CommandBody, Connect, Publish};

const CONTENT: &[u8] = br#"{"text":"hello everyone, this is a message of a usual length","n":12345}"#;

fn shard(shard: u16, shards: u16) -> State {
    State::new(CoreConfig {
        shard: ShardId(shard),
        shards,
        limits: Limits::default(),
        node: "bench".into(),
        exchange_backlog_max: EXCHANGE_BACKLOG_MAX,
        seed: 1,
    })
}

fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 1 }
}

fn now(us: u64) -> Time {
    Time { us, unix_ms: 1_700_000_000_000 + us / 1_000 }
}

/// Gives one input and counts those who get something, as the shell would look them up.
fn drive(state: &mut State, input: Input<'_>, at: Time) -> usize {
    assert_eq!(state.handle(input, at), Handled::Done);
    let mut receivers = 0;
    while let Some(output) = state.poll_output() {
        receivers += match &output {
            Output::Fanout { audience, .. } => state.audience(*audience).len(),
            _ => 1,
        };
        black_box(output);
    }
    receivers
}

fn chat(name: String) -> ConnKind {
    ConnKind::Chat { connect: Some(Connect { name: Some(name.into()), ..Connect::default() }), ping_as_event: false }
}

fn message(room: &str, id: Option<u64>) -> Command<'_> {
    let body = CommandBody::Message(Publish {
        room: room.into(),
        content: CONTENT.into(),
        key: None,
        tag: None,
        receipt: false,
        echo: true,
    });
    Command { id, body }
}

/// A shard with `rooms` rooms of `members` each, in the chat or in the relay.
fn filled(rooms: u32, members: u32, namespace: Namespace) -> State {
    let mut state = shard(0, 1);
    for slot in 0..rooms * members {
        let room = format!("room-{}", slot % rooms);
        let kind = match namespace {
            Namespace::Chat => chat(format!("user-{slot}")),
            Namespace::Relay => ConnKind::Relay { room: room.clone() },
        };
        drive(&mut state, Input::Opened { conn: conn(slot), kind, entropy: u128::from(slot) }, now(0));
        if namespace == Namespace::Chat {
            drive(&mut state, Input::JoinFromUrl { conn: conn(slot), room: &room }, now(0));
        }
    }
    state
}

/// A message to a room that this shard owns.
fn local(c: &mut Criterion) {
    let mut group = c.benchmark_group("local");
    group.throughput(Throughput::Elements(1));
    for (rooms, members) in [(1, 1_000), (200, 5), (100, 1)] {
        let names: Vec<String> = (0..rooms).map(|n| format!("room-{n}")).collect();
        let mut slot = 0;
        let mut next = move || {
            slot = (slot + 1) % (rooms * members);
            slot
        };
        for (label, id) in [("message", None), ("message with id", Some(7))] {
            let mut state = filled(rooms, members, Namespace::Chat);
            group.bench_function(format!("{label}, {rooms} x {members}"), |b| {
                b.iter(|| {
                    let slot = next();
                    let command = message(&names[(slot % rooms) as usize], id);
                    drive(&mut state, Input::Command { conn: conn(slot), command }, now(5))
                });
            });
        }
        let mut state = filled(rooms, members, Namespace::Relay);
        let frame = Bytes::from_static(CONTENT);
        group.bench_function(format!("relay, {rooms} x {members}"), |b| {
            b.iter(|| drive(&mut state, Input::Relay { conn: conn(next()), frame: frame.clone() }, now(5)));
        });
    }
    group.finish();
}

/// A message from one shard to a room of the other, with members on both, from the command to both fan-outs.
fn across(c: &mut Criterion) {
    let owned = |name: &String| {
        let name = RoomName::new(Namespace::Chat, name).expect("the name is good");
        placement::owner(name.placement_hash(), 2) == ShardId(1)
    };
    let room = (0..).map(|n| format!("room-{n}")).find(owned).expect("some room lives there");
    let mut shards = [shard(0, 2), shard(1, 2)];
    for (index, state) in shards.iter_mut().enumerate() {
        drive(state, Input::Opened { conn: conn(0), kind: chat(format!("user-{index}")), entropy: 1 }, now(0));
        drive(state, Input::JoinFromUrl { conn: conn(0), room: &room }, now(0));
    }
    exchange(&mut shards);
    let mut group = c.benchmark_group("across");
    for batch in [1_u64, 32] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("message with id, batches of {batch}"), |b| {
            b.iter(|| {
                for id in 0..batch {
                    let command = message(&room, Some(id));
                    drive(&mut shards[0], Input::Command { conn: conn(0), command }, now(5));
                }
                exchange(&mut shards)
            });
        });
    }
    group.finish();
}

/// Moves everything between two shards; the answer is how many got something.
fn exchange(shards: &mut [State; 2]) -> usize {
    let mut receivers = 0;
    while shards.iter().any(State::has_outgoing) {
        for from in 0..2 {
            let to = 1 - from;
            let deliveries = shards[from].take_deliveries(ShardId(to as u16));
            let requests = shards[from].take_requests(ShardId(to as u16));
            let from = ShardId(from as u16);
            for delivery in deliveries {
                receivers += drive(&mut shards[to], Input::Delivery { from, delivery }, now(5));
            }
            for request in requests {
                receivers += drive(&mut shards[to], Input::Request { from, request }, now(5));
            }
        }
    }
    receivers
}

/// Joining and leaving a room, and connections that come, join and go.
fn coming_and_going(c: &mut Criterion) {
    let mut group = c.benchmark_group("coming and going");
    group.throughput(Throughput::Elements(1));
    for members in [1, 1_000, 50_000] {
        let mut state = filled(1, members, Namespace::Chat);
        group.bench_function(format!("leave and join a room of {members}"), |b| {
            b.iter(|| {
                let leave = Command { id: None, body: CommandBody::Leave { room: "room-0".into() } };
                drive(&mut state, Input::Command { conn: conn(0), command: leave }, now(5));
                drive(&mut state, Input::JoinFromUrl { conn: conn(0), room: "room-0" }, now(5))
            });
        });
    }
    group.bench_function("open 1,000 connections in rooms of 100", |b| {
        b.iter_batched(|| (), |()| filled(10, 100, Namespace::Chat), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, local, across, coming_and_going);
criterion_main!(benches);
