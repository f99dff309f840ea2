//! A member that acknowledges what it gets: what it was sent, and when that is sent again.
//!
//! Invariants: `outstanding` is in the order of positions, all of them after `acked`, and holds at most [`ACK_WINDOW`]
//! entries; what is up to `acked` was acknowledged or given up. Messages themselves are not held: they are read back
//! from the log. Dead letters that are replayed are, for retention may have taken them from the log.
//!
//! Absent: where messages come from and how they go out; see `feeding`.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chat::log::DeadLetter;
use crate::ids::{Seq, UserName};
use crate::limits::{ACK_WINDOW, Limits};
use crate::message::event::Message;

/// One consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) user: UserName,
    /// Its shard has room for the next chunk, and none is being read for it.
    pub(super) ready: bool,
    /// Everything up to here is acknowledged or given up.
    pub(super) acked: Seq,
    outstanding: VecDeque<Sent>,
    letters: VecDeque<Letter>,
    /// When its entry on the wheel fires.
    pub(super) armed_ms: Option<u64>,
}

/// A message that was sent and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) seq: Seq,
    /// How often.
    pub(super) attempt: u32,
    /// When the time to acknowledge it ends.
    pub(super) due_ms: u64,
}

/// A dead letter that is sent again.
#[derive(Debug)]
struct Letter {
    letter: DeadLetter,
    /// How often it had been sent before this replay.
    attempts_before: u32,
    due_ms: u64,
}

impl Letter {
    fn new(letter: DeadLetter) -> Self {
        Self { attempts_before: letter.attempts, letter, due_ms: 0 }
    }
}

/// What is to be done for a consumer next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before this time, or before it acknowledges something.
    Wait(Option<u64>),
    /// Send new messages, at most so many.
    New(usize),
    /// Send these again: so many after this position, each for the time given.
    Again { after: Seq, count: usize, attempt: u32 },
    /// Give this one up.
    GiveUp(Sent),
    /// Send this letter, for the time given.
    Letter(Arc<Message>, u32),
    /// Put this letter back, unread.
    PutBack(Box<DeadLetter>),
}

impl Consumer {
    /// One that has acknowledged everything up to `acked`. `before`: what it was sent in a former connection.
    pub(super) fn new(user: UserName, acked: Seq, before: Vec<(Seq, u32)>, letters: Vec<DeadLetter>) -> Self {
        let known = before.into_iter().filter(|(seq, _)| *seq > acked);
        let outstanding = known.map(|(seq, attempt)| Sent { seq, attempt, due_ms: 0 }).collect();
        let letters = letters.into_iter().map(Letter::new).collect();
        Self { user, ready: true, acked, outstanding, letters, armed_ms: None }
    }

    /// The last position that was sent before, if any is outstanding.
    pub(super) fn reached(&self) -> Option<Seq> {
        self.outstanding.back().map(|sent| sent.seq)
    }

    /// What to do at this time. `more`: whether the log has messages that were never sent.
    pub(super) fn next(&mut self, now_ms: u64, more: bool, limits: &Limits) -> Next {
        if let Some(next) = self.next_letter(now_ms, limits) {
            return next;
        }
        if let Some(index) = self.outstanding.iter().position(|sent| sent.due_ms <= now_ms) {
            let first = self.outstanding[index];
            if first.attempt >= limits.ack_attempts_max {
                return Next::GiveUp(first);
            }
            let same = |sent: &&Sent| sent.due_ms <= now_ms && sent.attempt == first.attempt;
            let count = self.outstanding.iter().skip(index).take_while(same).count();
            return Next::Again { after: Seq(first.seq.0 - 1), count, attempt: first.attempt + 1 };
        }
        let room = limits.unacknowledged_max.saturating_sub(self.outstanding.len());
        if more && room > 0 { Next::New(room) } else { Next::Wait(self.next_due_ms()) }
    }

    fn next_letter(&mut self, now_ms: u64, limits: &Limits) -> Option<Next> {
        let index = self.letters.iter().position(|letter| letter.due_ms <= now_ms)?;
        let entry = &mut self.letters[index];
        // A replay has as many attempts as a new message, counted on from those that it died of.
        let attempt = entry.letter.attempts + 1;
        let replayed = attempt - entry.attempts_before;
        if replayed > limits.ack_attempts_max {
            let letter = self.letters.remove(index)?.letter;
            return Some(Next::PutBack(Box::new(DeadLetter { replay: false, ..letter })));
        }
        entry.letter.attempts = attempt;
        entry.due_ms = now_ms + backoff_ms(replayed, limits);
        Some(Next::Letter(Arc::clone(&entry.letter.message), attempt))
    }

    /// Messages are sent, for the first time or again.
    pub(super) fn sent(&mut self, messages: &[Arc<Message>], attempt: u32, now_ms: u64, limits: &Limits) {
        let due_ms = now_ms + backoff_ms(attempt, limits);
        // Retention may have overtaken what was read before.
        for message in messages.iter().filter(|message| message.seq > self.acked) {
            match self.outstanding.binary_search_by_key(&message.seq, |sent| sent.seq) {
                Ok(index) => self.outstanding[index] = Sent { seq: message.seq, attempt, due_ms },
                Err(index) => self.outstanding.insert(index, Sent { seq: message.seq, attempt, due_ms }),
            }
        }
    }

    /// Whether a message is to be sent for the `attempt`-th time now.
    pub(super) fn waits_for(&self, seq: Seq, attempt: u32, now_ms: u64) -> bool {
        let index = self.outstanding.binary_search_by_key(&seq, |sent| sent.seq);
        let sent = index.ok().and_then(|index| self.outstanding.get(index));
        sent.is_some_and(|sent| sent.attempt + 1 == attempt && sent.due_ms <= now_ms)
    }

    /// What waits to be acknowledged of a stretch of the log: after the first position, before the second.
    pub(super) fn waiting_between(&self, after: Seq, before: Seq) -> Vec<Seq> {
        let within = self.outstanding.iter().filter(|sent| after < sent.seq && sent.seq < before);
        within.map(|sent| sent.seq).collect()
    }

    /// Everything up to `seq` was handled; a letter is handled by its own position alone. The answer is the letter.
    pub(super) fn acknowledge(&mut self, seq: Seq) -> Option<DeadLetter> {
        if let Some(index) = self.letters.iter().position(|letter| letter.letter.message.seq == seq) {
            return self.letters.remove(index).map(|letter| letter.letter);
        }
        while self.outstanding.front().is_some_and(|sent| sent.seq <= seq) {
            self.outstanding.pop_front();
        }
        self.acked = self.acked.max(seq);
        None
    }

    /// Retention took everything up to a position, and the store has put it with the dead letters.
    pub(super) fn overtaken(&mut self, upto: Seq) {
        while self.outstanding.front().is_some_and(|sent| sent.seq <= upto) {
            self.outstanding.pop_front();
        }
        self.acked = self.acked.max(upto);
    }

    /// A message is no longer waited for. `sent`: up to where messages were sent.
    pub(super) fn give_up(&mut self, seq: Seq, sent: Seq) {
        self.outstanding.retain(|entry| entry.seq != seq);
        self.acked = self.outstanding.front().map_or(sent, |first| Seq(first.seq.0 - 1)).max(self.acked);
    }

    /// Dead letters are to be sent again.
    pub(super) fn replay(&mut self, letters: Vec<DeadLetter>) {
        for letter in letters {
            let known = self.letters.iter().any(|known| known.letter.message.seq == letter.message.seq);
            if !known {
                self.letters.push_back(Letter::new(letter));
            }
        }
    }

    /// A letter is purged.
    pub(super) fn forget_letter(&mut self, seq: Seq) {
        self.letters.retain(|letter| letter.letter.message.seq != seq);
    }

    /// What was sent how often, for when the user comes back.
    pub(super) fn attempts(&self) -> Vec<(Seq, u32)> {
        self.outstanding.iter().map(|sent| (sent.seq, sent.attempt)).collect()
    }

    fn next_due_ms(&self) -> Option<u64> {
        let sent = self.outstanding.iter().map(|sent| sent.due_ms);
        sent.chain(self.letters.iter().map(|letter| letter.due_ms)).min()
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        assert!(self.outstanding.len() <= ACK_WINDOW + crate::limits::REPLAY_CHUNK_MESSAGES);
        assert!(self.outstanding.iter().is_sorted_by(|a, b| a.seq < b.seq), "what is outstanding is in order");
        assert!(self.outstanding.front().is_none_or(|first| first.seq > self.acked));
    }
}

/// How long a message may go unacknowledged after it was sent for the `attempt`-th time: `ack.timeout`, doubled each
/// time, at most `ack.timeout_max`.
fn backoff_ms(attempt: u32, limits: &Limits) -> u64 {
    let first = limits.ack_timeout.as_millis() as u64;
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(32));
    doubled.min(limits.ack_timeout_max.as_millis() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::log::DeadReason;
    use crate::ids::{Epoch, Namespace, RoomName};
    use std::time::Duration;

    fn limits() -> Limits {
        Limits {
            ack_timeout: Duration::from_millis(100),
            ack_timeout_max: Duration::from_millis(350),
            ack_attempts_max: 4,
            ..Limits::default()
        }
    }

    fn message(seq: u64) -> Arc<Message> {
        Arc::new(Message {
            room: RoomName::new(Namespace::Chat, "lobby").unwrap(),
            seq: Seq(seq),
            prev: None,
            sender: UserName::new("ann").unwrap(),
            content: "1".into(),
            timestamp: seq,
            tag: None,
            key: None,
            deleted: false,
        })
    }

    fn consumer() -> Consumer {
        Consumer::new(UserName::new("bob").unwrap(), Seq(0), Vec::new(), Vec::new())
    }

    fn letter(seq: u64, attempts: u32) -> DeadLetter {
        DeadLetter {
            epoch: Epoch(1),
            user: UserName::new("bob").unwrap(),
            message: message(seq),
            reason: DeadReason::Attempts,
            attempts,
            at_ms: 0,
            replay: true,
        }
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_later_and_later_and_then_given_up() {
        let (mut consumer, limits) = (consumer(), limits());
        consumer.sent(&[message(1), message(2)], 1, 0, &limits);
        assert_eq!(consumer.next(0, false, &limits), Next::Wait(Some(100)));
        let mut at = 0;
        for (attempt, due) in [(2, 100), (3, 300), (4, 650)] {
            assert_eq!(consumer.next(due - 1, false, &limits), Next::Wait(Some(due)), "after {at}");
            assert_eq!(consumer.next(due, false, &limits), Next::Again { after: Seq(0), count: 2, attempt });
            consumer.sent(&[message(1), message(2)], attempt, due, &limits);
            at = due;
        }
        assert_eq!(consumer.next(999, false, &limits), Next::Wait(Some(1_000)));
        let Next::GiveUp(sent) = consumer.next(1_000, false, &limits) else { panic!() };
        assert_eq!((sent.seq, sent.attempt), (Seq(1), 4));
        consumer.give_up(sent.seq, Seq(2));
        assert_eq!(consumer.acked, Seq(1));
        consumer.check();
    }

    #[test]
    fn the_window_opens_as_messages_are_acknowledged() {
        let (mut consumer, limits) = (consumer(), limits());
        assert_eq!(consumer.next(0, true, &limits), Next::New(ACK_WINDOW));
        let all: Vec<_> = (1..=ACK_WINDOW as u64).map(message).collect();
        consumer.sent(&all, 1, 0, &limits);
        assert_eq!(consumer.next(0, true, &limits), Next::Wait(Some(100)));
        assert!(consumer.acknowledge(Seq(10)).is_none());
        assert_eq!((consumer.acked, consumer.next(0, true, &limits)), (Seq(10), Next::New(10)));
        assert!(!consumer.waits_for(Seq(10), 2, 1_000) && consumer.waits_for(Seq(11), 2, 1_000));
        assert!(!consumer.waits_for(Seq(11), 3, 1_000) && !consumer.waits_for(Seq(11), 2, 0));
        assert_eq!(consumer.waiting_between(Seq(10), Seq(12)), [Seq(11)]);
        consumer.check();
    }

    #[test]
    fn what_retention_took_is_no_longer_waited_for() {
        let (mut consumer, limits) = (consumer(), limits());
        consumer.sent(&[message(1), message(2), message(3)], 1, 0, &limits);
        consumer.overtaken(Seq(2));
        assert_eq!(consumer.next(100, false, &limits), Next::Again { after: Seq(2), count: 1, attempt: 2 });
        consumer.sent(&[message(2), message(3)], 2, 100, &limits);
        assert_eq!((consumer.acked, consumer.attempts()), (Seq(2), vec![(Seq(3), 2)]), "read before it was taken");
        consumer.overtaken(Seq(1));
        assert_eq!(consumer.acked, Seq(2));
        consumer.check();
    }

    #[test]
    fn who_comes_back_gets_at_once_what_was_outstanding() {
        let (mut first, limits) = (consumer(), limits());
        first.sent(&[message(1), message(2), message(3)], 1, 0, &limits);
        first.acknowledge(Seq(1));
        let mut second = Consumer::new(first.user.clone(), first.acked, first.attempts(), Vec::new());
        assert_eq!(second.reached(), Some(Seq(3)));
        assert_eq!(second.next(0, true, &limits), Next::Again { after: Seq(1), count: 2, attempt: 2 });
    }

    #[test]
    fn a_letter_is_acknowledged_by_its_own_position_and_put_back_if_it_is_not() {
        let (mut consumer, limits) = (consumer(), limits());
        consumer.acked = Seq(50);
        consumer.replay(vec![letter(3, 4), letter(7, 4)]);
        consumer.replay(vec![letter(3, 4)]);
        assert_eq!(consumer.next(0, false, &limits), Next::Letter(message(3), 5));
        assert_eq!(consumer.next(0, false, &limits), Next::Letter(message(7), 5));
        assert!(consumer.acknowledge(Seq(60)).is_none(), "a position after it says nothing about it");
        assert_eq!(consumer.acknowledge(Seq(7)).map(|letter| letter.message.seq), Some(Seq(7)));
        let mut seen = Vec::new();
        for now in 1..2_000 {
            match consumer.next(now, false, &limits) {
                Next::Letter(_, attempt) => seen.push((now, attempt)),
                Next::PutBack(letter) => {
                    assert!(!letter.replay && letter.attempts == 8);
                    seen.push((now, 0));
                }
                _ => {}
            }
        }
        assert_eq!(seen, [(100, 6), (300, 7), (650, 8), (1_000, 0)]);
    }
}
