//! How many connections stood, and when: the connect curve, sampled while the ramp goes on.

use serde::{Deserialize, Serialize};

use crate::clock::NS_PER_MS;
use crate::stats::{Count, Counts};

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Since the first connection was due, in seconds.
    pub at_s: f64,
    /// TCP connections made by then.
    pub connected: u64,
    /// Connections that had joined by then.
    pub joined: u64,
    /// Connections that had failed by then.
    pub refused: u64,
}

/// The samples so far. Bounded: when there are too many, every other one goes and the next come half as often.
#[derive(Debug)]
pub struct Curve {
    began_ns: u64,
    every_ns: u64,
    next_ns: u64,
    points: Vec<CurvePoint>,
}

impl Curve {
    /// Nothing yet; the first connection is due at `began_ns`.
    #[must_use]
    pub fn new(began_ns: u64) -> Self {
        Self { began_ns, every_ns: EVERY_NS, next_ns: began_ns, points: Vec::new() }
    }

    /// Takes a sample when it is time to.
    pub fn sample(&mut self, counts: &Counts, now_ns: u64) {
        if now_ns >= self.next_ns {
            self.next_ns = now_ns + self.every_ns;
            self.take(counts, now_ns);
        }
    }

    /// Takes a last sample, and gives all.
    #[must_use]
    pub fn finish(&mut self, counts: &Counts, now_ns: u64) -> Vec<CurvePoint> {
        self.take(counts, now_ns);
        std::mem::take(&mut self.points)
    }

    fn take(&mut self, counts: &Counts, now_ns: u64) {
        if self.points.len() >= POINTS_MAX {
            let mut at = 0;
            self.points.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.every_ns *= 2;
        }
        self.points.push(CurvePoint {
            at_s: now_ns.saturating_sub(self.began_ns) as f64 / 1e9,
            connected: counts.get(Count::Connected),
            joined: counts.get(Count::Joined),
            refused: counts.get(Count::Refused),
        });
    }
}

const EVERY_NS: u64 = 100 * NS_PER_MS;
const POINTS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_ramp_keeps_its_ends_and_a_bounded_number_of_points() {
        let mut curve = Curve::new(5_000);
        let mut counts = Counts::default();
        for n in 0..10_000 {
            counts.bump(Count::Joined);
            curve.sample(&counts, 5_000 + n * EVERY_NS);
        }
        let points = curve.finish(&counts, 5_000 + 10_000 * EVERY_NS);
        assert!(points.len() > POINTS_MAX / 2 && points.len() <= POINTS_MAX + 1, "{}", points.len());
        assert_eq!((points[0].at_s, points[0].joined), (0.0, 1));
        assert_eq!(points.last().map(|point| (point.at_s, point.joined)), Some((1_000.0, 10_000)));
        assert!(points.is_sorted_by(|a, b| a.at_s < b.at_s));
    }
}
