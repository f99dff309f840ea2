//! What a seed decides before anything happens: sizes, bounds, speeds.

use std::sync::Arc;
use std::time::Duration;

use hubbub::chat::outbox::OutboxLimits;
use hubbub::chat::{Consults, CoreConfig};
use hubbub::ids::{Namespace, RoomName, ShardId};
use hubbub::limits::{Limits, SlowConsumerPolicy};
use hubbub::policy::{Commit, HistoryMode, Pattern, RoomPolicies, RoomPolicy};

use crate::faults::FaultKind;
use crate::rng::Rng;

/// The shape of one world.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shards: u16,
    pub rooms: Vec<RoomName>,
    pub relay_rooms: Vec<RoomName>,
    pub users: usize,
    pub clients: usize,
    /// Steps of the wild part; afterwards the world is brought to rest.
    pub steps: usize,
    /// Batches between two shards, for each queue.
    pub mailbox_capacity: usize,
    pub exchange_backlog_max: usize,
    /// Longest time that a batch travels.
    pub delay_us_max: u64,
    pub outbox: OutboxLimits,
    pub limits: Limits,
    /// One in how many steps takes seconds.
    pub patience: usize,
    /// Out of a hundred acts of a client, how many are bursts of messages.
    pub bursts: usize,
    /// One in how many acts of a client ends its connection; four times as often it moves between rooms.
    pub restlessness: usize,
    /// Out of eight clients, how many read slowly.
    pub slow_of_eight: usize,
    /// Whether the core is told of a close at once or only when all was flushed.
    pub tells_closed_at_once: bool,
    /// Whether bytes rather than messages bound the history, so that the oracle cannot foretell it.
    /// Messages and bytes that a memory room keeps.
    pub history_size: usize,
    pub history_bytes: usize,
    pub history_bytes_tight: bool,
    /// Whether it is asked who everybody is, and there are those who may not do everything.
    pub guarded: bool,
    /// Whether the world ends by a drain.
    pub drains: bool,
    /// By room.
    pub keeps: Vec<Keep>,
    pub store: StorePlan,
    /// When the server dies or stops and starts again: the step, and whether it is a crash.
    pub stops: Vec<(usize, bool)>,
}

/// What is kept of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Memory,
    Durable(Commit),
}

/// How slow the store is, and what happens to it.
#[derive(Clone, Debug, Default)]
pub struct StorePlan {
    pub apply_us_max: u64,
    pub sync_us_max: u64,
    /// How long a batch for which nobody waits is not synced.
    pub interval_us_max: u64,
    pub read_us_max: u64,
    pub tell_us_max: u64,
    /// Rooms of which retention takes nothing.
    pub kept: Vec<RoomName>,
    /// Whether it is full or fails at times.
    pub ill: bool,
    /// Whether at times nothing can be handed over.
    pub busy: bool,
    /// Out of a hundred questions, how many cannot be answered.
    pub unreadable: usize,
}

impl StorePlan {
    /// Whether what is said in a durable room, or asked of one, may be refused.
    pub fn fails(&self) -> bool {
        self.ill || self.unreadable > 0
    }

    fn new(rng: &mut Rng) -> Self {
        let delay = |rng: &mut Rng| *rng.pick(&[0, 300, 20_000, 500_000]);
        Self {
            apply_us_max: delay(rng),
            sync_us_max: delay(rng),
            interval_us_max: *rng.pick(&[20_000, 1_000_000]),
            read_us_max: delay(rng),
            tell_us_max: delay(rng),
            kept: Vec::new(),
            ill: rng.chance(1, 8),
            busy: rng.chance(1, 4),
            unreadable: if rng.chance(1, 10) { 10 } else { 0 },
        }
    }
}

impl Plan {
    pub fn new(seed: u64, rng: &mut Rng) -> Self {
        let policy = if rng.chance(1, 2) { SlowConsumerPolicy::Skip } else { SlowConsumerPolicy::Disconnect };
        let history_bytes_tight = rng.chance(1, 8);
        let history_size = *rng.pick(&[0, 4, 10, 70, 100, 1_000]);
        let limits = Limits {
            heartbeat_interval: Duration::from_millis(*rng.pick(&[3_000, 10_000, 30_000])),
            heartbeat_adaptive: rng.chance(1, 4),
            handshake_timeout: Duration::from_millis(rng.range(1_000, 10_000)),
            presence_grace: Duration::from_millis(*rng.pick(&[500, 2_000, 5_000])),
            outbox_stall: Duration::from_millis(*rng.pick(&[500, 3_000, 10_000])),
            slow_consumer: policy,
            ack_timeout: Duration::from_millis(*rng.pick(&[100, 500, 1_500])),
            ack_timeout_max: Duration::from_millis(*rng.pick(&[800, 2_500])),
            ack_attempts_max: *rng.pick(&[1, 2, 3, 5]),
            session_ttl: Duration::from_millis(*rng.pick(&[1_000, 15_000, 120_000, 120_000])),
            ..Limits::default()
        };
        // Room for everything, for a chunk of a replay, for a few messages.
        let bytes_max = *rng.pick(&[1 << 20, rng.clone().range(9_000, 20_000), rng.clone().range(1_000, 8_000)]);
        let outbox = OutboxLimits { bytes_max: bytes_max as usize, ..OutboxLimits::from(&limits) };
        let mut plan = Self {
            seed,
            shards: rng.range(1, 5) as u16,
            rooms: names(Namespace::Chat, rng.range(1, 4)),
            relay_rooms: names(Namespace::Relay, rng.range(1, 2)),
            users: rng.range(2, 8) as usize,
            clients: rng.range(2, 14) as usize,
            steps: rng.range(200, 1_200) as usize,
            mailbox_capacity: *rng.pick(&[1, 1, 2, 8, 64]),
            exchange_backlog_max: *rng.pick(&[1, 1, 2, 16, 1_024]),
            delay_us_max: *rng.pick(&[0, 300, 20_000, 1_000_000]),
            outbox,
            limits,
            patience: *rng.pick(&[400, 400, 400, 50]),
            bursts: 1,
            restlessness: *rng.pick(&[12, 40, 200]),
            slow_of_eight: *rng.pick(&[0, 1, 4]),
            tells_closed_at_once: rng.chance(1, 2),
            history_size,
            history_bytes: if history_bytes_tight { 700 } else { 1 << 20 },
            history_bytes_tight,
            guarded: rng.clone().chance(1, 3),
            drains: rng.chance(1, 4),
            keeps: Vec::new(),
            store: StorePlan::new(rng),
            stops: Vec::new(),
        };
        let durable = *rng.pick(&[0, 2, 4]);
        let keep = |rng: &mut Rng| match rng.below(4) {
            n if n >= durable => Keep::Memory,
            0 => Keep::Durable(Commit::Interval),
            _ => Keep::Durable(Commit::Fsync),
        };
        plan.keeps = plan.rooms.iter().map(|_| keep(rng)).collect();
        plan.store.kept = plan.rooms.iter().filter(|_| rng.chance(2, 3)).cloned().collect();
        for _ in 0..*rng.pick(&[0, 0, 1, 2, 4]) {
            plan.stops.push((rng.below(plan.steps), rng.chance(3, 4)));
        }
        if rng.chance(1, 6) {
            plan.crowd(rng);
        }
        plan
    }

    /// All in one room, and so much is said that its history runs away from whoever reads slowly.
    fn crowd(&mut self, rng: &mut Rng) {
        self.rooms.truncate(1);
        self.keeps.truncate(1);
        self.clients = 12;
        self.steps = 1_000;
        self.history_size = 100;
        self.history_bytes = 1 << 20;
        self.history_bytes_tight = false;
        self.outbox.bytes_max = rng.range(9_000, 16_000) as usize;
        self.slow_of_eight = 4;
        self.restlessness = 12;
        self.bursts = 8;
    }

    /// Changes the plan so that the fault will be felt: whoever leaves right after it could not tell of it.
    pub fn suit(&mut self, fault: FaultKind) {
        // Somebody must leave, so that it can be missed.
        self.restlessness = if fault == FaultKind::DropPresence { 200 } else { 1_000 };
        self.stops.clear();
        if fault == FaultKind::ForgetAck {
            // What is not acknowledged in time is given up, and that moves the cursor too.
            self.limits.ack_attempts_max = 5;
            self.limits.ack_timeout = Duration::from_millis(1_500);
        }
        if fault == FaultKind::ForgetRoom {
            self.restlessness = 40;
            self.store.unreadable = 0;
        }
        if fault.is_of_the_store() {
            self.keeps.fill(Keep::Durable(Commit::Fsync));
            self.store.ill = false;
            self.store.unreadable = 0;
            self.store.kept = self.rooms.clone();
            self.stops = vec![(self.steps / 3, true), (2 * self.steps / 3, true)];
        }
        if fault == FaultKind::ForgetSanction {
            self.guarded = true;
            self.clients = 2;
            self.rooms.truncate(1);
            self.keeps.truncate(1);
            // Long enough for many bans, and for whoever is banned to come back after each restart.
            self.steps = 6_000;
            self.stops = (1..15).map(|n| (n * 400, n % 2 == 0)).collect();
            self.store.ill = false;
            self.store.unreadable = 0;
        }
        if fault == FaultKind::DropGap {
            self.outbox.policy = SlowConsumerPolicy::Skip;
            self.slow_of_eight = 4;
        } else {
            self.outbox.policy = SlowConsumerPolicy::Disconnect;
            self.slow_of_eight = 0;
        }
    }

    /// What is kept of which room.
    pub fn policies(&self) -> RoomPolicies {
        let memory = RoomPolicies::memory(self.history_size, self.history_bytes).default;
        let policy = |keep: &Keep| match keep {
            Keep::Memory => memory,
            Keep::Durable(commit) => RoomPolicy { commit: *commit, ..RoomPolicy::new(HistoryMode::Durable) },
        };
        let rules = self.rooms.iter().zip(&self.keeps);
        RoomPolicies {
            rules: rules.map(|(room, keep)| (Pattern::new(room.as_str()), policy(keep))).collect(),
            default: memory,
        }
    }

    pub fn is_durable(&self, room: usize) -> bool {
        self.keeps[room] != Keep::Memory
    }

    pub fn session_ttl_ms(&self) -> u64 {
        self.limits.session_ttl.as_millis() as u64
    }

    /// How long a consumer may take to acknowledge what it was sent so many times.
    pub fn backoff_ms(&self, attempt: u32) -> u64 {
        let doubled = (self.limits.ack_timeout.as_millis() as u64) << attempt.saturating_sub(1);
        doubled.min(self.limits.ack_timeout_max.as_millis() as u64)
    }

    /// `life`: how often the server has started before.
    pub fn core_config(&self, shard: ShardId, life: u64) -> CoreConfig {
        CoreConfig {
            shard,
            shards: self.shards,
            limits: self.limits.clone(),
            policies: Arc::new(self.policies()),
            permissions: Arc::default(),
            consults: Consults { connect: self.guarded, ..Consults::default() },
            has_store: true,
            node: Arc::from("sim"),
            exchange_backlog_max: self.exchange_backlog_max,
            seed: self.seed ^ (u64::from(shard.0) << 48) ^ (life << 32),
        }
    }

    pub fn skips(&self) -> bool {
        self.outbox.policy == SlowConsumerPolicy::Skip
    }
}

fn names(namespace: Namespace, count: u64) -> Vec<RoomName> {
    (0..count).map(|n| RoomName::new(namespace, &format!("room-{n}")).expect("a fair name")).collect()
}
