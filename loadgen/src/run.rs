//! A run from its first connection to its result: starts the workers, moves them through the phases, and gathers what
//! they measured.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::address::AddressError;
use crate::clock::{NS_PER_MS, NS_PER_S, now_ns};
use crate::crew::{Crew, Part, Site};
use crate::curve::{Curve, CurvePoint};
use crate::environment::Environment;
use crate::fleet::coordinator::Fleet;
use crate::ledger::Closing;
use crate::plan::Random;
use crate::progress::{Phase, Progress, View};
use crate::report::{Measured, ServerSamples};
use crate::sampling::process::Sample;
use crate::sampling::recorder::Recorder;
use crate::sampling::scrape::Endpoint;
use crate::scenario::{Kind, Scenario};
use crate::stats::{Count, Counts, Handshakes, Interval, Percentiles};
use crate::target::{Target, TargetError};
use crate::worker::Report;

/// What is not part of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether other machines may be loaded.
    pub allow_remote: bool,
    /// A server on this machine whose CPU time and memory are measured.
    pub server_pid: Option<u32>,
    /// Where the server's metrics are read; where hubbub has them by default when absent.
    pub metrics_url: Option<String>,
    /// Agents that share the run, as HOST:PORT.
    pub agents: Vec<String>,
    /// What they are told, so that they obey.
    pub token: String,
    /// Nothing on standard error but errors.
    pub quiet: bool,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The URL cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The URL is of another machine.
    #[error("target = {0}: this is another machine; give --allow-remote if it is yours to load")]
    Remote(String),
    /// The machine cannot carry it.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No such core.
    #[error("cpus = {0}: this process may not run on that core")]
    NoSuchCore(usize),
    /// No such process.
    #[error("--server-pid {0}: there is no such process")]
    NoSuchServer(u32),
    /// No metrics where they were said to be.
    #[error("--metrics-url {url}: {problem}")]
    Metrics {
        /// Where.
        url: String,
        /// What was wrong.
        problem: String,
    },
    /// A thread could not be started.
    #[error("starting worker {worker} on core {core}: {problem}")]
    Spawn {
        /// Which worker.
        worker: u32,
        /// On which core.
        core: usize,
        /// What was wrong.
        problem: String,
    },
    /// What came before the drop cannot be asked for.
    #[error("target = {0}: a relay replays nothing; drop_share needs the chat protocol (ws://HOST:PORT/ws or tcp://)")]
    NoReplay(String),
    /// Redis is there to be compared in one thing.
    #[error(
        "target = {0}: Redis is only appended to (kind = \"publish\"), and its answers do not say what is on disk: leave \
         require_durable out"
    )]
    OnlyAppends(String),
    /// No TLS with this target.
    #[error("{0}")]
    Tls(String),
    /// The key that signs tokens cannot be used.
    #[error("{0}")]
    Users(String),
    /// An agent cannot take part.
    #[error("{0}")]
    Agent(String),
    /// What the audit needs to know of other processes' senders is known only at the end.
    #[error("--agents: connections that come and go are audited within one process; leave --agents out for this kind")]
    NoAgents,
    /// A worker could not go on.
    #[error("a worker failed: {0}")]
    Worker(String),
}

/// Runs `scenario` to its end.
pub fn run(scenario: Scenario, options: Options) -> Result<Measured, RunError> {
    let fleet = gather(&scenario, &options)?;
    let share = scenario.connections.div_ceil(options.agents.len() as u32 + 1);
    let site = Site::check(&scenario, share, options.allow_remote)?;
    let server_before = match options.server_pid {
        Some(pid) => Some(Sample::of(pid).ok_or(RunError::NoSuchServer(pid))?),
        None => None,
    };
    let metrics = metrics(options.metrics_url.as_deref(), &site.target)?;
    let environment = Environment::read(site.machine.cores, site.machine.nofile, options.server_pid);
    let mut coordinator = Coordinator::start(scenario, &site, fleet, options, metrics)?;
    coordinator.server.before = server_before;
    coordinator.conduct()?;
    coordinator.measured(environment)
}

/// Calls the agents together, if there are any.
fn gather(scenario: &Scenario, options: &Options) -> Result<Fleet, RunError> {
    if options.agents.is_empty() {
        return Ok(Fleet::default());
    }
    if scenario.is_disturbed() {
        return Err(RunError::NoAgents);
    }
    Fleet::gather(&options.agents, &options.token, &scenario.name, &scenario.settings).map_err(RunError::Agent)
}

/// Where metrics will be read: where they were said to be, or else where hubbub has them, if they are there.
fn metrics(asked: Option<&str>, target: &Target) -> Result<Option<Endpoint>, RunError> {
    let Some(url) = asked else {
        return Ok(
            Endpoint::beside(target.address).filter(|endpoint| endpoint.scrape().is_ok_and(|page| page.is_hubbub()))
        );
    };
    let endpoint = Endpoint::parse(url).and_then(|endpoint| endpoint.scrape().map(|_| endpoint));
    endpoint.map(Some).map_err(|problem| RunError::Metrics { url: url.to_owned(), problem })
}

struct Coordinator {
    scenario: Arc<Scenario>,
    crew: Crew,
    fleet: Fleet,
    workers_in_all: u32,
    sources: Arc<[IpAddr]>,
    reports: flume::Receiver<Report>,
    options: Options,
    progress: Progress,
    shown: Shown,
    /// Sum of all intervals so far.
    total: Interval,
    recorder: Recorder,
    curve: Curve,
    connect_curve: Vec<CurvePoint>,
    closings: Vec<Closing>,
    server: ServerSamples,
    own: (Sample, Sample),
    /// Counts at both ends of the measured window.
    window: (Counts, Counts),
    /// When the window really was sampled, which is what CPU time is divided by.
    window_ns: (u64, u64),
    began_ns: u64,
    start_ns: u64,
}

/// What was shown last.
struct Shown {
    at_ns: u64,
    counts: Counts,
}

impl Coordinator {
    fn start(
        scenario: Scenario,
        site: &Site,
        mut fleet: Fleet,
        options: Options,
        metrics: Option<Endpoint>,
    ) -> Result<Self, RunError> {
        let scenario = Arc::new(scenario);
        let workers_in_all = site.workers + fleet.workers();
        let per_worker = scenario.connections.div_ceil(workers_in_all);
        if let Some(problem) = fleet.too_small_for(per_worker) {
            return Err(RunError::Agent(problem));
        }
        let (sender, reports) = flume::bounded(workers_in_all as usize * REPORTS_PER_WORKER);
        let now = now_ns();
        let run = Random::new(now ^ u64::from(std::process::id())).next_u64() as u32;
        // Time for those who are far away to hear of it.
        let ramp_ns = if fleet.is_empty() { now } else { now + START_DELAY_NS };
        let part = Part { first_worker: 0, workers_in_all, run, ramp_ns };
        fleet.go(part, site.workers, &sender).map_err(RunError::Agent)?;
        let crew = Crew::start(&scenario, site, part, sender)?;
        Ok(Self {
            progress: Progress::new(options.quiet),
            recorder: Recorder::begin(now, options.server_pid, metrics),
            scenario,
            crew,
            fleet,
            workers_in_all,
            sources: site.sources.clone(),
            reports,
            options,
            shown: Shown { at_ns: now, counts: Counts::default() },
            total: Interval::new(),
            curve: Curve::new(now),
            connect_curve: Vec::new(),
            closings: Vec::new(),
            server: ServerSamples::default(),
            own: Default::default(),
            window: Default::default(),
            window_ns: (0, 0),
            began_ns: now,
            start_ns: 0,
        })
    }

    /// Moves the run through its phases.
    fn conduct(&mut self) -> Result<(), RunError> {
        let connections = u64::from(self.scenario.connections);
        while self.resolved() < connections {
            self.look_on(Phase::Ramp, self.ramp_left(), now_ns() + LOOK_NS)?;
            self.curve.sample(&self.counts(), now_ns());
        }
        self.connect_curve = self.curve.finish(&self.counts(), now_ns());
        if self.counts().get(Count::Joined) > self.counts().get(Count::Closed) {
            self.load()?;
        }
        // Everyone must know what everyone has sent before the books are closed.
        self.fleet.stop().map_err(RunError::Agent)?;
        while !self.fleet.has_told_sent() {
            self.look_on(Phase::Drain, None, now_ns() + LOOK_NS)?;
        }
        self.fleet.finish(self.scenario.layout.senders(), &self.crew.control.sent).map_err(RunError::Agent)?;
        self.crew.finish();
        while self.closings.len() < self.workers_in_all as usize || !self.fleet.is_done() {
            self.look_on(Phase::Drain, None, now_ns() + LOOK_NS)?;
        }
        self.progress.end();
        self.crew.join()
    }

    fn load(&mut self) -> Result<(), RunError> {
        self.start_ns = now_ns() + START_DELAY_NS;
        self.recorder.load_starts(self.start_ns);
        self.fleet.begin(self.start_ns).map_err(RunError::Agent)?;
        self.crew.begin(self.start_ns);
        let from = self.start_ns + self.scenario.warm_up.ns();
        let until = from + self.scenario.duration.ns();
        self.wait_until(Phase::WarmUp, from)?;
        self.window.0 = self.counts();
        self.window_ns.0 = now_ns();
        self.own.0 = Sample::own().unwrap_or_default();
        self.server.from = self.options.server_pid.and_then(Sample::of);
        self.wait_until(Phase::Measure, until)?;
        self.server.until = self.options.server_pid.and_then(Sample::of);
        self.own.1 = Sample::own().unwrap_or_default();
        self.window_ns.1 = now_ns();
        self.window.1 = self.counts();
        self.drain(until)
    }

    /// Waits for a moment, or until everyone has sent all there is to send.
    fn wait_until(&mut self, phase: Phase, at_ns: u64) -> Result<(), RunError> {
        let is_bounded = self.scenario.messages_each.is_some();
        while now_ns() < at_ns && !(is_bounded && self.crew.has_sent_all() && self.fleet.has_sent_all()) {
            let left = Duration::from_nanos(at_ns.saturating_sub(now_ns()));
            self.look_on(phase, Some(left), at_ns.min(now_ns() + LOOK_NS))?;
        }
        Ok(())
    }

    /// Waits until everything has arrived and a little longer, for what comes twice; or until patience ends.
    fn drain(&mut self, until_ns: u64) -> Result<(), RunError> {
        let patience_ns = self.scenario.drain.ns();
        let mut deadline = until_ns + patience_ns;
        let mut quiet = false;
        let mut last_growth = (0, now_ns());
        while now_ns() < deadline {
            if !self.crew.has_sent_all() || !self.fleet.has_sent_all() {
                // A generator that is behind sends everything all the same.
                deadline = now_ns() + patience_ns;
            } else if !quiet && self.has_settled(&mut last_growth) {
                quiet = true;
                deadline = deadline.min(now_ns() + QUIET_NS);
            }
            let left = Duration::from_nanos(deadline.saturating_sub(now_ns()));
            self.look_on(Phase::Drain, Some(left), now_ns() + LOOK_NS)?;
        }
        Ok(())
    }

    /// Whether everything has arrived. Where members come and go that is known by nothing arriving any more; `last_growth`
    /// is what had arrived when, at the last look that found more.
    fn has_settled(&self, last_growth: &mut (u64, u64)) -> bool {
        let counts = self.counts();
        let received = counts.get(Count::Received);
        if self.scenario.is_disturbed() {
            if received != last_growth.0 {
                *last_growth = (received, now_ns());
            }
            let has_caught_up = counts.get(Count::CaughtUp) >= counts.get(Count::Dropped);
            return has_caught_up && now_ns() >= last_growth.1 + SETTLED_NS;
        }
        if counts.get(Count::Answers) + counts.get(Count::Unsent) < counts.get(Count::Sent)
            && self.scenario.kind == Kind::Publish
        {
            return false;
        }
        let missing_members = counts.get(Count::Refused) + counts.get(Count::Closed);
        missing_members == 0 && received >= counts.get(Count::Due)
    }

    /// Takes reports until `until_ns`, and shows progress when it is time to.
    fn look_on(&mut self, phase: Phase, left: Option<Duration>, until_ns: u64) -> Result<(), RunError> {
        let wait = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
        match self.reports.recv_timeout(wait) {
            Ok(Report::Second { second, interval }) => {
                self.total.add(&interval);
                self.recorder.measured(second, &interval);
            }
            Ok(Report::Closed(closing)) => self.closings.push(*closing),
            Ok(Report::Agent(report)) => self.fleet.take(report, &self.scenario, &self.crew.control.sent),
            Ok(Report::Failed(problem)) => return Err(RunError::Worker(problem)),
            // Without workers the loops above end by their own conditions.
            Err(flume::RecvTimeoutError::Timeout | flume::RecvTimeoutError::Disconnected) => {}
        }
        let now = now_ns();
        self.recorder.look(now, &self.counts());
        self.progress.obey_signals();
        if now >= self.shown.at_ns + NS_PER_S {
            self.show(phase, left, now);
        }
        Ok(())
    }

    fn show(&mut self, phase: Phase, left: Option<Duration>, now: u64) {
        let counts = self.counts();
        self.progress.show(&View {
            phase,
            connections: self.scenario.connections,
            left,
            then: Duration::from_nanos(match phase {
                Phase::Ramp => self.scenario.warm_up.ns() + self.scenario.duration.ns(),
                Phase::WarmUp => self.scenario.duration.ns(),
                Phase::Measure | Phase::Drain => 0,
            }),
            since_last: Duration::from_nanos(now - self.shown.at_ns),
            counts,
            before: self.shown.counts,
            deliver: Percentiles::of(&self.total.deliver),
            lag: Percentiles::of(&self.total.lag),
            latest: self.recorder.latest(),
            faults: self.crew.faults() + self.fleet.faults(),
        });
        self.shown = Shown { at_ns: now, counts };
    }

    fn counts(&self) -> Counts {
        self.fleet.counts(self.crew.counts())
    }

    fn resolved(&self) -> u64 {
        let counts = self.counts();
        counts.get(Count::Joined) + counts.get(Count::Refused)
    }

    fn ramp_left(&self) -> Option<Duration> {
        let done = self.resolved();
        let spent = (now_ns() - self.began_ns) as f64 / NS_PER_S as f64;
        (done > 0).then(|| {
            let left = f64::from(self.scenario.connections) - done as f64;
            Duration::from_secs_f64(spent * left / done as f64)
        })
    }

    fn measured(self, environment: Environment) -> Result<Measured, RunError> {
        let mut handshakes = Handshakes::new();
        self.closings.iter().for_each(|closing| handshakes.add(&closing.handshakes));
        let counts = self.counts();
        Ok(Measured {
            counts,
            workers: self.crew.size() as u32,
            agents: self.fleet.parts(),
            sources: self.sources.to_vec(),
            handshakes,
            total: self.total,
            recording: self.recorder.finish(&counts),
            connect_curve: self.connect_curve,
            return_ns: self.start_ns
                + self.scenario.warm_up.ns()
                + self.scenario.drop_at.ns()
                + self.scenario.drop_for.ns(),
            closings: self.closings,
            server_pid: self.options.server_pid,
            server: self.server,
            own: self.own,
            window: self.window,
            window_ns: self.window_ns,
            elapsed_ns: now_ns() - self.began_ns,
            environment,
            scenario: Arc::unwrap_or_clone(self.scenario),
        })
    }
}

/// How often the coordinator looks at the workers' boards.
const LOOK_NS: u64 = 50 * NS_PER_MS;
/// Between the last join and the first message, so that every worker has learnt when the load starts and the server
/// has finished the joins.
const START_DELAY_NS: u64 = 300 * NS_PER_MS;
/// How long to listen for duplicates once everything has arrived.
const QUIET_NS: u64 = 300 * NS_PER_MS;
/// How long nothing must have arrived for the rest not to be waited for.
const SETTLED_NS: u64 = NS_PER_S;
const REPORTS_PER_WORKER: usize = 16;
