//! What a durable room knows of its log in the store.
//!
//! Invariants: a room is opened before anyone enters it or speaks in it; until then whoever asks is parked, in order.
//! Positions up to `synced` are on the disk, and at most [`UNSYNCED_PER_ROOM_MAX`] messages come after it, so that
//! after an unclean stop no position is given twice: see [`SEQ_JUMP`]. Jumps are in order and do not overlap.

use std::collections::VecDeque;

use crate::chat::cursors::Reader;
use crate::chat::exchange::{Request, Seat};
use crate::chat::journal::Place;
use crate::chat::log::Jump;
use crate::ids::{Seq, ShardId, UserName};
use crate::limits::UNSYNCED_PER_ROOM_MAX;
use crate::policy::Commit;

/// The log of a durable room.
#[derive(Debug)]
pub(super) struct RoomLog {
    pub(super) commit: Commit,
    /// Requests that wait for the store to say what is there; `None` once it has.
    pub(super) parked: Option<VecDeque<(ShardId, Request)>>,
    /// Whether the next message is preceded by [`crate::chat::log::LogWrite::Register`].
    pub(super) register: bool,
    /// Everything up to here was taken by retention.
    pub(super) trimmed: Seq,
    /// Weight of all messages ever appended.
    pub(super) bytes: u64,
    pub(super) jumps: Vec<Jump>,
    /// The last message known to be on the disk.
    pub(super) synced: Seq,
    /// Messages after it.
    pub(super) unsynced: u64,
    /// Tombstones that are not on the disk.
    pub(super) burying: u64,
    /// Pages that operators read from the store.
    pub(super) reading: u32,
    /// Where the messages of this turn are gathered.
    pub(super) place: Place,
    /// Members whose cursors are being read before they enter, with the token of the question.
    pub(super) entering: Vec<(ShardId, Seat, u64)>,
    /// Cursors of users that are here, or whose cursors are not stored yet.
    pub(super) readers: ahash::HashMap<UserName, Reader>,
    /// What consumers that are away were sent and did not acknowledge, and how often.
    pub(super) away: ahash::HashMap<UserName, Vec<(Seq, u32)>>,
}

impl RoomLog {
    /// A log of which nothing is known yet.
    pub(super) fn new(commit: Commit) -> Self {
        Self {
            commit,
            parked: Some(VecDeque::new()),
            register: true,
            trimmed: Seq(0),
            bytes: 0,
            jumps: Vec::new(),
            synced: Seq(0),
            unsynced: 0,
            burying: 0,
            reading: 0,
            place: Place::default(),
            entering: Vec::new(),
            readers: ahash::HashMap::default(),
            away: ahash::HashMap::default(),
        }
    }

    /// Whether another message must wait until some are on the disk.
    pub(super) fn is_full(&self) -> bool {
        self.unsynced >= UNSYNCED_PER_ROOM_MAX
    }

    /// The position after which the latest `count` messages up to `last` come; at least what retention has left.
    pub(super) fn before_latest(&self, last: Seq, mut count: u64) -> Seq {
        let mut last = last.0;
        for jump in self.jumps.iter().rev() {
            if jump.next.0 > last {
                continue;
            }
            let run = last + 1 - jump.next.0;
            if count <= run {
                break;
            }
            count -= run;
            last = jump.prev.0;
        }
        // When the count ends within a run, what is before the run does not matter.
        Seq(last.saturating_sub(count)).max(self.trimmed)
    }

    /// How many messages lie after `after`, up to `last`.
    pub(super) fn count_after(&self, after: Seq, last: Seq) -> u64 {
        let after = after.max(self.trimmed);
        let passed_over = |jump: &Jump| {
            let (from, to) = (jump.prev.0.max(after.0), (jump.next.0 - 1).min(last.0));
            to.saturating_sub(from)
        };
        last.0.saturating_sub(after.0) - self.jumps.iter().map(passed_over).sum::<u64>()
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        assert!(self.unsynced <= UNSYNCED_PER_ROOM_MAX);
        assert!(self.jumps.iter().all(|jump| jump.prev.next() < jump.next));
        assert!(self.jumps.is_sorted_by(|a, b| a.next <= b.prev), "jumps are in order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> RoomLog {
        let jump = |prev, next| Jump { prev: Seq(prev), next: Seq(next) };
        let log = RoomLog { jumps: vec![jump(10, 101), jump(105, 202)], ..RoomLog::new(Commit::Fsync) };
        log.check();
        log
    }

    #[test]
    fn counting_passes_over_what_was_never_given() {
        let log = log();
        // There are 1..=10, 101..=105 and 202..=203.
        let count = |after| log.count_after(Seq(after), Seq(203));
        assert_eq!([count(0), count(9), count(10), count(50), count(100)], [17, 8, 7, 7, 7]);
        assert_eq!([count(101), count(105), count(150), count(202), count(203), count(999)], [6, 2, 2, 1, 0, 0]);
        assert_eq!(log.count_after(Seq(0), Seq(10)), 10, "before the first message after a jump");
    }

    #[test]
    fn the_latest_are_found_across_what_was_never_given() {
        let mut log = log();
        for count in 1..=17 {
            let before = log.before_latest(Seq(203), count);
            assert_eq!(log.count_after(before, Seq(203)), count, "{count}");
        }
        assert_eq!(log.before_latest(Seq(203), 99), Seq(0));
        assert_eq!(log.before_latest(Seq(203), 0), Seq(203));
        log.trimmed = Seq(103);
        assert_eq!(log.before_latest(Seq(203), 99), Seq(103));
        assert_eq!(log.count_after(Seq(0), Seq(203)), 4);
    }
}
