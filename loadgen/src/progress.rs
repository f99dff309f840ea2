//! The live view on standard error: one line that is rewritten on a terminal, one plain line a second elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::stats::{Count, Counts, Percentiles};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connections are being made.
    Ramp,
    /// Load that is not measured yet.
    WarmUp,
    /// The measured window.
    Measure,
    /// Nothing more is sent; what is under way may arrive.
    Drain,
}

/// What is shown of one second.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Where the run stands.
    pub phase: Phase,
    /// Connections in all.
    pub connections: u32,
    /// Until this phase is over, as far as can be told.
    pub left: Option<Duration>,
    /// Since the last view.
    pub since_last: Duration,
    /// Counts so far.
    pub counts: Counts,
    /// Counts at the last view.
    pub before: Counts,
    /// Delivery latency so far.
    pub deliver: Option<Percentiles>,
    /// The generator's lag so far.
    pub lag: Option<Percentiles>,
    /// Messages lost (so far: gaps), received twice or out of order.
    pub faults: u64,
}

/// The place where views are shown.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    rewrites: bool,
}

impl Progress {
    /// On standard error, or nowhere when `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self { quiet, rewrites: std::io::stderr().is_terminal() }
    }

    /// Shows one second.
    pub fn show(&self, view: &View) {
        let (before, after) = if self.rewrites { ("\r\x1b[2K", "") } else { ("", "\n") };
        self.write(&format!("{before}{}{after}", view.line()));
    }

    /// Clears the line that was being rewritten.
    pub fn end(&self) {
        if self.rewrites {
            self.write("\r\x1b[2K");
        }
    }

    fn write(&self, text: &str) {
        if !self.quiet {
            // A closed terminal is no reason to end the run.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}

impl View {
    fn line(&self) -> String {
        let errors = format!("errors {}", thousands(self.errors()));
        let left = self.left.map_or_else(String::new, |left| format!(" · {} s left", left.as_secs_f64().ceil()));
        match self.phase {
            Phase::Ramp => format!(
                "ramp     {} of {} joined · {}/s · {errors}{left}",
                thousands(self.counts.get(Count::Joined)),
                thousands(u64::from(self.connections)),
                self.rate(Count::Joined),
            ),
            Phase::WarmUp | Phase::Measure | Phase::Drain => format!(
                "{} {}/s sent · {}/s received · deliver {} · lag p99 {} · {} connections · {errors}{left}",
                self.phase.name(),
                self.rate(Count::Sent),
                self.rate(Count::Received),
                self.deliver.map_or_else(|| "-".to_owned(), |p| format!("p50 {} p99 {}", time(p.p50), time(p.p99))),
                self.lag.map_or_else(|| "-".to_owned(), |p| time(p.p99)),
                thousands(self.standing()),
            ),
        }
    }

    fn standing(&self) -> u64 {
        let count = |what| self.counts.get(what);
        (count(Count::Joined) + count(Count::Rejoined))
            .saturating_sub(count(Count::Closed) + count(Count::SlowClosed) + count(Count::Left))
    }

    fn errors(&self) -> u64 {
        let counted = [Count::Refused, Count::Closed, Count::Errors, Count::Skipped, Count::Misrouted];
        counted.iter().map(|&count| self.counts.get(count)).sum::<u64>() + self.faults
    }

    fn rate(&self, what: Count) -> String {
        let new = self.counts.get(what) - self.before.get(what);
        thousands((new as f64 / self.since_last.as_secs_f64().max(0.001)).round() as u64)
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Ramp => "ramp    ",
            Self::WarmUp => "warm-up ",
            Self::Measure => "measure ",
            Self::Drain => "drain   ",
        }
    }
}

/// A number with commas.
#[must_use]
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds in the unit that reads best.
#[must_use]
pub fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(phase: Phase) -> View {
        let mut counts = Counts::default();
        counts.add(Count::Joined, 1_500);
        counts.add(Count::Sent, 250);
        counts.add(Count::Received, 2_000_000);
        counts.add(Count::Refused, 2);
        View {
            phase,
            connections: 50_000,
            left: Some(Duration::from_millis(8_500)),
            since_last: Duration::from_secs(2),
            counts,
            before: Counts::default(),
            deliver: None,
            lag: None,
            faults: 1,
        }
    }

    #[test]
    fn a_line_tells_rates_errors_and_what_is_left() {
        assert_eq!(view(Phase::Ramp).line(), "ramp     1,500 of 50,000 joined · 750/s · errors 3 · 9 s left");
        assert_eq!(
            view(Phase::Measure).line(),
            "measure  125/s sent · 1,000,000/s received · deliver - · lag p99 - · 1,500 connections · errors 3 · 9 s left"
        );
    }

    #[test]
    fn numbers_are_shown_as_people_read_them() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1_500, 15_500, 2_500_000].map(time), ["0 µs", "999 µs", "1.50 ms", "15.5 ms", "2.50 s"]);
    }
}
