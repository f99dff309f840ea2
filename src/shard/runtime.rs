//! Starts the shards, and ends them.
//!
//! The order matters. Doorbells and executors come first; then each shard takes a descriptor table of its own; rings,
//! listeners and the admin port are opened after that, each in the table of the thread that uses it. Otherwise every
//! table would keep copies of every socket, and a listener closed in one shard would go on accepting in another.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};
use glommio::{LocalExecutorBuilder, Placement};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::accept::{Acceptor, Entropy};
use super::gate::Gate;
use super::hub::{Entrance, Hub, Port};
use super::identity::Desk;
use super::mailbox::{Mailbox, Post};
use super::pace::Beat;
use super::quota::Quotas;
use super::reload::{self, ReloadAnswer, Running, Surroundings, rules};
use super::shutdown::{Control, Stage};
use super::store::StoreLine;
use super::turn::{Shard, Turn};
use crate::admin;
use crate::chat::CoreConfig;
use crate::clock::Clock;
use crate::config::layout::{Layout, Machine};
use crate::config::{Auth, Config, Loaded, Problem};
use crate::hooks::{self, HookError, HookLine, Hooks};
use crate::ids::ShardId;
use crate::limits::EXCHANGE_BACKLOG_MAX;
use crate::net::{Ring, RingConfig, probe, socket, table};
use crate::store::{self, Line, Store, StoreConfig, StoreError, StorePort};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{self, Readiness};
use crate::tls::TlsConfigs;
use crate::token::{KeyRing, KeyRingError, Keys};

/// Why the server did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration does not fit this machine.
    #[error("{0}")]
    Config(Problem),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}. Is another server running there? Choose another address with {flag}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the kernel says.
        error: io::Error,
    },
    /// This machine refuses a ring.
    #[error("{}: {}", .0.problem, .0.remedy)]
    Ring(probe::Finding),
    /// A shard's executor could not be made.
    #[error("cannot start a shard: {0}. `hubbub doctor` tells what this machine lacks")]
    Executor(String),
    /// The admin port could not be opened.
    #[error("{0}")]
    Admin(#[from] admin::AdminError),
    /// The keys for tokens cannot be had.
    #[error("{0}")]
    Keys(#[from] KeyRingError),
    /// The application cannot be called.
    #[error("{0}")]
    Hooks(#[from] HookError),
    /// The store could not be opened.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A call that should not fail did.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs the server until it is told to stop by SIGTERM or SIGINT; SIGHUP has it read its configuration anew. Returns once everyone is told and gone, or the
/// drain timeout has passed.
pub fn serve(loaded: &Loaded, surroundings: Surroundings) -> Result<(), ServeError> {
    let config = &loaded.config;
    let machine = Machine::detect();
    let layout = Layout::decide(config, &machine).map_err(ServeError::Config)?;
    probe::probe().map_err(ServeError::Ring)?;
    let readiness = Arc::new(Readiness::default());
    let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new(layout.shards())));
    let (notify, notices) = flume::bounded(NOTICES_MAX);
    // The handler writes to a pipe that every table must have, for a signal may arrive in any thread.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let tls = TlsConfigs::load(config).map_err(ServeError::Config)?.map(Arc::new);
    let mut running = Running::new(loaded, tls.clone(), surroundings).map_err(ServeError::Config)?;
    let switchboard = admin::Switchboard::default();
    let mut server = Server::start(config, &layout, tls.clone(), metrics, &notify, &switchboard.answers())?;
    let (post, drained, reloaded) = (server.post.clone(), notify.clone(), notify.clone());
    let subject = admin::Subject {
        facts: running.facts(),
        metrics,
        readiness: readiness.clone(),
        store: server.store.as_ref().map(Store::reader),
        switchboard,
        post: Arc::new(move |shard, ticket, order| post.order(shard, ticket, order)),
        // The main thread listens until the server has ended.
        drain: Arc::new(move || drop(drained.send(Notice::Drain))),
        reload: Arc::new(move || {
            let (answer, answered) = flume::bounded(1);
            let _ = reloaded.send(Notice::Reload(Some(answer)));
            answered.recv().map_or_else(|_| STOPPED.into(), reload::report)
        }),
    };
    let admin = admin::spawn(&config.admin_listen, subject)?;
    announce(&layout, config, &server.addresses, admin.addresses());
    forward_signals(signals, notify)?;
    readiness.enter(readiness::Stage::Ready);
    let result = server.wait(&notices, &readiness, &mut running, config.drain_timeout);
    admin.stop();
    if let Some(hooks) = server.hooks.take() {
        hooks.close(HOOKS_TIME);
    }
    if let Some(store) = server.store.take() {
        store.close();
    }
    result
}

/// Something that the main thread must hear.
enum Notice {
    /// The operator wants the server to stop. A second signal ends it at once.
    Signal,
    /// The same over the admin port, any number of times.
    Drain,
    /// The configuration is to be read anew.
    Reload(Option<ReloadAnswer>),
    /// A shard has ended, of itself or because it was told to.
    Ended(ShardId, io::Result<()>),
}

/// The shards, as the main thread sees them.
struct Server {
    post: Arc<Post>,
    control: Arc<Control>,
    shards_running: u16,
    addresses: Addresses,
    /// Absent when nothing is to be kept.
    store: Option<Store>,
    /// Absent in open mode.
    keys: Option<KeyRing>,
    /// Absent when no application is asked.
    hooks: Option<Hooks>,
}

/// Where a shard listens, or why it does not.
type Report = Result<Addresses, ServeError>;

/// What is spoken where.
type Addresses = Vec<(Port, SocketAddr)>;

/// What a shard's thread does on its way to serving, each once all shards have done what comes before.
enum Step {
    /// Take a descriptor table of its own.
    Split,
    /// Open its sockets; the store is open by then.
    Listen(Addresses, Option<Keys>),
}

/// What a shard's thread is given.
struct Seed {
    config: Config,
    core: CoreConfig,
    post: Arc<Post>,
    control: Arc<Control>,
    answers: admin::Answers,
    quotas: Arc<Quotas>,
    metrics: &'static Metrics,
    connections_max: usize,
    clock: Clock,
    /// Says that the executor exists, then where it listens.
    reports: Sender<Report>,
    /// What to do next.
    orders: Receiver<Step>,
    /// Absent without TLS.
    tls: Option<Arc<TlsConfigs>>,
    /// Absent when no room is durable.
    line: Option<Line>,
    /// Absent when no application is asked.
    hooks: Option<HookLine>,
    notify: Sender<Notice>,
}

impl Server {
    fn start(
        config: &Config,
        layout: &Layout,
        tls: Option<Arc<TlsConfigs>>,
        metrics: &'static Metrics,
        notify: &Sender<Notice>,
        answers: &admin::Answers,
    ) -> Result<Self, ServeError> {
        let shards = layout.shards();
        let post = Arc::new(Post::new(shards)?);
        let drain_ms = config.drain_timeout.as_millis() as u64;
        let control = Arc::new(Control::new(layout.max_connections, drain_ms.max(RETRY_AFTER_MS_MIN)));
        let quotas = Arc::new(Quotas::new());
        let mut entropy = Entropy::new();
        let clock = Clock::start();
        let rules = rules(config);
        let rung = post.clone();
        let ring: Arc<dyn Fn(ShardId) + Send + Sync> = Arc::new(move |shard| rung.ring(shard));
        let (port, ends) = store::lines(shards, ring.clone());
        let mut ends = ends.into_iter().map(|end| config.needs_store().then_some(end));
        let (hook_port, hook_lines) = hooks::lines(&config.hooks, &config.node, shards, ring, &metrics.hooks);
        let mut hook_lines = hook_lines.into_iter().map(|line| config.hooks.url.is_some().then_some(line));
        let mut lines = Vec::new();
        for (index, &cpu) in layout.cpus.iter().enumerate() {
            let shard = ShardId(index as u16);
            let (reports, heard) = flume::bounded(2);
            let (order, orders) = flume::bounded(1);
            let core = CoreConfig {
                shard,
                shards,
                limits: rules.limits.clone(),
                policies: rules.policies.clone(),
                permissions: rules.permissions.clone(),
                consults: rules.consults,
                has_store: config.needs_store(),
                node: config.node.as_str().into(),
                exchange_backlog_max: EXCHANGE_BACKLOG_MAX,
                seed: entropy.next() as u64,
            };
            let seed = Seed {
                config: config.clone(),
                core,
                post: post.clone(),
                control: control.clone(),
                answers: answers.clone(),
                quotas: quotas.clone(),
                metrics,
                connections_max: layout.connections_per_shard as usize,
                tls: tls.clone(),
                line: ends.next().flatten(),
                hooks: hook_lines.next().flatten(),
                clock: clock.clone(),
                reports,
                orders,
                notify: notify.clone(),
            };
            spawn(seed, cpu)?;
            lines.push((heard, order));
        }
        split_tables(&lines)?;
        let store = if config.needs_store() { Some(open_store(config, port, metrics)?) } else { None };
        let (keys, followers) = match config.auth {
            Auth::Open => (None, None),
            Auth::Token => KeyRing::start(&config.token, &metrics.keys).map(|(ring, keys)| (Some(ring), Some(keys)))?,
        };
        let hooks = if config.hooks.url.is_some() { Some(Hooks::start(hook_port)?) } else { None };
        let addresses = open_shards(config, &lines, followers.as_ref())?;
        Ok(Self { post, control, shards_running: shards, addresses, store, keys, hooks })
    }

    /// Waits for the end, and brings it about when told to.
    fn wait(
        &mut self,
        notices: &Receiver<Notice>,
        readiness: &Readiness,
        running: &mut Running,
        drain: Duration,
    ) -> Result<(), ServeError> {
        let mut deadline = Duration::MAX;
        let clock = Clock::start();
        loop {
            let left = deadline.saturating_sub(Duration::from_micros(clock.now().us)).min(A_DAY);
            match notices.recv_timeout(left) {
                Ok(Notice::Drain) if deadline != Duration::MAX => {}
                Ok(Notice::Signal | Notice::Drain) if deadline == Duration::MAX => {
                    tracing::info!(
                        drain_timeout_ms = drain.as_millis() as u64,
                        "stopping; a second signal ends at once"
                    );
                    readiness.enter(readiness::Stage::Draining);
                    self.control.advance(Stage::Draining, &self.post);
                    // What is not gone by then is reset, which takes a moment of its own.
                    deadline = Duration::from_micros(clock.now().us) + drain.saturating_sub(RESET_TIME);
                }
                Ok(Notice::Reload(answer)) => {
                    let outcome = running.reload(&self.post, self.store.as_ref(), self.keys.as_ref());
                    if let Some(answer) = answer {
                        // Whoever asked may have gone.
                        let _ = answer.try_send(outcome);
                    }
                }
                Ok(Notice::Signal | Notice::Drain) => std::process::exit(EXIT_BY_SECOND_SIGNAL),
                Ok(Notice::Ended(shard, result)) => {
                    result?;
                    debug_assert!(deadline != Duration::MAX, "shard {shard:?} ended without being told to");
                    self.shards_running -= 1;
                    if self.shards_running == 0 {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) if deadline == Duration::MAX => {}
                Err(RecvTimeoutError::Timeout) if self.control.stage() < Stage::Stopping => {
                    tracing::warn!("the drain timeout has passed; resetting what is left");
                    self.control.advance(Stage::Stopping, &self.post);
                    deadline += RESET_TIME;
                }
                Err(_) => return Ok(()),
            }
        }
    }
}

/// Waits for every executor, then has each shard take a descriptor table of its own.
fn split_tables(lines: &[(Receiver<Report>, Sender<Step>)]) -> Result<(), ServeError> {
    for (heard, _) in lines {
        heard.recv().map_err(ended)??;
    }
    for (heard, order) in lines {
        // A thread that has ended says so in the next line.
        let _ = order.send(Step::Split);
        heard.recv().map_err(ended)??;
    }
    Ok(())
}

/// Opens the store, from which the shards' tables hold nothing.
fn open_store(config: &Config, port: StorePort, metrics: &'static Metrics) -> Result<Store, ServeError> {
    let store = StoreConfig {
        dir: config.data_dir.clone(),
        policies: config.policies.clone(),
        commit_interval: config.store.commit_interval,
        min_free_bytes: config.store.min_free_bytes,
        maintenance_interval: config.store.maintenance_interval,
    };
    Ok(Store::open(store, port, &metrics.store)?)
}

fn ended(_: flume::RecvError) -> ServeError {
    ServeError::Executor("its thread ended; too little memory may be locked (ulimit -l)".into())
}

/// Lets the shards open their sockets: the first decides ports that were left open.
fn open_shards(config: &Config, lines: &[(Receiver<Report>, Sender<Step>)], keys: Option<&Keys>) -> Report {
    let http = config.listen.iter().map(|&address| (Port::Http, address));
    let mut addresses: Vec<_> = http.chain(config.tcp_listen.iter().map(|&address| (Port::Lines, address))).collect();
    for &(port, address) in &addresses {
        socket::check_free(address).map_err(|error| ServeError::Listen { address, flag: flag(port), error })?;
    }
    for (heard, order) in lines {
        // A thread that has ended says so in the next line.
        let _ = order.send(Step::Listen(addresses.clone(), keys.cloned()));
        addresses = heard.recv().map_err(ended)??;
    }
    Ok(addresses)
}

fn spawn(seed: Seed, cpu: usize) -> Result<(), ServeError> {
    LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name("hubbub-shard")
        .io_memory(EXECUTOR_IO_MEMORY_BYTES)
        .preempt_timer(EXECUTOR_PREEMPT)
        .spawn(move || run_shard(seed))
        .map(|_thread| ())
        .map_err(|error| ServeError::Executor(error.to_string()))
}

/// The life of a shard's thread.
async fn run_shard(seed: Seed) {
    // The main thread ends the process if it hears nothing more; sending fails only when it has ended itself.
    let _ = seed.reports.send(Ok(Vec::new()));
    let Ok(Step::Split) = seed.orders.recv() else { return };
    let split = table::own_descriptor_table().map(|()| Vec::new()).map_err(ServeError::from);
    let _ = seed.reports.send(split);
    let Ok(Step::Listen(addresses, keys)) = seed.orders.recv() else { return };
    let shard = seed.core.shard;
    let (reports, notify) = (seed.reports.clone(), seed.notify.clone());
    match open_shard(seed, &addresses, keys) {
        Ok((shell, addresses)) => {
            let _ = reports.send(Ok(addresses));
            let result = shell.run().await;
            let _ = notify.send(Notice::Ended(shard, result));
        }
        Err(error) => {
            let _ = reports.send(Err(error));
        }
    }
}

/// Opens everything that belongs to this shard alone.
fn open_shard(
    seed: Seed,
    addresses: &[(Port, SocketAddr)],
    keys: Option<Keys>,
) -> Result<(Shard, Addresses), ServeError> {
    let mut ring = Ring::new(&RingConfig::default()).map_err(|error| ServeError::Ring(probe::explain(&error)))?;
    let shard = seed.core.shard;
    let desk = Desk::new(seed.config.auth, keys, seed.hooks, seed.post.clone(), shard);
    let mailbox = Mailbox::new(seed.post, shard);
    ring.set_doorbell(mailbox.bell());
    let mut acceptor = Acceptor::new(seed.connections_max)?;
    let mut bound = Vec::new();
    for &(port, address) in addresses {
        let listen = || -> io::Result<_> {
            let socket = socket::listen(address)?;
            let address = socket::local_address(&socket)?;
            Ok((socket, address))
        };
        let (socket, address) = listen().map_err(|error| ServeError::Listen { address, flag: flag(port), error })?;
        acceptor.listen(socket, port, &mut ring);
        bound.push((port, address));
    }
    let metrics = &seed.metrics.shards[shard.index()];
    metrics.thread.set(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs().into());
    // For audit records and for the application.
    let config = &seed.config;
    let names_peers = config.auth == Auth::Token || config.hooks.url.is_some() || config.audit_file.is_some();
    let gate = Gate::new(seed.quotas, Arc::new(seed.config.gate.clone()), names_peers);
    let entrance = Entrance { gate, desk, tls: seed.tls };
    let hub = Hub::new(seed.core, &seed.config, entrance, metrics, seed.clock.now());
    let beat = Beat::new(seed.config.coalesce_max.as_micros() as u64);
    let shell = Shard {
        ring,
        hub,
        mailbox,
        store: StoreLine::new(seed.line),
        answers: seed.answers,
        acceptor,
        control: seed.control,
        clock: seed.clock,
        beat,
        turn: Turn::default(),
    };
    Ok((shell, bound))
}

/// Hands signals to the main thread.
fn forward_signals(mut signals: Signals, notify: Sender<Notice>) -> io::Result<()> {
    let forward = move || {
        for signal in signals.forever() {
            let notice = if signal == SIGHUP { Notice::Reload(None) } else { Notice::Signal };
            if notify.send(notice).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("hubbub-signals".into()).spawn(forward).map(|_| ())
}

/// Tells the operator where the server is, and how to try it.
fn announce(layout: &Layout, config: &Config, addresses: &[(Port, SocketAddr)], admin: &[SocketAddr]) {
    let (web, lines) = if config.tls.certificate_file.is_some() { ("https", "tls://") } else { ("http", "") };
    println!("hubbub {}: {}", env!("CARGO_PKG_VERSION"), layout.explanation);
    for (port, address) in addresses {
        match port {
            Port::Http => println!("  web client and WebSocket  {web}://{address}/"),
            Port::Lines => println!("  JSON lines over TCP       {lines}{address}"),
        }
    }
    for address in admin {
        println!("  metrics and health        http://{address}/metrics");
    }
    if let Some((_, address)) = addresses.iter().find(|(port, _)| *port == Port::Http) {
        let tokens = if config.auth == Auth::Token { ", with tokens that `hubbub token mint` makes" } else { "" };
        println!("Try it: open {web}://{address}/ in two tabs{tokens}.");
    }
}

fn flag(port: Port) -> &'static str {
    match port {
        Port::Http => "--listen",
        Port::Lines => "--tcp-listen",
    }
}

/// What glommio registers for each executor's file I/O, of which a shard has none. Its default would not fit the
/// memory that a process may usually lock.
const EXECUTOR_IO_MEMORY_BYTES: usize = 64 * 1024;
/// When glommio interrupts its tasks to look after its own I/O, of which a shard has none. Never, for it may lose the
/// shard: if the timer fires after it was set and before a task was run, as it does on a busy CPU, the executor takes
/// it that there is nothing to run and sleeps until something wakes it (`run_task_queues` in glommio 0.9).
const EXECUTOR_PREEMPT: Duration = Duration::from_secs(86_400);
const NOTICES_MAX: usize = 64;
const STOPPED: &str = "the server stops";
const RETRY_AFTER_MS_MIN: u64 = 1_000;
/// What the application may still be told of when all connections are gone.
const HOOKS_TIME: Duration = Duration::from_secs(2);
const RESET_TIME: Duration = Duration::from_millis(500);
const A_DAY: Duration = Duration::from_secs(86_400);
/// 128 + SIGINT, as shells have it.
const EXIT_BY_SECOND_SIGNAL: i32 = 130;
