//! What shards say to each other about rooms: requests to a room's owner, deliveries from it.
//!
//! Invariants: between two shards each of the two kinds arrives in the order it was sent. A delivery is terminal:
//! taking it produces no other delivery, so it is always taken. A request may produce at most two deliveries to
//! any one shard, so it is taken only while no queue of deliveries is full. Every request that announces an answer
//! gets exactly one, so a connection's count of unanswered commands always comes back to zero.
//!
//! Absent: how the envelopes travel, and what a peer's bytes looked like.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::access::{Identity, Standing};
use crate::chat::audience::AudienceId;
pub use crate::chat::entry::{JoinRequest, JoinTicket, JoinedReply};
use crate::chat::log::{CursorKind, SessionRecord};
use crate::chat::operate::{OPERATOR, RoomOrder};
use crate::ids::{ConnId, RoomName, Seq, SessionId, ShardId, UserName};
use crate::message::close::ErrorCode;
use crate::message::command::{HistoryFrom, Measure};
use crate::message::event::{KickNotice, Message, Presence, Reply, RoomSummary, Signal};

/// A room in its owner's table. The generation tells apart rooms that used the same slot in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// How a request names its room.
#[derive(Clone, Debug)]
pub enum RoomRef {
    /// As the owner's answer to a join named it.
    Id(RoomId),
    /// By name, while no join has been answered.
    Name(RoomName),
}

/// One member of a room as its own shard and the owner both know it: the member's shard chooses the number, which
/// stays the same from join to leave, so the owner finds the member without hashing or searching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    /// Place in the owner's table of that shard's members.
    pub number: u32,
    /// Whose it is; checked against the table.
    pub conn: ConnId,
}

/// What a member's shard asks of a room's owner.
#[derive(Debug)]
pub enum Request {
    /// Enter. Answered by [`Delivery::Joined`] or [`Delivery::JoinRefused`].
    Join(Box<JoinRequest>),
    /// Be gone. Sent at most once for each join; never counted against a queue's bound, never answered.
    Leave {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// Whether the user stays present for a while, because it may reconnect.
        grace: bool,
    },
    /// Say something that is kept. Answered when there is an `id`, or when it is refused.
    Publish {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// The command's tag.
        id: Option<u64>,
        /// What.
        draft: Draft,
    },
    /// Say something that is not kept. Answered like a message.
    Signal {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// The command's tag.
        id: Option<u64>,
        /// What.
        content: Bytes,
    },
    /// Replace a message by a tombstone. Answered like a message.
    Delete {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// The command's tag.
        id: Option<u64>,
        /// Which message.
        seq: Seq,
    },
    /// Say something in a user's inbox, as no member of it. Answered like a message.
    Direct {
        /// The inbox.
        room: RoomName,
        /// The sender's connection.
        conn: ConnId,
        /// The sender.
        user: UserName,
        /// The command's tag.
        id: Option<u64>,
        /// What.
        draft: Draft,
    },
    /// Move one of the user's cursors. Answered like a message.
    Cursor {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// The command's tag.
        id: Option<u64>,
        /// Which cursor.
        kind: CursorKind,
        /// Everything up to here.
        seq: Seq,
    },
    /// Hand over a session that was opened on this shard. Always answered, by [`Delivery::Resumed`]; never counted
    /// against a queue's bound, for a connection asks once in its life.
    Resume {
        /// Its secret.
        session: SessionId,
        /// Whose it must be, if the client has said so.
        user: Option<UserName>,
        /// Who asks.
        conn: ConnId,
    },
    /// How many members of a shard were sent a message whose sender wants a receipt. At most one for each
    /// [`Delivery::Message`]; never counted against a queue's bound, never answered.
    Received {
        /// Which room.
        room: RoomId,
        /// Which message.
        seq: Seq,
        /// Members.
        count: u32,
    },
    /// Read a page of the past. Always answered.
    History {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// The command's tag.
        id: u64,
        /// From where.
        from: HistoryFrom,
        /// Most messages; at most [`crate::limits::PAGE_MAX`].
        limit: usize,
    },
    /// Read a page of the users. Always answered.
    Presence {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// The command's tag.
        id: u64,
        /// Begin after this name.
        after: Option<UserName>,
        /// Most users; at most [`crate::limits::PAGE_MAX`].
        limit: usize,
    },
    /// Send a frame to everyone in a room of the relay. Never answered.
    Relay {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// The frame as every member gets it.
        frame: Bytes,
    },
    /// Send the next chunk of a replay. At most one for each [`Delivery::Replay`]; never counted against a queue's
    /// bound. Answered by [`Delivery::Replay`].
    ReplayNext {
        /// Which room.
        room: RoomId,
        /// Who.
        seat: Seat,
    },
    /// Act on a user of a room. Answered like a message.
    Moderate {
        /// Which room.
        room: RoomRef,
        /// Who asks for it.
        seat: Seat,
        /// The command's tag.
        id: Option<u64>,
        /// What is to be done.
        order: Box<Order>,
    },
    /// End all memberships of a room. Answered like a message.
    CloseRoom {
        /// Which room.
        room: RoomRef,
        /// Who asks for it.
        seat: Seat,
        /// The command's tag.
        id: Option<u64>,
    },
    /// A member is and may do something else from now on. Answered by [`Delivery::Settled`]; at most one for each
    /// membership and fresh token, never counted against a queue's bound.
    Standing {
        /// Which room.
        room: RoomRef,
        /// Who.
        seat: Seat,
        /// What it is and may do.
        standing: Standing,
    },
    /// List rooms that live here. Answered by [`Delivery::Rooms`].
    Rooms {
        /// The asker's own number for its question.
        gather: u64,
        /// For whom: only rooms that it may enter.
        identity: Arc<Identity>,
        /// It goes on from where the last answer ended: then it does not count against the queue's bound, for there is
        /// one at a time for each list.
        again: bool,
        /// Begin after this name.
        after: Option<RoomName>,
        /// Most rooms.
        limit: usize,
    },
    /// Carry out an operator's order about a room. Never sent: it is what waits for the room to open.
    Operate {
        /// Which room.
        room: RoomName,
        /// The order's.
        ticket: u64,
        /// What.
        order: Box<RoomOrder>,
    },
    /// Answer when everything asked before this has been answered. At most one per connection and owner, never
    /// counted against a queue's bound. Answered by [`Delivery::Settled`].
    Settle {
        /// Who asks.
        conn: ConnId,
    },
}

impl Request {
    /// The room it is about, unless it names a room that must exist by then (a join does).
    pub(super) fn room(&self) -> Option<&RoomRef> {
        match self {
            Self::Leave { room, .. }
            | Self::Publish { room, .. }
            | Self::Signal { room, .. }
            | Self::Delete { room, .. }
            | Self::Cursor { room, .. }
            | Self::History { room, .. }
            | Self::Presence { room, .. }
            | Self::Moderate { room, .. }
            | Self::CloseRoom { room, .. }
            | Self::Standing { room, .. } => Some(room),
            Self::Join(_)
            | Self::Direct { .. }
            | Self::Relay { .. }
            | Self::ReplayNext { .. }
            | Self::Rooms { .. }
            | Self::Resume { .. }
            | Self::Received { .. }
            | Self::Operate { .. }
            | Self::Settle { .. } => None,
        }
    }

    /// Who hears of it if it is refused, and by which tag.
    pub(super) fn waiter(&self) -> Option<(ConnId, Option<u64>)> {
        match self {
            Self::Publish { seat, id, .. }
            | Self::Signal { seat, id, .. }
            | Self::Cursor { seat, id, .. }
            | Self::Moderate { seat, id, .. }
            | Self::CloseRoom { seat, id, .. }
            | Self::Delete { seat, id, .. } => Some((seat.conn, *id)),
            Self::Direct { conn, id, .. } => Some((*conn, *id)),
            Self::Operate { ticket, .. } => Some((OPERATOR, Some(*ticket))),
            Self::History { seat, id, .. } | Self::Presence { seat, id, .. } => Some((seat.conn, Some(*id))),
            _ => None,
        }
    }
}

/// What a member wants done to a user.
#[derive(Clone, Debug)]
pub struct Order {
    /// To whom.
    pub user: UserName,
    /// What.
    pub measure: Measure,
    /// How long it lasts, in milliseconds; `None`: without end.
    pub for_ms: Option<u64>,
}

/// A message before its room has given it a place.
#[derive(Debug)]
pub struct Draft {
    /// JSON text without raw CR or LF.
    pub content: Bytes,
    /// The sender's own name for it.
    pub key: Option<Arc<str>>,
    /// For members that filter.
    pub tag: Option<Arc<str>>,
    /// Whether the sender's own connection gets it as well.
    pub echo: bool,
    /// Whether the sender wants to know who got it.
    pub receipt: bool,
}

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what was wrong and what to do.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// A refusal whose text is known beforehand.
    #[must_use]
    pub const fn new(code: ErrorCode, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message) }
    }
}

/// What a room's owner sends to a member's shard. An audience or connection that is no longer there is no error:
/// whoever it was for has left.
#[derive(Debug)]
pub enum Delivery {
    /// A message for everyone of an audience.
    Message {
        /// To whom.
        audience: AudienceId,
        /// What.
        message: Arc<Message>,
        /// Not to this one.
        except: Option<ConnId>,
        /// Whether to tell the owner how many got it.
        count: Count,
    },
    /// A signal for everyone of an audience.
    Signal {
        /// To whom.
        audience: AudienceId,
        /// What.
        signal: Arc<Signal>,
    },
    /// A message became a tombstone.
    Deleted {
        /// To whom.
        audience: AudienceId,
        /// Which.
        seq: Seq,
    },
    /// Who came and went, for those of an audience that asked.
    Presence {
        /// To whom.
        audience: AudienceId,
        /// What.
        presence: Arc<Presence>,
    },
    /// A frame of the relay for everyone of an audience.
    Relay {
        /// To whom.
        audience: AudienceId,
        /// What.
        frame: Bytes,
    },
    /// A join succeeded. What the owner sends to the audience from now on is for this member too, once its replay
    /// has ended.
    Joined(Box<JoinedReply>),
    /// A join failed.
    JoinRefused {
        /// Which audience.
        audience: AudienceId,
        /// Who.
        conn: ConnId,
        /// As it was given.
        ticket: JoinTicket,
        /// Why.
        refusal: Refusal,
    },
    /// Part of a replay.
    Replay {
        /// Which audience.
        audience: AudienceId,
        /// Who.
        conn: ConnId,
        /// First and last message that retention took before they could be replayed.
        gap: Option<(Seq, Seq)>,
        /// Oldest first.
        messages: Vec<Arc<Message>>,
        /// Whether this was the last: the member is live from here on.
        live: bool,
        /// How often these messages have been sent to this member, this time included.
        attempt: u32,
    },
    /// Members are out of the room without having asked for it.
    Kicked {
        /// Which audience.
        audience: AudienceId,
        /// Who.
        conns: Vec<ConnId>,
        /// Why.
        notice: Box<KickNotice>,
    },
    /// Everyone of an audience is out of the room, for it was closed.
    RoomClosed {
        /// Which audience.
        audience: AudienceId,
    },
    /// How many have a message, for its sender.
    Receipt {
        /// The sender.
        conn: ConnId,
        /// Where.
        room: RoomName,
        /// Which message.
        seq: Seq,
        /// Members that have it.
        delivered: u64,
        /// Members that it was for.
        members: u64,
    },
    /// Answers [`Request::Resume`].
    Resumed {
        /// Who asked.
        conn: ConnId,
        /// The session, if it is there.
        session: Option<Box<SessionRecord>>,
    },
    /// The answer to a command.
    Reply {
        /// Whose.
        conn: ConnId,
        /// The command's tag.
        id: Option<u64>,
        /// What came of it.
        outcome: Result<Reply, Refusal>,
    },
    /// Rooms of one shard.
    Rooms {
        /// Which question.
        gather: u64,
        /// By whom.
        shard: ShardId,
        /// In the order of names.
        rooms: Vec<RoomSummary>,
        /// Up to where it has looked, if there is more.
        reached: Option<RoomName>,
    },
    /// Answers [`Request::Settle`].
    Settled {
        /// Who asked.
        conn: ConnId,
    },
}

/// Whether members that get a message are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// Nobody wants to know.
    #[default]
    No,
    /// They are.
    All,
    /// They are, but for the sender.
    Others(ConnId),
}
