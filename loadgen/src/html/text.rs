//! Text as HTML takes it, and numbers as people read them.

use crate::progress::{thousands, time};

/// Text that can stand anywhere in HTML or SVG, in content and in quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Not allowed in a document at all.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What a number counts, which decides how it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds.
    Time,
    /// Seconds on the time axis.
    Seconds,
    /// Bytes.
    Bytes,
    /// Things.
    Count,
    /// Things per second.
    Rate,
    /// Cores.
    Cores,
}

impl Unit {
    /// A number with its unit.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Time => time(value.round() as u64),
            Self::Seconds => format!("{} s", short(value)),
            Self::Bytes => bytes(value),
            Self::Count => count(value),
            Self::Rate => format!("{}/s", count(value)),
            Self::Cores => format!("{value:.2}"),
        }
    }

    /// A number that is round already, for the ticks of an axis: without the zeros that stand for precision.
    #[must_use]
    pub fn round(self, value: f64) -> String {
        match self {
            Self::Time if value >= 1e6 => format!("{} s", short(value / 1e6)),
            Self::Time if value >= 1e3 => format!("{} ms", short(value / 1e3)),
            other => other.show(value),
        }
    }
}

fn count(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 { thousands(value.round() as u64) } else { short(value) }
}

/// Bytes in the unit that reads best.
#[must_use]
pub fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled >= 1_024.0 && unit + 1 < units.len() {
        scaled /= 1_024.0;
        unit += 1;
    }
    format!("{} {}", short(scaled), units[unit])
}

/// Three significant digits, without zeros at the end.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_from_its_place() {
        assert_eq!(
            escape("<script>alert('a' & \"b\")</script>\u{0}\n"),
            "&lt;script&gt;alert(&#39;a&#39; &amp; &quot;b&quot;)&lt;/script&gt;\u{fffd}\n"
        );
    }

    #[test]
    fn numbers_carry_their_unit() {
        let table = [
            (Unit::Time, 1_500.0, "1.50 ms"),
            (Unit::Seconds, 2.5, "2.5 s"),
            (Unit::Bytes, 1_536.0, "1.5 KiB"),
            (Unit::Bytes, 0.0, "0 B"),
            (Unit::Count, 12_345.0, "12,345"),
            (Unit::Rate, 0.25, "0.25/s"),
            (Unit::Rate, 1_000.4, "1,000/s"),
            (Unit::Cores, 0.5, "0.50"),
        ];
        for (unit, value, expected) in table {
            assert_eq!(unit.show(value), expected);
        }
    }
}
