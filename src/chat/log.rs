//! What the core asks of durable storage, and what it hears from it.
//!
//! A room's log is named by its epoch alone: rooms that are wiped or lost begin again under another one. Writes leave
//! in batches, one per turn of the shard at most, numbered by tickets from 1 on, and are applied in that order; what a
//! ticket covers is durable once [`LogEvent::Committed`] says so. Reads see every write that was committed before they
//! were asked; what is newer, the core still has in memory.
//!
//! Absent: how any of it is stored; the core never waits.

use std::sync::Arc;

use crate::ids::{Epoch, RoomName, Seq, SessionId, UserName};
use crate::message::event::Message;

/// Changes to be stored together: all of them or none.
#[derive(Debug, Default)]
pub struct LogBatch {
    /// Number of this batch; they count up by one.
    pub ticket: u64,
    /// Whether someone waits for the disk. Otherwise the batch may wait for others until the interval is over.
    pub sync: bool,
    /// In order.
    pub writes: Vec<LogWrite>,
}

/// One change.
#[derive(Debug)]
pub enum LogWrite {
    /// A room's log begins, or goes on after an unclean stop: keep the room's name, its epoch and where positions were
    /// passed over. Comes before the first [`LogWrite::Append`] to the log after [`LogAnswer::Opened`] said so.
    Register {
        /// Which room.
        room: RoomName,
        /// Which log.
        epoch: Epoch,
        /// Positions that were never given, as the last one before and the first one after; oldest first.
        jumps: Vec<Jump>,
    },
    /// Messages follow those that are there, in order of their positions.
    Append {
        /// Which log.
        epoch: Epoch,
        /// Bytes ([`Message::weight`]) of all messages ever appended to this log before these.
        bytes_before: u64,
        /// At least one.
        messages: Vec<Arc<Message>>,
    },
    /// A message is replaced by a tombstone; its key is kept, for it was used.
    Bury {
        /// Which room.
        room: RoomName,
        /// Which log.
        epoch: Epoch,
        /// Which message.
        seq: Seq,
    },
    /// A user's position in a room's log has moved.
    Cursor {
        /// Which log.
        epoch: Epoch,
        /// Whose.
        user: UserName,
        /// Which of the two.
        kind: CursorKind,
        /// Everything up to here.
        seq: Seq,
    },
    /// A message could not be delivered to a user.
    AddLetter(Box<DeadLetter>),
    /// A dead letter was delivered after all, or purged.
    DropLetter {
        /// Which log.
        epoch: Epoch,
        /// Which message.
        seq: Seq,
        /// To whom.
        user: UserName,
    },
    /// A session is kept as it is now, in place of what was kept of it.
    PutSession(Box<SessionRecord>),
    /// A session is over.
    DropSession(SessionId),
    /// Someone is shut out or silenced, or no longer. Takes the place of what was kept of the same scope and kind.
    Sanction(Box<SanctionRecord>),
}

/// What was decided against someone. One that is over by [`SanctionRecord::until_unix_ms`] need not be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SanctionRecord {
    /// Whom it hits, and where.
    pub scope: Scope,
    /// What it is.
    pub kind: SanctionKind,
    /// When it ends, Unix milliseconds; `None`: never by itself.
    pub until_unix_ms: Option<u64>,
    /// Of a [`SanctionKind::Revoke`] of a user: only tokens issued before this time, Unix milliseconds, are hit.
    pub before_unix_ms: Option<u64>,
    /// Who decided it; `None`: an operator.
    pub by: Option<UserName>,
    /// Why, for people.
    pub reason: Option<Arc<str>>,
    /// It is over: nothing of its scope and kind is to be kept.
    pub lifted: bool,
}

/// Whom a sanction hits, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A user in one room. Lives with the room's owner.
    Room(RoomName, UserName),
    /// A user everywhere. Lives in every shard.
    User(UserName),
    /// Whoever shows a token with this `jti`. Lives in every shard.
    Token(Arc<str>),
}

/// What a sanction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SanctionKind {
    /// Keeps out.
    Ban,
    /// Lets in, but not speak.
    Mute,
    /// Makes tokens worthless.
    Revoke,
}

/// Positions that were never given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The last position before.
    pub prev: Seq,
    /// The first position after.
    pub next: Seq,
}

/// A user's positions in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CursorKind {
    /// Acknowledged.
    Ack,
    /// Read.
    Read,
}

/// A message that a user never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which log.
    pub epoch: Epoch,
    /// To whom.
    pub user: UserName,
    /// The message as it was; retention of its room does not touch it.
    pub message: Arc<Message>,
    /// Why it was given up.
    pub reason: DeadReason,
    /// How often it was sent.
    pub attempts: u32,
    /// When it was given up, Unix milliseconds.
    pub at_ms: u64,
    /// Whether it is to be sent again when its user comes back.
    pub replay: bool,
}

/// What an operator wants done with dead letters of one room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterOrder {
    /// Send these to their users again, now or when they come back.
    Replay(Vec<DeadLetter>),
    /// Forget these.
    Purge(Vec<DeadLetter>),
}

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// It was sent as often as allowed.
    Attempts,
    /// Retention removed it before it was acknowledged.
    Retention,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Attempts, Self::Retention];

    /// The word in the admin API; also the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Retention => "retention",
        }
    }
}

/// A session as it survives a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its secret.
    pub id: SessionId,
    /// Whose.
    pub user: UserName,
    /// The rooms it is in.
    pub rooms: Vec<SessionRoom>,
}

/// A membership of a session: the fields of the `join` that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRoom {
    /// Where.
    pub room: RoomName,
    /// Only messages with one of these tags.
    pub tags: Vec<Arc<str>>,
    /// Whether presence is pushed.
    pub presence: bool,
    /// Whether delivery is acknowledged.
    pub ack: bool,
}

/// A question to the store. The core gives each a token of its own; answers may come in any order.
#[derive(Clone, Debug)]
pub enum LogRead {
    /// What is known of a room. Answered by [`LogAnswer::Opened`].
    Open {
        /// Which.
        room: RoomName,
        /// Unix milliseconds: keys of older messages are of no interest.
        keys_since_ms: u64,
    },
    /// Messages after a position, oldest first. Answered by [`LogAnswer::Page`].
    After {
        /// Which room; only for the answer's messages.
        room: RoomName,
        /// Which log.
        epoch: Epoch,
        /// After this.
        seq: Seq,
        /// Most messages.
        messages_max: usize,
        /// Bytes after which the page ends, though it has at least one message if there is one.
        bytes_max: usize,
    },
    /// The nearest messages before a position, oldest first. Answered by [`LogAnswer::Page`].
    Before {
        /// Which room; only for the answer's messages.
        room: RoomName,
        /// Which log.
        epoch: Epoch,
        /// Before this.
        seq: Seq,
        /// Most messages.
        messages_max: usize,
        /// Bytes after which the page ends, though it has at least one message if there is one.
        bytes_max: usize,
    },
    /// A user's cursors in a room, and its dead letters that are to be replayed. Answered by [`LogAnswer::User`].
    User {
        /// Which room; only for the answer's messages.
        room: RoomName,
        /// Which log.
        epoch: Epoch,
        /// Whose.
        user: UserName,
    },
}

/// An answer to a [`LogRead`].
#[derive(Clone, Debug)]
pub enum LogAnswer {
    /// What is known of a room; `None` when nothing is kept of it.
    Opened(Option<Box<LogState>>),
    /// A page.
    Page {
        /// Oldest first.
        messages: Vec<Arc<Message>>,
        /// Whether there is more in the direction asked for.
        more: bool,
    },
    /// What is kept of a user in a room.
    User {
        /// Last acknowledged.
        ack: Option<Seq>,
        /// Last read.
        read: Option<Seq>,
        /// Dead letters marked [`DeadLetter::replay`], oldest first; at most [`crate::limits::REPLAYED_LETTERS_MAX`].
        letters: Vec<DeadLetter>,
    },
}

/// A room's log as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// Which log.
    pub epoch: Epoch,
    /// The last message that is there; when retention has taken them all, the last that was.
    pub last: Seq,
    /// How many unclean stops there were since the log was last registered. The next position is `last` and, for each
    /// of them, [`crate::limits::SEQ_JUMP`]: clients may have seen what lies between.
    pub crashes: u64,
    /// Everything up to here was taken by retention.
    pub trimmed: Seq,
    /// Time of the last message, Unix milliseconds.
    pub last_timestamp: u64,
    /// Bytes ([`Message::weight`]) of all messages ever appended.
    pub bytes: u64,
    /// Positions that were never given, oldest first.
    pub jumps: Vec<Jump>,
    /// Keys of recent messages, oldest first.
    pub keys: Vec<LogKey>,
}

/// An idempotency key that was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    /// By whom.
    pub user: UserName,
    /// The key.
    pub key: Arc<str>,
    /// For which message.
    pub seq: Seq,
    /// When, Unix milliseconds.
    pub timestamp: u64,
}

/// Something the store says.
#[derive(Debug)]
pub enum LogEvent {
    /// Batches up to these tickets are applied, so that reads see them, and on the disk. Neither ever goes back.
    Committed {
        /// Reads see this.
        applied: u64,
        /// This survives a crash.
        synced: u64,
    },
    /// A question is answered, or could not be.
    Read {
        /// Which.
        token: u64,
        /// What is there.
        outcome: Result<LogAnswer, LogFailure>,
    },
    /// Retention took everything of a room up to a position. Pages may show it before this is said, or after.
    Trimmed {
        /// Which room.
        room: RoomName,
        /// Which log.
        epoch: Epoch,
        /// The last that is gone.
        upto: Seq,
    },
    /// Whether writes are accepted now. What was asked before stays asked, and is written when they are again.
    Health(LogHealth),
    /// Sessions that were kept before the last start, for this shard to keep alive. Comes first, in any number.
    Sessions(Vec<SessionRecord>),
    /// Sanctions that were kept before the last start, in any number. Every shard may be given all of them: it keeps
    /// those of its rooms and those of the whole server. Comes before the first [`LogEvent::Committed`].
    Sanctions(Vec<SanctionRecord>),
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFailure {
    /// The disk could not be read, or what it gave was damaged.
    Unreadable,
}

/// Whether the store takes writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogHealth {
    /// It does.
    #[default]
    Writable,
    /// The disk is full, or nearly.
    Full,
    /// A write or an fsync has failed; the store is being opened and verified again.
    Failed,
}

impl LogHealth {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Writable, Self::Full, Self::Failed];

    /// The word in `readyz`; also the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writable => "writable",
            Self::Full => "disk_full",
            Self::Failed => "failed",
        }
    }
}
