//! Lines: how a shard and the store talk. A shard only ever puts things into queues and takes them out; messages become
//! bytes here, on the shard's thread, so that the one thread that commits handles nothing but bytes.
//!
//! Invariant: no queue can be full for the store. A line admits a batch or a question only while few of its own are
//! under way, and all queues hold that many of every line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use fjall::Slice;

use super::block;
use super::engine::Space;
use super::records::{cursor_key, encode_cursor, encode_letter, encode_session, letter_key, log_key, session_key};
use super::sanctions;
use crate::chat::log::{Jump, LogBatch, LogEvent, LogHealth, LogRead, LogWrite};
use crate::clock::Clock;
use crate::ids::{Epoch, RoomName, Seq, ShardId};

/// Makes the queues between `shards` shards and a store that is opened later: no descriptor is opened and no thread
/// started. `ring` is called, from threads of the store, after events for a shard became available.
#[must_use]
pub fn lines(shards: u16, ring: Arc<dyn Fn(ShardId) + Send + Sync>) -> (StorePort, Vec<Line>) {
    let lines = usize::from(shards);
    let (jobs, taken_jobs) = flume::bounded(lines * BATCHES_MAX + JOBS_RESERVED);
    let (reads, taken_reads) = flume::bounded(lines * READS_MAX + JOBS_RESERVED);
    let desks = (0..shards).map(|_| Desk::default()).collect();
    let shared = Arc::new(Shared {
        desks,
        health: AtomicU8::default(),
        ring,
        #[cfg(test)]
        failing_syncs: AtomicU64::new(0),
    });
    let clock = Clock::start();
    let mut answers = Vec::with_capacity(lines);
    let line = |shard| {
        let (kept, kept_told) = flume::bounded(1);
        let (events, waiting) = flume::bounded(READS_MAX);
        let (trims, told_trims) = flume::bounded(TRIMS_MAX);
        answers.push(Outlet { kept, events, trims });
        Line {
            shard: ShardId(shard),
            shared: shared.clone(),
            clock: clock.clone(),
            jobs: jobs.clone(),
            reads: reads.clone(),
            kept: kept_told,
            answers: waiting,
            trims: told_trims,
            untold: VecDeque::new(),
            sent: 0,
            reading: 0,
            told: (0, 0),
            health: LogHealth::default(),
            scratch: Vec::new(),
        }
    };
    let all = (0..shards).map(line).collect();
    (StorePort { shared, clock, jobs, taken_jobs, reads, taken_reads, outlets: answers.into() }, all)
}

/// The store's end of all lines.
pub struct StorePort {
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) jobs: flume::Sender<Job>,
    pub(super) taken_jobs: flume::Receiver<Job>,
    pub(super) reads: flume::Sender<ReadJob>,
    pub(super) taken_reads: flume::Receiver<ReadJob>,
    pub(super) outlets: Arc<[Outlet]>,
}

/// A shard's end of its line; used by that shard's thread alone, and never waits.
pub struct Line {
    shard: ShardId,
    shared: Arc<Shared>,
    clock: Clock,
    jobs: flume::Sender<Job>,
    reads: flume::Sender<ReadJob>,
    /// What was kept before the last start.
    kept: flume::Receiver<VecDeque<LogEvent>>,
    answers: flume::Receiver<LogEvent>,
    trims: flume::Receiver<LogEvent>,
    untold: VecDeque<LogEvent>,
    /// Batches ever sent.
    sent: u64,
    /// Questions without their answer.
    reading: usize,
    /// What the shard was last told to be applied and synced.
    told: (u64, u64),
    health: LogHealth,
    scratch: Vec<u8>,
}

/// What both ends see.
pub(super) struct Shared {
    desks: Box<[Desk]>,
    health: AtomicU8,
    ring: Arc<dyn Fn(ShardId) + Send + Sync>,
    /// How many of the next fsyncs are to fail.
    #[cfg(test)]
    pub(super) failing_syncs: AtomicU64,
}

/// How far the store is with one shard's batches.
#[derive(Default)]
#[repr(align(128))]
struct Desk {
    /// How many were taken out of the queue.
    taken: AtomicU64,
    applied: AtomicU64,
    synced: AtomicU64,
}

/// The queues to one shard.
pub(super) struct Outlet {
    pub(super) kept: flume::Sender<VecDeque<LogEvent>>,
    pub(super) events: flume::Sender<LogEvent>,
    pub(super) trims: flume::Sender<LogEvent>,
}

/// What the thread that commits is asked to do.
pub(super) enum Job {
    Batch(Batch),
    /// Changes of the store's own making, and whom to tell once they are applied.
    Upkeep(Vec<Op>, flume::Sender<()>),
    /// Everything sent before is to be on the disk; then end.
    Close,
}

/// What readers are asked to do.
pub(super) enum ReadJob {
    Read {
        shard: ShardId,
        token: u64,
        read: LogRead,
    },
    /// One reader is to end.
    Close,
}

/// A [`LogBatch`] as bytes.
pub(super) struct Batch {
    pub(super) shard: ShardId,
    pub(super) ticket: u64,
    pub(super) sync: bool,
    pub(super) messages: u32,
    pub(super) bytes: usize,
    /// When it was sent, by the clock of the port.
    pub(super) queued_us: u64,
    pub(super) ops: Vec<Op>,
}

/// One change.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put(Space, Slice, Slice),
    Remove(Space, Slice),
    /// Becomes a `Put` of the block when its turn comes.
    Bury {
        epoch: Epoch,
        seq: Seq,
    },
    /// Becomes a `Put` of the room when its turn comes.
    Register {
        room: RoomName,
        epoch: Epoch,
        jumps: Vec<Jump>,
    },
    /// Retention overtakes a user: becomes the `Put`s of the cursor and of letters, by their positions, that are not
    /// behind the cursor when its turn comes.
    Overtake {
        cursor: Slice,
        seq: Seq,
        letters: Vec<(Seq, Slice, Slice)>,
    },
}

impl Line {
    /// Sends a batch. Given back when too many are under way: try again after the next [`LogEvent::Committed`].
    pub fn try_write(&mut self, batch: LogBatch) -> Result<(), LogBatch> {
        let taken = self.shared.desks[self.shard.index()].taken.load(Ordering::Acquire);
        if self.sent.wrapping_sub(taken) >= BATCHES_MAX as u64 {
            return Err(batch);
        }
        let encoded = self.encode(&batch);
        if self.jobs.try_send(Job::Batch(encoded)).is_err() {
            return Err(batch);
        }
        self.sent += 1;
        Ok(())
    }

    /// Asks a question. Given back when too many are under way: try again after the next [`LogEvent::Read`].
    pub fn try_read(&mut self, token: u64, read: LogRead) -> Result<(), (u64, LogRead)> {
        if self.reading >= READS_MAX {
            return Err((token, read));
        }
        match self.reads.try_send(ReadJob::Read { shard: self.shard, token, read }) {
            Ok(()) => {
                self.reading += 1;
                Ok(())
            }
            Err(error) => match error.into_inner() {
                ReadJob::Read { token, read, .. } => Err((token, read)),
                ReadJob::Close => unreachable!("it was a question"),
            },
        }
    }

    /// What the store says next.
    pub fn next_event(&mut self) -> Option<LogEvent> {
        if let Ok(kept) = self.kept.try_recv() {
            self.untold = kept;
        }
        if let Some(event) = self.untold.pop_front() {
            return Some(event);
        }
        let health = self.shared.health();
        if health != self.health {
            self.health = health;
            return Some(LogEvent::Health(health));
        }
        let (applied, synced) = self.shared.progress(self.shard);
        if (applied, synced) != self.told {
            self.told = (applied, synced);
            return Some(LogEvent::Committed { applied, synced });
        }
        if let Ok(answer) = self.answers.try_recv() {
            self.reading -= 1;
            return Some(answer);
        }
        self.trims.try_recv().ok()
    }

    /// Whether [`Line::next_event`] has something to say.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.untold.is_empty()
            || !self.kept.is_empty()
            || !self.answers.is_empty()
            || !self.trims.is_empty()
            || self.shared.health() != self.health
            || self.shared.progress(self.shard) != self.told
    }

    fn encode(&mut self, batch: &LogBatch) -> Batch {
        let mut messages = 0;
        let mut bytes = 0;
        let mut ops = Vec::with_capacity(batch.writes.len());
        for write in &batch.writes {
            if let LogWrite::Append { messages: appended, .. } = write {
                messages += appended.len() as u32;
            }
            let Some(op) = encode_write(write, &mut self.scratch) else { continue };
            if let Op::Put(_, key, value) = &op {
                bytes += key.len() + value.len();
            }
            ops.push(op);
        }
        let &LogBatch { ticket, sync, .. } = batch;
        Batch { shard: self.shard, ticket, sync, messages, bytes, queued_us: self.clock.us(), ops }
    }
}

/// The change in bytes; `None` for an append of nothing.
fn encode_write(write: &LogWrite, scratch: &mut Vec<u8>) -> Option<Op> {
    let put = |space, key: &[u8], value: &[u8]| Op::Put(space, key.into(), value.into());
    Some(match write {
        LogWrite::Register { room, epoch, jumps } => {
            Op::Register { room: room.clone(), epoch: *epoch, jumps: jumps.clone() }
        }
        LogWrite::Append { epoch, bytes_before, messages } => {
            scratch.clear();
            block::encode(scratch, *bytes_before, messages);
            put(Space::Log, &log_key(*epoch, messages.first()?.seq), scratch)
        }
        LogWrite::Bury { epoch, seq, .. } => Op::Bury { epoch: *epoch, seq: *seq },
        LogWrite::Cursor { epoch, user, kind, seq } => {
            put(Space::Cursors, &cursor_key(*epoch, *kind, user), &encode_cursor(*seq))
        }
        LogWrite::AddLetter(letter) => {
            put(Space::Letters, &letter_key(letter.epoch, &letter.user, letter.message.seq), &encode_letter(letter))
        }
        LogWrite::DropLetter { epoch, seq, user } => Op::Remove(Space::Letters, letter_key(*epoch, user, *seq).into()),
        LogWrite::PutSession(session) => put(Space::Sessions, &session_key(session.id), &encode_session(session)),
        LogWrite::DropSession(id) => Op::Remove(Space::Sessions, session_key(*id).into()),
        LogWrite::Sanction(record) if record.lifted => Op::Remove(Space::Sanctions, sanctions::key(record).into()),
        LogWrite::Sanction(record) => put(Space::Sanctions, &sanctions::key(record), &sanctions::encode(record)),
    })
}

impl Shared {
    pub(super) fn health(&self) -> LogHealth {
        LogHealth::ALL[usize::from(self.health.load(Ordering::Acquire))]
    }

    /// Sets the state and wakes every shard, when it is another than before.
    pub(super) fn set_health(&self, health: LogHealth) {
        if self.health.swap(health as u8, Ordering::AcqRel) != health as u8 {
            (0..self.desks.len()).for_each(|shard| self.ring(ShardId(shard as u16)));
        }
    }

    /// How many shards there are.
    pub(super) fn shards(&self) -> usize {
        self.desks.len()
    }

    pub(super) fn ring(&self, shard: ShardId) {
        (self.ring)(shard);
    }

    /// A batch left the queue, so that there is room for another.
    pub(super) fn took(&self, shard: ShardId) {
        self.desks[shard.index()].taken.fetch_add(1, Ordering::Release);
    }

    pub(super) fn set_applied(&self, shard: ShardId, ticket: u64) {
        self.desks[shard.index()].applied.fetch_max(ticket, Ordering::Release);
    }

    pub(super) fn set_synced(&self, shard: ShardId, ticket: u64) {
        self.desks[shard.index()].synced.fetch_max(ticket, Ordering::Release);
    }

    /// Applied and synced. Read in the order opposite to that of writing, so that nothing is synced but not applied.
    pub(super) fn progress(&self, shard: ShardId) -> (u64, u64) {
        let desk = &self.desks[shard.index()];
        let synced = desk.synced.load(Ordering::Acquire);
        (desk.applied.load(Ordering::Acquire), synced)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for StorePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorePort").field("shards", &self.shared.shards()).finish_non_exhaustive()
    }
}

/// Batches of one line that wait to be committed.
const BATCHES_MAX: usize = 64;
/// Questions of one line without their answer.
const READS_MAX: usize = 256;
/// Trims that a shard was not told of yet; past it retention waits.
const TRIMS_MAX: usize = 256;
/// Room for what the store asks of itself.
const JOBS_RESERVED: usize = 16;
