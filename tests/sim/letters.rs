//! What operators do with dead letters, and what is known of consumers whatever their connections.

use std::collections::BTreeMap;

use hubbub::chat::log::LetterOrder;
use hubbub::chat::operate::{Order, RoomOrder};
use hubbub::chat::{Input, placement};

use crate::env::Env;
use crate::truth::Author;
use crate::world::World;

/// What is known of a user as a consumer of a room.
#[derive(Clone, Debug, Default)]
pub struct Consumed {
    /// Up to where an `ack` was answered with `ok`, by epoch.
    pub acked: BTreeMap<u64, u64>,
    /// The last position for which an `ack` was sent.
    pub ack_sent: u64,
    /// Times that a connection asked to consume.
    pub joins: u32,
    /// How often and when each position was sent last in this life of the server, and to whom.
    pub sent: BTreeMap<u64, (u32, u64, Author)>,
    /// Letters that were ordered to be sent again, and in which step that was last.
    pub replayed: BTreeMap<u64, u64>,
}

impl World {
    /// An operator reads a room's letters and has some of them sent again, or purged.
    pub fn order_letters(&mut self) {
        let room = self.env.rng.below(self.env.plan.rooms.len());
        let name = self.env.plan.rooms[room].clone();
        let mut letters = self.env.store.letters(&name);
        letters.retain(|_| self.env.rng.chance(1, 2));
        if letters.is_empty() {
            return;
        }
        let purges = self.env.rng.chance(1, 3);
        for letter in &letters {
            let consumed = self.env.consumed.entry((room, letter.user.clone())).or_default();
            let seq = letter.message.seq.0;
            if purges {
                self.env.seen.letters_purged += 1;
            } else {
                self.env.seen.letters_replayed += 1;
                consumed.replayed.insert(seq, self.env.step);
            }
        }
        let order = if purges { LetterOrder::Purge(letters) } else { LetterOrder::Replay(letters) };
        let owner = placement::owner(name.placement_hash(), self.env.plan.shards);
        let order = Order::Room { room: name, order: RoomOrder::Letters(order) };
        self.shells[owner.index()].give(Input::Order { ticket: self.env.step, order }, &mut self.env);
    }
}

impl Env {
    /// A membership begins, in which everything that is not acknowledged is sent again.
    pub fn note_joined(&mut self, author: Author, room: Option<usize>) {
        let user = self.users.get(&author).cloned();
        if let Some(consumed) = room.zip(user).and_then(|name| self.consumed.get_mut(&name)) {
            consumed.sent.retain(|_, (_, _, to)| *to != author);
        }
    }

    /// The server sends messages again, or a page of the past.
    pub fn note_sent(&mut self, author: Author, room: usize, seq: u64, attempt: u32) {
        let Some(user) = self.users.get(&author).cloned() else { return };
        let (now_ms, max) = (self.now.ms(), self.plan.limits.ack_attempts_max);
        let consumed = self.consumed.entry((room, user)).or_default();
        let before = consumed.sent.get(&seq).copied();
        let replayed = consumed.replayed.contains_key(&seq);
        if attempt == 1 {
            consumed.sent.entry(seq).or_insert((1, now_ms, author));
            return;
        }
        consumed.sent.insert(seq, (attempt, now_ms, author));
        if replayed {
            return;
        }
        if attempt > max {
            return self.fail(|| format!("{author:?} in {room}: {seq} for the {attempt}th time"));
        }
        // What was sent to a connection that was gone by then is counted too.
        let Some((count, at_ms, _)) = before.filter(|(_, _, to)| *to == author) else { return };
        let due_ms = at_ms + self.plan.backoff_ms(count);
        // Between shards it may take any time.
        if count + 1 != attempt || (self.plan.shards == 1 && now_ms < due_ms) {
            self.fail(|| format!("{author:?} in {room}: {seq} for the {attempt}th time at {now_ms}, due at {due_ms}"));
        }
    }
}
