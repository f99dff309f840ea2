//! Idempotency keys that were used in one room, as long as their window lasts.
//!
//! Invariants: each key is in both tables or in neither, and `order` is by time. Past [`KEYS_PER_ROOM_MAX`] the oldest
//! go early.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{Seq, UserName};
use crate::limits::{KEY_WINDOW_MS, KEYS_PER_ROOM_MAX};

/// The keys of a room.
#[derive(Debug, Default)]
pub(super) struct Keys {
    used: ahash::HashMap<(UserName, Arc<str>), Used>,
    order: VecDeque<(UserName, Arc<str>)>,
}

/// The message for which a key was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) seq: Seq,
    /// Unix milliseconds.
    pub(super) timestamp: u64,
}

impl Keys {
    /// For which message the user has used this key within the window.
    pub(super) fn find(&mut self, user: &UserName, key: &Arc<str>, now_unix_ms: u64) -> Option<Used> {
        self.expire(now_unix_ms);
        self.used.get(&(user.clone(), Arc::clone(key))).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Notes that a key is used now; it is not in use yet. `crowded`: the shard has too many already, so that an older
    /// one goes for it.
    pub(super) fn add(&mut self, user: UserName, key: Arc<str>, used: Used, crowded: bool) {
        if crowded || self.order.len() >= KEYS_PER_ROOM_MAX {
            self.forget_oldest();
        }
        let entry = (user, key);
        if self.used.insert(entry.clone(), used).is_none() {
            self.order.push_back(entry);
        }
    }

    fn expire(&mut self, now_unix_ms: u64) {
        while let Some(oldest) = self.order.front() {
            if self.used.get(oldest).is_some_and(|used| used.timestamp + KEY_WINDOW_MS >= now_unix_ms) {
                break;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.used.remove(&oldest);
        }
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        assert_eq!(self.used.len(), self.order.len(), "each key is in both tables");
        assert!(self.order.iter().all(|entry| self.used.contains_key(entry)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_users_own_and_lasts_for_the_window() {
        let (ann, bob) = (UserName::new("ann").unwrap(), UserName::new("bob").unwrap());
        let key: Arc<str> = "k".into();
        let used = Used { seq: Seq(3), timestamp: 1_000 };
        let mut keys = Keys::default();
        keys.add(ann.clone(), Arc::clone(&key), used, false);
        keys.check();
        assert_eq!(keys.find(&ann, &key, 1_000 + KEY_WINDOW_MS), Some(used));
        assert_eq!(keys.find(&bob, &key, 1_000), None);
        assert_eq!(keys.find(&ann, &"other".into(), 1_000), None);
        assert_eq!(keys.find(&ann, &key, 1_001 + KEY_WINDOW_MS), None);
        keys.check();
        assert!(keys.order.is_empty());
    }

    #[test]
    fn in_a_crowd_the_oldest_goes() {
        let ann = UserName::new("ann").unwrap();
        let keys = ["a", "b", "c"].map(Arc::<str>::from);
        let mut used = Keys::default();
        for (n, key) in keys.iter().enumerate() {
            used.add(ann.clone(), Arc::clone(key), Used { seq: Seq(n as u64), timestamp: 5 }, n == 2);
        }
        used.check();
        let known = keys.each_ref().map(|key| used.find(&ann, key, 5).is_some());
        assert_eq!((known, used.len()), ([false, true, true], 2));
    }
}
