//! The core: rooms, memberships, presence, history, and what one connection and one shard owe another.

mod exchange;
mod history;
mod membership;
mod outbox;
mod placement;
mod presence;
mod room;
mod wheel;

use std::hint::black_box;

use std::sync::Arc;

use hubbub::chat::{ConnKind, Consults, CoreConfig, Handled, Input, Output, State};
use hubbub::clock::Time;
use hubbub::ids::{ConnId, Namespace, ShardId};
use hubbub::limits::{EXCHANGE_BACKLOG_MAX, Limits};
use hubbub::message::command::{Command, CommandBody, Connect, Publish};
use hubbub::message::event::{Event, Reply};
use hubbub::policy::RoomPolicies;

use super::{Operation, fold};

pub(super) fn operations() -> Vec<Operation> {
    [
        room::operations(),
        membership::operations(),
        presence::operations(),
        history::operations(),
        exchange::operations(),
        outbox::operations(),
        wheel::operations(),
        placement::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const CONTENT: &[u8] = br#"{"text":"hello everyone, this is a message of a usual length","n":12345}"#;

fn shard(shard: u16, shards: u16) -> State {
    State::new(CoreConfig {
        shard: ShardId(shard),
        shards,
        limits: Limits::default(),
        policies: Arc::new(RoomPolicies::memory(1_000, 1 << 20)),
        permissions: Arc::default(),
        consults: Consults::default(),
        has_store: false,
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

/// Gives one input and folds what is to be done about it, with the members looked up as the shell does.
fn drive(state: &mut State, input: Input<'_>, at: Time) -> u64 {
    assert_eq!(state.handle(input, at), Handled::Done);
    let mut sum = 0;
    while let Some(output) = state.poll_output() {
        sum = match &output {
            Output::Fanout { audience, event, .. } => fold(sum, state.audience(*audience).len() as u64 ^ place(event)),
            Output::Send { event, .. } => fold(sum, place(event)),
            Output::ReplayChunk { messages, .. } => fold(sum, messages.len() as u64),
            _ => fold(sum, 1),
        };
        black_box(output);
    }
    sum
}

/// Where an event stands in its room, or how much it holds.
fn place(event: &Event) -> u64 {
    match event {
        Event::Message(message) => message.seq.0 << 20,
        Event::Presence(presence) => presence.count << 20 ^ presence.joined.len() as u64,
        Event::Ok { body: Reply::Sent { seq, .. }, .. } => seq.0 << 21,
        Event::Ok { body: Reply::History { messages, .. }, .. } => messages.len() as u64,
        Event::Ok { body: Reply::Users { users, count, .. }, .. } => users.len() as u64 ^ count << 20,
        Event::Ok { body: Reply::Joined(joined), .. } => joined.members ^ joined.seq.0 << 20,
        _ => 1,
    }
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

fn command(state: &mut State, slot: u32, body: CommandBody<'_>, at: Time) -> u64 {
    drive(state, Input::Command { conn: conn(slot), command: Command { id: Some(7), body } }, at)
}

/// A shard with `rooms` rooms of `members` each, in the chat or in the relay.
fn filled(rooms: u32, members: u32, namespace: Namespace) -> State {
    let mut state = shard(0, 1);
    for slot in 0..rooms * members {
        let room = format!("room-{}", slot % rooms);
        let kind = match namespace {
            Namespace::Chat => chat(format!("user-{slot}")),
            Namespace::Relay => ConnKind::Relay { room: room.clone(), token: None },
        };
        drive(&mut state, Input::Opened { conn: conn(slot), kind, entropy: u128::from(slot) }, now(0));
        if namespace == Namespace::Chat {
            drive(&mut state, Input::JoinFromUrl { conn: conn(slot), room: &room }, now(0));
        }
    }
    state
}
