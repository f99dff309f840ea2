//! The load second by second: what the workers report, put together and boiled down to a few numbers each.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stats::{Interval, Percentiles};

/// One second of the load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Second {
    /// Counted from the start of the load, warm-up included.
    pub second: u32,
    /// Messages sent.
    pub sent: u64,
    /// Messages received, counted at every subscriber.
    pub received: u64,
    /// Delivery latency in µs of what arrived in this second, within the measured window.
    pub deliver_us: Option<Percentiles>,
}

/// The seconds so far. Histograms are kept only for the latest few, until every worker has reported them.
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

    /// All seconds.
    #[must_use]
    pub fn finish(mut self) -> Vec<Second> {
        while !self.open.is_empty() {
            self.close_oldest();
        }
        self.closed
    }

    fn close_oldest(&mut self) {
        if let Some((second, interval)) = self.open.pop_first() {
            let deliver_us = Percentiles::of(&interval.deliver);
            self.closed.push(Second { second, sent: interval.sent, received: interval.received, deliver_us });
        }
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
        let seconds = timeline.finish();
        assert_eq!(seconds.len(), 10);
        for (at, second) in seconds.iter().enumerate() {
            let deliver = second.deliver_us.unwrap();
            assert_eq!((second.second, second.sent, deliver.count, deliver.max), (at as u32, 3, 2, 20));
        }
    }

    #[test]
    fn a_late_report_is_not_lost() {
        let mut timeline = Timeline::new();
        (0..6).for_each(|second| timeline.add(second, &report(1, 10)));
        timeline.add(0, &report(5, 10));
        let seconds = timeline.finish();
        assert_eq!(seconds.iter().map(|second| second.sent).sum::<u64>(), 11);
        assert_eq!(seconds.len(), 6);
    }
}
