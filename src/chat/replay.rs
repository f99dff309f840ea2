//! Replays: from where on a member gets what was said before, and in which steps.
//!
//! Invariant: a replay that meets the head makes its member live in that moment, so that nothing lies between.

use std::sync::Arc;

use crate::chat::exchange::{JoinRequest, Seat};
use crate::chat::room::Room;
use crate::ids::{Seq, ShardId};
use crate::limits::{PAGE_MAX, REPLAY_CHUNK_BYTES, REPLAY_CHUNK_MESSAGES};
use crate::message::event::Message;

/// The next part of a member's replay.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) gap: Option<(Seq, Seq)>,
    pub(super) messages: Vec<Arc<Message>>,
    pub(super) live: bool,
}

/// Where the next part of a member's replay is.
#[derive(Debug)]
pub(super) enum Replay {
    /// Here.
    Chunk(Chunk),
    /// In the store, after this position.
    Stored(Seq),
}

/// Where a member's replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Nothing to replay: live at once.
    pub(super) live: bool,
    /// Whether `since` could be met; absent without `since`.
    pub(super) recovered: Option<bool>,
}

impl Room {
    /// The position after which a member that has never been here begins.
    pub(super) fn start_after(&self, join: &JoinRequest) -> Seq {
        self.start_of(join).1.unwrap_or(self.history.last())
    }

    /// The next part of a member's replay. When it meets the head the member is live from this moment on. Nothing when
    /// the member has left or is live already.
    pub(super) fn replay(&mut self, from: ShardId, seat: Seat) -> Option<Replay> {
        let (occupant, cursor) = self.cursor_mut(from, seat)?;
        if occupant.ack {
            return None;
        }
        let before = self.history.before();
        if cursor >= before {
            return self.chunk(from, seat, None);
        }
        let trimmed = self.trimmed();
        if trimmed >= before {
            return self.chunk(from, seat, Some(before));
        }
        Some(Replay::Stored(cursor))
    }

    /// Messages of a replay have come from the store; none, because they are gone or cannot be read, is a gap.
    pub(super) fn replay_stored(
        &mut self,
        from: ShardId,
        seat: Seat,
        after: Seq,
        page: Option<Vec<Arc<Message>>>,
    ) -> Option<Chunk> {
        let (before, last) = (self.history.before(), self.history.last());
        let (occupant, cursor) = self.cursor_mut(from, seat)?;
        if cursor != after || occupant.ack {
            return None;
        }
        // The store may know of a retention of which nothing was heard here yet, so what comes tells of the gap.
        let messages = page.unwrap_or_default();
        let gap_to = messages.first().map_or(before, |first| first.prev.unwrap_or(Seq(first.seq.0 - 1)));
        let gap = (cursor < gap_to).then(|| (cursor.next(), gap_to));
        // Where the store has nothing after the position, memory goes on.
        let reached = messages.last().map_or(before.max(cursor), |message| message.seq);
        let live = reached >= last;
        occupant.cursor = (!live).then_some(reached);
        Some(Chunk { gap, messages, live })
    }

    /// What is next in memory; with a gap up to a position before it.
    fn chunk(&mut self, from: ShardId, seat: Seat, gap_to: Option<Seq>) -> Option<Replay> {
        let head = self.history.last();
        let (_, cursor) = self.cursor_mut(from, seat)?;
        let start = gap_to.map_or(cursor, |to| to.max(cursor));
        let messages = self.history.chunk(start, REPLAY_CHUNK_MESSAGES, REPLAY_CHUNK_BYTES);
        let reached = messages.last().map_or(start, |message| message.seq);
        let live = reached >= head;
        let (occupant, _) = self.cursor_mut(from, seat)?;
        occupant.cursor = (!live).then_some(reached);
        let gap = (cursor < start).then(|| (cursor.next(), start));
        Some(Replay::Chunk(Chunk { gap, messages, live }))
    }

    pub(super) fn start_of(&self, join: &JoinRequest) -> (Start, Option<Seq>) {
        let last = self.history.last();
        let (recovered, after) = match join.since {
            // Who may not read the past has none.
            since if !self.reads_history(join) => (since.map(|_| false), last),
            Some(since) => {
                let covered = since.epoch == self.epoch && since.seq >= self.trimmed() && since.seq <= self.head;
                (Some(covered), if covered { since.seq } else { last })
            }
            None => (None, self.before_latest(join.history)),
        };
        let live = after >= last;
        (Start { live, recovered }, (!live).then_some(after))
    }

    /// The position after which the latest `count` messages come.
    fn before_latest(&self, count: u64) -> Seq {
        let last = self.history.last();
        match &self.log {
            Some(log) => log.before_latest(last, count.min(PAGE_MAX as u64)),
            None => Seq(last.0 - count.min(self.history.len() as u64)),
        }
    }
}
