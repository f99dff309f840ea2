//! `loadgen agent`: lends this machine's workers to a coordinator, one run after the other.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::wire::{FromAgent, PROTOCOL, Reader, ToAgent, is_same, say};
use crate::clock::{self, NS_PER_MS, now_ns};
use crate::crew::{Crew, Part, Site};
use crate::sampling::process::Sample;
use crate::scenario::Scenario;
use crate::worker::Report;

/// What an agent is started with.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What a coordinator must know.
    pub token: String,
    /// Whether other machines than this may be loaded.
    pub allow_remote: bool,
}

/// Serves coordinators until the process ends; comes back only with what keeps it from listening.
pub fn serve(settings: &Settings) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("--listen {}: {error}", settings.listen);
    let listener = TcpListener::bind(settings.listen).map_err(fail)?;
    tell(&format!("listening on {}", listener.local_addr().map_err(fail)?));
    loop {
        let (stream, peer) = listener.accept().map_err(fail)?;
        // Readings before a coordinator has said how far the clocks are apart are our own.
        clock::shift(0);
        match serve_one(&stream, settings) {
            Ok(()) => tell(&format!("{peer}: the run is over")),
            Err(problem) => {
                tell(&format!("{peer}: {problem}"));
                // Whoever has hung up is told nothing.
                let _ = say(&stream, &FromAgent::Failed { problem });
            }
        }
    }
}

/// One coordinator, from its greeting to the end of its run.
fn serve_one(stream: &TcpStream, settings: &Settings) -> Result<(), String> {
    let own = |error: std::io::Error| error.to_string();
    stream.set_nodelay(true).map_err(own)?;
    stream.set_read_timeout(Some(GREETING)).map_err(own)?;
    // A coordinator that vanished is noticed by what it does not take any more.
    stream.set_write_timeout(Some(GREETING)).map_err(own)?;
    let mut reader = Reader::new(stream.try_clone().map_err(own)?);
    match reader.next()? {
        ToAgent::Hello { protocol: PROTOCOL, token } if is_same(&token, &settings.token) => {}
        ToAgent::Hello { protocol: PROTOCOL, .. } => return Err("the token is not mine".to_owned()),
        _ => return Err(format!("I speak version {PROTOCOL} of this protocol")),
    }
    say(stream, &FromAgent::Welcome { version: env!("CARGO_PKG_VERSION").to_owned() })?;
    let mut prepared: Option<(Arc<Scenario>, Site)> = None;
    loop {
        match reader.next()? {
            ToAgent::Ping => say(stream, &FromAgent::Pong { now_ns: now_ns() })?,
            ToAgent::Prepare { name, settings: asked, processes } => {
                let scenario = asked.decide(name).map_err(|error| error.to_string())?;
                let share = scenario.connections.div_ceil(processes.max(1));
                let site = Site::check(&scenario, share, settings.allow_remote).map_err(|error| error.to_string())?;
                let connections_per_worker_max = site.machine.connections_per_worker();
                say(stream, &FromAgent::Ready { workers: site.workers, connections_per_worker_max })?;
                prepared = Some((Arc::new(scenario), site));
            }
            ToAgent::Go { first_worker, workers_in_all, run, ramp_ns, offset_ns } => {
                let (scenario, site) = prepared.ok_or("nothing was prepared")?;
                clock::shift(offset_ns);
                stream.set_read_timeout(None).map_err(own)?;
                let part = Part { first_worker, workers_in_all, run, ramp_ns };
                return Running::start(stream, reader, scenario, &site, part)?.conduct();
            }
            _ => return Err("this comes out of turn".to_owned()),
        }
    }
}

/// A run under way.
struct Running<'a> {
    stream: &'a TcpStream,
    commands: flume::Receiver<ToAgent>,
    scenario: Arc<Scenario>,
    crew: Crew,
    reports: flume::Receiver<Report>,
    /// Which worker is the first of ours, and of how many.
    part: Part,
    start_ns: u64,
    /// This process at both ends of the measured window.
    own: (Option<Sample>, Option<Sample>),
    closed: usize,
}

impl<'a> Running<'a> {
    fn start(
        stream: &'a TcpStream,
        mut reader: Reader,
        scenario: Arc<Scenario>,
        site: &Site,
        part: Part,
    ) -> Result<Self, String> {
        let (sender, reports) = flume::bounded(site.workers as usize * REPORTS_PER_WORKER);
        let crew = Crew::start(&scenario, site, part, sender).map_err(|error| error.to_string())?;
        let (said, commands) = flume::bounded(COMMANDS);
        // Ends with the connection, which ends with the run.
        std::thread::spawn(move || {
            while let Ok(command) = reader.next() {
                if said.send(command).is_err() {
                    return;
                }
            }
        });
        Ok(Self { stream, commands, scenario, crew, reports, part, start_ns: 0, own: (None, None), closed: 0 })
    }

    fn conduct(mut self) -> Result<(), String> {
        let mut told_ns = 0;
        while self.closed < self.crew.size() {
            match self.commands.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(flume::TryRecvError::Empty) => {}
                Err(flume::TryRecvError::Disconnected) => return Err("the coordinator is gone".to_owned()),
            }
            if let Ok(report) = self.reports.recv_timeout(Duration::from_nanos(LOOK_NS)) {
                self.pass_on(report)?;
            }
            self.sample();
            if now_ns() >= told_ns + TELL_NS {
                told_ns = now_ns();
                self.tell_counts()?;
            }
        }
        self.crew.join().map_err(|error| error.to_string())?;
        let (cpu, busiest_worker_cpu) = self.used();
        self.tell_counts()?;
        say(self.stream, &FromAgent::Done { cpu, busiest_worker_cpu })
    }

    fn obey(&mut self, command: ToAgent) -> Result<(), String> {
        match command {
            ToAgent::Start { start_ns } => {
                self.start_ns = start_ns;
                self.crew.begin(start_ns);
                Ok(())
            }
            ToAgent::Stop => {
                let layout = &self.scenario.layout;
                let ours = |sender: &u32| {
                    let worker = layout.connection_of(*sender) % self.part.workers_in_all;
                    (self.part.first_worker..self.part.first_worker + self.crew.size() as u32).contains(&worker)
                };
                let senders = (0..layout.senders()).filter(ours);
                let sent = senders.map(|sender| (sender, self.crew.control.sent.get(sender))).collect();
                say(self.stream, &FromAgent::Sent { sent })
            }
            ToAgent::Finish { sent } => {
                if sent.len() != self.scenario.layout.senders() as usize {
                    return Err("the coordinator knows other senders".to_owned());
                }
                (0..).zip(&sent).for_each(|(sender, &count)| self.crew.control.sent.set(sender, count));
                self.crew.finish();
                Ok(())
            }
            _ => Err("this comes out of turn".to_owned()),
        }
    }

    fn pass_on(&mut self, report: Report) -> Result<(), String> {
        match report {
            Report::Second { second, interval } => say(self.stream, &FromAgent::Second { second, interval }),
            Report::Closed(closing) => {
                self.closed += 1;
                say(self.stream, &FromAgent::Closed { closing })
            }
            Report::Failed(problem) => Err(problem),
            Report::Agent(_) => Ok(()),
        }
    }

    fn tell_counts(&self) -> Result<(), String> {
        let (counts, faults) = (Box::new(self.crew.counts()), self.crew.faults());
        say(self.stream, &FromAgent::Counts { counts, faults, has_sent_all: self.crew.has_sent_all() })
    }

    /// Looks at this process when the measured window begins, and when it ends.
    fn sample(&mut self) {
        let from = self.start_ns + self.scenario.warm_up.ns();
        if self.start_ns == 0 || now_ns() < from {
            return;
        }
        if self.own.0.is_none() {
            self.own.0 = Sample::own();
        }
        if self.own.1.is_none() && now_ns() >= from + self.scenario.duration.ns() {
            self.own.1 = Sample::own();
        }
    }

    /// Cores that this process used within the window, and the busiest worker's share of its own.
    fn used(&self) -> (f64, f64) {
        let (Some(from), Some(until)) = (&self.own.0, &self.own.1) else { return (0.0, 0.0) };
        let threads = until.since(from);
        let share = |ns: u64| ns as f64 / self.scenario.duration.ns() as f64;
        let workers = threads.iter().filter(|thread| thread.name.starts_with("load-"));
        (
            share(threads.iter().map(|thread| thread.cpu_ns).sum()),
            workers.map(|thread| share(thread.cpu_ns)).fold(0.0, f64::max),
        )
    }
}

fn tell(text: &str) {
    // A closed standard error leaves the coordinator to tell.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("loadgen agent: {text}\n").as_bytes());
}

/// How long a coordinator may be silent before its run.
const GREETING: Duration = Duration::from_secs(30);
/// How long a look at the workers takes at most.
const LOOK_NS: u64 = 10 * NS_PER_MS;
/// How often counts are sent.
const TELL_NS: u64 = 100 * NS_PER_MS;
const REPORTS_PER_WORKER: usize = 16;
const COMMANDS: usize = 8;
