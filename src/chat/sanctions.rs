//! Who is shut out or silenced: what a shard knows of bans, mutes and revocations, and who is hit by a new one.
//!
//! Those of a room live with the room's owner, by the room's name, whether the room is in memory or not; those of the
//! whole server live in every shard. Each scope has at most one of each kind.
//!
//! Invariants: whatever ends by itself is in `ends`. One that is over forbids nothing, whether it is still held or not.

use std::collections::BTreeSet;

use crate::access::Identity;
use crate::chat::exchange::Refusal;
use crate::chat::lifecycle::Timer;
use crate::chat::log::{LogWrite, SanctionKind, SanctionRecord, Scope};
use crate::chat::placement;
use crate::chat::session::Phase;
use crate::chat::state::State;
use crate::chat::{Note, Output};
use crate::ids::{ConnId, RoomName, ShardId, UserName};
use crate::limits::{SANCTIONS_EVERYWHERE_MAX, SANCTIONS_PER_ROOM_MAX, SANCTIONS_PER_SHARD_MAX};
use crate::message::close::{CloseReason, ErrorCode};

/// The sanctions that one shard knows.
#[derive(Debug, Default)]
pub(super) struct Sanctions {
    held: ahash::HashMap<(Scope, SanctionKind), SanctionRecord>,
    /// How many of them are of each room.
    per_room: ahash::HashMap<RoomName, usize>,
    /// Those of the whole server.
    everywhere: usize,
    ends: BTreeSet<(u64, Scope, SanctionKind)>,
    armed: bool,
}

impl Sanctions {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// What of this kind is in force against a scope.
    pub(super) fn find(&self, scope: Scope, kind: SanctionKind, unix_ms: u64) -> Option<&SanctionRecord> {
        self.held.get(&(scope, kind)).filter(|record| !is_over(record, unix_ms))
    }

    /// What of this kind is in force against a user in a room.
    pub(super) fn in_room(
        &self,
        room: &RoomName,
        user: &UserName,
        kind: SanctionKind,
        unix_ms: u64,
    ) -> Option<&SanctionRecord> {
        self.per_room.get(room)?;
        self.find(Scope::Room(room.clone(), user.clone()), kind, unix_ms)
    }

    /// Whether there is anything against anyone in the whole server.
    #[inline]
    pub(super) fn any_everywhere(&self) -> bool {
        self.everywhere > 0
    }

    /// Whether one more would be too many. What hosts do in their rooms takes no place from what operators do.
    fn is_full(&self, record: &SanctionRecord) -> bool {
        if record.lifted || self.held.contains_key(&(record.scope.clone(), record.kind)) {
            return false;
        }
        match &record.scope {
            Scope::Room(room, _) => {
                let of_room = self.per_room.get(room).copied().unwrap_or(0);
                of_room >= SANCTIONS_PER_ROOM_MAX || self.held.len() - self.everywhere >= SANCTIONS_PER_SHARD_MAX
            }
            Scope::User(_) | Scope::Token(_) => self.everywhere >= SANCTIONS_EVERYWHERE_MAX,
        }
    }

    fn put(&mut self, record: SanctionRecord) {
        let key = (record.scope.clone(), record.kind);
        self.remove(&key);
        match &record.scope {
            Scope::Room(room, _) => *self.per_room.entry(room.clone()).or_default() += 1,
            Scope::User(_) | Scope::Token(_) => self.everywhere += 1,
        }
        if let Some(until) = record.until_unix_ms {
            self.ends.insert((until, key.0.clone(), key.1));
        }
        self.held.insert(key, record);
    }

    fn remove(&mut self, key: &(Scope, SanctionKind)) {
        let Some(record) = self.held.remove(key) else {
            return;
        };
        match &record.scope {
            Scope::Room(room, _) => {
                if let Some(count) = self.per_room.get_mut(room) {
                    *count -= 1;
                    if *count == 0 {
                        self.per_room.remove(room);
                    }
                }
            }
            Scope::User(_) | Scope::Token(_) => self.everywhere -= 1,
        }
        if let Some(until) = record.until_unix_ms {
            self.ends.remove(&(until, record.scope, record.kind));
        }
    }

    /// Forgets what is over, but not much at once. Whether there is more of it.
    fn forget_ended(&mut self, unix_ms: u64) -> bool {
        for _ in 0..FORGOTTEN_PER_STEP {
            let Some((until, scope, kind)) = self.ends.first() else {
                return false;
            };
            if *until > unix_ms {
                return false;
            }
            let key = (scope.clone(), *kind);
            self.remove(&key);
        }
        true
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        let is_of_room = |record: &&SanctionRecord| matches!(record.scope, Scope::Room(..));
        assert_eq!(self.per_room.values().sum::<usize>(), self.held.values().filter(is_of_room).count());
        assert_eq!(self.everywhere, self.held.len() - self.held.values().filter(is_of_room).count());
        assert_eq!(self.ends.len(), self.held.values().filter(|record| record.until_unix_ms.is_some()).count());
        assert!(self.ends.is_empty() || self.armed, "what ends is looked after");
        assert!(self.held.iter().all(|(key, record)| *key == (record.scope.clone(), record.kind) && !record.lifted));
    }
}

impl State {
    /// Why someone may not be on this server at all.
    #[must_use]
    pub fn forbids(&self, identity: &Identity) -> Option<Refusal> {
        if !self.sanctions.any_everywhere() {
            return None;
        }
        let now = self.now.unix_ms;
        if let Some(ban) = self.sanctions.find(Scope::User(identity.user.clone()), SanctionKind::Ban, now) {
            return Some(refusal_of(ban, "you are banned from this server", now));
        }
        self.is_revoked(identity).then(|| {
            Refusal::new(ErrorCode::Unauthorized, "this token was revoked: connect with one that was issued since")
        })
    }

    fn is_revoked(&self, identity: &Identity) -> bool {
        if !identity.proven {
            return false;
        }
        let (now, kind) = (self.now.unix_ms, SanctionKind::Revoke);
        let of_user = self.sanctions.find(Scope::User(identity.user.clone()), kind, now);
        let is_older = |record: &SanctionRecord| match (record.before_unix_ms, identity.issued_unix_ms) {
            (Some(before), Some(issued)) => issued < before,
            (None, _) | (_, None) => true,
        };
        let of_token = identity.token_id.as_ref().map(|id| Scope::Token(id.clone()));
        of_user.is_some_and(is_older) || of_token.is_some_and(|scope| self.sanctions.find(scope, kind, now).is_some())
    }

    /// Why a user may not say anything on the whole server.
    pub(super) fn muted_everywhere(&self, conn: ConnId) -> Option<Refusal> {
        if !self.sanctions.any_everywhere() {
            return None;
        }
        let user = self.sessions.get(conn)?.user()?.clone();
        let mute = self.sanctions.find(Scope::User(user), SanctionKind::Mute, self.now.unix_ms)?;
        Some(refusal_of(mute, "you are muted on the whole server", self.now.unix_ms))
    }

    /// Why a user may not enter a room.
    pub(super) fn banned_from(&self, room: &RoomName, user: &UserName) -> Option<Refusal> {
        let ban = self.sanctions.in_room(room, user, SanctionKind::Ban, self.now.unix_ms)?;
        Some(refusal_of(ban, "you are banned from this room", self.now.unix_ms))
    }

    /// Why a user may not say anything in a room.
    pub(super) fn muted_in(&self, room: &RoomName, user: &UserName) -> Option<Refusal> {
        let mute = self.sanctions.in_room(room, user, SanctionKind::Mute, self.now.unix_ms)?;
        Some(refusal_of(mute, "you are muted in this room", self.now.unix_ms))
    }

    /// Every sanction that this shard knows, in no order; some may be over by now.
    pub fn sanctions(&self) -> impl Iterator<Item = &SanctionRecord> {
        self.sanctions.held.values()
    }

    /// Takes a sanction into force, or lifts it, and has it stored. One of a room is taken by the room's owner alone, and
    /// is nothing to the others; one of the whole server is to be given to every shard, of which the first has it
    /// stored. It is durable with the batch that is gathered now. An operator's order: to be given where an input may be,
    /// and polled for like one.
    ///
    /// # Errors
    /// `overloaded` when there are too many, or the store takes no writes: then nothing has changed.
    pub fn sanction(&mut self, record: SanctionRecord) -> Result<(), Refusal> {
        if !self.concerns(&record) {
            return Ok(());
        }
        if self.sanctions.is_full(&record) {
            let text = "as many bans and mutes are in force as there may be: lift some first";
            return Err(Refusal::new(ErrorCode::Overloaded, text));
        }
        let stores = match record.scope {
            Scope::Room(..) => self.config.has_store,
            Scope::User(_) | Scope::Token(_) => self.config.has_store && self.here == ShardId(0),
        };
        if stores {
            if let Some(refusal) = self.journal.refusal(false) {
                return Err(refusal);
            }
            self.journal.write(LogWrite::Sanction(Box::new(record.clone())));
            self.journal.sync();
        }
        let decides = matches!(record.scope, Scope::Room(..)) || self.here == ShardId(0);
        if decides {
            self.outputs.push_back(Output::Noted(Box::new(Note::Sanction(record.clone()))));
        }
        self.enforce(record);
        Ok(())
    }

    /// Sanctions that were kept before the last start: all of them, though this shard may have more rooms than then.
    pub(super) fn on_stored_sanctions(&mut self, records: Vec<SanctionRecord>) {
        for record in records {
            if self.concerns(&record) {
                self.enforce(record);
            }
        }
    }

    /// Forgets sanctions that are over.
    pub(super) fn sweep_sanctions(&mut self) {
        self.sanctions.armed = false;
        let more = self.sanctions.forget_ended(self.now.unix_ms);
        self.arm_sanctions(if more { 1 } else { SWEEP_MS });
    }

    /// Closes a user's connections on this shard; how many those were. An operator's order, like [`State::sanction`].
    pub fn disconnect_user(&mut self, user: &UserName, reason: CloseReason) -> usize {
        self.disconnect_all(reason, |_, identity| identity.user == *user)
    }

    fn concerns(&self, record: &SanctionRecord) -> bool {
        match &record.scope {
            Scope::Room(room, _) => placement::owner(room.placement_hash(), self.config.shards) == self.here,
            Scope::User(_) | Scope::Token(_) => true,
        }
    }

    /// A sanction is in force from here on, or no longer, also for those who are here.
    fn enforce(&mut self, record: SanctionRecord) {
        if record.lifted || is_over(&record, self.now.unix_ms) {
            return self.sanctions.remove(&(record.scope, record.kind));
        }
        let (scope, kind) = (record.scope.clone(), record.kind);
        self.sanctions.put(record.clone());
        self.arm_sanctions(SWEEP_MS);
        match (scope, kind) {
            (Scope::Room(room, user), SanctionKind::Ban) => {
                if let Some(id) = self.room_by_name.get(&room).copied() {
                    self.put_out_user(id, &user, record.notice("banned"));
                }
            }
            (Scope::Room(room, user), SanctionKind::Mute) => self.mark_muted(&room, &user),
            (Scope::User(user), SanctionKind::Ban) => _ = self.disconnect_user(&user, CloseReason::Revoked),
            (_, SanctionKind::Revoke) => {
                self.disconnect_all(CloseReason::Revoked, |state, identity| state.is_revoked(identity));
            }
            // Looked up when something is to be said.
            (Scope::User(_) | Scope::Token(_), SanctionKind::Mute) | (Scope::Token(_), SanctionKind::Ban) => {}
        }
    }

    fn disconnect_all(&mut self, reason: CloseReason, hits: impl Fn(&Self, &Identity) -> bool) -> usize {
        let known = self.sessions.iter().filter(|(_, session)| session.phase != Phase::Closing);
        let is_hit = |(conn, session): (ConnId, &crate::chat::session::Session)| {
            session.identity().is_some_and(|identity| hits(self, identity)).then_some(conn)
        };
        let conns: Vec<ConnId> = known.filter_map(is_hit).collect();
        conns.iter().for_each(|conn| self.close(*conn, reason));
        conns.len()
    }

    fn arm_sanctions(&mut self, in_ms: u64) {
        if !self.sanctions.armed && !self.sanctions.ends.is_empty() {
            self.sanctions.armed = true;
            self.wheel.schedule(self.now.ms() + in_ms, Timer::Sanctions);
        }
    }
}

fn is_over(record: &SanctionRecord, unix_ms: u64) -> bool {
    record.until_unix_ms.is_some_and(|until| until <= unix_ms)
}

fn refusal_of(record: &SanctionRecord, what: &str, unix_ms: u64) -> Refusal {
    let until = record.until_unix_ms.map_or_else(
        || "until someone lifts it".to_owned(),
        |until| format!("until {until} (Unix ms), for {} s more", until.saturating_sub(unix_ms).div_ceil(1_000)),
    );
    let reason = record.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    Refusal { code: ErrorCode::Forbidden, message: format!("{what} {until}{reason}").into() }
}

/// Time between two looks for what is over.
const SWEEP_MS: u64 = 60_000;
/// How many are forgotten at one time.
const FORGOTTEN_PER_STEP: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Namespace;

    fn ban(scope: Scope) -> SanctionRecord {
        let (until_unix_ms, before_unix_ms) = (None, None);
        let (by, reason) = (None, None);
        SanctionRecord { scope, kind: SanctionKind::Ban, until_unix_ms, before_unix_ms, by, reason, lifted: false }
    }

    #[test]
    fn hosts_cannot_take_the_place_of_what_operators_do() {
        let mut sanctions = Sanctions::default();
        let user = |n: usize| UserName::new(&format!("user-{n}")).unwrap();
        let in_room = |n: usize| {
            let room = RoomName::new(Namespace::Chat, &format!("room-{}", n / SANCTIONS_PER_ROOM_MAX)).unwrap();
            ban(Scope::Room(room, user(n)))
        };
        for n in 0..SANCTIONS_PER_SHARD_MAX {
            assert!(!sanctions.is_full(&in_room(n)));
            sanctions.put(in_room(n));
        }
        assert!(sanctions.is_full(&in_room(SANCTIONS_PER_SHARD_MAX)));
        assert!(!sanctions.is_full(&in_room(0)), "what is in force may be changed");
        assert!(!sanctions.is_full(&ban(Scope::User(user(0)))));
        sanctions.put(ban(Scope::User(user(0))));
        sanctions.check();
    }
}
