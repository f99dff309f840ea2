//! The latest messages of one room, in memory.
//!
//! Invariants: positions are dense from the first message to the last, so a message is found by subtraction. Neither
//! bound is ever exceeded, so a message that is larger than the bound alone is not kept.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::Seq;
use crate::message::command::HistoryFrom;
use crate::message::event::Message;

/// The ring.
#[derive(Debug, Default)]
pub(super) struct History {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
}

impl History {
    /// Adds the message after the last one, then forgets the oldest until both bounds hold.
    pub(super) fn push(&mut self, message: Arc<Message>, messages_max: usize, bytes_max: usize) {
        debug_assert!(self.messages.back().is_none_or(|last| last.seq.next() == message.seq), "positions are dense");
        self.bytes += bytes_of(&message);
        self.messages.push_back(message);
        while self.messages.len() > messages_max || self.bytes > bytes_max {
            self.forget_oldest();
        }
    }

    /// Forgets one message.
    pub(super) fn forget_oldest(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= bytes_of(&message);
        }
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

    /// The oldest position kept.
    pub(super) fn first(&self) -> Option<Seq> {
        self.messages.front().map(|message| message.seq)
    }

    /// Whether every message after `seq` is kept, in a log whose last one is `head`.
    pub(super) fn covers_after(&self, seq: Seq, head: Seq) -> bool {
        seq == head || (seq < head && self.first().is_some_and(|first| first <= seq.next()))
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Arc<Message>> {
        self.messages.get(self.index_of(seq)?)
    }

    /// Replaces a message by its tombstone; false when it is not kept.
    pub(super) fn bury(&mut self, seq: Seq) -> bool {
        let Some(message) = self.index_of(seq).and_then(|index| self.messages.get_mut(index)) else {
            return false;
        };
        self.bytes -= bytes_of(message);
        *message =
            Arc::new(Message { content: Bytes::from_static(b"null"), key: None, deleted: true, ..(**message).clone() });
        self.bytes += bytes_of(message);
        true
    }

    /// The messages from `from` on, at least one if there is one, but no more than the bounds allow.
    pub(super) fn chunk(&self, from: Seq, messages_max: usize, bytes_max: usize) -> Vec<Arc<Message>> {
        let start = self.first().map_or(0, |first| from.0.saturating_sub(first.0)) as usize;
        let rest = self.messages.range(start.min(self.messages.len())..);
        take_within(rest, messages_max, bytes_max)
    }

    /// A page of the past, oldest first, and whether there is more in the direction asked for.
    pub(super) fn page(&self, from: HistoryFrom, limit: usize, bytes_max: usize) -> (Vec<Arc<Message>>, bool) {
        let Some(first) = self.first() else {
            return (Vec::new(), false);
        };
        let len = self.messages.len();
        let index = |seq: Seq| seq.0.saturating_sub(first.0).min(len as u64) as usize;
        match from {
            HistoryFrom::After(seq) => {
                let start = index(Seq(seq.0.saturating_add(1)));
                let page = take_within(self.messages.range(start..), limit, bytes_max);
                let more = start + page.len() < len;
                (page, more)
            }
            HistoryFrom::Before(seq) => self.page_before(index(seq), limit, bytes_max),
            HistoryFrom::Latest => self.page_before(len, limit, bytes_max),
        }
    }

    fn page_before(&self, end: usize, limit: usize, bytes_max: usize) -> (Vec<Arc<Message>>, bool) {
        let mut page = take_within(self.messages.range(..end).rev(), limit, bytes_max);
        page.reverse();
        let more = page.len() < end;
        (page, more)
    }

    fn index_of(&self, seq: Seq) -> Option<usize> {
        let index = seq.0.checked_sub(self.first()?.0)?;
        (index < self.messages.len() as u64).then_some(index as usize)
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        assert_eq!(self.bytes, self.messages.iter().map(|m| bytes_of(m)).sum::<usize>(), "bytes are counted");
        for (one, next) in self.messages.iter().zip(self.messages.iter().skip(1)) {
            assert_eq!(one.seq.next(), next.seq, "positions are dense");
            assert!(one.timestamp <= next.timestamp, "time does not go back");
        }
    }
}

fn take_within<'a>(
    messages: impl Iterator<Item = &'a Arc<Message>>,
    messages_max: usize,
    bytes_max: usize,
) -> Vec<Arc<Message>> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for message in messages.take(messages_max) {
        bytes += bytes_of(message) + MESSAGE_OVERHEAD_BYTES;
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(Arc::clone(message));
    }
    taken
}

fn bytes_of(message: &Message) -> usize {
    let label = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    message.content.len() + label(&message.key) + label(&message.tag)
}

/// About what a message takes beside its text, both in memory and on the wire.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Namespace, RoomName, UserName};

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
            history.push(message(seq, "\"four\""), messages_max, 1_000_000);
        }
        history.check();
        history
    }

    fn seqs(messages: &[Arc<Message>]) -> Vec<u64> {
        messages.iter().map(|m| m.seq.0).collect()
    }

    #[test]
    fn both_bounds_hold() {
        assert_eq!(filled(10, 4).first(), Some(Seq(7)));
        let mut history = History::default();
        for seq in 1..=10 {
            history.push(message(seq, "12345678"), 100, 35);
        }
        assert_eq!((history.len(), history.first()), (3, Some(Seq(8))));
        history.push(message(11, "a message that is longer than all the room there is"), 100, 35);
        assert!(history.is_empty() && history.bytes == 0);
        assert!(filled(10, 0).is_empty());
    }

    #[test]
    fn recovery_is_whole_or_refused() {
        let history = filled(10, 4);
        let covers = |seq| history.covers_after(Seq(seq), Seq(10));
        assert!(covers(6) && covers(9) && covers(10));
        assert!(!covers(5) && !covers(11));
        let empty = History::default();
        assert!(empty.covers_after(Seq(3), Seq(3)) && !empty.covers_after(Seq(2), Seq(3)));
    }

    #[test]
    fn chunks_stop_at_either_bound_but_are_never_empty() {
        let history = filled(10, 10);
        assert_eq!(seqs(&history.chunk(Seq(3), 4, 1_000_000)), [3, 4, 5, 6]);
        assert_eq!(seqs(&history.chunk(Seq(3), 4, 1)), [3]);
        assert_eq!(seqs(&history.chunk(Seq(3), 100, 2 * (8 + 256))), [3, 4]);
        assert_eq!(seqs(&history.chunk(Seq(11), 4, 1_000_000)), [] as [u64; 0]);
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
