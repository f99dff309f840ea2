//! Acknowledged delivery as a consumer sees it: everything after its user's cursor comes at least once, and again until
//! it is acknowledged or a dead letter.

use std::collections::{BTreeMap, BTreeSet};

use hubbub::chat::log::{DeadLetter, DeadReason};
use hubbub::ids::{Epoch, Seq, UserName};
use hubbub::limits::{ACK_WINDOW, REPLAY_CHUNK_MESSAGES};
use hubbub::message::close::ErrorCode;
use hubbub::message::event::Message;

use super::{Asked, JoinAsked, Witness};
use crate::env::Env;
use crate::view::View;

/// What a consumer was sent.
#[derive(Clone, Debug, Default)]
pub struct Fed {
    /// When it came first, and how often, by position.
    pub delivered: BTreeMap<u64, (u64, u32)>,
    /// The last position that came for the first time.
    pub last_new: u64,
    /// Positions that an operator had sent again.
    pub letters: BTreeSet<u64>,
    /// Positions that were dead letters when it asked to join.
    pub dead: BTreeSet<u64>,
}

impl Witness {
    /// A consumer gets a message, for the so-manieth time.
    pub(super) fn on_fed(&mut self, room: usize, message: &Message, attempt: u32, env: &mut Env) {
        let (author, seq) = (self.author, message.seq.0);
        let Some(view) = self.views.get_mut(&room) else { return };
        env.seen.fed += 1;
        env.seen.redelivered += u64::from(attempt > 1);
        let placed = env.truth.place(room, view.epoch, message);
        env.check(placed.map(|_| ()));
        view.next = view.next.max(seq + 1);
        let (max, now_ms) = (env.plan.limits.ack_attempts_max, env.now.ms());
        let user = self.user.clone().unwrap_or_else(|| unreachable!("it was welcomed"));
        let consumed = env.consumed.entry((room, user)).or_default();
        let (sent, ordered) = (consumed.ack_sent, consumed.replayed.contains_key(&seq));
        // A letter is sent as it was, also if the message was deleted since.
        if !message.deleted && !ordered {
            view.readable.insert(seq);
        }
        let Some(fed) = &mut view.fed else { return };
        if ordered {
            fed.letters.insert(seq);
        } else if attempt == 1 && (seq <= fed.last_new || fed.dead.contains(&seq)) {
            env.fail(|| format!("{author:?} in {room} got {seq} as new, after {}: {:?}", fed.last_new, fed.dead));
        }
        fed.last_new = if attempt == 1 && !ordered { fed.last_new.max(seq) } else { fed.last_new };
        let (_, before) = *fed.delivered.entry(seq).or_insert((now_ms, attempt - 1));
        // With outboxes that skip, some attempts are not seen; letters are counted on.
        if !ordered && (attempt <= before || (attempt > before + 1 && !env.plan.skips())) {
            env.fail(|| format!("{author:?} in {room} got {seq} for the {attempt}th time after the {before}th"));
        }
        fed.delivered.insert(seq, (now_ms, attempt));
        let open = fed
            .delivered
            .range(sent.max(env.store.trimmed(view.epoch).0) + 1..)
            .filter(|(seq, (_, attempt))| *attempt < max && !fed.letters.contains(seq));
        let open = open.count();
        if open > ACK_WINDOW + REPLAY_CHUNK_MESSAGES {
            env.fail(|| format!("{author:?} in {room} has {open} to acknowledge"));
        }
    }

    /// Another connection of its user consumes this room now.
    pub(super) fn on_kicked(&mut self, room: Option<usize>, env: &mut Env) {
        let author = self.author;
        env.seen.consumers_replaced += 1;
        let consumes = |room: &usize| self.views.get(room).is_some_and(|view| view.fed.is_some());
        let Some(room) = room.filter(consumes) else {
            return env.fail(|| format!("{author:?} was kicked out of {room:?}"));
        };
        let joins =
            self.user.clone().and_then(|user| env.consumed.get(&(room, user))).map_or(0, |consumed| consumed.joins);
        if joins < 2 {
            env.fail(|| format!("{author:?} was kicked out of {room}, where nobody followed it"));
        }
        self.exit(room, env);
        self.not_member(room);
    }

    /// The connection is not in a room, as it finds out now, unless it has asked to enter it since.
    pub(super) fn not_member(&mut self, room: usize) {
        let enters = |asked: &Asked| match asked {
            Asked::Join(to) | Asked::Switch { to, .. } => to.room == room,
            _ => false,
        };
        self.kicked.insert(room);
        if !self.asked.values().any(enters) {
            self.member_of.remove(&room);
        }
    }

    pub(super) fn on_acked(&mut self, room: usize, epoch: Epoch, seq: u64, env: &mut Env) {
        env.seen.acks += 1;
        let Some(user) = self.user.clone() else { return };
        let consumed = env.consumed.entry((room, user)).or_default();
        if consumed.replayed.contains_key(&seq) {
            // It may have been a letter by then.
            return;
        }
        let acked = consumed.acked.entry(epoch.0).or_default();
        *acked = seq.max(*acked);
    }

    /// Whether an `ack` may be refused: another consumer has taken over, or it was of a letter that was sent again.
    pub(super) fn ack_refused(&self, room: usize, code: ErrorCode, env: &Env) -> bool {
        let consumed = self.user.clone().and_then(|user| env.consumed.get(&(room, user)));
        let replaced = consumed.is_some_and(|consumed| consumed.joins > 1 || !consumed.replayed.is_empty());
        replaced && matches!(code, ErrorCode::BadRequest | ErrorCode::NotMember)
    }

    /// A world at rest has given a consumer all that there is for it.
    pub fn check_fed(&self, room: usize, view: &View, env: &mut Env) {
        let (Some(fed), Some(user)) = (&view.fed, self.user.clone()) else { return };
        let author = self.author;
        let consumed = env.consumed.get(&(room, user.clone())).cloned().unwrap_or_default();
        let acked = consumed.acked.get(&view.epoch.0).copied();
        let is_dead = |seq: u64| env.store.was_letter(view.epoch, &user, seq);
        let trimmed = env.store.trimmed(view.epoch).0;
        let is_done = |seq: u64| {
            consumed.replayed.contains_key(&seq) || seq <= consumed.ack_sent || seq <= trimmed || is_dead(seq)
        };
        let from = acked.unwrap_or(view.head);
        let full = fed.delivered.len() >= ACK_WINDOW;
        let to = if full { fed.last_new } else { u64::MAX };
        let all = env.truth.places.range((room, view.epoch.0, 0)..=(room, view.epoch.0, u64::MAX));
        let all = all.map(|((_, _, seq), _)| *seq).filter(|seq| *seq > from && *seq <= to);
        let alive = |seq: &u64| env.truth.alive_from(room, view.epoch.0, *seq) == *seq;
        let missed = all.filter(alive).find(|seq| !fed.delivered.contains_key(seq) && !is_done(*seq));
        let long_ago = |at_ms: u64| at_ms + ATTEMPTS_MS_MAX < env.now.ms();
        let open = fed.delivered.iter().find(|(seq, (at_ms, _))| long_ago(*at_ms) && !is_done(**seq));
        let open = open.map(|(seq, times)| (*seq, *times));
        if let Some(seq) = missed {
            env.fail(|| format!("{author:?} in {room}, acknowledged up to {acked:?}, was not sent {seq}: {fed:?}"));
        }
        if let Some((seq, times)) = open {
            env.fail(|| format!("{author:?} in {room} was sent {seq} {times:?}, and it is no dead letter"));
        }
        let waiting = env.store.letters(&env.plan.rooms[room]).into_iter();
        let mut waiting = waiting.filter(|letter| letter.replay && letter.user == user && letter.epoch == view.epoch);
        // An order that is given while somebody enters may be missed until the next time.
        let step = |seq: Seq| consumed.replayed.get(&seq.0).copied().unwrap_or_default();
        if let Some(letter) = waiting.find(|letter| step(letter.message.seq) > view.since_step) {
            env.fail(|| format!("{author:?} in {room} was not sent {letter:?}"));
        }
    }
}

impl JoinAsked {
    /// One more connection of this user wants to consume the room.
    pub fn note_consumer(&self, user: &str, env: &mut Env) {
        if let (true, Ok(user)) = (self.ack, UserName::new(user)) {
            env.consumed.entry((self.room, user)).or_default().joins += 1;
        }
    }
}

/// Positions that were dead letters of a user.
pub fn dead_letters(room: usize, user: &str, env: &Env) -> BTreeSet<u64> {
    let letters = env.store.letters(&env.plan.rooms[room]).into_iter();
    let given_up = |letter: &DeadLetter| letter.user.as_str() == user && letter.reason == DeadReason::Attempts;
    letters.filter(given_up).map(|letter| letter.message.seq).map(|Seq(seq)| seq).collect()
}

/// Longer than all attempts of the plan together.
const ATTEMPTS_MS_MAX: u64 = 15_000;
