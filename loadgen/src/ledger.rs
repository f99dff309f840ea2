//! The books of one worker: what its connections received, checked and entered.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use ahash::HashMap;

use crate::audit::{Audit, Faults};
use crate::client::Happening;
use crate::layout::Layout;
use crate::payload::Stamp;
use crate::stats::{Count, Counts, Handshakes, Interval, SentBoard, record_ns};

/// One worker's books. Subscribers are numbered as in its audit.
#[derive(Debug)]
pub struct Ledger {
    run: u32,
    sent: Arc<SentBoard>,
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
    /// Deliveries owed by accounts that are closed.
    expected: u64,
    /// Subscribers that are back after a drop and have not had all that they missed.
    catching_up: HashMap<u32, CatchingUp>,
    last_caught_up_ns: u64,
    /// Messages that those had missed when they came back, by the rooms' numbers.
    missed: u64,
}

/// How often each reason was met. Bounded: past [`REASONS_MAX`] they are counted together.
pub type Tally = BTreeMap<String, u64>;

/// What is known at the end of a run.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Closing {
    /// What the audit found.
    pub faults: Faults,
    /// Deliveries that there should have been.
    pub expected: u64,
    /// For each room, the orders in which complete members saw it.
    pub orders: BTreeMap<u32, BTreeSet<u64>>,
    /// Pings of the connection that got the fewest.
    pub pings_min: u32,
    /// When the last of those that were dropped had caught up, in monotonic nanoseconds; 0 when none had to.
    pub last_caught_up_ns: u64,
    /// Messages that those had missed when they came back, by the rooms' numbers.
    pub missed: u64,
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
    first_sender: u32,
    senders: u32,
    pings: u32,
    standing: Standing,
    /// Whether it was made to stop reading.
    is_slow: bool,
}

/// How a subscriber stands to its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has never been in.
    New,
    /// It is in.
    Member,
    /// It left on purpose, and is owed nothing.
    Left,
    /// It was dropped on purpose, and is owed everything once it is back.
    Dropped { at_ns: u64 },
    /// The server has closed it.
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct CatchingUp {
    dropped_ns: u64,
    /// The room's head when it came back.
    head: u64,
}

impl Ledger {
    /// Books for these connections of a layout.
    #[must_use]
    pub fn new(run: u32, layout: &Layout, connections: impl Iterator<Item = u32>, sent: Arc<SentBoard>) -> Self {
        let subscribers: Vec<Subscriber> = connections.map(|index| Subscriber::new(layout, index)).collect();
        Self {
            run,
            sent,
            audit: Audit::new(subscribers.iter().map(|subscriber| subscriber.senders)),
            subscribers,
            measured_ns: 0..0,
            interval: Interval::new(),
            handshakes: Handshakes::new(),
            counts: Counts::default(),
            refusals: Tally::new(),
            closes: Tally::new(),
            local_faults: Tally::new(),
            errors: Tally::new(),
            expected: 0,
            catching_up: HashMap::default(),
            last_caught_up_ns: 0,
            missed: 0,
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

    /// A message of `from_ns` has its `ok`.
    pub fn acknowledged(&mut self, from_ns: u64, durable: bool, now_ns: u64) {
        if self.measured_ns.contains(&from_ns) {
            let took_ns = now_ns.saturating_sub(from_ns);
            record_ns(&mut self.interval.ack, took_ns);
            if durable {
                record_ns(&mut self.interval.durable_ack, took_ns);
            }
        }
    }

    /// Keeps why the server refused something.
    pub fn tally_error(&mut self, why: String) {
        tally(&mut self.errors, why);
    }

    /// This machine could not make a connection.
    pub fn local_fault(&mut self, why: String) {
        self.counts.bump(Count::Refused);
        tally(&mut self.local_faults, why);
    }

    /// `subscriber` is gone, for a reason that is the server's.
    pub fn ended(&mut self, subscriber: u32, why: String) {
        let who = &mut self.subscribers[subscriber as usize];
        if who.standing == Standing::New {
            self.counts.bump(Count::Refused);
            return tally(&mut self.refusals, why);
        }
        let was_member = who.standing == Standing::Member;
        if was_member {
            who.standing = Standing::Closed;
        }
        if was_member && who.is_slow {
            self.counts.bump(Count::SlowClosed);
            self.expected += self.audit.abandon(subscriber);
        } else {
            self.counts.bump(Count::Closed);
        }
        tally(&mut self.closes, why);
    }

    /// An attempt of `subscriber` to come back has failed.
    pub fn retried(&mut self, why: String) {
        self.counts.bump(Count::Retried);
        tally(&mut self.refusals, why);
    }

    /// What has been sent to the room of `subscriber` by now, sender by sender.
    #[must_use]
    pub fn fence(&self, subscriber: u32) -> Box<[u32]> {
        let who = self.subscribers[subscriber as usize];
        (0..who.senders).map(|sender| self.sent.get(who.first_sender + sender)).collect()
    }

    /// Whether `subscriber` has had everything up to a fence.
    #[must_use]
    pub fn has_passed(&self, subscriber: u32, fence: &[u32]) -> bool {
        self.audit.has(subscriber, |sender| fence[sender as usize])
    }

    /// `subscriber` has left on purpose, and should have had everything up to `fence`.
    pub fn left(&mut self, subscriber: u32, fence: &[u32]) {
        self.counts.bump(Count::Left);
        self.subscribers[subscriber as usize].standing = Standing::Left;
        self.expected += self.audit.close(subscriber, |sender| fence[sender as usize]).expected;
    }

    /// `subscriber` was dropped on purpose. Returns the room's number for the last message that it has had.
    pub fn dropped(&mut self, subscriber: u32, now_ns: u64) -> Option<u64> {
        self.counts.bump(Count::Left);
        self.counts.bump(Count::Dropped);
        self.catching_up.remove(&subscriber);
        self.subscribers[subscriber as usize].standing = Standing::Dropped { at_ns: now_ns };
        self.audit.room_seq_seen(subscriber)
    }

    /// `subscriber` is made to stop reading.
    pub fn slowed(&mut self, subscriber: u32) {
        self.subscribers[subscriber as usize].is_slow = true;
    }

    /// What the audit has found so far.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.audit.faults()
    }

    /// Closes the books: what has been sent by now and has not come is lost.
    #[must_use]
    pub fn close(mut self) -> Closing {
        let mut expected = self.expected;
        let mut orders: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        let mut pings_min = u32::MAX;
        for (number, subscriber) in self.subscribers.iter().enumerate() {
            let was_closed_slow = subscriber.standing == Standing::Closed && subscriber.is_slow;
            if matches!(subscriber.standing, Standing::New | Standing::Left) || was_closed_slow {
                continue;
            }
            let account = self.audit.close(number as u32, |sender| self.sent.get(subscriber.first_sender + sender));
            expected += account.expected;
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
            last_caught_up_ns: self.last_caught_up_ns,
            missed: self.missed,
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
        let who = self.subscribers[subscriber as usize];
        let sender = stamp.sender.wrapping_sub(who.first_sender);
        if who.standing != Standing::Member || self.audit.received(subscriber, sender, stamp.seq).is_none() {
            self.counts.bump(Count::Misrouted);
        }
        if let Some(seq) = room_seq {
            self.audit.room_seq(subscriber, seq);
            if !self.catching_up.is_empty() {
                self.catch_up(subscriber, seq, now_ns);
            }
        }
        // Who was made to read late is late by its own doing.
        if self.measured_ns.contains(&stamp.planned_ns) && !who.is_slow {
            record_ns(&mut self.interval.deliver, now_ns.saturating_sub(stamp.planned_ns));
            record_ns(&mut self.interval.service, now_ns.saturating_sub(stamp.sent_ns()));
        }
    }

    fn event(&mut self, subscriber: u32, happening: Happening, now_ns: u64) {
        match happening {
            Happening::Opened { took_ns } => record_ns(&mut self.handshakes.upgrade, took_ns),
            Happening::Joined { took_ns, head, recovered } => {
                if let Some(took_ns) = took_ns {
                    record_ns(&mut self.handshakes.join, took_ns);
                }
                self.joined(subscriber, head, recovered, now_ns);
            }
            Happening::Presence { changes } => {
                self.counts.bump(Count::PresencePushes);
                self.counts.add(Count::PresenceChanges, changes);
            }
            Happening::Foreign => self.counts.bump(Count::Foreign),
            Happening::Acked { id, durable, .. } => {
                self.counts.bump(Count::Acks);
                // Messages of a plan carry the planned time as their `id`.
                self.acknowledged(id.unwrap_or_default(), durable, now_ns);
            }
            Happening::Ping => {
                self.counts.bump(Count::Pings);
                self.subscribers[subscriber as usize].pings += 1;
            }
            Happening::Error { why, .. } => {
                self.counts.bump(Count::Errors);
                self.tally_error(why);
            }
            Happening::Resumed => self.counts.bump(Count::Resumed),
            Happening::GapTold => self.counts.bump(Count::GapsTold),
            Happening::Ended(why) => self.ended(subscriber, why),
            Happening::Message { stamp, room_seq } => self.message(subscriber, stamp, room_seq, now_ns),
        }
    }

    fn joined(&mut self, subscriber: u32, head: Option<u64>, recovered: bool, now_ns: u64) {
        let who = &mut self.subscribers[subscriber as usize];
        let first_sender = who.first_sender;
        match std::mem::replace(&mut who.standing, Standing::Member) {
            Standing::New => self.counts.bump(Count::Joined),
            Standing::Dropped { at_ns } => {
                self.counts.bump(Count::Rejoined);
                // Who is not recovered keeps its account: what it has missed shows as lost.
                if let Some(head) = head.filter(|_| recovered) {
                    self.counts.bump(Count::Recovered);
                    let seen = self.audit.room_seq_seen(subscriber).unwrap_or_default();
                    self.missed += head.saturating_sub(seen);
                    self.catching_up.insert(subscriber, CatchingUp { dropped_ns: at_ns, head });
                    self.catch_up(subscriber, seen, now_ns);
                }
                return;
            }
            Standing::Left | Standing::Member | Standing::Closed => {
                self.counts.bump(Count::Rejoined);
                let sent = &self.sent;
                self.audit.begin(subscriber, |sender| sent.get(first_sender + sender));
            }
        }
        if let Some(head) = head {
            self.audit.room_joined(subscriber, head);
        }
    }

    /// `subscriber` knows its room up to `seq`.
    fn catch_up(&mut self, subscriber: u32, seq: u64, now_ns: u64) {
        let Some(&CatchingUp { dropped_ns, head }) = self.catching_up.get(&subscriber) else { return };
        if seq >= head {
            self.catching_up.remove(&subscriber);
            self.counts.bump(Count::CaughtUp);
            record_ns(&mut self.handshakes.resume, now_ns.saturating_sub(dropped_ns));
            self.last_caught_up_ns = self.last_caught_up_ns.max(now_ns);
        }
    }
}

impl Subscriber {
    fn new(layout: &Layout, index: u32) -> Self {
        let room = layout.room_of(index);
        let (first_sender, senders) = layout.senders_of(room);
        Self { room, first_sender, senders, pings: 0, standing: Standing::New, is_slow: false }
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

    /// Nobody has sent anything in four rooms of two, who both speak.
    fn sent() -> Arc<SentBoard> {
        Arc::new(SentBoard::new(8))
    }

    /// Two members of room 3, which has two senders (6 and 7), both joined.
    fn ledger_of(sent: &Arc<SentBoard>) -> Ledger {
        let mut ledger = Ledger::new(RUN, &Layout::new(&[2; 4], 2), 6..8, sent.clone());
        ledger.measure(1_000..2_000);
        for subscriber in 0..2 {
            ledger.enter(subscriber, joined(10), 0);
        }
        ledger
    }

    fn ledger() -> Ledger {
        ledger_of(&sent())
    }

    fn joined(head: u64) -> Happening {
        Happening::Joined { took_ns: Some(5), head: Some(head), recovered: false }
    }

    fn message(sender: u32, seq: u32, planned_ns: u64, room_seq: u64) -> Happening {
        Happening::Message { stamp: Stamp { run: RUN, sender, seq, planned_ns, lag_us: 1 }, room_seq: Some(room_seq) }
    }

    #[test]
    fn a_faultless_run_closes_without_a_fault() {
        let sent = sent();
        let mut ledger = ledger_of(&sent);
        (6..8).for_each(|sender| sent.set(sender, 1));
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
        let closing = ledger.close();
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
        assert_eq!(ledger.close().orders[&3].len(), 2);
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
        let sent = Arc::new(SentBoard::new(2));
        let mut ledger = Ledger::new(RUN, &Layout::new(&[1, 1], 1), 0..2, sent.clone());
        ledger.enter(0, Happening::Joined { took_ns: None, head: None, recovered: false }, 0);
        sent.set(0, 2);
        ledger.enter(0, Happening::Ended("close 4008".to_owned()), 1);
        ledger.enter(1, Happening::Ended("the server answered 503".to_owned()), 1);
        let closing = ledger.close();
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
        assert_eq!(ledger.close().pings_min, 0);
    }

    #[test]
    fn whoever_leaves_is_owed_what_was_sent_while_it_was_there() {
        let sent = sent();
        let mut ledger = ledger_of(&sent);
        sent.set(6, 2);
        let fence = ledger.fence(0);
        ledger.enter(0, message(6, 1, 0, 11), 1);
        assert!(!ledger.has_passed(0, &fence));
        ledger.enter(0, message(6, 2, 0, 12), 1);
        assert!(ledger.has_passed(0, &fence));
        sent.set(6, 3);
        ledger.left(0, &fence);
        ledger.enter(0, message(6, 3, 0, 13), 1);
        assert_eq!(ledger.counts.get(Count::Misrouted), 1, "nothing may come after the leave");
        ledger.enter(0, joined(13), 2);
        sent.set(6, 4);
        ledger.enter(0, message(6, 4, 0, 14), 3);
        (1..=4).for_each(|seq| ledger.enter(1, message(6, seq, 0, 10 + u64::from(seq)), 3));
        let closing = ledger.close();
        assert_eq!(closing.faults, Faults::default());
        assert_eq!((closing.expected, closing.orders[&3].len()), (2 + 1 + 4, 1));
    }

    #[test]
    fn whoever_was_dropped_has_caught_up_at_the_head_it_came_back_to() {
        let sent = sent();
        let mut ledger = ledger_of(&sent);
        sent.set(6, 3);
        ledger.enter(0, message(6, 1, 0, 11), 1);
        assert_eq!(ledger.dropped(0, 5_000_000), Some(11));
        ledger.enter(0, Happening::Joined { took_ns: None, head: Some(13), recovered: true }, 6_000_000);
        ledger.enter(0, message(6, 2, 0, 12), 6_500_000);
        assert_eq!((ledger.counts.get(Count::Recovered), ledger.counts.get(Count::CaughtUp)), (1, 0));
        ledger.enter(0, message(6, 3, 0, 13), 7_000_000);
        assert_eq!((ledger.counts.get(Count::CaughtUp), ledger.handshakes.resume.max()), (1, 2_000));
        (1..=3).for_each(|seq| ledger.enter(1, message(6, seq, 0, 10 + u64::from(seq)), 3));
        // It missed nothing this time, and has caught up at once.
        assert_eq!(ledger.dropped(0, 8_000_000), Some(13));
        ledger.enter(0, Happening::Joined { took_ns: None, head: Some(13), recovered: true }, 8_001_000);
        assert_eq!((ledger.counts.get(Count::CaughtUp), ledger.missed), (2, 2));
        let closing = ledger.close();
        assert_eq!((closing.faults, closing.expected), (Faults::default(), 6));
        assert_eq!((closing.last_caught_up_ns, closing.orders[&3].len()), (8_001_000, 1), "order holds over a drop");
    }

    #[test]
    fn what_a_server_does_not_recover_is_lost() {
        let sent = sent();
        let mut ledger = ledger_of(&sent);
        ledger.dropped(0, 5);
        sent.set(6, 2);
        ledger.enter(0, Happening::Joined { took_ns: None, head: Some(12), recovered: false }, 6);
        assert_eq!((ledger.counts.get(Count::Recovered), ledger.counts.get(Count::CaughtUp)), (0, 0));
        (1..=2).for_each(|seq| ledger.enter(1, message(6, seq, 0, 10 + u64::from(seq)), 3));
        assert_eq!(ledger.close().faults.lost, 2);
    }

    #[test]
    fn a_slow_reader_that_is_closed_is_owed_nothing_more() {
        let sent = sent();
        let mut ledger = ledger_of(&sent);
        ledger.slowed(0);
        ledger.enter(0, message(6, 1, 0, 11), 1);
        sent.set(6, 2);
        ledger.ended(0, "close 4008 slow consumer".to_owned());
        (1..=2).for_each(|seq| ledger.enter(1, message(6, seq, 0, 10 + u64::from(seq)), 3));
        assert_eq!((ledger.counts.get(Count::SlowClosed), ledger.counts.get(Count::Closed)), (1, 0));
        let closing = ledger.close();
        assert_eq!((closing.faults.lost, closing.expected), (0, 3));
    }

    #[test]
    fn reasons_are_bounded() {
        let mut reasons = Tally::new();
        (0..1_000).for_each(|n| tally(&mut reasons, format!("reason {n}")));
        assert_eq!(reasons.len(), REASONS_MAX + 1);
        assert_eq!(reasons.values().sum::<u64>(), 1_000);
    }
}
