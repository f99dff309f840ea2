//! Who is in which room, and who speaks: follows from the scenario alone, so that every worker and every machine knows it.
//!
//! Invariants: members of a room are numbered one after the other, and so are its senders; a room's senders are its
//! first members; every room has a member.

use crate::plan::Random;

/// How the sizes of rooms are distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RoomSizes {
    /// All alike.
    #[default]
    Fixed,
    /// The n-th largest is as large as the largest divided by n to the power of `zipf_exponent`.
    Zipf,
}

/// Rooms, members and senders of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// First connection of each room, and at the end the number of connections.
    first_member: Box<[u32]>,
    /// First sender of each room, and at the end the number of senders.
    first_sender: Box<[u32]>,
}

impl Layout {
    /// Rooms of these sizes, in each of which the first `senders` members speak.
    #[must_use]
    pub fn new(sizes: &[u32], senders: u32) -> Self {
        let sums = |of: &dyn Fn(u32) -> u32| {
            let mut sum = 0;
            let sums = sizes.iter().map(|&size| {
                sum += of(size);
                sum
            });
            std::iter::once(0).chain(sums).collect()
        };
        Self { first_member: sums(&|size| size), first_sender: sums(&|size| size.min(senders)) }
    }

    /// How many rooms there are.
    #[must_use]
    pub fn rooms(&self) -> u32 {
        self.first_member.len() as u32 - 1
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.first_member[self.rooms() as usize]
    }

    /// How many senders there are in all.
    #[must_use]
    pub fn senders(&self) -> u32 {
        self.first_sender[self.rooms() as usize]
    }

    /// The room of a connection.
    #[must_use]
    pub fn room_of(&self, connection: u32) -> u32 {
        self.first_member.partition_point(|&first| first <= connection) as u32 - 1
    }

    /// How many members a room has.
    #[must_use]
    pub fn members_of(&self, room: u32) -> u32 {
        self.first_member[room as usize + 1] - self.first_member[room as usize]
    }

    /// The senders of a room: the first, and how many.
    #[must_use]
    pub fn senders_of(&self, room: u32) -> (u32, u32) {
        let first = self.first_sender[room as usize];
        (first, self.first_sender[room as usize + 1] - first)
    }

    /// The room that a sender speaks in.
    #[must_use]
    pub fn room_of_sender(&self, sender: u32) -> u32 {
        self.first_sender.partition_point(|&first| first <= sender) as u32 - 1
    }

    /// Which connection a sender speaks on.
    #[must_use]
    pub fn connection_of(&self, sender: u32) -> u32 {
        let room = self.room_of_sender(sender) as usize;
        self.first_member[room] + sender - self.first_sender[room]
    }

    /// Whether a connection speaks.
    #[must_use]
    pub fn speaks(&self, connection: u32) -> bool {
        let room = self.room_of(connection);
        connection - self.first_member[room as usize] < self.senders_of(room).1
    }

    /// Pairs of a subscriber and a sender of its room: what an audit has to remember.
    #[must_use]
    pub fn cells(&self) -> u64 {
        (0..self.rooms()).map(|room| u64::from(self.members_of(room)) * u64::from(self.senders_of(room).1)).sum()
    }

    /// Connections that do not speak.
    #[must_use]
    pub fn slow_candidates(&self) -> u32 {
        self.connections() - self.senders()
    }
}

/// Sizes of `rooms` rooms with `members` in all, each at least 1, by Zipf's law; `seed` decides which room has which
/// size. `rooms` is at most `members`.
#[must_use]
pub fn zipf_sizes(members: u32, rooms: u32, exponent: f64, seed: u64) -> Vec<u32> {
    let weight = |rank: u32| f64::from(rank + 1).powf(-exponent);
    let total: f64 = (0..rooms).map(weight).sum();
    let spare = members - rooms;
    let mut given = 0;
    let mut sizes: Vec<u32> = (0..rooms)
        .map(|rank| {
            let more = ((f64::from(spare) * weight(rank) / total) as u32).min(spare - given);
            given += more;
            1 + more
        })
        .collect();
    // What rounding left over goes to the largest.
    let left = spare - given;
    for at in 0..left {
        sizes[(at % rooms) as usize] += 1;
    }
    shuffle(&mut sizes, &mut Random::new(seed ^ ZIPF_SALT));
    sizes
}

/// Fisher and Yates.
fn shuffle(sizes: &mut [u32], random: &mut Random) {
    for at in (1..sizes.len()).rev() {
        sizes.swap(at, random.below(at as u64 + 1) as usize);
    }
}

/// Keeps the sizes apart from the plan, which has the same seed.
const ZIPF_SALT: u64 = 0x7a69_7066;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_senders_are_numbered_room_by_room() {
        let layout = Layout::new(&[4, 1, 3], 2);
        assert_eq!((layout.rooms(), layout.connections(), layout.senders()), (3, 8, 5));
        assert_eq!((0..8).map(|index| layout.room_of(index)).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 2, 2, 2]);
        assert_eq!((0..5).map(|sender| layout.connection_of(sender)).collect::<Vec<_>>(), [0, 1, 4, 5, 6]);
        assert_eq!((0..5).map(|sender| layout.room_of_sender(sender)).collect::<Vec<_>>(), [0, 0, 1, 2, 2]);
        let speak: Vec<u32> = (0..8).filter(|&index| layout.speaks(index)).collect();
        assert_eq!(speak, [0, 1, 4, 5, 6]);
        assert_eq!((layout.cells(), layout.slow_candidates()), (8 + 1 + 6, 3));
    }

    #[test]
    fn zipf_rooms_hold_everyone_and_follow_the_law() {
        for (members, rooms, exponent) in [(1_000, 100, 1.0), (7, 7, 1.0), (50_000, 1, 2.0), (10_000, 333, 0.5)] {
            let mut sizes = zipf_sizes(members, rooms, exponent, 9);
            assert_eq!((sizes.len() as u32, sizes.iter().sum::<u32>()), (rooms, members));
            assert!(sizes.iter().all(|&size| size >= 1));
            assert_eq!(sizes, zipf_sizes(members, rooms, exponent, 9));
            sizes.sort_unstable_by_key(|&size| std::cmp::Reverse(size));
            if rooms >= 100 {
                let ratio = f64::from(sizes[0]) / f64::from(sizes[9]);
                let law = 10_f64.powf(exponent);
                assert!((0.8..1.2).contains(&(ratio / law)), "largest to tenth is {ratio}, should be {law}");
            }
        }
        assert_ne!(zipf_sizes(1_000, 100, 1.0, 1), zipf_sizes(1_000, 100, 1.0, 2), "the seed decides which is which");
    }
}
