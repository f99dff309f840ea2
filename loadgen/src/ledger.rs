//! The books of one worker: what its connections received, checked and entered.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::audit::{Audit, Faults};
use crate::client::Happening;
use crate::payload::Stamp;
use crate::stats::{Count, Counts, Handshakes, Interval, record_ns};

/// One worker's books. Subscribers are numbered as in its audit.
#[derive(Debug)]
pub struct Ledger {
    run: u32,
    senders_per_room: u32,
    audit: Audit,
    subscribers: Vec<Subscriber>,
    /// Planned times whose latency counts.
    measured_ns: Range<u64>,
    /// Since the last report.
    pub interval: Interval,
    /// Of the whole run.
    pub handshakes: Handshakes,
    /// Of the whole run.
    pub counts: Counts,
    refusals: Tally,
    closes: Tally,
    local_faults: Tally,
    errors: Tally,
}

/// How often each reason was met. Bounded: past [`REASONS_MAX`] they are counted together.
pub type Tally = BTreeMap<String, u64>;

/// What is known at the end of a run.
#[derive(Debug)]
pub struct Closing {
    /// What the audit found.
    pub faults: Faults,
    /// Deliveries that there should have been.
    pub expected: u64,
    /// For each room, the orders in which complete members saw it.
    pub orders: BTreeMap<u32, BTreeSet<u64>>,
    /// Pings of the connection that got the fewest.
    pub pings_min: u32,
    /// How long connections took to stand.
    pub handshakes: Handshakes,
    /// Why connections failed before they had joined.
    pub refusals: Tally,
    /// Why connections ended after they had joined.
    pub closes: Tally,
    /// What this machine, not the server, refused.
    pub local_faults: Tally,
    /// Errors that the server sent after the join.
    pub errors: Tally,
}

#[derive(Clone, Copy, Debug)]
struct Subscriber {
    room: u32,
    joined: bool,
    pings: u32,
}

impl Ledger {
    /// Books for subscribers in these rooms.
    #[must_use]
    pub fn new(run: u32, senders_per_room: u32, rooms: impl Iterator<Item = u32>) -> Self {
        let subscribers: Vec<Subscriber> = rooms.map(|room| Subscriber { room, joined: false, pings: 0 }).collect();
        Self {
            run,
            senders_per_room,
            audit: Audit::new(subscribers.len() as u32, senders_per_room),
            subscribers,
            measured_ns: 0..0,
            interval: Interval::new(),
            handshakes: Handshakes::new(),
            counts: Counts::default(),
            refusals: Tally::new(),
            closes: Tally::new(),
            local_faults: Tally::new(),
            errors: Tally::new(),
        }
    }

    /// From now on it is known which planned times count.
    pub fn measure(&mut self, planned_ns: Range<u64>) {
        self.measured_ns = planned_ns;
    }

    /// Something happened to `subscriber`.
    #[inline]
    pub fn enter(&mut self, subscriber: u32, happening: Happening, now_ns: u64) {
        match happening {
            Happening::Message { stamp, room_seq } => self.message(subscriber, stamp, room_seq, now_ns),
            other => self.event(subscriber, other, now_ns),
        }
    }

    /// A message was handed over at `now_ns`; past `late_ns` of lag it counts as late.
    pub fn sent(&mut self, planned_ns: u64, now_ns: u64, late_ns: u64) {
        let lag_ns = now_ns.saturating_sub(planned_ns);
        self.counts.bump(Count::Sent);
        self.interval.sent += 1;
        if lag_ns > late_ns {
            self.counts.bump(Count::SentLate);
        }
        if self.measured_ns.contains(&planned_ns) {
            record_ns(&mut self.interval.lag, lag_ns);
        }
    }

    /// This machine could not make a connection.
    pub fn local_fault(&mut self, why: String) {
        self.counts.bump(Count::Refused);
        tally(&mut self.local_faults, why);
    }

    /// `subscriber` is gone, for a reason that is the server's.
    pub fn ended(&mut self, subscriber: u32, why: String) {
        if self.subscribers[subscriber as usize].joined {
            self.counts.bump(Count::Closed);
            tally(&mut self.closes, why);
        } else {
            self.counts.bump(Count::Refused);
            tally(&mut self.refusals, why);
        }
    }

    /// What the audit has found so far.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.audit.faults()
    }

    /// Closes the books. `sent` says how many messages each of the scenario's senders has sent.
    #[must_use]
    pub fn close(mut self, sent: impl Fn(u32) -> u32) -> Closing {
        let mut expected = 0;
        let mut orders: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        let mut pings_min = u32::MAX;
        for (number, subscriber) in self.subscribers.iter().enumerate().filter(|(_, subscriber)| subscriber.joined) {
            let first = subscriber.room * self.senders_per_room;
            expected += (0..self.senders_per_room).map(|sender| u64::from(sent(first + sender))).sum::<u64>();
            let account = self.audit.close(number as u32, |sender| sent(first + sender));
            pings_min = pings_min.min(subscriber.pings);
            if account.complete {
                orders.entry(subscriber.room).or_default().insert(account.order_hash);
            }
        }
        Closing {
            faults: self.audit.faults(),
            expected,
            orders,
            pings_min: if pings_min == u32::MAX { 0 } else { pings_min },
            handshakes: self.handshakes,
            refusals: self.refusals,
            closes: self.closes,
            local_faults: self.local_faults,
            errors: self.errors,
        }
    }

    #[inline]
    fn message(&mut self, subscriber: u32, stamp: Stamp, room_seq: Option<u64>, now_ns: u64) {
        if stamp.run != self.run {
            return self.counts.bump(Count::Foreign);
        }
        self.counts.bump(Count::Received);
        self.interval.received += 1;
        let first = self.subscribers[subscriber as usize].room * self.senders_per_room;
        let sender = stamp.sender.wrapping_sub(first);
        if self.audit.received(subscriber, sender, stamp.seq).is_none() {
            self.counts.bump(Count::Misrouted);
        }
        if let Some(seq) = room_seq {
            self.audit.room_seq(subscriber, seq);
        }
        if self.measured_ns.contains(&stamp.planned_ns) {
            record_ns(&mut self.interval.deliver, now_ns.saturating_sub(stamp.planned_ns));
            record_ns(&mut self.interval.service, now_ns.saturating_sub(stamp.sent_ns()));
        }
    }

    fn event(&mut self, subscriber: u32, happening: Happening, now_ns: u64) {
        match happening {
            Happening::Opened { took_ns } => record_ns(&mut self.handshakes.upgrade, took_ns),
            Happening::Joined { took_ns, head } => self.joined(subscriber, took_ns, head),
            Happening::Foreign => self.counts.bump(Count::Foreign),
            Happening::Acked { id, durable } => {
                self.counts.bump(Count::Acks);
                if self.measured_ns.contains(&id) {
                    record_ns(&mut self.interval.ack, now_ns.saturating_sub(id));
                    if durable {
                        record_ns(&mut self.interval.durable_ack, now_ns.saturating_sub(id));
                    }
                }
            }
            Happening::Ping => {
                self.counts.bump(Count::Pings);
                self.subscribers[subscriber as usize].pings += 1;
            }
            Happening::Error(why) => {
                self.counts.bump(Count::Errors);
                tally(&mut self.errors, why);
            }
            Happening::GapTold => self.counts.bump(Count::GapsTold),
            Happening::Ended(why) => self.ended(subscriber, why),
            Happening::Message { stamp, room_seq } => self.message(subscriber, stamp, room_seq, now_ns),
        }
    }

    fn joined(&mut self, subscriber: u32, took_ns: Option<u64>, head: Option<u64>) {
        self.counts.bump(Count::Joined);
        self.subscribers[subscriber as usize].joined = true;
        if let Some(took_ns) = took_ns {
            record_ns(&mut self.handshakes.join, took_ns);
        }
        if let Some(head) = head {
            self.audit.room_joined(subscriber, head);
        }
    }
}

/// Adds one to `why`, or to the rest when there are too many reasons.
pub fn tally(reasons: &mut Tally, why: String) {
    let full = reasons.len() >= REASONS_MAX && !reasons.contains_key(&why);
    *reasons.entry(if full { "other reasons".to_owned() } else { why }).or_insert(0) += 1;
}

const REASONS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u32 = 7;

    /// Two members of room 3, which has two senders (6 and 7), both joined.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(RUN, 2, [3, 3].into_iter());
        ledger.measure(1_000..2_000);
        for subscriber in 0..2 {
            ledger.enter(subscriber, Happening::Joined { took_ns: Some(5), head: Some(10) }, 0);
        }
        ledger
    }

    fn message(sender: u32, seq: u32, planned_ns: u64, room_seq: u64) -> Happening {
        Happening::Message { stamp: Stamp { run: RUN, sender, seq, planned_ns, lag_us: 1 }, room_seq: Some(room_seq) }
    }

    #[test]
    fn a_faultless_run_closes_without_a_fault() {
        let mut ledger = ledger();
        for subscriber in 0..2 {
            ledger.enter(subscriber, message(6, 1, 999, 11), 1_500);
            ledger.enter(subscriber, message(7, 1, 1_000, 12), 3_000);
        }
        assert_eq!(ledger.interval.deliver.len(), 2, "what was planned outside the window is not measured");
        assert_eq!(
            (ledger.interval.deliver.max(), ledger.interval.service.max()),
            (2, 1),
            "the lag is not the server's"
        );
        let closing = ledger.close(|sender| u32::from(sender == 6 || sender == 7));
        assert_eq!(closing.faults, Faults::default());
        assert_eq!(closing.expected, 4);
        assert_eq!(closing.orders[&3].len(), 1, "both saw one order");
    }

    #[test]
    fn members_who_saw_different_orders_show() {
        let mut ledger = ledger();
        for (subscriber, order) in [(0, [6, 7]), (1, [7, 6])] {
            for (at, sender) in order.into_iter().enumerate() {
                ledger.enter(subscriber, message(sender, 1, 0, 11 + at as u64), 1);
            }
        }
        assert_eq!(ledger.close(|_| 1).orders[&3].len(), 2);
    }

    #[test]
    fn what_is_not_of_this_room_or_run_shows() {
        let mut ledger = ledger();
        ledger.enter(0, message(5, 1, 0, 11), 1);
        ledger.enter(0, message(8, 1, 0, 12), 1);
        ledger.enter(
            0,
            Happening::Message { stamp: Stamp { run: 8, sender: 6, seq: 1, planned_ns: 0, lag_us: 0 }, room_seq: None },
            1,
        );
        assert_eq!((ledger.counts.get(Count::Misrouted), ledger.counts.get(Count::Foreign)), (2, 1));
    }

    #[test]
    fn an_end_counts_by_whether_it_had_joined() {
        let mut ledger = Ledger::new(RUN, 1, [0, 1].into_iter());
        ledger.enter(0, Happening::Joined { took_ns: None, head: None }, 0);
        ledger.enter(0, Happening::Ended("close 4008".to_owned()), 1);
        ledger.enter(1, Happening::Ended("the server answered 503".to_owned()), 1);
        let closing = ledger.close(|_| 2);
        assert_eq!(closing.closes["close 4008"], 1);
        assert_eq!(closing.refusals["the server answered 503"], 1);
        assert_eq!((closing.expected, closing.faults.lost), (2, 2), "who never joined is owed nothing");
    }

    #[test]
    fn late_sends_are_counted_and_measured() {
        let mut ledger = ledger();
        ledger.sent(1_500, 1_600, 1_000);
        ledger.sent(1_500, 9_000, 1_000);
        ledger.sent(0, 9_000, 1_000);
        assert_eq!((ledger.counts.get(Count::Sent), ledger.counts.get(Count::SentLate)), (3, 2));
        assert_eq!((ledger.interval.lag.len(), ledger.interval.lag.max()), (2, 8));
    }

    #[test]
    fn the_least_pinged_connection_is_known() {
        let mut ledger = ledger();
        ledger.enter(0, Happening::Ping, 0);
        assert_eq!(ledger.close(|_| 0).pings_min, 0);
    }

    #[test]
    fn reasons_are_bounded() {
        let mut reasons = Tally::new();
        (0..1_000).for_each(|n| tally(&mut reasons, format!("reason {n}")));
        assert_eq!(reasons.len(), REASONS_MAX + 1);
        assert_eq!(reasons.values().sum::<u64>(), 1_000);
    }
}
