//! The highest rate that a server sustains: a search over short runs, each with fresh connections, and the name of what
//! gave out above it.
//!
//! The rate is raised by a factor until a step misses, then the gap between the highest rate that was kept and the lowest
//! that was not is halved until it is narrow. A step is kept when its run ends with 0: valid, nothing lost, no threshold
//! missed. One that misses is tried a second time, since a shared machine has bad moments.

use std::fmt::Write;

use serde::Serialize;

use crate::progress::{thousands, time};
use crate::report::Outcome;
use crate::run::{self, Options, RunError};
use crate::scenario::{Kind, Scenario, ScenarioError, Settings};

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// A step cannot be described.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A step could not be run.
    #[error("at {rate:.0} messages/s: {error}")]
    Run {
        /// The step's rate.
        rate: f64,
        /// Why.
        error: RunError,
    },
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Limit {
    pub schema: &'static str,
    pub scenario: Scenario,
    /// 0 when some rate was kept, 99 when none was.
    pub exit_code: u8,
    /// The step with the highest rate that was kept.
    pub highest: Option<Step>,
    /// What gave out at the lowest rate that was not kept; empty when every rate was kept.
    pub gave_out: Vec<Cause>,
    pub steps: Vec<Step>,
}

/// One run of the search.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Messages per second that were planned.
    pub rate: f64,
    pub kept: bool,
    pub sent_per_s: f64,
    pub received_per_s: f64,
    pub deliver_p50_us: Option<u64>,
    pub deliver_p99_us: Option<u64>,
    pub lag_p99_us: Option<u64>,
    /// In cores; needs `--server-pid`.
    pub server_cpu: Option<f64>,
    /// Of the server's busiest thread, in cores.
    pub server_busiest_thread_cpu: Option<f64>,
    pub gave_out: Vec<Cause>,
}

/// What was not enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    pub what: What,
    /// In words, with the numbers.
    pub detail: String,
}

/// Where it gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A thread of the server used more than 95 % of a core.
    ServerCore,
    /// The generator was late or saturated: a limit of this machine, not of the server.
    Generator,
    /// A threshold was missed.
    Threshold,
    /// Something was lost, came twice or out of order.
    Loss,
    /// The server refused or closed connections, or answered with errors.
    Refused,
}

/// The search itself: rates in, the next rate out. No run and no clock.
#[derive(Debug)]
pub struct Search {
    next: f64,
    kept: f64,
    missed: f64,
    growth: f64,
    precision: f64,
    rate_max: f64,
    steps_left: u32,
}

impl Search {
    /// Begins at `rate`, multiplies by `growth` up to `rate_max`, and ends when kept and missed are within `precision`
    /// of each other.
    #[must_use]
    pub fn new(rate: f64, growth: f64, precision: f64, rate_max: f64) -> Self {
        Self { next: rate, kept: 0.0, missed: f64::INFINITY, growth, precision, rate_max, steps_left: STEPS_MAX }
    }

    /// The rate to try next; `None` when the search is over.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        let is_narrow = self.missed.is_finite() && self.missed - self.kept <= self.precision * self.missed;
        let is_over = self.kept >= self.rate_max || self.steps_left == 0 || self.next < RATE_MIN;
        (!is_narrow && !is_over).then_some(self.next)
    }

    /// The rate was kept, or missed.
    pub fn tried(&mut self, was_kept: bool) {
        self.steps_left = self.steps_left.saturating_sub(1);
        if was_kept {
            self.kept = self.next;
        } else {
            self.missed = self.next;
        }
        self.next = match (self.kept > 0.0, self.missed.is_finite()) {
            (_, false) => (self.next * self.growth).min(self.rate_max),
            (true, true) => f64::midpoint(self.kept, self.missed),
            (false, true) => self.next / (self.growth * self.growth),
        };
    }
}

/// Searches for the limit of what `settings` describe.
pub fn find(name: &str, settings: &Settings, options: &Options) -> Result<Limit, LimitError> {
    let scenario = settings.clone().decide(name.to_owned())?;
    let mut search = Search::new(scenario.rate, scenario.growth, scenario.precision, scenario.rate_max);
    let mut steps: Vec<Step> = Vec::new();
    while let Some(rate) = search.rate() {
        let mut step = run_step(name, settings, scenario.base, rate, steps.len(), options)?;
        if !step.kept {
            steps.push(step);
            step = run_step(name, settings, scenario.base, rate, steps.len(), options)?;
        }
        search.tried(step.kept);
        steps.push(step);
    }
    Ok(Limit::of(scenario, steps))
}

fn run_step(
    name: &str,
    settings: &Settings,
    base: Kind,
    rate: f64,
    number: usize,
    options: &Options,
) -> Result<Step, LimitError> {
    // A name of its own gives each step rooms of its own.
    let scenario = settings.clone().at(base, rate).decide(format!("{name}-{number}"))?;
    let measured = run::run(scenario, options.clone()).map_err(|error| LimitError::Run { rate, error })?;
    let step = Step::of(rate, &Outcome::judge(measured));
    if !options.quiet {
        // A closed terminal is no reason to end the search.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{}\n", step.line()).as_bytes());
    }
    Ok(step)
}

impl Step {
    fn of(rate: f64, outcome: &Outcome) -> Self {
        let busiest = outcome.server.as_ref().and_then(|server| server.threads.first());
        let busiest_cpu = busiest
            .filter(|_| outcome.measured.seconds > 0.0)
            .map(|thread| thread.cpu_ns as f64 / 1e9 / outcome.measured.seconds);
        let mut step = Self {
            rate,
            kept: outcome.exit_code == 0,
            sent_per_s: outcome.measured.sent_per_s,
            received_per_s: outcome.measured.received_per_s,
            deliver_p50_us: outcome.latency_us.deliver.map(|deliver| deliver.p50),
            deliver_p99_us: outcome.latency_us.deliver.map(|deliver| deliver.p99),
            lag_p99_us: outcome.lag_us.map(|lag| lag.p99),
            server_cpu: outcome.server.as_ref().map(|server| server.cpu),
            server_busiest_thread_cpu: busiest_cpu,
            gave_out: Vec::new(),
        };
        if !step.kept {
            let name = busiest.map_or("", |thread| &thread.name);
            step.gave_out = causes(outcome, name, busiest_cpu);
        }
        step
    }

    fn line(&self) -> String {
        let us = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), time);
        let cores = self.server_busiest_thread_cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.2}"));
        let verdict = if self.kept { "kept".to_owned() } else { self.what() };
        format!(
            "{:>11}/s {:>11}/s {:>12}/s {:>9} {:>9} {:>9} {cores:>7}  {verdict}",
            thousands(self.rate as u64),
            thousands(self.sent_per_s as u64),
            thousands(self.received_per_s as u64),
            us(self.deliver_p50_us),
            us(self.deliver_p99_us),
            us(self.lag_p99_us),
        )
    }

    fn what(&self) -> String {
        self.gave_out.iter().map(|cause| cause.detail.as_str()).collect::<Vec<_>>().join("; ")
    }
}

fn causes(outcome: &Outcome, thread: &str, busiest_cpu: Option<f64>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut add = |what, detail: String| causes.push(Cause { what, detail });
    if let Some(cpu) = busiest_cpu.filter(|&cpu| cpu > CORE_FULL) {
        add(What::ServerCore, format!("a core of the server was full: thread {thread} used {cpu:.2} of it"));
    }
    outcome.invalid_reasons.iter().for_each(|reason| add(What::Generator, reason.clone()));
    let counts = &outcome.counts;
    let lost = counts.lost + counts.duplicate + counts.disordered + counts.room_seq_faults + counts.misrouted;
    if lost > 0 {
        add(
            What::Loss,
            format!("{} lost, {} twice, {} out of order", counts.lost, counts.duplicate, counts.disordered),
        );
    }
    let refused = counts.refused + counts.closed + counts.errors;
    if refused > 0 {
        let reasons = [&outcome.refusals, &outcome.closes, &outcome.errors];
        let why: Vec<&str> = reasons.iter().flat_map(|tally| tally.keys()).map(String::as_str).collect();
        add(What::Refused, format!("{refused} refused, closed or answered with an error: {}", why.join(", ")));
    }
    outcome.thresholds_missed.iter().for_each(|missed| add(What::Threshold, missed.clone()));
    causes
}

impl Limit {
    fn of(scenario: Scenario, steps: Vec<Step>) -> Self {
        let by_rate = |a: &&Step, b: &&Step| a.rate.total_cmp(&b.rate);
        let highest = steps.iter().filter(|step| step.kept).max_by(by_rate).cloned();
        let floor = highest.as_ref().map_or(0.0, |step| step.rate);
        let above = steps.iter().filter(|step| !step.kept && step.rate > floor).min_by(by_rate);
        let gave_out = above.map_or_else(Vec::new, |step| step.gave_out.clone());
        let exit_code = if highest.is_some() { 0 } else { EXIT_THRESHOLDS };
        Self { schema: SCHEMA, scenario, exit_code, highest, gave_out, steps }
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let names = ["planned", "sent", "delivered", "p50", "p99", "lag p99", "thread"];
        let [planned, sent, delivered, p50, p99, lag, thread] = names;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{planned:>13} {sent:>13} {delivered:>14} {p50:>9} {p99:>9} {lag:>9} {thread:>7}");
        self.steps.iter().for_each(|step| text.push_str(&(step.line() + "\n")));
        let found = match &self.highest {
            Some(step) => format!(
                "\nhighest sustained: {} messages/s, {} deliveries/s",
                thousands(step.sent_per_s as u64),
                thousands(step.received_per_s as u64)
            ),
            None => "\nno rate was kept".to_owned(),
        };
        let _ = writeln!(text, "{found}");
        self.gave_out.iter().for_each(|cause| text.push_str(&format!("gave out: {}\n", cause.detail)));
        text
    }
}

const SCHEMA: &str = "hubbub-loadgen-limit/1";
const EXIT_THRESHOLDS: u8 = 99;
/// Share of a core past which a thread has nothing left.
const CORE_FULL: f64 = 0.95;
/// Rates past which there is nothing to find.
const RATE_MIN: f64 = 0.5;
const STEPS_MAX: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that keeps everything up to `limit`.
    fn search(start: f64, limit: f64, rate_max: f64) -> (Vec<f64>, f64) {
        let mut search = Search::new(start, 1.5, 0.05, rate_max);
        let mut tried = Vec::new();
        while let Some(rate) = search.rate() {
            tried.push(rate);
            search.tried(rate <= limit);
        }
        (tried, search.kept)
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for (start, limit) in [(100.0, 5_432.0), (9_000.0, 40.0), (5.0, 5.0), (1_000.0, 1_499.0)] {
            let (tried, kept) = search(start, limit, 1e6);
            assert!(kept <= limit && kept >= limit * 0.95, "{start} → {limit}: {kept} by {tried:?}");
            assert!(tried.len() <= 25, "{tried:?}");
        }
    }

    #[test]
    fn the_rate_stops_at_its_bounds() {
        let (tried, kept) = search(100.0, f64::INFINITY, 1_000.0);
        assert_eq!((kept, tried.last()), (1_000.0, Some(&1_000.0)));
        let (tried, kept) = search(100.0, 0.0, 1_000.0);
        assert!(kept == 0.0 && tried.iter().all(|&rate| rate >= RATE_MIN), "{tried:?}");
    }

    #[test]
    fn a_limit_is_told_with_what_gave_out_just_above_it() {
        let cause = |detail: &str| vec![Cause { what: What::Threshold, detail: detail.to_owned() }];
        let step = |rate: f64, gave_out: Vec<Cause>| Step {
            rate,
            kept: gave_out.is_empty(),
            sent_per_s: rate,
            received_per_s: rate * 5.0,
            deliver_p50_us: Some(100),
            deliver_p99_us: Some(900),
            lag_p99_us: None,
            server_cpu: None,
            server_busiest_thread_cpu: None,
            gave_out,
        };
        let scenario = Settings::parse("kind = 'find-limit'\nrate = 1").unwrap().decide("x".to_owned()).unwrap();
        // The first of the two tries at 80 missed, the second was kept.
        let steps =
            vec![step(50.0, Vec::new()), step(100.0, cause("far")), step(80.0, cause("luck")), step(80.0, Vec::new())];
        let limit = Limit::of(scenario.clone(), steps);
        assert_eq!((limit.exit_code, limit.highest.as_ref().map(|step| step.rate)), (0, Some(80.0)));
        assert_eq!(limit.gave_out, cause("far"));
        assert!(limit.table().contains("highest sustained: 80 messages/s, 400 deliveries/s\ngave out: far"));
        assert_eq!(Limit::of(scenario, vec![step(1.0, cause("all"))]).exit_code, 99);
    }
}
