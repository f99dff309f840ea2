//! `chat/room`, `chat/owner`, `chat/delivery`: a message to a room that this shard owns, up to its fan-out.

use bytes::Bytes;
use hubbub::chat::Input;
use hubbub::ids::Namespace;

use super::super::{Operation, Work};
use super::{CONTENT, conn, drive, filled, message, now};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        publish("publish to 1 member", 100, 1, None),
        publish("publish to 1 member, with ok", 100, 1, Some(7)),
        publish("publish to 5 members in 200 rooms", 200, 5, None),
        publish("publish to 100 members", 1, 100, None),
        publish("publish to 1,000 members", 1, 1_000, None),
        publish("publish to 1,000 members, with ok", 1, 1_000, Some(7)),
        relay("relay to 1 member", 100, 1),
        relay("relay to 1,000 members", 1, 1_000),
    ]
}

fn publish(what: &'static str, rooms: u32, members: u32, id: Option<u64>) -> Operation {
    let prepare = move || {
        let names: Vec<String> = (0..rooms).map(|n| format!("room-{n}")).collect();
        let mut state = filled(rooms, members, Namespace::Chat);
        let mut slot = 0;
        move || {
            slot = (slot + 1) % (rooms * members);
            let command = message(&names[(slot % rooms) as usize], id);
            drive(&mut state, Input::Command { conn: conn(slot), command }, now(5))
        }
    };
    Operation::new("chat/room", what, Work::Elements(1), prepare)
}

fn relay(what: &'static str, rooms: u32, members: u32) -> Operation {
    let prepare = move || {
        let mut state = filled(rooms, members, Namespace::Relay);
        let frame = Bytes::from_static(CONTENT);
        let mut slot = 0;
        move || {
            slot = (slot + 1) % (rooms * members);
            drive(&mut state, Input::Relay { conn: conn(slot), frame: frame.clone() }, now(5))
        }
    };
    Operation::new("chat/room", what, Work::Elements(1), prepare)
}
