//! The latest messages of one room, in memory: all there is of a memory room, and the end of a durable room's log.
//!
//! Invariants: positions are dense from the first message to the last, so a message is found by subtraction; nothing
//! lies between `before` and the first. Neither bound is exceeded, so a message that is larger than the bound alone is
//! not kept, but for messages that are not stored yet: those are nowhere else.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::Seq;
use crate::message::command::HistoryFrom;
use crate::message::event::Message;
use crate::policy::{HistoryMode, RoomPolicy};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) messages: usize,
    /// Of content, keys and tags.
    pub(super) bytes: usize,
}

impl Bounds {
    /// What a policy keeps in memory: of a durable room as much as of a memory room by default.
    pub(super) fn of(policy: &RoomPolicy) -> Self {
        let policy = match policy.history {
            HistoryMode::Durable => RoomPolicy::new(HistoryMode::Memory),
            HistoryMode::Memory | HistoryMode::Off => *policy,
        };
        let most = |limit: Option<u64>| limit.map_or(usize::MAX, |limit| limit as usize);
        Self { messages: most(policy.size), bytes: most(policy.bytes) }
    }
}

/// The ring.
#[derive(Debug, Default)]
pub(super) struct History {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    /// The position before the first message kept, or before the first that is to come.
    before: Seq,
}

impl History {
    /// The end of a log whose last message is `before`, none of which is in memory.
    pub(super) fn after(before: Seq) -> Self {
        Self { before, ..Self::default() }
    }

    /// Adds the message after the last one, then forgets the oldest up to `stored` until both bounds hold.
    pub(super) fn push(&mut self, message: Arc<Message>, bounds: Bounds, stored: Seq) {
        debug_assert!(self.messages.back().is_none_or(|last| last.seq.next() == message.seq), "positions are dense");
        self.bytes += message.weight();
        self.messages.push_back(message);
        self.shrink(bounds, stored);
    }

    /// Forgets the oldest up to `stored` until both bounds hold.
    pub(super) fn shrink(&mut self, bounds: Bounds, stored: Seq) {
        while (self.messages.len() > bounds.messages || self.bytes > bounds.bytes) && self.forget_oldest(stored) {}
    }

    /// Forgets one message, unless it comes after `stored`.
    pub(super) fn forget_oldest(&mut self, stored: Seq) -> bool {
        if self.messages.front().is_none_or(|message| message.seq > stored) {
            return false;
        }
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= message.weight();
            self.before = message.seq;
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// What it costs to keep this, with what each message needs beside its text.
    pub(super) fn weight(&self) -> usize {
        self.bytes + self.messages.len() * MESSAGE_OVERHEAD_BYTES
    }

    /// The position before the oldest one kept: what came up to there is elsewhere or gone.
    pub(super) fn before(&self) -> Seq {
        self.before
    }

    /// The last message there was.
    pub(super) fn last(&self) -> Seq {
        self.messages.back().map_or(self.before, |message| message.seq)
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Arc<Message>> {
        self.messages.get(self.index_of(seq)?)
    }

    /// Replaces a message by its tombstone; false when it is not kept.
    pub(super) fn bury(&mut self, seq: Seq) -> bool {
        let Some(message) = self.index_of(seq).and_then(|index| self.messages.get_mut(index)) else {
            return false;
        };
        self.bytes -= message.weight();
        *message = Arc::new(tombstone(message));
        self.bytes += message.weight();
        true
    }

    /// The messages after `seq`, at least one if there is one, but no more than the bounds allow.
    pub(super) fn chunk(&self, seq: Seq, messages_max: usize, bytes_max: usize) -> Vec<Arc<Message>> {
        take_within(self.messages.range(self.count_to(seq)..), messages_max, bytes_max)
    }

    /// The part of a page of the past that is kept, oldest first, and whether more is kept in the direction asked for.
    pub(super) fn page(&self, from: HistoryFrom, limit: usize, bytes_max: usize) -> (Vec<Arc<Message>>, bool) {
        match from {
            HistoryFrom::After(seq) => {
                let start = self.count_to(seq);
                let page = take_within(self.messages.range(start..), limit, bytes_max);
                let more = start + page.len() < self.messages.len();
                (page, more)
            }
            HistoryFrom::Before(seq) => self.page_before(self.count_to(Seq(seq.0.saturating_sub(1))), limit, bytes_max),
            HistoryFrom::Latest => self.page_before(self.messages.len(), limit, bytes_max),
        }
    }

    fn page_before(&self, end: usize, limit: usize, bytes_max: usize) -> (Vec<Arc<Message>>, bool) {
        let mut page = take_within(self.messages.range(..end).rev(), limit, bytes_max);
        page.reverse();
        let more = page.len() < end;
        (page, more)
    }

    /// How many of the messages kept are at `seq` or before it.
    fn count_to(&self, seq: Seq) -> usize {
        let first = self.messages.front().map_or(u64::MAX, |message| message.seq.0);
        (seq.0.saturating_add(1)).saturating_sub(first).min(self.messages.len() as u64) as usize
    }

    fn index_of(&self, seq: Seq) -> Option<usize> {
        let index = seq.0.checked_sub(self.messages.front()?.seq.0)?;
        (index < self.messages.len() as u64).then_some(index as usize)
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        assert_eq!(self.bytes, self.messages.iter().map(|m| m.weight()).sum::<usize>(), "bytes are counted");
        assert!(self.messages.front().is_none_or(|first| self.before < first.seq), "what is kept comes after `before`");
        for (one, next) in self.messages.iter().zip(self.messages.iter().skip(1)) {
            assert_eq!(one.seq.next(), next.seq, "positions are dense");
            assert!(one.timestamp <= next.timestamp, "time does not go back");
        }
    }
}

/// What stays of a message that is deleted.
pub(super) fn tombstone(message: &Message) -> Message {
    Message { content: Bytes::from_static(b"null"), key: None, deleted: true, ..message.clone() }
}

fn take_within<'a>(
    messages: impl Iterator<Item = &'a Arc<Message>>,
    messages_max: usize,
    bytes_max: usize,
) -> Vec<Arc<Message>> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for message in messages.take(messages_max) {
        bytes += message.weight() + MESSAGE_OVERHEAD_BYTES;
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(Arc::clone(message));
    }
    taken
}

/// About what a message takes beside its text, both in memory and on the wire.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Namespace, RoomName, UserName};

    const ALL: Seq = Seq(u64::MAX);

    fn message(seq: u64, content: &'static str) -> Arc<Message> {
        Arc::new(Message {
            room: RoomName::new(Namespace::Chat, "lobby").unwrap(),
            seq: Seq(seq),
            prev: None,
            sender: UserName::new("ann").unwrap(),
            content: Bytes::from_static(content.as_bytes()),
            timestamp: seq,
            tag: Some("t".into()),
            key: Some("k".into()),
            deleted: false,
        })
    }

    fn filled(messages: u64, messages_max: usize) -> History {
        let mut history = History::default();
        for seq in 1..=messages {
            history.push(message(seq, "\"four\""), Bounds { messages: messages_max, bytes: 1_000_000 }, ALL);
        }
        history.check();
        history
    }

    fn seqs(messages: &[Arc<Message>]) -> Vec<u64> {
        messages.iter().map(|m| m.seq.0).collect()
    }

    #[test]
    fn both_bounds_hold() {
        assert_eq!(filled(10, 4).before(), Seq(6));
        let bounds = Bounds { messages: 100, bytes: 35 };
        let mut history = History::default();
        for seq in 1..=10 {
            history.push(message(seq, "12345678"), bounds, ALL);
        }
        assert_eq!((history.len(), history.before()), (3, Seq(7)));
        history.push(message(11, "a message that is longer than all the room there is"), bounds, ALL);
        assert!(history.is_empty() && history.bytes == 0);
        assert_eq!((history.before(), history.last()), (Seq(11), Seq(11)));
        assert!(filled(10, 0).is_empty());
    }

    #[test]
    fn what_is_not_stored_yet_is_kept_beyond_all_bounds() {
        let bounds = Bounds { messages: 2, bytes: 1_000 };
        let mut history = History::default();
        for seq in 1..=10 {
            history.push(message(seq, "1"), bounds, Seq(3));
        }
        history.check();
        assert_eq!((history.len(), history.before()), (7, Seq(3)));
        history.shrink(bounds, Seq(9));
        assert_eq!((history.len(), history.before()), (2, Seq(8)));
    }

    #[test]
    fn after_a_jump_the_past_ends_at_the_last_message_there_was() {
        let mut history = History::after(Seq(10));
        assert_eq!((history.before(), history.last()), (Seq(10), Seq(10)));
        history.push(message(4_107, "1"), Bounds { messages: 9, bytes: 1_000 }, Seq(0));
        history.check();
        assert_eq!((history.before(), history.last()), (Seq(10), Seq(4_107)));
        assert_eq!(seqs(&history.chunk(Seq(12), 9, 1_000)), [4_107]);
        assert_eq!(seqs(&history.chunk(Seq(4_107), 9, 1_000)), [] as [u64; 0]);
    }

    #[test]
    fn chunks_stop_at_either_bound_but_are_never_empty() {
        let history = filled(10, 10);
        assert_eq!(seqs(&history.chunk(Seq(2), 4, 1_000_000)), [3, 4, 5, 6]);
        assert_eq!(seqs(&history.chunk(Seq(2), 4, 1)), [3]);
        assert_eq!(seqs(&history.chunk(Seq(2), 100, 2 * (8 + 256))), [3, 4]);
        assert_eq!(seqs(&history.chunk(Seq(10), 4, 1_000_000)), [] as [u64; 0]);
    }

    #[test]
    fn pages_run_both_ways() {
        let history = filled(10, 8);
        let page = |from, limit| {
            let (messages, more) = history.page(from, limit, 1_000_000);
            (seqs(&messages), more)
        };
        assert_eq!(page(HistoryFrom::Latest, 3), (vec![8, 9, 10], true));
        assert_eq!(page(HistoryFrom::Before(Seq(8)), 3), (vec![5, 6, 7], true));
        assert_eq!(page(HistoryFrom::Before(Seq(5)), 3), (vec![3, 4], false));
        assert_eq!(page(HistoryFrom::Before(Seq(0)), 3), (vec![], false));
        assert_eq!(page(HistoryFrom::Before(Seq(99)), 1), (vec![10], true));
        assert_eq!(page(HistoryFrom::After(Seq(0)), 3), (vec![3, 4, 5], true));
        assert_eq!(page(HistoryFrom::After(Seq(7)), 3), (vec![8, 9, 10], false));
        assert_eq!(page(HistoryFrom::After(Seq(u64::MAX)), 3), (vec![], false));
    }

    #[test]
    fn a_tombstone_keeps_the_place_and_loses_the_words() {
        let mut history = filled(3, 3);
        assert!(history.bury(Seq(2)));
        history.check();
        let tombstone = history.get(Seq(2)).unwrap();
        assert!(tombstone.deleted && tombstone.key.is_none());
        assert_eq!((&tombstone.content[..], tombstone.timestamp), (&b"null"[..], 2));
        assert!(!history.bury(Seq(4)) && !history.bury(Seq(0)));
    }
}
