//! The thread that looks after what is kept: retention by number, bytes and age, and logs that nobody can reach any
//! more.
//!
//! It only reads; what is to be removed it hands to the writer in small pieces, and waits for each, so that commits are
//! not delayed. A block is removed when all of it is past the cut; what is left of the first one is hidden. What users
//! have not acknowledged becomes dead letters first.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::block::{Block, Header};
use super::encoding::Damaged;
use super::engine::{ERASE_PREFIX, Engine, EngineError, Space};
use super::fault::fault_point;
use super::line::{Job, Op, Outlet, Shared};
use super::query::{self, END};
use super::records::{RoomRecord, Trim, epoch_key, read_epoch_key, read_log_key, read_room_key};
use super::seen::Seen;
use super::slot::{Absence, Lease, Slot};
use super::unacked;
use crate::chat::log::{Jump, LogEvent};
use crate::clock::Clock;
use crate::ids::{Epoch, RoomName, Seq};
use crate::policy::RoomPolicy;
use crate::telemetry::store::StoreMetrics;

/// What the thread has.
pub(super) struct Upkeep {
    pub(super) interval: Duration,
    pub(super) slot: Arc<Slot>,
    pub(super) jobs: flume::Sender<Job>,
    pub(super) shared: Arc<Shared>,
    pub(super) outlets: Arc<[Outlet]>,
    pub(super) seen: Arc<Seen>,
    /// Disconnected when the store is to end.
    pub(super) closing: flume::Receiver<()>,
    pub(super) clock: Clock,
    pub(super) metrics: &'static StoreMetrics,
}

/// Why a pass ended early.
enum Stop {
    /// The store ends.
    Ending,
    /// Something could not be read.
    Unreadable(EngineError),
}

impl<E: Into<EngineError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Unreadable(error.into())
    }
}

impl Upkeep {
    /// Works until the store ends.
    pub(super) fn run(self) {
        while let Err(flume::RecvTimeoutError::Timeout) = self.closing.recv_timeout(self.interval) {
            match self.erase_all().and_then(|()| self.trim_all()) {
                Ok(()) => {}
                Err(Stop::Ending) => return,
                Err(Stop::Unreadable(error)) => tracing::error!(%error, "upkeep of the store broke off"),
            }
        }
    }

    /// Removes logs that were replaced.
    fn erase_all(&self) -> Result<(), Stop> {
        loop {
            let Some(mark) = self.lease()?.space(Space::Meta).prefix(ERASE_PREFIX).next().map(fjall::Guard::key) else {
                return Ok(());
            };
            let mark = mark?;
            let epoch = read_epoch_key(mark.get(ERASE_PREFIX.len()..).ok_or(Damaged)?)?;
            for space in [Space::Log, Space::Trims, Space::Cursors, Space::Letters] {
                self.erase(space, epoch)?;
            }
            self.apply(vec![Op::Remove(Space::Meta, mark)])?;
        }
    }

    /// Removes what one keyspace has of a log.
    fn erase(&self, space: Space, epoch: Epoch) -> Result<(), Stop> {
        let prefix = epoch_key(epoch);
        let mut start = Bound::Included(fjall::Slice::from(prefix));
        loop {
            let mut changes = Vec::new();
            for guard in self.lease()?.space(space).range((start.clone(), Bound::Unbounded)).take(PIECE) {
                let key = guard.key()?;
                if !key.starts_with(&prefix) {
                    break;
                }
                start = Bound::Excluded(key.clone());
                changes.push(Op::Remove(space, key));
            }
            if changes.is_empty() {
                return Ok(());
            }
            self.apply(changes)?;
        }
    }

    /// Shortens every log that has grown past what its room's policy allows.
    fn trim_all(&self) -> Result<(), Stop> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            // The rooms come in pages, so that no view of the database is held for long.
            let mut page = Vec::new();
            let lease = self.lease()?;
            let start = after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
            for guard in lease.space(Space::Rooms).range((start, Bound::Unbounded)).take(ROOMS_PAGE) {
                page.push(guard.into_inner()?);
            }
            drop(lease);
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.to_vec());
            for (key, value) in &page {
                let room = read_room_key(key)?;
                let policy = self.seen.policies().of(&room);
                if policy.has_retention() {
                    self.trim(&room, &RoomRecord::decode(value)?, &policy)?;
                }
            }
        }
    }

    /// Shortens one log.
    fn trim(&self, room: &RoomName, record: &RoomRecord, policy: &RoomPolicy) -> Result<(), Stop> {
        let epoch = record.epoch;
        let mut letters = 0;
        loop {
            let lease = self.lease()?;
            let trim = query::trim(&lease, epoch)?;
            let Some(last) = query::last_header(&lease, epoch, trim)? else {
                return Ok(());
            };
            let now_ms = self.clock.now().unix_ms;
            let cut = Cut::new(policy, &last, &record.jumps, now_ms);
            let piece = cut.piece(&lease, epoch, trim)?;
            if piece.trim == trim {
                return Ok(());
            }
            let unacked = unacked::step(&lease, (room, epoch), trim, piece.trim.upto, now_ms)?;
            drop(lease);
            letters += unacked.letters;
            let mut changes = unacked.ops;
            if unacked.is_last {
                changes.extend(piece.removed);
                changes.push(Op::Put(Space::Trims, epoch_key(epoch).into(), piece.trim.encode().into()));
            }
            fault_point("store.before_trim");
            self.apply(changes)?;
            fault_point("store.after_trim");
            if unacked.is_last {
                self.metrics.trimmed_total.add(piece.messages);
                self.tell(room, epoch, piece.trim.upto)?;
                if !piece.has_more {
                    return Ok(());
                }
            }
            if letters >= LETTERS_PER_PASS_MAX {
                self.metrics.retention_postponed_total.inc();
                return Ok(());
            }
        }
    }

    fn tell(&self, room: &RoomName, epoch: Epoch, upto: Seq) -> Result<(), Stop> {
        let Some(shard) = self.seen.shard_of(epoch) else {
            return Ok(());
        };
        let mut event = LogEvent::Trimmed { room: room.clone(), epoch, upto };
        loop {
            match self.outlets[shard.index()].trims.send_timeout(event, LOOK) {
                Ok(()) => break,
                Err(flume::SendTimeoutError::Timeout(back)) => event = back,
                // Its line is gone.
                Err(flume::SendTimeoutError::Disconnected(_)) => return Ok(()),
            }
            if self.closing.is_disconnected() {
                return Err(Stop::Ending);
            }
        }
        self.shared.ring(shard);
        Ok(())
    }

    /// Has the writer apply changes, and waits until it has.
    fn apply(&self, changes: Vec<Op>) -> Result<(), Stop> {
        let (done, is_done) = flume::bounded(1);
        let mut job = Job::Upkeep(changes, done);
        loop {
            match self.jobs.send_timeout(job, LOOK) {
                Ok(()) => break,
                Err(flume::SendTimeoutError::Timeout(back)) => job = back,
                Err(flume::SendTimeoutError::Disconnected(_)) => return Err(Stop::Ending),
            }
            if self.closing.is_disconnected() {
                return Err(Stop::Ending);
            }
        }
        loop {
            match is_done.recv_timeout(LOOK) {
                Ok(()) => return Ok(()),
                Err(flume::RecvTimeoutError::Disconnected) => return Err(Stop::Ending),
                Err(flume::RecvTimeoutError::Timeout) if self.closing.is_disconnected() => return Err(Stop::Ending),
                Err(flume::RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn lease(&self) -> Result<Lease, Stop> {
        while !self.closing.is_disconnected() {
            match self.slot.lease() {
                Ok(lease) => return Ok(lease),
                Err(Absence::Ended) => break,
                Err(Absence::Withdrawn) => std::thread::park_timeout(LOOK),
            }
        }
        Err(Stop::Ending)
    }
}

/// Which messages of a log are to go: those that any of the three limits excludes.
struct Cut {
    /// By number: everything up to here.
    upto: Seq,
    /// By bytes: every message that has fewer appended before it than this.
    bytes_before_min: u64,
    /// By age: every message older than this.
    timestamp_min: u64,
}

/// What is removed at once.
struct Piece {
    removed: Vec<Op>,
    trim: Trim,
    messages: u64,
    has_more: bool,
}

impl Cut {
    fn new(policy: &RoomPolicy, last: &Header, jumps: &[Jump], now_ms: u64) -> Self {
        let bytes = last.bytes_before.saturating_add(last.bytes);
        let ttl_ms = policy.ttl.map(|ttl| ttl.as_millis() as u64);
        Self {
            upto: policy.size.map_or(Seq(0), |size| nth_from_end(last.last, jumps, size)),
            bytes_before_min: policy.bytes.map_or(0, |max| bytes.saturating_sub(max)),
            timestamp_min: ttl_ms.map_or(0, |ttl| now_ms.saturating_sub(ttl)),
        }
    }

    fn takes(&self, seq: Seq, bytes_before: u64, timestamp: u64) -> bool {
        seq <= self.upto || bytes_before < self.bytes_before_min || timestamp < self.timestamp_min
    }

    /// Whether all messages of a block go, as far as its header tells.
    fn takes_all(&self, header: &Header) -> bool {
        // The last message of a block has no more before it than the block has in all, and time and place of its own.
        let end = header.bytes_before.saturating_add(header.bytes);
        header.last <= self.upto
            || end <= self.bytes_before_min && header.bytes > 0
            || header.last_timestamp < self.timestamp_min
    }

    /// The next piece from the start of the log.
    fn piece(&self, engine: &Engine, epoch: Epoch, from: Trim) -> Result<Piece, EngineError> {
        let mut piece = Piece { removed: Vec::new(), trim: from, messages: 0, has_more: false };
        for guard in engine.space(Space::Log).range(query::blocks(epoch, from, END)) {
            if piece.removed.len() == PIECE {
                piece.has_more = true;
                break;
            }
            let (key, value) = guard.into_inner()?;
            let block = Block::new(read_log_key(&key)?.1, &value)?;
            let header = block.header;
            let (mut bytes_before, mut kept) = (header.bytes_before, header.count);
            let mut upto = piece.trim.upto;
            let takes_all = self.takes_all(&header);
            for entry in block.entries() {
                let entry = entry?;
                if !takes_all && !self.takes(entry.seq, bytes_before, entry.timestamp) {
                    break;
                }
                bytes_before += entry.weight() as u64;
                kept -= 1;
                if entry.seq > upto {
                    upto = entry.seq;
                    piece.messages += 1;
                }
            }
            piece.trim.upto = upto;
            if kept > 0 {
                break;
            }
            piece.trim.last = header.last;
            piece.trim.last_timestamp = header.last_timestamp;
            piece.trim.bytes = header.bytes_before.saturating_add(header.bytes);
            piece.removed.push(Op::Remove(Space::Log, key));
        }
        Ok(piece)
    }
}

/// The position before the last `size` messages of a log.
fn nth_from_end(last: Seq, jumps: &[Jump], size: u64) -> Seq {
    let (mut end, mut left) = (last.0, size);
    for jump in jumps.iter().rev() {
        let Some(here) = end.checked_sub(jump.next.0).map(|distance| distance.saturating_add(1)) else {
            continue;
        };
        if left < here {
            break;
        }
        left -= here;
        end = jump.prev.0;
    }
    Seq(end.saturating_sub(left))
}

/// Keys that are removed at once.
const PIECE: usize = 256;
/// Dead letters of one room after which the rest waits for the next pass.
const LETTERS_PER_PASS_MAX: usize = 10_000;
/// Rooms that are read at once.
const ROOMS_PAGE: usize = 256;
/// How often to look whether the store ends, while waiting for something else.
const LOOK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_over_jumps() {
        let jumps = [Jump { prev: Seq(10), next: Seq(4_108) }, Jump { prev: Seq(4_110), next: Seq(9_000) }];
        let before = |size| nth_from_end(Seq(9_001), &jumps, size).0;
        assert_eq!([before(0), before(1), before(2)], [9_001, 9_000, 4_110]);
        assert_eq!([before(3), before(5), before(6)], [4_109, 10, 9]);
        assert_eq!([before(15), before(99)], [0, 0]);
        assert_eq!(nth_from_end(Seq(5), &[], 3), Seq(2));
    }
}
