//! Which shard owns a room: jump consistent hashing.
//!
//! The hash is fixed ([`crate::ids::RoomName::placement_hash`]), so every shard finds the same owner without asking,
//! and growing from n to n + 1 shards moves about one room in n + 1. Nothing stored depends on the result.
//!
//! Source: J. Lamping and E. Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014 (arXiv:1406.2294).

use crate::ids::ShardId;

/// The owner of a room whose name hashes to `hash`, among `shards` shards (at least one).
#[must_use]
pub fn owner(hash: u64, shards: u16) -> ShardId {
    debug_assert!(shards > 0, "there is always a shard");
    let mut key = hash;
    let mut bucket = 0;
    let mut next = 0;
    while next < i64::from(shards) {
        bucket = next;
        key = key.wrapping_mul(MULTIPLIER).wrapping_add(1);
        let step = JUMP / ((key >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * step) as i64;
    }
    ShardId(bucket as u16)
}

/// The linear congruential generator of the paper.
const MULTIPLIER: u64 = 2_862_933_555_777_941_757;
const JUMP: f64 = (1_u64 << 31) as f64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Namespace, RoomName};

    fn hash(text: &str) -> u64 {
        RoomName::new(Namespace::Chat, text).unwrap().placement_hash()
    }

    #[test]
    fn owners_are_fixed() {
        // These may never change: every build must find a room at the same owner.
        let owners: Vec<u16> = ["lobby", "room-1", "room-2", "größe"].map(|n| owner(hash(n), 16).0).to_vec();
        assert_eq!(owners, PINNED);
        assert_eq!(owner(0, 1), ShardId(0));
        assert_eq!(owner(u64::MAX, 1), ShardId(0));
        // Figures that other implementations of the paper give.
        assert_eq!(owner(42, 57).0, 43);
        assert_eq!(owner(0xDEAD_10CC, 666).0, 361);
        assert_eq!(owner(256, 1_024).0, 520);
    }

    #[test]
    fn growing_by_one_shard_moves_one_room_in_n() {
        const ROOMS: u32 = 20_000;
        let hashes: Vec<u64> = (0..ROOMS).map(|n| hash(&format!("room-{n}"))).collect();
        for shards in [1_u16, 2, 4, 7, 16] {
            let moved: Vec<u64> =
                hashes.iter().copied().filter(|&h| owner(h, shards) != owner(h, shards + 1)).collect();
            assert!(moved.iter().all(|&h| owner(h, shards + 1) == ShardId(shards)), "rooms only move to the new shard");
            let expected = f64::from(ROOMS) / f64::from(shards + 1);
            let deviation = (moved.len() as f64 - expected).abs() / expected;
            assert!(deviation < 0.1, "{shards} shards: {} moved, {expected} expected", moved.len());
        }
    }

    const PINNED: [u16; 4] = [10, 0, 15, 13];
}
