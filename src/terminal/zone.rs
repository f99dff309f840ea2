//! Times of messages as a clock on the wall shows them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The time zone in which times are shown.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone of this machine and user (`TZ`, `/etc/localtime`), or UTC if that is not known.
    pub fn here() -> Self {
        Self(TimeZone::try_system().unwrap_or(TimeZone::UTC))
    }

    /// UTC.
    #[cfg(test)]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Hours and minutes of a Unix time in milliseconds.
    pub fn time(&self, at_ms: u64) -> String {
        self.format(at_ms, "%H:%M")
    }

    /// The day of a Unix time in milliseconds.
    pub fn day(&self, at_ms: u64) -> String {
        self.format(at_ms, "%A, %-d %B %Y")
    }

    /// Whether two times are of the same day.
    pub fn same_day(&self, at_ms: u64, other_ms: u64) -> bool {
        let date = |at_ms| timestamp(at_ms).map(|at| at.to_zoned(self.0.clone()).date());
        date(at_ms) == date(other_ms)
    }

    fn format(&self, at_ms: u64, format: &str) -> String {
        let text = timestamp(at_ms).map(|at| at.to_zoned(self.0.clone()).strftime(format).to_string());
        text.unwrap_or_else(|| "--:--".to_owned())
    }
}

fn timestamp(at_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_the_zone_and_odd_ones_break_nothing() {
        let zone = Zone::utc();
        assert_eq!(
            (zone.time(1_790_000_000_000), zone.day(0)),
            ("14:13".to_owned(), "Thursday, 1 January 1970".to_owned())
        );
        assert_eq!(zone.time(u64::MAX), "--:--");
        assert!(zone.same_day(0, 86_399_999) && !zone.same_day(0, 86_400_000));
        let berlin = Zone(TimeZone::fixed(jiff::tz::offset(2)));
        assert_eq!(berlin.time(1_790_000_000_000), "16:13");
    }
}
