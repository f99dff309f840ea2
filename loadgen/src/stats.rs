//! What a worker measures: latency histograms and counts.
//!
//! A worker hands over what it measured at least once a second and begins again with empty histograms; the total of a
//! run is the sum of these intervals, so the live view, the time line and the final figures cannot disagree. Counts
//! are published on a [`Board`] each time before the worker sleeps.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A histogram of microseconds with three significant digits, up to an hour.
#[must_use]
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constant and valid")
}

/// What one worker measured since it last reported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// Planned send time to arrival at a subscriber, of messages planned within the measured window.
    #[serde(with = "packed")]
    pub deliver: Histogram<u64>,
    /// The moment at which the generator handed the message over to arrival at a subscriber, of the same messages: delivery
    /// without the generator's own lag.
    #[serde(with = "packed")]
    pub service: Histogram<u64>,
    /// Planned send time to the moment at which the generator handed the message over, of the same messages.
    #[serde(with = "packed")]
    pub lag: Histogram<u64>,
    /// Planned send time to the server's `ok`, where messages carry an `id`.
    #[serde(with = "packed")]
    pub ack: Histogram<u64>,
    /// The same, of those whose `ok` says that the message is on disk.
    #[serde(with = "packed")]
    pub durable_ack: Histogram<u64>,
    /// Messages sent.
    pub sent: u64,
    /// Messages received, counted at every subscriber.
    pub received: u64,
}

impl Interval {
    /// Nothing measured yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            deliver: latency_histogram(),
            service: latency_histogram(),
            lag: latency_histogram(),
            ack: latency_histogram(),
            durable_ack: latency_histogram(),
            sent: 0,
            received: 0,
        }
    }

    /// Adds what another measured.
    pub fn add(&mut self, other: &Self) {
        add(&mut self.deliver, &other.deliver);
        add(&mut self.lag, &other.lag);
        add(&mut self.service, &other.service);
        add(&mut self.ack, &other.ack);
        add(&mut self.durable_ack, &other.durable_ack);
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// How long connections took to stand, and to stand again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handshakes {
    /// Until the TCP connection stood.
    #[serde(with = "packed")]
    pub connect: Histogram<u64>,
    /// From the upgrade request to its answer; over TCP from `connect` to `welcome`.
    #[serde(with = "packed")]
    pub upgrade: Histogram<u64>,
    /// From `join` to its `ok`.
    #[serde(with = "packed")]
    pub join: Histogram<u64>,
    /// From the drop of a connection until it was back and had everything that it had missed.
    #[serde(with = "packed")]
    pub resume: Histogram<u64>,
}

impl Handshakes {
    /// Nothing measured yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            connect: latency_histogram(),
            upgrade: latency_histogram(),
            join: latency_histogram(),
            resume: latency_histogram(),
        }
    }

    /// Adds what another measured.
    pub fn add(&mut self, other: &Self) {
        add(&mut self.connect, &other.connect);
        add(&mut self.upgrade, &other.upgrade);
        add(&mut self.join, &other.join);
        add(&mut self.resume, &other.resume);
    }
}

/// Records nanoseconds into a histogram of microseconds, rounding up so that no time becomes none.
pub fn record_ns(histogram: &mut Histogram<u64>, ns: u64) {
    histogram.saturating_record(ns.div_ceil(1_000));
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// TCP connections made.
    Connected,
    /// Connections that have joined their room.
    Joined,
    /// Connections that failed before they had joined.
    Refused,
    /// Connections that ended after they had joined, and were not meant to.
    Closed,
    /// Messages sent.
    Sent,
    /// Of these, those sent later after their planned time than the bound on lag.
    SentLate,
    /// Messages not sent because the generator had too much queued for their connection.
    Skipped,
    /// Messages not sent because their connection was gone.
    Unsent,
    /// Deliveries that the messages sent come to when every member of each room is there.
    Due,
    /// Messages of this run received, counted at every subscriber.
    Received,
    /// Members that left, or were dropped, on purpose.
    Left,
    /// Of these, those that came back.
    Rejoined,
    /// Attempts to come back that failed.
    Retried,
    /// Connections that were dropped on purpose without a farewell.
    Dropped,
    /// Of these, those that came back by their session.
    Resumed,
    /// Of those dropped, those that came back to a server that replays what they missed.
    Recovered,
    /// Of these, those that have had all that they missed.
    CaughtUp,
    /// Slow readers that the server has closed.
    SlowClosed,
    /// Pushes of who came and went.
    PresencePushes,
    /// Comings and goings in them.
    PresenceChanges,
    /// Received by a member of another room, or by whoever had left.
    Misrouted,
    /// Messages without a readable stamp, or with the stamp of another run.
    Foreign,
    /// Pings answered.
    Pings,
    /// `ok`s for messages.
    Acks,
    /// Of these, those that do not say that the message is on disk.
    NotDurable,
    /// `ok`s whose number did not follow the one before in its room.
    AckSeqFaults,
    /// Messages of publishers that have got their answer, `ok` or `error`.
    Answers,
    /// Of these, `error`s that asked to come again; the message was sent again.
    Deferred,
    /// `error`s after the join.
    Errors,
    /// Gaps that the server itself announced.
    GapsTold,
    /// Bytes received.
    BytesReceived,
    /// Bytes sent.
    BytesSent,
}

/// The counts of one worker, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts([u64; COUNTS]);

impl Counts {
    /// One more.
    pub fn bump(&mut self, what: Count) {
        self.0[what as usize] += 1;
    }

    /// So many more.
    pub fn add(&mut self, what: Count, n: u64) {
        self.0[what as usize] += n;
    }

    /// How many.
    #[must_use]
    pub fn get(&self, what: Count) -> u64 {
        self.0[what as usize]
    }
}

impl Counts {
    /// Connections that are in their room now.
    #[must_use]
    pub fn standing(&self) -> u64 {
        (self.get(Count::Joined) + self.get(Count::Rejoined))
            .saturating_sub(self.get(Count::Closed) + self.get(Count::SlowClosed) + self.get(Count::Left))
    }
}

impl Counts {
    /// These and those.
    #[must_use]
    pub fn plus(mut self, others: &Self) -> Self {
        self.0.iter_mut().zip(&others.0).for_each(|(mine, theirs)| *mine += theirs);
        self
    }
}

/// One worker's counts where the coordinator can read them at any time.
#[derive(Debug, Default)]
pub struct Board([AtomicU64; COUNTS]);

impl Board {
    /// Shows the worker's counts.
    pub fn publish(&self, counts: &Counts) {
        for (shown, &count) in self.0.iter().zip(&counts.0) {
            shown.store(count, Ordering::Relaxed);
        }
    }

    /// The sum of what several workers show.
    pub fn sum<'a>(boards: impl IntoIterator<Item = &'a Self>) -> Counts {
        let mut sum = Counts::default();
        for board in boards {
            for (total, shown) in sum.0.iter_mut().zip(&board.0) {
                *total += shown.load(Ordering::Relaxed);
            }
        }
        sum
    }
}

/// How many messages each of the scenario's senders has sent, where every worker can read it at any time.
#[derive(Debug)]
pub struct SentBoard(Box<[AtomicU32]>);

impl SentBoard {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(senders: u32) -> Self {
        Self((0..senders).map(|_| AtomicU32::new(0)).collect())
    }

    /// How many `sender` has sent.
    #[must_use]
    pub fn get(&self, sender: u32) -> u32 {
        self.0[sender as usize].load(Ordering::Relaxed)
    }

    /// `sender` has sent so many. To be called before the last of them can be on its way.
    pub fn set(&self, sender: u32, sent: u32) {
        self.0[sender as usize].store(sent, Ordering::Relaxed);
    }
}

/// The percentiles of a histogram, in its unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub max: u64,
}

impl Percentiles {
    /// `None` when nothing was measured.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            mean: (histogram.mean() * 10.0).round() / 10.0,
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            p99_99: histogram.value_at_quantile(0.9999),
            max: histogram.max(),
        })
    }
}

/// A histogram as it travels: packed, and with our own bounds when it has arrived.
mod packed {
    use hdrhistogram::Histogram;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::hlog::{pack, unpack};

    pub(super) fn serialize<S: Serializer>(histogram: &Histogram<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        pack(histogram).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Histogram<u64>, D::Error> {
        let theirs = unpack(&String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        let mut histogram = super::latency_histogram();
        histogram.add(theirs).map_err(D::Error::custom)?;
        Ok(histogram)
    }
}

fn add(mine: &mut Histogram<u64>, its: &Histogram<u64>) {
    if !its.is_empty() {
        mine.add(its).expect("all histograms have the same bounds");
    }
}

const LATENCY_US_MAX: u64 = 3_600_000_000;
const COUNTS: usize = Count::BytesSent as usize + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_add_up_to_the_run() {
        let (mut total, mut second) = (Interval::new(), Interval::new());
        for us in 1..=1_000 {
            second.deliver.record(us).unwrap();
        }
        second.lag.record(7).unwrap();
        total.add(&second);
        total.add(&second);
        let deliver = Percentiles::of(&total.deliver).unwrap();
        assert_eq!((deliver.count, deliver.p50, deliver.p99, deliver.max), (2_000, 500, 990, 1_000));
        assert_eq!(Percentiles::of(&total.lag).unwrap().count, 2);
        assert_eq!(Percentiles::of(&total.ack), None);
    }

    #[test]
    fn nanoseconds_are_rounded_up() {
        let mut histogram = latency_histogram();
        record_ns(&mut histogram, 1);
        record_ns(&mut histogram, 1_001);
        assert_eq!((histogram.min(), histogram.max()), (1, 2));
    }

    #[test]
    fn boards_add_up() {
        let boards = [Board::default(), Board::default()];
        let mut counts = Counts::default();
        counts.bump(Count::Sent);
        counts.add(Count::BytesSent, 9);
        boards.iter().for_each(|board| board.publish(&counts));
        let sum = Board::sum(&boards);
        assert_eq!((sum.get(Count::Sent), sum.get(Count::BytesSent), sum.get(Count::Joined)), (2, 18, 0));
    }
}
