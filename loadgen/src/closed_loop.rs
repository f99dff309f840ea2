//! A closed loop: each sender waits until its own message has come back, and only then does its pace go on.
//!
//! It is there only to show what such a loop hides (coordinated omission): while a server stalls, nothing is sent, so
//! that one message is late where an open loop would have sent a thousand. No figure worth having comes of it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ahash::HashMap;

use crate::plan::Planned;

/// The senders of one worker. Times are nanoseconds after the start of the load.
#[derive(Debug)]
pub struct ClosedLoop {
    gap_ns: u64,
    end_ns: u64,
    due: BinaryHeap<Reverse<(u64, u32)>>,
    /// Senders whose message is under way, and when it was to be sent.
    waiting: HashMap<u32, u64>,
}

impl ClosedLoop {
    /// Some of `senders` senders, who together send `rate` messages per second when nothing holds them up, until
    /// `end_ns`, exclusive.
    #[must_use]
    pub fn new(mine: impl Iterator<Item = u32>, senders: u32, rate: f64, end_ns: u64) -> Self {
        let apart_ns = 1e9 / rate;
        let is_idle = rate <= 0.0;
        Self {
            gap_ns: (apart_ns * f64::from(senders)) as u64,
            end_ns: if is_idle { 0 } else { end_ns },
            due: mine.filter(|_| !is_idle).map(|n| Reverse(((f64::from(n) * apart_ns) as u64, n))).collect(),
            waiting: HashMap::default(),
        }
    }

    /// The next message that is due. Its sender then waits for it.
    pub fn due(&mut self, now_ns: u64) -> Option<Planned> {
        let Reverse((at_ns, sender)) = *self.due.peek()?;
        if at_ns > now_ns || at_ns >= self.end_ns {
            return None;
        }
        self.due.pop();
        self.waiting.insert(sender, at_ns);
        Some(Planned { at_ns, sender })
    }

    /// A message of `sender` has come back to it.
    pub fn returned(&mut self, sender: u32, now_ns: u64) {
        if let Some(at_ns) = self.waiting.remove(&sender) {
            self.due.push(Reverse(((at_ns + self.gap_ns).max(now_ns), sender)));
        }
    }

    /// When the next message is due.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at_ns, _))| (*at_ns).min(self.end_ns))
    }

    /// Whether nothing more will be sent.
    #[must_use]
    pub fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.end_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn senders_take_turns_while_everything_comes_back() {
        let mut pace = ClosedLoop::new([0, 1].into_iter(), 2, 100.0, 1_000 * MS);
        let mut sent = 0;
        for now in (0..1_100).map(|ms| ms * MS) {
            while let Some(planned) = pace.due(now) {
                assert_eq!(planned.at_ns, now);
                sent += 1;
                pace.returned(planned.sender, now);
            }
        }
        assert_eq!(sent, 100);
        assert!(pace.is_over(1_000 * MS) && !pace.is_over(999 * MS));
    }

    #[test]
    fn whoever_waits_sends_nothing() {
        let mut pace = ClosedLoop::new([0].into_iter(), 1, 100.0, 5_000 * MS);
        assert!(pace.due(0).is_some());
        assert_eq!((pace.due(900 * MS), pace.deadline()), (None, None));
        pace.returned(0, 1_000 * MS);
        assert_eq!(pace.due(1_000 * MS), Some(Planned { at_ns: 1_000 * MS, sender: 0 }));
        pace.returned(0, 1_001 * MS);
        assert_eq!(pace.deadline(), Some(1_010 * MS), "the pace goes on from there");
        pace.returned(0, 1_002 * MS);
        assert_eq!(pace.deadline(), Some(1_010 * MS), "what comes twice counts once");
    }

    #[test]
    fn nothing_is_sent_without_a_rate() {
        let mut pace = ClosedLoop::new([0].into_iter(), 1, 0.0, 5);
        assert_eq!((pace.due(3), pace.deadline(), pace.is_over(0)), (None, None, true));
    }
}
