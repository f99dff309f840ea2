//! Events: what the server tells a client. They own what they carry, so that they can go to another shard.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{Epoch, RoomName, Seq, SessionId, UserName};
use crate::message::close::ErrorCode;

/// One object to one client, or the same object to many.
#[derive(Clone, Debug)]
pub enum Event {
    /// Answers `connect`.
    Welcome {
        /// The command's tag.
        id: Option<u64>,
        /// What it says.
        body: Box<Welcome>,
    },
    /// A command was carried out.
    Ok {
        /// The command's tag.
        id: Option<u64>,
        /// What it says.
        body: Reply,
    },
    /// A command was refused, or nothing could be made of it.
    Error {
        /// The command's tag, where it could be read.
        id: Option<u64>,
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people: what was wrong and what to do.
        message: Cow<'static, str>,
    },
    /// Answers `ping`.
    Pong {
        /// The command's tag.
        id: Option<u64>,
    },
    /// A message of a room.
    Message(Arc<Message>),
    /// A message of a room that was sent to this consumer before, and not acknowledged in time.
    Redelivered {
        /// What.
        message: Arc<Message>,
        /// How often it has been sent, this time included; at least 2.
        attempt: u32,
    },
    /// How many of a room's members have a message, for its sender.
    Receipt {
        /// Where.
        room: RoomName,
        /// Which.
        seq: Seq,
        /// Members that have it: a consumer once it has acknowledged, others once it was queued for them.
        delivered: u64,
        /// Members that it was for.
        members: u64,
    },
    /// This connection is no longer in a room.
    Kicked {
        /// Which.
        room: RoomName,
        /// Why.
        notice: Box<KickNotice>,
    },
    /// A room was closed: nobody is in it any more.
    Closed {
        /// Which.
        room: RoomName,
    },
    /// An ephemeral message of a room.
    Signal(Arc<Signal>),
    /// A message became a tombstone.
    Deleted {
        /// Where.
        room: RoomName,
        /// Which.
        seq: Seq,
    },
    /// Who came and went since the last of these.
    Presence(Arc<Presence>),
    /// Messages from `from` to `to`, both included, are not delivered.
    Gap {
        /// Where.
        room: RoomName,
        /// First one.
        from: Seq,
        /// Last one.
        to: Seq,
    },
    /// The server ends this connection soon.
    Closing {
        /// Why.
        reason: &'static str,
        /// When to come back, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// A sign of life is wanted (TCP; WebSocket has a frame for it).
    Ping,
    /// A frame of the relay, encoded by the shell and opaque to everyone else.
    Relay(Bytes),
}

/// Why a connection is no longer in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KickNotice {
    /// A word for programs.
    pub reason: &'static str,
    /// Who did it, if a member did.
    pub by: Option<UserName>,
    /// Until when it may not come back, Unix milliseconds; absent when it may, and when there is no end.
    pub until_unix_ms: Option<u64>,
}

impl KickNotice {
    /// A notice with a reason and nothing else.
    #[must_use]
    pub fn new(reason: &'static str) -> Self {
        Self { reason, by: None, until_unix_ms: None }
    }
}

/// The answer to `connect`.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// Names the connection in logs.
    pub connection: String,
    /// Who the client is.
    pub user: UserName,
    /// What people call it, if its token says so.
    pub name: Option<Arc<str>>,
    /// The session's secret, written as 32 hexadecimal digits.
    pub session: SessionId,
    /// Silence after which the server pings, in milliseconds.
    pub heartbeat_ms: u64,
    /// Limits a client needs to know.
    pub limits: WelcomeLimits,
    /// Names the server.
    pub node: Arc<str>,
    /// Whether the session asked for goes on; absent when none was asked for. If so, an `ok` without tag follows for
    /// each of its rooms, as for rooms in the URL.
    pub resumed: Option<bool>,
    /// When its token ends, Unix milliseconds.
    pub expires: Option<u64>,
}

/// The `limits` of a `welcome`.
#[derive(Clone, Copy, Debug)]
pub struct WelcomeLimits {
    /// Largest message in bytes.
    pub message_bytes: usize,
    /// Most rooms of one connection.
    pub rooms: usize,
    /// Most commands waiting for their reply.
    pub unanswered: usize,
}

/// What an `ok` says beside its tag.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing more.
    Done,
    /// Answers `join` and `switch`.
    Joined(Box<Joined>),
    /// Answers `message`.
    Sent {
        /// Where.
        room: RoomName,
        /// The message's position.
        seq: Seq,
        /// The message's time, Unix milliseconds.
        timestamp: u64,
        /// Whether it survives a crash by now.
        durable: bool,
        /// Whether the same key has been used before: `seq` is that message's.
        duplicate: bool,
    },
    /// Answers `history`, oldest first.
    History {
        /// Where.
        room: RoomName,
        /// Which life of its log.
        epoch: Epoch,
        /// The page.
        messages: Vec<Arc<Message>>,
        /// Whether there is more in the direction asked for.
        more: bool,
    },
    /// Answers `presence`, in the order of names.
    Users {
        /// The page.
        users: Vec<PresentUser>,
        /// How many there are in all.
        count: u64,
        /// Ask again with `after` set to this, if there is more.
        next: Option<UserName>,
    },
    /// Answers `rooms`, in the order of names.
    Rooms {
        /// The page.
        rooms: Vec<RoomSummary>,
        /// Ask again with `after` set to this, if there is more.
        next: Option<RoomName>,
    },
}

/// What an `ok` for `join` says.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The room.
    pub room: RoomName,
    /// Which life of its log.
    pub epoch: Epoch,
    /// The head of the log; what is newer comes live.
    pub seq: Seq,
    /// Users in the room, this one included.
    pub members: u64,
    /// What this user may do.
    pub role: Role,
    /// Whether `since` could be met in full; absent without `since`.
    pub recovered: Option<bool>,
    /// Messages after the user's read cursor; absent when the user has none in this room.
    pub unread: Option<u64>,
}

/// What a user may do in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads only.
    Guest,
    /// Reads and writes.
    Member,
    /// Also deletes what others wrote.
    Host,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 3] = [Self::Guest, Self::Member, Self::Host];

    /// The role that clients read as this word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// The role as clients read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Member => "member",
            Self::Host => "host",
        }
    }
}

/// A message of a room, as it is kept and delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub room: RoomName,
    /// Its position.
    pub seq: Seq,
    /// The position before it, where that is not `seq - 1`: after an unclean stop some are passed over.
    pub prev: Option<Seq>,
    /// Who said it.
    pub sender: UserName,
    /// JSON text without raw CR or LF; of a tombstone, `null`.
    pub content: Bytes,
    /// Unix milliseconds; never goes back within a room.
    pub timestamp: u64,
    /// For members that filter.
    pub tag: Option<Arc<str>>,
    /// The sender's own name for it.
    pub key: Option<Arc<str>>,
    /// Whether it was deleted.
    pub deleted: bool,
}

impl Message {
    /// Bytes of content, key and tag: what it counts for in limits of history.
    #[must_use]
    pub fn weight(&self) -> usize {
        let label = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        self.content.len() + label(&self.key) + label(&self.tag)
    }
}

/// An ephemeral message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Where.
    pub room: RoomName,
    /// Who sent it.
    pub sender: UserName,
    /// JSON text without raw CR or LF.
    pub content: Bytes,
}

/// Changes of who is present. In large rooms both lists stay empty and only the count is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Where.
    pub room: RoomName,
    /// Who came.
    pub joined: Vec<UserName>,
    /// Who went.
    pub left: Vec<UserName>,
    /// How many users are present.
    pub count: u64,
}

/// A user in a page of presence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentUser {
    /// Who.
    pub user: UserName,
    /// Since when, Unix milliseconds.
    pub since: u64,
}

/// A room in a page of rooms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSummary {
    /// Which.
    pub room: RoomName,
    /// Users present.
    pub members: u64,
}
