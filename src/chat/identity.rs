//! Who a connection is: from its `connect` to its welcome, fresh tokens later on, and the end of a token's time.
//!
//! Invariants: nothing of a connection is carried out before it is known who it is, nor while a fresh token is looked
//! at. Whoever is forbidden to be here is turned away whatever the shell says.

use std::sync::Arc;

use crate::access::{Action, Identity, Rights, Standing};
use crate::chat::auth;
use crate::chat::commands::Outcome;
use crate::chat::exchange::{Refusal, Request, RoomRef, Seat};
use crate::chat::lifecycle::{Timer, millis};
use crate::chat::resume::Wanted;
use crate::chat::rights::lacks;
use crate::chat::session::{Awaited, Phase, Wait, Who};
use crate::chat::state::State;
use crate::chat::{Handled, Note, Output};
use crate::ids::{ConnId, Member, RoomName};
use crate::limits::{CONNECT_REFUSALS_MAX, ROOMS_PER_CONNECTION_MAX, UNANSWERED_MAX};
use crate::message::close::{CloseReason, ErrorCode};
use crate::message::command::Connect;
use crate::message::event::{Event, KickNotice, Reply, Welcome, WelcomeLimits};

/// Why it is asked who a connection is, and what comes then.
#[derive(Debug)]
pub(super) enum Introduction {
    /// Its `connect`.
    Connect {
        /// The command's tag.
        id: Option<u64>,
        /// It came with the URL: there is no second try.
        from_url: bool,
        /// It says who it is; otherwise it may be whoever its session belongs to.
        named: bool,
        /// The session to go on with.
        wanted: Option<Wanted>,
    },
    /// It wants into this room of the relay.
    Relay(RoomName),
    /// It shows a fresh token.
    Refresh {
        /// The command's tag.
        id: Option<u64>,
    },
}

impl State {
    pub(super) fn connect(&mut self, conn: ConnId, id: Option<u64>, connect: &Connect<'_>, from_url: bool) {
        let Some(Who::Pending(newcomer)) = self.sessions.get(conn).map(|session| &session.who) else {
            return;
        };
        let (token, name) = (connect.token.as_deref(), connect.name.as_deref());
        let consults = self.config.consults.connect;
        // A guest that others let in is who they say.
        let named = consults || name.is_some() || token.is_some();
        let introduction =
            Introduction::Connect { id, from_url, named, wanted: connect.resume.as_ref().map(Wanted::from) };
        if consults {
            return self.introduce(conn, introduction, token.map(Box::from), name.map(Box::from));
        }
        let outcome = auth::identify(token, name, newcomer.entropy);
        if let Err(refusal) = &outcome {
            self.note_turned_away(conn, None, refusal);
        }
        self.introduced(conn, introduction, outcome.map(Arc::new));
    }

    /// A `connect` on a connection that is open already: a fresh token of the same user, or a mistake.
    pub(super) fn refresh(&mut self, conn: ConnId, id: Option<u64>, connect: &Connect<'_>) -> Outcome {
        let Some(token) = connect.token.as_deref().filter(|_| self.config.consults.connect) else {
            let text = "already connected: open another connection to be someone else";
            return Err(Refusal::new(ErrorCode::BadRequest, text));
        };
        if connect.name.is_some() || connect.resume.is_some() {
            let text = "already connected: a later `connect` has nothing but a fresh `token`";
            return Err(Refusal::new(ErrorCode::BadRequest, text));
        }
        // What it may do in a room is told to the room's owner once the join is answered.
        if self.sessions.get(conn).is_some_and(|session| session.joining > 0) {
            return Ok(self.block(conn, Wait::Answer));
        }
        self.introduce(conn, Introduction::Refresh { id }, Some(token.into()), None);
        Ok(Handled::Done)
    }

    /// What a connection is called in `welcome`, in logs and to operators.
    #[must_use]
    pub fn connection_name(&self, conn: ConnId) -> String {
        Member { shard: self.here, conn }.to_string()
    }

    /// Asks the shell who a connection is.
    pub(super) fn introduce(
        &mut self,
        conn: ConnId,
        introduction: Introduction,
        token: Option<Box<str>>,
        name: Option<Box<str>>,
    ) {
        let refresh = matches!(introduction, Introduction::Refresh { .. });
        let resumes = matches!(introduction, Introduction::Connect { wanted: Some(_), .. });
        if let Some(session) = self.sessions.get_mut(conn) {
            session.awaits = Some(Box::new(Awaited::Identity(introduction)));
            session.unanswered += 1;
            self.outputs.push_back(Output::Identify { conn, token, name, refresh, resumes });
        }
    }

    /// The shell has found out.
    pub(super) fn on_identified(&mut self, conn: ConnId, outcome: Result<Arc<Identity>, Refusal>) {
        let Some(session) = self.sessions.get_mut(conn).filter(|session| session.phase != Phase::Closing) else {
            return;
        };
        match session.awaits.take().map(|awaited| *awaited) {
            Some(Awaited::Identity(introduction)) => {
                self.introduced(conn, introduction, outcome);
                self.answered(conn);
            }
            other => {
                debug_assert!(false, "only what was asked is answered");
                session.awaits = other.map(Box::new);
            }
        }
    }

    fn introduced(&mut self, conn: ConnId, introduction: Introduction, outcome: Result<Arc<Identity>, Refusal>) {
        let outcome = outcome.and_then(|identity| match self.forbids(&identity) {
            None => Ok(identity),
            Some(refusal) => {
                self.note_turned_away(conn, Some(&identity), &refusal);
                Err(refusal)
            }
        });
        match (introduction, outcome) {
            (Introduction::Connect { id, from_url, .. }, Err(refusal)) => self.turn_away(conn, id, refusal, from_url),
            (Introduction::Connect { id, named, wanted: Some(wanted), .. }, Ok(identity)) => {
                self.ask_to_resume(conn, id, wanted, named.then_some(identity));
            }
            (Introduction::Connect { id, .. }, Ok(identity)) => self.welcome(conn, id, identity, None),
            (Introduction::Relay(_), Err(refusal)) => self.close(conn, closed_for(&refusal)),
            (Introduction::Relay(room), Ok(identity)) => {
                self.become_known(conn, Arc::clone(&identity));
                self.open_relay(conn, room, &identity);
            }
            (Introduction::Refresh { id }, Err(refusal)) => self.refuse(conn, id, refusal),
            (Introduction::Refresh { id }, Ok(identity)) => self.refreshed(conn, id, identity),
        }
    }

    /// The shell hears of whom it did not refuse itself.
    pub(super) fn note_turned_away(&mut self, conn: ConnId, identity: Option<&Arc<Identity>>, refusal: &Refusal) {
        let user = identity.map(|identity| identity.user.clone());
        let note = Note::TurnedAway { conn, user, refusal: refusal.clone() };
        self.outputs.push_back(Output::Noted(Box::new(note)));
    }

    /// A client is not let in. It may try again, but not for ever, and not when the URL said who it is.
    pub(super) fn turn_away(&mut self, conn: ConnId, id: Option<u64>, refusal: Refusal, from_url: bool) {
        let reason = closed_for(&refusal);
        let is_final = from_url && self.config.consults.connect;
        self.refuse(conn, id, refusal);
        if let Some(Who::Pending(newcomer)) = self.sessions.get_mut(conn).map(|session| &mut session.who) {
            newcomer.refusals += 1;
            if is_final || newcomer.refusals >= CONNECT_REFUSALS_MAX {
                self.close(conn, reason);
            }
        }
    }

    /// The connection is this user's from here on. `resumed`: whether the session it asked for goes on.
    pub(super) fn welcome(&mut self, conn: ConnId, id: Option<u64>, identity: Arc<Identity>, resumed: Option<bool>) {
        let Some(Who::Pending(newcomer)) = self.sessions.get(conn).map(|session| &session.who) else {
            return;
        };
        let entropy = newcomer.entropy;
        let (user, name, expires) = (identity.user.clone(), identity.name.clone(), identity.expires_unix_ms);
        self.become_known(conn, identity);
        let secret = self.begin_session(conn, entropy);
        let limits = &self.config.limits;
        let body = Welcome {
            connection: self.connection_name(conn),
            user,
            name,
            session: secret,
            heartbeat_ms: millis(limits.heartbeat_interval),
            limits: WelcomeLimits {
                message_bytes: limits.max_message_bytes,
                rooms: ROOMS_PER_CONNECTION_MAX,
                unanswered: UNANSWERED_MAX,
            },
            node: self.config.node.clone(),
            resumed,
            expires,
        };
        self.send(conn, Event::Welcome { id, body: Box::new(body) });
    }

    fn become_known(&mut self, conn: ConnId, identity: Arc<Identity>) {
        if let Some(session) = self.sessions.get_mut(conn) {
            session.who = Who::Known(identity);
            session.phase = Phase::Open;
            self.arm_expiry(conn);
        }
    }

    /// A fresh token has come: what it grants counts in all rooms from now on, and puts it out of those that it no
    /// longer opens.
    fn refreshed(&mut self, conn: ConnId, id: Option<u64>, identity: Arc<Identity>) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        if session.user() != Some(&identity.user) {
            let text = "the fresh token is another user's: open another connection to be someone else";
            return self.refuse(conn, id, Refusal::new(ErrorCode::Forbidden, text));
        }
        session.who = Who::Known(Arc::clone(&identity));
        if id.is_some() {
            self.send(conn, Event::Ok { id, body: Reply::Done });
        }
        self.arm_expiry(conn);
        let count = self.sessions.get(conn).map_or(0, |session| session.memberships.len());
        // Backwards, for whoever is put out makes room for the last.
        for index in (0..count).rev() {
            self.judge_membership(conn, index, &identity);
        }
    }

    pub(super) fn judge_membership(&mut self, conn: ConnId, index: usize, identity: &Identity) {
        let Some(membership) = self.sessions.get(conn).and_then(|session| session.memberships.get(index)) else {
            return;
        };
        let (slot, seat) = (membership.audience, Seat { number: membership.seat, conn });
        let Some(audience) = self.audiences.at(slot) else {
            return;
        };
        let (name, owner) = (audience.name.clone(), audience.owner);
        if name.inbox_of().is_some() {
            return;
        }
        let room = audience.room.map_or_else(|| RoomRef::Name(name.clone()), RoomRef::Id);
        let standing = self.config.permissions.standing(identity, &name);
        if !standing.may_join() {
            self.send(conn, Event::Kicked { room: name, notice: Box::new(KickNotice::new("forbidden")) });
            return self.drop_membership(conn, index, false);
        }
        if !standing.settle(false).1.has(Action::Presence) {
            self.stop_presence(conn, slot);
        }
        self.ask(conn, owner, true, Request::Standing { room, seat, standing });
    }

    /// What a connection is and may do in a room that it wants to enter; refused if it may not.
    pub(super) fn standing_to_join(&self, conn: ConnId, name: &RoomName) -> Result<Standing, Refusal> {
        let Some(identity) = self.sessions.get(conn).and_then(|session| session.identity()) else {
            return Err(Refusal::new(ErrorCode::Unauthorized, "send `connect` first: it is not known yet who this is"));
        };
        if name.inbox_of().is_some() {
            return Ok(Standing::BySeniority { member: Rights::ALL, host: Rights::ALL });
        }
        let standing = self.config.permissions.standing(identity, name);
        if standing.may_join() {
            return Ok(standing);
        }
        let (user, room) = (identity.user.as_str(), name.as_str());
        let message = format!("`{user}` may not enter `{room}`: the right to `join` it is missing");
        Err(Refusal { code: ErrorCode::Forbidden, message: message.into() })
    }

    /// Whether a connection may say something in an inbox, which it need not enter for that.
    pub(super) fn may_write_to(&self, conn: ConnId, inbox: &RoomName) -> Result<(), Refusal> {
        let identity = self.sessions.get(conn).and_then(|session| session.identity());
        let rights = identity.map(|identity| self.config.permissions.standing(identity, inbox).settle(false).1);
        if rights.is_none_or(|rights| rights.has(Action::Send)) { Ok(()) } else { Err(lacks(Action::Send)) }
    }

    /// Puts the end of a token on the wheel if nothing else looks at the connection before.
    fn arm_expiry(&mut self, conn: ConnId) {
        let Some(left_ms) = self.token_left_ms(conn) else {
            return;
        };
        if left_ms <= millis(self.config.limits.heartbeat_interval.max(self.config.limits.handshake_timeout)) {
            self.wheel.schedule(self.now.ms() + left_ms, Timer::Expiry(conn));
        }
    }

    /// A token's time may be over; or a fresh one has come meanwhile, or the clock was set back.
    pub(super) fn check_expiry(&mut self, conn: ConnId) {
        match self.token_left_ms(conn) {
            Some(0) => self.close(conn, CloseReason::TokenExpired),
            Some(left_ms) if left_ms < EXPIRY_SLACK_MS => {
                self.wheel.schedule(self.now.ms() + left_ms, Timer::Expiry(conn));
            }
            _ => {}
        }
    }

    fn token_left_ms(&self, conn: ConnId) -> Option<u64> {
        let identity = self.sessions.get(conn)?.identity()?;
        Some(identity.expires_unix_ms?.saturating_sub(self.now.unix_ms))
    }
}

/// How a connection ends that is not let in.
fn closed_for(refusal: &Refusal) -> CloseReason {
    if refusal.code.is_temporary() { CloseReason::TryAgainLater } else { CloseReason::Unauthorized }
}

/// A token that ends so soon after its time on the wheel was up is waited for.
const EXPIRY_SLACK_MS: u64 = 1_000;
