//! Where a value lies along an axis, and which values are written beside it.

use crate::html::text::Unit;

/// An axis: its scale and what its numbers count.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What is shown along it.
    pub label: &'static str,
    /// What its numbers count.
    pub unit: Unit,
    scale: Scale,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    /// Both ends.
    Linear(f64, f64),
    /// Both ends as powers of ten.
    Log(i32, i32),
    /// A share of all values, stretched toward the end: every further nine is as wide as the one before. How many
    /// nines there are, at least one.
    Tail(f64),
}

impl Axis {
    /// From 0 or `min`, if that is lower, to a round number above `max`.
    #[must_use]
    pub fn linear(label: &'static str, unit: Unit, min: f64, max: f64) -> Self {
        let (min, max) = (min.min(0.0), if max > 0.0 { max } else { 1.0 });
        let step = step(max - min, unit);
        let scale = Scale::Linear((min / step).floor() * step, (max / step - 1e-9).ceil() * step);
        Self { label, unit, scale }
    }

    /// From `from` to `to` and no further: for time.
    #[must_use]
    pub fn span(label: &'static str, unit: Unit, from: f64, to: f64) -> Self {
        Self { label, unit, scale: Scale::Linear(from, to.max(from + 1e-3)) }
    }

    /// From the power of ten below `min` to the one above `max`.
    #[must_use]
    pub fn log(label: &'static str, unit: Unit, min: f64, max: f64) -> Self {
        let low = min.max(1.0).log10().floor() as i32;
        let high = (max.max(1.0).log10() - 1e-9).ceil() as i32;
        Self { label, unit, scale: Scale::Log(low, high.max(low + 1)) }
    }

    /// Shares of `count` values, up to the last.
    #[must_use]
    pub fn tail(label: &'static str, count: u64) -> Self {
        Self { label, unit: Unit::Count, scale: Scale::Tail((count.max(10) as f64).log10()) }
    }

    /// Where `value` lies, from 0 to 1; beyond that when it is not on the axis.
    #[must_use]
    pub fn position(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear(from, to) => (value - from) / (to - from),
            Scale::Log(low, high) => {
                let power = value.max(10_f64.powi(low)).log10();
                (power - f64::from(low)) / f64::from(high - low)
            }
            Scale::Tail(nines) => (-(1.0 - value).max(1e-12).log10() / nines).clamp(0.0, 1.0),
        }
    }

    /// The values that are written beside it, with their text.
    #[must_use]
    pub fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear(from, to) => {
                let step = step(to - from, self.unit);
                let first = (from / step - 1e-9).ceil() as i64;
                let last = (to / step + 1e-9).floor() as i64;
                (first..=last).map(|n| n as f64 * step).map(|value| (value, self.unit.round(value))).collect()
            }
            Scale::Log(low, high) => {
                let values = (low..=high).map(|power| 10_f64.powi(power));
                values.map(|value| (value, self.unit.round(value))).collect()
            }
            Scale::Tail(nines) => {
                let further = (1..=nines as usize).map(|nines| {
                    let text = match nines {
                        1 => "90 %".to_owned(),
                        2 => "99 %".to_owned(),
                        more => format!("99.{} %", "9".repeat(more - 2)),
                    };
                    (1.0 - 10_f64.powi(-(nines as i32)), text)
                });
                [(0.0, "0 %".to_owned()), (0.5, "50 %".to_owned())].into_iter().chain(further).collect()
            }
        }
    }
}

/// A round distance between ticks: 1, 2 or 5 times a power of ten, or of two for bytes. About five fit into `span`.
fn step(span: f64, unit: Unit) -> f64 {
    let rough = (span / TICKS).max(f64::MIN_POSITIVE);
    if unit == Unit::Bytes {
        return 2_f64.powf(rough.log2().ceil()).max(1.0);
    }
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let whole = matches!(unit, Unit::Count | Unit::Time | Unit::Seconds);
    step.unwrap_or(10.0 * power).max(if whole { 1.0 } else { 0.0 })
}

const TICKS: f64 = 6.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let axis = Axis::linear("", Unit::Rate, 3.0, 9_400.0);
        assert_eq!(texts(&axis), ["0/s", "2,000/s", "4,000/s", "6,000/s", "8,000/s", "10,000/s"]);
        assert_eq!((axis.position(0.0), axis.position(5_000.0)), (0.0, 0.5));
        let axis = Axis::linear("", Unit::Bytes, 0.0, 5.5 * 1_048_576.0);
        assert_eq!(texts(&axis)[..3], ["0 B", "1 MiB", "2 MiB"]);
        assert_eq!(texts(&Axis::linear("", Unit::Cores, 0.0, 0.0))[0], "0.00", "nothing measured is still an axis");
        assert_eq!(texts(&Axis::span("", Unit::Seconds, 0.0, 12.4)).last().unwrap(), "10 s");
    }

    #[test]
    fn a_log_axis_has_a_tick_for_each_power() {
        let axis = Axis::log("", Unit::Time, 70.0, 1_200_000.0);
        assert_eq!(texts(&axis), ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"]);
        assert!((axis.position(100.0) - 1.0 / 6.0).abs() < 1e-9);
        assert_eq!(axis.position(0.0), 0.0, "what is below the axis lies on its edge");
    }

    #[test]
    fn every_further_nine_is_as_wide_as_the_one_before() {
        let axis = Axis::tail("", 100_000);
        assert_eq!(texts(&axis), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
        for (nines, share) in [(1.0, 0.9), (2.0, 0.99), (3.0, 0.999)] {
            assert!((axis.position(share) - nines / 5.0).abs() < 1e-9);
        }
        assert_eq!((axis.position(0.0), axis.position(1.0)), (0.0, 1.0));
    }
}
