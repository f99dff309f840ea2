//! The thread that writes: the only one. It takes all batches that wait, writes them as one, has them on the disk if
//! anyone waits for that, and tells the shards. What comes during an fsync rides on the next one.
//!
//! Invariants: batches are applied in the order in which they were sent. A batch is kept until it is on the disk, so
//! that after a failure, when nobody knows what the disk has, the database is opened anew and they are written once
//! more, which changes nothing where they were there already. A failed write or fsync is never taken for a success, nor
//! just tried again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fjall::Slice;

use super::block::Block;
use super::encoding::Damaged;
use super::engine::{ERASE_PREFIX, Engine, EngineError, Space};
use super::fault::fault_point;
use super::journal::CHAINED;
use super::line::{Batch, Job, Op, Shared};
use super::query;
use super::records::{RoomRecord, Trim, decode_cursor, encode_cursor, log_key, read_log_key, room_key};
use super::seen::Seen;
use super::slot::Slot;
use super::{disk::Disk, reopen};
use crate::chat::log::LogHealth;
use crate::clock::Clock;
use crate::ids::{Epoch, Seq, ShardId};
use crate::telemetry::store::StoreMetrics;

/// What the thread has.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) commit_interval: Duration,
    pub(super) jobs: flume::Receiver<Job>,
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<Slot>,
    pub(super) seen: Arc<Seen>,
    /// Disconnected when the store is to end.
    pub(super) closing: flume::Receiver<()>,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    pub(super) metrics: &'static StoreMetrics,
    /// How many unclean stops there were, this life's beginning included.
    pub(super) crashes: u64,
    /// `None` while it is being opened anew.
    pub(super) engine: Option<Arc<Engine>>,
    /// Taken from the queue, not yet applied.
    pub(super) group: Vec<Work>,
    /// Applied, not known to be on the disk; oldest first.
    pub(super) unsynced: VecDeque<Work>,
    pub(super) unsynced_messages: usize,
    /// Whether a failure came between: everything is to be synced before anyone is told anything.
    pub(super) must_sync: bool,
    /// Whether the database was taken away from the readers.
    pub(super) is_withdrawn: bool,
    /// For each shard, whether it is to be rung.
    pub(super) to_ring: Vec<bool>,
}

/// What was taken from the queue at once.
pub(super) struct Work {
    changes: Vec<Op>,
    source: Source,
    sync: bool,
    messages: u32,
    bytes: usize,
    queued_us: u64,
}

enum Source {
    Shard(ShardId, u64),
    Upkeep(flume::Sender<()>),
}

/// How gathering ended.
#[derive(PartialEq)]
enum Gathered {
    Batches,
    Closed,
}

impl Writer {
    /// Works until the store is closed; then everything is on the disk, or cannot be written.
    pub(super) fn run(mut self) {
        loop {
            let gathered = self.gather();
            let is_written = self.commit(gathered == Gathered::Closed);
            if gathered == Gathered::Closed || !is_written {
                self.end(is_written);
                return;
            }
        }
    }

    /// Waits for batches, until something unsynced is due or it is time to look at the disk.
    fn gather(&mut self) -> Gathered {
        let first = match self.jobs.recv_timeout(self.patience()) {
            Ok(job) => job,
            Err(flume::RecvTimeoutError::Timeout) => return Gathered::Batches,
            Err(flume::RecvTimeoutError::Disconnected) => return Gathered::Closed,
        };
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Batch(batch) => {
                    self.shared.took(batch.shard);
                    bytes += batch.bytes;
                    self.group.push(Work::of(batch));
                }
                Job::Upkeep(changes, done) => {
                    self.group.push(Work::upkeep(changes, done, self.clock.us()));
                }
                Job::Close => return Gathered::Closed,
            }
            if bytes >= GROUP_BYTES_MAX {
                break;
            }
            next = self.jobs.try_recv().ok();
        }
        Gathered::Batches
    }

    /// How long to wait for a batch.
    fn patience(&self) -> Duration {
        let Some(oldest) = self.unsynced.front() else {
            return IDLE;
        };
        let due_us = oldest.queued_us + self.commit_interval.as_micros() as u64;
        Duration::from_micros(due_us.saturating_sub(self.clock.us())).min(IDLE)
    }

    /// Writes what was gathered, however long it takes; false when the store ends and it cannot be.
    fn commit(&mut self, is_last: bool) -> bool {
        loop {
            self.await_room();
            let error = match self.try_commit(is_last) {
                Ok(()) => return true,
                Err(error) => error,
            };
            tracing::error!(dir = %self.dir.display(), %error, "the store could not write; it is opened anew");
            self.shared.set_health(LogHealth::Failed);
            self.metrics.health.set(LogHealth::Failed as u64);
            if !reopen::reopen(self) {
                return false;
            }
        }
    }

    /// Waits until the disk has room, but not when the store is to end: then what cannot be written is given up.
    fn await_room(&mut self) {
        let bytes: usize = self.group.iter().map(|work| work.bytes).sum();
        while !self.disk.admits(self.clock.us(), bytes as u64) {
            if self.shared.health() != LogHealth::Full {
                tracing::error!(dir = %self.dir.display(), "the disk is full; the store waits for room");
            }
            self.shared.set_health(LogHealth::Full);
            self.metrics.health.set(LogHealth::Full as u64);
            if self.wait(IDLE) {
                return;
            }
        }
        if self.shared.health() != LogHealth::Writable {
            tracing::info!(dir = %self.dir.display(), "the store takes writes again");
        }
        self.shared.set_health(LogHealth::Writable);
        self.metrics.health.set(LogHealth::Writable as u64);
    }

    /// Waits; true when the store is to end.
    pub(super) fn wait(&self, time: Duration) -> bool {
        matches!(self.closing.recv_timeout(time), Err(flume::RecvTimeoutError::Disconnected))
    }

    fn try_commit(&mut self, is_last: bool) -> Result<(), EngineError> {
        self.await_workers()?;
        let now_us = self.clock.us();
        let is_sync = self.wants_sync(is_last, now_us);
        if !self.group.is_empty() {
            self.record(now_us);
            fault_point("store.before_write");
            self.apply()?;
            fault_point("store.after_write");
        }
        if is_sync && !(self.unsynced.is_empty() && self.group.is_empty()) {
            self.keep_group();
            self.sync()?;
            self.tell_synced();
        } else {
            self.tell_applied();
            self.keep_group();
        }
        self.must_sync = false;
        if let Some(engine) = self.engine.as_ref().filter(|_| self.is_withdrawn) {
            // Readers come back only now: they were promised to see all of what has just been written again.
            self.slot.put(engine.clone());
            self.is_withdrawn = false;
        }
        for shard in 0..self.to_ring.len() {
            if std::mem::take(&mut self.to_ring[shard]) {
                self.shared.ring(ShardId(shard as u16));
            }
        }
        fault_point("store.after_ack");
        Ok(())
    }

    /// Waits while the database cannot flush as fast as it is written to. It would wait itself, but for ever if the
    /// threads that flush have died.
    fn await_workers(&self) -> Result<(), EngineError> {
        while self.engine().is_behind() {
            self.engine().check()?;
            std::thread::park_timeout(BEHIND);
        }
        Ok(())
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("open unless `reopen` is at work or has given up, and then nothing is written")
    }

    fn wants_sync(&self, is_last: bool, now_us: u64) -> bool {
        let messages: usize = self.group.iter().map(|work| work.messages as usize).sum();
        let interval_us = self.commit_interval.as_micros() as u64;
        let is_due = |work: &Work| now_us.saturating_sub(work.queued_us) >= interval_us;
        is_last
            || self.must_sync
            || self.group.iter().any(|work| work.sync)
            || self.unsynced_messages + messages >= UNSYNCED_MESSAGES_MAX
            || self.unsynced.front().or(self.group.first()).is_some_and(is_due)
    }

    fn record(&self, now_us: u64) {
        let metrics = self.metrics;
        metrics.commits_total.inc();
        metrics.queue_depth.set(self.group.len() as u64);
        metrics.commit_messages.record(self.group.iter().map(|work| u64::from(work.messages)).sum());
        metrics.written_bytes_total.add(self.group.iter().map(|work| work.bytes as u64).sum());
        if let Some(oldest) = self.group.first() {
            metrics.commit_wait_us.record(now_us.saturating_sub(oldest.queued_us));
        }
    }

    /// Writes the group as one batch of the database.
    pub(super) fn apply(&mut self) -> Result<(), EngineError> {
        self.resolve()?;
        let changes: usize = self.group.iter().map(|work| work.changes.len()).sum();
        let mut batch = self.engine().batch(changes + 1);
        if !self.unsynced.is_empty() {
            batch.insert(self.engine().space(Space::Meta), CHAINED, []);
        }
        for op in self.group.iter().flat_map(|work| &work.changes) {
            match op {
                Op::Put(space, key, value) => {
                    batch.insert(self.engine().space(*space), key.clone(), value.clone());
                }
                Op::Remove(space, key) => batch.remove(self.engine().space(*space), key.clone()),
                // What is left of these after `resolve` has nothing to change.
                Op::Bury { .. } | Op::Register { .. } | Op::Overtake { .. } => {}
            }
        }
        Ok(self.engine().write(batch)?)
    }

    /// Turns changes that depend on what is there into plain ones, each seeing those before it.
    fn resolve(&mut self) -> Result<(), EngineError> {
        for at in 0..self.group.len() {
            for index in 0..self.group[at].changes.len() {
                match &self.group[at].changes[index] {
                    Op::Put(..) | Op::Remove(..) => {}
                    &Op::Bury { epoch, seq } => {
                        if let Some(change) = self.bury(at, index, epoch, seq)? {
                            self.group[at].changes[index] = change;
                        }
                    }
                    Op::Overtake { .. } => self.overtake(at, index)?,
                    Op::Register { room, epoch, jumps } => {
                        let key = room_key(room);
                        let replaced = query::room(self.engine(), room).ok().flatten().map(|old| old.epoch);
                        let record = RoomRecord { epoch: *epoch, crashes: self.crashes, jumps: jumps.clone() };
                        let change = Op::Put(Space::Rooms, key.into(), record.encode().into());
                        let epoch = *epoch;
                        if let Source::Shard(shard, _) = self.group[at].source {
                            self.seen.note(epoch, shard, room);
                        }
                        self.group[at].changes[index] = change;
                        if let Some(old) = replaced.filter(|old| *old != epoch) {
                            self.group[at].changes.push(erase(old));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The block of a message with a tombstone in its place; `None` when there is nothing to bury, or what there is
    /// cannot be read: a damaged block stays as it is.
    fn bury(&self, at: usize, index: usize, epoch: Epoch, seq: Seq) -> Result<Option<Op>, EngineError> {
        let earlier = || {
            let works = self.group[..at].iter().flat_map(|work| &work.changes);
            works.chain(&self.group[at].changes[..index]).rev()
        };
        let in_group = earlier().find_map(|op| match op {
            Op::Put(Space::Log, key, value) => holds(key, value, epoch, seq).then(|| (key.clone(), value.clone())),
            _ => None,
        });
        let found = match in_group {
            Some(found) => Some(found),
            None => {
                let range = log_key(epoch, Seq(0))..=log_key(epoch, seq);
                self.engine().last(Space::Log, range)?
            }
        };
        let Some((key, value)) = found else {
            return Ok(None);
        };
        let is_removed = earlier().any(|op| matches!(op, Op::Remove(Space::Log, removed) if *removed == key));
        let buried = read_log_key(&key).and_then(|(_, first)| Block::new(first, &value)?.bury(seq));
        match buried {
            Ok(Some(buried)) if !is_removed => Ok(Some(Op::Put(Space::Log, key, buried.into()))),
            Ok(_) => Ok(None),
            Err(Damaged) => {
                tracing::error!(%epoch, seq = seq.0, "a block of the log is damaged; nothing was buried in it");
                Ok(None)
            }
        }
    }

    /// Moves a cursor and writes letters for what comes after it, as it is by now: its user may have acknowledged some.
    fn overtake(&mut self, at: usize, index: usize) -> Result<(), EngineError> {
        let Op::Overtake { cursor, seq, letters } = &self.group[at].changes[index] else {
            return Ok(());
        };
        let works = self.group[..at].iter().flat_map(|work| &work.changes);
        let mut earlier = works.chain(&self.group[at].changes[..index]).rev();
        let in_group = earlier.find_map(|op| match op {
            Op::Put(Space::Cursors, key, value) if key == cursor => Some(value.clone()),
            _ => None,
        });
        let now = match in_group {
            Some(now) => Some(now),
            None => self.engine().space(Space::Cursors).get(cursor)?,
        };
        // A log that was erased meanwhile has no cursors.
        let Some(acked) = now.and_then(|now| decode_cursor(&now).ok()).filter(|acked| acked < seq) else {
            return Ok(());
        };
        let left = letters.iter().filter(|(seq, ..)| acked < *seq);
        let left: Vec<Op> = left.map(|(_, key, value)| Op::Put(Space::Letters, key.clone(), value.clone())).collect();
        self.metrics.retention_letters_total.add(left.len() as u64);
        self.group[at].changes[index] = Op::Put(Space::Cursors, cursor.clone(), encode_cursor(*seq).into());
        self.group[at].changes.extend(left);
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), EngineError> {
        fault_point("store.before_sync");
        #[cfg(test)]
        self.fail_if_wanted()?;
        let start_us = self.clock.us();
        self.engine().sync()?;
        self.metrics.fsync_us.record(self.clock.us() - start_us);
        fault_point("store.after_sync");
        Ok(())
    }

    #[cfg(test)]
    fn fail_if_wanted(&self) -> Result<(), EngineError> {
        use std::sync::atomic::Ordering::Relaxed;
        let failing = self.shared.failing_syncs.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if failing.is_ok() { Err(fjall::Error::Poisoned.into()) } else { Ok(()) }
    }

    /// The group is applied.
    fn tell_applied(&mut self) {
        for work in &self.group {
            if let Source::Shard(shard, ticket) = work.source {
                self.shared.set_applied(shard, ticket);
                self.to_ring[shard.index()] = true;
            }
        }
    }

    /// Moves the group to what is applied.
    pub(super) fn keep_group(&mut self) {
        for work in self.group.drain(..) {
            if let Source::Upkeep(done) = &work.source {
                // Whoever asked may have gone.
                let _ = done.try_send(());
            }
            self.unsynced_messages += work.messages as usize;
            self.unsynced.push_back(work);
        }
    }

    /// Everything applied is on the disk.
    pub(super) fn tell_synced(&mut self) {
        for work in self.unsynced.drain(..) {
            if let Source::Shard(shard, ticket) = work.source {
                self.shared.set_applied(shard, ticket);
                self.shared.set_synced(shard, ticket);
                self.to_ring[shard.index()] = true;
            }
        }
        self.unsynced_messages = 0;
    }

    /// After a failure: all that is not known to be on the disk is to be written again.
    pub(super) fn regroup(&mut self) {
        self.unsynced_messages = 0;
        self.must_sync = true;
        let mut works: Vec<Work> = self.unsynced.drain(..).collect();
        works.append(&mut self.group);
        self.group = works;
    }

    /// Leaves the clean mark if it is true, and lets the database go.
    fn end(mut self, is_written: bool) {
        self.slot.end();
        self.slot.clear();
        let Some(engine) = self.engine.take().filter(|_| is_written) else {
            let lost = self.group.len() + self.unsynced.len();
            tracing::error!(dir = %self.dir.display(), batches = lost, "the store ends without having written everything");
            return;
        };
        if let Err(error) = engine.end_life() {
            tracing::error!(dir = %self.dir.display(), %error, "the store could not leave its clean mark");
        }
    }
}

impl Work {
    fn of(batch: Batch) -> Self {
        let Batch { shard, ticket, sync, messages, bytes, queued_us, ops } = batch;
        Self { changes: ops, source: Source::Shard(shard, ticket), sync, messages, bytes, queued_us }
    }

    fn upkeep(changes: Vec<Op>, done: flume::Sender<()>, now_us: u64) -> Self {
        Self { changes, source: Source::Upkeep(done), sync: false, messages: 0, bytes: 0, queued_us: now_us }
    }
}

/// Whether a block of the log has this position.
fn holds(key: &Slice, value: &Slice, epoch: Epoch, seq: Seq) -> bool {
    let Ok((of, first)) = read_log_key(key) else {
        return false;
    };
    of == epoch && first <= seq && Block::new(first, value).is_ok_and(|block| seq <= block.header.last)
}

/// Notes that a log can be reached no more: upkeep removes it bit by bit.
fn erase(epoch: Epoch) -> Op {
    let mut key = ERASE_PREFIX.to_vec();
    key.extend_from_slice(&epoch.0.to_be_bytes());
    Op::Put(Space::Meta, key.into(), Trim::default().encode().into())
}

/// Bytes after which a group takes no more batches.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Messages applied but not synced, past which nobody need have asked for an fsync.
const UNSYNCED_MESSAGES_MAX: usize = 1_024;
/// How often the disk is looked at when there is nothing to do or no room.
const IDLE: Duration = Duration::from_secs(1);
/// How long the workers of the database are given to catch up before they are looked at again.
const BEHIND: Duration = Duration::from_millis(2);
