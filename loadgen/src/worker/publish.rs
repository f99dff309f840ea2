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
