//! One worker: a thread pinned to a core, with a descriptor table, a ring and a part of the connections.
//!
//! It sleeps in its ring and nowhere else, until something arrives or the next planned message or connection is due.
//! The coordinator reaches it through [`Control`], which it looks at each time it wakes; while it waits for the
//! coordinator it wakes every [`TICK_NS`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use hubbub::ids::ConnId;
use hubbub::net::{Buffer, Ended, Event, Outgoing, Ring, RingConfig, probe, socket, table};

use crate::client::{Client, Dialect, Stage};
use crate::clock::{NS_PER_MS, NS_PER_S, now_ns};
use crate::ledger::{Closing, Ledger};
use crate::payload::Stamp;
use crate::plan::{Plan, Planned};
use crate::ramp::{Pace, Ramp};
use crate::scenario::Scenario;
use crate::stats::{Board, Count, Interval, record_ns};
use crate::target::Target;

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
    pub sent: Box<[AtomicU32]>,
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
    /// Which worker, and of how many.
    pub worker: u32,
    /// How many there are. Connection `i` belongs to worker `i % workers`.
    pub workers: u32,
    /// The load.
    pub scenario: Arc<Scenario>,
    /// Where it goes.
    pub target: Arc<Target>,
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
    plan: Plan,
    /// The next message of one of our own senders.
    next: Option<Planned>,
    /// 0 until the load starts.
    start_ns: u64,
    sent_all: bool,
    /// The second of the load that is being measured.
    second: u32,
    /// The last turn ended before its events did.
    has_more: bool,
    /// Links with bytes to send and no send in flight.
    ready: Vec<u32>,
    /// Buffers between two uses, so that an idle connection holds none.
    spare: Vec<Vec<u8>>,
}

/// A connection and its bytes on the way out.
struct Link {
    client: Client,
    conn: Option<ConnId>,
    /// Gathered while a send is in flight.
    out: Vec<u8>,
    sending: bool,
    /// Messages sent so far.
    seq: u32,
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
            in_flight: scenario.connect_in_flight,
            timeout_ns: scenario.handshake_timeout.ns(),
        };
        let load_ns = scenario.warm_up.ns() + scenario.duration.ns();
        let senders = scenario.senders_in_all();
        Ok(Self {
            ring,
            ramp: Ramp::new(job.worker, job.workers, mine.len() as u32, pace),
            links: Vec::new(),
            by_slot: Vec::new(),
            dialect: Dialect::new(scenario.clone(), job.target.clone(), now_ns()),
            ledger: Ledger::new(job.run, scenario.senders, mine.map(|index| scenario.room_of(index))),
            plan: Plan::new(scenario.arrivals, scenario.rate, senders, load_ns, scenario.seed),
            next: None,
            start_ns: 0,
            sent_all: false,
            second: 0,
            has_more: false,
            ready: Vec::new(),
            spare: Vec::new(),
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
        let control = self.job.control.clone();
        Ok(self.ledger.close(|sender| control.sent[sender as usize].load(Ordering::Relaxed)))
    }

    fn turn(&mut self) -> Result<(), WorkerError> {
        let now = now_ns();
        while let Some(link) = self.ramp.due(now) {
            self.open(link, now);
        }
        while let Some(link) = self.ramp.expired(now) {
            if self.links[link as usize].client.stage() < Stage::Joined {
                self.lose(link, "the handshake took too long".to_owned());
            }
        }
        self.send_due(now);
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
        self.has_more = false;
        for _ in 0..TURN_EVENTS_MAX {
            let Some(event) = self.ring.next_event() else { return Ok(()) };
            self.on_event(event);
        }
        self.has_more = true;
        Ok(())
    }

    fn deadline(&self) -> u64 {
        let waits = self.start_ns == 0 || self.sent_all;
        let tick = if waits { Some(now_ns() + TICK_NS) } else { None };
        let second = (self.start_ns > 0).then(|| self.start_ns + u64::from(self.second + 1) * NS_PER_S);
        let message = self.next.map(|planned| self.start_ns + planned.at_ns);
        [tick, second, message, self.ramp.deadline()].into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    fn open(&mut self, link: u32, now: u64) {
        debug_assert_eq!(link as usize, self.links.len(), "connections are begun in order");
        let index = link * self.job.workers + self.job.worker;
        let source = self.job.sources[index as usize % self.job.sources.len()];
        self.links.push(Link { client: Client::new(index, now), conn: None, out: Vec::new(), sending: false, seq: 0 });
        match socket::outbound(SocketAddr::new(source, 0)) {
            Ok(fd) => {
                let conn = self.ring.connect(fd, self.job.target.address.into());
                let slot = conn.slot as usize;
                if self.by_slot.len() <= slot {
                    self.by_slot.resize(slot + 1, u32::MAX);
                }
                self.by_slot[slot] = link;
                self.links[link as usize].conn = Some(conn);
            }
            Err(error) => {
                self.ledger.local_fault(format!("a socket at {source}: {error}"));
                self.links[link as usize].client.end();
                self.ramp.resolved();
            }
        }
    }

    /// Sends what is due. A message that is due stays due: one that is late is sent all the same.
    fn send_due(&mut self, now: u64) {
        if self.start_ns == 0 {
            self.start_ns = self.job.control.start_ns.load(Ordering::Acquire);
            if self.start_ns == 0 {
                return;
            }
            let from = self.start_ns + self.job.scenario.warm_up.ns();
            self.ledger.measure(from..from + self.job.scenario.duration.ns());
            self.next = self.next_of_ours();
        }
        for _ in 0..TURN_SENDS_MAX {
            match self.next {
                Some(planned) if self.start_ns + planned.at_ns <= now => self.send(planned),
                _ => break,
            }
            self.next = self.next_of_ours();
        }
        if self.next.is_none() && !self.sent_all {
            self.sent_all = true;
            self.job.control.sent_all.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn next_of_ours(&mut self) -> Option<Planned> {
        let Self { plan, job, .. } = self;
        plan.find(|planned| job.scenario.connection_of(planned.sender) % job.workers == job.worker)
    }

    fn send(&mut self, planned: Planned) {
        let place = self.job.scenario.connection_of(planned.sender) / self.job.workers;
        let link = &mut self.links[place as usize];
        if link.client.stage() != Stage::Joined {
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
        take_buffer(&mut link.out, &mut self.spare);
        link.client.message(stamp, &mut self.dialect, &mut link.out);
        self.job.control.sent[planned.sender as usize].store(link.seq, Ordering::Relaxed);
        self.ledger.sent(planned_ns, now_ns, self.job.scenario.validity.lag_p99_us * 1_000);
        self.ready.push(place);
    }

    fn flush(&mut self) {
        for place in self.ready.drain(..) {
            let link = &mut self.links[place as usize];
            let Some(conn) = link.conn.filter(|_| !link.sending && !link.out.is_empty()) else { continue };
            link.sending = true;
            self.ledger.counts.add(Count::BytesSent, link.out.len() as u64);
            // Whoever is over waits for the end of its farewell; nobody else needs a wake-up for a send.
            let quiet = link.client.stage() < Stage::Ended;
            self.ring.send(conn, Outgoing::Gathered(std::mem::take(&mut link.out)), quiet);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { conn, buffer } => {
                self.receive(conn, &buffer);
                self.ring.give_back(buffer);
            }
            Event::Sent { conn, bytes } => {
                let place = self.place(conn);
                let link = &mut self.links[place as usize];
                link.sending = false;
                if let Outgoing::Gathered(buffer) = bytes {
                    keep_buffer(buffer, &mut self.spare);
                }
                self.settle(place);
            }
            Event::Connected { conn } => {
                let place = self.place(conn);
                let link = &mut self.links[place as usize];
                take_buffer(&mut link.out, &mut self.spare);
                let took_ns = link.client.connected(&mut self.dialect, now_ns(), &mut link.out);
                record_ns(&mut self.ledger.handshakes.connect, took_ns);
                self.ledger.counts.bump(Count::Connected);
                self.ready.push(place);
            }
            Event::ConnectFailed { conn, errno } => self.connect_failed(self.place(conn), errno),
            Event::ReceiveEnded { conn, why } => {
                let why = match why {
                    Ended::Finished => "the stream ended without a farewell".to_owned(),
                    Ended::Failed(errno) => io::Error::from_raw_os_error(errno).to_string(),
                };
                self.lose(self.place(conn), why);
            }
            Event::SendFailed { conn, errno } => {
                let place = self.place(conn);
                self.links[place as usize].sending = false;
                self.lose(place, io::Error::from_raw_os_error(errno).to_string());
            }
            Event::Released { conn } => {
                let place = self.place(conn);
                self.links[place as usize].conn = None;
            }
            Event::SendWaits { .. } | Event::Timer | Event::Doorbell => {}
            Event::Accepted { .. } | Event::AcceptEnded { .. } | Event::AcceptReady { .. } => {
                debug_assert!(false, "nothing listens here");
            }
        }
    }

    fn receive(&mut self, conn: ConnId, buffer: &Buffer) {
        let place = self.place(conn);
        let Self { ring, links, dialect, ledger, ramp, .. } = self;
        let link = &mut links[place as usize];
        let now = now_ns();
        let bytes = ring.bytes(buffer);
        ledger.counts.add(Count::BytesReceived, bytes.len() as u64);
        let before = link.client.stage();
        let mut tell = |happening| ledger.enter(place, happening, now);
        link.client.received(bytes, dialect, now, &mut link.out, &mut tell);
        let after = link.client.stage();
        if before < Stage::Joined && after >= Stage::Joined {
            ramp.resolved();
        }
        if !link.out.is_empty() || after == Stage::Ended {
            self.settle(place);
        }
    }

    fn connect_failed(&mut self, place: u32, errno: i32) {
        let error = io::Error::from_raw_os_error(errno);
        if error.kind() == io::ErrorKind::AddrNotAvailable {
            let link = &mut self.links[place as usize];
            link.client.end();
            self.ledger.local_fault(format!("connect: {error} (no local port is free)"));
            self.ramp.resolved();
            self.settle(place);
        } else {
            self.lose(place, format!("connect: {error}"));
        }
    }

    /// The connection is gone for a reason that is the server's, unless it was over already.
    fn lose(&mut self, place: u32, why: String) {
        let link = &mut self.links[place as usize];
        let stage = link.client.stage();
        link.out = Vec::new();
        if stage != Stage::Ended {
            link.client.end();
            self.ledger.ended(place, why);
            if stage < Stage::Joined {
                self.ramp.resolved();
            }
        }
        self.settle(place);
    }

    /// What is to be sent is sent; a connection that is over is closed once nothing is.
    fn settle(&mut self, place: u32) {
        let link = &mut self.links[place as usize];
        if link.sending {
            return;
        }
        if !link.out.is_empty() {
            self.ready.push(place);
        } else if let Some(conn) = link.conn.filter(|_| link.client.stage() == Stage::Ended) {
            self.ring.close(conn);
        }
    }

    fn place(&self, conn: ConnId) -> u32 {
        self.by_slot[conn.slot as usize]
    }

    /// Publishes counts, and once a second what was measured.
    fn report(&mut self, now: u64) {
        let control = &self.job.control;
        let worker = self.job.worker as usize;
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
        self.next = None;
        self.start_ns = 0;
        self.ramp = Ramp::new(0, 1, 0, Pace { first_ns: 0, rate: 1.0, in_flight: 1, timeout_ns: 0 });
        let until = now_ns() + GOODBYE_NS;
        while self.ring.connections() > 0 && now_ns() < until {
            self.sleep()?;
        }
        Ok(())
    }
}

fn take_buffer(out: &mut Vec<u8>, spare: &mut Vec<Vec<u8>>) {
    if out.capacity() == 0
        && let Some(buffer) = spare.pop()
    {
        *out = buffer;
    }
}

fn keep_buffer(mut buffer: Vec<u8>, spare: &mut Vec<Vec<u8>>) {
    if spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
        buffer.clear();
        spare.push(buffer);
    }
}

/// How often a worker that waits for the coordinator looks up.
const TICK_NS: u64 = 20 * NS_PER_MS;
/// Events taken before due messages get their turn.
const TURN_EVENTS_MAX: usize = 256;
/// Messages sent before events get their turn.
const TURN_SENDS_MAX: usize = 128;
/// Bytes queued for one connection past which messages are skipped, which makes the run invalid.
const OUT_BYTES_MAX: usize = 64 << 20;
const SPARE_BUFFERS_MAX: usize = 1_024;
const SPARE_BYTES_MAX: usize = 64 << 10;
const GOODBYE_NS: u64 = 2 * NS_PER_S;
