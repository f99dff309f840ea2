//! One shard's part of the chat: takes inputs, gives outputs.
//!
//! The work is in the files that extend [`State`]: `commands` (what a connection asks), `owner` (what a room's owner
//! does), `arrivals` (what the owner's answers do here), `lifecycle` (connections and deadlines), `directory` (lists
//! of rooms).
//!
//! Invariants: an audience never changes between an [`Output::Fanout`] being made and being polled. Therefore
//! whatever changes an audience while outputs may be waiting goes through `deferred`, which is worked off only when
//! all outputs made before have been polled; and `handle` begins only when both are empty.

use std::collections::{BTreeMap, VecDeque};

use crate::chat::arena::Arena;
use crate::chat::audience::{Audience, AudienceId};
use crate::chat::buckets::Limited;
use crate::chat::delivery::Lanes;
use crate::chat::directory::Gathers;
use crate::chat::exchange::{Delivery, Refusal, Request, RoomId};
use crate::chat::journal::Journal;
use crate::chat::lifecycle::{Drain, Timer};
use crate::chat::random::Random;
use crate::chat::resume::Homes;
use crate::chat::review::Review;
use crate::chat::room::Room;
use crate::chat::sanctions::Sanctions;
use crate::chat::session::{Farewell, Promise, Sessions, Wait};
use crate::chat::wheel::Wheel;
use crate::chat::{CoreConfig, Handled, Input, Output, Rules};
use crate::clock::Time;
use crate::ids::{ConnId, RoomName, ShardId};
use crate::limits::{HISTORY_BYTES_PER_SHARD_MAX, ROOMS_PER_SHARD_MAX};
use crate::message::event::Event;

/// One shard's sessions, the audiences of its connections and the rooms it owns.
#[derive(Debug)]
pub struct State {
    pub(super) config: CoreConfig,
    pub(super) here: ShardId,
    /// The time of the input that is being handled.
    pub(super) now: Time,
    pub(super) sessions: Sessions,
    pub(super) audiences: Arena<Audience>,
    pub(super) audience_by_name: ahash::HashMap<RoomName, AudienceId>,
    pub(super) rooms: Arena<Room>,
    pub(super) room_by_name: BTreeMap<RoomName, RoomId>,
    /// Rooms that nobody is in, by when that began.
    pub(super) idle_rooms: BTreeMap<u64, RoomId>,
    pub(super) idle_stamp: u64,
    pub(super) idle_armed: bool,
    pub(super) history_weight: usize,
    pub(super) history_weight_max: usize,
    pub(super) rooms_max: usize,
    /// Idempotency keys that the rooms remember.
    pub(super) keys: usize,
    pub(super) lanes: Lanes,
    pub(super) journal: Journal,
    /// Rooms whose log is being opened.
    pub(super) opening: usize,
    /// Rooms that have opened and still have parked requests.
    pub(super) opened: VecDeque<RoomId>,
    /// A parked request is being taken.
    pub(super) unparking: bool,
    pub(super) homes: Homes,
    /// Messages sent to consumers more than once.
    pub(super) redelivered: u64,
    /// Messages given up.
    pub(super) dead_letters: u64,
    pub(super) outputs: VecDeque<Output>,
    pub(super) deferred: VecDeque<Deferred>,
    pub(super) wheel: Wheel<Timer>,
    pub(super) random: Random,
    pub(super) gathers: Gathers,
    pub(super) sanctions: Sanctions,
    /// Commands that were refused for a limit.
    pub(super) limited: Limited,
    pub(super) drain: Option<Drain>,
    /// Which permissions are in force: counts their changes.
    pub(super) rules: u32,
    pub(super) review: Option<Review>,
    /// Connections whose input is blocked.
    pub(super) blocked: usize,
}

/// What must not happen before the outputs made so far have been polled.
#[derive(Debug)]
pub(super) enum Deferred {
    /// Something from a room that this shard owns itself.
    Delivery(Delivery),
    /// A connection leaves all its rooms.
    Release(ConnId),
    /// A connection's rights are looked at again.
    Review(ConnId),
}

/// How much of everything there is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections, in whatever phase.
    pub sessions: usize,
    /// Rooms and relay rooms owned by this shard.
    pub rooms: usize,
    /// Of those, rooms without anyone in them that are kept for their history.
    pub rooms_idle: usize,
    /// Rooms with members among this shard's connections.
    pub audiences: usize,
    /// Bytes of history kept by the rooms of this shard, with what each message takes beside its text.
    pub history_bytes: usize,
    /// Deliveries waiting to be taken, over all shards.
    pub deliveries_waiting: usize,
    /// Requests waiting to be taken, over all shards.
    pub requests_waiting: usize,
    /// Connections whose input is blocked.
    pub blocked: usize,
    /// Messages sent to consumers more than once, since the start.
    pub redelivered: u64,
    /// Messages that consumers never acknowledged, since the start.
    pub dead_letters: u64,
    /// Bans, mutes and revocations that are known.
    pub sanctions: usize,
    /// Commands that were refused for a limit, since the start.
    pub limited: Limited,
}

impl State {
    /// A shard without connections.
    #[must_use]
    pub fn new(config: CoreConfig) -> Self {
        debug_assert!(config.shard.0 < config.shards, "a shard is one of all");
        Self {
            here: config.shard,
            now: Time::default(),
            sessions: Sessions::default(),
            audiences: Arena::new(),
            audience_by_name: ahash::HashMap::default(),
            rooms: Arena::new(),
            room_by_name: BTreeMap::new(),
            idle_rooms: BTreeMap::new(),
            idle_stamp: 0,
            idle_armed: false,
            history_weight: 0,
            history_weight_max: HISTORY_BYTES_PER_SHARD_MAX,
            rooms_max: ROOMS_PER_SHARD_MAX,
            keys: 0,
            lanes: Lanes::new(config.shards, config.exchange_backlog_max),
            journal: Journal::new(),
            opening: 0,
            opened: VecDeque::new(),
            unparking: false,
            homes: Homes::default(),
            redelivered: 0,
            dead_letters: 0,
            outputs: VecDeque::new(),
            deferred: VecDeque::new(),
            wheel: Wheel::new(),
            random: Random::new(config.seed, u64::from(config.shard.0)),
            gathers: Gathers::default(),
            sanctions: Sanctions::default(),
            limited: Limited::default(),
            drain: None,
            rules: 0,
            review: None,
            blocked: 0,
            config,
        }
    }

    /// Takes one input. Afterwards call [`State::poll_output`] until it gives `None`, before anything else is
    /// handled: an audience never changes between an [`Output::Fanout`] being made and being polled.
    pub fn handle(&mut self, input: Input<'_>, now: Time) -> Handled {
        debug_assert!(self.outputs.is_empty() && self.deferred.is_empty(), "outputs are polled before the next input");
        self.now = now;
        match input {
            Input::Command { conn, command } => return self.on_command(conn, command),
            Input::Relay { conn, frame } => return self.on_relay(conn, frame),
            Input::JoinFromUrl { conn, room } => return self.on_join_from_url(conn, room),
            Input::Delivery { from: _, delivery } => self.on_delivery(delivery),
            Input::Request { from, request } => self.on_request(from, request),
            Input::Opened { conn, kind, entropy } => self.on_opened(conn, kind, entropy),
            Input::BadCommand { conn, id, code, message } => {
                self.on_bad_command(conn, id, Refusal { code, message });
            }
            Input::Finished { conn, reason, reads_on } => {
                self.on_finished(conn, Farewell { reason, after_replays: reads_on })
            }
            Input::Closed { conn, reason } => self.on_closed(conn, reason),
            Input::ReplayReady { conn, audience } => self.on_replay_ready(conn, audience),
            Input::Log(event) => self.on_log_event(event),
            Input::Order { ticket, order } => self.on_order(ticket, order),
            Input::Identified { conn, outcome } => self.on_identified(conn, outcome),
            Input::Consulted { conn, verdict } => self.on_consulted(conn, verdict),
            Input::Rules(rules) => self.on_rules(*rules),
            Input::Tick => self.on_tick(),
            Input::Drain { retry_after_max_ms } => self.on_drain(retry_after_max_ms),
        }
        Handled::Done
    }

    /// The next thing to do. Call until `None` after [`State::handle`], and once more after
    /// [`State::take_deliveries`] and [`State::take_requests`], which make room for blocked connections.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            match self.deferred.pop_front() {
                Some(Deferred::Delivery(delivery)) => self.on_delivery(delivery),
                Some(Deferred::Release(conn)) => self.release(conn),
                Some(Deferred::Review(conn)) => self.review_conn(conn),
                None if self.go_on() => {}
                None => break,
            }
        }
        if self.outputs.capacity() > OUTPUTS_KEPT {
            self.outputs = VecDeque::new();
        }
        self.wake()
    }

    /// The members that an [`Output::Fanout`] is for, at this moment; empty when they are all gone.
    #[must_use]
    pub fn audience(&self, id: AudienceId) -> &[ConnId] {
        self.audiences.get(id.slot, id.generation).map_or(&[], |audience| audience.list(id.part))
    }

    /// Bytes have come from a connection, whatever they say.
    #[inline]
    pub fn alive(&mut self, conn: ConnId, now: Time) {
        if let Some(session) = self.sessions.get_mut(conn) {
            session.heard_ms = now.ms();
        }
    }

    /// The shell has stopped reading a connection for reasons of its own: silence no longer counts against it.
    /// (A connection whose input was blocked is known to be paused without this.)
    pub fn reading_paused(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get_mut(conn) {
            session.paused = true;
        }
    }

    /// The shell reads the connection again.
    pub fn reading_resumed(&mut self, conn: ConnId, now: Time) {
        if let Some(session) = self.sessions.get_mut(conn) {
            session.paused = false;
            session.heard_ms = now.ms();
        }
    }

    /// When [`Input::Tick`] is wanted, in monotonic milliseconds; may be too early, never too late.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.wheel.next_deadline_ms()
    }

    /// Whether [`Input::Request`] may be given: no queue of deliveries is full. Ask again before each one.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        !self.lanes.deliveries_full()
    }

    /// Shards for which deliveries or requests wait, in no order. Empty in a turn without cross-shard traffic.
    #[must_use]
    pub fn outgoing(&self) -> &[ShardId] {
        self.lanes.outgoing()
    }

    /// Whether [`State::outgoing`] is not empty.
    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing().is_empty()
    }

    /// Takes all deliveries that wait for `to`, oldest first.
    #[must_use]
    pub fn take_deliveries(&mut self, to: ShardId) -> Vec<Delivery> {
        self.lanes.take_deliveries(to)
    }

    /// Takes all requests that wait for `to`, oldest first.
    #[must_use]
    pub fn take_requests(&mut self, to: ShardId) -> Vec<Request> {
        self.lanes.take_requests(to)
    }

    /// How much of everything there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len(),
            rooms: self.rooms.len(),
            rooms_idle: self.idle_rooms.len(),
            audiences: self.audiences.len(),
            history_bytes: self.history_weight,
            deliveries_waiting: self.lanes.deliveries_waiting(),
            requests_waiting: self.lanes.requests_waiting(),
            blocked: self.blocked,
            redelivered: self.redelivered,
            dead_letters: self.dead_letters,
            sanctions: self.sanctions.len(),
            limited: self.limited,
        }
    }

    fn on_rules(&mut self, rules: Rules) {
        let Rules { limits, policies, permissions, consults } = rules;
        self.config.limits = limits;
        self.config.policies = policies;
        let has_changed = self.config.permissions != permissions;
        self.config.permissions = permissions;
        self.config.consults = consults;
        if has_changed {
            self.rules = self.rules.wrapping_add(1);
            self.begin_review();
        }
    }

    #[inline]
    pub(super) fn send(&mut self, conn: ConnId, event: Event) {
        self.outputs.push_back(Output::Send { conn, event });
    }

    pub(super) fn refuse(&mut self, conn: ConnId, id: Option<u64>, refusal: Refusal) {
        self.send(conn, Event::Error { id, code: refusal.code, message: refusal.message });
    }

    /// Makes a connection wait: nothing has happened to its input.
    pub(super) fn block(&mut self, conn: ConnId, wait: Wait) -> Handled {
        if let Some(session) = self.sessions.get_mut(conn) {
            session.wait = wait;
            self.blocked += 1;
        }
        match wait {
            Wait::Deliveries => self.lanes.wait(conn, Promise::Deliveries),
            Wait::Requests(to) => self.lanes.wait(conn, Promise::Requests(to)),
            Wait::No | Wait::Answer | Wait::Granted(_) => {}
        }
        Handled::Blocked
    }

    /// The connection tries again, or will not any more: it waits for nothing.
    #[inline]
    pub(super) fn stop_waiting(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        match std::mem::replace(&mut session.wait, Wait::No) {
            Wait::No => {}
            Wait::Granted(promise) => self.lanes.release(promise),
            Wait::Answer | Wait::Deliveries | Wait::Requests(_) => self.blocked -= 1,
        }
    }

    /// Goes on with what had to wait for room in the queues of deliveries; false when there is nothing to poll for it.
    #[inline]
    fn go_on(&mut self) -> bool {
        if self.opened.is_empty() && !self.journal.has_settled() {
            return false;
        }
        self.settle_commits();
        self.unpark();
        !self.outputs.is_empty() || !self.deferred.is_empty()
    }

    /// Lets the next blocked connection try again for which there is room now.
    fn wake(&mut self) -> Option<Output> {
        while let Some((conn, promise)) = self.lanes.wake() {
            let expected = match promise {
                Promise::Deliveries => Wait::Deliveries,
                Promise::Requests(to) => Wait::Requests(to),
            };
            match self.sessions.get_mut(conn) {
                Some(session) if session.wait == expected => {
                    session.wait = Wait::Granted(promise);
                    session.heard_ms = self.now.ms();
                    self.blocked -= 1;
                    return Some(Output::Unblocked { conn });
                }
                _ => self.lanes.release(promise),
            }
        }
        None
    }
}

/// What a drain or a great many deadlines made longer than this gives its memory back.
const OUTPUTS_KEPT: usize = 1_024;
