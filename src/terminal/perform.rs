//! Carries out what was typed, for the screen and for pipes alike. Pure.

use super::command::Typed;
use super::session::Session;
use crate::clock::Time;

/// What is left to do by whoever shows the rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// Show this room.
    Show(String),
    /// Show or hide the numbers of messages.
    Numbers,
    /// Show the help.
    Help,
    /// End.
    Quit,
}

/// Carries it out; `current` is the room that is looked at.
pub fn perform(session: &mut Session, current: Option<&str>, typed: Typed, now: Time) -> After {
    match typed {
        Typed::Join(name) => {
            session.join(&name);
            return if session.room(&name).is_some() { After::Show(name) } else { After::Nothing };
        }
        Typed::Direct { to, text } => {
            session.direct(&to, &text, now);
        }
        Typed::Rooms => session.list_rooms(),
        Typed::Numbers => return After::Numbers,
        Typed::Help => return After::Help,
        Typed::Quit => return After::Quit,
        Typed::Leave(Some(name)) => session.leave(&name),
        in_room => match current {
            Some(current) => perform_in(session, current, in_room, now),
            None => match in_room {
                Typed::Say(text) => session.cannot_say(&text, NO_ROOM),
                _ => session.tell(None, NO_ROOM),
            },
        },
    }
    After::Nothing
}

fn perform_in(session: &mut Session, room: &str, typed: Typed, now: Time) {
    match typed {
        Typed::Say(text) => {
            session.say(room, &text, now);
        }
        Typed::Leave(None) => session.leave(room),
        Typed::Who => session.who(room),
        Typed::Moderate { action, user, time } => {
            let for_ms = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            session.moderate(room, action, &user, for_ms);
        }
        Typed::Close => session.close(room),
        Typed::Delete(seq) => session.delete(room, seq),
        _ => {}
    }
}

const NO_ROOM: &str = "you are in no room: /join NAME enters one";
