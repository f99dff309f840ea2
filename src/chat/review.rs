//! New permissions, for those who are in rooms already: some connections at a time.
//!
//! Invariant: once a review has ended, nobody is or may do in a room what the permissions deny. Whoever was on the way into
//! a room then is judged when it has arrived ([`JoinTicket::rules`](crate::chat::exchange::JoinTicket)).

use crate::access::{Action, Identity};
use crate::chat::auth;
use crate::chat::lifecycle::Timer;
use crate::chat::session::{Kind, MemberState, Phase};
use crate::chat::state::{Deferred, State};
use crate::ids::{ConnId, ShardId};
use crate::limits::{REVIEW_BATCH, REVIEW_BATCH_BEHIND};
use crate::message::close::CloseReason;

/// How far it has come.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// Connections in slots below this have had their turn.
    next_slot: usize,
}

impl State {
    /// Begins a review, or begins it again.
    pub(super) fn begin_review(&mut self) {
        let is_under_way = self.review.replace(Review::default()).is_some();
        if !is_under_way {
            self.review_step();
        }
    }

    pub(super) fn review_step(&mut self) {
        let slots = self.sessions.slots();
        let is_behind = (0..self.config.shards).any(|shard| self.full(ShardId(shard)).is_some());
        let batch = if is_behind { REVIEW_BATCH_BEHIND } else { REVIEW_BATCH };
        let Some(review) = self.review.as_mut().filter(|review| review.next_slot < slots) else {
            self.review = None;
            return;
        };
        let turn = review.next_slot..slots.min(review.next_slot + batch);
        review.next_slot = turn.end;
        // An audience stays as it is while something is on its way to it.
        self.deferred.extend(turn.filter_map(|slot| self.sessions.at(slot)).map(Deferred::Review));
        self.wheel.schedule(self.now.ms() + 1, Timer::Review);
    }

    /// Tells the owners of a connection's rooms what it may do there now, and puts it out of those that it may not be in.
    pub(super) fn review_conn(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get(conn).filter(|session| session.phase == Phase::Open) else {
            return;
        };
        let identity = match (session.identity(), session.kind) {
            (Some(identity), _) => Identity::clone(identity),
            (None, Kind::Relay) => Identity::named(auth::guest(0)),
            (None, Kind::Chat { .. }) => return,
        };
        if session.kind == Kind::Relay {
            return self.review_relay(conn, &identity);
        }
        // Backwards, for whoever is put out makes room for the last.
        for index in (0..session.memberships.len()).rev() {
            let membership = self.sessions.get(conn).and_then(|session| session.memberships.get(index));
            if membership.is_some_and(|membership| membership.state != MemberState::Joining) {
                self.judge_membership(conn, index, &identity);
            }
        }
    }

    fn review_relay(&mut self, conn: ConnId, identity: &Identity) {
        let membership = self.sessions.get(conn).and_then(|session| session.memberships.first());
        let Some(audience) = membership.and_then(|membership| self.audiences.at(membership.audience)) else {
            return;
        };
        let (_, rights) = self.config.permissions.standing(identity, &audience.name).settle(false);
        if !rights.has(Action::Join) {
            self.close(conn, CloseReason::Forbidden);
        } else if let Some(session) = self.sessions.get_mut(conn) {
            session.listens_only = !rights.has(Action::Send);
        }
    }
}
