//! A run from its first connection to its result: starts the workers, moves them through the phases, and gathers what
//! they measured.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::address::{AddressError, Machine, check_sources, plan_sources, plan_workers};
use crate::clock::{NS_PER_MS, NS_PER_S, now_ns};
use crate::curve::{Curve, CurvePoint};
use crate::environment::Environment;
use crate::ledger::Closing;
use crate::plan::Random;
use crate::progress::{Phase, Progress, View};
use crate::report::{Measured, ServerSamples};
use crate::sampling::process::Sample;
use crate::sampling::recorder::Recorder;
use crate::sampling::scrape::Endpoint;
use crate::scenario::Scenario;
use crate::stats::{Board, Count, Counts, Handshakes, Interval, Percentiles, SentBoard};
use crate::target::{Protocol, Target, TargetError};
use crate::worker::{self, Control, Job, Report};

/// What is not part of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether other machines may be loaded.
    pub allow_remote: bool,
    /// A server on this machine whose CPU time and memory are measured.
    pub server_pid: Option<u32>,
    /// Where the server's metrics are read; where hubbub has them by default when absent.
    pub metrics_url: Option<String>,
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
    /// A worker could not go on.
    #[error("a worker failed: {0}")]
    Worker(String),
}

/// Runs `scenario` to its end.
pub fn run(scenario: Scenario, options: Options) -> Result<Measured, RunError> {
    let target = Target::parse(&scenario.target)?;
    if !target.is_loopback() && !options.allow_remote {
        return Err(RunError::Remote(scenario.target));
    }
    if target.protocol == Protocol::Relay && scenario.drop_share > 0.0 {
        return Err(RunError::NoReplay(scenario.target));
    }
    let machine = Machine::read();
    let cores = cores(&scenario.cpus)?;
    let sources = plan_sources(target.address.ip(), scenario.connections, &scenario.sources, machine)?;
    check_sources(&sources)?;
    let workers = plan_workers(scenario.connections, scenario.workers, cores.len(), machine)?;
    let server_before = match options.server_pid {
        Some(pid) => Some(Sample::of(pid).ok_or(RunError::NoSuchServer(pid))?),
        None => None,
    };
    let metrics = metrics(options.metrics_url.as_deref(), &target)?;
    let environment = Environment::read(machine.cores, machine.nofile, options.server_pid);
    let mut coordinator = Coordinator::start(scenario, target, sources, workers, &cores, options, metrics)?;
    coordinator.server.before = server_before;
    coordinator.conduct()?;
    coordinator.measured(environment)
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

fn cores(asked: &[usize]) -> Result<Vec<usize>, RunError> {
    let usable: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    if let Some(&core) = asked.iter().find(|core| !usable.contains(core)) {
        return Err(RunError::NoSuchCore(core));
    }
    Ok(if asked.is_empty() { usable } else { asked.to_vec() })
}

struct Coordinator {
    scenario: Arc<Scenario>,
    workers: Vec<ExecutorJoinHandle<()>>,
    sources: Arc<[IpAddr]>,
    control: Arc<Control>,
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
        target: Target,
        sources: Vec<IpAddr>,
        workers: u32,
        cores: &[usize],
        options: Options,
        metrics: Option<Endpoint>,
    ) -> Result<Self, RunError> {
        let scenario = Arc::new(scenario);
        let control = Arc::new(Control {
            start_ns: AtomicU64::new(0),
            finish: AtomicBool::new(false),
            sent_all: AtomicU32::new(0),
            sent: Arc::new(SentBoard::new(scenario.layout.senders())),
            boards: (0..workers).map(|_| Board::default()).collect(),
            faults: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            split: Barrier::new(workers as usize),
        });
        let (sender, reports) = flume::bounded(workers as usize * REPORTS_PER_WORKER);
        let now = now_ns();
        let job = Job {
            worker: 0,
            workers,
            local: 0,
            scenario: scenario.clone(),
            target: Arc::new(target),
            sources: sources.into(),
            run: Random::new(now ^ u64::from(std::process::id())).next_u64() as u32,
            ramp_ns: now,
            control: control.clone(),
            reports: sender,
        };
        let sources = job.sources.clone();
        let handles = spawn(job, cores)?;
        Ok(Self {
            progress: Progress::new(options.quiet),
            recorder: Recorder::begin(now, options.server_pid, metrics),
            scenario,
            workers: handles,
            sources,
            control,
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
        self.control.finish.store(true, Ordering::Release);
        while self.closings.len() < self.workers.len() {
            self.look_on(Phase::Drain, None, now_ns() + LOOK_NS)?;
        }
        self.progress.end();
        for worker in std::mem::take(&mut self.workers) {
            worker.join().map_err(|error| RunError::Worker(error.to_string()))?;
        }
        Ok(())
    }

    fn load(&mut self) -> Result<(), RunError> {
        self.start_ns = now_ns() + START_DELAY_NS;
        self.recorder.load_starts(self.start_ns);
        self.control.start_ns.store(self.start_ns, Ordering::Release);
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

    fn wait_until(&mut self, phase: Phase, at_ns: u64) -> Result<(), RunError> {
        while now_ns() < at_ns {
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
            let all_sent = self.control.sent_all.load(Ordering::Acquire) as usize == self.workers.len();
            if !all_sent {
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
            faults: self.control.faults.iter().map(|faults| faults.load(Ordering::Relaxed)).sum(),
        });
        self.shown = Shown { at_ns: now, counts };
    }

    fn counts(&self) -> Counts {
        Board::sum(self.control.boards.iter())
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
            workers: self.control.boards.len() as u32,
            sources: self.sources.to_vec(),
            handshakes,
            total: self.total,
            recording: self.recorder.finish(&counts),
            connect_curve: self.connect_curve,
            dropped_ns: self.start_ns + self.scenario.warm_up.ns() + self.scenario.drop_at.ns(),
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

fn spawn(job: Job, cores: &[usize]) -> Result<Vec<ExecutorJoinHandle<()>>, RunError> {
    let mut handles = Vec::new();
    for worker in 0..job.workers {
        let core = cores.get(worker as usize % cores.len().max(1)).copied();
        let placement = core.map_or(Placement::Unbound, Placement::Fixed);
        let job = Job { worker, local: worker, ..job.clone() };
        let handle = LocalExecutorBuilder::new(placement)
            .name(&format!("load-{worker}"))
            .io_memory(EXECUTOR_IO_MEMORY)
            .spawn(move || async move { worker::run(job) });
        let core = core.unwrap_or_default();
        handles.push(handle.map_err(|error| RunError::Spawn { worker, core, problem: error.to_string() })?);
    }
    Ok(handles)
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
/// The executor's own buffers are not used; glommio's default would lock 10 MiB.
const EXECUTOR_IO_MEMORY: usize = 64 << 10;
