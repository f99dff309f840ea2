//! `chat/history`: a room's past, read in pages and replayed to those who come back.

use hubbub::chat::{Input, State};
use hubbub::ids::{Namespace, Seq};
use hubbub::message::command::{CommandBody, HistoryFrom, Join};

use super::super::{Operation, Work, fold};
use super::{command, conn, drive, filled, message, now};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new("chat/history", "page of 50 before the middle", Work::Elements(50), || {
            let mut state = with_past();
            move || {
                let from = HistoryFrom::Before(Seq(600));
                let page = CommandBody::History { room: "room-0".into(), from, limit: Some(50) };
                command(&mut state, 0, page, now(5))
            }
        }),
        rejoin("leave and join with the latest 20", 20),
        rejoin("leave and join with the latest 1,000", 1_000),
    ]
}

/// One room of two, with as much of a past as is kept.
fn with_past() -> State {
    let mut state = filled(1, 2, Namespace::Chat);
    for _ in 0..1_000 {
        drive(&mut state, Input::Command { conn: conn(1), command: message("room-0", None) }, now(1));
    }
    state
}

fn rejoin(what: &'static str, history: u64) -> Operation {
    let prepare = move || {
        let mut state = with_past();
        move || {
            let left = command(&mut state, 0, CommandBody::Leave { room: "room-0".into() }, now(5));
            let join = Join { room: "room-0".into(), history, ..Join::default() };
            fold(left, command(&mut state, 0, CommandBody::Join(join), now(5)))
        }
    };
    Operation::new("chat/history", what, Work::Elements(history), prepare)
}
