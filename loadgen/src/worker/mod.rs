//! One worker: a thread pinned to a core, with a descriptor table, a ring and a part of the connections.
//!
//! It sleeps in its ring and nowhere else, until something arrives or the next planned message or connection is due.
//! The coordinator reaches it through [`Control`], which it looks at each time it wakes; while it waits for the
//! coordinator it wakes every [`TICK_NS`].

mod link;
mod publish;
mod turnover;

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use hubbub::net::{Ring, RingConfig, probe, table};

use self::link::{Course, Link};
use self::turnover::Turnover;
use crate::client::Stage;
use crate::clock::{NS_PER_MS, NS_PER_S, now_ns};
use crate::closed_loop::ClosedLoop;
use crate::dialect::Dialect;
use crate::fleet::coordinator::AgentReport;
use crate::ledger::{Closing, Ledger};
use crate::payload::Stamp;
use crate::plan::{Arrivals, Plan, Planned};
use crate::publishers::Publishers;
use crate::ramp::{Pace, Ramp};
use crate::scenario::{Kind, Scenario};
use crate::stats::{Board, Count, Interval, SentBoard};
use crate::target::Target;
use crate::tls::TlsClient;
use crate::users::Users;

/// What all workers and the coordinator share.
#[derive(Debug)]
pub struct Control {
    /// When the load starts, in monotonic nanoseconds; 0 until it is known.
    pub start_ns: AtomicU64,
    /// Nothing more will come: close the books.
    pub finish: AtomicBool,
    /// Workers that have sent all they had to send.
    pub sent_all: AtomicU32,
    /// How many messages each of the scenario's senders has sent.
    pub sent: Arc<SentBoard>,
    /// Counts, one board per worker.
    pub boards: Box<[Board]>,
    /// Faults that the audits have found so far, one per worker.
    pub faults: Box<[AtomicU64]>,
    /// All workers have split their descriptor tables before anyone opens a socket.
    pub split: Barrier,
}

/// What a worker is made from.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which worker, over all processes that share the run.
    pub worker: u32,
    /// How many there are in all. Connection `i` belongs to worker `i % workers`.
    pub workers: u32,
    /// Which worker of this process.
    pub local: u32,
    /// The load.
    pub scenario: Arc<Scenario>,
    /// Where it goes.
    pub target: Arc<Target>,
    /// How it is spoken to, where that is by TLS.
    pub tls: Option<TlsClient>,
    /// Who the connections are.
    pub users: Users,
    /// Local addresses, used in turn.
    pub sources: Arc<[IpAddr]>,
    /// Tells messages of this run from others.
    pub run: u32,
    /// When connecting begins, in monotonic nanoseconds.
    pub ramp_ns: u64,
    /// Shared with everyone.
    pub control: Arc<Control>,
    /// Where reports go.
    pub reports: flume::Sender<Report>,
}

/// What a worker tells the coordinator.
#[derive(Debug)]
pub enum Report {
    /// What was measured in one second of the load.
    Second {
        /// Which second, counted from the start of the load.
        second: u32,
        /// What was measured.
        interval: Box<Interval>,
    },
    /// The end.
    Closed(Box<Closing>),
    /// This worker cannot work.
    Failed(String),
    /// An agent that shares the run said something.
    Agent(AgentReport),
}

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No descriptor table of its own.
    #[error("unshare(CLONE_FILES) failed: {0}")]
    Table(io::Error),
    /// No ring.
    #[error("{0}")]
    Ring(String),
    /// The ring failed while it ran.
    #[error("io_uring_enter failed: {0}")]
    Enter(io::Error),
}

/// Runs a worker on the calling thread to its end.
pub fn run(job: Job) {
    let reports = job.reports.clone();
    let split = table::own_descriptor_table().map_err(WorkerError::Table);
    job.control.split.wait();
    let closed = split.and_then(|()| Worker::new(job)?.run());
    let report =
        closed.map_or_else(|error| Report::Failed(error.to_string()), |closing| Report::Closed(Box::new(closing)));
    // Fails only when the coordinator has given up.
    let _ = reports.send(report);
}

struct Worker {
    job: Job,
    ring: Ring,
    ramp: Ramp,
    links: Vec<Link>,
    /// Which link uses a slot of the ring.
    by_slot: Vec<u32>,
    dialect: Dialect,
    ledger: Ledger,
    messages: Messages,
    turnover: Turnover,
    /// 0 until the load starts.
    start_ns: u64,
    sent_all: bool,
    has_finished: bool,
    /// The second of the load that is being measured.
    second: u32,
    /// The last turn ended before its events did.
    has_more: bool,
    /// Links with bytes to send and no send in flight.
    ready: Vec<u32>,
    /// Buffers between two uses, so that an idle connection holds none.
    spare: Vec<Vec<u8>>,
    /// Where bytes are decrypted to; empty between two events.
    plain: Vec<u8>,
}

/// Where the messages to be sent come from.
enum Messages {
    /// The plan, and its next message of one of our own senders.
    Open { plan: Plan, next: Option<Planned> },
    /// Each sender waits for its own.
    Closed(ClosedLoop),
    /// Each sender waits for the server's answer.
    Publish(Publishers),
    /// Nothing is sent.
    Over,
}

impl Worker {
    fn new(job: Job) -> Result<Self, WorkerError> {
        let ring = Ring::new(&RingConfig::default()).map_err(|error| {
            let finding = probe::explain(&error);
            WorkerError::Ring(format!("{}: {}", finding.problem, finding.remedy))
        })?;
        let scenario = &job.scenario;
        let mine = (job.worker..scenario.connections).step_by(job.workers as usize);
        let pace = Pace {
            first_ns: job.ramp_ns,
            rate: scenario.connect_rate,
            rate_end: scenario.connect_rate_end.unwrap_or(scenario.connect_rate),
            connections: scenario.connections,
            in_flight: scenario.connect_in_flight,
            timeout_ns: scenario.handshake_timeout.ns(),
        };
        Ok(Self {
            ring,
            ramp: Ramp::new(job.worker, job.workers, mine.len() as u32, pace),
            links: Vec::new(),
            by_slot: Vec::new(),
            dialect: Dialect::new(scenario.clone(), job.target.clone(), job.users.clone(), now_ns()),
            ledger: Ledger::new(job.run, &scenario.layout, mine, job.control.sent.clone()),
            messages: Messages::of(&job),
            turnover: Turnover::new(&job),
            start_ns: 0,
            sent_all: false,
            has_finished: false,
            second: 0,
            has_more: false,
            ready: Vec::new(),
            spare: Vec::new(),
            plain: Vec::new(),
            job,
        })
    }

    fn run(mut self) -> Result<Closing, WorkerError> {
        while !self.job.control.finish.load(Ordering::Acquire) {
            self.turn()?;
        }
        let last = Report::Second { second: self.second, interval: Box::new(self.ledger.interval.clone()) };
        // Fails only when the coordinator has given up.
        let _ = self.job.reports.send(last);
        self.say_goodbye()?;
        Ok(self.ledger.close())
    }

    fn turn(&mut self) -> Result<(), WorkerError> {
        let now = now_ns();
        while let Some((link, due_ns)) = self.ramp.due(now) {
            self.open(link, now, due_ns);
        }
        while let Some(link) = self.ramp.expired(now) {
            let who = &self.links[link as usize];
            if who.client.stage() < Stage::Joined && who.course == Course::Ramping {
                self.lose(link, "the handshake took too long".to_owned());
            }
        }
        self.send_due(now);
        self.turn_over(now);
        self.report(now);
        self.sleep()
    }

    /// Submits what is to be sent, sleeps until there is something to do, and takes a bounded number of events.
    fn sleep(&mut self) -> Result<(), WorkerError> {
        self.flush();
        let (deadline, now) = (self.deadline(), now_ns());
        if deadline > now {
            self.ring.wake_at(deadline.div_ceil(1_000), now / 1_000);
        }
        self.ring.enter(deadline > now && !self.has_more).map_err(WorkerError::Enter)?;
        self.learn_start();
        self.has_more = false;
        for _ in 0..TURN_EVENTS_MAX {
            let Some(event) = self.ring.next_event() else { return Ok(()) };
            self.on_event(event);
        }
        self.has_more = true;
        Ok(())
    }

    fn deadline(&mut self) -> u64 {
        let waits = self.start_ns == 0 || self.sent_all;
        let tick = if waits { Some(now_ns() + TICK_NS) } else { None };
        let second = (self.start_ns > 0).then(|| self.start_ns + u64::from(self.second + 1) * NS_PER_S);
        let message = self.messages.deadline(self.start_ns).filter(|_| self.start_ns > 0 && !self.sent_all);
        let turnover = self.turnover.deadline(self.start_ns);
        [tick, second, message, self.ramp.deadline(), turnover].into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// Learns when the load starts, before anything of it is looked at.
    fn learn_start(&mut self) {
        if self.start_ns == 0 && !self.has_finished {
            self.start_ns = self.job.control.start_ns.load(Ordering::Acquire);
            if self.start_ns > 0 {
                let from = self.start_ns + self.job.scenario.warm_up.ns();
                self.ledger.measure(from..from + self.job.scenario.duration.ns());
                self.messages.begin(&self.job, self.start_ns);
            }
        }
    }

    /// Sends what is due. A message that is due stays due: one that is late is sent all the same.
    fn send_due(&mut self, now: u64) {
        if self.start_ns == 0 {
            return;
        }
        let since_start = now.saturating_sub(self.start_ns);
        for _ in 0..TURN_SENDS_MAX {
            let Some(planned) = self.messages.due(since_start, &self.job) else { break };
            self.send(planned);
        }
        self.publish_due(now);
        if !self.sent_all && self.messages.are_over(now, self.start_ns) {
            self.sent_all = true;
            self.job.control.sent_all.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn send(&mut self, planned: Planned) {
        let place = self.job.scenario.layout.connection_of(planned.sender) / self.job.workers;
        let link = &mut self.links[place as usize];
        if link.client.stage() != Stage::Joined || link.course != Course::Steady {
            return self.ledger.counts.bump(Count::Unsent);
        }
        if link.out.len() > OUT_BYTES_MAX {
            return self.ledger.counts.bump(Count::Skipped);
        }
        link.seq += 1;
        let planned_ns = self.start_ns + planned.at_ns;
        let now_ns = now_ns();
        let lag_us = now_ns.saturating_sub(planned_ns) / 1_000;
        let lag_us = u32::try_from(lag_us).unwrap_or(u32::MAX);
        let stamp = Stamp { run: self.job.run, sender: planned.sender, seq: link.seq, planned_ns, lag_us };
        link::take_buffer(&mut link.out, &mut self.spare);
        link.client.message(stamp, &mut self.dialect, &mut link.out);
        self.job.control.sent.set(planned.sender, link.seq);
        let room = self.job.scenario.layout.room_of_sender(planned.sender);
        self.ledger.counts.add(Count::Due, u64::from(self.job.scenario.layout.members_of(room)));
        self.ledger.sent(planned_ns, now_ns, self.job.scenario.validity.lag_p99_us * 1_000);
        self.ready.push(place);
    }

    /// Publishes counts, and once a second what was measured.
    fn report(&mut self, now: u64) {
        let control = &self.job.control;
        let worker = self.job.local as usize;
        control.boards[worker].publish(&self.ledger.counts);
        let faults = self.ledger.faults();
        let sum = faults.lost + faults.duplicate + faults.disordered + faults.room_seq;
        control.faults[worker].store(sum, Ordering::Relaxed);
        if self.start_ns == 0 || now < self.start_ns + u64::from(self.second + 1) * NS_PER_S {
            return;
        }
        let second = self.second;
        self.second = ((now - self.start_ns) / NS_PER_S) as u32;
        let interval = Box::new(std::mem::replace(&mut self.ledger.interval, Interval::new()));
        if let Err(refused) = self.job.reports.try_send(Report::Second { second, interval })
            && let Report::Second { interval, .. } = refused.into_inner()
        {
            // The coordinator is behind: nothing is lost, it comes with the next second.
            self.ledger.interval = *interval;
        }
    }

    /// Closes all connections properly, for as long as that is quick.
    fn say_goodbye(&mut self) -> Result<(), WorkerError> {
        for place in 0..self.links.len() as u32 {
            let link = &mut self.links[place as usize];
            link.client.goodbye(&mut self.dialect, &mut link.out);
            self.settle(place);
        }
        // Back to before the load, so that nothing but the tick wakes us.
        self.has_finished = true;
        self.messages = Messages::Over;
        self.turnover.end();
        self.start_ns = 0;
        self.ramp.end();
        let until = now_ns() + GOODBYE_NS;
        while self.ring.connections() > 0 && now_ns() < until {
            self.sleep()?;
        }
        Ok(())
    }
}

impl Messages {
    fn of(job: &Job) -> Self {
        let scenario = &job.scenario;
        let load_ns = job.load_ns();
        let senders = scenario.layout.senders();
        if scenario.kind == Kind::Publish {
            let mine = (job.worker..scenario.connections).step_by(job.workers as usize).len() as u32;
            return Self::Publish(Publishers::new(mine, scenario.in_flight, scenario.messages_each));
        }
        if scenario.arrivals == Arrivals::Closed {
            let mine = (0..senders).filter(|&sender| job.has(scenario.layout.connection_of(sender)));
            return Self::Closed(ClosedLoop::new(mine, senders, scenario.rate, load_ns));
        }
        let plan = Plan::new(scenario.arrivals, scenario.rate, senders, load_ns, scenario.seed);
        Self::Open { plan, next: None }
    }

    /// It is known when the load starts.
    fn begin(&mut self, job: &Job, start_ns: u64) {
        match self {
            Self::Open { plan, next } => *next = next_of_ours(plan, job),
            Self::Publish(publishers) => publishers.plan(start_ns..start_ns + job.load_ns()),
            Self::Closed(_) | Self::Over => {}
        }
    }

    /// A message that is due. One that is late is due all the same.
    fn due(&mut self, since_start_ns: u64, job: &Job) -> Option<Planned> {
        match self {
            Self::Open { plan, next } => {
                let planned = next.filter(|planned| planned.at_ns <= since_start_ns)?;
                *next = next_of_ours(plan, job);
                Some(planned)
            }
            Self::Closed(closed) => closed.due(since_start_ns),
            Self::Publish(_) | Self::Over => None,
        }
    }

    /// When there is something to send, in monotonic nanoseconds.
    fn deadline(&self, start_ns: u64) -> Option<u64> {
        let at_ns = match self {
            Self::Open { next, .. } => next.map(|planned| planned.at_ns),
            Self::Closed(closed) => closed.deadline(),
            Self::Publish(publishers) => return Some(publishers.deadline()),
            Self::Over => None,
        };
        at_ns.map(|at_ns| start_ns + at_ns)
    }

    fn are_over(&self, now_ns: u64, start_ns: u64) -> bool {
        match self {
            Self::Open { next, .. } => next.is_none(),
            Self::Closed(closed) => closed.is_over(now_ns.saturating_sub(start_ns)),
            Self::Publish(publishers) => publishers.are_over(now_ns),
            Self::Over => true,
        }
    }
}

impl Job {
    /// Whether a connection of the scenario is this worker's.
    fn has(&self, connection: u32) -> bool {
        connection % self.workers == self.worker
    }

    /// Length of the load in nanoseconds, warm-up included.
    fn load_ns(&self) -> u64 {
        self.scenario.warm_up.ns() + self.scenario.duration.ns()
    }
}

fn next_of_ours(plan: &mut Plan, job: &Job) -> Option<Planned> {
    plan.find(|planned| job.has(job.scenario.layout.connection_of(planned.sender)))
}

/// How often a worker that waits for the coordinator looks up.
const TICK_NS: u64 = 20 * NS_PER_MS;
/// Events taken before due messages get their turn.
const TURN_EVENTS_MAX: usize = 256;
/// Messages sent before events get their turn.
const TURN_SENDS_MAX: usize = 128;
/// Bytes queued for one connection past which messages are skipped, which makes the run invalid.
const OUT_BYTES_MAX: usize = 64 << 20;
const GOODBYE_NS: u64 = 2 * NS_PER_S;
