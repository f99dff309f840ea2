//! A world: some shards, the queues between them, clients, and a clock that moves only here.
//!
//! A world is wild for a number of steps, in which a seed decides who does what next. Then it is brought to rest and
//! judged, everybody is counted once more, and at last all leave. Nothing in it depends on anything but its plan.

use hubbub::chat::Input;
use hubbub::ids::ShardId;
use hubbub::limits::ROOM_IDLE_KEEP_MS;

use crate::client::{Act, Client, Inbound, Session};
use crate::env::Env;
use crate::faults::Fault;
use crate::link::Link;
use crate::mailbox::Mailbox;
use crate::oracle;
use crate::outsiders::OUTSIDERS;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::seen::Seen;
use crate::shell::{Chore, Effect, Lane, Shell};
use crate::truth::Author;

/// Everything there is.
#[derive(Debug)]
pub struct World {
    pub env: Env,
    pub shells: Vec<Shell>,
    /// By sender, then by receiver.
    lanes: Vec<Vec<Lane>>,
    pub clients: Vec<Client>,
    errands: Vec<Errand>,
}

/// What came of a world.
#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<String>,
    pub seen: Seen,
    pub trace: String,
    /// The harness's own fault was committed.
    pub fault_done: bool,
    pub plan: Plan,
}

/// Something that could happen at a shard now.
#[derive(Clone, Copy, Debug)]
enum Errand {
    Chore(Chore),
    Delivery {
        from: usize,
    },
    Request {
        from: usize,
    },
    /// The store says something.
    Log,
}

/// Lives through the world of one seed.
pub fn run(seed: u64, fault: Option<Fault>, traced: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut plan = Plan::new(seed, &mut rng);
    if let Some(fault) = &fault {
        plan.suit(fault.kind);
    }
    let mut world = World::new(plan.clone(), rng, fault, traced);
    world.live();
    let mut env = world.env;
    (env.seen.stored_pages, env.seen.trims) = (env.store.pages, env.store.trims);
    Outcome {
        violation: env.violation().cloned(),
        seen: env.seen,
        fault_done: env.fault.is_some_and(|fault| fault.done),
        trace: env.trace.text,
        plan,
    }
}

impl World {
    fn new(plan: Plan, rng: Rng, fault: Option<Fault>, traced: bool) -> Self {
        let mut env = Env::new(plan, rng, fault, traced);
        let mut clients: Vec<Client> = (0..env.plan.clients).map(|index| Client::new(index, &mut env)).collect();
        for user in OUTSIDERS.iter().filter(|_| env.plan.guarded) {
            clients.push(Client::named(clients.len(), (*user).into(), None, false, false));
        }
        let mut world = Self { env, shells: Vec::new(), lanes: Vec::new(), clients, errands: Vec::new() };
        world.start();
        world
    }

    /// The server starts, on the store as it is.
    pub fn start(&mut self) {
        let ids: Vec<ShardId> = (0..self.env.plan.shards).map(ShardId).collect();
        self.shells = ids.iter().map(|id| Shell::new(*id, &self.env)).collect();
        let capacity = self.env.plan.mailbox_capacity;
        let lane = || Lane { deliveries: Mailbox::new(capacity), requests: Mailbox::new(capacity) };
        self.lanes = ids.iter().map(|_| ids.iter().map(|_| lane()).collect()).collect();
        self.env.store.start(self.env.plan.shards);
        // The sessions that were kept come before anybody asks for one.
        for shard in 0..self.shells.len() {
            while let Some(event) = self.env.store.take_event(shard) {
                self.shells[shard].give(Input::Log(event), &mut self.env);
            }
        }
    }

    fn live(&mut self) {
        let acts: [fn(&mut Self); 5] =
            [Self::be_wild, Self::come_to_rest, oracle::judge, oracle::call_the_roll, Self::end];
        for act in acts {
            act(self);
            if self.env.violation().is_some() {
                return;
            }
        }
    }

    fn be_wild(&mut self) {
        for step in 0..self.env.plan.steps as u64 {
            self.env.step = step;
            self.env.store.misbehave(self.env.now.us);
            if let Some((_, crash)) = self.env.plan.stops.iter().find(|(at, _)| *at as u64 == step).copied() {
                self.restart(crash);
            }
            if self.env.rng.chance(1, 60) {
                self.order_letters();
            }
            let us = match self.env.rng.below(self.env.plan.patience) {
                0 => self.env.rng.range(300_000, 2_500_000),
                1..10 => self.env.rng.range(5_000, 200_000),
                _ => self.env.rng.range(0, 400),
            };
            self.env.pass(us);
            if self.env.rng.chance(1, 2) {
                let client = self.env.rng.below(self.clients.len());
                self.act(client);
            }
            for _ in 0..self.env.rng.below(6) {
                let shard = self.env.rng.below(self.shells.len());
                self.run_errand(shard, true);
            }
            if self.env.violation().is_some() {
                return;
            }
        }
    }

    /// A client does what it likes.
    fn act(&mut self, client: usize) {
        let busy = self.inbound_of(client).is_some_and(|inbound| inbound.len() > INBOUND_MAX);
        if busy {
            return;
        }
        match self.clients[client].act(&mut self.env) {
            Act::Nothing => {}
            Act::Connect(kind, inbound) => {
                let shard = self.env.rng.below(self.shells.len());
                self.connect(client, shard, kind, inbound);
            }
            Act::Send(inbound) => self.send(client, inbound),
            Act::Abort => self.abort(client),
        }
    }

    pub fn connect(&mut self, client: usize, shard: usize, kind: hubbub::chat::ConnKind, inbound: Vec<Inbound>) {
        let who = (self.clients[client].author(), self.clients[client].slow);
        let mut limits = self.env.plan.outbox;
        if self.clients[client].index >= self.env.plan.clients {
            // Whoever comes to look must not fall for its own large questions.
            limits.bytes_max = usize::MAX / 2;
        }
        let slot = self.shells[shard].open(who, limits, kind, &mut self.env);
        self.clients[client].link = Some((shard, slot));
        self.send(client, inbound);
    }

    pub fn send(&mut self, client: usize, inbound: Vec<Inbound>) {
        let name = client;
        for one in &inbound {
            self.env.note(|| format!("client {name} sends {one:?}"));
        }
        if let Some(queue) = self.inbound_of(client) {
            queue.extend(inbound);
        }
    }

    fn inbound_of(&mut self, client: usize) -> Option<&mut std::collections::VecDeque<Inbound>> {
        let (shard, slot) = self.clients[client].link?;
        self.shells[shard].link_mut(slot).map(|link| &mut link.inbound)
    }

    fn abort(&mut self, client: usize) {
        // The server may not notice for long.
        let silently = self.env.rng.chance(1, 4);
        self.env.note(|| format!("client {client} vanishes, silently {silently}"));
        if let Some((shard, slot)) = self.clients[client].link
            && let Some(link) = self.shells[shard].link_mut(slot)
            && !silently
        {
            link.vanish(&mut self.env);
        }
        self.clients[client].ended(None, true, &mut self.env);
    }

    /// A connection whose session has gone to another one is closed.
    fn check_replaced(&mut self, client: usize) {
        let Some(author) = self.clients[client].replaced.take() else { return };
        let mut links = self.shells.iter().flat_map(Shell::links);
        let is_open = |link: &&Link| link.author == author && link.closing.is_none() && !link.gone;
        if links.any(|link| is_open(&link)) {
            self.env.fail(|| format!("{author:?} is open, and its session is another's"));
        }
    }

    /// Connections that their clients have given up, and of which the server does not know.
    fn cut_forgotten(&mut self) {
        let current: Vec<Author> =
            self.clients.iter().filter(|client| client.link.is_some()).map(Client::author).collect();
        let links = self.shells.iter_mut().flat_map(Shell::links_mut);
        for link in links.filter(|link| !current.contains(&link.author)) {
            link.vanish(&mut self.env);
        }
    }

    /// One thing happens at a shard, if there is anything to do. When `wild`, slow clients seldom read.
    fn run_errand(&mut self, shard: usize, wild: bool) -> bool {
        let mut errands = std::mem::take(&mut self.errands);
        errands.clear();
        self.list_errands(shard, &mut errands);
        let mut done = false;
        while !done && !errands.is_empty() {
            let errand = errands.swap_remove(self.env.rng.below(errands.len()));
            done = self.do_errand(shard, errand, wild);
        }
        self.errands = errands;
        done
    }

    /// False when the errand turned out to be none.
    fn do_errand(&mut self, shard: usize, errand: Errand, wild: bool) -> bool {
        let (input, env) = match errand {
            Errand::Chore(Chore::Write(slot)) if wild && self.dawdles(shard, slot) => return true,
            Errand::Chore(chore) => {
                let effect = self.shells[shard].carry_out(chore, &mut self.lanes[shard], &mut self.env);
                return self.take_effect(effect);
            }
            Errand::Delivery { from } => {
                let Some(delivery) = self.lanes[from][shard].deliveries.receive() else { return false };
                (Input::Delivery { from: ShardId(from as u16), delivery }, &mut self.env)
            }
            Errand::Request { from } => {
                let Some(request) = self.lanes[from][shard].requests.receive() else { return false };
                (Input::Request { from: ShardId(from as u16), request }, &mut self.env)
            }
            Errand::Log => {
                let Some(event) = self.env.store.take_event(shard) else { return false };
                (Input::Log(event), &mut self.env)
            }
        };
        self.shells[shard].give(input, env);
        true
    }

    fn dawdles(&mut self, shard: usize, slot: u32) -> bool {
        self.shells[shard].link_mut(slot).is_some_and(|link| link.slow) && !self.env.rng.chance(1, 40)
    }

    fn list_errands(&mut self, shard: usize, errands: &mut Vec<Errand>) {
        let mut chores = Vec::new();
        self.shells[shard].chores(&self.lanes[shard], &self.env, &mut chores);
        errands.extend(chores.into_iter().map(Errand::Chore));
        if self.env.store.has_event(shard) {
            errands.push(Errand::Log);
        }
        let takes_requests = self.shells[shard].state.takes_requests();
        for (from, lanes) in self.lanes.iter().enumerate() {
            let ready = |at: Option<u64>| at.is_some_and(|at| at <= self.env.now.us);
            if ready(lanes[shard].deliveries.ready_us()) {
                errands.push(Errand::Delivery { from });
            }
            if ready(lanes[shard].requests.ready_us()) {
                if takes_requests {
                    errands.push(Errand::Request { from });
                } else {
                    self.env.seen.requests_refused += 1;
                }
            }
        }
    }

    fn take_effect(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::None => {}
            Effect::Idle => return false,
            Effect::Bytes(author, bytes) if self.is_on(author) => {
                let (answers, goodbye) = self.clients[author.client].receive(&bytes, &mut self.env);
                self.send(author.client, answers);
                self.check_replaced(author.client);
                if goodbye.is_some() {
                    self.clients[author.client].ended(goodbye, false, &mut self.env);
                }
            }
            Effect::Over(author) if self.is_on(author) => self.clients[author.client].ended(None, false, &mut self.env),
            Effect::Bytes(..) | Effect::Over(_) => {}
        }
        true
    }

    /// Whether the client still has this connection.
    fn is_on(&self, author: Author) -> bool {
        let client = &self.clients[author.client];
        client.link.is_some() && client.author() == author
    }

    /// Lets everything happen that can happen without time passing, then lets queues arrive, until nothing is left.
    pub fn rest(&mut self) {
        for _ in 0..REST_STEPS_MAX {
            if self.env.violation().is_some() {
                return;
            }
            self.env.step += 1;
            let shards = self.shells.len();
            let first = self.env.rng.below(shards);
            let busy = (0..shards).any(|n| self.run_errand((first + n) % shards, false));
            if busy {
                continue;
            }
            let lanes = self.lanes.iter().flatten();
            let arrivals = lanes.flat_map(|lane| [lane.deliveries.ready_us(), lane.requests.ready_us()]);
            match arrivals.flatten().chain(self.env.store.next_us()).filter(|at| *at > self.env.now.us).min() {
                Some(at) => self.env.pass(at - self.env.now.us),
                None => return,
            }
        }
        self.env.fail(|| "the world does not come to rest".into());
    }

    /// Stops the clients' doings and lets every deadline pass that could change anything.
    fn come_to_rest(&mut self) {
        self.env.store.calm(self.env.now.us);
        // What the store says of that is said now, also when nothing else is left to happen.
        self.env.pass(0);
        for client in 0..self.clients.len() {
            if matches!(self.clients[client].session, Session::Outsider(_)) {
                self.abort(client);
            }
        }
        self.cut_forgotten();
        for client in 0..self.clients.len() {
            self.clients[client].slow = false;
            if std::mem::replace(&mut self.clients[client].mute, false) && self.clients[client].link.is_some() {
                self.send(client, vec![Inbound::Pong]);
            }
        }
        self.let_time_pass(SETTLE_MS);
    }

    /// Goes from deadline to deadline, and rests at each.
    pub fn let_time_pass(&mut self, ms: u64) {
        self.rest();
        let until_ms = self.env.now.ms() + ms;
        while self.env.violation().is_none() {
            let cores = self.shells.iter().filter_map(|shell| shell.state.next_deadline_ms());
            let links = self.shells.iter().flat_map(Shell::links).filter_map(|link| link.deadline_ms());
            let Some(next_ms) = cores.chain(links).min().filter(|next_ms| *next_ms <= until_ms) else { break };
            let now_us = self.env.now.us.max(next_ms * 1_000);
            self.env.pass(now_us - self.env.now.us);
            self.rest();
        }
        let us = (until_ms * 1_000).saturating_sub(self.env.now.us);
        self.env.pass(us);
    }

    /// What keeps the world from rest, if anything does.
    pub fn unrest(&self) -> Option<String> {
        if self.lanes.iter().flatten().any(|lane| !lane.deliveries.is_empty() || !lane.requests.is_empty()) {
            return Some("letters are under way".into());
        }
        for shell in &self.shells {
            let counts = shell.state.counts();
            let stores = shell.state.has_log_batch() || shell.state.has_log_reads();
            if counts.deliveries_waiting + counts.requests_waiting + counts.blocked > 0 || stores {
                return Some(format!("shard {}: {counts:?}", shell.id.0));
            }
            if let Some(unrest) = shell.links().find_map(|link| link.unrest()) {
                return Some(format!("shard {}: {unrest}", shell.id.0));
            }
        }
        self.env.store.unrest()
    }

    /// All leave, or the server stops. Nothing may be left behind.
    fn end(&mut self) {
        if self.env.plan.drains {
            self.drain()
        } else {
            self.all_leave()
        }
        self.cut_forgotten();
        self.let_time_pass(SETTLE_MS);
        if let Some(unrest) = self.unrest() {
            self.env.fail(|| unrest);
        }
        for shell in &self.shells {
            let counts = shell.state.counts();
            if counts.sessions + counts.audiences > 0 || counts.rooms != counts.rooms_idle {
                self.env.fail(|| format!("shard {}: all have left, {counts:?} has not", shell.id.0));
            }
        }
        self.let_time_pass(ROOM_IDLE_KEEP_MS + 1_000);
        for shell in &self.shells {
            let counts = shell.state.counts();
            if counts.rooms + counts.history_bytes > 0 {
                self.env.fail(|| format!("shard {}: nobody came back, and there is {counts:?}", shell.id.0));
            }
        }
    }

    fn all_leave(&mut self) {
        for client in 0..self.clients.len() {
            match &mut self.clients[client].session {
                Session::None => {}
                Session::Chat(witness) if self.env.rng.chance(1, 2) => {
                    if !std::mem::replace(&mut witness.half_closed, true) {
                        self.send(client, vec![Inbound::HalfClose]);
                    }
                }
                Session::Chat(_) | Session::Relay(_) | Session::Outsider(_) => self.abort(client),
            }
            self.run_errand(0, true);
        }
    }

    /// Stops the shards one after another while clients go on.
    fn drain(&mut self) {
        self.env.seen.drains += 1;
        self.env.draining = true;
        for shard in 0..self.shells.len() {
            for _ in 0..10 {
                let client = self.env.rng.below(self.clients.len());
                if self.clients[client].link.is_some() {
                    self.act(client);
                }
                let busy = self.env.rng.below(self.shells.len());
                self.run_errand(busy, true);
            }
            let retry_after_max_ms = self.env.rng.range(0, 5_000);
            self.shells[shard].give(Input::Drain { retry_after_max_ms }, &mut self.env);
        }
    }
}

/// A client with this much unread sends nothing more.
const INBOUND_MAX: usize = 150;
/// Longer than every timeout of the plan, one after another.
const SETTLE_MS: u64 = 22_000;
/// No world needs as many steps to come to rest.
const REST_STEPS_MAX: usize = 400_000;
