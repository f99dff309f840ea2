//! `chat/commands`, `chat/lifecycle`, `chat/session`: connections that come, join, leave and go.

use hubbub::chat::Input;
use hubbub::ids::Namespace;
use hubbub::message::close::CloseReason;
use hubbub::message::command::CommandBody;

use super::super::{Operation, Work, fold};
use super::{chat, command, conn, drive, filled, now};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        rejoin("leave and join a room of 1", 1),
        rejoin("leave and join a room of 1,000", 1_000),
        reconnect("close and open in a room of 1,000", 1_000),
        Operation::new("chat/membership", "open 1,000 connections in rooms of 100", Work::Elements(1_000), || {
            || filled(10, 100, Namespace::Chat).counts().rooms as u64
        }),
    ]
}

fn rejoin(what: &'static str, members: u32) -> Operation {
    let prepare = move || {
        let mut state = filled(1, members, Namespace::Chat);
        move || {
            let left = command(&mut state, 0, CommandBody::Leave { room: "room-0".into() }, now(5));
            fold(left, drive(&mut state, Input::JoinFromUrl { conn: conn(0), room: "room-0" }, now(5)))
        }
    };
    Operation::new("chat/membership", what, Work::Elements(1), prepare)
}

fn reconnect(what: &'static str, members: u32) -> Operation {
    let prepare = move || {
        let mut state = filled(1, members, Namespace::Chat);
        move || {
            let closed = Input::Closed { conn: conn(0), reason: CloseReason::Normal };
            let went = drive(&mut state, closed, now(5));
            let opened = Input::Opened { conn: conn(0), kind: chat("user-0".into()), entropy: 1 };
            let came = fold(went, drive(&mut state, opened, now(5)));
            fold(came, drive(&mut state, Input::JoinFromUrl { conn: conn(0), room: "room-0" }, now(5)))
        }
    };
    Operation::new("chat/membership", what, Work::Elements(1), prepare)
}
