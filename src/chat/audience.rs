//! The local half of a room: which connections of this shard listen.
//!
//! Invariants: each list is dense, so that a fan-out is one pass over memory, and every membership knows its place
//! in the lists it is on, so that leaving is O(1). A joined member is on exactly one of `Live`, `Filtered` and
//! `Replaying`; one that wants presence is on `Presence` too. A seat number is in use from the join's request to the
//! leave's, and is given again only after that.

use crate::chat::exchange::RoomId;
use crate::ids::{ConnId, RoomName, ShardId};

/// A list of connections of one shard that get the same events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceId {
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) part: Part,
}

impl AudienceId {
    /// The same audience's other list.
    pub(super) fn part(self, part: Part) -> Self {
        Self { part, ..self }
    }
}

/// Which of an audience's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(super) enum Part {
    /// Members that get everything. The audience itself is named with this part.
    Live,
    /// Members that get only some tags.
    Filtered,
    /// Members whose replay still runs.
    Replaying,
    /// Members of any of the others that want presence.
    Presence,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Live, Self::Filtered, Self::Replaying, Self::Presence];
}

/// The members that one room has on this shard.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) name: RoomName,
    pub(super) owner: ShardId,
    /// The room at its owner, as long as there is a member whose join has been answered: it keeps the room alive.
    pub(super) room: Option<RoomId>,
    /// Memberships, those whose join is not answered yet included.
    pub(super) memberships: u32,
    lists: [Vec<ConnId>; 4],
    seats_made: u32,
    seats_free: Vec<u32>,
}

impl Audience {
    pub(super) fn new(name: RoomName, owner: ShardId) -> Self {
        Self {
            name,
            owner,
            room: None,
            memberships: 0,
            lists: [const { Vec::new() }; 4],
            seats_made: 0,
            seats_free: Vec::new(),
        }
    }

    pub(super) fn list(&self, part: Part) -> &[ConnId] {
        &self.lists[part as usize]
    }

    /// Adds to a list; the answer is the place there.
    pub(super) fn add(&mut self, part: Part, conn: ConnId) -> u32 {
        let list = &mut self.lists[part as usize];
        list.push(conn);
        list.len() as u32 - 1
    }

    /// Removes from a list. The answer is the connection that has taken over the place, if one has.
    pub(super) fn remove(&mut self, part: Part, place: u32) -> Option<ConnId> {
        let list = &mut self.lists[part as usize];
        list.swap_remove(place as usize);
        let moved = list.get(place as usize).copied();
        if list.len() < list.capacity() / 4 {
            list.shrink_to(list.len() * 2);
        }
        moved
    }

    /// Counts a membership and gives it a seat number.
    pub(super) fn take_seat(&mut self) -> u32 {
        self.memberships += 1;
        self.seats_free.pop().unwrap_or_else(|| {
            self.seats_made += 1;
            self.seats_made - 1
        })
    }

    /// Takes a membership's seat number back.
    pub(super) fn give_seat(&mut self, seat: u32) {
        self.memberships -= 1;
        self.seats_free.push(seat);
    }

    /// Panics unless the invariants hold within. `seats` are the seats of all memberships.
    pub(super) fn check(&self, mut seats: Vec<u32>) {
        assert_eq!(seats.len(), self.memberships as usize, "memberships are counted");
        assert!(self.memberships > 0, "an audience without members is gone");
        seats.extend(&self.seats_free);
        seats.sort_unstable();
        assert_eq!(seats, (0..self.seats_made).collect::<Vec<_>>(), "each seat is taken once or free");
        let listed: usize = Part::ALL.iter().filter(|p| **p != Part::Presence).map(|p| self.list(*p).len()).sum();
        assert!(listed <= self.memberships as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Namespace;

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 1 }
    }

    fn audience() -> Audience {
        Audience::new(RoomName::new(Namespace::Chat, "lobby").unwrap(), ShardId(0))
    }

    #[test]
    fn leaving_keeps_the_list_dense_and_says_who_moved() {
        let mut audience = audience();
        for slot in 0..3 {
            assert_eq!(audience.add(Part::Live, conn(slot)), slot);
        }
        assert_eq!(audience.remove(Part::Live, 0), Some(conn(2)));
        assert_eq!(audience.list(Part::Live), [conn(2), conn(1)]);
        assert_eq!(audience.remove(Part::Live, 1), None);
        assert_eq!(audience.remove(Part::Live, 0), None);
        assert!(audience.list(Part::Live).is_empty());
    }

    #[test]
    fn a_shrunken_list_gives_memory_back() {
        let mut audience = audience();
        for slot in 0..1_000 {
            audience.add(Part::Live, conn(slot));
        }
        for _ in 0..1_000 {
            audience.remove(Part::Live, 0);
        }
        assert_eq!(audience.lists[0].capacity(), 0);
    }

    #[test]
    fn seats_are_given_again_only_after_they_came_back() {
        let mut audience = audience();
        assert_eq!((audience.take_seat(), audience.take_seat()), (0, 1));
        audience.give_seat(0);
        assert_eq!((audience.take_seat(), audience.take_seat()), (0, 2));
        audience.check(vec![2, 0, 1]);
    }
}
