//! What waits to go to the store, what is waited for, and what was asked of it.
//!
//! Invariants: batches carry consecutive tickets; the one that is gathered has the ticket after the last one taken.
//! What waits for the disk stands in the order of its tickets. Every question that was asked is in `asked` until its
//! answer has come.
//!
//! Absent: rooms; `commits` and `recall` know what an answer means for them.

use std::collections::VecDeque;
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
    asked: ahash::HashMap<u64, Asked>,
    last_token: u64,
}

/// Something that waits for the disk.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: u64,
    /// What is stored then.
    pub(super) stored: Option<Stored>,
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
        self.pending.push_back(Pending { ticket: self.batch.ticket, stored, waiter });
    }

    /// Lets someone wait for everything written so far, and asks for it to be synced.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.batch.sync = true;
        self.pending.push_back(Pending { ticket: self.batch.ticket, stored: None, waiter: Some(waiter) });
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
        Some(settled)
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
        let asked = self.asked.remove(&token);
        if self.asked.is_empty() && self.asked.capacity() > ASKED_KEPT {
            self.asked = ahash::HashMap::default();
        }
        asked
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
        assert!(self.applied >= self.synced && self.synced < self.batch.ticket);
        assert!(self.reads.iter().all(|(token, _)| self.asked.contains_key(token)), "what is asked is known");
    }
}

/// What a storm made longer than this gives its memory back.
const ASKED_KEPT: usize = 1_024;
