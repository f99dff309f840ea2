//! The live view on standard error: a few lines that are rewritten on a terminal, one plain line a second elsewhere.
//!
//! Nothing of the terminal is changed but what is written, so an end at any moment leaves it usable; on Ctrl-C the view
//! stays, and what follows begins on a line of its own.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::emulate_default_handler;

use crate::sampling::recorder::Latest;
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
    /// What the phases after this one take.
    pub then: Duration,
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
    /// The last second, as it was recorded.
    pub latest: Latest,
    /// Messages lost (so far: gaps), received twice or out of order.
    pub faults: u64,
}

/// The place where views are shown.
#[derive(Debug)]
pub struct Progress {
    quiet: bool,
    rewrites: bool,
    /// Lines that stand on the terminal and will be rewritten.
    drawn: usize,
    /// The signal that asked us to end; 0 for none.
    ended_by: Arc<AtomicUsize>,
}

impl Progress {
    /// On standard error, or nowhere when `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let rewrites = std::io::stderr().is_terminal() && !quiet;
        let ended_by = Arc::new(AtomicUsize::new(0));
        if rewrites {
            // Where a signal cannot be watched it ends the run as it always does, and leaves the view unfinished.
            let _ = watch_signals(&ended_by);
        }
        Self { quiet, rewrites, drawn: 0, ended_by }
    }

    /// Shows one second.
    pub fn show(&mut self, view: &View) {
        if !self.rewrites {
            return self.write(&format!("{}\n", view.line()));
        }
        let (columns, rows) = size();
        let lines: Vec<String> = view.lines().iter().take(rows).map(|line| cut(line, columns)).collect();
        let text = format!("{}{}", self.erase(), lines.join("\n"));
        self.drawn = lines.len();
        self.write(&text);
    }

    /// Ends the process when a signal has asked for it.
    pub fn obey_signals(&mut self) {
        let signal = self.ended_by.load(Ordering::Relaxed);
        if signal != 0 {
            self.write("\n");
            // Ends this process, as the signal would have done; should it fail, the run goes on to its end.
            let _ = emulate_default_handler(signal as i32);
        }
    }

    /// Clears the lines that were being rewritten.
    pub fn end(&mut self) {
        let erase = self.erase();
        self.write(&erase);
        self.drawn = 0;
    }

    /// Back to the first line of the view, with everything below it cleared.
    fn erase(&self) -> String {
        match self.drawn {
            0 => String::new(),
            1 => "\r\x1b[J".to_owned(),
            lines => format!("\r\x1b[{}A\x1b[J", lines - 1),
        }
    }

    fn write(&self, text: &str) {
        if !self.quiet {
            // A closed terminal is no reason to end the run.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}

/// The first signal is left for [`Progress::obey_signals`]; a second one ends the process at once.
fn watch_signals(ended_by: &Arc<AtomicUsize>) -> std::io::Result<()> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register_conditional_default(signal, again.clone())?;
        flag::register(signal, again.clone())?;
        flag::register_usize(signal, ended_by.clone(), signal as usize)?;
    }
    Ok(())
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    let known = rustix::termios::tcgetwinsize(std::io::stderr()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or(SIZE_DEFAULT, |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// As much of a line as fits, so that the terminal never wraps it. Every character here takes one column.
fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let kept = line.chars().take(columns.saturating_sub(1));
    kept.chain(['…']).collect()
}

impl View {
    /// Everything in one line.
    fn line(&self) -> String {
        let errors = format!("errors {}", thousands(self.errors()));
        let left = self.left.map_or_else(String::new, |left| format!(" · {} s left", left.as_secs_f64().ceil()));
        match self.phase {
            Phase::Ramp => format!(
                "ramp     {} of {} joined · {}/s · {errors}{}{left}",
                thousands(self.counts.get(Count::Joined)),
                thousands(u64::from(self.connections)),
                self.rate(Count::Joined),
                self.server(),
            ),
            Phase::WarmUp | Phase::Measure | Phase::Drain => format!(
                "{:8} {}/s sent · {}/s received · deliver {} · lag p99 {} · {} connections · {errors}{}{left}",
                self.phase.name(),
                self.rate(Count::Sent),
                self.rate(Count::Received),
                self.deliver_so_far(),
                self.lag.map_or_else(|| "-".to_owned(), |p| time(p.p99)),
                thousands(self.standing()),
                self.server(),
            ),
        }
    }

    /// The same in several, for a terminal.
    fn lines(&self) -> Vec<String> {
        let until_end = self.left.map(|left| (left + self.then).as_secs_f64().ceil());
        let left = until_end.map_or_else(String::new, |left| format!(" · {left} s left"));
        let now = self.latest.deliver_p99_us.map_or_else(String::new, |us| format!(" · last second p99 {}", time(us)));
        let lag = self.lag.map_or_else(String::new, |p| format!(" · lag p99 {}", time(p.p99)));
        let generator = self.latest.generator_cores;
        let used = generator.map_or_else(String::new, |cores| format!(" · generator {cores:.2} cores"));
        vec![
            format!("{:11} {}{left}", self.phase.name(), bar(self.counts.get(Count::Joined), self.connections)),
            format!(
                "connections {} of {} · {}/s · errors {} · faults {}",
                thousands(self.standing()),
                thousands(u64::from(self.connections)),
                self.rate(Count::Joined),
                thousands(self.errors() - self.faults),
                thousands(self.faults),
            ),
            format!("messages    {}/s out · {}/s in", self.rate(Count::Sent), self.rate(Count::Received)),
            format!("deliver     {}{now}{lag}", self.deliver_so_far()),
            format!("cpu         {}{used}", self.server().trim_start_matches(" · ")).trim_end().to_owned(),
        ]
    }

    fn deliver_so_far(&self) -> String {
        let shown = |p: Percentiles| format!("p50 {} p99 {} p99.9 {}", time(p.p50), time(p.p99), time(p.p99_9));
        self.deliver.map_or_else(|| "-".to_owned(), shown)
    }

    fn server(&self) -> String {
        let Latest { server_cores: Some(cores), server_rss_bytes: Some(rss), .. } = self.latest else {
            return String::new();
        };
        format!(" · server {cores:.2} cores {:.1} MiB", rss as f64 / f64::from(1 << 20))
    }

    fn standing(&self) -> u64 {
        self.counts.standing()
    }

    fn errors(&self) -> u64 {
        let counted = [Count::Refused, Count::Closed, Count::Errors, Count::Skipped, Count::Misrouted];
        counted.iter().map(|&count| self.counts.get(count)).sum::<u64>() + self.faults
    }

    fn rate(&self, what: Count) -> String {
        let new = self.counts.get(what).saturating_sub(self.before.get(what));
        thousands((new as f64 / self.since_last.as_secs_f64().max(0.001)).round() as u64)
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Ramp => "ramp",
            Self::WarmUp => "warm-up",
            Self::Measure => "measure",
            Self::Drain => "drain",
        }
    }
}

/// How many of the connections stand, as a bar.
fn bar(joined: u64, connections: u32) -> String {
    let full = (joined as usize * BAR_COLUMNS / connections.max(1) as usize).min(BAR_COLUMNS);
    format!("{}{}", "█".repeat(full), "░".repeat(BAR_COLUMNS - full))
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

const BAR_COLUMNS: usize = 20;
const SIZE_DEFAULT: (usize, usize) = (80, 24);

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
            then: Duration::from_secs(60),
            since_last: Duration::from_secs(2),
            counts,
            before: Counts::default(),
            deliver: None,
            lag: None,
            latest: Latest::default(),
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
    fn a_terminal_gets_a_block_that_fits_it() {
        let mut view = view(Phase::Measure);
        view.latest = Latest {
            server_cores: Some(0.5),
            server_rss_bytes: Some(3 << 20),
            generator_cores: Some(0.25),
            deliver_p99_us: Some(1_500),
        };
        assert_eq!(
            view.lines(),
            [
                "measure     ░░░░░░░░░░░░░░░░░░░░ · 69 s left",
                "connections 1,500 of 50,000 · 750/s · errors 2 · faults 1",
                "messages    125/s out · 1,000,000/s in",
                "deliver     - · last second p99 1.50 ms",
                "cpu         server 0.50 cores 3.0 MiB · generator 0.25 cores",
            ]
        );
        assert_eq!(cut("connections", 6), "conne…");
        assert_eq!(cut("…", 1), "…");
        assert!(view.line().contains(" · server 0.50 cores 3.0 MiB · "));
    }

    #[test]
    fn a_view_is_drawn_over_the_last() {
        let mut progress = Progress::new(true);
        assert_eq!(progress.erase(), "");
        progress.drawn = 5;
        assert_eq!(progress.erase(), "\r\x1b[4A\x1b[J");
        progress.end();
        assert_eq!(progress.drawn, 0);
    }

    #[test]
    fn numbers_are_shown_as_people_read_them() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1_500, 15_500, 2_500_000].map(time), ["0 µs", "999 µs", "1.50 ms", "15.5 ms", "2.50 s"]);
    }
}
