//! Connections from their opening to their end, and the deadlines of a shard.
//!
//! Invariants: each connection has at most one entry on the wheel, looked at only when it fires: traffic moves no
//! timer. A closing connection is in no room. Silence counts only while the connection is read.

use std::time::Duration;

use crate::chat::exchange::{Refusal, Request, RoomId, Seat};
use crate::chat::random::{Random, mix};
use crate::chat::session::{Farewell, Kind, Newcomer, Phase, Session, Wait, Who};
use crate::chat::state::{Deferred, State};
use crate::chat::{ConnKind, Output};
use crate::ids::{ConnId, ShardId};
use crate::limits::{DEADLINES_PER_TICK_MAX, DRAIN_BATCH};
use crate::message::close::{CloseReason, ErrorCode};
use crate::message::command::CommandBody;
use crate::message::event::Event;

/// What becomes due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// A connection's handshake or heartbeat.
    Conn(ConnId),
    /// A room tells who came and went.
    Presence(RoomId),
    /// A user of a room has been gone too long.
    Grace(RoomId),
    /// A room has been idle too long.
    Idle,
    /// A consumer has not acknowledged something in time.
    Redeliver(RoomId, ShardId, Seat),
    /// Receipts of a room have changed.
    Receipts(RoomId),
    /// A session has been without a connection for too long.
    Sessions,
    /// A connection's token expires.
    Expiry(ConnId),
    /// Sanctions may be over.
    Sanctions,
    /// A list of rooms goes on.
    Rooms(u64),
    /// The next step of the drain.
    Drain,
    /// The next step of a review.
    Review,
}

/// The server stops.
#[derive(Debug)]
pub(super) struct Drain {
    retry_after_max_ms: u64,
    /// Connections in slots below this have been told.
    next_slot: usize,
    random: Random,
}

impl State {
    pub(super) fn on_opened(&mut self, conn: ConnId, kind: ConnKind, entropy: u128) {
        let now_ms = self.now.ms();
        let pending = || Who::Pending(Box::new(Newcomer { entropy, refusals: 0 }));
        let (spoken, who) = match &kind {
            ConnKind::Relay { .. } if self.config.consults.connect => (Kind::Relay, pending()),
            ConnKind::Relay { .. } => (Kind::Relay, Who::Nobody),
            ConnKind::Chat { ping_as_event, .. } => (Kind::Chat { ping_as_event: *ping_as_event }, pending()),
        };
        self.sessions.insert(conn, Session::new(conn, spoken, who, now_ms));
        if self.drain.is_some() {
            return self.close(conn, CloseReason::Restart);
        }
        match kind {
            ConnKind::Relay { room, token } => self.connect_relay(conn, &room, token),
            ConnKind::Chat { connect: Some(connect), .. } => self.connect(conn, None, &connect, true),
            ConnKind::Chat { connect: None, .. } => {}
        }
        let first = now_ms + self.heartbeat_gap(conn, 0);
        let handshake = now_ms + millis(self.config.limits.handshake_timeout);
        let connecting = self.sessions.get(conn).is_some_and(|session| session.phase == Phase::Connecting);
        self.wheel.schedule(if connecting { first.min(handshake) } else { first }, Timer::Conn(conn));
    }

    /// A command came before the connection was open.
    pub(super) fn on_first_command(&mut self, conn: ConnId, id: Option<u64>, body: &CommandBody<'_>) {
        if let CommandBody::Connect(connect) = body {
            return self.connect(conn, id, connect, false);
        }
        let text = "send `connect` first: it is not known yet who this is";
        self.refuse(conn, id, Refusal::new(ErrorCode::Unauthorized, text));
    }

    pub(super) fn on_bad_command(&mut self, conn: ConnId, id: Option<u64>, refusal: Refusal) {
        if let Some(session) = self.sessions.get_mut(conn).filter(|session| session.phase != Phase::Closing) {
            session.heard_ms = self.now.ms();
            self.refuse(conn, id, refusal);
        }
    }

    /// The peer asks no more. What it asked before is answered, also what needs no answer of its own: the owner of
    /// each of its rooms is asked to say when it has come that far.
    pub(super) fn on_finished(&mut self, conn: ConnId, farewell: Farewell) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        if session.phase == Phase::Connecting && session.awaits.is_none() {
            return self.close(conn, farewell.reason);
        }
        session.farewell.get_or_insert(farewell);
        if !session.unsettled {
            return self.close_if_answered(conn);
        }
        let rooms = session.memberships.iter().filter_map(|membership| self.audiences.at(membership.audience));
        let mut owners: Vec<ShardId> = rooms.map(|audience| audience.owner).filter(|o| *o != self.here).collect();
        owners.sort_unstable();
        owners.dedup();
        for owner in owners {
            self.ask(conn, owner, true, Request::Settle { conn });
        }
        self.close_if_answered(conn);
    }

    pub(super) fn on_closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.stop_waiting(conn);
        self.park_session(conn, reason);
        self.release(conn);
        self.sessions.remove(conn);
    }

    /// Takes a connection out of all its rooms.
    pub(super) fn release(&mut self, conn: ConnId) {
        while let Some(last) = self.sessions.get(conn).and_then(|session| session.memberships.len().checked_sub(1)) {
            self.drop_membership(conn, last, true);
        }
    }

    /// Closes a connection that only waited for its answers, if it has them.
    pub(super) fn close_if_answered(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get(conn) else {
            return;
        };
        if let Some(farewell) = session.farewell
            && session.unanswered == 0
            && (session.replaying == 0 || !farewell.after_replays)
        {
            self.close(conn, farewell.reason);
        }
    }

    pub(super) fn on_tick(&mut self) {
        self.lanes.release_all();
        self.wheel.advance(self.now.ms());
        for _ in 0..DEADLINES_PER_TICK_MAX {
            match self.wheel.pop() {
                Some(Timer::Conn(conn)) => self.check_conn(conn),
                Some(Timer::Presence(room)) => self.push_presence(room),
                Some(Timer::Grace(room)) => self.end_grace(room),
                Some(Timer::Idle) => self.end_idle(),
                Some(Timer::Redeliver(room, from, seat)) => self.redeliver(room, from, seat),
                Some(Timer::Receipts(room)) => self.receipts_due(room),
                Some(Timer::Sessions) => self.end_sessions(),
                Some(Timer::Expiry(conn)) => self.check_expiry(conn),
                Some(Timer::Sanctions) => self.sweep_sanctions(),
                Some(Timer::Rooms(gather)) => self.go_on_listing(gather),
                Some(Timer::Drain) => self.drain_step(),
                Some(Timer::Review) => self.review_step(),
                None => return,
            }
        }
    }

    pub(super) fn on_drain(&mut self, retry_after_max_ms: u64) {
        if self.drain.is_none() {
            let random = Random::new(self.random.next(), 0);
            self.drain = Some(Drain { retry_after_max_ms, next_slot: 0, random });
            self.drain_step();
        }
    }

    pub(super) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(session) = self.sessions.get_mut(conn).filter(|session| session.phase != Phase::Closing) else {
            return;
        };
        session.phase = Phase::Closing;
        self.stop_waiting(conn);
        self.park_session(conn, reason);
        self.outputs.push_back(Output::Close { conn, reason });
        self.deferred.push_back(Deferred::Release(conn));
    }

    /// A connection's entry on the wheel has fired: ping it, close it, or look again later.
    fn check_conn(&mut self, conn: ConnId) {
        let now = self.now.ms();
        let interval = millis(self.config.limits.heartbeat_interval);
        let handshake = millis(self.config.limits.handshake_timeout);
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        let expiry = session.identity().and_then(|identity| identity.expires_unix_ms);
        let expiry = expiry.map_or(u64::MAX, |expires| now + expires.saturating_sub(self.now.unix_ms));
        let next = match session.phase {
            Phase::Closing => return,
            Phase::Open if expiry <= now => return self.close(conn, CloseReason::TokenExpired),
            // Whoever is asked who it is takes a time of its own.
            Phase::Connecting if session.awaits_identity() => now + handshake,
            Phase::Connecting if now >= session.asked_ms + handshake => {
                return self.close(conn, CloseReason::HandshakeTimeout);
            }
            Phase::Connecting => (session.asked_ms + handshake).min(now + interval),
            Phase::Open if session.paused || !matches!(session.wait, Wait::No) => {
                session.heard_ms = now;
                now + interval
            }
            Phase::Open => {
                if session.heard_ms >= session.asked_ms {
                    session.missed = 0;
                }
                let missed = session.missed;
                let due = self.heartbeat_due(conn);
                if due > now {
                    due
                } else if missed >= PINGS_MAX {
                    return self.close(conn, CloseReason::HeartbeatTimeout);
                } else {
                    self.ping(conn)
                }
            }
        };
        self.wheel.schedule(next.min(expiry), Timer::Conn(conn));
    }

    /// Asks for a sign of life. The answer is when to look for it.
    fn ping(&mut self, conn: ConnId) -> u64 {
        let now = self.now.ms();
        if let Some(session) = self.sessions.get_mut(conn) {
            session.missed += 1;
            session.phased = session.phased.saturating_add(1).min(PHASED_PINGS);
            // A ping follows silence, so whatever is heard in this very millisecond comes after it.
            session.asked_ms = now;
            let (kind, phased) = (session.kind, session.phased);
            self.outputs.push_back(match kind {
                Kind::Chat { ping_as_event: true } => Output::Send { conn, event: Event::Ping },
                _ => Output::Ping { conn },
            });
            return self.heartbeat_due(conn).min(now + self.heartbeat_gap(conn, phased));
        }
        now
    }

    /// When the silence of a connection has lasted so long that it is pinged, pinged again, or closed.
    fn heartbeat_due(&self, conn: ConnId) -> u64 {
        let interval = millis(self.config.limits.heartbeat_interval);
        let Some(session) = self.sessions.get(conn) else {
            return 0;
        };
        match session.missed {
            0 => session.heard_ms + self.heartbeat_gap(conn, session.phased),
            2.. if self.config.limits.heartbeat_adaptive => session.asked_ms + interval / 2,
            // At full intervals of silence, but with time to answer when the last ping was late.
            missed => (session.heard_ms + interval * (u64::from(missed) + 1)).max(session.asked_ms + interval / 2),
        }
    }

    /// Silence before a ping, where `phased` have been sent before. The first two come earlier, each by the same
    /// part of a connection's own phase: from then on idle connections are spread evenly over the interval, however
    /// many of them were opened at once.
    fn heartbeat_gap(&self, conn: ConnId, phased: u8) -> u64 {
        let interval = millis(self.config.limits.heartbeat_interval).max(2);
        if phased >= PHASED_PINGS {
            return interval;
        }
        let own = u64::from(conn.slot) << 32 | u64::from(conn.generation);
        (interval + mix(self.config.seed ^ mix(own)) % interval) / 2
    }

    fn drain_step(&mut self) {
        let slots = self.sessions.slots();
        for _ in 0..DRAIN_BATCH {
            let Some(drain) = &mut self.drain else {
                return;
            };
            if drain.next_slot >= slots {
                return;
            }
            let slot = drain.next_slot;
            drain.next_slot += 1;
            let retry_after_ms = drain.random.below(drain.retry_after_max_ms) + 1;
            if let Some(conn) = self.sessions.at(slot) {
                self.drain_conn(conn, retry_after_ms);
            }
        }
        self.wheel.schedule(self.now.ms() + 1, Timer::Drain);
    }

    fn drain_conn(&mut self, conn: ConnId, retry_after_ms: u64) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        if session.phase == Phase::Open && session.kind != Kind::Relay {
            session.farewell = Some(Farewell { reason: CloseReason::Restart, after_replays: false });
            self.send(conn, Event::Closing { reason: "restart", retry_after_ms });
            self.close_if_answered(conn);
        } else {
            self.close(conn, CloseReason::Restart);
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Pings that may go unanswered: the connection is closed when the third interval of silence has passed.
const PINGS_MAX: u8 = 2;
/// Pings that come early to spread connections over the interval.
const PHASED_PINGS: u8 = 2;
