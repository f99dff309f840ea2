//! The workers of this process: what must hold before they start, their threads, and what all of them show.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::address::{Machine, check_sources, plan_sources, plan_workers};
use crate::run::RunError;
use crate::scenario::{Kind, Scenario};
use crate::stats::{Board, Counts, SentBoard};
use crate::target::{Protocol, Target};
use crate::tls::TlsClient;
use crate::users::Users;
use crate::worker::{self, Control, Job, Report};

/// What this process can carry of a run, checked against the machine.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where the load goes.
    pub target: Arc<Target>,
    /// How it is spoken to, where that is by TLS.
    pub tls: Option<TlsClient>,
    /// Who the connections are.
    pub users: Users,
    /// Local addresses to connect from.
    pub sources: Arc<[IpAddr]>,
    /// Cores to pin workers to, in turn.
    pub cores: Vec<usize>,
    /// Threads.
    pub workers: u32,
    /// The machine's limits.
    pub machine: Machine,
}

/// Which part of a run the workers of this process have.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The number of this process's first worker among all.
    pub first_worker: u32,
    /// Workers of all processes.
    pub workers_in_all: u32,
    /// Tells messages of this run from others.
    pub run: u32,
    /// When connecting begins, in monotonic nanoseconds.
    pub ramp_ns: u64,
}

/// The workers, while they run.
#[derive(Debug)]
pub struct Crew {
    workers: Vec<ExecutorJoinHandle<()>>,
    /// Shared with the workers.
    pub control: Arc<Control>,
}

impl Site {
    /// Checks that this machine can carry `connections` of the scenario's connections.
    pub fn check(scenario: &Scenario, connections: u32, allow_remote: bool) -> Result<Self, RunError> {
        let target = Target::parse(&scenario.target)?;
        if !target.is_loopback() && !allow_remote {
            return Err(RunError::Remote(scenario.target.clone()));
        }
        if target.protocol == Protocol::Relay && scenario.drop_share > 0.0 {
            return Err(RunError::NoReplay(scenario.target.clone()));
        }
        if target.protocol == Protocol::Resp && (scenario.kind != Kind::Publish || scenario.require_durable) {
            return Err(RunError::OnlyAppends(scenario.target.clone()));
        }
        let tls = target.has_tls.then(|| {
            let (ca, insecure) = (scenario.tls_ca.as_deref(), scenario.tls_insecure);
            let tickets = if scenario.tls_resume { connections as usize } else { 0 };
            TlsClient::new(&target.authority, ca, insecure, tickets)
        });
        let tls = tls.transpose().map_err(RunError::Tls)?;
        let users = Users::new(scenario.token_key.as_deref()).map_err(RunError::Users)?;
        let machine = Machine::read();
        let cores = cores(&scenario.cpus)?;
        let sources = plan_sources(target.address.ip(), connections, &scenario.sources, machine)?;
        check_sources(&sources)?;
        let workers = plan_workers(connections, scenario.workers, cores.len(), machine)?;
        Ok(Self { target: Arc::new(target), tls, users, sources: sources.into(), cores, workers, machine })
    }
}

impl Crew {
    /// Starts the workers. What they measure goes to `reports`.
    pub fn start(
        scenario: &Arc<Scenario>,
        site: &Site,
        part: Part,
        reports: flume::Sender<Report>,
    ) -> Result<Self, RunError> {
        let workers = site.workers;
        let control = Arc::new(Control {
            start_ns: AtomicU64::new(0),
            finish: AtomicBool::new(false),
            sent_all: AtomicU32::new(0),
            sent: Arc::new(SentBoard::new(scenario.layout.senders())),
            boards: (0..workers).map(|_| Board::default()).collect(),
            faults: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            split: Barrier::new(workers as usize),
        });
        let job = Job {
            worker: 0,
            workers: part.workers_in_all,
            local: 0,
            scenario: scenario.clone(),
            target: site.target.clone(),
            tls: site.tls.clone(),
            users: site.users.clone(),
            sources: site.sources.clone(),
            run: part.run,
            ramp_ns: part.ramp_ns,
            control: control.clone(),
            reports,
        };
        let jobs = (0..workers).map(|local| Job { worker: part.first_worker + local, local, ..job.clone() });
        let workers = jobs.map(|job| spawn(job, &site.cores)).collect::<Result<_, _>>()?;
        Ok(Self { workers, control })
    }

    /// How many workers there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.control.boards.len()
    }

    /// What the workers have counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Board::sum(self.control.boards.iter())
    }

    /// Faults that the workers' audits have found so far.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.control.faults.iter().map(|faults| faults.load(Ordering::Relaxed)).sum()
    }

    /// Whether all workers have sent all they had to send.
    #[must_use]
    pub fn has_sent_all(&self) -> bool {
        self.control.sent_all.load(Ordering::Acquire) as usize == self.size()
    }

    /// The load starts.
    pub fn begin(&self, start_ns: u64) {
        self.control.start_ns.store(start_ns, Ordering::Release);
    }

    /// The workers close their books.
    pub fn finish(&self) {
        self.control.finish.store(true, Ordering::Release);
    }

    /// Waits for the threads to end.
    pub fn join(&mut self) -> Result<(), RunError> {
        for worker in std::mem::take(&mut self.workers) {
            worker.join().map_err(|error| RunError::Worker(error.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.finish();
    }
}

fn cores(asked: &[usize]) -> Result<Vec<usize>, RunError> {
    let usable: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    if let Some(&core) = asked.iter().find(|core| !usable.contains(core)) {
        return Err(RunError::NoSuchCore(core));
    }
    Ok(if asked.is_empty() { usable } else { asked.to_vec() })
}

fn spawn(job: Job, cores: &[usize]) -> Result<ExecutorJoinHandle<()>, RunError> {
    let worker = job.local;
    let core = cores.get(worker as usize % cores.len().max(1)).copied();
    let placement = core.map_or(Placement::Unbound, Placement::Fixed);
    let handle = LocalExecutorBuilder::new(placement)
        .name(&format!("load-{worker}"))
        .io_memory(EXECUTOR_IO_MEMORY)
        .spawn(move || async move { worker::run(job) });
    let core = core.unwrap_or_default();
    handle.map_err(|error| RunError::Spawn { worker, core, problem: error.to_string() })
}

/// The executor's own buffers are not used; glommio's default would lock 10 MiB.
const EXECUTOR_IO_MEMORY: usize = 64 << 10;
