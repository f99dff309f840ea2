//! Who a connection is, and whether the application agrees to what it does.
//!
//! The core asks, and the connection waits. A token that was looked at before is answered for at once; any other waits
//! for its turn (`strangers`), and one that names a key that is not known waits for more keys. Then the user is counted,
//! and the application is asked, each only where the configuration wants it. What is to be awaited comes back by the
//! shard's bell.
//!
//! Invariant: each question of the core is answered once, unless its connection is gone by then.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::HashMap;

use super::connection::Transport;
use super::hub::Hub;
use super::mailbox::Post;
use super::strangers::{Purpose, Stranger, Strangers};
use crate::access::Identity;
use crate::chat::log::{SanctionKind, Scope};
use crate::chat::{Note, Question, Refusal, auth};
use crate::config::Auth;
use crate::hooks::{self, About, HookLine, Notice};
use crate::ids::{ConnId, ShardId, UserName};
use crate::message::close::{CloseReason, ErrorCode};
use crate::telemetry::audit::{Record, Security};
use crate::telemetry::hooks::HookEvent;
use crate::telemetry::login::LoginOutcome;
use crate::token::{Cache, Keys, TokenError};

/// What a shard needs to find out who someone is.
pub(super) struct Desk {
    auth: Auth,
    /// Absent in open mode.
    keys: Option<Keys>,
    cache: Cache,
    /// Connections whose token has yet to be checked.
    pub(super) strangers: Strangers,
    more_keys: Arc<MoreKeys>,
    /// Absent when no application is asked.
    hooks: Option<HookLine>,
    /// What the application is being asked, by number.
    asked: HashMap<u64, Asked>,
    questions: u64,
    /// Who was let in, if the application hears of it.
    known: HashMap<ConnId, Arc<Identity>>,
}

/// Rings a shard when there may be more keys.
struct MoreKeys {
    has_come: AtomicBool,
    post: Arc<Post>,
    shard: ShardId,
}

enum Asked {
    /// Whether it may come in.
    Open { conn: ConnId, identity: Arc<Identity> },
    /// Whether its command may go on.
    Command { conn: ConnId },
}

impl Desk {
    pub(super) fn new(
        auth: Auth,
        keys: Option<Keys>,
        hooks: Option<HookLine>,
        post: Arc<Post>,
        shard: ShardId,
    ) -> Self {
        Self {
            auth,
            keys,
            cache: Cache::new(),
            strangers: Strangers::default(),
            more_keys: Arc::new(MoreKeys { has_come: AtomicBool::new(false), post, shard }),
            hooks,
            asked: HashMap::default(),
            questions: 0,
            known: HashMap::default(),
        }
    }

    /// Whether [`Hub::hear_answers`] has something to do.
    pub(super) fn has_answers(&self) -> bool {
        self.hooks.as_ref().is_some_and(HookLine::has_answers) || self.more_keys.has_come.load(Ordering::Acquire)
    }

    /// Tokens found in the cache since the start.
    pub(super) fn cache_hits(&self) -> u64 {
        self.cache.hits()
    }

    /// The user behind a token, if that is known without a look at its signature.
    fn recall(&mut self, token: &str, now_unix_ms: u64) -> Option<Result<Arc<Identity>, TokenError>> {
        self.cache.recall(self.keys.as_mut()?.current(), token, now_unix_ms)
    }

    /// The user behind a token.
    fn verify(&mut self, token: &str, now_unix_ms: u64) -> Result<Arc<Identity>, TokenError> {
        let keys = self.keys.as_mut().ok_or(TokenError::UnknownKey { kid: None })?;
        self.cache.verify(keys.current(), token, now_unix_ms)
    }

    /// Has more keys fetched for a token; false if there is nothing to wait for.
    fn await_keys(&self, kid: Option<&str>) -> bool {
        let more = self.more_keys.clone();
        let notify = move || {
            more.has_come.store(true, Ordering::Release);
            more.post.ring(more.shard);
        };
        self.keys.as_ref().is_some_and(|keys| keys.refresh_for(kid, notify))
    }

    /// Asks the application. What needs no asking is decided at once.
    fn ask(&mut self, question: hooks::Question, asked: Asked) -> Result<(), (Asked, hooks::Verdict)> {
        let Some(hooks) = &mut self.hooks else { return Err((asked, Ok(()))) };
        let number = self.questions;
        match hooks.try_ask(number, question) {
            Ok(()) => {
                self.questions += 1;
                self.asked.insert(number, asked);
                Ok(())
            }
            Err(verdict) => Err((asked, verdict)),
        }
    }
}

impl Hub {
    /// Finds out who a connection is, or has it wait until its token was checked.
    pub(super) fn identify(&mut self, conn: ConnId, token: Option<&str>, name: Option<&str>, purpose: Purpose) {
        if !self.is_in_core(conn) {
            return;
        }
        if self.desk.auth == Auth::Open {
            let identity = auth::identify(token, name, self.entropy.next());
            return self.found(conn, identity.map(Arc::new), purpose);
        }
        let Some(token) = token else {
            let text = "this server lets in who shows a token: connect with `token`";
            return self.turn_down(conn, None, LoginOutcome::Missing, Refusal::new(ErrorCode::Unauthorized, text));
        };
        match self.desk.recall(token, self.now.unix_ms) {
            Some(outcome) => self.verified(conn, outcome, purpose),
            None => {
                let stranger = Stranger { token: token.into(), purpose, has_waited: false };
                self.desk.strangers.await_check(conn, stranger);
            }
        }
    }

    /// Checks the token that has waited longest. False if none waits.
    pub(super) fn check_token(&mut self) -> bool {
        let Some((conn, stranger)) = self.desk.strangers.next() else { return false };
        match self.desk.verify(&stranger.token, self.now.unix_ms) {
            Err(TokenError::UnknownKey { kid }) if !stranger.has_waited && self.desk.await_keys(kid.as_deref()) => {
                self.desk.strangers.await_keys(conn, stranger);
            }
            outcome => self.verified(conn, outcome, stranger.purpose),
        }
        self.pump();
        true
    }

    /// Asks the application about a command.
    pub(super) fn consult(&mut self, conn: ConnId, question: Question) {
        let Some(identity) = self.desk.known.get(&conn) else { return self.consulted(conn, Ok(())) };
        let about = match question {
            Question::Join { room } => About::Join { room },
            Question::Message { room, content, key, tag } => About::Message { room, content, key, tag },
        };
        let user = identity.user.clone();
        let question = hooks::Question { connection: self.connection_name(conn).into(), user, about };
        if let Err((_, verdict)) = self.desk.ask(question, Asked::Command { conn }) {
            self.consulted(conn, verdict);
        }
    }

    /// Goes on with what keys and the application were awaited for.
    pub(super) fn hear_answers(&mut self) {
        if !self.desk.has_answers() {
            return;
        }
        if self.desk.more_keys.has_come.swap(false, Ordering::AcqRel) {
            self.desk.strangers.keys_have_come();
        }
        while let Some((number, verdict)) = self.desk.hooks.as_mut().and_then(HookLine::next_answer) {
            match self.desk.asked.remove(&number) {
                Some(Asked::Open { conn, identity }) => self.opened(conn, identity, verdict),
                Some(Asked::Command { conn }) => self.consulted(conn, verdict),
                None => {}
            }
        }
        self.pump();
    }

    /// A connection's end has begun.
    pub(super) fn forget_identity(&mut self, conn: ConnId, reason: CloseReason) {
        self.gate.leave_user(conn);
        self.desk.strangers.forget(conn);
        let Some(identity) = self.desk.known.remove(&conn) else { return };
        let connection = self.connection_name(conn).into();
        if let Some(hooks) = &mut self.desk.hooks {
            hooks.notify(Notice { connection, user: identity.user.clone(), reason });
        }
    }

    fn verified(&mut self, conn: ConnId, outcome: Result<Arc<Identity>, TokenError>, purpose: Purpose) {
        match outcome {
            Ok(identity) => self.found(conn, Ok(identity), purpose),
            Err(error) => {
                let code = if error == TokenError::Expired { ErrorCode::Expired } else { ErrorCode::Unauthorized };
                let refusal = Refusal { code, message: error.to_string().into() };
                self.turn_down(conn, None, outcome_of(&error), refusal);
            }
        }
    }

    /// It is known who it is; whether that user may come in is not.
    fn found(&mut self, conn: ConnId, found: Result<Arc<Identity>, Refusal>, purpose: Purpose) {
        // Nobody would give back the place of one that is gone.
        if !self.is_in_core(conn) {
            return;
        }
        let identity = match found {
            Ok(identity) => identity,
            Err(refusal) => return self.turn_down(conn, None, LoginOutcome::Name, refusal),
        };
        if let Some(refusal) = self.core.forbids(&identity) {
            return self.turn_down(conn, Some(&identity), LoginOutcome::Forbidden, refusal);
        }
        if purpose == Purpose::Refresh {
            return self.follow_ups.identified(conn, Ok(identity));
        }
        if let Err(text) = self.enter_user(conn, &identity.user, purpose == Purpose::Resume) {
            let refusal = Refusal { code: ErrorCode::Overloaded, message: text.into() };
            self.turn_down(conn, Some(&identity), LoginOutcome::TooManyConnections, refusal);
            return self.follow_ups.end(conn, CloseReason::TooManyConnections);
        }
        let Some(connection) = self.connections.get(conn) else { return };
        let transport = match connection.transport {
            Transport::ChatTcp(_) => hooks::Transport::Tcp,
            _ => hooks::Transport::WebSocket,
        };
        if !self.desk.hooks.as_ref().is_some_and(|hooks| hooks.asks(HookEvent::Open)) {
            return self.opened(conn, identity, Ok(()));
        }
        let address = self.gate.address(conn).map(|address| address.to_string().into());
        let about = About::Open { address, transport };
        let connection = self.connection_name(conn).into();
        let question = hooks::Question { connection, user: identity.user.clone(), about };
        if let Err((Asked::Open { conn, identity }, verdict)) = self.desk.ask(question, Asked::Open { conn, identity })
        {
            self.opened(conn, identity, verdict);
        }
    }

    /// The application has said whether someone may come in.
    fn opened(&mut self, conn: ConnId, identity: Arc<Identity>, verdict: hooks::Verdict) {
        if !self.is_in_core(conn) {
            return self.gate.leave_user(conn);
        }
        if let Err(refusal) = verdict {
            self.gate.leave_user(conn);
            return self.turn_down(conn, Some(&identity), LoginOutcome::Hook, refusal);
        }
        if self.desk.hooks.is_some() {
            self.desk.known.insert(conn, identity.clone());
        }
        // The others are counted when they are welcomed.
        if self.connections.get(conn).is_some_and(|connection| matches!(connection.transport, Transport::Relay(_))) {
            self.metrics.login(LoginOutcome::Ok);
        }
        self.follow_ups.identified(conn, Ok(identity));
    }

    fn consulted(&mut self, conn: ConnId, verdict: hooks::Verdict) {
        self.follow_ups.consulted(conn, verdict);
    }

    /// Someone is not let in.
    fn turn_down(&mut self, conn: ConnId, identity: Option<&Arc<Identity>>, outcome: LoginOutcome, refusal: Refusal) {
        self.note_login(conn, identity.map(|identity| &identity.user), outcome, &refusal);
        self.follow_ups.identified(conn, Err(refusal));
    }

    /// Counts a refused attempt to be let in, and has it in the audit log.
    fn note_login(&mut self, conn: ConnId, user: Option<&UserName>, outcome: LoginOutcome, refusal: &Refusal) {
        self.metrics.login(outcome);
        if let Some(suppressed) = self.throttle.admit(outcome.label(), self.now) {
            let connection = self.connection_name(conn);
            let address = self.gate.address(conn).as_ref().map(IpAddr::to_string);
            Record {
                user,
                address: address.as_deref(),
                connection: Some(&connection),
                detail: Some(&refusal.message),
                suppressed,
                ..Record::new(Security::LoginRefused, outcome.label())
            }
            .write();
        }
    }

    /// Something was done to someone.
    pub(super) fn note(&mut self, note: &Note) {
        let (event, user, room, by) = match note {
            Note::TurnedAway { conn, user, refusal } => {
                let outcome = if user.is_some() { LoginOutcome::Forbidden } else { LoginOutcome::Name };
                return self.note_login(*conn, user.as_ref(), outcome, refusal);
            }
            Note::Kick { room, user, by } => (Security::Kick, Some(user), Some(room), by),
            Note::Close { room, by } => (Security::Close, None, Some(room), by),
            Note::Sanction(record) => {
                let event = match record.kind {
                    _ if record.lifted => Security::Lift,
                    SanctionKind::Ban => Security::Ban,
                    SanctionKind::Mute => Security::Mute,
                    SanctionKind::Revoke => Security::Revoke,
                };
                let (user, room) = match &record.scope {
                    Scope::Room(room, user) => (Some(user), Some(room)),
                    Scope::User(user) => (Some(user), None),
                    Scope::Token(_) => (None, None),
                };
                (event, user, room, &record.by)
            }
        };
        let until = match note {
            Note::Sanction(record) => record.until_unix_ms.map(|until| format!("until {until}")),
            _ => None,
        };
        // Whoever is host of a room of their own could fill the log.
        let suppressed = match by {
            None => 0,
            Some(_) => match self.throttle.admit(event.as_str(), self.now) {
                Some(suppressed) => suppressed,
                None => return,
            },
        };
        let by = by.as_ref().map_or("operator", |by| by.as_str());
        Record { user, room, by: Some(by), detail: until.as_deref(), suppressed, ..Record::new(event, "done") }.write();
    }

    /// Whether a connection is there, and its end has not begun.
    fn is_in_core(&mut self, conn: ConnId) -> bool {
        self.connections.get(conn).is_some_and(|connection| connection.flags.in_core)
    }

    /// A connection's name, as `welcome` has it.
    fn connection_name(&self, conn: ConnId) -> String {
        self.core.connection_name(conn)
    }
}

/// What is counted for a token that was refused.
fn outcome_of(error: &TokenError) -> LoginOutcome {
    match error {
        TokenError::TooLong => LoginOutcome::TooLong,
        TokenError::Malformed(_) => LoginOutcome::Malformed,
        TokenError::Algorithm(_) => LoginOutcome::Algorithm,
        TokenError::UnknownKey { .. } => LoginOutcome::UnknownKey,
        TokenError::Signature => LoginOutcome::Signature,
        TokenError::Expired => LoginOutcome::Expired,
        TokenError::NotYetValid { .. } => LoginOutcome::NotYetValid,
        TokenError::Issuer => LoginOutcome::Issuer,
        TokenError::Audience => LoginOutcome::Audience,
        TokenError::Claim { .. } => LoginOutcome::Claim,
    }
}
