//! Where the store's threads find the database, and how it is taken away from them to be opened anew.
//!
//! Invariant: the database is closed only when no thread uses it: whoever does holds a [`Lease`], for one answer or one
//! page. Locks are held for a moment; no shard ever comes here.
#![expect(clippy::disallowed_types, reason = "the store's own threads share the database; shards never see it")]

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::engine::Engine;

/// Holds the database while it is open.
#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether leases are asked back: long work ends early.
    recalled: AtomicBool,
}

#[derive(Default)]
struct State {
    engine: Option<Arc<Engine>>,
    leases: usize,
    ended: bool,
}

/// The database, for as long as this is held.
pub(super) struct Lease {
    engine: Option<Arc<Engine>>,
    slot: Arc<Slot>,
}

impl Slot {
    /// Waits for the database; `None` once the store has ended.
    pub(super) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(engine) = state.engine.clone() {
                state.leases += 1;
                return Some(Lease { engine: Some(engine), slot: self.clone() });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Offers a database.
    pub(super) fn put(&self, engine: Arc<Engine>) {
        self.recalled.store(false, Ordering::Relaxed);
        self.lock().engine = Some(engine);
        self.changed.notify_all();
    }

    /// Takes the database away and waits until nobody uses it.
    pub(super) fn clear(&self) {
        self.recalled.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        state.engine = None;
        while state.leases > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends everyone away for good who waits for a database, or will.
    pub(super) fn end(&self) {
        self.recalled.store(true, Ordering::Relaxed);
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Whether someone waits for this lease to end.
    pub(super) fn is_recalled(&self) -> bool {
        self.slot.recalled.load(Ordering::Relaxed)
    }
}

impl Deref for Lease {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        self.engine.as_ref().expect("given back only by drop")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The last one out must not be the one who closes the database.
        let mut state = self.slot.lock();
        self.engine = None;
        state.leases -= 1;
        drop(state);
        self.slot.changed.notify_all();
    }
}
