//! The pure core of one shard: sessions, rooms and what they owe each other.
//!
//! No socket, clock, thread, lock, randomness or encoding is in here. The shell calls [`State::handle`] with one
//! [`Input`], then [`State::poll_output`] until it is empty, and at the end of its turn moves
//! [`State::take_deliveries`] and [`State::take_requests`] to the other shards' mailboxes.

mod arena;
mod arrivals;
pub mod audience;
pub mod auth;
mod buckets;
mod commands;
mod consumer;
mod cursors;
mod delivery;
mod directory;
#[cfg(test)]
mod driver;
pub mod entry;
pub mod exchange;
mod feeding;
mod history;
mod identity;
mod invariants;
mod journal;
mod keeping;
mod keys;
mod lifecycle;
pub mod log;
mod moderation;
pub mod operate;
pub mod outbox;
mod owner;
pub mod placement;
mod presence;
mod publish;
mod random;
mod recall;
mod receipts;
mod relay;
mod replay;
mod resume;
mod review;
mod rights;
mod room;
mod room_log;
mod sanctions;
mod session;
pub mod state;
#[cfg(test)]
mod tests;
pub mod wheel;

use std::sync::Arc;

use bytes::Bytes;

use crate::access::{Identity, Permissions};
use crate::ids::{ConnId, RoomName, ShardId, UserName};
use crate::limits::Limits;
use crate::message::close::{CloseReason, ErrorCode};
use crate::message::command::{Command, Connect};
use crate::message::event::Event;
use crate::policy::RoomPolicies;

pub use audience::AudienceId;
pub use buckets::Limited;
pub use exchange::{Delivery, Refusal, Request};
pub use state::{Counts, State};

/// What happens to a shard.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection has finished its transport's handshake. Not used again for the same `conn` until the shell
    /// has said [`Input::Closed`].
    Opened {
        /// The connection.
        conn: ConnId,
        /// What it speaks.
        kind: ConnKind,
        /// Fresh random bits, from which the session's secret and a guest's name are made.
        entropy: u128,
    },
    /// A whole command was read. May be answered by [`Handled::Blocked`]: then nothing has happened, and the
    /// shell keeps the command's bytes, stops reading and tries again after [`Output::Unblocked`].
    Command {
        /// Who sent it.
        conn: ConnId,
        /// What it says.
        command: Command<'a>,
    },
    /// The URL named rooms: enter them as if `join` had been sent without `id`. Blocks like a command.
    JoinFromUrl {
        /// Who.
        conn: ConnId,
        /// The room's name, unchecked.
        room: &'a str,
    },
    /// Something was read of which no command could be made: answer with an error.
    BadCommand {
        /// Who sent it.
        conn: ConnId,
        /// The command's tag, where it could be read.
        id: Option<u64>,
        /// Why it is refused.
        code: ErrorCode,
        /// What was wrong and what to do.
        message: std::borrow::Cow<'static, str>,
    },
    /// A relay connection sent a message. Blocks like a command.
    Relay {
        /// Who sent it.
        conn: ConnId,
        /// The frame as every member will get it.
        frame: Bytes,
    },
    /// The peer says no more, or nothing that could be understood: what it said before is answered, and what it sent
    /// to rooms comes back to it; then [`Output::Close`].
    Finished {
        /// Who.
        conn: ConnId,
        /// What to close it for.
        reason: CloseReason,
        /// It still reads (TCP half-close): a replay that runs is finished too.
        reads_on: bool,
    },
    /// The shell is done with the connection, whoever ended it. Nothing is output for it any more.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// An outbox has room again after [`Output::ReplayChunk`] (at once, when it never was full).
    ReplayReady {
        /// Whose.
        conn: ConnId,
        /// Which membership, as given.
        audience: AudienceId,
    },
    /// Something that another shard sent; always taken, in the order it was sent.
    Delivery {
        /// By whom.
        from: ShardId,
        /// What.
        delivery: Delivery,
    },
    /// Something that another shard asks; only given while [`State::takes_requests`].
    Request {
        /// By whom.
        from: ShardId,
        /// What.
        request: Request,
    },
    /// The store says something; always taken, in the order it was said.
    Log(log::LogEvent),
    /// An operator wants something; only given while [`State::takes_requests`]. Answered by [`Output::Answered`].
    Order {
        /// Comes back with the answer.
        ticket: u64,
        /// What.
        order: operate::Order,
    },
    /// Answers [`Output::Identify`], exactly once unless the connection was closed meanwhile.
    Identified {
        /// Which connection.
        conn: ConnId,
        /// Who it is, or what its client is told.
        outcome: Result<Arc<Identity>, Refusal>,
    },
    /// Answers [`Output::Consult`], exactly once unless the connection was closed meanwhile.
    Consulted {
        /// Which connection.
        conn: ConnId,
        /// Whether its command goes on, or what its client is told.
        verdict: Result<(), Refusal>,
    },
    /// What the server allows has changed. What runs goes on: limits hold from the next check on, permissions for
    /// every later join.
    Rules(Box<Rules>),
    /// [`State::next_deadline_ms`] has come.
    Tick,
    /// The server stops: tell every connection, refuse new commands.
    Drain {
        /// The latest that clients should come back, in milliseconds; each is given a time of its own up to it.
        retry_after_max_ms: u64,
    },
}

/// Whether an input was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    /// It was.
    Done,
    /// It was not, because a queue to another shard is full; give it again after [`Output::Unblocked`].
    Blocked,
}

/// What a connection speaks.
#[derive(Clone, Debug)]
pub enum ConnKind {
    /// The chat protocol.
    Chat {
        /// What the URL said in place of `connect`; `None` means that `connect` must come.
        connect: Option<Connect<'static>>,
        /// Whether heartbeats are events rather than the transport's own frames; false: [`Output::Ping`].
        ping_as_event: bool,
    },
    /// One room of the relay, by its unchecked name.
    Relay {
        /// The room.
        room: String,
        /// The token that came with the request.
        token: Option<Box<str>>,
    },
}

/// What a shard wants done. In order.
#[derive(Debug)]
pub enum Output {
    /// Send one event to one connection.
    Send {
        /// To whom.
        conn: ConnId,
        /// What.
        event: Event,
    },
    /// Send one event to the members of an audience: those that [`State::audience`] gives at this moment, but
    /// for `except`.
    Fanout {
        /// To whom.
        audience: AudienceId,
        /// What.
        event: Event,
        /// Not to this one.
        except: Option<ConnId>,
    },
    /// Send messages of the past to one connection, then say [`Input::ReplayReady`] once its outbox is at most
    /// half full.
    ReplayChunk {
        /// To whom.
        conn: ConnId,
        /// Which membership, for the answer.
        audience: AudienceId,
        /// Oldest first.
        messages: Vec<Arc<crate::message::event::Message>>,
        /// How often these messages have been sent to it, this time included.
        attempt: u32,
    },
    /// Send a ping frame of the transport.
    Ping {
        /// To whom.
        conn: ConnId,
    },
    /// Flush the outbox, say goodbye and close. The shell answers with [`Input::Closed`] when it is done.
    Close {
        /// Whom.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// Find out who a connection is, and answer with [`Input::Identified`]; it waits until then.
    Identify {
        /// Which.
        conn: ConnId,
        /// The token that it shows.
        token: Option<Box<str>>,
        /// The name that it gives, unchecked.
        name: Option<Box<str>>,
        /// It is identified already, and shows a fresh token.
        refresh: bool,
        /// It comes to go on with a session, whose connection may not be known to be gone.
        resumes: bool,
    },
    /// Ask the application whether a command may go on, and answer with [`Input::Consulted`]; the connection waits
    /// until then.
    Consult {
        /// Whose command.
        conn: ConnId,
        /// What it is about to do.
        question: Question,
    },
    /// Someone was put out, shut out or silenced, or is so no longer: for the audit log.
    Noted(Box<Note>),
    /// A connection whose input was [`Handled::Blocked`] may try again.
    Unblocked {
        /// Which.
        conn: ConnId,
    },
    /// An operator's order is carried out, or refused.
    Answered {
        /// As it was given.
        ticket: u64,
        /// What came of it.
        outcome: Result<operate::OrderReply, exchange::Refusal>,
    },
}

/// What the core needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// Caps and times.
    pub limits: Limits,
    /// What is kept of which rooms.
    pub policies: Arc<RoomPolicies>,
    /// Who may do what.
    pub permissions: Arc<Permissions>,
    /// What others are asked about.
    pub consults: Consults,
    /// Whether there is a store: bans and mutes are kept in it, also those of rooms that are not.
    pub has_store: bool,
    /// Names the server in `welcome`.
    pub node: Arc<str>,
    /// Envelopes to another shard that may wait ([`crate::limits::EXCHANGE_BACKLOG_MAX`]; simulations use 1).
    pub exchange_backlog_max: usize,
    /// Seeds epochs and the phases of heartbeats.
    pub seed: u64,
}

/// What a shard asks others before it does it. Nothing: open mode without an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consults {
    /// Who a connection is ([`Output::Identify`]). Otherwise its name says so.
    pub connect: bool,
    /// Whether it may enter a room ([`Question::Join`]).
    pub join: bool,
    /// Whether a message may be said ([`Question::Message`]).
    pub message: bool,
}

/// What was done to someone, told once, by the shard that decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Someone was not let in. What the shell refused ([`Input::Identified`]) is not told back.
    TurnedAway {
        /// Which connection.
        conn: ConnId,
        /// Who, if it is known.
        user: Option<UserName>,
        /// Why.
        refusal: Refusal,
    },
    /// A ban, a mute or a revocation is in force, or was lifted.
    Sanction(log::SanctionRecord),
    /// A user was put out of a room.
    Kick {
        /// Which.
        room: RoomName,
        /// Who.
        user: UserName,
        /// By whom; `None` is an operator.
        by: Option<UserName>,
    },
    /// All were put out of a room.
    Close {
        /// Which.
        room: RoomName,
        /// By whom; `None` is an operator.
        by: Option<UserName>,
    },
}

/// What a connection is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Enter a room.
    Join {
        /// Which.
        room: RoomName,
    },
    /// Say something that is kept.
    Message {
        /// Where; an inbox if it is for one user.
        room: RoomName,
        /// JSON text without raw CR or LF.
        content: Bytes,
        /// The sender's own name for it.
        key: Option<Arc<str>>,
        /// For members that filter.
        tag: Option<Arc<str>>,
    },
}

/// What may change while the server runs.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Caps and times.
    pub limits: Limits,
    /// What is kept of which rooms; a room that is in memory keeps to what it began with.
    pub policies: Arc<RoomPolicies>,
    /// Who may do what.
    pub permissions: Arc<Permissions>,
    /// What others are asked about.
    pub consults: Consults,
}
