//! Rooms from their making to their being forgotten, and how much of the past they keep in memory.
//!
//! Invariants: a room in which nobody is waits in `idle_rooms` to be forgotten, unless something of it still waits for
//! the store. Forgetting a durable room loses nothing: it opens again from the store.

use crate::chat::exchange::RoomId;
use crate::chat::lifecycle::Timer;
use crate::chat::room::{Idle, Room};
use crate::chat::state::State;
use crate::ids::{Epoch, Namespace, RoomName};
use crate::limits::{ROOM_IDLE_KEEP_MS, ROOMS_IDLE_MAX};

impl State {
    /// The room of that name, made if it is new; nothing when there are too many.
    pub(super) fn room_to_join(&mut self, name: &RoomName) -> Option<RoomId> {
        if let Some(id) = self.room_by_name.get(name) {
            return Some(*id);
        }
        if name.namespace() == Namespace::Chat && self.rooms.len() >= self.rooms_max && !self.forget_oldest_idle() {
            return None;
        }
        let policy = self.config.policies.of(name);
        let room = Room::new(name.clone(), Epoch(self.random.next()), &policy);
        let opening = room.is_opening();
        let (slot, generation) = self.rooms.insert(room);
        let id = RoomId { slot, generation };
        self.room_by_name.insert(name.clone(), id);
        if opening {
            self.open_log(id, name.clone());
        }
        Some(id)
    }

    /// Forgets a room that nobody is in, or lets its history keep it for a while.
    pub(super) fn settle_room(&mut self, id: RoomId) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        if !room.is_deserted() || !room.is_settled() || room.idle.is_some() {
            return;
        }
        if room.is_empty() {
            self.forget_room(id);
            return;
        }
        room.receipts = None;
        let stamp = self.idle_stamp;
        self.idle_stamp += 1;
        room.idle = Some(Idle { stamp, since_ms: self.now.ms() });
        self.idle_rooms.insert(stamp, id);
        if self.idle_rooms.len() > ROOMS_IDLE_MAX {
            self.forget_oldest_idle();
        }
        self.arm_idle();
    }

    /// Forgets the rooms that have been idle too long.
    pub(super) fn end_idle(&mut self) {
        self.idle_armed = false;
        while let Some(deadline) = self.idle_deadline_ms() {
            if deadline > self.now.ms() {
                break;
            }
            self.forget_oldest_idle();
        }
        self.arm_idle();
    }

    fn arm_idle(&mut self) {
        if !self.idle_armed
            && let Some(deadline) = self.idle_deadline_ms()
        {
            self.idle_armed = true;
            self.wheel.schedule(deadline, Timer::Idle);
        }
    }

    fn idle_deadline_ms(&self) -> Option<u64> {
        let (_, id) = self.idle_rooms.first_key_value()?;
        let idle = self.rooms.get(id.slot, id.generation)?.idle?;
        Some(idle.since_ms + ROOM_IDLE_KEEP_MS)
    }

    fn forget_oldest_idle(&mut self) -> bool {
        let Some((_, id)) = self.idle_rooms.pop_first() else {
            return false;
        };
        self.forget_room(id);
        true
    }

    fn forget_room(&mut self, id: RoomId) {
        if let Some(room) = self.rooms.remove(id.slot, id.generation) {
            self.room_by_name.remove(&room.name);
            self.history_weight -= room.history.weight();
            self.keys -= room.keys_len();
        }
    }

    /// Forgets messages until the shard's history is within its bound: first of idle rooms, then of the room that
    /// has just grown.
    pub(super) fn shed_history(&mut self, id: RoomId) {
        while self.history_weight > self.history_weight_max {
            if self.forget_oldest_idle() {
                continue;
            }
            let Some(room) = self.rooms.get_mut(id.slot, id.generation).filter(|room| room.history.len() > 1) else {
                return;
            };
            let weight = room.history.weight();
            if !room.history.forget_oldest(room.stored()) {
                return;
            }
            self.history_weight = self.history_weight - weight + room.history.weight();
        }
    }
}
