//! `chat/presence`: who is in a room, and telling of it.

use hubbub::chat::{Input, State};
use hubbub::ids::Namespace;
use hubbub::message::command::{CommandBody, Join};

use super::super::{Operation, Work, fold};
use super::{command, filled, now};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        page("page of 100 from a room of 1,000", 1_000),
        push("10 users come and go, told to 100 who listen", 100),
        push("10 users come and go, told to 1,000 who listen", 1_000),
    ]
}

fn page(what: &'static str, members: u32) -> Operation {
    let prepare = move || {
        let mut state = filled(1, members, Namespace::Chat);
        move || {
            let page = CommandBody::Presence { room: "room-0".into(), after: Some("user-5".into()), limit: Some(100) };
            command(&mut state, 0, page, now(5))
        }
    };
    Operation::new("chat/presence", what, Work::Elements(1), prepare)
}

fn push(what: &'static str, listeners: u32) -> Operation {
    let prepare = move || {
        let mut state = filled(1, listeners + 10, Namespace::Chat);
        for slot in 0..listeners {
            let leave = CommandBody::Leave { room: "room-0".into() };
            command(&mut state, slot, leave, now(0));
            join(&mut state, slot, true, 0);
        }
        let mut at = 0;
        move || {
            let mut sum = 0;
            for slot in listeners..listeners + 10 {
                sum = fold(sum, command(&mut state, slot, CommandBody::Leave { room: "room-0".into() }, now(at)));
            }
            // Past the grace, so that they are told as gone; then they come again.
            at += 6_000_000;
            sum = fold(sum, super::drive(&mut state, Input::Tick, now(at)));
            for slot in listeners..listeners + 10 {
                sum = fold(sum, join(&mut state, slot, false, at));
            }
            at += 2_000_000;
            for slot in 0..listeners + 10 {
                state.alive(super::conn(slot), now(at));
            }
            fold(sum, super::drive(&mut state, Input::Tick, now(at)))
        }
    };
    Operation::new("chat/presence", what, Work::Elements(20), prepare)
}

fn join(state: &mut State, slot: u32, presence: bool, us: u64) -> u64 {
    let join = Join { room: "room-0".into(), presence, ..Join::default() };
    command(state, slot, CommandBody::Join(join), now(us))
}
