//! How fast one connection may speak and enter rooms: token buckets, and what happens past them.
//!
//! Each bucket is one number, the time at which it will be empty again (the generic cell rate algorithm, ITU-T I.371,
//! annex A): what costs more than one second's worth of what is left is refused, and costs nothing then. A bucket that is
//! empty takes anything, so that nothing is too large for ever.
//!
//! Absent: anything for connections whose rates are not limited; a shard without limits never looks here.

use std::borrow::Cow;

use crate::chat::exchange::{Draft, Refusal};
use crate::chat::session::{Awaited, Wait};
use crate::chat::state::State;
use crate::chat::{Handled, Output, Question};
use crate::ids::{ConnId, RoomName};
use crate::limits::{Limits, RATE_REFUSALS_MAX};
use crate::message::close::{CloseReason, ErrorCode};

/// What one connection has used up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buckets {
    messages: Bucket,
    bytes: Bucket,
    joins: Bucket,
    /// Refusals since anything was last allowed.
    refusals: u16,
}

/// When what was used will have come back, in monotonic nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(u64);

/// What a command uses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spend {
    /// A message with content of so many bytes.
    Message(usize),
    /// A join.
    Join,
}

/// Commands that were refused for a limit, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// For the number of messages.
    pub messages: u64,
    /// For their bytes.
    pub bytes: u64,
    /// For the number of joins.
    pub joins: u64,
    /// For the number of users in the room.
    pub members: u64,
}

impl Bucket {
    /// What is left to wait, in nanoseconds, before `cost` of so many a second can be taken.
    fn wait(self, cost: u64, per_second: u32, now_ns: u64) -> Option<u64> {
        let used = self.0.saturating_sub(now_ns);
        let over = (used + worth(cost, per_second)).saturating_sub(SECOND_NS);
        // Nothing waits longer than until the bucket is empty.
        Some(over.min(used)).filter(|wait| *wait > 0)
    }

    fn take(&mut self, cost: u64, per_second: u32, now_ns: u64) {
        self.0 = self.0.max(now_ns) + worth(cost, per_second);
    }
}

/// The time in which so much comes back.
fn worth(cost: u64, per_second: u32) -> u64 {
    cost.saturating_mul(SECOND_NS) / u64::from(per_second.max(1))
}

impl Buckets {
    /// Takes what a command uses, or says how long to wait, in milliseconds, and for which limit.
    fn take(&mut self, spend: Spend, limits: &Limits, now_ns: u64) -> Result<(), (Cause, u64)> {
        let (messages, bytes, joins) = match spend {
            Spend::Message(bytes) => {
                (limits.messages_per_second, limits.bytes_per_second.map(|max| (max, bytes)), None)
            }
            Spend::Join => (None, None, limits.joins_per_second),
        };
        let waits = [
            (Cause::Messages, messages.and_then(|max| self.messages.wait(1, max, now_ns))),
            (Cause::Bytes, bytes.and_then(|(max, bytes)| self.bytes.wait(bytes as u64, max, now_ns))),
            (Cause::Joins, joins.and_then(|max| self.joins.wait(1, max, now_ns))),
        ];
        if let Some((cause, wait)) =
            waits.into_iter().filter_map(|(cause, wait)| Some((cause, wait?))).max_by_key(|w| w.1)
        {
            self.refusals = self.refusals.saturating_add(1);
            return Err((cause, wait.div_ceil(1_000_000)));
        }
        self.refusals = 0;
        if let Some(max) = messages {
            self.messages.take(1, max, now_ns);
        }
        if let Some((max, bytes)) = bytes {
            self.bytes.take(bytes as u64, max, now_ns);
        }
        if let Some(max) = joins {
            self.joins.take(1, max, now_ns);
        }
        Ok(())
    }
}

/// Which limit it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Messages,
    Bytes,
    Joins,
}

impl State {
    /// Whether anything may stand between a member and what it says, beside the room's owner.
    #[inline]
    pub(super) fn is_guarded(&self) -> bool {
        let Limits { messages_per_second, bytes_per_second, .. } = &self.config.limits;
        self.config.consults.message
            || messages_per_second.is_some()
            || bytes_per_second.is_some()
            || self.sanctions.any_everywhere()
    }

    /// Lets a connection say something, or not yet, or not. A command that comes back with its verdict has been through
    /// here and pays no second time.
    pub(super) fn admit_message(
        &mut self,
        conn: ConnId,
        room: Option<RoomName>,
        draft: &Draft,
    ) -> Result<Option<Handled>, Refusal> {
        if !self.has_verdict(conn) {
            self.admit_signal(conn, draft.content.len())?;
        } else if let Some(refusal) = self.muted_everywhere(conn) {
            // Silenced while the application was asked.
            return Err(refusal);
        }
        match room.filter(|_| self.config.consults.message) {
            Some(room) => {
                let (content, key, tag) = (draft.content.clone(), draft.key.clone(), draft.tag.clone());
                self.consult(conn, Question::Message { room, content, key, tag })
            }
            None => Ok(None),
        }
    }

    /// Lets a connection say something of which nobody is asked, or not.
    pub(super) fn admit_signal(&mut self, conn: ConnId, bytes: usize) -> Result<(), Refusal> {
        match self.muted_everywhere(conn) {
            Some(refusal) => Err(refusal),
            None => self.spend(conn, Spend::Message(bytes)),
        }
    }

    /// Lets a connection enter a room, or not yet, or not.
    pub(super) fn admit_join(&mut self, conn: ConnId, room: &RoomName) -> Result<Option<Handled>, Refusal> {
        if !self.has_verdict(conn) {
            self.spend(conn, Spend::Join)?;
        }
        if !self.config.consults.join {
            return Ok(None);
        }
        self.consult(conn, Question::Join { room: room.clone() })
    }

    /// The application has said whether a command may go on.
    pub(super) fn on_consulted(&mut self, conn: ConnId, verdict: Result<(), Refusal>) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        if let Some(Awaited::Verdict(said)) = session.awaits.as_deref_mut() {
            *said = Some(verdict);
            self.answered(conn);
        }
    }

    /// A command is over: what was said of it is said of no other.
    #[inline]
    pub(super) fn forget_verdict(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get_mut(conn)
            && matches!(session.awaits.as_deref(), Some(Awaited::Verdict(_)))
        {
            session.awaits = None;
        }
    }

    /// Closes a connection that goes on and on with what it is refused for its rate.
    pub(super) fn close_if_relentless(&mut self, conn: ConnId) {
        let buckets = self.sessions.get(conn).and_then(|session| session.buckets.as_ref());
        if buckets.is_some_and(|buckets| buckets.refusals >= RATE_REFUSALS_MAX) {
            self.close(conn, CloseReason::RateLimited);
        }
    }

    fn has_verdict(&self, conn: ConnId) -> bool {
        let awaits = self.sessions.get(conn).and_then(|session| session.awaits.as_deref());
        matches!(awaits, Some(Awaited::Verdict(_)))
    }

    fn consult(&mut self, conn: ConnId, question: Question) -> Result<Option<Handled>, Refusal> {
        let Some(session) = self.sessions.get_mut(conn) else {
            return Ok(Some(Handled::Done));
        };
        match session.awaits.as_deref() {
            Some(Awaited::Verdict(Some(verdict))) => verdict.clone().map(|()| None),
            // Something else was answered meanwhile.
            Some(_) => Ok(Some(self.block(conn, Wait::Answer))),
            None => {
                session.awaits = Some(Box::new(Awaited::Verdict(None)));
                session.unanswered += 1;
                self.outputs.push_back(Output::Consult { conn, question });
                Ok(Some(self.block(conn, Wait::Answer)))
            }
        }
    }

    pub(super) fn spend(&mut self, conn: ConnId, spend: Spend) -> Result<(), Refusal> {
        let limits = &self.config.limits;
        let is_limited = match spend {
            Spend::Message(_) => limits.messages_per_second.is_some() || limits.bytes_per_second.is_some(),
            Spend::Join => limits.joins_per_second.is_some(),
        };
        let Some(session) = self.sessions.get_mut(conn).filter(|_| is_limited) else {
            return Ok(());
        };
        let buckets = session.buckets.get_or_insert_default();
        let Err((cause, wait_ms)) = buckets.take(spend, limits, self.now.us.saturating_mul(1_000)) else {
            return Ok(());
        };
        let what = match cause {
            Cause::Messages => {
                self.limited.messages += 1;
                "messages"
            }
            Cause::Bytes => {
                self.limited.bytes += 1;
                "bytes of messages"
            }
            Cause::Joins => {
                self.limited.joins += 1;
                "joins"
            }
        };
        let message: Cow<'static, str> = format!("more {what} a second than allowed: wait {wait_ms} ms").into();
        Err(Refusal { code: ErrorCode::RateLimited, message })
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(messages: Option<u32>, bytes: Option<u32>, joins: Option<u32>) -> Limits {
        Limits { messages_per_second: messages, bytes_per_second: bytes, joins_per_second: joins, ..Limits::default() }
    }

    fn passes(buckets: &mut Buckets, spend: Spend, limits: &Limits, at_ms: u64) -> Option<u64> {
        buckets.take(spend, limits, at_ms * 1_000_000).err().map(|(_, wait)| wait)
    }

    #[test]
    fn a_second_s_worth_comes_at_once_and_then_one_by_one() {
        let (limits, mut buckets) = (limits(Some(5), None, None), Buckets::default());
        let mut say = |at_ms| passes(&mut buckets, Spend::Message(0), &limits, at_ms);
        for _ in 0..5 {
            assert_eq!(say(10_000), None);
        }
        assert_eq!([say(10_000), say(10_199)], [Some(200), Some(1)], "and a refusal costs nothing");
        assert_eq!([say(10_200), say(10_200)], [None, Some(200)]);
        assert_eq!((0..10).filter(|_| say(20_000).is_none()).count(), 5, "a rest fills it up, and no further");
    }

    #[test]
    fn one_a_second_is_at_least_one() {
        let (limits, mut buckets) = (limits(None, None, Some(1)), Buckets::default());
        let mut join = |at_ms| passes(&mut buckets, Spend::Join, &limits, at_ms);
        assert_eq!([join(5_000), join(5_000), join(6_000)], [None, Some(1_000), None]);
        assert_eq!(passes(&mut buckets, Spend::Message(9), &limits, 6_000), None, "messages are another matter");
    }

    #[test]
    fn what_is_larger_than_a_second_s_worth_passes_when_nothing_else_was_said() {
        let (limits, mut buckets) = (limits(None, Some(1_000), None), Buckets::default());
        let mut say = |bytes, at_ms| passes(&mut buckets, Spend::Message(bytes), &limits, at_ms);
        assert_eq!(say(3_000, 1_000), None);
        assert_eq!([say(1, 1_000), say(5_000, 3_999), say(5_000, 4_000)], [Some(2_001), Some(1), None]);
    }

    #[test]
    fn the_longest_wait_is_told_and_nothing_is_taken_of_the_others() {
        let (limits, mut buckets) = (limits(Some(2), Some(10), None), Buckets::default());
        let mut say = |bytes, at_ms| passes(&mut buckets, Spend::Message(bytes), &limits, at_ms);
        assert_eq!(say(10, 0), None);
        assert_eq!([say(10, 0), say(10, 0), say(0, 0)], [Some(1_000), Some(1_000), None]);
    }
}
