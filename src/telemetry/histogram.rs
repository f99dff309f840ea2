//! A histogram with fixed buckets, two per octave, that one thread writes and others read.
//!
//! Upper bounds are 1, 2, 3, 4, 6, 8, 12, 16, …: each power of two and the point half-way to the next, so that a
//! value is at most half again as large as its bucket's lower end. Values past the last bound count in one bucket more.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts values by size. One thread records.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS + 1],
    sum: AtomicU64,
}

/// What a [`Histogram`] held at one moment. Counts and sum are read one after the other, so they may differ by what
/// was recorded in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Values per bucket, not cumulative; the last is for values past [`Snapshot::bounds`].
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS + 1], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts the same value `n` times.
    pub fn record_n(&self, value: u64, n: u64) {
        super::metrics::add(&self.counts[bucket(value)], n);
        super::metrics::add(&self.sum, value.saturating_mul(n));
    }

    /// Reads all buckets.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl Snapshot {
    /// The inclusive upper bounds of all buckets but the last, ascending.
    pub fn bounds() -> impl Iterator<Item = u64> {
        (0..BUCKETS).map(bound)
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The bucket whose upper bound is the smallest that is not below `value`.
fn bucket(value: u64) -> usize {
    if value <= 1 {
        return 0;
    }
    // Bounds are inclusive, so the value just above a bound is the first of the next bucket.
    let below = value - 1;
    let octave = below.ilog2() as usize;
    let upper_half = octave > 0 && below >> (octave - 1) & 1 == 1;
    (2 * octave + usize::from(upper_half)).clamp(1, BUCKETS)
}

/// The inclusive upper bound of a bucket.
fn bound(bucket: usize) -> u64 {
    match bucket {
        0 => 1,
        1 => 2,
        _ => {
            let octave = bucket / 2;
            if bucket.is_multiple_of(2) { 3 << (octave - 1) } else { 2 << octave }
        }
    }
}

/// Buckets with a bound; the last bound is 2^24, which is 16.8 s in microseconds.
const BUCKETS: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_two_per_octave() {
        let bounds: Vec<u64> = Snapshot::bounds().collect();
        assert_eq!(&bounds[..10], [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]);
        assert_eq!(bounds.last(), Some(&(1 << 24)));
    }

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let bounds: Vec<u64> = Snapshot::bounds().collect();
        for value in (0..5_000).chain([1 << 20, (1 << 24) - 1, 1 << 24, (1 << 24) + 1, u64::MAX]) {
            let expected = bounds.iter().position(|bound| value <= *bound).unwrap_or(bounds.len());
            assert_eq!(bucket(value), expected, "{value}");
        }
    }

    #[test]
    fn values_are_counted_and_summed() {
        let histogram = Histogram::default();
        histogram.record(5);
        histogram.record_n(100, 3);
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count(), snapshot.sum), (4, 305));
        assert_eq!(snapshot.counts[bucket(6)], 1);
    }
}
