//! Commands: what a client asks for. They borrow from the bytes they were read from.

use std::borrow::Cow;

use crate::ids::{Epoch, Seq, SessionId};

/// One command with the reply tag that its client chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The one reply carries this; without it no `ok` is sent.
    pub id: Option<u64>,
    /// What is asked for.
    pub body: CommandBody<'a>,
}

/// The kinds of command that this server understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandBody<'a> {
    /// Opens the session.
    Connect(Connect<'a>),
    /// Enters a room.
    Join(Join<'a>),
    /// Leaves a room.
    Leave {
        /// The room to leave.
        room: Cow<'a, str>,
    },
    /// Leaves one room and enters another in one step.
    Switch {
        /// The room to leave.
        from: Cow<'a, str>,
        /// The room to enter, as for `join`.
        to: Join<'a>,
    },
    /// Says something that is kept.
    Message(Publish<'a>),
    /// Says something that is not kept.
    Signal {
        /// Where.
        room: Cow<'a, str>,
        /// JSON text without raw CR or LF.
        content: Cow<'a, [u8]>,
    },
    /// Replaces a message by a tombstone.
    Delete {
        /// Where.
        room: Cow<'a, str>,
        /// Which message.
        seq: Seq,
    },
    /// Says something to one user, kept in that user's inbox.
    Direct {
        /// To whom.
        to: Cow<'a, str>,
        /// JSON text without raw CR or LF.
        content: Cow<'a, [u8]>,
        /// The client's own name for the message.
        key: Option<Cow<'a, str>>,
    },
    /// Everything up to a position was handled; needs a `join` with `ack`.
    Ack {
        /// Where.
        room: Cow<'a, str>,
        /// The last one handled.
        seq: Seq,
    },
    /// Everything up to a position was read by the user.
    Read {
        /// Where.
        room: Cow<'a, str>,
        /// The last one read.
        seq: Seq,
    },
    /// Reads a page of the room's past.
    History {
        /// Where.
        room: Cow<'a, str>,
        /// From where, and in which direction.
        from: HistoryFrom,
        /// Most messages in the answer; `None` is [`HISTORY_LIMIT_DEFAULT`].
        limit: Option<u64>,
    },
    /// Reads a page of the room's users, in the order of their names.
    Presence {
        /// Where.
        room: Cow<'a, str>,
        /// The page begins after this name.
        after: Option<Cow<'a, str>>,
        /// Most users in the answer; `None` is [`PAGE_LIMIT_DEFAULT`].
        limit: Option<u64>,
    },
    /// Reads a page of the rooms, in the order of their names.
    Rooms {
        /// The page begins after this name.
        after: Option<Cow<'a, str>>,
        /// Most rooms in the answer; `None` is [`PAGE_LIMIT_DEFAULT`].
        limit: Option<u64>,
    },
    /// Acts on a user of a room.
    Moderate {
        /// Where.
        room: Cow<'a, str>,
        /// On whom.
        user: Cow<'a, str>,
        /// What is done.
        measure: Measure,
        /// How long a ban or mute lasts, in milliseconds; `None`: without end.
        for_ms: Option<u64>,
    },
    /// Ends all memberships of a room.
    Close {
        /// Which.
        room: Cow<'a, str>,
    },
    /// Asks for a `pong`.
    Ping,
    /// Answers a `ping`; only a sign of life.
    Pong,
}

/// What can be done to a user of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Put out; may come back.
    Kick,
    /// Put out and kept out.
    Ban,
    /// Silenced.
    Mute,
    /// Kept out no longer.
    Unban,
    /// Silenced no longer.
    Unmute,
}

/// Fields of `connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect<'a> {
    /// A JWT; refused while the server is in open mode.
    pub token: Option<Cow<'a, str>>,
    /// The user's name in open mode.
    pub name: Option<Cow<'a, str>>,
    /// The session to go on with.
    pub resume: Option<Resume<'a>>,
}

/// Field `resume` of `connect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The secret that `welcome` gave.
    pub session: SessionId,
    /// The last position the client has seen of each of its rooms. Rooms of the session that are missing here are
    /// joined without a replay.
    pub rooms: Vec<(Cow<'a, str>, Position)>,
}

/// Fields of `join`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join<'a> {
    /// The room.
    pub room: Cow<'a, str>,
    /// The last position the client has seen: replay what came after it.
    pub since: Option<Position>,
    /// Without `since`: how many of the latest messages to replay.
    pub history: u64,
    /// Whether delivery is to be acknowledged.
    pub ack: bool,
    /// Only messages with one of these tags, or without a tag, are delivered. Empty is all.
    pub tags: Vec<Cow<'a, str>>,
    /// Whether `presence` is to be pushed.
    pub presence: bool,
}

/// Fields of `message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where.
    pub room: Cow<'a, str>,
    /// JSON text without raw CR or LF.
    pub content: Cow<'a, [u8]>,
    /// The client's own name for the message, handed on to the members.
    pub key: Option<Cow<'a, str>>,
    /// For members that filter.
    pub tag: Option<Cow<'a, str>>,
    /// Whether to report how many received it.
    pub receipt: bool,
    /// Whether the sender's own connection gets the message as well.
    pub echo: bool,
}

/// A place in one life of a room's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which life.
    pub epoch: Epoch,
    /// Where in it.
    pub seq: Seq,
}

/// Where a page of history begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryFrom {
    /// The latest messages.
    Latest,
    /// The messages before this one, nearest first to be kept.
    Before(Seq),
    /// The messages after this one; 0 is the start.
    After(Seq),
}

/// Messages in a page of history when the client names no limit.
pub const HISTORY_LIMIT_DEFAULT: usize = 50;
/// Entries in a page of presence or rooms when the client names no limit.
pub const PAGE_LIMIT_DEFAULT: usize = 100;
