//! Several shards in one test: their mailboxes, their clients and a clock that only the test moves.
//!
//! Every client keeps a log of what it was sent, one line per event, and a room's members are looked up at the very
//! moment a fan-out is polled, as the shell does it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::chat::exchange::{Delivery, Refusal, Request};
use crate::chat::log::{LogAnswer, LogEvent, LogFailure};
use crate::chat::operate::OrderReply;
use crate::chat::{AudienceId, ConnKind, Consults, CoreConfig, Handled, Input, Note, Output, Question, State};
use crate::clock::Time;
use crate::ids::{ConnId, Epoch, Member, Seq, ShardId};
use crate::limits::Limits;
use crate::message::close::CloseReason;
use crate::message::command::{Command, CommandBody, Connect, Join, Position, Publish};
use crate::message::event::{Event, Message, Reply};
use crate::policy::RoomPolicies;

/// Shards with their clients.
pub(super) struct World {
    pub(super) states: Vec<State>,
    pub(super) now: Time,
    pub(super) clients: BTreeMap<Member, Client>,
    deliveries: BTreeMap<(u16, u16), VecDeque<Delivery>>,
    requests: BTreeMap<(u16, u16), VecDeque<Request>>,
    /// Counted for each shard, so that connections of different shards have the same names.
    next_slot: Vec<u32>,
    /// Whether clients take every chunk of a replay at once.
    pub(super) reads_replays: bool,
    /// Whether clients answer every ping at once.
    pub(super) answers_pings: bool,
    /// What operators were answered.
    pub(super) answers: Vec<(u64, Result<OrderReply, Refusal>)>,
    /// When pings were sent, in seconds.
    pub(super) pings: Vec<u64>,
    /// Who is to be identified: token, name, and whether it is known already.
    pub(super) strangers: VecDeque<Stranger>,
    /// What the application is asked.
    pub(super) questions: VecDeque<(Member, Question)>,
    pub(super) notes: Vec<Note>,
}

/// What one client knows.
#[derive(Default)]
pub(super) struct Client {
    pub(super) log: Vec<String>,
    pub(super) epochs: BTreeMap<String, Epoch>,
    /// Input that was blocked, and what came after it.
    pub(super) held: VecDeque<Held>,
    blocked: bool,
    /// Chunks of replays that were not taken yet.
    pub(super) chunks: VecDeque<AudienceId>,
    pub(super) closed: Option<CloseReason>,
}

/// An input that can be given again.
#[derive(Clone, Debug)]
pub(super) enum Held {
    Command(Command<'static>),
    Relay(Bytes),
    Url(String),
}

impl World {
    pub(super) fn new(shards: u16) -> Self {
        Self::with(shards, 1_024, Limits::default())
    }

    pub(super) fn with(shards: u16, exchange_backlog_max: usize, limits: Limits) -> Self {
        Self::of(shards, exchange_backlog_max, limits, RoomPolicies::memory(1_000, 1 << 20))
    }

    /// One whose rooms keep so many messages.
    pub(super) fn keeping(shards: u16, exchange_backlog_max: usize, messages: usize) -> Self {
        Self::of(shards, exchange_backlog_max, Limits::default(), RoomPolicies::memory(messages, 1 << 20))
    }

    /// One whose rooms have a log; the test plays the store.
    pub(super) fn durable(shards: u16) -> Self {
        Self::of(shards, 1_024, Limits::default(), RoomPolicies::default())
    }

    fn of(shards: u16, exchange_backlog_max: usize, limits: Limits, policies: RoomPolicies) -> Self {
        let policies = Arc::new(policies);
        let config = |shard| CoreConfig {
            policies: policies.clone(),
            permissions: Arc::default(),
            consults: Consults::default(),
            has_store: policies.has_durable(),
            shard: ShardId(shard),
            shards,
            limits: limits.clone(),
            node: "test".into(),
            exchange_backlog_max,
            seed: 42,
        };
        Self {
            states: (0..shards).map(|shard| State::new(config(shard))).collect(),
            now: Time { us: 0, unix_ms: 1_000_000 },
            clients: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_slot: vec![0; usize::from(shards)],
            reads_replays: true,
            answers_pings: false,
            answers: Vec::new(),
            pings: Vec::new(),
            strangers: VecDeque::new(),
            notes: Vec::new(),
            questions: VecDeque::new(),
        }
    }

    /// A client that has said nothing.
    pub(super) fn open(&mut self, shard: u16, kind: ConnKind) -> Member {
        let slot = &mut self.next_slot[usize::from(shard)];
        let conn = ConnId { slot: *slot, generation: 7 };
        *slot += 1;
        let member = Member { shard: ShardId(shard), conn };
        self.clients.insert(member, Client::default());
        let entropy = u128::from(conn.slot) << 100 | 0xABCD;
        self.input(member.shard, Input::Opened { conn, kind, entropy });
        member
    }

    /// A client that has connected under a name.
    pub(super) fn client(&mut self, shard: u16, name: &str) -> Member {
        let connect = Connect { name: Some(name.to_owned().into()), ..Connect::default() };
        self.open(shard, ConnKind::Chat { connect: Some(connect), ping_as_event: true })
    }

    /// A client that has connected and joined rooms, with nothing on its way and an empty log.
    pub(super) fn joined(&mut self, shard: u16, name: &str, rooms: &[&str]) -> Member {
        let member = self.client(shard, name);
        for room in rooms {
            self.join(member, room);
        }
        self.pump();
        self.log(member);
        member
    }

    pub(super) fn relay(&mut self, shard: u16, room: &str) -> Member {
        self.open(shard, ConnKind::Relay { room: room.into(), token: None })
    }

    pub(super) fn say(&mut self, member: Member, room: &str, text: &str) {
        self.command(member, None, message(room, text));
    }

    pub(super) fn join(&mut self, member: Member, room: &str) {
        self.command(member, Some(1), CommandBody::Join(join(room)));
    }

    pub(super) fn leave(&mut self, member: Member, room: &str) {
        self.command(member, Some(2), CommandBody::Leave { room: room.to_owned().into() });
    }

    pub(super) fn command(&mut self, member: Member, id: Option<u64>, body: CommandBody<'static>) {
        self.give(member, Held::Command(Command { id, body }));
    }

    /// Gives an input, after those that are held.
    pub(super) fn give(&mut self, member: Member, held: Held) {
        let Some(client) = self.clients.get_mut(&member) else {
            return;
        };
        client.held.push_back(held);
        self.retry(member);
    }

    pub(super) fn close(&mut self, member: Member) {
        self.clients.remove(&member);
        self.input(member.shard, Input::Closed { conn: member.conn, reason: CloseReason::PeerGone });
    }

    /// Moves time and serves every deadline on the way, with everything that follows from it.
    pub(super) fn advance(&mut self, time: Duration) {
        let end = self.now.us + time.as_micros() as u64;
        loop {
            self.pump();
            let next = self.states.iter().filter_map(|state| state.next_deadline_ms()).min();
            let Some(next) = next.map(|ms| (ms * 1_000).max(self.now.us)).filter(|us| *us <= end) else {
                break;
            };
            self.set_time(next);
            for shard in 0..self.states.len() as u16 {
                if self.states[usize::from(shard)].next_deadline_ms().is_some_and(|ms| ms <= self.now.ms()) {
                    self.input(ShardId(shard), Input::Tick);
                }
            }
        }
        self.set_time(end);
    }

    /// Moves everything between shards until nothing is left to move.
    pub(super) fn pump(&mut self) {
        while self.exchange() {}
    }

    /// One turn of every shard: deliveries, then requests as far as they are taken, then what goes out. Whether
    /// anything moved.
    pub(super) fn exchange(&mut self) -> bool {
        let mut moved = false;
        for shard in 0..self.states.len() as u16 {
            moved |= self.receive(shard);
            moved |= self.send_out(shard);
        }
        moved
    }

    /// Gives a shard what has been sent to it.
    pub(super) fn receive(&mut self, shard: u16) -> bool {
        let mut moved = false;
        for from in 0..self.states.len() as u16 {
            while let Some(delivery) = self.deliveries.get_mut(&(from, shard)).and_then(VecDeque::pop_front) {
                self.input(ShardId(shard), Input::Delivery { from: ShardId(from), delivery });
                moved = true;
            }
        }
        for from in 0..self.states.len() as u16 {
            while self.states[usize::from(shard)].takes_requests() {
                let Some(request) = self.requests.get_mut(&(from, shard)).and_then(VecDeque::pop_front) else {
                    break;
                };
                self.input(ShardId(shard), Input::Request { from: ShardId(from), request });
                moved = true;
            }
        }
        moved
    }

    /// Takes from a shard what it has for others.
    pub(super) fn send_out(&mut self, shard: u16) -> bool {
        let state = &mut self.states[usize::from(shard)];
        let targets = state.outgoing().to_vec();
        for to in &targets {
            self.deliveries.entry((shard, to.0)).or_default().extend(state.take_deliveries(*to));
            self.requests.entry((shard, to.0)).or_default().extend(state.take_requests(*to));
        }
        if !targets.is_empty() {
            self.poll(ShardId(shard));
        }
        !targets.is_empty()
    }

    /// Answers everything that a shard has asked the store, each with the same. How much that was.
    pub(super) fn answer(&mut self, shard: u16, outcome: &Result<LogAnswer, LogFailure>) -> usize {
        self.pump();
        let mut answered = 0;
        while let Some((token, _)) = self.states[usize::from(shard)].take_log_read() {
            self.input(ShardId(shard), Input::Log(LogEvent::Read { token, outcome: outcome.clone() }));
            answered += 1;
        }
        self.pump();
        answered
    }

    /// What a client was sent since the last time.
    pub(super) fn log(&mut self, member: Member) -> Vec<String> {
        std::mem::take(&mut self.clients.get_mut(&member).unwrap().log)
    }

    pub(super) fn position(&self, member: Member, room: &str, seq: u64) -> Option<Position> {
        Some(Position { epoch: self.clients[&member].epochs[room], seq: Seq(seq) })
    }

    /// The client takes the oldest chunk that it was sent.
    pub(super) fn take_chunk(&mut self, member: Member) -> bool {
        let Some(audience) = self.clients.get_mut(&member).and_then(|client| client.chunks.pop_front()) else {
            return false;
        };
        self.input(member.shard, Input::ReplayReady { conn: member.conn, audience });
        true
    }

    pub(super) fn check(&self) {
        self.states.iter().for_each(State::check_invariants);
    }

    /// Gives an input that is never blocked.
    pub(super) fn input(&mut self, shard: ShardId, input: Input<'_>) {
        assert_eq!(self.try_input(shard, input), Handled::Done);
    }

    pub(super) fn try_input(&mut self, shard: ShardId, input: Input<'_>) -> Handled {
        let handled = self.states[shard.index()].handle(input, self.now);
        self.poll(shard);
        handled
    }

    /// Works off what orders outside of inputs have led to.
    pub(super) fn poll_all(&mut self) {
        (0..self.states.len() as u16).for_each(|shard| self.poll(ShardId(shard)));
    }

    fn set_time(&mut self, us: u64) {
        self.now = Time { us, unix_ms: 1_000_000 + us / 1_000 };
    }

    fn retry(&mut self, member: Member) {
        while let Some(client) = self.clients.get_mut(&member).filter(|client| !client.blocked) {
            let Some(held) = client.held.pop_front() else {
                return;
            };
            let conn = member.conn;
            let handled = match held.clone() {
                Held::Command(command) => {
                    self.states[member.shard.index()].handle(Input::Command { conn, command }, self.now)
                }
                Held::Relay(frame) => self.states[member.shard.index()].handle(Input::Relay { conn, frame }, self.now),
                Held::Url(room) => {
                    self.states[member.shard.index()].handle(Input::JoinFromUrl { conn, room: &room }, self.now)
                }
            };
            if handled == Handled::Blocked
                && let Some(client) = self.clients.get_mut(&member)
            {
                client.held.push_front(held);
                client.blocked = true;
            }
            self.poll(member.shard);
        }
    }

    fn poll(&mut self, shard: ShardId) {
        let mut unblocked = Vec::new();
        let mut chunks = Vec::new();
        while let Some(output) = self.states[shard.index()].poll_output() {
            let member = |conn| Member { shard, conn };
            match output {
                Output::Send { conn, event } => self.note(member(conn), &event),
                Output::Fanout { audience, event, except } => {
                    let conns = self.states[shard.index()].audience(audience).to_vec();
                    for conn in conns.into_iter().filter(|conn| Some(*conn) != except) {
                        self.note(member(conn), &event);
                    }
                }
                Output::ReplayChunk { conn, audience, messages, .. } => {
                    for message in &messages {
                        self.note_line(member(conn), format!("replay {}", message_line(message)));
                    }
                    if let Some(client) = self.clients.get_mut(&member(conn)) {
                        client.chunks.push_back(audience);
                        chunks.push(member(conn));
                    }
                }
                Output::Ping { conn } => self.note_line(member(conn), "ping frame".into()),
                Output::Close { conn, reason } => {
                    self.note_line(member(conn), format!("close {}", reason.label()));
                    if let Some(client) = self.clients.get_mut(&member(conn)) {
                        client.closed = Some(reason);
                    }
                }
                Output::Answered { ticket, outcome } => self.answers.push((ticket, outcome)),
                Output::Identify { conn, token, name, refresh, .. } => {
                    self.strangers.push_back((member(conn), token, name, refresh));
                }
                Output::Consult { conn, question } => self.questions.push_back((member(conn), question)),
                Output::Noted(note) => self.notes.push(*note),
                Output::Unblocked { conn } => {
                    if let Some(client) = self.clients.get_mut(&member(conn)) {
                        assert!(client.blocked, "only who is blocked is unblocked");
                        client.blocked = false;
                        unblocked.push(member(conn));
                    }
                }
            }
        }
        if self.reads_replays {
            for member in chunks {
                self.take_chunk(member);
            }
        }
        for member in unblocked {
            self.retry(member);
        }
    }

    fn note(&mut self, member: Member, event: &Event) {
        if let Event::Ok { body: Reply::Joined(joined), .. } = event
            && let Some(client) = self.clients.get_mut(&member)
        {
            client.epochs.insert(joined.room.as_str().into(), joined.epoch);
        }
        self.note_line(member, line(event));
    }

    fn note_line(&mut self, member: Member, line: String) {
        if line.starts_with("ping") {
            self.pings.push(self.now.us / 1_000_000);
            if self.answers_pings {
                self.states[member.shard.index()].alive(member.conn, self.now);
            }
        }
        if let Some(client) = self.clients.get_mut(&member) {
            assert!(client.closed.is_none(), "{line} was sent after close");
            client.log.push(line);
        }
    }
}

pub(super) fn message(room: &str, text: &str) -> CommandBody<'static> {
    CommandBody::Message(publish(room, text))
}

pub(super) fn publish(room: &str, text: &str) -> Publish<'static> {
    Publish {
        room: room.to_owned().into(),
        content: text.to_owned().into_bytes().into(),
        key: None,
        tag: None,
        receipt: false,
        echo: true,
    }
}

pub(super) fn join(room: &str) -> Join<'static> {
    Join { room: room.to_owned().into(), ..Join::default() }
}

fn message_line(message: &Arc<Message>) -> String {
    let content = String::from_utf8_lossy(&message.content);
    let deleted = if message.deleted { " deleted" } else { "" };
    format!("{}:{} {} {content}{deleted}", message.room.as_str(), message.seq.0, message.sender.as_str())
}

/// An event as one line.
fn line(event: &Event) -> String {
    let tag = |id: &Option<u64>| id.map_or(String::new(), |id| format!(" {id}"));
    let names = |users: &[crate::ids::UserName]| users.iter().map(|u| format!(" {}", u.as_str())).collect::<String>();
    match event {
        Event::Welcome { id, body } => format!("welcome{} {} {}", tag(id), body.user.as_str(), body.connection),
        Event::Ok { id, body } => format!("ok{}{}", tag(id), reply_line(body)),
        Event::Error { id, code, message } => {
            assert!(message.len() > 10, "a refusal says what to do");
            format!("error{} {}", tag(id), code.as_str())
        }
        Event::Pong { id } => format!("pong{}", tag(id)),
        Event::Message(message) => format!("message {}", message_line(message)),
        Event::Redelivered { message, attempt } => format!("again {attempt} {}", message_line(message)),
        Event::Receipt { room, seq, delivered, members } => {
            format!("receipt {}:{} {delivered}/{members}", room.as_str(), seq.0)
        }
        Event::Kicked { room, notice } => {
            let by = notice.by.as_ref().map_or(String::new(), |by| format!(" by {}", by.as_str()));
            let until = notice.until_unix_ms.map_or(String::new(), |until| format!(" until {until}"));
            format!("kicked {} {}{by}{until}", room.as_str(), notice.reason)
        }
        Event::Closed { room } => format!("closed {}", room.as_str()),
        Event::Signal(signal) => {
            format!(
                "signal {} {} {}",
                signal.room.as_str(),
                signal.sender.as_str(),
                String::from_utf8_lossy(&signal.content)
            )
        }
        Event::Deleted { room, seq } => format!("deleted {}:{}", room.as_str(), seq.0),
        Event::Presence(p) => {
            format!("presence {} +{} -{} ={}", p.room.as_str(), names(&p.joined), names(&p.left), p.count)
        }
        Event::Gap { room, from, to } => format!("gap {}:{}-{}", room.as_str(), from.0, to.0),
        Event::Closing { reason, retry_after_ms } => format!("closing {reason} {}", retry_after_ms > &0),
        Event::Ping => "ping".into(),
        Event::Relay(frame) => format!("relay {}", String::from_utf8_lossy(frame)),
    }
}

fn reply_line(reply: &Reply) -> String {
    match reply {
        Reply::Done => String::new(),
        Reply::Joined(joined) => {
            let recovered = joined.recovered.map_or(String::new(), |r| format!(" recovered={r}"));
            format!(" {}@{} {} {}{recovered}", joined.room.as_str(), joined.seq.0, joined.members, joined.role.as_str())
        }
        Reply::Sent { room, seq, .. } => format!(" {}:{}", room.as_str(), seq.0),
        Reply::History { room, messages, more, .. } => {
            let seqs: Vec<String> = messages.iter().map(|m| m.seq.0.to_string()).collect();
            format!(" {} [{}] more={more}", room.as_str(), seqs.join(" "))
        }
        Reply::Users { users, count, next } => {
            let names: Vec<&str> = users.iter().map(|u| u.user.as_str()).collect();
            format!(" [{}] {count} next={:?}", names.join(" "), next.as_ref().map(|n| n.as_str()))
        }
        Reply::Rooms { rooms, next } => {
            let rooms: Vec<String> = rooms.iter().map(|r| format!("{}={}", r.room.as_str(), r.members)).collect();
            format!(" [{}] next={:?}", rooms.join(" "), next.as_ref().map(|n| n.as_str()))
        }
    }
}

type Stranger = (Member, Option<Box<str>>, Option<Box<str>>, bool);
