//! Publishers: each speaks in a room of its own and keeps so many messages unanswered, never more.
//!
//! A closed loop, paced by the server's answers: it measures how many messages a server takes, and what one waits when
//! so many wait with it. It must not be read as the latency of a server that is not full (see `closed_loop`). A message
//! that the server refuses for now is sent again after [`PAUSE_NS`], and its time counts from its first sending. No
//! socket and no clock.

use std::collections::VecDeque;
use std::ops::Range;

/// The publishers of one worker, numbered as its connections are.
#[derive(Debug)]
pub struct Publishers {
    in_flight: usize,
    /// When they begin; `None` before that is known, and once they have begun.
    start_ns: Option<u64>,
    end_ns: u64,
    publishers: Vec<Publisher>,
    /// Messages that wait to be sent again, in order: when, whose, and when they were sent first.
    waiting: VecDeque<(u64, u32, u64)>,
    /// Messages that are left to be sent for the first time, where that is bounded.
    left: Option<u64>,
}

/// One publisher.
#[derive(Debug, Default)]
struct Publisher {
    /// Messages without an answer, in the order of sending: the `id` of each, and when it was sent first.
    unanswered: VecDeque<(u64, u64)>,
    last_id: u64,
    /// How many of its messages wait to be sent again.
    waiting: usize,
    /// How many it may still send for the first time.
    left: u64,
    /// The room's number for the last message answered; 0 where the server numbers nothing.
    head: u64,
    /// Refused since then: each may have had a number that nobody will hear of.
    refused: u64,
}

/// An `ok` that a publisher waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When the message was sent first.
    pub sent_ns: u64,
    /// Whether the room's number for it is the one after the last.
    pub follows: bool,
}

impl Publishers {
    /// So many publishers, each with at most `in_flight` unanswered messages and, if bounded, `each` messages in all.
    #[must_use]
    pub fn new(count: u32, in_flight: u32, each: Option<u32>) -> Self {
        let left = each.map_or(u64::MAX, u64::from);
        Self {
            in_flight: in_flight as usize,
            start_ns: None,
            end_ns: 0,
            publishers: (0..count).map(|_| Publisher { left, ..Publisher::default() }).collect(),
            waiting: VecDeque::new(),
            left: each.map(|each| u64::from(each) * u64::from(count)),
        }
    }

    /// The room of `place` stands at `head`.
    pub fn joined(&mut self, place: u32, head: u64) {
        self.publishers[place as usize].head = head;
    }

    /// Messages are sent within this time.
    pub fn plan(&mut self, times_ns: Range<u64>) {
        (self.start_ns, self.end_ns) = (Some(times_ns.start), times_ns.end);
    }

    /// Whether this is the moment to begin; true once.
    pub fn begins(&mut self, now_ns: u64) -> bool {
        self.start_ns.take_if(|start_ns| *start_ns <= now_ns).is_some()
    }

    /// The `id` of the next message of `place`, which is sent for the first time now; `None` when none may be.
    pub fn next(&mut self, place: u32, now_ns: u64) -> Option<u64> {
        let publisher = &mut self.publishers[place as usize];
        let has_room = publisher.unanswered.len() + publisher.waiting < self.in_flight;
        if !has_room || publisher.left == 0 || now_ns >= self.end_ns {
            return None;
        }
        publisher.left -= 1;
        self.left = self.left.map(|left| left - 1);
        Some(publisher.sent(now_ns))
    }

    /// A message that is due to be sent again: whose, and its new `id`.
    pub fn again(&mut self, now_ns: u64) -> Option<(u32, u64)> {
        let (_, place, first_ns) = *self.waiting.front().filter(|(at_ns, ..)| *at_ns <= now_ns)?;
        self.waiting.pop_front();
        let publisher = &mut self.publishers[place as usize];
        publisher.waiting -= 1;
        Some((place, publisher.sent(first_ns)))
    }

    /// When there is something to do without an answer.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        let again = self.waiting.front().map(|(at_ns, ..)| *at_ns);
        self.start_ns.into_iter().chain(again).min().unwrap_or(self.end_ns).min(self.end_ns)
    }

    /// An `ok` for message `id`, or for the oldest where answers carry none. `None` when nobody waits for it.
    pub fn answered(&mut self, place: u32, id: Option<u64>, seq: Option<u64>) -> Option<Answered> {
        let publisher = &mut self.publishers[place as usize];
        let sent_ns = publisher.take(id)?;
        let follows = seq.is_none_or(|seq| {
            let passed_over = seq.checked_sub(publisher.head + 1);
            let follows = passed_over.is_some_and(|numbers| numbers <= publisher.refused);
            (publisher.head, publisher.refused) = (seq, 0);
            follows
        });
        Some(Answered { sent_ns, follows })
    }

    /// An `error` for message `id`; with `again_at_ns` the message is to be sent again then. False when nobody waits for it.
    pub fn refused(&mut self, place: u32, id: Option<u64>, again_at_ns: Option<u64>) -> bool {
        let publisher = &mut self.publishers[place as usize];
        let Some(first_ns) = publisher.take(id) else { return false };
        publisher.refused += 1;
        if let Some(at_ns) = again_at_ns.filter(|&at_ns| at_ns < self.end_ns) {
            publisher.waiting += 1;
            self.waiting.push_back((at_ns, place, first_ns));
        }
        true
    }

    /// Whether nothing more will be sent.
    #[must_use]
    pub fn are_over(&self, now_ns: u64) -> bool {
        now_ns >= self.end_ns || (self.left == Some(0) && self.waiting.is_empty() && self.are_answered())
    }

    /// Whether nobody waits; asked only at the end.
    fn are_answered(&self) -> bool {
        self.publishers.iter().all(|publisher| publisher.unanswered.is_empty())
    }
}

impl Publisher {
    fn sent(&mut self, first_ns: u64) -> u64 {
        self.last_id += 1;
        self.unanswered.push_back((self.last_id, first_ns));
        self.last_id
    }

    /// Answers come in order but for errors, so the one asked for is at the front or near it.
    fn take(&mut self, id: Option<u64>) -> Option<u64> {
        let at = id.map_or(Some(0), |id| self.unanswered.iter().position(|(asked, _)| *asked == id))?;
        self.unanswered.remove(at).map(|(_, first_ns)| first_ns)
    }
}

/// How long a message that was refused for now waits.
pub const PAUSE_NS: u64 = 10 * crate::clock::NS_PER_MS;

#[cfg(test)]
mod tests {
    use super::*;

    fn publishers(in_flight: u32, each: Option<u32>) -> Publishers {
        let mut publishers = Publishers::new(2, in_flight, each);
        publishers.joined(1, 40);
        publishers.plan(4..1_000);
        assert!(publishers.deadline() == 4 && !publishers.begins(3));
        assert!(publishers.begins(5) && !publishers.begins(6), "they begin once");
        publishers
    }

    #[test]
    fn so_many_are_unanswered_and_never_more() {
        let mut publishers = publishers(2, None);
        assert_eq!([5, 6, 7].map(|now| publishers.next(1, now)), [Some(1), Some(2), None]);
        assert_eq!(publishers.answered(1, Some(1), Some(41)), Some(Answered { sent_ns: 5, follows: true }));
        assert_eq!([8, 9].map(|now| publishers.next(1, now)), [Some(3), None]);
        assert_eq!(publishers.answered(1, Some(1), Some(42)), None, "it has its answer");
        assert_eq!((publishers.next(0, 10), publishers.next(0, 1_000)), (Some(1), None), "nothing starts at the end");
        assert!(publishers.are_over(1_000) && !publishers.are_over(999));
    }

    #[test]
    fn numbers_follow_by_one_but_for_what_was_refused() {
        let mut publishers = publishers(8, None);
        (0..8).for_each(|now| assert!(publishers.next(1, now).is_some()));
        let follows =
            |publishers: &mut Publishers, id, seq| publishers.answered(1, Some(id), Some(seq)).unwrap().follows;
        assert!(follows(&mut publishers, 1, 41));
        assert!(!follows(&mut publishers, 2, 43), "42 was passed over");
        assert!(!follows(&mut publishers, 3, 43), "43 was given twice");
        assert!(publishers.refused(1, Some(4), None) && publishers.refused(1, Some(5), None));
        assert!(follows(&mut publishers, 6, 46), "44 and 45 were refused");
        assert!(!follows(&mut publishers, 7, 48), "that is over");
        assert_eq!(publishers.answered(1, Some(8), None), Some(Answered { sent_ns: 7, follows: true }));
    }

    #[test]
    fn answers_without_an_id_are_for_the_oldest() {
        let mut publishers = publishers(2, None);
        assert_eq!([5, 6].map(|now| publishers.next(0, now)), [Some(1), Some(2)]);
        let times = [(); 3].map(|()| publishers.answered(0, None, None).map(|answered| answered.sent_ns));
        assert_eq!(times, [Some(5), Some(6), None]);
    }

    #[test]
    fn what_was_refused_for_now_goes_again_and_counts_from_the_first_time() {
        let mut publishers = publishers(1, None);
        assert_eq!(publishers.next(1, 5), Some(1));
        assert!(publishers.refused(1, Some(1), Some(50)));
        assert!(!publishers.refused(1, Some(1), Some(50)), "nobody waits for it");
        assert_eq!((publishers.next(1, 10), publishers.deadline(), publishers.again(49)), (None, 50, None));
        assert_eq!((publishers.again(50), publishers.again(50)), (Some((1, 2)), None));
        assert_eq!(publishers.answered(1, Some(2), Some(42)), Some(Answered { sent_ns: 5, follows: true }));
        assert_eq!(publishers.deadline(), 1_000, "it looks up at the end");
    }

    #[test]
    fn whoever_has_sent_all_it_may_is_done_once_it_is_answered() {
        let mut publishers = publishers(4, Some(2));
        for place in 0..2 {
            assert_eq!([1, 2, 3].map(|now| publishers.next(place, now)), [Some(1), Some(2), None]);
        }
        assert!(!publishers.are_over(5));
        (0..2).for_each(|place| {
            [1, 2].into_iter().for_each(|id| assert!(publishers.answered(place, Some(id), None).is_some()))
        });
        assert!(publishers.are_over(5));
    }
}
