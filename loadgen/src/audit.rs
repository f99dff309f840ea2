//! What every subscriber checks of what it receives: nothing lost, nothing twice, nothing out of order.
//!
//! Exact, not sampled: for each (subscriber, sender of its room) the next seq expected, and the ranges that were jumped
//! over, so that a message that comes late is told from one that comes twice. One sender's numbers are dense from 1.
//! Beside that, for servers that number a room's messages, the room's own seq; and for all, a hash of the order in
//! which a subscriber saw its room, by which the members of a room can be compared afterwards.
//!
//! A subscriber may leave and come again. Then an account is kept of each membership: what was sent before it began may
//! or may not come, what was sent within it must. A subscriber that resumes where it was keeps its account.
//!
//! Knows nothing of sockets, rooms' names or time.

use ahash::HashMap;

/// The audit of one worker's subscribers, numbered from 0.
#[derive(Debug)]
pub struct Audit {
    /// Next seq expected, at the subscriber's `first_cell` + sender. With [`OPEN`] set it is the first that must come,
    /// and earlier ones may.
    next: Vec<u32>,
    /// Ranges jumped over and not seen since, by the same index; most runs never add one.
    missing: HashMap<usize, Vec<Range>>,
    ranges: usize,
    subscribers: Vec<Subscriber>,
    faults: Faults,
}

/// How many messages were not as they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Faults {
    /// Never received: gaps that stayed, and what was missing at the end.
    pub lost: u64,
    /// Received again.
    pub duplicate: u64,
    /// Received after a later message of the same sender.
    pub disordered: u64,
    /// Room numbers that did not follow by one.
    pub room_seq: u64,
}

/// What one message was to its subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The one expected.
    InOrder,
    /// One after a gap of so many.
    AfterGap(u32),
    /// One that fills an earlier gap.
    Late,
    /// One that was there before.
    Duplicate,
}

/// A subscriber's account at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Messages it should have had and did not.
    pub lost: u64,
    /// Messages it should have had.
    pub expected: u64,
    /// Hash of the order in which it saw its room; comparable where nothing was lost or came twice.
    pub order_hash: u64,
    /// Whether it saw everything that was ever said in the room exactly once.
    pub complete: bool,
}

#[derive(Clone, Copy, Debug)]
struct Subscriber {
    first_cell: usize,
    senders: u32,
    /// Different messages received in this membership.
    seen: u64,
    order_hash: u64,
    /// 0 until the room's head is known.
    room_seq_next: u64,
    duplicates: u32,
    /// Whether this membership began when others had spoken already.
    is_late: bool,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    first: u32,
    last: u32,
}

impl Audit {
    /// An audit of subscribers in rooms with so many senders each.
    #[must_use]
    pub fn new(senders: impl Iterator<Item = u32>) -> Self {
        let mut first_cell = 0;
        let subscribers: Vec<Subscriber> = senders
            .map(|senders| {
                let subscriber = Subscriber::new(first_cell, senders);
                first_cell += senders as usize;
                subscriber
            })
            .collect();
        Self {
            next: vec![FIRST_SEQ; first_cell],
            missing: HashMap::default(),
            ranges: 0,
            subscribers,
            faults: Faults::default(),
        }
    }

    /// `subscriber` becomes a member while the load runs; `sent` says how many messages each sender of its room has sent
    /// by now. What has been sent may come or not; what follows must.
    pub fn begin(&mut self, subscriber: u32, sent: impl Fn(u32) -> u32) {
        let Subscriber { first_cell, senders, .. } = self.subscribers[subscriber as usize];
        for sender in 0..senders {
            let cell = first_cell + sender as usize;
            self.next[cell] = sent(sender).saturating_add(FIRST_SEQ).min(OPEN - 1) | OPEN;
            if let Some(ranges) = self.missing.remove(&cell) {
                self.ranges -= ranges.len();
            }
        }
        self.subscribers[subscriber as usize] = Subscriber { is_late: true, ..Subscriber::new(first_cell, senders) };
    }

    /// `subscriber` received message `seq` of `sender`, counted within its room. `None` when there is no such sender.
    pub fn received(&mut self, subscriber: u32, sender: u32, seq: u32) -> Option<Verdict> {
        let who = &mut self.subscribers[subscriber as usize];
        if sender >= who.senders || !(FIRST_SEQ..OPEN).contains(&seq) {
            return None;
        }
        who.order_hash = mix(who.order_hash, u64::from(sender) << 32 | u64::from(seq));
        who.seen += 1;
        let cell = who.first_cell + sender as usize;
        let next = self.next[cell];
        if seq == next || (next & OPEN != 0 && seq <= next & !OPEN) {
            self.next[cell] = seq + 1;
            return Some(Verdict::InOrder);
        }
        let next = next & !OPEN;
        Some(if seq > next { self.jump(cell, next, seq) } else { self.step_back(subscriber, cell, seq) })
    }

    /// Whether `subscriber` has had message number `until` of each sender, or a later one.
    #[must_use]
    pub fn has(&self, subscriber: u32, until: impl Fn(u32) -> u32) -> bool {
        let Subscriber { first_cell, senders, .. } = self.subscribers[subscriber as usize];
        // What is open has its first number still to come, which may be past `until`.
        (0..senders).all(|sender| self.next[first_cell + sender as usize] & !OPEN > until(sender))
    }

    /// The latest number of its room that `subscriber` knows, if it knows any.
    #[must_use]
    pub fn room_seq_seen(&self, subscriber: u32) -> Option<u64> {
        self.subscribers[subscriber as usize].room_seq_next.checked_sub(1)
    }

    /// The room of `subscriber` stands at `seq`; the next message must be the one after it.
    pub fn room_joined(&mut self, subscriber: u32, seq: u64) {
        self.subscribers[subscriber as usize].room_seq_next = seq.saturating_add(1);
    }

    /// `subscriber` received the message that its room numbered `seq`.
    pub fn room_seq(&mut self, subscriber: u32, seq: u64) {
        let who = &mut self.subscribers[subscriber as usize];
        if seq != who.room_seq_next && who.room_seq_next != 0 {
            self.faults.room_seq += 1;
        }
        who.room_seq_next = seq.saturating_add(1);
    }

    /// Faults found so far; what is lost counts gaps that are open now.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Closes the account of `subscriber`; `sent` says how many messages each sender of its room has sent.
    pub fn close(&mut self, subscriber: u32, sent: impl Fn(u32) -> u32) -> Account {
        let mut lost = 0;
        let who = self.subscribers[subscriber as usize];
        for sender in 0..who.senders {
            let cell = who.first_cell + sender as usize;
            let tail = (sent(sender) + FIRST_SEQ).saturating_sub(self.next[cell] & !OPEN);
            self.faults.lost += u64::from(tail);
            lost += u64::from(tail) + self.missing.get(&cell).map_or(0, |ranges| total(ranges));
        }
        let complete = lost == 0 && who.duplicates == 0 && !who.is_late;
        Account { lost, expected: who.seen + lost, order_hash: who.order_hash, complete }
    }

    /// Closes the account of `subscriber` without asking for what has not come yet. Returns what it had.
    pub fn abandon(&mut self, subscriber: u32) -> u64 {
        self.close(subscriber, |_| 0).expected
    }

    fn jump(&mut self, cell: usize, next: u32, seq: u32) -> Verdict {
        self.next[cell] = seq.saturating_add(1);
        self.faults.lost += u64::from(seq - next);
        if self.ranges < RANGES_MAX {
            self.ranges += 1;
            self.missing.entry(cell).or_default().push(Range { first: next, last: seq - 1 });
        }
        Verdict::AfterGap(seq - next)
    }

    fn step_back(&mut self, subscriber: u32, cell: usize, seq: u32) -> Verdict {
        if !self.missing.get_mut(&cell).is_some_and(|ranges| take(ranges, seq)) {
            self.faults.duplicate += 1;
            let who = &mut self.subscribers[subscriber as usize];
            who.duplicates += 1;
            who.seen -= 1;
            return Verdict::Duplicate;
        }
        self.faults.lost -= 1;
        self.faults.disordered += 1;
        Verdict::Late
    }
}

impl Subscriber {
    fn new(first_cell: usize, senders: u32) -> Self {
        Self { first_cell, senders, seen: 0, order_hash: 0, room_seq_next: 0, duplicates: 0, is_late: false }
    }
}

/// Takes `seq` out of the ranges; false when none holds it.
fn take(ranges: &mut Vec<Range>, seq: u32) -> bool {
    let Some(at) = ranges.iter().position(|range| (range.first..=range.last).contains(&seq)) else { return false };
    let Range { first, last } = ranges.swap_remove(at);
    if first < seq {
        ranges.push(Range { first, last: seq - 1 });
    }
    if seq < last {
        ranges.push(Range { first: seq + 1, last });
    }
    true
}

fn total(ranges: &[Range]) -> u64 {
    ranges.iter().map(|range| u64::from(range.last - range.first) + 1).sum()
}

/// Order-dependent: the multiplication keeps swapped neighbours apart.
fn mix(hash: u64, value: u64) -> u64 {
    (hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95)
}

const FIRST_SEQ: u32 = 1;
/// Past every seq.
const OPEN: u32 = 1 << 31;
/// Gaps remembered one by one; past it (a server that loses all the time) late messages count as duplicates.
const RANGES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the seqs of one sender to one subscriber, who should have had `sent` of them.
    fn play(seqs: &[u32], sent: u32) -> (Faults, Account) {
        let mut audit = Audit::new([3, 3].into_iter());
        for &seq in seqs {
            audit.received(1, 2, seq).unwrap();
        }
        let account = audit.close(1, |sender| if sender == 2 { sent } else { 0 });
        (audit.faults(), account)
    }

    #[test]
    fn every_fault_is_found_and_named() {
        let faults = |lost, duplicate, disordered| Faults { lost, duplicate, disordered, room_seq: 0 };
        let table: &[(&str, &[u32], u32, Faults)] = &[
            ("nothing sent", &[], 0, faults(0, 0, 0)),
            ("all in order", &[1, 2, 3], 3, faults(0, 0, 0)),
            ("first lost", &[2, 3], 3, faults(1, 0, 0)),
            ("middle lost", &[1, 4], 4, faults(2, 0, 0)),
            ("tail lost", &[1], 3, faults(2, 0, 0)),
            ("all lost", &[], 5, faults(5, 0, 0)),
            ("twice in a row", &[1, 1, 2], 2, faults(0, 1, 0)),
            ("an old one again", &[1, 2, 3, 1], 3, faults(0, 1, 0)),
            ("neighbours swapped", &[2, 1, 3], 3, faults(0, 0, 1)),
            ("one late", &[1, 3, 4, 2], 4, faults(0, 0, 1)),
            ("backwards", &[4, 3, 2, 1], 4, faults(0, 0, 3)),
            ("late, then again", &[2, 1, 1], 2, faults(0, 1, 1)),
            ("lost, twice and late", &[1, 5, 5, 3], 6, faults(3, 1, 1)),
        ];
        for (name, seqs, sent, expected) in table {
            let (found, account) = play(seqs, *sent);
            assert_eq!(found, *expected, "{name}");
            assert_eq!((account.lost, account.expected), (expected.lost, u64::from(*sent)), "{name}");
            assert_eq!(account.complete, expected.lost + expected.duplicate == 0, "{name}");
        }
    }

    #[test]
    fn any_shuffle_adds_up() {
        let mut random = crate::plan::Random::new(11);
        for _ in 0..200 {
            let seqs: Vec<u32> = (0..30).map(|_| random.below(20) as u32 + 1).collect();
            let distinct = seqs.iter().collect::<std::collections::BTreeSet<_>>().len() as u64;
            let (faults, _) = play(&seqs, 20);
            assert_eq!(faults.lost, 20 - distinct, "{seqs:?}");
            assert_eq!(faults.duplicate, seqs.len() as u64 - distinct, "{seqs:?}");
        }
    }

    #[test]
    fn a_verdict_is_given_for_each_message() {
        let mut audit = Audit::new([1].into_iter());
        let verdicts: Vec<_> = [1, 4, 2, 2, 5].iter().map(|&seq| audit.received(0, 0, seq).unwrap()).collect();
        use Verdict::{AfterGap, Duplicate, InOrder, Late};
        assert_eq!(verdicts, [InOrder, AfterGap(2), Late, Duplicate, InOrder]);
        assert_eq!(audit.received(0, 1, 1), None, "no such sender");
        assert_eq!(audit.received(0, 0, 0), None, "no such seq");
    }

    #[test]
    fn subscribers_and_senders_are_kept_apart() {
        let mut audit = Audit::new([2, 2].into_iter());
        for (subscriber, sender) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            assert_eq!(audit.received(subscriber, sender, 1), Some(Verdict::InOrder));
        }
        assert_eq!(audit.faults(), Faults::default());
    }

    #[test]
    fn a_membership_is_owed_what_is_sent_within_it() {
        type Row = (&'static str, u32, &'static [u32], u32, u64, u64);
        // Sent before the join, received, sent before the leave, lost, twice.
        let table: &[Row] = &[
            ("nothing said", 5, &[], 5, 0, 0),
            ("all that followed", 5, &[6, 7], 7, 0, 0),
            ("one that was under way came too", 5, &[5, 6, 7], 7, 0, 0),
            ("the first one lost", 5, &[7], 7, 1, 0),
            ("the tail lost", 5, &[6], 8, 2, 0),
            ("all lost", 5, &[], 8, 3, 0),
            ("one under way, then a gap", 5, &[4, 6], 6, 1, 0),
            ("more than owed", 5, &[6, 7, 8], 7, 0, 0),
            ("one twice", 5, &[5, 6, 6], 6, 0, 1),
        ];
        for (name, before, seqs, after, lost, duplicate) in table {
            let mut audit = Audit::new([1].into_iter());
            for seq in [1, 3] {
                audit.received(0, 0, seq).unwrap();
            }
            let first = audit.close(0, |_| 3);
            assert_eq!((first.lost, first.expected), (1, 3));
            audit.begin(0, |_| *before);
            seqs.iter().for_each(|&seq| {
                audit.received(0, 0, seq).unwrap();
            });
            assert_eq!(audit.has(0, |_| *after), seqs.iter().max().unwrap_or(before) >= after, "{name}");
            let account = audit.close(0, |_| *after);
            assert_eq!((account.lost, account.complete), (*lost, false), "{name}");
            assert_eq!((audit.faults().lost, audit.faults().duplicate), (lost + 1, *duplicate), "{name}");
        }
    }

    #[test]
    fn whoever_is_let_go_is_owed_nothing_more() {
        let mut audit = Audit::new([1].into_iter());
        audit.received(0, 0, 1).unwrap();
        audit.received(0, 0, 3).unwrap();
        assert_eq!(audit.abandon(0), 3, "a gap stays a loss");
        assert_eq!(audit.faults().lost, 1);
    }

    #[test]
    fn members_who_saw_one_order_share_a_hash() {
        let mut audit = Audit::new([2; 3].into_iter());
        for (subscriber, order) in [[0, 1], [0, 1], [1, 0]].iter().enumerate() {
            for &sender in order {
                audit.received(subscriber as u32, sender, 1).unwrap();
            }
        }
        let accounts: Vec<Account> = (0..3).map(|subscriber| audit.close(subscriber, |_| 1)).collect();
        assert!(accounts.iter().all(|account| account.complete));
        assert_eq!(accounts[0].order_hash, accounts[1].order_hash);
        assert_ne!(accounts[0].order_hash, accounts[2].order_hash);
    }

    #[test]
    fn room_numbers_must_follow_by_one() {
        let table: &[(&str, u64, &[u64], u64)] = &[
            ("dense from the head", 7, &[8, 9, 10], 0),
            ("a gap", 0, &[1, 3, 4], 1),
            ("the first missing", 7, &[9, 10], 1),
            ("again", 0, &[1, 1, 2], 1),
            ("back", 0, &[1, 2, 1], 1),
        ];
        for (name, head, seqs, expected) in table {
            let mut audit = Audit::new([1].into_iter());
            audit.room_joined(0, *head);
            for &seq in *seqs {
                audit.room_seq(0, seq);
            }
            assert_eq!(audit.faults().room_seq, *expected, "{name}");
        }
    }
}
