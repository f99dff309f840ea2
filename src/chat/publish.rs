//! How a room's owner takes a message: its place, its way to the members and to the disk, and what its sender hears.
//!
//! Invariants: members never wait for the disk. A message whose sender waits is answered once: when it is durable, when
//! the store has failed, or at once where nobody waits for the disk. A position is given only while few enough of the
//! room's messages are not on the disk.

use std::sync::Arc;

use crate::chat::exchange::{Count, Delivery, Draft, Refusal, RoomId};
use crate::chat::journal::{Answer, Waiter};
use crate::chat::keys::Used;
use crate::chat::log::{LogBatch, LogHealth, LogRead, LogWrite};
use crate::chat::room::Room;
use crate::chat::state::{Deferred, State};
use crate::ids::{ConnId, ShardId, UserName};
use crate::limits::KEYS_PER_SHARD_MAX;
use crate::message::close::ErrorCode;
use crate::message::event::{Message, Reply};
use crate::policy::Commit;

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Published {
    /// This is the answer.
    Answered(Result<Reply, Refusal>),
    /// The answer comes when the message is on the disk; or nobody wants one.
    Waits,
}

impl State {
    /// Gives a member's message its place and tells everyone; `sender` is the connection and its shard. With a tag the
    /// sender wants an answer.
    #[inline]
    pub(super) fn publish_here(
        &mut self,
        id: RoomId,
        sender: (ShardId, ConnId),
        tag: Option<u64>,
        user: UserName,
        draft: Draft,
    ) -> Published {
        let has_key = draft.key.is_some();
        if has_key && let Some(used) = self.used_key(id, &user, draft.key.as_ref()) {
            return self.answer_duplicate(id, sender, tag, used);
        }
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return Published::Answered(Err(NOT_MEMBER));
        };
        if let Some(log) = &room.log
            && let Some(refusal) = self.journal.refusal(log.is_full())
        {
            return Published::Answered(Err(refusal));
        }
        let (echo, receipt) = (draft.echo, draft.receipt);
        let consumed = !room.consumers.is_empty();
        let weight = room.history.weight();
        if has_key {
            self.keys -= room.keys_len();
        }
        let message = room.publish(user, draft, self.now, self.keys + room.keys_len() >= KEYS_PER_SHARD_MAX);
        if has_key {
            self.keys += room.keys_len();
        }
        self.history_weight = self.history_weight - weight + room.history.weight();
        let waits = room.commits_at_once();
        if room.log.is_some() {
            let waiter = tag.filter(|_| waits).map(|id| Waiter::of(sender, id, &message));
            self.journal.store(id, room, Arc::clone(&message), waiter);
        }
        if receipt {
            self.open_receipt(id, message.seq, sender);
        }
        self.tell_of_message(id, sender, (echo, receipt), &message);
        if consumed {
            self.feed_all(id);
        }
        if self.history_weight > self.history_weight_max {
            self.shed_history(id);
        }
        if tag.is_none() {
            return Published::Waits;
        }
        if waits {
            self.owe(sender.0, sender.1);
            return Published::Waits;
        }
        let (room, seq, timestamp) = (message.room.clone(), message.seq, message.timestamp);
        Published::Answered(Ok(Reply::Sent { room, seq, timestamp, durable: false, duplicate: false }))
    }

    /// For which message the user has used this key.
    fn used_key(&mut self, id: RoomId, user: &UserName, key: Option<&Arc<str>>) -> Option<Used> {
        let room = self.rooms.get_mut(id.slot, id.generation)?;
        let keys = room.keys_len();
        let used = room.find_key(user, key, self.now);
        // Looking forgets those whose window is over.
        self.keys -= keys - room.keys_len();
        used
    }

    /// A message was sent again: the answer is the first one's, as soon as that is durable.
    fn answer_duplicate(&mut self, id: RoomId, sender: (ShardId, ConnId), tag: Option<u64>, used: Used) -> Published {
        let Some(room) = self.rooms.get(id.slot, id.generation) else {
            return Published::Answered(Err(NOT_MEMBER));
        };
        let Used { seq, timestamp } = used;
        let (name, is_stored) = (room.name.clone(), seq <= room.stored());
        if is_stored || !room.commits_at_once() {
            let durable = room.log.is_some() && is_stored;
            return Published::Answered(Ok(Reply::Sent { room: name, seq, timestamp, durable, duplicate: true }));
        }
        if let Some(id) = tag {
            let answer = Answer::Sent { room: name, seq, timestamp, duplicate: true };
            self.journal.wait(Waiter { shard: sender.0, conn: sender.1, id, answer });
            self.owe(sender.0, sender.1);
        }
        Published::Waits
    }

    #[inline]
    fn tell_of_message(
        &mut self,
        id: RoomId,
        sender: (ShardId, ConnId),
        (echo, receipt): (bool, bool),
        message: &Arc<Message>,
    ) {
        let Some(room) = self.rooms.get(id.slot, id.generation) else {
            return;
        };
        let mut local = None;
        for listener in &room.listeners {
            let audience = listener.audience;
            let except = (!echo && listener.shard == sender.0).then_some(sender.1);
            let count = match receipt {
                false => Count::No,
                true if listener.shard == sender.0 => Count::Others(sender.1),
                true => Count::All,
            };
            if listener.shard == self.here {
                local = Some((audience, except, count));
            } else {
                let message = Arc::clone(message);
                self.lanes.push_delivery(listener.shard, Delivery::Message { audience, message, except, count });
            }
        }
        if let Some((audience, except, count)) = local {
            let message = Arc::clone(message);
            if self.deferred.is_empty() {
                self.fan_out_message(audience, message, except, count);
            } else {
                // Who joined in this same input comes first.
                self.deferred.push_back(Deferred::Delivery(Delivery::Message { audience, message, except, count }));
            }
        }
    }

    /// A command of a connection will be answered later by [`State::answer_waiter`]. Where it came from another shard,
    /// that has counted it.
    pub(super) fn owe(&mut self, to: ShardId, conn: ConnId) {
        if to == self.here
            && let Some(session) = self.sessions.get_mut(conn)
        {
            session.unanswered += 1;
        }
    }

    /// The store has come further, or takes writes again, or no longer.
    pub(super) fn on_committed(&mut self, applied: u64, synced: u64) {
        self.journal.applied = self.journal.applied.max(applied);
        self.journal.synced = self.journal.synced.max(synced);
        self.settle_commits();
    }

    /// Answers those whose messages are on the disk, as far as there is room for the answers.
    pub(super) fn settle_commits(&mut self) {
        while !self.lanes.deliveries_full()
            && let Some(settled) = self.journal.next_settled()
        {
            if let Some(stored) = settled.stored {
                self.settle_message(stored.room, stored.seq);
            }
            if let Some(room) = settled.buried {
                self.settle_burial(room);
            }
            if let Some(waiter) = settled.waiter {
                let outcome = Ok(waiter.answer.into_reply());
                self.answer_waiter(waiter.shard, waiter.conn, waiter.id, outcome);
            }
        }
    }

    /// Tells who waits that it may take long: what they sent is kept in memory and stored when the store can.
    pub(super) fn on_store_health(&mut self, health: LogHealth) {
        self.journal.health = health;
        let Some(refusal) = health_refusal(health) else {
            return;
        };
        for waiter in self.journal.take_waiters() {
            let refusal = Refusal::new(refusal.0, refusal.1);
            self.answer_waiter(waiter.shard, waiter.conn, waiter.id, Err(refusal));
        }
    }

    fn settle_message(&mut self, id: RoomId, seq: crate::ids::Seq) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            debug_assert!(false, "a room stays while its messages are not stored");
            return;
        };
        let weight = room.history.weight();
        room.settle(seq);
        self.history_weight = self.history_weight - weight + room.history.weight();
        if room.is_deserted() {
            self.settle_room(id);
        }
    }

    fn settle_burial(&mut self, id: RoomId) {
        if let Some(log) = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut()) {
            log.burying -= 1;
        }
        self.settle_room(id);
    }

    /// Answers a command whose answer was counted when it began to wait.
    pub(super) fn answer_waiter(&mut self, to: ShardId, conn: ConnId, id: u64, outcome: Result<Reply, Refusal>) {
        if to == self.here {
            self.on_reply(conn, Some(id), outcome);
        } else {
            self.lanes.push_delivery(to, Delivery::Reply { conn, id: Some(id), outcome });
        }
    }

    /// What is to be stored next; the shell hands it to the store in this order, at the end of its turn.
    #[must_use]
    pub fn take_log_batch(&mut self) -> Option<LogBatch> {
        self.store_sessions();
        self.journal.take_batch()
    }

    /// What is to be asked of the store next, with the token for its answer.
    #[must_use]
    pub fn take_log_read(&mut self) -> Option<(u64, LogRead)> {
        self.journal.take_read()
    }

    /// Whether [`State::take_log_batch`] has something.
    #[must_use]
    pub fn has_log_batch(&self) -> bool {
        self.journal.has_batch() || self.has_changed_sessions()
    }

    /// Whether [`State::take_log_read`] has something.
    #[must_use]
    pub fn has_log_reads(&self) -> bool {
        self.journal.has_reads()
    }
}

impl Room {
    /// Whether senders wait for the disk.
    pub(super) fn commits_at_once(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.commit == Commit::Fsync)
    }
}

impl crate::chat::journal::Journal {
    /// Why no more may be written now. `full`: as far as one room is concerned.
    pub(super) fn refusal(&self, full: bool) -> Option<Refusal> {
        if let Some((code, text)) = health_refusal(self.health) {
            return Some(Refusal::new(code, text));
        }
        if full || self.is_full() {
            let text = "messages come faster than the disk takes them: send again a little later, more slowly";
            return Some(Refusal::new(ErrorCode::Overloaded, text));
        }
        None
    }

    /// Writes a message that a durable room has just given its place.
    fn store(&mut self, id: RoomId, room: &mut Room, message: Arc<Message>, waiter: Option<Waiter>) {
        let Some(log) = &mut room.log else {
            return;
        };
        if std::mem::take(&mut log.register) {
            self.write(LogWrite::Register { room: room.name.clone(), epoch: room.epoch, jumps: log.jumps.clone() });
        }
        if log.commit == Commit::Fsync {
            self.sync();
        }
        let bytes_before = log.bytes;
        log.bytes += message.weight() as u64;
        log.unsynced += 1;
        self.append(&mut log.place, (id, room.epoch), message, bytes_before, waiter);
    }
}

/// What a publisher is told while the store takes no writes.
fn health_refusal(health: LogHealth) -> Option<(ErrorCode, &'static str)> {
    let text = match health {
        LogHealth::Writable => return None,
        LogHealth::Full => {
            "the server's disk is full: this message may not be stored; send it again later, with the same key"
        }
        LogHealth::Failed => {
            "the server's disk has failed: this message may not be stored; send it again later, with the same key"
        }
    };
    Some((ErrorCode::Overloaded, text))
}

pub(super) const NOT_MEMBER: Refusal = Refusal::new(ErrorCode::NotMember, "join the room first");
