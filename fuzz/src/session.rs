//! The session machine: the input is a script for two shards with their clients, their mailboxes, a store and a clock.
//!
//! The script may do whatever a shell may do, in any order, and clients may say anything. Nothing panics, all parts of
//! both states agree after each step, one step leads to a bounded number of outputs, and what waits is bounded by how
//! many clients there are.

mod script;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hubbub::access::{Identity, PermissionRule, Permissions};
use hubbub::chat::{
    AudienceId, ConnKind, Consults, CoreConfig, Delivery, Handled, Input, Output, Refusal, Request, Rules, State,
};
use hubbub::clock::Time;
use hubbub::codec::json;
use hubbub::ids::{ConnId, ShardId, UserName};
use hubbub::limits::Limits;
use hubbub::message::close::{CloseReason, ErrorCode};
use hubbub::message::command::Connect;
use hubbub::message::event::{Event, Reply, Role};
use hubbub::policy::{HistoryMode, Pattern, RoomPolicies, RoomPolicy};
use script::Script;
use store::Store;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new(script.byte());
    while !script.is_over() {
        world.step(&mut script);
        world.check();
    }
    world.end();
}

struct World {
    states: Vec<State>,
    config: CoreConfig,
    now: Time,
    clients: BTreeMap<(u16, ConnId), Client>,
    deliveries: BTreeMap<(u16, u16), VecDeque<Delivery>>,
    requests: BTreeMap<(u16, u16), VecDeque<Request>>,
    stores: Vec<Store>,
    opened: u32,
    /// What `welcome` and `joined` gave, for clients to say.
    sessions: VecDeque<String>,
    epochs: VecDeque<String>,
}

/// What the shell knows of a connection.
#[derive(Default)]
struct Client {
    is_relay: bool,
    /// What the core has not taken.
    held: Option<Said>,
    chunks: VecDeque<AudienceId>,
    /// Questions that were asked about it and not answered.
    asked: usize,
    consulted: usize,
    /// It says no more.
    is_over: bool,
}

/// What a peer has said.
#[derive(Clone)]
enum Said {
    Text(Vec<u8>),
    Frame(Bytes),
    Url(String),
}

impl World {
    /// The flags decide what shards ask others, and how narrow their mailboxes are.
    fn new(flags: u8) -> Self {
        let mut policies = RoomPolicies::memory(8, 1 << 10);
        policies.rules.push((Pattern::new("d*"), RoomPolicy::new(HistoryMode::Durable)));
        let config = CoreConfig {
            shard: ShardId(0),
            shards: SHARDS,
            limits: limits(flags & 16 != 0),
            policies: Arc::new(policies),
            permissions: Arc::new(permissions()),
            consults: Consults { connect: flags & 1 != 0, join: flags & 2 != 0, message: flags & 4 != 0 },
            has_store: true,
            node: Arc::from("fuzz"),
            exchange_backlog_max: if flags & 8 != 0 { 1 } else { 16 },
            seed: 7,
        };
        let state = |shard| State::new(CoreConfig { shard: ShardId(shard), ..config.clone() });
        Self {
            states: (0..SHARDS).map(state).collect(),
            config,
            now: Time { us: 0, unix_ms: 1_000_000 },
            clients: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            requests: BTreeMap::new(),
            stores: (0..SHARDS).map(|_| Store::default()).collect(),
            opened: 0,
            sessions: VecDeque::new(),
            epochs: VecDeque::new(),
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let shard = u16::from(script.byte()) % SHARDS;
        match script.byte() % 24 {
            0 | 1 => self.open(shard, script),
            2..=9 => self.talk(script, |script, world| Said::Text(script.command(&world.sessions, &world.epochs))),
            10 | 11 => self.talk(script, |script, _| Said::Text(script.text().to_vec())),
            12 => self.talk(script, |script, _| Said::Url(script.room().to_owned())),
            13 => self.close(script),
            14 => self.take_chunk(script),
            15 | 16 => self.receive(shard),
            17 => self.send_out(shard),
            18 => self.answer_client(script),
            19 => self.work_store(shard, script),
            20 => self.pass(u64::from(script.byte()) * 40, script),
            21 => self.rules(shard, script),
            22 if script.byte() == 0 => self.input(shard, Input::Drain { retry_after_max_ms: 1_000 }),
            _ => self.pump(),
        }
    }

    fn open(&mut self, shard: u16, script: &mut Script<'_>) {
        if self.clients.len() == CLIENTS_MAX {
            return;
        }
        let conn = ConnId { slot: self.opened % 32, generation: self.opened / 32 };
        if self.clients.contains_key(&(shard, conn)) {
            return;
        }
        self.opened += 1;
        let how = script.byte();
        let token = (how & 16 != 0).then(|| Box::from("token"));
        let kind = match how % 4 {
            0 => ConnKind::Relay { room: script.room().to_owned(), token },
            1 => ConnKind::Chat { connect: None, ping_as_event: how & 32 != 0 },
            _ => {
                let connect = Connect { name: Some(script.user().into()), ..Connect::default() };
                ConnKind::Chat { connect: Some(connect), ping_as_event: how & 32 != 0 }
            }
        };
        let is_relay = matches!(kind, ConnKind::Relay { .. });
        self.clients.insert((shard, conn), Client { is_relay, ..Client::default() });
        let entropy = u128::from(self.opened) << 96 | 0xABCD;
        self.input(shard, Input::Opened { conn, kind, entropy });
    }

    fn pick(&self, script: &mut Script<'_>) -> Option<(u16, ConnId)> {
        let n = usize::from(script.byte()) % self.clients.len().max(1);
        self.clients.keys().nth(n).copied()
    }

    /// A client that may say something does.
    fn talk(&mut self, script: &mut Script<'_>, say: impl Fn(&mut Script<'_>, &Self) -> Said) {
        let Some(who) = self.pick(script) else { return };
        let said = say(script, self);
        let client = &self.clients[&who];
        if client.held.is_some() || client.is_over {
            return;
        }
        let said = match said {
            Said::Text(text) if client.is_relay => Said::Frame(text.into()),
            Said::Url(_) if client.is_relay => return,
            said => said,
        };
        self.hand_over(who, said);
    }

    /// Gives the core what a client has said, and keeps it if it is not taken.
    fn hand_over(&mut self, who: (u16, ConnId), said: Said) {
        let (shard, conn) = who;
        let state = &mut self.states[usize::from(shard)];
        state.alive(conn, self.now);
        let handled = match &said {
            Said::Text(text) => match json::decode(text) {
                Ok(command) => state.handle(Input::Command { conn, command }, self.now),
                Err(error) => {
                    let (id, code, message) = (error.id, error.code, error.message);
                    state.handle(Input::BadCommand { conn, id, code, message }, self.now)
                }
            },
            Said::Frame(frame) => state.handle(Input::Relay { conn, frame: frame.clone() }, self.now),
            Said::Url(room) => state.handle(Input::JoinFromUrl { conn, room }, self.now),
        };
        if handled == Handled::Blocked
            && let Some(client) = self.clients.get_mut(&who)
        {
            client.held = Some(said);
        }
        self.poll(shard);
    }

    fn close(&mut self, script: &mut Script<'_>) {
        let Some(who) = self.pick(script) else { return };
        let (shard, conn) = who;
        let client = self.clients.get_mut(&who).expect("it was picked");
        let how = script.byte();
        if how.is_multiple_of(2) || client.is_over || client.held.is_some() {
            self.clients.remove(&who);
            self.input(shard, Input::Closed { conn, reason: CloseReason::PeerGone });
        } else {
            client.is_over = true;
            self.input(shard, Input::Finished { conn, reason: CloseReason::Normal, reads_on: how & 2 != 0 });
        }
    }

    fn take_chunk(&mut self, script: &mut Script<'_>) {
        let Some(who) = self.pick(script) else { return };
        let chunk = self.clients.get_mut(&who).and_then(|client| client.chunks.pop_front());
        if let Some(audience) = chunk {
            self.input(who.0, Input::ReplayReady { conn: who.1, audience });
        }
    }

    /// Answers what the core has asked about a client.
    fn answer_client(&mut self, script: &mut Script<'_>) {
        let Some(who) = self.pick(script) else { return };
        let (how, conn) = (script.byte(), who.1);
        let refusal = || Refusal { code: ErrorCode::Forbidden, message: "no".into() };
        let client = self.clients.get_mut(&who).expect("it was picked");
        if client.asked > 0 {
            client.asked -= 1;
            let expires = (how & 4 != 0).then(|| self.now.unix_ms + 3_000);
            let identity = Identity {
                proven: how & 2 != 0,
                expires_unix_ms: expires,
                ..Identity::named(UserName::new(script.user()).expect("a fair name"))
            };
            let outcome = if how % 8 == 1 { Err(refusal()) } else { Ok(Arc::new(identity)) };
            self.input(who.0, Input::Identified { conn, outcome });
        } else if client.consulted > 0 {
            client.consulted -= 1;
            let verdict = if how % 4 == 1 { Err(refusal()) } else { Ok(()) };
            self.input(who.0, Input::Consulted { conn, verdict });
        }
    }

    fn rules(&mut self, shard: u16, script: &mut Script<'_>) {
        let flags = script.byte();
        let limits = Limits { max_message_bytes: 1 << (flags >> 4), ..limits(flags & 4 != 0) };
        let consults =
            Consults { connect: self.config.consults.connect, join: flags & 1 != 0, message: flags & 2 != 0 };
        let (policies, permissions) = (self.config.policies.clone(), self.config.permissions.clone());
        self.input(shard, Input::Rules(Box::new(Rules { limits, policies, permissions, consults })));
    }

    fn work_store(&mut self, shard: u16, script: &mut Script<'_>) {
        let how = script.byte();
        let at = usize::from(shard);
        while let Some(batch) = self.states[at].take_log_batch() {
            self.stores[at].take(&batch);
        }
        if how.is_multiple_of(2) {
            let committed = self.stores[at].committed();
            self.input(shard, Input::Log(committed));
        }
        while let Some((token, read)) = self.states[at].take_log_read() {
            let answer = self.stores[at].answer(token, &read, how & 6 == 6);
            self.input(shard, Input::Log(answer));
        }
    }

    /// Time goes by, and every deadline on the way is served.
    fn pass(&mut self, ms: u64, script: &mut Script<'_>) {
        let lazy = script.byte().is_multiple_of(2);
        let end = self.now.ms() + ms;
        for _ in 0..DEADLINES_MAX {
            let next = self.states.iter().filter_map(State::next_deadline_ms).min();
            let Some(next) = next.filter(|next| *next <= end && !lazy) else { break };
            self.set_time(next.max(self.now.ms()));
            self.tick();
        }
        self.set_time(end);
        self.tick();
    }

    fn tick(&mut self) {
        for shard in 0..SHARDS {
            if self.states[usize::from(shard)].next_deadline_ms().is_some_and(|ms| ms <= self.now.ms()) {
                self.input(shard, Input::Tick);
            }
        }
    }

    fn set_time(&mut self, ms: u64) {
        self.now = Time { us: ms * 1_000, unix_ms: 1_000_000 + ms };
    }

    fn receive(&mut self, shard: u16) {
        for from in 0..SHARDS {
            while let Some(delivery) = self.deliveries.get_mut(&(from, shard)).and_then(VecDeque::pop_front) {
                self.input(shard, Input::Delivery { from: ShardId(from), delivery });
            }
        }
        for from in 0..SHARDS {
            while self.states[usize::from(shard)].takes_requests()
                && let Some(request) = self.requests.get_mut(&(from, shard)).and_then(VecDeque::pop_front)
            {
                self.input(shard, Input::Request { from: ShardId(from), request });
            }
        }
    }

    fn send_out(&mut self, shard: u16) {
        let state = &mut self.states[usize::from(shard)];
        for to in state.outgoing().to_vec() {
            self.deliveries.entry((shard, to.0)).or_default().extend(state.take_deliveries(to));
            self.requests.entry((shard, to.0)).or_default().extend(state.take_requests(to));
        }
        self.poll(shard);
    }

    /// Everything between shards arrives.
    fn pump(&mut self) {
        for _ in 0..PUMPS_MAX {
            let waiting = self.deliveries.values().map(VecDeque::len).sum::<usize>()
                + self.requests.values().map(VecDeque::len).sum::<usize>();
            if waiting == 0 && !self.states.iter().any(State::has_outgoing) {
                return;
            }
            for shard in 0..SHARDS {
                self.receive(shard);
                self.send_out(shard);
            }
        }
        panic!("shards talk to each other without an end");
    }

    fn input(&mut self, shard: u16, input: Input<'_>) {
        let handled = self.states[usize::from(shard)].handle(input, self.now);
        assert_eq!(handled, Handled::Done);
        self.poll(shard);
    }

    fn poll(&mut self, shard: u16) {
        for _ in 0..OUTPUTS_MAX {
            let Some(output) = self.states[usize::from(shard)].poll_output() else { return };
            self.on_output(shard, output);
        }
        panic!("one input has no end of outputs");
    }

    fn on_output(&mut self, shard: u16, output: Output) {
        let known = |conn: ConnId| (shard, conn);
        match output {
            Output::Send { conn, event } => {
                assert!(self.clients.contains_key(&known(conn)), "nothing is sent to whom is gone");
                self.learn(&event);
            }
            Output::Fanout { audience, event, .. } => {
                for conn in self.states[usize::from(shard)].audience(audience) {
                    assert!(self.clients.contains_key(&known(*conn)), "nothing is sent to whom is gone");
                }
                encode(&event);
            }
            Output::ReplayChunk { conn, audience, .. } => {
                let client = self.clients.get_mut(&known(conn)).expect("nothing is sent to whom is gone");
                client.chunks.push_back(audience);
            }
            Output::Close { conn, .. } => {
                let client = self.clients.get_mut(&known(conn)).expect("it is closed once");
                (client.is_over, client.held) = (true, None);
            }
            Output::Answered { .. } | Output::Noted(_) => {}
            Output::Unblocked { conn } => self.retry(known(conn)),
            Output::Identify { conn, .. } => {
                self.clients.get_mut(&known(conn)).expect("it lives").asked += 1;
            }
            Output::Consult { conn, .. } => {
                self.clients.get_mut(&known(conn)).expect("it lives").consulted += 1;
            }
            Output::Ping { .. } => {}
        }
    }

    /// Says again what was held, once all outputs are polled: for that is when a shell gets to it.
    fn retry(&mut self, who: (u16, ConnId)) {
        self.poll(who.0);
        if let Some(said) = self.clients.get_mut(&who).and_then(|client| client.held.take()) {
            self.hand_over(who, said);
        }
    }

    fn learn(&mut self, event: &Event) {
        match event {
            Event::Welcome { body, .. } => remember(&mut self.sessions, format!("{:032x}", body.session.0)),
            Event::Ok { body: Reply::Joined(joined), .. } => remember(&mut self.epochs, joined.epoch.to_string()),
            _ => {}
        }
        encode(event);
    }

    fn check(&self) {
        for state in &self.states {
            state.check_invariants();
            let counts = state.counts();
            assert!(counts.sessions <= CLIENTS_MAX);
            assert!(counts.deliveries_waiting + counts.requests_waiting <= WAITING_MAX, "{counts:?}");
        }
    }

    /// Everyone goes, and nothing is left of them.
    fn end(mut self) {
        for ((shard, conn), _) in std::mem::take(&mut self.clients) {
            self.input(shard, Input::Closed { conn, reason: CloseReason::PeerGone });
        }
        self.pump();
        self.check();
        assert!(self.states.iter().all(|state| state.counts().sessions == 0 && state.counts().blocked == 0));
    }
}

/// Short enough for a script to meet them.
fn limits(tight: bool) -> Limits {
    let limits = Limits { ack_attempts_max: 2, session_ttl: Duration::from_secs(20), ..Limits::default() };
    if !tight {
        return limits;
    }
    Limits {
        unacknowledged_max: 2,
        messages_per_second: Some(2),
        bytes_per_second: Some(64),
        joins_per_second: Some(2),
        room_members_max: Some(2),
        ..limits
    }
}

/// Whoever has a token hosts one of the rooms.
fn permissions() -> Permissions {
    let rule = PermissionRule { rooms: Pattern::new("other"), role: Some(Role::Host), allowed: Vec::new() };
    Permissions { rules: vec![rule] }
}

fn remember(list: &mut VecDeque<String>, text: String) {
    list.push_front(text);
    list.truncate(8);
}

/// Every event that comes out must be fit to be sent. Frames of the relay are sent as they are.
fn encode(event: &Event) {
    if matches!(event, Event::Relay(_)) {
        return;
    }
    let mut out = Vec::new();
    json::encode(event, &mut out);
    assert!(!out.is_empty() && !out.iter().any(|byte| *byte < 0x20), "an event is one line");
}

const SHARDS: u16 = 2;
const CLIENTS_MAX: usize = 12;
const DEADLINES_MAX: usize = 200;
const OUTPUTS_MAX: usize = 100_000;
const PUMPS_MAX: usize = 10_000;
/// Envelopes that wait in one shard: the bound of its queues, and what each client may add beyond it.
const WAITING_MAX: usize = 4_096;
