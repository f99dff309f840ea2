//! What waits to go to the store, what is waited for, and what was asked of it.
//!
//! Invariants: batches carry consecutive tickets; the one that is gathered has the ticket after the last one taken.
//! What waits for the disk stands in the order of its tickets. Every question that was asked is in `asked` until its
//! answer has come. What is being buried is in `buried` until no answer can show it any more.
//!
//! Absent: rooms; `commits` and `recall` know what an answer means for them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::chat::exchange::RoomId;
use crate::chat::log::{LogBatch, LogHealth, LogRead, LogWrite};
use crate::chat::recall::Asked;
use crate::ids::{ConnId, Epoch, RoomName, Seq, ShardId};
use crate::limits::{UNSYNCED_BYTES_PER_SHARD_MAX, UNSYNCED_PER_SHARD_MAX};
use crate::message::event::{Message, Reply};

/// One shard's line to the store.
#[derive(Debug, Default)]
pub(super) struct Journal {
    batch: LogBatch,
    pub(super) applied: u64,
    pub(super) synced: u64,
    pending: VecDeque<Pending>,
    /// Messages and bytes that wait for the disk.
    messages: usize,
    bytes: usize,
    pub(super) health: LogHealth,
    reads: VecDeque<(u64, LogRead)>,
    asked: BTreeMap<u64, Asked>,
    last_token: u64,
    buried: VecDeque<Buried>,
}

/// Something that waits for the disk.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: u64,
    /// What is stored then.
    pub(super) stored: Option<Stored>,
    /// Where a message is a tombstone then.
    pub(super) buried: Option<RoomId>,
    /// Who waits for it.
    pub(super) waiter: Option<Waiter>,
}

/// A message that is to be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) room: RoomId,
    pub(super) seq: Seq,
    bytes: u32,
}

/// A tombstone that the store may not show yet.
#[derive(Clone, Copy, Debug)]
struct Buried {
    room: RoomId,
    seq: Seq,
    /// Once it is on the disk: answers to questions up to this one may still lack it.
    until: Option<u64>,
}

/// Who waits for the disk.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub(super) shard: ShardId,
    pub(super) conn: ConnId,
    pub(super) id: u64,
    pub(super) answer: Answer,
}

/// What is said then.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The message is durable.
    Sent { room: RoomName, seq: Seq, timestamp: u64, duplicate: bool },
    /// It is done.
    Done,
}

/// Where in the batch that is gathered a room's messages stand, so that those of a turn go together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    ticket: u64,
    index: usize,
}

impl Waiter {
    /// The sender of a message, who is told when it is durable.
    pub(super) fn of((shard, conn): (ShardId, ConnId), id: u64, message: &Message) -> Self {
        let (room, seq, timestamp) = (message.room.clone(), message.seq, message.timestamp);
        Self { shard, conn, id, answer: Answer::Sent { room, seq, timestamp, duplicate: false } }
    }
}

impl Answer {
    pub(super) fn into_reply(self) -> Reply {
        match self {
            Self::Done => Reply::Done,
            Self::Sent { room, seq, timestamp, duplicate } => {
                Reply::Sent { room, seq, timestamp, durable: true, duplicate }
            }
        }
    }
}

impl Journal {
    pub(super) fn new() -> Self {
        Self { batch: LogBatch { ticket: 1, ..LogBatch::default() }, ..Self::default() }
    }

    /// Whether there is no room for more before some of it is on the disk.
    pub(super) fn is_full(&self) -> bool {
        self.messages >= UNSYNCED_PER_SHARD_MAX
            || self.bytes >= UNSYNCED_BYTES_PER_SHARD_MAX
            || self.batch.writes.len() >= UNSYNCED_PER_SHARD_MAX
    }

    /// The ticket of the batch that is gathered.
    pub(super) fn ticket(&self) -> u64 {
        self.batch.ticket
    }

    /// Adds a change.
    pub(super) fn write(&mut self, write: LogWrite) {
        self.batch.writes.push(write);
    }

    /// Adds a change that may be left out while the store is far behind: a session is a convenience.
    pub(super) fn write_if_room(&mut self, write: LogWrite) {
        if !self.is_full() {
            self.write(write);
        }
    }

    /// Adds a message of a room, with those before it if they are still here. `bytes_before` counts up to it.
    pub(super) fn append(
        &mut self,
        place: &mut Place,
        (room, epoch): (RoomId, Epoch),
        message: Arc<Message>,
        bytes_before: u64,
        waiter: Option<Waiter>,
    ) {
        let (seq, bytes) = (message.seq, message.weight());
        match self.batch.writes.get_mut(place.index) {
            Some(LogWrite::Append { messages, .. }) if place.ticket == self.batch.ticket => messages.push(message),
            _ => {
                *place = Place { ticket: self.batch.ticket, index: self.batch.writes.len() };
                self.batch.writes.push(LogWrite::Append { epoch, bytes_before, messages: vec![message] });
            }
        }
        self.messages += 1;
        self.bytes += bytes;
        let stored = Some(Stored { room, seq, bytes: bytes as u32 });
        self.pending.push_back(Pending { ticket: self.batch.ticket, stored, buried: None, waiter });
    }

    /// Adds the change that makes a message a tombstone; `waiter` is told when that is on the disk.
    pub(super) fn bury(&mut self, write: LogWrite, (room, seq): (RoomId, Seq), waiter: Option<Waiter>) {
        self.batch.writes.push(write);
        self.batch.sync |= waiter.is_some();
        self.buried.push_back(Buried { room, seq, until: None });
        self.pending.push_back(Pending { ticket: self.batch.ticket, stored: None, buried: Some(room), waiter });
    }

    /// Whether a message is a tombstone, whatever the store says.
    pub(super) fn is_buried(&self, room: RoomId, seq: Seq) -> bool {
        self.buried.iter().any(|buried| (buried.room, buried.seq) == (room, seq))
    }

    /// Whether a tombstone is not on the disk yet.
    pub(super) fn is_burying(&self, room: RoomId, seq: Seq) -> bool {
        self.buried.iter().any(|buried| (buried.room, buried.seq) == (room, seq) && buried.until.is_none())
    }

    /// Forgets the tombstones that every answer from now on shows.
    fn forget_buried(&mut self) {
        let oldest = self.asked.first_key_value().map_or(u64::MAX, |(token, _)| *token);
        while self.buried.front().and_then(|buried| buried.until).is_some_and(|until| until < oldest) {
            self.buried.pop_front();
        }
    }

    /// Lets someone wait for everything written so far, and asks for it to be synced.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.batch.sync = true;
        self.pending.push_back(Pending { ticket: self.batch.ticket, stored: None, buried: None, waiter: Some(waiter) });
    }

    /// Asks for what was written so far to be synced.
    pub(super) fn sync(&mut self) {
        self.batch.sync = true;
    }

    /// The next that no longer has to wait for the disk.
    pub(super) fn next_settled(&mut self) -> Option<Pending> {
        if self.pending.front()?.ticket > self.synced {
            return None;
        }
        let settled = self.pending.pop_front()?;
        if let Some(stored) = &settled.stored {
            self.messages -= 1;
            self.bytes -= stored.bytes as usize;
        }
        if settled.buried.is_some()
            && let Some(buried) = self.buried.iter_mut().find(|buried| buried.until.is_none())
        {
            buried.until = Some(self.last_token);
            self.forget_buried();
        }
        Some(settled)
    }

    /// Whether [`Journal::next_settled`] has one.
    #[inline]
    pub(super) fn has_settled(&self) -> bool {
        self.pending.front().is_some_and(|pending| pending.ticket <= self.synced)
    }

    /// Everyone who waits; they wait no more.
    pub(super) fn take_waiters(&mut self) -> Vec<Waiter> {
        self.pending.iter_mut().filter_map(|pending| pending.waiter.take()).collect()
    }

    /// What is to be stored next.
    pub(super) fn take_batch(&mut self) -> Option<LogBatch> {
        if self.batch.writes.is_empty() && !self.batch.sync {
            return None;
        }
        let next = LogBatch { ticket: self.batch.ticket + 1, ..LogBatch::default() };
        Some(std::mem::replace(&mut self.batch, next))
    }

    pub(super) fn has_batch(&self) -> bool {
        !self.batch.writes.is_empty() || self.batch.sync
    }

    /// Asks a question; the answer comes with the token.
    pub(super) fn ask(&mut self, asked: Asked, read: LogRead) -> u64 {
        self.last_token += 1;
        self.reads.push_back((self.last_token, read));
        self.asked.insert(self.last_token, asked);
        self.last_token
    }

    /// What the answer with this token is for.
    pub(super) fn answered(&mut self, token: u64) -> Option<Asked> {
        // This answer may still show what was buried after its question.
        self.forget_buried();
        self.asked.remove(&token)
    }

    pub(super) fn take_read(&mut self) -> Option<(u64, LogRead)> {
        self.reads.pop_front()
    }

    pub(super) fn has_reads(&self) -> bool {
        !self.reads.is_empty()
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        assert!(self.pending.iter().is_sorted_by_key(|pending| pending.ticket), "who waits stands in order");
        let stored = || self.pending.iter().filter_map(|pending| pending.stored);
        assert_eq!(stored().count(), self.messages, "what waits is counted");
        assert_eq!(stored().map(|stored| stored.bytes as usize).sum::<usize>(), self.bytes, "bytes are counted");
        let burying = self.buried.iter().filter(|buried| buried.until.is_none()).count();
        assert_eq!(self.pending.iter().filter(|pending| pending.buried.is_some()).count(), burying);
        assert!(self.applied >= self.synced && self.synced < self.batch.ticket);
        assert!(self.reads.iter().all(|(token, _)| self.asked.contains_key(token)), "what is asked is known");
    }
}
