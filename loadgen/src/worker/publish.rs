//! Publishers on this worker's connections: every answer lets the next message go, and what one turn lets go on a
//! connection leaves in one send.

use super::{Messages, Worker, link};
use crate::client::{Happening, Stage};
use crate::ledger::Ledger;
use crate::payload::Stamp;
use crate::publishers::{PAUSE_NS, Publishers};
use crate::stats::Count;

impl Worker {
    /// Begins, and sends again what has waited.
    pub(super) fn publish_due(&mut self, now: u64) {
        let Messages::Publish(publishers) = &mut self.messages else { return };
        if publishers.begins(now) {
            (0..self.links.len() as u32).for_each(|place| self.publish(place, now));
        }
        while let Messages::Publish(publishers) = &mut self.messages
            && let Some((place, id)) = publishers.again(now)
        {
            self.write_message(place, id, now);
        }
    }

    /// Sends what `place` may.
    pub(super) fn publish(&mut self, place: u32, now: u64) {
        while self.links[place as usize].client.stage() == Stage::Joined
            && let Messages::Publish(publishers) = &mut self.messages
            && let Some(id) = publishers.next(place, now)
        {
            self.write_message(place, id, now);
        }
    }

    fn write_message(&mut self, place: u32, id: u64, now: u64) {
        let link = &mut self.links[place as usize];
        if link.client.stage() != Stage::Joined {
            return self.ledger.counts.bump(Count::Unsent);
        }
        link.seq += 1;
        let sender = place * self.job.workers + self.job.worker;
        let stamp = Stamp { run: self.job.run, sender, seq: link.seq, planned_ns: now, lag_us: 0 };
        link::take_buffer(&mut link.out, &mut self.spare);
        link.client.publish(stamp, id, &mut self.dialect, &mut link.out);
        self.ledger.counts.bump(Count::Sent);
        self.ledger.interval.sent += 1;
        self.ready.push(place);
    }
}

/// Takes what concerns a publisher; the rest is for the books alone.
pub(super) fn hear(publishers: &mut Publishers, ledger: &mut Ledger, place: u32, happening: Happening, now: u64) {
    match happening {
        Happening::Acked { id, seq, durable } => {
            ledger.counts.bump(Count::Acks);
            let Some(answered) = publishers.answered(place, id, seq) else {
                return ledger.counts.bump(Count::AckSeqFaults);
            };
            ledger.counts.bump(Count::Answers);
            if !answered.follows {
                ledger.counts.bump(Count::AckSeqFaults);
            }
            if !durable {
                ledger.counts.bump(Count::NotDurable);
            }
            ledger.acknowledged(answered.sent_ns, durable, now);
        }
        Happening::Error { id, temporary, why } => {
            let again_at_ns = temporary.then_some(now + PAUSE_NS);
            if !publishers.refused(place, id, again_at_ns) {
                return ledger.enter(place, Happening::Error { id, temporary, why }, now);
            }
            ledger.counts.bump(Count::Answers);
            ledger.counts.bump(if temporary { Count::Deferred } else { Count::Errors });
            ledger.tally_error(why);
        }
        Happening::Joined { head, .. } => {
            publishers.joined(place, head.unwrap_or_default());
            ledger.enter(place, happening, now);
        }
        // Nobody listens here, not even to oneself.
        Happening::Message { .. } => ledger.counts.bump(Count::Misrouted),
        other => ledger.enter(place, other, now),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::layout::Layout;
    use crate::stats::{Counts, SentBoard};

    /// One publisher whose room stands at 10, with three messages on their way, all sent at 1,500 ns.
    fn three_on_their_way() -> (Publishers, Ledger) {
        let mut publishers = Publishers::new(1, 3, None);
        let mut ledger = Ledger::new(7, &Layout::new(&[1], 1), 0..1, Arc::new(SentBoard::new(1)));
        ledger.measure(1_000..9_000_000);
        publishers.plan(1_000..2_000_000_000);
        let joined = Happening::Joined { took_ns: Some(5), head: Some(10), recovered: false };
        hear(&mut publishers, &mut ledger, 0, joined, 1_000);
        assert!((0..3).all(|_| publishers.next(0, 1_500).is_some()));
        (publishers, ledger)
    }

    fn ok(id: u64, seq: u64, durable: bool) -> Happening {
        Happening::Acked { id: Some(id), seq: Some(seq), durable }
    }

    fn counted(counts: &Counts) -> [u64; 6] {
        use Count::{AckSeqFaults, Acks, Answers, Deferred, Errors, NotDurable};
        [Acks, Answers, NotDurable, AckSeqFaults, Deferred, Errors].map(|what| counts.get(what))
    }

    #[test]
    fn an_ok_is_timed_and_one_that_is_not_durable_is_counted() {
        let (mut publishers, mut ledger) = three_on_their_way();
        hear(&mut publishers, &mut ledger, 0, ok(1, 11, true), 201_500);
        hear(&mut publishers, &mut ledger, 0, ok(2, 12, false), 301_500);
        assert_eq!(counted(&ledger.counts), [2, 2, 1, 0, 0, 0]);
        assert_eq!((ledger.interval.ack.max(), ledger.interval.durable_ack.max()), (300, 200));
    }

    #[test]
    fn an_ok_that_does_not_follow_or_that_nobody_waits_for_is_a_fault() {
        let (mut publishers, mut ledger) = three_on_their_way();
        hear(&mut publishers, &mut ledger, 0, ok(1, 12, true), 2_000);
        hear(&mut publishers, &mut ledger, 0, ok(1, 13, true), 2_000);
        assert_eq!(counted(&ledger.counts), [2, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn an_error_is_a_fault_unless_it_asks_to_come_again() {
        let (mut publishers, mut ledger) = three_on_their_way();
        let error =
            |id, temporary| Happening::Error { id: Some(id), temporary, why: "error overloaded: later".to_owned() };
        hear(&mut publishers, &mut ledger, 0, error(1, true), 2_000);
        hear(&mut publishers, &mut ledger, 0, error(2, false), 2_000);
        assert_eq!(counted(&ledger.counts), [0, 2, 0, 0, 1, 1]);
        assert_eq!((publishers.again(2_000), publishers.again(2_000 + PAUSE_NS)), (None, Some((0, 4))));
        hear(&mut publishers, &mut ledger, 0, ok(4, 11, true), 20_000_000);
        assert_eq!(ledger.interval.durable_ack.max(), 20_000 - 1, "it counts from the first time");
    }

    #[test]
    fn what_a_publisher_hears_is_misrouted() {
        let (mut publishers, mut ledger) = three_on_their_way();
        let stamp = Stamp { run: 7, sender: 0, seq: 1, planned_ns: 0, lag_us: 0 };
        hear(&mut publishers, &mut ledger, 0, Happening::Message { stamp, room_seq: Some(11) }, 2_000);
        assert_eq!(ledger.counts.get(Count::Misrouted), 1);
    }
}
