//! The result of a run: whether it is valid, what it found, how it ends. As JSON for programs, as a table for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cpu::{Environment, Sample, ThreadTime};
use crate::curve::CurvePoint;
use crate::ledger::{Closing, Tally};
use crate::progress::{thousands, time};
use crate::scenario::Scenario;
use crate::stats::{Count, Counts, Handshakes, Interval, Percentiles};
use crate::thresholds::{Missed, check_at_most};
use crate::timeline::Second;

/// Everything that was measured, before it is judged.
#[derive(Debug)]
pub struct Measured {
    pub scenario: Scenario,
    pub workers: u32,
    pub sources: Vec<IpAddr>,
    pub counts: Counts,
    pub handshakes: Handshakes,
    pub total: Interval,
    pub seconds: Vec<Second>,
    pub connect_curve: Vec<CurvePoint>,
    /// When connections were to be dropped, if any were, in monotonic nanoseconds.
    pub dropped_ns: u64,
    pub closings: Vec<Closing>,
    pub server_pid: Option<u32>,
    pub server: ServerSamples,
    /// This process at both ends of the measured window.
    pub own: (Sample, Sample),
    pub window: (Counts, Counts),
    pub window_ns: (u64, u64),
    pub elapsed_ns: u64,
    pub environment: Environment,
}

/// Looks at the server's process.
#[derive(Debug, Default)]
pub struct ServerSamples {
    /// Before the first connection.
    pub before: Option<Sample>,
    /// When the measured window began.
    pub from: Option<Sample>,
    /// When it ended.
    pub until: Option<Sample>,
}

/// A judged result. `schema` names the layout; a field is added without a new number, changed only with one.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub schema: &'static str,
    pub valid: bool,
    pub invalid_reasons: Vec<String>,
    pub faults: Vec<String>,
    pub thresholds_missed: Vec<Missed>,
    pub exit_code: u8,
    pub latency_us: Latencies,
    pub lag_us: Option<Percentiles>,
    pub counts: Tallied,
    pub measured: Window,
    pub refusals: Tally,
    pub closes: Tally,
    pub errors: Tally,
    pub generator: Generator,
    pub server: Option<Server>,
    pub environment: Environment,
    pub scenario: Scenario,
    pub elapsed_s: f64,
    pub seconds: Vec<Second>,
    pub connect_curve: Vec<CurvePoint>,
    pub turnover: Option<Turnover>,
}

/// Members that left and came back; absent where none did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Turnover {
    pub left: u64,
    pub rejoined: u64,
    /// Attempts to come back that failed.
    pub retried: u64,
    /// Of those that left, how many were dropped without a farewell, and what became of them.
    pub dropped: u64,
    pub recovered: u64,
    pub caught_up: u64,
    /// From the drop until the last one had caught up; absent unless all have.
    pub all_caught_up_s: Option<f64>,
}

/// One set of percentiles for each thing that was timed.
#[derive(Debug, Serialize)]
pub struct Latencies {
    pub connect: Option<Percentiles>,
    pub upgrade: Option<Percentiles>,
    pub join: Option<Percentiles>,
    pub deliver: Option<Percentiles>,
    pub service: Option<Percentiles>,
    pub ack: Option<Percentiles>,
    pub durable_ack: Option<Percentiles>,
    pub resume: Option<Percentiles>,
}

/// Counts of the whole run, warm-up and drain included.
#[derive(Debug, Default, Serialize)]
pub struct Tallied {
    pub connections: u64,
    pub connected: u64,
    pub joined: u64,
    pub refused: u64,
    pub closed: u64,
    pub sent: u64,
    pub sent_late: u64,
    pub skipped: u64,
    pub unsent: u64,
    pub expected: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicate: u64,
    pub disordered: u64,
    /// Numbers of a room that did not follow by one.
    pub room_seq_faults: u64,
    /// Rooms whose complete members saw different orders.
    pub rooms_disagreeing: u64,
    pub misrouted: u64,
    pub slow_closed: u64,
    pub presence_pushes: u64,
    pub presence_changes: u64,
    pub foreign: u64,
    pub errors: u64,
    pub gaps_told: u64,
    pub acks: u64,
    pub pings: u64,
    pub pings_per_connection_min: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// The measured window.
#[derive(Debug, Serialize)]
pub struct Window {
    pub seconds: f64,
    pub sent: u64,
    pub received: u64,
    pub sent_per_s: f64,
    pub received_per_s: f64,
}

/// What the generator itself used within the window.
#[derive(Debug, Serialize)]
pub struct Generator {
    pub workers: u32,
    pub sources: Vec<IpAddr>,
    /// In cores.
    pub cpu: f64,
    /// Of the busiest worker, in cores.
    pub busiest_worker_cpu: f64,
    /// Share of the window that some worker was ready and another thread had its core.
    pub longest_worker_wait: f64,
    pub threads: Vec<ThreadTime>,
}

/// What the server used within the window.
#[derive(Debug, Serialize)]
pub struct Server {
    pub pid: u32,
    /// In cores.
    pub cpu: f64,
    pub cpu_us_per_delivery: Option<f64>,
    pub rss_bytes_before: u64,
    pub rss_bytes: u64,
    pub rss_anon_bytes: u64,
    /// Growth since before the first connection.
    pub rss_bytes_per_connection: f64,
    /// Growth over the measured window; negative where it shrank.
    pub rss_growth_bytes: f64,
    pub threads: Vec<ThreadTime>,
}

impl Outcome {
    /// Judges what was measured.
    #[must_use]
    pub fn judge(measured: Measured) -> Self {
        let counts = tallied(&measured);
        let window = window(&measured);
        let mut outcome = Self {
            schema: SCHEMA,
            valid: true,
            invalid_reasons: Vec::new(),
            faults: Vec::new(),
            thresholds_missed: Vec::new(),
            exit_code: 0,
            latency_us: Latencies {
                connect: Percentiles::of(&measured.handshakes.connect),
                upgrade: Percentiles::of(&measured.handshakes.upgrade),
                join: Percentiles::of(&measured.handshakes.join),
                deliver: Percentiles::of(&measured.total.deliver),
                service: Percentiles::of(&measured.total.service),
                ack: Percentiles::of(&measured.total.ack),
                durable_ack: Percentiles::of(&measured.total.durable_ack),
                resume: Percentiles::of(&measured.handshakes.resume),
            },
            lag_us: Percentiles::of(&measured.total.lag),
            generator: generator(&measured, &window),
            server: server(&measured, &window, &counts),
            refusals: merged(&measured.closings, |closing| &closing.refusals),
            closes: merged(&measured.closings, |closing| &closing.closes),
            errors: merged(&measured.closings, |closing| &closing.errors),
            turnover: turnover(&measured),
            counts,
            measured: window,
            environment: measured.environment,
            scenario: measured.scenario,
            elapsed_s: seconds(measured.elapsed_ns),
            seconds: measured.seconds,
            connect_curve: measured.connect_curve,
        };
        let local_faults = merged(&measured.closings, |closing| &closing.local_faults);
        outcome.judge_validity(&local_faults, &measured.total.lag);
        outcome.judge_faults();
        outcome.judge_thresholds();
        outcome.valid = outcome.invalid_reasons.is_empty();
        outcome.exit_code = outcome.decide_exit();
        outcome
    }

    /// 0; 1 for what the server did wrong; 98 for a run that does not count; 99 for a bound that was missed.
    fn decide_exit(&self) -> u8 {
        match (self.faults.is_empty(), self.valid, self.thresholds_missed.is_empty()) {
            (false, _, _) => EXIT_FAULTS,
            (_, false, _) => EXIT_INVALID,
            (_, _, false) => EXIT_THRESHOLDS,
            _ => 0,
        }
    }

    fn judge_validity(&mut self, local_faults: &Tally, lag: &Histogram<u64>) {
        let bounds = self.scenario.validity;
        let reasons = &mut self.invalid_reasons;
        for (why, count) in local_faults {
            reasons.push(format!("this machine could not make {} connection(s): {why}", thousands(*count)));
        }
        if let Some(p99) = Percentiles::of(lag).map(|lag| lag.p99).filter(|&p99| p99 > bounds.lag_p99_us) {
            let bound = time(bounds.lag_p99_us);
            let waited = self.generator.longest_worker_wait * 100.0;
            let p99 = time(p99);
            reasons.push(format!(
                "the generator was late: its lag has p99 {p99}, more than {bound} (a worker waited {waited:.1} % of the \
                 time for a core that others used)"
            ));
        }
        if self.generator.busiest_worker_cpu > bounds.worker_cpu {
            let used = self.generator.busiest_worker_cpu * 100.0;
            let bound = bounds.worker_cpu * 100.0;
            reasons.push(format!(
                "the generator was saturated: a worker used {used:.0} % of its core, more than {bound:.0} %"
            ));
        }
        if self.counts.skipped > 0 {
            reasons.push(format!(
                "the generator skipped {} messages: too much was queued",
                thousands(self.counts.skipped)
            ));
        }
    }

    fn judge_faults(&mut self) {
        let (counts, allowed) = (&self.counts, &self.scenario.thresholds);
        let rows = [
            ("refused", counts.refused, allowed.refused),
            ("closed by the server", counts.closed, allowed.closed),
            ("lost", counts.lost, allowed.loss),
            ("received twice", counts.duplicate, allowed.duplicates),
            ("out of order", counts.disordered, allowed.disorder),
            ("numbers of a room that did not follow by one", counts.room_seq_faults, allowed.disorder),
            ("rooms whose members saw different orders", counts.rooms_disagreeing, allowed.disorder),
            ("in the wrong room", counts.misrouted, 0),
            (
                "dropped and never caught up",
                self.turnover.map_or(0, |turnover| turnover.dropped - turnover.caught_up),
                0,
            ),
            ("errors from the server", counts.errors, 0),
        ];
        for (name, count, allowed) in rows {
            if count > allowed {
                self.faults.push(format!("{} {name}", thousands(count)));
            }
        }
    }

    fn judge_thresholds(&mut self) {
        let (caps, missed) = (&self.scenario.thresholds, &mut self.thresholds_missed);
        caps.connect.check("connect", self.latency_us.connect.as_ref(), missed);
        caps.upgrade.check("upgrade", self.latency_us.upgrade.as_ref(), missed);
        caps.join.check("join", self.latency_us.join.as_ref(), missed);
        caps.deliver.check("deliver", self.latency_us.deliver.as_ref(), missed);
        caps.service.check("service", self.latency_us.service.as_ref(), missed);
        caps.ack.check("ack", self.latency_us.ack.as_ref(), missed);
        caps.durable_ack.check("durable_ack", self.latency_us.durable_ack.as_ref(), missed);
        caps.resume.check("resume", self.latency_us.resume.as_ref(), missed);
        if let Some(min) = caps.deliveries_per_s_min.filter(|&min| self.measured.received_per_s < min) {
            missed.push(format!("deliveries_per_s was {:.1}, less than {min}", self.measured.received_per_s));
        }
        let pings = self.counts.pings_per_connection_min;
        if let Some(min) = caps.pings_per_connection_min.filter(|&min| pings < u64::from(min)) {
            missed.push(format!("pings_per_connection was {pings} for some, less than {min}"));
        }
        let catch_up = self.turnover.and_then(|turnover| turnover.all_caught_up_s);
        check_at_most("all_caught_up_s", catch_up, caps.all_caught_up_s, missed);
        let server = self.server.as_ref();
        let growth = server.map(|server| server.rss_growth_bytes);
        check_at_most("server_rss_growth_bytes", growth, caps.server_rss_growth_bytes, missed);
        let per_delivery = server.and_then(|server| server.cpu_us_per_delivery);
        check_at_most("server_cpu_us_per_delivery", per_delivery, caps.server_cpu_us_per_delivery, missed);
        check_at_most("server_cores", server.map(|server| server.cpu), caps.server_cores, missed);
        let rss = server.map(|server| server.rss_bytes_per_connection);
        check_at_most("server_rss_bytes_per_connection", rss, caps.server_rss_bytes_per_connection, missed);
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_table(&mut text);
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let (scenario, counts) = (&self.scenario, &self.counts);
        writeln!(out, "{} → {}", scenario.name, scenario.target)?;
        writeln!(
            out,
            "{} connections in {} rooms of {}, {} messages/s for {}\n",
            thousands(u64::from(scenario.connections)),
            thousands(u64::from(scenario.rooms())),
            thousands(u64::from(scenario.room_size)),
            scenario.rate,
            scenario.duration
        )?;
        writeln!(
            out,
            "{:8} {:>12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        let latencies = &self.latency_us;
        let rows = [
            ("connect", latencies.connect),
            ("upgrade", latencies.upgrade),
            ("join", latencies.join),
            ("resume", latencies.resume),
            ("ack", latencies.ack),
            ("durable", latencies.durable_ack),
            ("deliver", latencies.deliver),
            ("service", latencies.service),
            ("lag", self.lag_us),
        ];
        for (name, row) in rows {
            let Some(p) = row else { continue };
            let cells = [p.p50, p.p90, p.p99, p.p99_9, p.p99_99, p.max].map(|us| format!("{:>9}", time(us))).join(" ");
            writeln!(out, "{name:8} {:>12} {cells}", thousands(p.count))?;
        }
        writeln!(
            out,
            "\nsent {}   received {} of {}   lost {}   twice {}   disordered {}   refused {}   closed {}   pings {}",
            thousands(counts.sent),
            thousands(counts.received),
            thousands(counts.expected),
            thousands(counts.lost),
            thousands(counts.duplicate),
            thousands(counts.disordered),
            thousands(counts.refused),
            thousands(counts.closed),
            thousands(counts.pings)
        )?;
        writeln!(
            out,
            "window {:.1} s: {}/s sent, {}/s received; generator {:.2} cores (busiest worker {:.2}, waited {:.2})",
            self.measured.seconds,
            thousands(self.measured.sent_per_s.round() as u64),
            thousands(self.measured.received_per_s.round() as u64),
            self.generator.cpu,
            self.generator.busiest_worker_cpu,
            self.generator.longest_worker_wait
        )?;
        self.write_turnover(out)?;
        if let Some(server) = &self.server {
            let per_delivery = server.cpu_us_per_delivery.map_or_else(|| "-".to_owned(), |us| format!("{us:.3} µs"));
            writeln!(
                out,
                "server {:.3} cores, {per_delivery} per delivery, resident {:.1} MiB ({:.0} bytes more per connection)",
                server.cpu,
                server.rss_bytes as f64 / f64::from(1 << 20),
                server.rss_bytes_per_connection
            )?;
        }
        self.write_verdict(out)
    }

    fn write_turnover(&self, out: &mut String) -> std::fmt::Result {
        if let Some(turnover) = &self.turnover {
            let all = turnover.all_caught_up_s.map_or_else(String::new, |s| format!(", all within {s:.2} s"));
            writeln!(
                out,
                "left {}   back {}   failed attempts {}   dropped {}   caught up {}{all}",
                thousands(turnover.left),
                thousands(turnover.rejoined),
                thousands(turnover.retried),
                thousands(turnover.dropped),
                thousands(turnover.caught_up)
            )?;
        }
        let counts = &self.counts;
        if counts.slow_closed + counts.presence_pushes > 0 {
            let (slow, pushes) = (thousands(counts.slow_closed), thousands(counts.presence_pushes));
            writeln!(out, "slow readers closed {slow}   presence pushes {pushes}")?;
        }
        Ok(())
    }

    fn write_verdict(&self, out: &mut String) -> std::fmt::Result {
        let details = [("refused", &self.refusals), ("closed", &self.closes), ("error", &self.errors)];
        for (what, reasons) in details {
            for (why, count) in reasons {
                writeln!(out, "  {what}: {} × {why}", thousands(*count))?;
            }
        }
        writeln!(out)?;
        for reason in &self.invalid_reasons {
            writeln!(out, "INVALID: {reason}")?;
        }
        for missed in &self.thresholds_missed {
            writeln!(out, "MISSED: {missed}")?;
        }
        for fault in &self.faults {
            writeln!(out, "FAULT: {fault}")?;
        }
        if self.exit_code == 0 {
            writeln!(out, "OK: nothing lost, nothing twice, nothing out of order")?;
        }
        Ok(())
    }
}

fn tallied(measured: &Measured) -> Tallied {
    let count = |what| measured.counts.get(what);
    let closings = &measured.closings;
    let fault = |of: fn(&Closing) -> u64| closings.iter().map(of).sum::<u64>();
    Tallied {
        connections: u64::from(measured.scenario.connections),
        connected: count(Count::Connected),
        joined: count(Count::Joined),
        refused: count(Count::Refused),
        closed: count(Count::Closed),
        sent: count(Count::Sent),
        sent_late: count(Count::SentLate),
        skipped: count(Count::Skipped),
        unsent: count(Count::Unsent),
        expected: fault(|closing| closing.expected),
        received: count(Count::Received),
        lost: fault(|closing| closing.faults.lost),
        duplicate: fault(|closing| closing.faults.duplicate),
        disordered: fault(|closing| closing.faults.disordered),
        room_seq_faults: fault(|closing| closing.faults.room_seq),
        rooms_disagreeing: rooms_disagreeing(closings),
        misrouted: count(Count::Misrouted),
        slow_closed: count(Count::SlowClosed),
        presence_pushes: count(Count::PresencePushes),
        presence_changes: count(Count::PresenceChanges),
        foreign: count(Count::Foreign),
        errors: count(Count::Errors),
        gaps_told: count(Count::GapsTold),
        acks: count(Count::Acks),
        pings: count(Count::Pings),
        pings_per_connection_min: closings.iter().map(|closing| u64::from(closing.pings_min)).min().unwrap_or(0),
        bytes_sent: count(Count::BytesSent),
        bytes_received: count(Count::BytesReceived),
    }
}

fn turnover(measured: &Measured) -> Option<Turnover> {
    let count = |what| measured.counts.get(what);
    let (dropped, caught_up) = (count(Count::Dropped), count(Count::CaughtUp));
    let last_ns = measured.closings.iter().map(|closing| closing.last_caught_up_ns).max().unwrap_or(0);
    let all = || seconds(last_ns.saturating_sub(measured.dropped_ns));
    (count(Count::Left) > 0).then(|| Turnover {
        left: count(Count::Left),
        rejoined: count(Count::Rejoined),
        retried: count(Count::Retried),
        dropped,
        recovered: count(Count::Recovered),
        caught_up,
        all_caught_up_s: (dropped > 0 && caught_up == dropped).then(all),
    })
}

fn rooms_disagreeing(closings: &[Closing]) -> u64 {
    let mut orders: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for (room, seen) in closings.iter().flat_map(|closing| &closing.orders) {
        orders.entry(*room).or_default().extend(seen);
    }
    orders.values().filter(|seen| seen.len() > 1).count() as u64
}

fn window(measured: &Measured) -> Window {
    let took = seconds(measured.window_ns.1 - measured.window_ns.0);
    let new = |what| measured.window.1.get(what) - measured.window.0.get(what);
    let (sent, received) = (new(Count::Sent), new(Count::Received));
    let per_s = |n: u64| if took > 0.0 { n as f64 / took } else { 0.0 };
    Window { seconds: took, sent, received, sent_per_s: per_s(sent), received_per_s: per_s(received) }
}

fn generator(measured: &Measured, window: &Window) -> Generator {
    let threads = measured.own.1.since(&measured.own.0);
    let share = |ns: u64| if window.seconds > 0.0 { seconds(ns) / window.seconds } else { 0.0 };
    let workers = || threads.iter().filter(|thread| thread.name.starts_with("load-"));
    Generator {
        workers: measured.workers,
        sources: measured.sources.clone(),
        cpu: share(threads.iter().map(|thread| thread.cpu_ns).sum()),
        busiest_worker_cpu: workers().map(|thread| share(thread.cpu_ns)).fold(0.0, f64::max),
        longest_worker_wait: workers().map(|thread| share(thread.waited_ns)).fold(0.0, f64::max),
        threads,
    }
}

fn server(measured: &Measured, window: &Window, counts: &Tallied) -> Option<Server> {
    let (before, from, until) =
        (measured.server.before.as_ref()?, measured.server.from.as_ref()?, measured.server.until.as_ref()?);
    let threads = until.since(from);
    let cpu_ns: u64 = threads.iter().map(|thread| thread.cpu_ns).sum();
    let growth = until.rss_bytes.saturating_sub(before.rss_bytes) as f64;
    Some(Server {
        pid: measured.server_pid?,
        cpu: if window.seconds > 0.0 { seconds(cpu_ns) / window.seconds } else { 0.0 },
        cpu_us_per_delivery: (window.received > 0).then(|| cpu_ns as f64 / 1e3 / window.received as f64),
        rss_bytes_before: before.rss_bytes,
        rss_bytes: until.rss_bytes,
        rss_anon_bytes: until.rss_anon_bytes,
        rss_bytes_per_connection: growth / counts.joined.max(1) as f64,
        rss_growth_bytes: until.rss_bytes as f64 - from.rss_bytes as f64,
        threads,
    })
}

fn merged(closings: &[Closing], of: impl Fn(&Closing) -> &Tally) -> Tally {
    let mut all = Tally::new();
    for (why, count) in closings.iter().flat_map(of) {
        *all.entry(why.clone()).or_insert(0) += count;
    }
    all
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Layout of the JSON.
const SCHEMA: &str = "hubbub-loadgen/1";
const EXIT_FAULTS: u8 = 1;
const EXIT_INVALID: u8 = 98;
const EXIT_THRESHOLDS: u8 = 99;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Faults;
    use crate::scenario::Settings;

    /// A faultless run of two connections, in which 1,000 messages were delivered within 100 µs.
    fn measured(scenario: &str) -> Measured {
        let mut total = Interval::new();
        total.deliver.record_n(100, 1_000).unwrap();
        total.lag.record_n(50, 500).unwrap();
        let thread = |cpu_ns| ThreadTime { tid: 1, name: "load-0".to_owned(), cpu_ns, waited_ns: 0 };
        let sample = |cpu_ns, rss_bytes| Sample { threads: vec![thread(cpu_ns)], rss_bytes, rss_anon_bytes: 0 };
        let mut counts = Counts::default();
        counts.add(Count::Joined, 2);
        counts.add(Count::Received, 1_000);
        Measured {
            scenario: Settings::parse(scenario).unwrap().decide("test".to_owned()).unwrap(),
            workers: 1,
            sources: Vec::new(),
            counts,
            handshakes: Handshakes::new(),
            total,
            seconds: Vec::new(),
            connect_curve: Vec::new(),
            dropped_ns: 0,
            closings: vec![closing(Faults::default())],
            server_pid: Some(9),
            server: ServerSamples {
                before: Some(sample(0, 1_000_000)),
                from: Some(sample(1_000, 0)),
                until: Some(sample(3_001_000, 1_003_000)),
            },
            own: (sample(0, 0), sample(500_000_000, 0)),
            window: (Counts::default(), counts),
            window_ns: (0, 1_000_000_000),
            elapsed_ns: 2_000_000_000,
            environment: Environment::read(2, 1_024),
        }
    }

    fn closing(faults: Faults) -> Closing {
        Closing {
            faults,
            expected: 1_000,
            orders: BTreeMap::new(),
            pings_min: 0,
            last_caught_up_ns: 0,
            handshakes: Handshakes::new(),
            refusals: Tally::new(),
            closes: Tally::new(),
            local_faults: Tally::new(),
            errors: Tally::new(),
        }
    }

    #[test]
    fn a_faultless_run_ends_with_0() {
        let outcome = Outcome::judge(measured("kind = 'echo'\nconnections = 2"));
        assert_eq!((outcome.exit_code, outcome.valid), (0, true));
        let server = outcome.server.as_ref().unwrap();
        assert_eq!(server.cpu_us_per_delivery, Some(3.0));
        assert_eq!(server.rss_bytes_per_connection, 1_500.0);
        assert_eq!((outcome.generator.busiest_worker_cpu, outcome.measured.received_per_s), (0.5, 1_000.0));
        assert!(outcome.table().ends_with("OK: nothing lost, nothing twice, nothing out of order\n"));
    }

    #[test]
    fn faults_come_before_doubts_and_doubts_before_bounds() {
        let missed = "kind = 'echo'\n[thresholds]\ndeliver.p50_us = 99\nserver_cores = 0.1\n";
        let doubted = format!("{missed}[validity]\nworker_cpu = 0.4");
        let outcome = Outcome::judge(measured(missed));
        assert_eq!((outcome.exit_code, outcome.thresholds_missed.len()), (99, 1), "{:?}", outcome.thresholds_missed);
        let outcome = Outcome::judge(measured(&doubted));
        assert_eq!((outcome.exit_code, outcome.valid), (98, false), "{:?}", outcome.invalid_reasons);
        let mut faulty = measured(&doubted);
        faulty.closings.push(closing(Faults { lost: 2, ..Faults::default() }));
        let outcome = Outcome::judge(faulty);
        assert_eq!((outcome.exit_code, &outcome.faults[..]), (1, &["2 lost".to_owned()][..]));
    }

    #[test]
    fn every_fault_of_a_server_counts_unless_allowed() {
        let lost = Faults { lost: 1, duplicate: 1, disordered: 1, room_seq: 1 };
        let mut measured = measured("kind = 'echo'");
        measured.closings = vec![closing(lost), closing(lost)];
        for (place, hash) in [(0, 1), (1, 2)] {
            measured.closings[place].orders.insert(3, BTreeSet::from([hash]));
        }
        for what in [Count::Refused, Count::Closed, Count::Misrouted, Count::Errors] {
            measured.counts.bump(what);
        }
        let allowing = Settings::parse(
            "kind = 'echo'\n[thresholds]\nloss = 2\nduplicates = 2\ndisorder = 2\nrefused = 1\nclosed = 1",
        );
        let allowing = allowing.unwrap().decide("test".to_owned()).unwrap();
        measured.scenario = allowing;
        let outcome = Outcome::judge(measured);
        assert_eq!(outcome.faults, ["1 in the wrong room", "1 errors from the server"]);
        assert_eq!(outcome.counts.rooms_disagreeing, 1, "members on two workers are compared");
    }

    #[test]
    fn what_the_generator_left_out_makes_a_run_invalid() {
        let mut measured = measured("kind = 'echo'\n[validity]\nlag_p99_us = 49");
        measured.counts.add(Count::Skipped, 3);
        measured.closings[0].local_faults.insert("no local port".to_owned(), 2);
        let outcome = Outcome::judge(measured);
        assert_eq!((outcome.exit_code, outcome.invalid_reasons.len()), (98, 3), "{:?}", outcome.invalid_reasons);
    }
}
