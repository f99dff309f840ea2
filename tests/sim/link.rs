//! One connection as its shell sees it, and what there is to do for it.

use std::collections::VecDeque;

use bytes::Bytes;
use hubbub::chat::AudienceId;
use hubbub::chat::outbox::{Outbox, OutboxLimits};
use hubbub::ids::ConnId;
use hubbub::message::close::CloseReason;

use crate::client::Inbound;
use crate::env::Env;
use crate::shell::Chore;
use crate::truth::Author;

/// One connection as its shell sees it.
#[derive(Debug)]
pub struct Link {
    pub author: Author,
    pub slow: bool,
    pub limits: OutboxLimits,
    pub conn: ConnId,
    /// Sent by the peer and not read.
    pub inbound: VecDeque<Inbound>,
    /// The first of `inbound` was blocked.
    pub blocked: bool,
    /// The shell does not read for a reason of its own.
    pub paused: bool,
    pub outbox: Outbox,
    /// What the kernel has and the peer has not read.
    pub flying: Bytes,
    pub replays_owed: Vec<AudienceId>,
    pub closing: Option<Closing>,
    /// The peer has vanished.
    pub gone: bool,
    pub heard_ms: u64,
}

/// How far a close has come.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    pub reason: CloseReason,
    /// The core was told that it is over.
    pub told: bool,
    /// When the connection is reset, flushed or not.
    pub reset_ms: u64,
}

impl Link {
    pub fn new((author, slow): (Author, bool), limits: OutboxLimits, conn: ConnId, now_ms: u64) -> Self {
        Self {
            author,
            slow,
            limits,
            conn,
            inbound: VecDeque::new(),
            blocked: false,
            paused: false,
            outbox: Outbox::default(),
            flying: Bytes::new(),
            replays_owed: Vec::new(),
            closing: None,
            gone: false,
            heard_ms: now_ms,
        }
    }

    /// Adds what could be done now.
    pub fn chores(&self, slot: u32, env: &Env, list: &mut Vec<Chore>) {
        let now_ms = env.now.ms();
        let told = self.closing.is_some_and(|closing| closing.told);
        if self.gone {
            list.push(Chore::Gone(slot));
            // What arrived before the peer vanished may still be read, or not.
        }
        if self.paused && self.closing.is_none() {
            list.push(Chore::Resume(slot));
        } else if !self.inbound.is_empty() && !self.blocked && self.closing.is_none() {
            list.push(Chore::Read(slot));
        }
        if !self.gone && !self.outbox.is_empty() {
            list.push(Chore::Write(slot));
        }
        if !told && !self.replays_owed.is_empty() && self.outbox.is_below_half(&self.limits) {
            list.push(Chore::Replay(slot));
        }
        let Some(closing) = self.closing else {
            let stalled = self.outbox.stall_deadline_ms(&self.limits).is_some_and(|at| at <= now_ms);
            if stalled && !self.gone {
                list.push(Chore::Stalled(slot));
            }
            return;
        };
        let over = self.outbox.is_empty() || closing.reset_ms <= now_ms;
        let at_once = env.plan.tells_closed_at_once;
        if !told && !self.gone && (over || at_once) {
            list.push(Chore::Tell(slot));
        }
        if told && !self.gone && over {
            list.push(Chore::Free(slot));
        }
    }

    /// The peer has vanished; half of the time with all that it sent unread.
    pub fn vanish(&mut self, env: &mut Env) {
        self.gone = true;
        env.seen.aborts += 1;
        if env.rng.chance(1, 2) && !self.blocked {
            self.inbound.clear();
        }
    }

    /// What is still to be done although nothing happens any more; none at rest.
    pub fn unrest(&self) -> Option<String> {
        let idle = self.inbound.is_empty() && self.outbox.is_empty() && self.replays_owed.is_empty();
        (!idle || self.blocked || self.closing.is_some() || self.gone).then(|| {
            let Self { conn, inbound, blocked, outbox, closing, .. } = self;
            format!("{conn:?} waits: {inbound:?}, blocked {blocked}, {} bytes, {closing:?}", outbox.queued_bytes())
        })
    }

    /// When time alone will give the shell something to do here.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.closing {
            Some(closing) => Some(closing.reset_ms),
            None => self.outbox.stall_deadline_ms(&self.limits),
        }
    }
}
