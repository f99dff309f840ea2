//! Judges what was measured: does the run count, what did the server do wrong, which bound was missed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hdrhistogram::Histogram;

use crate::curve::CurvePoint;
use crate::environment::{Environment, without_secrets};
use crate::fleet::coordinator::AgentPart;
use crate::hlog;
use crate::layout::RoomSizes;
use crate::ledger::{Closing, Tally};
use crate::progress::{thousands, time};
use crate::report::outcome::{Generator, Latencies, Outcome, Phases, SCHEMA, Server, Tallied, Turnover, Window};
use crate::sampling::process::Sample;
use crate::sampling::recorder::Recording;
use crate::scenario::{Kind, Scenario};
use crate::stats::{Count, Counts, Handshakes, Interval, Percentiles};
use crate::thresholds::check_at_most;

/// Everything that was measured, before it is judged.
#[derive(Debug)]
pub struct Measured {
    pub scenario: Scenario,
    pub workers: u32,
    pub agents: Vec<AgentPart>,
    pub sources: Vec<IpAddr>,
    pub counts: Counts,
    pub handshakes: Handshakes,
    pub total: Interval,
    /// What was recorded second by second.
    pub recording: Recording,
    pub connect_curve: Vec<CurvePoint>,
    /// When connections that were dropped were to begin to come back, in monotonic nanoseconds.
    pub return_ns: u64,
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

impl Outcome {
    /// Judges what was measured.
    #[must_use]
    pub fn judge(measured: Measured) -> Self {
        let local_faults = merged(&measured.closings, |closing| &closing.local_faults);
        let lag = measured.total.lag.clone();
        let caps = measured.scenario.clone();
        let mut outcome = Self::of(measured);
        outcome.judge_validity(&caps, &local_faults, &lag);
        outcome.judge_faults(&caps);
        outcome.judge_thresholds(&caps);
        outcome.valid = outcome.invalid_reasons.is_empty();
        outcome.exit_code = outcome.decide_exit();
        outcome
    }

    /// What was measured, not judged yet.
    fn of(measured: Measured) -> Self {
        let (counts, window) = (tallied(&measured), window(&measured));
        let environment =
            Environment { server_version: measured.recording.server_version.clone(), ..measured.environment.clone() };
        Self {
            schema: SCHEMA.to_owned(),
            summary: summary(&measured.scenario),
            valid: true,
            invalid_reasons: Vec::new(),
            faults: Vec::new(),
            thresholds_missed: Vec::new(),
            exit_code: 0,
            latency_us: latencies(&measured),
            lag_us: Percentiles::of(&measured.total.lag),
            generator: generator(&measured, &window),
            server: server(&measured, &window, &counts),
            refusals: merged(&measured.closings, |closing| &closing.refusals),
            closes: merged(&measured.closings, |closing| &closing.closes),
            errors: merged(&measured.closings, |closing| &closing.errors),
            turnover: turnover(&measured),
            counts,
            measured: window,
            environment,
            scenario: scenario(&measured.scenario),
            elapsed_s: seconds(measured.elapsed_ns),
            phases: phases(&measured),
            histograms: histograms(&measured),
            seconds: measured.recording.seconds,
            looks: measured.recording.looks,
            connect_curve: measured.connect_curve,
            scrapes: measured.recording.scrapes,
        }
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

    fn judge_validity(&mut self, scenario: &Scenario, local_faults: &Tally, lag: &Histogram<u64>) {
        let bounds = scenario.validity;
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
        for agent in &self.generator.agents {
            let (address, used) = (&agent.address, agent.busiest_worker_cpu);
            if used > bounds.worker_cpu {
                let (used, bound) = (used * 100.0, bounds.worker_cpu * 100.0);
                reasons.push(format!("agent {address}: a worker used {used:.0} % of its core, more than {bound:.0} %"));
            }
            let uncertainty_us = agent.clock.uncertainty_ns.div_ceil(1_000);
            if uncertainty_us > bounds.lag_p99_us {
                let (by, bound) = (time(uncertainty_us), time(bounds.lag_p99_us));
                reasons.push(format!("agent {address}: its clock is known only to within {by}, more than {bound}"));
            }
        }
        if self.counts.skipped > 0 {
            reasons.push(format!(
                "the generator skipped {} messages: too much was queued",
                thousands(self.counts.skipped)
            ));
        }
    }

    fn judge_faults(&mut self, scenario: &Scenario) {
        let (counts, allowed) = (&self.counts, &scenario.thresholds);
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
            ("answers out of turn, or with a number that did not follow", counts.ack_seq_faults, allowed.disorder),
            ("sent and never answered", counts.unanswered, allowed.loss),
            ("answered without being on disk", if scenario.require_durable { counts.not_durable } else { 0 }, 0),
        ];
        for (name, count, allowed) in rows {
            if count > allowed {
                self.faults.push(format!("{} {name}", thousands(count)));
            }
        }
    }

    fn judge_thresholds(&mut self, scenario: &Scenario) {
        let (caps, missed) = (&scenario.thresholds, &mut self.thresholds_missed);
        caps.connect.check("connect", self.latency_us.connect.as_ref(), missed);
        caps.upgrade.check("upgrade", self.latency_us.upgrade.as_ref(), missed);
        caps.join.check("join", self.latency_us.join.as_ref(), missed);
        caps.deliver.check("deliver", self.latency_us.deliver.as_ref(), missed);
        caps.service.check("service", self.latency_us.service.as_ref(), missed);
        caps.ack.check("ack", self.latency_us.ack.as_ref(), missed);
        caps.durable_ack.check("durable_ack", self.latency_us.durable_ack.as_ref(), missed);
        caps.resume.check("resume", self.latency_us.resume.as_ref(), missed);
        if let Some(min) = caps.acks_per_s_min.filter(|&min| self.measured.acks_per_s < min) {
            missed.push(format!("acks_per_s was {:.1}, less than {min}", self.measured.acks_per_s));
        }
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
}

fn summary(scenario: &Scenario) -> String {
    let size = match scenario.room_sizes {
        RoomSizes::Fixed => thousands(u64::from(scenario.room_size)),
        RoomSizes::Zipf => "sizes by Zipf's law".to_owned(),
    };
    if scenario.kind == Kind::Publish {
        let each =
            scenario.messages_each.map_or_else(String::new, |each| format!(", {} each", thousands(u64::from(each))));
        return format!(
            "{} publishers of {} bytes, each in a room of its own with {} unanswered{each}, for {}",
            thousands(u64::from(scenario.connections)),
            thousands(u64::from(scenario.payload_bytes)),
            scenario.in_flight,
            scenario.duration
        );
    }
    format!(
        "{} connections in {} rooms of {size}, {} messages/s for {}",
        thousands(u64::from(scenario.connections)),
        thousands(u64::from(scenario.rooms())),
        scenario.rate,
        scenario.duration
    )
}

/// The scenario as it is shown; a URL may hold a secret.
fn scenario(scenario: &Scenario) -> serde_json::Value {
    let mut shown = serde_json::to_value(scenario).expect("a scenario is plain data");
    shown["target"] = without_secrets(&scenario.target).into();
    shown
}

/// Everything that was timed over the whole run, by name.
fn timed(measured: &Measured) -> [(&'static str, &Histogram<u64>); 9] {
    let (total, handshakes) = (&measured.total, &measured.handshakes);
    [
        ("connect", &handshakes.connect),
        ("upgrade", &handshakes.upgrade),
        ("join", &handshakes.join),
        ("resume", &handshakes.resume),
        ("deliver", &total.deliver),
        ("service", &total.service),
        ("lag", &total.lag),
        ("ack", &total.ack),
        ("durable_ack", &total.durable_ack),
    ]
}

fn histograms(measured: &Measured) -> BTreeMap<String, String> {
    let recorded = timed(measured).into_iter().filter(|(_, histogram)| !histogram.is_empty());
    recorded.map(|(name, histogram)| (name.to_owned(), hlog::pack(histogram))).collect()
}

fn latencies(measured: &Measured) -> Latencies {
    Latencies {
        connect: Percentiles::of(&measured.handshakes.connect),
        upgrade: Percentiles::of(&measured.handshakes.upgrade),
        join: Percentiles::of(&measured.handshakes.join),
        deliver: Percentiles::of(&measured.total.deliver),
        service: Percentiles::of(&measured.total.service),
        ack: Percentiles::of(&measured.total.ack),
        durable_ack: Percentiles::of(&measured.total.durable_ack),
        resume: Percentiles::of(&measured.handshakes.resume),
    }
}

fn phases(measured: &Measured) -> Option<Phases> {
    let load_from_s = measured.recording.load_from_s?;
    let window_from_s = load_from_s + seconds(measured.scenario.warm_up.ns());
    Some(Phases {
        load_from_s,
        window_from_s,
        window_until_s: window_from_s + seconds(measured.scenario.duration.ns()),
    })
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
        not_durable: count(Count::NotDurable),
        ack_seq_faults: count(Count::AckSeqFaults),
        deferred: count(Count::Deferred),
        unanswered: if measured.scenario.kind == Kind::Publish {
            count(Count::Sent).saturating_sub(count(Count::Answers))
        } else {
            0
        },
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
    let all = || seconds(last_ns.saturating_sub(measured.return_ns));
    (count(Count::Left) > 0).then(|| Turnover {
        left: count(Count::Left),
        rejoined: count(Count::Rejoined),
        retried: count(Count::Retried),
        dropped,
        resumed: count(Count::Resumed),
        recovered: count(Count::Recovered),
        missed: measured.closings.iter().map(|closing| closing.missed).sum(),
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
    let (sent, received, acks) = (new(Count::Sent), new(Count::Received), new(Count::Acks));
    let per_s = |n: u64| if took > 0.0 { n as f64 / took } else { 0.0 };
    Window {
        seconds: took,
        sent,
        received,
        acks,
        sent_per_s: per_s(sent),
        received_per_s: per_s(received),
        acks_per_s: per_s(acks),
    }
}

fn generator(measured: &Measured, window: &Window) -> Generator {
    let threads = measured.own.1.since(&measured.own.0);
    let share = |ns: u64| if window.seconds > 0.0 { seconds(ns) / window.seconds } else { 0.0 };
    let workers = || threads.iter().filter(|thread| thread.name.starts_with("load-"));
    Generator {
        workers: measured.workers,
        agents: measured.agents.clone(),
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
        cpu_us_per_ack: (window.acks > 0).then(|| cpu_ns as f64 / 1e3 / window.acks as f64),
        rss_bytes_before: before.rss_bytes,
        rss_bytes: until.rss_bytes,
        rss_anon_bytes: until.rss_anon_bytes,
        rss_growth_bytes: until.rss_bytes as f64 - from.rss_bytes as f64,
        rss_bytes_per_connection: growth / counts.joined.max(1) as f64,
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

const EXIT_FAULTS: u8 = 1;
const EXIT_INVALID: u8 = 98;
const EXIT_THRESHOLDS: u8 = 99;
