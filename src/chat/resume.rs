//! Sessions: what is left of a connection that was lost, for another one to go on with.
//!
//! A session lives on the shard that opened it, whose number is in its secret: any shard knows whom to ask, also after
//! a restart with another number of shards, when the store hands each shard the sessions that are its own. The store
//! has those that are in a durable room.
//!
//! Invariants: each open connection of the chat has one session, found by its secret; a session without a connection is
//! in `order`, by when it ends. Positions are not part of a session: the client knows what has arrived.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::access::Identity;
use crate::chat::auth::guest;
use crate::chat::exchange::{JoinTicket, Request};
use crate::chat::lifecycle::Timer;
use crate::chat::log::{LogWrite, SessionRecord, SessionRoom};
use crate::chat::placement;
use crate::chat::session::{Awaited, Kind, Phase, Session, Who};
use crate::chat::state::State;
use crate::ids::{ConnId, RoomName, SessionId, ShardId, UserName};
use crate::limits::{PARKED_SESSIONS_MAX, ROOMS_PER_CONNECTION_MAX};
use crate::message::close::CloseReason;
use crate::message::command::{Join, Position, Resume};
use crate::policy::HistoryMode;

/// The sessions that were opened on this shard.
#[derive(Debug, Default)]
pub(super) struct Homes {
    sessions: ahash::HashMap<SessionId, Home>,
    /// Sessions without a connection, by when they end. Some may have gone on meanwhile.
    order: VecDeque<(u64, SessionId)>,
    armed: bool,
    parked: usize,
    /// Connections whose session is to be stored.
    changed: Vec<ConnId>,
}

#[derive(Debug)]
enum Home {
    /// This connection has it.
    Live(ConnId),
    /// Nobody has it.
    Parked(Box<Parked>),
}

#[derive(Debug)]
struct Parked {
    record: SessionRecord,
    /// When it ends.
    until_ms: u64,
    /// The store has it.
    stored: bool,
}

/// A connection that waits for its session.
#[derive(Debug)]
pub(super) struct Resuming {
    /// The tag of its `connect`.
    id: Option<u64>,
    /// Who it is, if that is known apart from the session.
    identity: Option<Arc<Identity>>,
    rooms: Vec<(RoomName, Position)>,
}

/// The session that a connection asks for, and its own positions.
#[derive(Debug)]
pub(super) struct Wanted {
    session: SessionId,
    rooms: Vec<(RoomName, Position)>,
}

impl From<&Resume<'_>> for Wanted {
    fn from(resume: &Resume<'_>) -> Self {
        // What is no name of a room cannot be in the session.
        let named = |(name, position): &(Cow<'_, str>, Position)| Some((RoomName::chat(name).ok()?, *position));
        Self { session: resume.session, rooms: resume.rooms.iter().filter_map(named).collect() }
    }
}

impl State {
    /// Asks the session's home for it; the connection waits until it has come.
    pub(super) fn ask_to_resume(
        &mut self,
        conn: ConnId,
        id: Option<u64>,
        wanted: Wanted,
        identity: Option<Arc<Identity>>,
    ) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        let user = identity.as_ref().map(|identity| identity.user.clone());
        let Wanted { session: wanted, rooms } = wanted;
        session.awaits = Some(Box::new(Awaited::Session(Resuming { id, identity, rooms })));
        session.unanswered += 1;
        let home = home_of(wanted, self.config.shards);
        let request = Request::Resume { session: wanted, user, conn };
        if home == self.here {
            return self.on_request(home, request);
        }
        self.lanes.push_request(home, request);
    }

    /// Another connection wants to go on with a session that was opened here.
    pub(super) fn resume_here(&mut self, id: SessionId, user: Option<&UserName>) -> Option<Box<SessionRecord>> {
        let fits = |owner: &UserName| user.is_none_or(|user| user == owner);
        let conn = match self.homes.sessions.get(&id)? {
            Home::Parked(parked) if !fits(&parked.record.user) => return None,
            Home::Parked(_) => {
                let Some(Home::Parked(parked)) = self.homes.sessions.remove(&id) else {
                    return None;
                };
                self.homes.parked -= 1;
                if parked.stored {
                    self.journal.write_if_room(LogWrite::DropSession(id));
                }
                return Some(Box::new(parked.record));
            }
            Home::Live(conn) => *conn,
        };
        let record = self.record_of(conn).filter(|record| fits(&record.user))?;
        self.end_session(conn);
        self.close(conn, CloseReason::SessionResumed);
        Some(Box::new(record))
    }

    /// A session has come, or it is not there any more.
    pub(super) fn on_resumed(&mut self, conn: ConnId, record: Option<Box<SessionRecord>>) {
        let waits = |session: &crate::chat::session::Session| session.phase != Phase::Closing;
        let Some(session) = self.sessions.get_mut(conn).filter(|session| waits(session)) else {
            return;
        };
        let Some(resuming) = session.take_resuming() else {
            return;
        };
        let Who::Pending(newcomer) = &session.who else {
            return;
        };
        let guest = guest(newcomer.entropy);
        let unnamed = || Identity::named(record.as_ref().map_or(guest, |record| record.user.clone()));
        let identity = resuming.identity.unwrap_or_else(|| Arc::new(unnamed()));
        if let Some(refusal) = self.forbids(&identity) {
            self.note_turned_away(conn, Some(&identity), &refusal);
            self.turn_away(conn, resuming.id, refusal, false);
            return self.answered(conn);
        }
        self.welcome(conn, resuming.id, identity, Some(record.is_some()));
        if let Some(record) = record {
            self.join_again(conn, record.rooms, resuming.rooms);
        }
        self.answered(conn);
    }

    /// Enters the rooms of a session, each where the client left off.
    fn join_again(&mut self, conn: ConnId, mut rooms: Vec<SessionRoom>, positions: Vec<(RoomName, Position)>) {
        // The client may know of rooms that it entered just before the server stopped. Where the application is asked
        // about joins, only what the session has is known to be allowed.
        let asked = if self.config.consults.join { &[] } else { &positions[..] };
        for (name, _) in asked {
            if !rooms.iter().any(|room| room.room == *name) {
                rooms.push(SessionRoom { room: name.clone(), tags: Vec::new(), presence: false, ack: false });
            }
        }
        let user = self.sessions.get(conn).and_then(|session| session.user().cloned());
        let may_enter =
            |room: &SessionRoom| room.room.inbox_of().is_none_or(|of| user.as_ref().is_some_and(|u| u.as_str() == of));
        for room in rooms.iter().filter(|room| may_enter(room)).take(ROOMS_PER_CONNECTION_MAX) {
            let since = positions.iter().find(|(name, _)| *name == room.room).map(|(_, position)| *position);
            let join = Join {
                room: Cow::Borrowed(room.room.as_str()),
                since,
                history: 0,
                ack: room.ack,
                tags: room.tags.iter().map(|tag| Cow::Borrowed(&**tag)).collect(),
                presence: room.presence,
            };
            let owner = placement::owner(room.room.placement_hash(), self.config.shards);
            let ticket = JoinTicket { id: None, say_ok: true, switch_from: None, resumed: true, rules: self.rules };
            match self.standing_to_join(conn, &room.room) {
                Ok(standing) => self.ask_to_join(conn, room.room.clone(), owner, &join, (standing, ticket)),
                Err(refusal) => self.refuse(conn, None, refusal),
            }
        }
    }

    /// A connection has been welcomed: from here on it has a session.
    pub(super) fn begin_session(&mut self, conn: ConnId, entropy: u128) -> SessionId {
        let id = SessionId(entropy & (u128::MAX >> HOME_BITS) | u128::from(self.here.0) << (128 - HOME_BITS));
        if let Some(session) = self.sessions.get_mut(conn) {
            session.id = Some(id);
        }
        self.homes.sessions.insert(id, Home::Live(conn));
        id
    }

    /// A connection is in other rooms than before.
    pub(super) fn session_changed(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get_mut(conn)
            && session.id.is_some()
            && !session.changed
        {
            session.changed = true;
            self.homes.changed.push(conn);
        }
    }

    pub(super) fn has_changed_sessions(&self) -> bool {
        !self.homes.changed.is_empty()
    }

    /// Writes what has changed of sessions, once each.
    pub(super) fn store_sessions(&mut self) {
        for conn in std::mem::take(&mut self.homes.changed) {
            self.store_session(conn);
        }
    }

    fn store_session(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        session.changed = false;
        let (stored, Some(id)) = (session.stored, session.id) else {
            return;
        };
        let record = self.record_of(conn).filter(|record| self.is_durable(record));
        if let Some(session) = self.sessions.get_mut(conn) {
            session.stored = record.is_some();
        }
        match record {
            Some(record) => self.journal.write_if_room(LogWrite::PutSession(Box::new(record))),
            None if stored => self.journal.write_if_room(LogWrite::DropSession(id)),
            None => {}
        }
    }

    /// A connection ends: its session is kept for a while, unless it said goodbye. To be called while it is still in
    /// its rooms.
    pub(super) fn park_session(&mut self, conn: ConnId, reason: CloseReason) {
        // Over TCP nothing tells a goodbye from a client that is gone.
        let is_tcp = self.sessions.get(conn).is_some_and(|s| matches!(s.kind, Kind::Chat { ping_as_event: true }));
        let is_goodbye = reason == CloseReason::Normal && !is_tcp;
        let record = self.record_of(conn).filter(|record| !record.rooms.is_empty() && !is_goodbye);
        let Some(record) = record else {
            return self.end_session(conn);
        };
        if self.sessions.get(conn).is_some_and(|session| session.changed) {
            self.store_session(conn);
        }
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        session.id = None;
        let stored = session.stored;
        self.keep_session(record, stored);
    }

    /// Sessions that were kept before the last start.
    pub(super) fn on_stored_sessions(&mut self, records: Vec<SessionRecord>) {
        for record in records {
            self.keep_session(record, true);
        }
    }

    /// Forgets sessions that nobody has come back to.
    pub(super) fn end_sessions(&mut self) {
        self.homes.armed = false;
        while let Some((until_ms, id)) = self.homes.order.front().copied() {
            if until_ms > self.now.ms() && self.homes.parked <= PARKED_SESSIONS_MAX {
                break;
            }
            self.homes.order.pop_front();
            self.forget_parked(id, until_ms);
        }
        self.arm_sessions();
    }

    fn keep_session(&mut self, record: SessionRecord, stored: bool) {
        let ttl_ms = self.config.limits.session_ttl.as_millis() as u64;
        let (id, until_ms) = (record.id, self.now.ms() + ttl_ms);
        self.homes.sessions.insert(id, Home::Parked(Box::new(Parked { record, until_ms, stored })));
        self.homes.parked += 1;
        self.homes.order.push_back((until_ms, id));
        if self.homes.parked > PARKED_SESSIONS_MAX {
            self.end_sessions();
        }
        self.arm_sessions();
    }

    fn forget_parked(&mut self, id: SessionId, parked_until_ms: u64) {
        let Some(Home::Parked(parked)) = self.homes.sessions.get(&id) else {
            return;
        };
        if parked.until_ms != parked_until_ms {
            return;
        }
        if parked.stored {
            self.journal.write_if_room(LogWrite::DropSession(id));
        }
        self.homes.sessions.remove(&id);
        self.homes.parked -= 1;
    }

    fn arm_sessions(&mut self) {
        if !self.homes.armed
            && let Some((until_ms, _)) = self.homes.order.front()
        {
            self.homes.armed = true;
            self.wheel.schedule(*until_ms, Timer::Sessions);
        }
    }

    /// The connection's session is over.
    fn end_session(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        let Some(id) = session.id.take() else {
            return;
        };
        let stored = std::mem::take(&mut session.stored);
        self.homes.sessions.remove(&id);
        if stored {
            self.journal.write_if_room(LogWrite::DropSession(id));
        }
    }

    fn record_of(&self, conn: ConnId) -> Option<SessionRecord> {
        let session = self.sessions.get(conn)?;
        let rooms = session.memberships.iter().filter_map(|membership| {
            Some(SessionRoom {
                room: self.audiences.at(membership.audience)?.name.clone(),
                tags: membership.tags.as_deref().unwrap_or_default().to_vec(),
                presence: membership.presence,
                ack: membership.ack,
            })
        });
        Some(SessionRecord { id: session.id?, user: session.user()?.clone(), rooms: rooms.collect() })
    }

    /// Whether a session is worth storing: rooms that are in memory do not survive a restart either.
    fn is_durable(&self, record: &SessionRecord) -> bool {
        record.rooms.iter().any(|room| self.config.policies.of(&room.room).history == HistoryMode::Durable)
    }

    /// Panics unless the invariants hold.
    pub(super) fn check_homes(&self) {
        let parked = self.homes.sessions.values().filter(|home| matches!(home, Home::Parked(_))).count();
        assert_eq!(parked, self.homes.parked, "parked sessions are counted");
        for (id, home) in &self.homes.sessions {
            match home {
                Home::Live(conn) => {
                    assert_eq!(self.sessions.get(*conn).and_then(|session| session.id), Some(*id), "both know it");
                }
                Home::Parked(parked) => assert!(self.homes.order.contains(&(parked.until_ms, *id)), "it ends"),
            }
        }
        let live = self.sessions.iter().filter(|(_, session)| session.id.is_some()).count();
        assert_eq!(live + parked, self.homes.sessions.len());
    }
}

impl Session {
    /// The session that it waits for, if it waits for one; it does no longer.
    fn take_resuming(&mut self) -> Option<Resuming> {
        match self.awaits.take().map(|awaited| *awaited) {
            Some(Awaited::Session(resuming)) => Some(resuming),
            other => {
                self.awaits = other.map(Box::new);
                None
            }
        }
    }
}

/// The shard that keeps a session.
fn home_of(id: SessionId, shards: u16) -> ShardId {
    ShardId((id.0 >> (128 - HOME_BITS)) as u16 % shards)
}

/// Bits of a session's secret that name its home.
const HOME_BITS: u32 = 16;
