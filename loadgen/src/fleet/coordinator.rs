//! The coordinator's side: agents that are greeted, told what to do, and listened to.

use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::offset::Offset;
use super::wire::{FromAgent, PROTOCOL, Reader, ToAgent, say};
use crate::clock::now_ns;
use crate::crew::Part;
use crate::scenario::{Scenario, Settings};
use crate::stats::{Counts, SentBoard};
use crate::worker::Report;

/// What an agent says while a run goes on, beside what its workers report.
#[derive(Debug)]
pub struct AgentReport {
    agent: usize,
    news: News,
}

#[derive(Debug)]
enum News {
    Counts { counts: Box<Counts>, faults: u64, has_sent_all: bool },
    Sent(Vec<(u32, u32)>),
    Done { cpu: f64, busiest_worker_cpu: f64 },
}

/// An agent's part in a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentPart {
    /// Where it listens.
    pub address: String,
    pub workers: u32,
    /// How far its clock was from ours.
    pub clock: Offset,
    /// In cores.
    pub cpu: f64,
    /// Of its busiest worker, in cores.
    pub busiest_worker_cpu: f64,
}

/// All agents of a run; none in most.
#[derive(Debug, Default)]
pub struct Fleet {
    agents: Vec<Agent>,
}

#[derive(Debug)]
struct Agent {
    stream: TcpStream,
    reader: Option<Reader>,
    part: AgentPart,
    connections_per_worker_max: u32,
    counts: Counts,
    faults: u64,
    has_sent_all: bool,
    has_told_sent: bool,
    is_done: bool,
}

impl Fleet {
    /// Greets the agents, measures their clocks, and has them check that they can carry their shares.
    pub fn gather(addresses: &[String], token: &str, name: &str, settings: &Settings) -> Result<Self, String> {
        let processes = addresses.len() as u32 + 1;
        let agents = addresses.iter().map(|address| {
            let named = |problem| format!("agent {address}: {problem}");
            let mut agent = Agent::greet(address, token).map_err(named)?;
            agent.prepare(name, settings, processes).map_err(named)?;
            Ok(agent)
        });
        agents.collect::<Result<_, String>>().map(|agents| Self { agents })
    }

    /// Whether there are no agents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// The first agent whose descriptors do not carry `connections` for each worker.
    #[must_use]
    pub fn too_small_for(&self, connections: u32) -> Option<String> {
        let small = self.agents.iter().find(|agent| agent.connections_per_worker_max < connections)?;
        let (address, most) = (&small.part.address, small.connections_per_worker_max);
        Some(format!(
            "agent {address}: a worker there carries {most} connections, not {connections}; raise the limit of descriptors \
             (ulimit -n) or use more workers or agents"
        ))
    }

    /// Workers of all agents.
    #[must_use]
    pub fn workers(&self) -> u32 {
        self.agents.iter().map(|agent| agent.part.workers).sum()
    }

    /// Has the agents connect; `part` is that of our own workers, who come first. What they say goes to `reports`.
    pub fn go(&mut self, part: Part, own_workers: u32, reports: &flume::Sender<Report>) -> Result<(), String> {
        let mut first_worker = part.first_worker + own_workers;
        for (number, agent) in self.agents.iter_mut().enumerate() {
            let Part { workers_in_all, run, ramp_ns, .. } = part;
            let offset_ns = agent.part.clock.offset_ns;
            agent.say(&ToAgent::Go { first_worker, workers_in_all, run, ramp_ns, offset_ns })?;
            first_worker += agent.part.workers;
            let (reader, address) = (agent.reader.take(), agent.part.address.clone());
            let reports = reports.clone();
            std::thread::spawn(move || reader.map(|reader| listen(number, &address, reader, &reports)));
        }
        Ok(())
    }

    /// The load starts.
    pub fn begin(&self, start_ns: u64) -> Result<(), String> {
        self.agents.iter().try_for_each(|agent| agent.say(&ToAgent::Start { start_ns }))
    }

    /// Asks what was sent.
    pub fn stop(&self) -> Result<(), String> {
        self.agents.iter().try_for_each(|agent| agent.say(&ToAgent::Stop))
    }

    /// Has the agents close their books.
    pub fn finish(&self, senders: u32, sent: &SentBoard) -> Result<(), String> {
        if self.agents.is_empty() {
            return Ok(());
        }
        let sent: Vec<u32> = (0..senders).map(|sender| sent.get(sender)).collect();
        self.agents.iter().try_for_each(|agent| agent.say(&ToAgent::Finish { sent: sent.clone() }))
    }

    /// Takes what an agent said.
    pub fn take(&mut self, report: AgentReport, scenario: &Scenario, board: &SentBoard) {
        let agent = &mut self.agents[report.agent];
        match report.news {
            News::Counts { counts, faults, has_sent_all } => {
                (agent.counts, agent.faults, agent.has_sent_all) = (*counts, faults, has_sent_all);
            }
            News::Sent(sent) => {
                agent.has_told_sent = true;
                let known = sent.iter().filter(|(sender, _)| *sender < scenario.layout.senders());
                known.for_each(|&(sender, count)| board.set(sender, count));
            }
            News::Done { cpu, busiest_worker_cpu } => {
                (agent.part.cpu, agent.part.busiest_worker_cpu) = (cpu, busiest_worker_cpu);
                agent.is_done = true;
            }
        }
    }

    /// Adds what the agents have counted.
    #[must_use]
    pub fn counts(&self, own: Counts) -> Counts {
        self.agents.iter().fold(own, |sum, agent| sum.plus(&agent.counts))
    }

    /// Faults that the agents have found so far.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.agents.iter().map(|agent| agent.faults).sum()
    }

    /// Whether the agents have sent all they had to send.
    #[must_use]
    pub fn has_sent_all(&self) -> bool {
        self.agents.iter().all(|agent| agent.has_sent_all)
    }

    /// Whether the agents have told what they have sent.
    #[must_use]
    pub fn has_told_sent(&self) -> bool {
        self.agents.iter().all(|agent| agent.has_told_sent)
    }

    /// Whether the agents have nothing more to say.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.agents.iter().all(|agent| agent.is_done)
    }

    /// The agents' parts in the result.
    #[must_use]
    pub fn parts(&self) -> Vec<AgentPart> {
        self.agents.iter().map(|agent| agent.part.clone()).collect()
    }
}

impl Agent {
    fn greet(address: &str, token: &str) -> Result<Self, String> {
        let resolved: Option<SocketAddr> = address.to_socket_addrs().ok().and_then(|mut found| found.next());
        let resolved = resolved.ok_or("this does not resolve; write HOST:PORT")?;
        let own = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect_timeout(&resolved, PATIENCE).map_err(own)?;
        stream.set_nodelay(true).map_err(own)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(own)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(own)?;
        let reader = Reader::new(stream.try_clone().map_err(own)?);
        let clock = Offset { offset_ns: 0, uncertainty_ns: 0 };
        let part = AgentPart { address: address.to_owned(), workers: 0, clock, cpu: 0.0, busiest_worker_cpu: 0.0 };
        let mut agent = Self {
            stream,
            reader: Some(reader),
            part,
            connections_per_worker_max: 0,
            counts: Counts::default(),
            faults: 0,
            has_sent_all: false,
            has_told_sent: false,
            is_done: false,
        };
        agent.say(&ToAgent::Hello { protocol: PROTOCOL, token: token.to_owned() })?;
        match agent.hear()? {
            FromAgent::Welcome { .. } => Ok(agent),
            _ => Err("it does not speak this protocol".to_owned()),
        }
    }

    fn prepare(&mut self, name: &str, settings: &Settings, processes: u32) -> Result<(), String> {
        let mut samples = Vec::new();
        for _ in 0..PINGS {
            let asked = now_ns();
            self.say(&ToAgent::Ping)?;
            let FromAgent::Pong { now_ns: answer } = self.hear()? else { return Err("it gave no time".to_owned()) };
            samples.push((asked, answer, now_ns()));
        }
        self.part.clock = Offset::of(&samples).ok_or("its clock is too far from ours")?;
        let settings = Box::new(settings.clone());
        self.say(&ToAgent::Prepare { name: name.to_owned(), settings, processes })?;
        match self.hear()? {
            FromAgent::Ready { workers, connections_per_worker_max } if workers > 0 => {
                self.part.workers = workers;
                self.connections_per_worker_max = connections_per_worker_max;
            }
            _ => return Err("it is not ready".to_owned()),
        }
        Ok(())
    }

    fn say(&self, message: &ToAgent) -> Result<(), String> {
        say(&self.stream, message).map_err(|problem| format!("agent {}: {problem}", self.part.address))
    }

    fn hear(&mut self) -> Result<FromAgent, String> {
        match self.reader.as_mut().ok_or("it is listened to elsewhere")?.next()? {
            FromAgent::Failed { problem } => Err(problem),
            message => Ok(message),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Wakes its listener; fails only where the connection is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Passes on what an agent says until it is done, or gone, which is told as well.
fn listen(agent: usize, address: &str, mut reader: Reader, reports: &flume::Sender<Report>) {
    loop {
        let news = |news| Report::Agent(AgentReport { agent, news });
        let report = match reader.next() {
            Ok(FromAgent::Counts { counts, faults, has_sent_all }) => {
                news(News::Counts { counts, faults, has_sent_all })
            }
            Ok(FromAgent::Second { second, interval }) => Report::Second { second, interval },
            Ok(FromAgent::Sent { sent }) => news(News::Sent(sent)),
            Ok(FromAgent::Closed { closing }) => Report::Closed(closing),
            Ok(FromAgent::Done { cpu, busiest_worker_cpu }) => news(News::Done { cpu, busiest_worker_cpu }),
            Ok(FromAgent::Failed { problem }) => Report::Failed(format!("agent {address}: {problem}")),
            Ok(_) => Report::Failed(format!("agent {address}: it spoke out of turn")),
            Err(problem) => Report::Failed(format!("agent {address} is lost: {problem}")),
        };
        let is_last = matches!(&report, Report::Failed(_) | Report::Agent(AgentReport { news: News::Done { .. }, .. }));
        if reports.send(report).is_err() || is_last {
            return;
        }
    }
}

/// How long an agent may be silent; while a run goes on it speaks ten times a second.
const PATIENCE: Duration = Duration::from_secs(10);
const PINGS: usize = 32;
