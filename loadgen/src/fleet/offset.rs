//! How far another machine's clock is from ours, by asking it the time (as NTP does, RFC 5905 section 8): the answer that
//! came back soonest bounds the error best.

use serde::{Deserialize, Serialize};

/// An estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset {
    /// Its clock minus ours, in nanoseconds; 0 when that is within the uncertainty, as it is on one machine.
    pub offset_ns: i64,
    /// The estimate is wrong by no more than this.
    pub uncertainty_ns: u64,
}

impl Offset {
    /// From when we asked, what it answered and when the answer came, in nanoseconds of each clock. `None` without a
    /// sample.
    #[must_use]
    pub fn of(samples: &[(u64, u64, u64)]) -> Option<Self> {
        let &(asked, answer, came) = samples.iter().min_by_key(|(asked, _, came)| came.saturating_sub(*asked))?;
        let half = came.saturating_sub(asked) / 2;
        let offset = i128::from(answer) - i128::from(asked) - i128::from(half);
        let uncertainty_ns = half + 1;
        let is_shared = offset.unsigned_abs() <= u128::from(uncertainty_ns);
        let offset_ns = if is_shared { 0 } else { i64::try_from(offset).ok()? };
        Some(Self { offset_ns, uncertainty_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_answer_counts() {
        let samples = [(1_000, 900_500, 9_000), (2_000, 902_100, 2_200), (3_000, 905_000, 4_000)];
        assert_eq!(Offset::of(&samples), Some(Offset { offset_ns: 900_000, uncertainty_ns: 101 }));
        assert_eq!(Offset::of(&[(900_000, 100, 900_010)]).unwrap().offset_ns, -899_905);
        assert_eq!(Offset::of(&[]), None);
    }

    #[test]
    fn the_true_offset_is_within_the_uncertainty_however_the_way_is_split() {
        for there in [0, 10, 50, 90, 100] {
            let (offset, asked) = (5_000_i64, 1_000_u64);
            let answer = (asked + there) as i64 + offset;
            let found = Offset::of(&[(asked, answer as u64, asked + 100)]).unwrap();
            assert!(found.offset_ns.abs_diff(offset) <= found.uncertainty_ns, "{there}: {found:?}");
        }
    }

    #[test]
    fn one_clock_is_not_shifted() {
        assert_eq!(Offset::of(&[(1_000, 1_030, 1_100)]), Some(Offset { offset_ns: 0, uncertainty_ns: 51 }));
    }
}
