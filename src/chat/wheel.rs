//! A hierarchical timing wheel: every deadline of a shard in one place, without a timer object for any of them.
//!
//! Scheduling is O(1). Each entry is moved at most once per level on its way to its deadline. Entries are never
//! cancelled: a key that fires when nothing is due for it is ignored or scheduled anew by its owner. Deadlines are
//! rounded up to [`TICK_MS`], so nothing fires early.
//!
//! Invariant: an entry lies on the level of the highest bit group in which its tick differs from `now`, so within a
//! level all occupied slots are ahead of `now` and any entry of a lower level is due before those of a higher one.
//!
//! Source: G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987.

use std::collections::VecDeque;

/// Resolution, in milliseconds.
pub const TICK_MS: u64 = 16;

/// The wheel. `K` says what is due; it should be small.
#[derive(Debug)]
pub struct Wheel<K> {
    now: u64,
    levels: [Level<K>; LEVELS],
    /// What is due, oldest first.
    due: VecDeque<K>,
    /// An emptied slot's memory for the next one.
    spare: Vec<Entry<K>>,
    len: usize,
}

#[derive(Debug)]
struct Level<K> {
    /// Bit n is set when slot n has entries.
    occupied: u64,
    slots: [Vec<Entry<K>>; SLOTS],
}

#[derive(Clone, Copy, Debug)]
struct Entry<K> {
    tick: u64,
    key: K,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel at time 0.
    #[must_use]
    pub fn new() -> Self {
        let level = |_| Level { occupied: 0, slots: std::array::from_fn(|_| Vec::new()) };
        Self { now: 0, levels: std::array::from_fn(level), due: VecDeque::new(), spare: Vec::new(), len: 0 }
    }

    /// Makes `key` fire once, when `deadline_ms` has passed.
    pub fn schedule(&mut self, deadline_ms: u64, key: K) {
        self.len += 1;
        self.place(Entry { tick: deadline_ms.div_ceil(TICK_MS), key });
    }

    /// Moves time forward. Afterwards [`Wheel::pop`] gives what is due.
    pub fn advance(&mut self, now_ms: u64) {
        let target = now_ms / TICK_MS;
        while let Some((level, slot, tick)) = self.next_event() {
            if tick > target {
                break;
            }
            self.now = tick;
            self.levels[level].occupied &= !(1 << slot);
            let mut entries = std::mem::replace(&mut self.levels[level].slots[slot], std::mem::take(&mut self.spare));
            for entry in entries.drain(..) {
                self.place(entry);
            }
            if entries.capacity() <= SPARE_ENTRIES_MAX {
                self.spare = entries;
            }
        }
        self.now = self.now.max(target);
    }

    /// The next key that is due.
    pub fn pop(&mut self) -> Option<K> {
        let key = self.due.pop_front()?;
        self.len -= 1;
        if self.due.is_empty() && self.due.capacity() > SPARE_ENTRIES_MAX {
            self.due = VecDeque::new();
        }
        Some(key)
    }

    /// When [`Wheel::advance`] has something to do, in milliseconds; may be before the first deadline, never after.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if !self.due.is_empty() {
            return Some(self.now * TICK_MS);
        }
        self.next_event().map(|(_, _, tick)| tick * TICK_MS)
    }

    /// Entries that have not been popped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&mut self, entry: Entry<K>) {
        if entry.tick <= self.now {
            self.due.push_back(entry.key);
            return;
        }
        // What lies beyond the horizon waits at its end and is placed again from there.
        let tick = if (entry.tick ^ self.now) >> HORIZON_BITS == 0 {
            entry.tick
        } else {
            (self.now | HORIZON_MASK).max(self.now + 1)
        };
        let difference = (tick ^ self.now) | 1;
        let level = ((63 - difference.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1);
        let slot = (tick >> (level * SLOT_BITS)) as usize % SLOTS;
        let level = &mut self.levels[level as usize];
        level.occupied |= 1 << slot;
        level.slots[slot].push(entry);
    }

    /// The first occupied slot, with the tick at which it begins.
    fn next_event(&self) -> Option<(usize, usize, u64)> {
        for (index, level) in self.levels.iter().enumerate() {
            if level.occupied == 0 {
                continue;
            }
            let shift = index as u32 * SLOT_BITS;
            let position = (self.now >> shift) % SLOTS as u64;
            // Only the last level can have wrapped around, when `now` stood at the end of the horizon.
            let ahead = level.occupied & (u64::MAX << position);
            let (slot, turn) =
                if ahead != 0 { (ahead.trailing_zeros(), 0) } else { (level.occupied.trailing_zeros(), 1) };
            let base = (self.now >> (shift + SLOT_BITS)) + turn;
            return Some((index, slot as usize, (base << (shift + SLOT_BITS)) | (u64::from(slot) << shift)));
        }
        None
    }
}

impl<K: Copy> Default for Wheel<K> {
    fn default() -> Self {
        Self::new()
    }
}

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 2^30 ticks of 16 ms: 198 days.
const LEVELS: usize = 5;
const HORIZON_BITS: u32 = SLOT_BITS * LEVELS as u32;
const HORIZON_MASK: u64 = (1 << HORIZON_BITS) - 1;
/// Larger slots give their memory back.
const SPARE_ENTRIES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::random::Random;

    fn fired(wheel: &mut Wheel<u32>, now_ms: u64) -> Vec<u32> {
        wheel.advance(now_ms);
        std::iter::from_fn(|| wheel.pop()).collect()
    }

    #[test]
    fn fires_at_the_deadline_and_not_before() {
        let mut wheel = Wheel::new();
        for (key, deadline) in [1, 16, 17, 1_000, 30_000, 70_000, 10_000_000].into_iter().enumerate() {
            wheel.schedule(deadline, key as u32);
        }
        assert!(fired(&mut wheel, 0).is_empty());
        assert_eq!(fired(&mut wheel, 16), [0, 1]);
        assert!(fired(&mut wheel, 31).is_empty());
        assert_eq!(fired(&mut wheel, 32), [2]);
        assert_eq!(fired(&mut wheel, 29_999), [3]);
        assert_eq!(fired(&mut wheel, 30_000), [4]);
        assert_eq!(fired(&mut wheel, 9_999_984), [5]);
        assert_eq!(fired(&mut wheel, 10_000_000), [6]);
        assert!(wheel.is_empty() && wheel.next_deadline_ms().is_none());
    }

    #[test]
    fn deadlines_in_the_past_fire_at_once() {
        let mut wheel = Wheel::new();
        assert!(fired(&mut wheel, 5_000).is_empty());
        wheel.schedule(10, 1);
        assert_eq!(wheel.next_deadline_ms(), Some(4_992));
        assert_eq!(fired(&mut wheel, 5_000), [1]);
    }

    #[test]
    fn deadlines_beyond_the_horizon_still_fire_on_time() {
        let mut wheel = Wheel::new();
        let day = 86_400_000;
        wheel.advance(190 * day);
        wheel.schedule(500 * day, 1);
        wheel.schedule(200 * day, 2);
        assert!(fired(&mut wheel, 200 * day - 16).is_empty());
        assert_eq!(fired(&mut wheel, 200 * day), [2]);
        assert!(fired(&mut wheel, 500 * day - 16).is_empty());
        assert_eq!(fired(&mut wheel, 500 * day), [1]);
    }

    #[test]
    fn sleeping_until_the_next_deadline_misses_nothing_and_wakes_rarely() {
        let mut random = Random::new(3, 0);
        for _ in 0..50 {
            let mut wheel = Wheel::new();
            let mut now = random.below(1 << 40);
            wheel.advance(now);
            let mut waiting: Vec<(u64, u32)> = Vec::new();
            for key in 0..40 {
                let shift = random.below(32);
                let deadline = now + random.below(1 << shift);
                wheel.schedule(deadline, key);
                waiting.push((deadline, key));
            }
            let mut wakes = 0;
            while let Some(next) = wheel.next_deadline_ms() {
                wakes += 1;
                now = now.max(next);
                for key in fired(&mut wheel, now) {
                    let index = waiting.iter().position(|w| w.1 == key).unwrap();
                    let (deadline, _) = waiting.swap_remove(index);
                    assert!(now >= deadline && now - deadline < TICK_MS, "due {deadline}, fired {now}");
                }
                assert!(waiting.iter().all(|w| w.0 > now - TICK_MS));
            }
            assert!(waiting.is_empty() && wheel.is_empty());
            assert!(wakes <= 40 * LEVELS, "{wakes} wakes");
        }
    }

    #[test]
    fn a_long_jump_fires_everything_in_order_of_deadline() {
        let mut wheel = Wheel::new();
        for key in (0..1_000).rev() {
            wheel.schedule(u64::from(key) * 100, key);
        }
        assert_eq!(fired(&mut wheel, 1_000_000), (0..1_000).collect::<Vec<_>>());
    }
}
