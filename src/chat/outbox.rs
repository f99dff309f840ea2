//! What one connection has yet to be written: encoded frames, in order, under a bound.
//!
//! The shell pushes frames with [`Outbox::push`], takes one batch at a time with [`Outbox::take_batch`], keeps that
//! batch alive until the kernel is done with it, and says so with [`Outbox::written`]. After each write it asks
//! [`Outbox::next_gap`] until there is none. A connection that reads too slowly shows in three ways only:
//! [`Pushed::Overflow`], [`Outbox::stall_deadline_ms`] that passes, and gaps.
//!
//! Invariants:
//! - At most one batch is in flight, and what is in flight counts against the bound until it is written.
//! - An empty outbox takes any one frame; otherwise queued and in-flight bytes, and [`QUEUED_FRAME_BYTES`] for each queued
//!   frame, stay within the bound (within twice the bound for control frames under the `skip` policy).
//! - From the first message of a room that is skipped until its gap is taken, every message of that room is skipped.
//!   So one range per room says it exactly, and it is told before any later message of the room.
//! - Empty and released it owns no heap memory and is 64 bytes.
//!
//! Absent: sockets, encodings, timers. The buffer in which small frames are gathered belongs to the shell.

use std::collections::VecDeque;
use std::mem::size_of;

use bytes::Bytes;

use crate::ids::{RoomName, Seq};
use crate::limits::{Limits, ROOMS_PER_CONNECTION_MAX, SlowConsumerPolicy};

/// Frames waiting to be written to one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Oldest first; what is in flight is not in here.
    queue: VecDeque<Bytes>,
    /// Of the queue and the batch in flight together.
    bytes: usize,
    /// Of the batch in flight, not yet written. At most `bytes`.
    in_flight: usize,
    /// When bytes were last written, or when the first of them was pushed.
    progress_ms: u64,
    /// Ranges skipped and not yet told; `None` when there are none. At most one per room.
    gaps: Option<Box<Gaps>>,
}

const _: () = assert!(size_of::<Outbox>() <= 64, "there is one per connection, mostly empty");

/// What [`Limits`] says about outboxes, worked out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Bound of queued and in-flight bytes and of what queued frames count beyond them.
    pub bytes_max: usize,
    /// Longest time without progress, in milliseconds.
    pub stall_ms: u64,
    /// What happens past the bound.
    pub policy: SlowConsumerPolicy,
}

impl From<&Limits> for OutboxLimits {
    fn from(limits: &Limits) -> Self {
        Self {
            bytes_max: limits.outbox_bytes_max(),
            stall_ms: limits.outbox_stall.as_millis() as u64,
            policy: limits.slow_consumer,
        }
    }
}

/// What a frame is, which decides what may be done without it.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A message with a place in a room's log, live or replayed. Skipping it leaves a gap that is told.
    Message {
        /// Where.
        room: &'a RoomName,
        /// Its position.
        seq: Seq,
    },
    /// Ephemeral: skipped without a word to the client.
    Signal,
    /// Replies, presence, tombstones, gaps, relay frames, pongs: never skipped.
    Control,
    /// The transport's goodbye, the last frame of all: taken whatever the outbox holds.
    Goodbye,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// It waits for its turn.
    Queued,
    /// It was left out, by the `skip` policy; the shell counts it.
    Skipped,
    /// It does not fit: close the connection as a slow consumer. Nothing was changed.
    Overflow,
}

/// What to write next. Whoever holds it keeps it until all its bytes are [`Outbox::written`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Batch {
    /// One frame as it was pushed, not copied.
    Frame(Bytes),
    /// Several small frames were copied one after another into `scratch`, which now holds exactly these bytes.
    Gathered,
}

/// Messages of a room that were skipped: `from` to `to`, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where.
    pub room: RoomName,
    /// First one.
    pub from: Seq,
    /// Last one.
    pub to: Seq,
}

/// What [`Outbox::drop_queued`] threw away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Frames of any kind.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Outbox {
    /// Adds a frame, or says why not. No transport has frames of no bytes, so `frame` is never empty.
    #[inline]
    pub fn push(&mut self, frame: Bytes, kind: Kind<'_>, limits: &OutboxLimits, now_ms: u64) -> Pushed {
        debug_assert!(!frame.is_empty());
        let fits = self.bytes == 0 || self.counted_with(frame.len()) <= limits.bytes_max;
        if !fits || self.gaps.is_some() {
            match self.over_bound(frame.len(), kind, fits, limits) {
                Pushed::Queued => {}
                refused => return refused,
            }
        }
        if self.bytes == 0 {
            self.progress_ms = now_ms;
        }
        self.bytes += frame.len();
        self.queue.push_back(frame);
        Pushed::Queued
    }

    /// What counts towards the bound.
    #[inline]
    fn counted(&self) -> usize {
        self.bytes + self.queue.len() * QUEUED_FRAME_BYTES
    }

    /// The same with one more frame of so many bytes.
    #[inline]
    fn counted_with(&self, len: usize) -> usize {
        self.counted().saturating_add(len.saturating_add(QUEUED_FRAME_BYTES))
    }

    /// Decides about a frame that does not fit, or comes while gaps are untold.
    #[cold]
    fn over_bound(&mut self, len: usize, kind: Kind<'_>, fits: bool, limits: &OutboxLimits) -> Pushed {
        match (kind, limits.policy) {
            (Kind::Goodbye, _) => Pushed::Queued,
            (Kind::Message { room, seq }, SlowConsumerPolicy::Skip) => self.skip_message(room, seq, fits),
            (_, _) if fits => Pushed::Queued,
            (Kind::Signal, SlowConsumerPolicy::Skip) => Pushed::Skipped,
            (Kind::Control, SlowConsumerPolicy::Skip)
                if self.counted_with(len) <= limits.bytes_max.saturating_mul(2) =>
            {
                Pushed::Queued
            }
            (_, _) => Pushed::Overflow,
        }
    }

    /// Skips a message when it does not fit or when its room's gap has not been told yet.
    fn skip_message(&mut self, room: &RoomName, seq: Seq, fits: bool) -> Pushed {
        let untold = self.gaps.iter_mut().flat_map(|gaps| gaps.list.iter_mut()).find(|gap| gap.room == *room);
        if let Some(gap) = untold {
            gap.from = gap.from.min(seq);
            gap.to = gap.to.max(seq);
            return Pushed::Skipped;
        }
        if fits {
            return Pushed::Queued;
        }
        let gaps = self.gaps.get_or_insert_default();
        if gaps.list.len() >= GAPS_MAX {
            return Pushed::Overflow;
        }
        gaps.list.push_back(Gap { room: room.clone(), from: seq, to: seq });
        Pushed::Skipped
    }

    /// Takes what is to be written next; `None` while a batch is in flight or when nothing waits. When it is
    /// [`Batch::Gathered`], `scratch` is overwritten; otherwise it is left alone.
    ///
    /// A frame that is alone, or large, is handed out as it is; small ones are gathered up to
    /// [`GATHERED_BYTES_MAX`], because one write of many is cheaper than the copy.
    #[inline]
    pub fn take_batch(&mut self, scratch: &mut Vec<u8>) -> Option<Batch> {
        if self.in_flight > 0 {
            return None;
        }
        let first = self.queue.pop_front()?;
        match self.queue.front() {
            Some(second) if first.len() < COPIED_FRAME_BYTES_MAX && second.len() < COPIED_FRAME_BYTES_MAX => {
                self.gather(&first, scratch);
                self.in_flight = scratch.len();
                self.give_back_when_empty();
                Some(Batch::Gathered)
            }
            _ => {
                self.in_flight = first.len();
                self.give_back_when_empty();
                Some(Batch::Frame(first))
            }
        }
    }

    fn gather(&mut self, first: &[u8], scratch: &mut Vec<u8>) {
        scratch.clear();
        scratch.extend_from_slice(first);
        while let Some(next) = self.queue.front() {
            if next.len() >= COPIED_FRAME_BYTES_MAX || scratch.len() + next.len() > GATHERED_BYTES_MAX {
                return;
            }
            scratch.extend_from_slice(next);
            self.queue.pop_front();
        }
    }

    /// A burst leaves no large queue behind; a small one is kept for the next message.
    fn give_back_when_empty(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEPT_FRAMES_MAX {
            self.queue = VecDeque::new();
        }
    }

    /// The kernel took the next `n` bytes of the batch in flight. Returns how many of the batch are left: the
    /// shell goes on from there, and at 0 lets go of the batch.
    ///
    /// # Panics
    /// When `n` is more than was in flight, which only a broken shell can say.
    #[inline]
    pub fn written(&mut self, n: usize, now_ms: u64) -> usize {
        assert!(n <= self.in_flight, "{n} bytes written of {} in flight", self.in_flight);
        self.in_flight -= n;
        self.bytes -= n;
        if n > 0 {
            self.progress_ms = now_ms;
        }
        self.in_flight
    }

    /// Once the outbox is at most half full, takes a gap that is now to be told, oldest first. The shell pushes it
    /// as [`Kind::Control`] and asks again until `None`: before it pushes any further message.
    #[inline]
    pub fn next_gap(&mut self, limits: &OutboxLimits) -> Option<Gap> {
        if self.gaps.is_none() || !self.is_below_half(limits) {
            return None;
        }
        self.take_gap()
    }

    /// Whether there are ranges that were skipped and not yet told.
    #[must_use]
    #[inline]
    pub fn has_gaps(&self) -> bool {
        self.gaps.is_some()
    }

    /// Takes an untold gap whatever the outbox holds, oldest first. The shell empties the list so before it pushes
    /// a reply that may end or renew a membership (`ok` without more, or to `join` and `switch`), before a gap that
    /// the core itself tells, and before the goodbye of a connection that is flushed: so the client reads all of
    /// them in the order of the rooms' logs.
    #[inline]
    pub fn take_gap(&mut self) -> Option<Gap> {
        let gaps = self.gaps.as_mut()?;
        let gap = gaps.list.pop_front();
        if gaps.list.is_empty() {
            self.gaps = None;
        }
        gap
    }

    /// Whether at most half of the bound is in use: the mark for replays and gaps to go on.
    #[must_use]
    #[inline]
    pub fn is_below_half(&self, limits: &OutboxLimits) -> bool {
        self.counted() <= limits.bytes_max / 2
    }

    /// When the connection is to be closed as a slow consumer unless bytes are written before; `None` while there
    /// is nothing to write. Moves later with every write, so a timer may check it lazily.
    #[must_use]
    #[inline]
    pub fn stall_deadline_ms(&self, limits: &OutboxLimits) -> Option<u64> {
        (!self.is_empty()).then(|| self.progress_ms.saturating_add(limits.stall_ms))
    }

    /// Bytes not yet written, those in flight included.
    #[must_use]
    #[inline]
    pub fn queued_bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the batch in flight that are not yet written.
    #[must_use]
    #[inline]
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight
    }

    /// Whether [`Outbox::take_batch`] would give something.
    #[must_use]
    #[inline]
    pub fn wants_write(&self) -> bool {
        self.in_flight == 0 && !self.queue.is_empty()
    }

    /// Whether everything pushed has been written. Gaps may still be untold.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Forgets everything but the batch in flight: the connection ends, and only a [`Kind::Goodbye`] follows.
    pub fn drop_queued(&mut self) -> Dropped {
        let dropped = Dropped { frames: self.queue.len(), bytes: self.bytes - self.in_flight };
        self.queue = VecDeque::new();
        self.gaps = None;
        self.bytes = self.in_flight;
        dropped
    }

    /// Gives back what memory an empty queue still holds; for connections that fell idle.
    pub fn release(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// Recounts what the fields claim, in debug builds.
    pub fn check_invariants(&self) {
        debug_assert_eq!(self.bytes, self.in_flight + self.queue.iter().map(Bytes::len).sum::<usize>());
        if let Some(gaps) = &self.gaps {
            debug_assert!((1..=GAPS_MAX).contains(&gaps.list.len()));
            debug_assert!(gaps.list.iter().all(|gap| gap.from <= gap.to));
        }
    }
}

/// Kept apart so that an outbox without gaps, which is nearly every one, pays one pointer.
#[derive(Debug, Default)]
struct Gaps {
    /// Never empty; in the order in which the rooms' first messages were skipped.
    list: VecDeque<Gap>,
}

/// What a queued frame counts beyond its bytes: its place in the queue, and an allocation of its own. By bytes alone,
/// frames of two bytes (empty pongs and messages of the relay) would take thirty times the bound.
pub const QUEUED_FRAME_BYTES: usize = 64;
/// Frames of this size and above are never copied.
pub const COPIED_FRAME_BYTES_MAX: usize = 16 * 1024;
/// Most bytes gathered into one batch.
pub const GATHERED_BYTES_MAX: usize = 64 * 1024;
/// Capacity that a queue may keep when it runs empty (2 KiB).
const KEPT_FRAMES_MAX: usize = 64;
/// Rooms with an untold gap; a member of more rooms than a connection may be in has left some of them meanwhile.
const GAPS_MAX: usize = ROOMS_PER_CONNECTION_MAX;

const _: () = assert!(size_of::<Bytes>() < QUEUED_FRAME_BYTES);
const _: () = assert!(2 * COPIED_FRAME_BYTES_MAX <= GATHERED_BYTES_MAX, "any two small frames can be gathered");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Namespace;

    const SKIP: OutboxLimits = OutboxLimits { bytes_max: 1_000, stall_ms: 10_000, policy: SlowConsumerPolicy::Skip };
    const DISCONNECT: OutboxLimits = OutboxLimits { policy: SlowConsumerPolicy::Disconnect, ..SKIP };

    fn room(name: &str) -> RoomName {
        RoomName::new(Namespace::Chat, name).unwrap()
    }

    fn frame(len: usize) -> Bytes {
        Bytes::from(vec![b'x'; len])
    }

    /// Writes everything that waits.
    fn drain(outbox: &mut Outbox, now_ms: u64) -> Vec<u8> {
        let mut wire = Vec::new();
        let mut scratch = Vec::new();
        while let Some(batch) = outbox.take_batch(&mut scratch) {
            let bytes = match &batch {
                Batch::Frame(frame) => &frame[..],
                Batch::Gathered => &scratch[..],
            };
            wire.extend_from_slice(bytes);
            assert_eq!(outbox.written(bytes.len(), now_ms), 0);
        }
        wire
    }

    #[test]
    fn empty_outbox_takes_one_frame_of_any_size() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(frame(1_000), Kind::Control, &DISCONNECT, 0), Pushed::Queued);
        assert_eq!(outbox.push(frame(1), Kind::Control, &DISCONNECT, 0), Pushed::Overflow);
        drain(&mut outbox, 0);
        assert_eq!(outbox.push(frame(1_000), Kind::Signal, &DISCONNECT, 0), Pushed::Queued);
    }

    #[test]
    fn what_is_in_flight_counts_against_the_bound() {
        let mut outbox = Outbox::default();
        let mut scratch = Vec::new();
        let left = 400 - QUEUED_FRAME_BYTES;
        assert_eq!(outbox.push(frame(600), Kind::Control, &DISCONNECT, 0), Pushed::Queued);
        assert_eq!(outbox.take_batch(&mut scratch), Some(Batch::Frame(frame(600))));
        assert_eq!(outbox.push(frame(left + 1), Kind::Control, &DISCONNECT, 0), Pushed::Overflow);
        assert_eq!(outbox.push(frame(left), Kind::Control, &DISCONNECT, 0), Pushed::Queued);
        assert_eq!(outbox.written(590, 1), 10);
        assert_eq!(outbox.queued_bytes(), left + 10);
        assert_eq!(outbox.take_batch(&mut scratch), None, "one batch at a time");
        assert_eq!(outbox.written(10, 2), 0);
        assert_eq!(outbox.take_batch(&mut scratch), Some(Batch::Frame(frame(left))));
    }

    #[test]
    fn small_frames_count_for_the_memory_they_take() {
        let limits = OutboxLimits { bytes_max: 1 << 20, ..DISCONNECT };
        let mut outbox = Outbox::default();
        let pong = Bytes::from_static(&[0x8a, 0]);
        let mut frames = 0;
        while outbox.push(pong.clone(), Kind::Control, &limits, 0) == Pushed::Queued {
            frames += 1;
        }
        assert_eq!(frames, limits.bytes_max / (2 + QUEUED_FRAME_BYTES));
        assert_eq!(outbox.queued_bytes(), 2 * frames);
        assert!(outbox.queue.capacity() * size_of::<Bytes>() <= limits.bytes_max);
        assert!(!outbox.is_below_half(&limits));
        // What was taken out makes room again, to the byte.
        let mut scratch = Vec::new();
        assert_eq!(outbox.take_batch(&mut scratch), Some(Batch::Gathered));
        assert_eq!(outbox.written(scratch.len(), 0), 0);
        for _ in 0..scratch.len() / 2 {
            assert_eq!(outbox.push(pong.clone(), Kind::Control, &limits, 0), Pushed::Queued);
        }
        assert_eq!(outbox.push(pong, Kind::Control, &limits, 0), Pushed::Overflow);
    }

    #[test]
    fn single_and_large_frames_are_not_copied() {
        let large = frame(COPIED_FRAME_BYTES_MAX);
        let limits = OutboxLimits { bytes_max: 1 << 20, ..DISCONNECT };
        let mut outbox = Outbox::default();
        let mut scratch = Vec::new();
        for piece in [&frame(10), &large, &frame(11), &frame(12)] {
            assert_eq!(outbox.push(piece.clone(), Kind::Control, &limits, 0), Pushed::Queued);
        }
        let Some(Batch::Frame(first)) = outbox.take_batch(&mut scratch) else { panic!("copied") };
        assert_eq!(outbox.written(first.len(), 0), 0);
        let Some(Batch::Frame(second)) = outbox.take_batch(&mut scratch) else { panic!("copied") };
        assert_eq!(second.as_ptr(), large.as_ptr());
        assert_eq!(outbox.written(second.len(), 0), 0);
        assert_eq!(outbox.take_batch(&mut scratch), Some(Batch::Gathered));
        assert_eq!(scratch.len(), 23);
    }

    #[test]
    fn gathering_ends_at_its_bound() {
        let limits = OutboxLimits { bytes_max: 1 << 20, ..DISCONNECT };
        let mut outbox = Outbox::default();
        let mut scratch = Vec::new();
        for _ in 0..10 {
            assert_eq!(outbox.push(frame(10_000), Kind::Control, &limits, 0), Pushed::Queued);
        }
        assert_eq!(outbox.take_batch(&mut scratch), Some(Batch::Gathered));
        assert_eq!(scratch.len(), 60_000);
        assert_eq!(outbox.written(60_000, 0), 0);
        assert_eq!(outbox.queued_bytes(), 40_000);
    }

    #[test]
    fn skipped_messages_are_told_before_the_next_one_of_the_room() {
        let mut outbox = Outbox::default();
        let (a, b) = (room("a"), room("b"));
        let message = |room, seq| Kind::Message { room, seq: Seq(seq) };
        assert_eq!(outbox.push(frame(600), message(&a, 1), &SKIP, 0), Pushed::Queued);
        assert_eq!(outbox.push(frame(600), message(&a, 2), &SKIP, 0), Pushed::Skipped);
        assert_eq!(outbox.push(frame(5), message(&a, 3), &SKIP, 0), Pushed::Skipped, "it fits, but its gap is untold");
        assert_eq!(outbox.push(frame(5), message(&b, 9), &SKIP, 0), Pushed::Queued, "another room has no gap");
        assert_eq!(outbox.next_gap(&SKIP), None, "still above half");
        drain(&mut outbox, 0);
        assert_eq!(outbox.push(frame(5), message(&a, 4), &SKIP, 0), Pushed::Skipped);
        assert_eq!(outbox.next_gap(&SKIP), Some(Gap { room: a.clone(), from: Seq(2), to: Seq(4) }));
        assert_eq!(outbox.next_gap(&SKIP), None);
        assert_eq!(outbox.push(frame(5), message(&a, 5), &SKIP, 0), Pushed::Queued);
    }

    #[test]
    fn gaps_can_be_told_at_once_before_a_membership_ends() {
        let mut outbox = Outbox::default();
        let (a, b) = (room("a"), room("b"));
        assert_eq!(outbox.push(frame(1_000), Kind::Control, &SKIP, 0), Pushed::Queued);
        for room in [&a, &b] {
            assert_eq!(outbox.push(frame(1), Kind::Message { room, seq: Seq(7) }, &SKIP, 0), Pushed::Skipped);
        }
        assert_eq!(outbox.next_gap(&SKIP), None);
        assert_eq!(outbox.take_gap(), Some(Gap { room: a, from: Seq(7), to: Seq(7) }));
        assert_eq!(outbox.take_gap().map(|gap| gap.room), Some(b));
        assert_eq!(outbox.take_gap(), None);
    }

    #[test]
    fn rooms_with_untold_gaps_are_bounded() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(frame(1_000), Kind::Control, &SKIP, 0), Pushed::Queued);
        for n in 0..GAPS_MAX {
            let room = room(&n.to_string());
            let kind = Kind::Message { room: &room, seq: Seq(1) };
            assert_eq!(outbox.push(frame(1), kind, &SKIP, 0), Pushed::Skipped);
        }
        let one_more = Kind::Message { room: &room("more"), seq: Seq(1) };
        assert_eq!(outbox.push(frame(1), one_more, &SKIP, 0), Pushed::Overflow);
        let known = Kind::Message { room: &room("0"), seq: Seq(2) };
        assert_eq!(outbox.push(frame(1), known, &SKIP, 0), Pushed::Skipped);
    }

    #[test]
    fn control_frames_have_slack_and_signals_have_none_under_skip() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(frame(1_000), Kind::Control, &SKIP, 0), Pushed::Queued);
        assert_eq!(outbox.push(frame(1), Kind::Signal, &SKIP, 0), Pushed::Skipped);
        let left = 1_000 - 2 * QUEUED_FRAME_BYTES;
        assert_eq!(outbox.push(frame(left + 1), Kind::Control, &SKIP, 0), Pushed::Overflow);
        assert_eq!(outbox.push(frame(left), Kind::Control, &SKIP, 0), Pushed::Queued);
        assert_eq!(outbox.push(frame(1), Kind::Control, &SKIP, 0), Pushed::Overflow);
        assert_eq!(outbox.push(frame(1), Kind::Signal, &SKIP, 0), Pushed::Skipped);
    }

    #[test]
    fn goodbye_follows_the_frame_in_flight() {
        let mut outbox = Outbox::default();
        let mut scratch = Vec::new();
        assert_eq!(outbox.push(frame(500), Kind::Control, &DISCONNECT, 0), Pushed::Queued);
        assert_eq!(outbox.take_batch(&mut scratch), Some(Batch::Frame(frame(500))));
        assert_eq!(outbox.push(frame(7), Kind::Goodbye, &DISCONNECT, 0), Pushed::Queued);
        assert_eq!(outbox.drop_queued(), Dropped { frames: 1, bytes: 7 });
        assert_eq!(outbox.push(Bytes::from_static(b"bye"), Kind::Goodbye, &DISCONNECT, 0), Pushed::Queued);
        assert_eq!(outbox.written(500, 0), 0);
        assert_eq!(drain(&mut outbox, 0), b"bye");
        assert!(outbox.is_empty());
    }

    #[test]
    fn stall_counts_from_the_last_progress() {
        let mut outbox = Outbox::default();
        let mut scratch = Vec::new();
        assert_eq!(outbox.stall_deadline_ms(&DISCONNECT), None);
        assert_eq!(outbox.push(frame(10), Kind::Control, &DISCONNECT, 1_000), Pushed::Queued);
        assert_eq!(outbox.push(frame(10), Kind::Control, &DISCONNECT, 5_000), Pushed::Queued);
        assert_eq!(outbox.stall_deadline_ms(&DISCONNECT), Some(11_000), "a push is not progress");
        assert_eq!(outbox.take_batch(&mut scratch), Some(Batch::Gathered));
        assert_eq!(outbox.written(0, 6_000), 20);
        assert_eq!(outbox.stall_deadline_ms(&DISCONNECT), Some(11_000), "nothing was written");
        assert_eq!(outbox.written(1, 7_000), 19);
        assert_eq!(outbox.stall_deadline_ms(&DISCONNECT), Some(17_000));
        assert_eq!(outbox.written(19, 8_000), 0);
        assert_eq!(outbox.stall_deadline_ms(&DISCONNECT), None);
        assert_eq!(outbox.push(frame(10), Kind::Control, &DISCONNECT, 90_000), Pushed::Queued);
        assert_eq!(outbox.stall_deadline_ms(&DISCONNECT), Some(100_000), "time spent empty does not count");
    }

    #[test]
    fn memory_is_given_back() {
        let limits = OutboxLimits { bytes_max: 1 << 20, ..DISCONNECT };
        let mut outbox = Outbox::default();
        assert_eq!(outbox.queue.capacity(), 0);
        for _ in 0..1_000 {
            assert_eq!(outbox.push(frame(10), Kind::Control, &limits, 0), Pushed::Queued);
        }
        drain(&mut outbox, 0);
        assert_eq!(outbox.queue.capacity(), 0, "a burst keeps nothing");
        assert_eq!(outbox.push(frame(10), Kind::Control, &limits, 0), Pushed::Queued);
        drain(&mut outbox, 0);
        let kept = outbox.queue.capacity();
        assert!(kept > 0, "a busy connection does not allocate per message");
        outbox.release();
        assert_eq!(outbox.queue.capacity(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Message { room: usize, len: usize },
        Signal(usize),
        Control(usize),
        Take,
        Write(usize),
        Gaps,
        Drop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let len = prop_oneof![4 => 1..40_usize, 1 => 100..300_usize];
        let step = prop_oneof![
            6 => (0..3_usize, len.clone()).prop_map(|(room, len)| Step::Message { room, len }),
            1 => len.clone().prop_map(Step::Signal),
            2 => len.prop_map(Step::Control),
            4 => Just(Step::Take),
            4 => (1..200_usize).prop_map(Step::Write),
            2 => Just(Step::Gaps),
            1 => Just(Step::Drop),
        ];
        proptest::collection::vec(step, 1..200)
    }

    /// The same rules written without any care for cost.
    #[derive(Default)]
    struct Model {
        queue: Vec<Vec<u8>>,
        flying: Vec<u8>,
        gaps: Vec<(usize, u64, u64)>,
        wire: Vec<u8>,
    }

    impl Model {
        fn bytes(&self) -> usize {
            self.flying.len() + self.queue.iter().map(Vec::len).sum::<usize>()
        }

        fn counted(&self) -> usize {
            self.bytes() + self.queue.len() * QUEUED_FRAME_BYTES
        }

        /// `message`: the room and position of a message. `bound`: what the frame's kind may fill.
        fn push(&mut self, frame: &[u8], message: Option<(usize, u64)>, bound: usize) -> bool {
            let fits = self.bytes() == 0 || self.counted() + frame.len() + QUEUED_FRAME_BYTES <= bound;
            if let Some((room, seq)) = message {
                if let Some(gap) = self.gaps.iter_mut().find(|gap| gap.0 == room) {
                    gap.2 = seq;
                    return false;
                }
                if !fits {
                    self.gaps.push((room, seq, seq));
                }
            }
            if fits {
                self.queue.push(frame.to_vec());
            }
            fits
        }
    }

    /// Plays `steps` on an outbox and on the model, and compares what can be seen after each.
    struct Pair {
        outbox: Outbox,
        model: Model,
        scratch: Vec<u8>,
        rooms: [RoomName; 3],
        seqs: [u64; 3],
        frames: u8,
    }

    impl Pair {
        fn new() -> Self {
            let rooms = [room("a"), room("b"), room("c")];
            let (outbox, model, scratch) = (Outbox::default(), Model::default(), Vec::new());
            Self { outbox, model, scratch, rooms, seqs: [0; 3], frames: 0 }
        }

        /// A frame unlike its neighbours, so that a change of order shows.
        fn frame(&mut self, len: usize) -> Bytes {
            self.frames = self.frames.wrapping_add(1);
            Bytes::from(vec![self.frames; len])
        }

        fn play(&mut self, step: &Step, limits: &OutboxLimits) {
            match *step {
                Step::Message { room, len } => {
                    self.seqs[room] += 1;
                    let seq = self.seqs[room];
                    let frame = self.frame(len);
                    let kind = Kind::Message { room: &self.rooms[room], seq: Seq(seq) };
                    let pushed = self.outbox.push(frame.clone(), kind, limits, 0);
                    let took = self.model.push(&frame, Some((room, seq)), limits.bytes_max);
                    assert_eq!(pushed == Pushed::Queued, took);
                }
                Step::Signal(len) => {
                    let frame = self.frame(len);
                    let pushed = self.outbox.push(frame.clone(), Kind::Signal, limits, 0);
                    assert_eq!(pushed == Pushed::Queued, self.model.push(&frame, None, limits.bytes_max));
                }
                Step::Control(len) => {
                    let frame = self.frame(len);
                    let pushed = self.outbox.push(frame.clone(), Kind::Control, limits, 0);
                    assert_eq!(pushed == Pushed::Queued, self.model.push(&frame, None, 2 * limits.bytes_max));
                }
                Step::Take => self.take(),
                Step::Write(n) => {
                    let n = n.min(self.model.flying.len());
                    let written: Vec<u8> = self.model.flying.drain(..n).collect();
                    self.model.wire.extend(written);
                    assert_eq!(self.outbox.written(n, 0), self.model.flying.len());
                }
                Step::Gaps => {
                    while let Some(gap) = self.outbox.next_gap(limits) {
                        assert!(self.model.counted() <= limits.bytes_max / 2);
                        let (room, from, to) = self.model.gaps.remove(0);
                        assert_eq!(gap, Gap { room: self.rooms[room].clone(), from: Seq(from), to: Seq(to) });
                    }
                }
                Step::Drop => {
                    let frames = self.model.queue.len();
                    let bytes = self.model.bytes() - self.model.flying.len();
                    assert_eq!(self.outbox.drop_queued(), Dropped { frames, bytes });
                    self.model.queue.clear();
                    self.model.gaps.clear();
                }
            }
        }

        /// A batch is some whole frames from the head of the queue.
        fn take(&mut self) {
            let wants = self.outbox.wants_write();
            let batch = self.outbox.take_batch(&mut self.scratch);
            assert_eq!(batch.is_some(), wants);
            assert_eq!(wants, self.model.flying.is_empty() && !self.model.queue.is_empty());
            let taken = match &batch {
                None => return,
                Some(Batch::Frame(frame)) => &frame[..],
                Some(Batch::Gathered) => &self.scratch[..],
            };
            let mut whole = Vec::new();
            while whole.len() < taken.len() || whole.is_empty() {
                if self.model.queue.is_empty() {
                    break;
                }
                whole.extend(self.model.queue.remove(0));
            }
            assert_eq!(taken, whole);
            self.model.flying = whole;
        }

        fn compare(&self, limits: &OutboxLimits) {
            self.outbox.check_invariants();
            assert_eq!(self.outbox.queued_bytes(), self.model.bytes());
            assert_eq!(self.outbox.in_flight_bytes(), self.model.flying.len());
            assert_eq!(self.outbox.is_below_half(limits), self.model.counted() <= limits.bytes_max / 2);
            assert_eq!(self.outbox.stall_deadline_ms(limits).is_some(), !self.outbox.is_empty());
        }
    }

    proptest! {
        #[test]
        fn behaves_as_its_model(steps in steps()) {
            let mut pair = Pair::new();
            for step in &steps {
                pair.play(step, &SKIP);
                pair.compare(&SKIP);
            }
        }
    }
}
