//! New permissions, for those who are in rooms already: some connections at a time.
//!
//! Invariant: once a review has ended, nobody is or may do in a room what the permissions of its beginning deny.

use crate::access::{Action, Identity};
use crate::chat::auth;
use crate::chat::lifecycle::Timer;
use crate::chat::session::{Kind, Phase};
use crate::chat::state::{Deferred, State};
use crate::ids::ConnId;
use crate::limits::REVIEW_BATCH;
use crate::message::close::CloseReason;

/// How far it has come.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// Connections in slots below this have had their turn.
    next_slot: usize,
    /// Those whose turn comes again, for they were entering a room, or an owner of their rooms was behind.
    later: Vec<ConnId>,
}

impl State {
    /// Begins a review, or begins it again.
    pub(super) fn begin_review(&mut self) {
        match &mut self.review {
            Some(review) => review.next_slot = 0,
            None => {
                self.review = Some(Review::default());
                self.review_step();
            }
        }
    }

    pub(super) fn review_step(&mut self) {
        let slots = self.sessions.slots();
        let Some(review) = &mut self.review else {
            return;
        };
        let mut batch = std::mem::take(&mut review.later);
        while batch.len() < REVIEW_BATCH && review.next_slot < slots {
            batch.extend(self.sessions.at(review.next_slot));
            review.next_slot += 1;
        }
        if batch.is_empty() && review.next_slot >= slots {
            self.review = None;
            return;
        }
        self.deferred.extend(batch.into_iter().map(Deferred::Review));
        self.wheel.schedule(self.now.ms() + 1, Timer::Review);
    }

    /// Tells the owners of a connection's rooms what it may do there now, and puts it out of those that it may not be in.
    pub(super) fn review_conn(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get(conn).filter(|session| session.phase == Phase::Open) else {
            return;
        };
        let owners = session.memberships.iter().filter_map(|membership| self.audiences.at(membership.audience));
        // Rights are told to an owner once the join is answered.
        if session.joining > 0 || owners.into_iter().any(|audience| self.full(audience.owner).is_some()) {
            if let Some(review) = &mut self.review {
                review.later.push(conn);
            }
            return;
        }
        let (kind, count) = (session.kind, session.memberships.len());
        match (session.identity().cloned(), kind) {
            (identity, Kind::Relay) => {
                let stranger = || Identity::named(auth::guest(0));
                let identity = identity.map_or_else(stranger, |identity| Identity::clone(&identity));
                self.review_relay(conn, &identity);
            }
            (Some(identity), _) => {
                // Backwards, for whoever is put out makes room for the last.
                for index in (0..count).rev() {
                    self.judge_membership(conn, index, &identity);
                }
            }
            (None, _) => {}
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
