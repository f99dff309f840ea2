//! The load second by second: what the workers report, put together, with each second's histograms kept packed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hlog;
use crate::stats::{Interval, Percentiles};

/// One second of the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Counted from the start of the load, warm-up included.
    pub second: u32,
    /// When it began, in seconds since the first connect.
    pub at_s: f64,
    /// Messages sent.
    pub sent: u64,
    /// Messages received, counted at every subscriber.
    pub received: u64,
    /// Delivery latency in µs of what arrived in this second, within the measured window.
    pub deliver_us: Option<Percentiles>,
    /// The same, from the moment at which the message was handed over.
    pub service_us: Option<Percentiles>,
    /// The generator's lag in µs, of what was sent in this second within the measured window.
    pub lag_us: Option<Percentiles>,
    /// The histograms of this second by name, as [`hlog::pack`] writes them; those that hold nothing are left out.
    pub histograms: BTreeMap<String, String>,
}

/// The seconds so far. Histograms are kept unpacked only for the latest few, until every worker has reported them.
#[derive(Debug)]
pub struct Timeline {
    open: BTreeMap<u32, Interval>,
    closed: Vec<Second>,
}

impl Timeline {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { open: BTreeMap::new(), closed: Vec::new() }
    }

    /// Adds one worker's report. One that comes too late for its second is added to the oldest that is open.
    pub fn add(&mut self, second: u32, interval: &Interval) {
        let oldest = self.closed.last().map_or(0, |closed| closed.second + 1);
        self.open.entry(second.max(oldest)).or_insert_with(Interval::new).add(interval);
        while self.open.len() > OPEN_MAX {
            self.close_oldest();
        }
    }

    /// The latest second that is complete.
    #[must_use]
    pub fn latest(&self) -> Option<&Second> {
        self.closed.last()
    }

    /// All seconds, of a load that began `load_from_s` after the first connect.
    #[must_use]
    pub fn finish(mut self, load_from_s: f64) -> Vec<Second> {
        while !self.open.is_empty() {
            self.close_oldest();
        }
        for second in &mut self.closed {
            second.at_s = load_from_s + f64::from(second.second);
        }
        self.closed
    }

    fn close_oldest(&mut self) {
        let Some((second, interval)) = self.open.pop_first() else { return };
        let named = [
            ("deliver", &interval.deliver),
            ("service", &interval.service),
            ("lag", &interval.lag),
            ("ack", &interval.ack),
            ("durable_ack", &interval.durable_ack),
        ];
        let recorded = named.into_iter().filter(|(_, histogram)| !histogram.is_empty());
        self.closed.push(Second {
            second,
            at_s: 0.0,
            sent: interval.sent,
            received: interval.received,
            deliver_us: Percentiles::of(&interval.deliver),
            service_us: Percentiles::of(&interval.service),
            lag_us: Percentiles::of(&interval.lag),
            histograms: recorded.map(|(name, histogram)| (name.to_owned(), hlog::pack(histogram))).collect(),
        });
    }
}

const OPEN_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sent: u64, us: u64) -> Interval {
        let mut interval = Interval::new();
        interval.sent = sent;
        interval.deliver.record(us).unwrap();
        interval
    }

    #[test]
    fn workers_are_added_up_by_second() {
        let mut timeline = Timeline::new();
        for second in 0..10 {
            timeline.add(second, &report(1, 10));
            timeline.add(second, &report(2, 20));
        }
        assert_eq!(timeline.latest().map(|second| second.second), Some(6), "a second waits for its last worker");
        let seconds = timeline.finish(2.5);
        assert_eq!(seconds.len(), 10);
        for (at, second) in seconds.iter().enumerate() {
            let deliver = second.deliver_us.unwrap();
            assert_eq!((second.second, second.sent, deliver.count, deliver.max), (at as u32, 3, 2, 20));
            assert_eq!(second.at_s, at as f64 + 2.5);
            let unpacked = hlog::unpack(&second.histograms["deliver"]).unwrap();
            assert_eq!((unpacked.len(), unpacked.min(), unpacked.max()), (2, 10, 20));
            assert_eq!(second.histograms.len(), 1, "what holds nothing is left out");
        }
    }

    #[test]
    fn a_late_report_is_not_lost() {
        let mut timeline = Timeline::new();
        (0..6).for_each(|second| timeline.add(second, &report(1, 10)));
        timeline.add(0, &report(5, 10));
        let seconds = timeline.finish(0.0);
        assert_eq!(seconds.iter().map(|second| second.sent).sum::<u64>(), 11);
        assert_eq!(seconds.len(), 6);
    }
}
