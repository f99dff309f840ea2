//! What a connection is told about what it asked: refusals, where its messages are, and where it goes on. Of durable
//! rooms the model of the store says what must be true.

use hubbub::message::close::ErrorCode;
use hubbub::message::event::Joined;
use hubbub::policy::Commit;

use super::{Asked, JoinAsked, Witness};
use crate::env::Env;
use crate::plan::Keep;

impl Witness {
    pub(super) fn on_error(&mut self, id: Option<u64>, code: ErrorCode, message: &str, env: &mut Env) {
        let Some(id) = id else {
            if code == ErrorCode::NotMember && !self.kicked.is_empty() {
                self.errors_due = self.errors_due.saturating_sub(1);
                return;
            }
            let acks = (0..env.plan.rooms.len()).any(|room| self.ack_refused(room, code, env));
            let acked = code == ErrorCode::BadRequest && !self.kicked.is_empty();
            let may_fail = acks || acked || env.draining || env.plan.store.fails();
            if self.errors_due == 0 && !may_fail {
                env.fail(|| format!("{:?}: unexpected error {code:?} {message}", self.author));
            }
            let due = [ErrorCode::Overloaded, ErrorCode::NotFound].contains(&code) && env.plan.store.fails();
            self.errors_due = self.errors_due.saturating_sub(usize::from(!due));
            return;
        };
        let asked = self.asked.remove(&id);
        let fair = match &asked {
            None => false,
            Some(Asked::Refused(expected)) if *expected == code => true,
            Some(Asked::Delete { .. }) if matches!(code, ErrorCode::NotFound | ErrorCode::Forbidden) => true,
            // The store was asked, and meanwhile everybody has left.
            Some(Asked::Delete { room, .. } | Asked::History { room, .. })
                if code == ErrorCode::NotMember && env.plan.is_durable(*room) && self.has_left.contains(room) =>
            {
                true
            }
            // It was sent behind a `connect` that has not brought back the session.
            Some(Asked::Message { .. }) if code == ErrorCode::NotMember && self.lacks_session() => true,
            Some(Asked::Ack { room, .. }) if self.ack_refused(*room, code, env) => true,
            Some(Asked::Refused(_)) if code == ErrorCode::NotMember && !self.kicked.is_empty() => true,
            Some(asked) if code == ErrorCode::NotMember && self.was_kicked(asked) => true,
            Some(asked) => env.draining || self.store_refuses(asked, code, env),
        };
        if !fair {
            env.fail(|| format!("{:?}: error {code:?} ({message}) answers {id} {asked:?}", self.author));
        }
        if let (Some(Asked::Delete { seq, allowed: true, .. }), ErrorCode::Forbidden) = (&asked, code) {
            env.fail(|| format!("{:?} was not allowed to delete {seq}", self.author));
        }
    }

    /// Whether this was asked of a room in which another connection consumes meanwhile.
    fn was_kicked(&mut self, asked: &Asked) -> bool {
        match asked {
            Asked::Switch { from, to } if self.kicked.contains(from) => {
                self.not_member(to.room);
                true
            }
            Asked::Leave { room }
            | Asked::Message { room, .. }
            | Asked::Signal { room, .. }
            | Asked::Delete { room, .. }
            | Asked::History { room, .. }
            | Asked::Presence { room, .. } => self.kicked.contains(room),
            _ => false,
        }
    }

    /// Whether this may be refused because of the store; whoever could not enter a room is in none.
    fn store_refuses(&mut self, asked: &Asked, code: ErrorCode, env: &mut Env) -> bool {
        let room = match asked {
            Asked::Join(to) | Asked::Switch { to, .. } => to.room,
            Asked::Leave { room }
            | Asked::Message { room, .. }
            | Asked::Signal { room, .. }
            | Asked::Delete { room, .. }
            | Asked::History { room, .. }
            | Asked::Presence { room, .. }
            | Asked::Ack { room, .. } => *room,
            Asked::Connect | Asked::Rooms { .. } | Asked::Ping | Asked::Refused(_) => return false,
        };
        if !env.plan.is_durable(room) || !env.plan.store.fails() {
            return false;
        }
        env.seen.store_refusals += 1;
        let unreadable = env.store.was_unreadable(&env.plan.rooms[room]);
        match asked {
            Asked::Join(to) | Asked::Switch { to, .. } if code == ErrorCode::Overloaded => {
                self.barred.insert(to.room);
                self.member_of.remove(&to.room);
                if let Asked::Switch { from, .. } = asked {
                    self.member_of.insert(*from);
                }
                unreadable
            }
            Asked::Message { .. } | Asked::Delete { .. } | Asked::History { .. } | Asked::Ack { .. }
                if code == ErrorCode::Overloaded =>
            {
                true
            }
            // It was said before the join was refused.
            _ => code == ErrorCode::NotMember && (self.barred.contains(&room) || self.resume.is_some()),
        }
    }

    pub(super) fn on_sent(
        &mut self,
        (room, number): (usize, usize),
        (seq, timestamp): (u64, u64),
        (durable, duplicate): (bool, bool),
        env: &mut Env,
    ) {
        let fair = match env.plan.keeps[room] {
            Keep::Memory => !durable,
            Keep::Durable(Commit::Fsync) => durable,
            Keep::Durable(Commit::Interval) => !durable || duplicate,
        };
        if !fair {
            env.fail(|| format!("message {number} in {room}: durable {durable}, duplicate {duplicate}"));
        }
        if durable && let Some((epoch, _)) = env.store.log_of(&env.plan.rooms[room]) {
            env.truth.durable.insert((room, epoch.0, seq));
        }
        let claim = if duplicate {
            env.seen.duplicates += 1;
            env.truth.claim_duplicate(number, seq, timestamp)
        } else {
            env.truth.claim(number, seq, timestamp)
        };
        env.check(claim);
    }

    /// `recovered` says whether everything after `since` will come; it must be true whenever that can be.
    pub(super) fn judge_recovery(&self, asked: &JoinAsked, joined: &Joined, env: &mut Env) {
        let Some(since) = asked.since else {
            if joined.recovered.is_some() {
                env.fail(|| format!("{asked:?} was answered by {joined:?}"));
            }
            return;
        };
        let (same, head) = (since.epoch == joined.epoch, joined.seq.0);
        let durable = env.plan.is_durable(asked.room);
        let missed = head.checked_sub(since.seq.0);
        let kept = missed.is_some_and(|missed| durable || missed <= env.plan.history_size as u64);
        let trimmed = durable && since.seq < env.store.trimmed(joined.epoch);
        let fair = match joined.recovered {
            Some(true) => same && kept,
            Some(false) => !same || !kept || trimmed || (!durable && env.plan.history_bytes_tight && missed != Some(0)),
            None => false,
        };
        if joined.recovered == Some(true) {
            env.seen.recovered += 1;
        } else {
            env.seen.not_recovered += 1;
            env.seen.new_epochs += u64::from(!same);
        }
        if !fair {
            env.fail(|| format!("{:?}: {asked:?} was answered by {joined:?}", self.author));
        }
    }
}

/// Where the latest messages begin for which a join has asked, if retention takes none: the position before.
pub(super) fn latest(asked: &JoinAsked, joined: &Joined, env: &Env) -> u64 {
    let head = joined.seq.0;
    if !env.plan.is_durable(asked.room) {
        return head - asked.history.min(head.min(env.plan.history_size as u64));
    }
    if asked.history == 0 {
        return head;
    }
    let before = |seq: u64| env.truth.alive_before(asked.room, joined.epoch.0, seq);
    (0..asked.history).fold(head + 1, |seq, _| before(seq)).max(1) - 1
}
