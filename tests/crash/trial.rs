//! A server that is killed and started again under load, with clients that come back each time.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flume::{Receiver, Sender};
use rustix::process::{Signal, kill_process};

use crate::harness::{DataDir, Deadline, Launch, Server};
use crate::lines::PATIENCE;
use crate::observation::Observation;
use crate::oracle::{Mode, Oracle, Tally};
use crate::publisher::Publisher;
use crate::reader::{self, History};
use crate::rng::Rng;
use crate::subscriber::Subscriber;

/// One server's data directory over all its lives, and everyone who talks there.
pub struct Trial {
    launch: Launch,
    seed: u64,
    rng: Rng,
    rounds: u64,
    oracle: Oracle,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    /// Holds the configuration.
    _folder: DataDir,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill<'a> {
    /// By a signal, after some acknowledgements and a while.
    AtRandom,
    /// By itself, at a step of its work: the step's name, and the pass at which it ends. Stopped after a while if it
    /// does not, for that has steps as well.
    AtStep(&'a str, u64),
}

/// When a signal is sent: after so much was heard, and some work.
struct Moment {
    signal: Signal,
    acks: u64,
    observations: u64,
    spins: u64,
}

impl Trial {
    /// Nobody has said anything yet.
    pub fn new(seed: u64) -> Self {
        let folder = DataDir::new();
        let rules = folder.path().join("hubbub.toml");
        fs::write(&rules, RULES).expect("a file can be written");
        let launch = Launch::new().arguments(["--shards=2", &format!("--config={}", rules.display())]);
        let mut rng = Rng::new(seed);
        let rooms: Vec<Arc<str>> = ROOMS.iter().map(|(room, _)| (*room).into()).collect();
        let mut publishers = Vec::new();
        for (index, window) in WINDOWS.into_iter().enumerate() {
            // Each in some of the rooms, so that a room has several publishers and a publisher several rooms.
            let some = (0..ROOMS_EACH).map(|step| Arc::clone(&rooms[(index + step) % rooms.len()])).collect();
            publishers.push(Publisher::new(&format!("publisher{index}"), Rng::new(rng.next_u64()), some, window));
        }
        let subscriber =
            |index| Subscriber::new(&format!("subscriber{index}"), Rng::new(rng.next_u64()), rooms.clone());
        let subscribers = (0..SUBSCRIBERS).map(subscriber).collect();
        let oracle = Oracle::new(ROOMS.iter().map(|(room, mode)| ((*room).into(), *mode)));
        Self { launch, seed, rng, rounds: 0, oracle, publishers, subscribers, _folder: folder }
    }

    /// How its server is started.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Where its server stores.
    pub fn data_dir(&self) -> &Path {
        self.launch.data_dir()
    }

    /// The disk has lost something: promises are no more, and what is left is still as it was said.
    pub fn forgive_losses(&mut self) {
        self.oracle.forgive_losses();
    }

    /// Starts the server, compares what it kept with what was told, and lets everyone talk until it is killed. Gives
    /// whether it was.
    pub fn round(&mut self, kill: Kill<'_>) -> bool {
        self.rounds += 1;
        let (mut server, moment) = match kill {
            Kill::AtRandom => {
                let server = self.launch.start();
                self.compare(&server);
                (server, self.moment())
            }
            Kill::AtStep(step, pass) => {
                let launch = self.launch.clone().variable("HUBBUB_FAULT", &format!("{step}:{pass}"));
                let moment = Moment { signal: Signal::TERM, acks: STEP_ACKS, observations: u64::MAX, spins: 0 };
                match launch.try_start() {
                    Ok(server) => (server, moment),
                    // It is a step of the start.
                    Err((status, said)) => return was_killed(status, &said),
                }
            }
        };
        self.talk(&server, u64::MAX, &moment);
        let status = server.wait_exit();
        self.must_hold();
        was_killed(status, server.stderr())
    }

    /// Lets everyone say what is left to say, stops the server and starts it again, lets everyone see what is left to
    /// see, and compares all of it with all that was told.
    pub fn finish(mut self) -> Tally {
        let mut server = self.launch.start();
        self.compare(&server);
        let moment = Moment { signal: Signal::TERM, acks: u64::MAX, observations: u64::MAX, spins: 0 };
        self.talk(&server, LAST_MESSAGES, &moment);
        let status = server.wait_exit();
        assert_eq!(status.code(), Some(0), "after SIGTERM: {}", server.stderr());
        self.must_hold();

        let server = self.launch.start();
        self.oracle.forget_what_was_read();
        let histories = self.compare(&server);
        let last = |history: &History| Some((Arc::clone(&history.room), history.messages.last()?.seq));
        let goal: BTreeMap<Arc<str>, u64> = histories.iter().filter_map(last).collect();
        self.catch_up(server.lines(), &goal);
        self.oracle.check_leaps();
        self.oracle.check_keys();
        self.must_hold();
        let tally = self.oracle.tally();
        let is_so = self.publishers.iter().all(Publisher::is_done) && tally.sent > 0;
        assert!(is_so, "not everything was answered: {tally:?}; {}", self.again());
        server.stop();
        tally
    }

    /// Compares what the server kept since the last time with all that was told.
    fn compare(&mut self, server: &Server) -> Vec<History> {
        let kept = ROOMS.iter().filter(|(_, mode)| *mode != Mode::Memory);
        let rooms = kept.map(|(room, mode)| {
            let room = Arc::<str>::from(*room);
            let after = if *mode == Mode::Trimmed { 0 } else { self.oracle.read_up_to(&room) };
            (room, after)
        });
        let rooms: Vec<(Arc<str>, u64)> = rooms.collect();
        let histories = reader::read(server.lines(), &rooms);
        histories.iter().for_each(|history| self.oracle.compare(history));
        self.must_hold();
        histories
    }

    /// Lets everyone talk, each publisher saying so many new messages. Sends the server the signal when the moment has
    /// come, or when all was said and answered.
    fn talk(&mut self, server: &Server, new: u64, moment: &Moment) {
        let (address, pid) = (server.lines(), server.pid());
        let signalled = AtomicBool::new(false);
        let signal = || {
            // A second one would end a drain.
            if !signalled.swap(true, Ordering::Relaxed) {
                // It may have gone by itself, which its exit will show.
                let _ = kill_process(pid, moment.signal);
            }
        };
        let signal = &signal;
        let (told, heard) = flume::bounded(OBSERVATIONS_MAX);
        let Self { publishers, subscribers, oracle, .. } = self;
        std::thread::scope(|scope| {
            for subscriber in subscribers {
                let told = told.clone();
                scope.spawn(move || subscriber.listen(address, &told, None));
            }
            let publish =
                |publisher: &'_ mut Publisher, told: Sender<Observation>| publisher.publish(address, &told, new);
            let publishing = publishers.iter_mut().map(|publisher| {
                let told = told.clone();
                scope.spawn(move || publish(publisher, told))
            });
            let publishing: Vec<_> = publishing.collect();
            drop(told);
            scope.spawn(move || {
                publishing.into_iter().for_each(|publisher| drop(publisher.join()));
                signal();
            });
            hear(&heard, oracle, moment, signal);
        });
    }

    /// Lets every subscriber see all up to `goal`.
    fn catch_up(&mut self, address: SocketAddr, goal: &BTreeMap<Arc<str>, u64>) {
        let (told, heard): (Sender<Observation>, _) = flume::bounded(OBSERVATIONS_MAX);
        let Self { subscribers, oracle, .. } = self;
        std::thread::scope(|scope| {
            for subscriber in subscribers.iter_mut() {
                let told = told.clone();
                scope.spawn(move || subscriber.listen(address, &told, Some(goal)));
            }
            drop(told);
            heard.iter().for_each(|observation| oracle.observe(observation));
        });
        let behind: Vec<String> = self.subscribers.iter().flat_map(|subscriber| subscriber.behind(goal)).collect();
        assert!(behind.is_empty(), "{behind:#?}; {}", self.again());
    }

    fn moment(&mut self) -> Moment {
        let spins = self.rng.range(0, SPINS_MAX);
        // A quarter while clients come back, the others while they talk.
        if self.rng.chance(1, 4) {
            return Moment { signal: Signal::KILL, acks: u64::MAX, observations: self.rng.range(1, 60), spins };
        }
        Moment { signal: Signal::KILL, acks: self.rng.range(1, ACKS_MAX), observations: u64::MAX, spins }
    }

    fn must_hold(&self) {
        assert!(self.oracle.violations().is_empty(), "{:#?}; {}", self.oracle.violations(), self.again());
    }

    fn again(&self) -> String {
        let Self { seed, rounds, .. } = self;
        format!("in round {rounds}; HUBBUB_CRASH_SEED={seed} chooses the same, but for the timing of threads")
    }
}

/// Hands all that is told to the oracle, until nobody is left to tell. Signals when the moment has come, or will not.
fn hear(heard: &Receiver<Observation>, oracle: &mut Oracle, moment: &Moment, signal: impl Fn()) {
    let deadline = Deadline::after(4 * PATIENCE);
    let (mut acks, mut observations) = (0, 0);
    while let Ok(observation) = heard.recv() {
        acks += u64::from(matches!(observation, Observation::Acked { .. }));
        observations += 1;
        oracle.observe(observation);
        if acks >= moment.acks || observations >= moment.observations || deadline.left().is_none() {
            (0..moment.spins).for_each(|turn| _ = black_box(turn));
            signal();
            return heard.iter().for_each(|observation| oracle.observe(observation));
        }
    }
}

/// Whether a process was killed, which must be so if it has not ended well.
fn was_killed(status: ExitStatus, said: &str) -> bool {
    let killed = status.signal() == Some(Signal::KILL.as_raw());
    assert!(killed || status.success(), "the server ended ({status}) with: {said}");
    killed
}

/// The rooms of a trial.
const ROOMS: [(&str, Mode); 7] = [
    ("durable-1", Mode::Durable),
    ("interval", Mode::Interval),
    ("durable-2", Mode::Durable),
    ("durable-3", Mode::Durable),
    ("memory", Mode::Memory),
    ("trimmed", Mode::Trimmed),
    ("durable-4", Mode::Durable),
];
/// What makes them so. Sessions are kept at the same interval, so most are there after a crash.
const RULES: &str = r#"
[store]
commit_interval = "50ms"
maintenance_interval = "50ms"
[[rooms]]
pattern = "memory"
history = "memory"
[[rooms]]
pattern = "trimmed"
history_size = 100
[[rooms]]
pattern = "interval"
commit = "interval"
"#;
/// Messages in flight, for each publisher.
const WINDOWS: [usize; 4] = [1, 4, 16, 16];
const ROOMS_EACH: usize = 3;
const SUBSCRIBERS: usize = 3;
/// Kills come after at most so many acknowledgements.
const ACKS_MAX: u64 = 4_000;
/// Some milliseconds of work.
const SPINS_MAX: u64 = 2_000_000;
/// Steps of a commit are passed before so many acknowledgements, steps of a stop after them.
const STEP_ACKS: u64 = 2_000;
/// What each publisher says after the last crash.
const LAST_MESSAGES: u64 = 20;
const OBSERVATIONS_MAX: usize = 10_000;
