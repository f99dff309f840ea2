//! Where the store's threads find the database, and how it is taken away from them to be opened anew.
//!
//! Invariant: the database is closed only when no thread uses it: whoever does holds a [`Lease`], for one answer or one
//! page. Locks are held for a moment; no shard ever comes here. Nobody waits for a database longer than [`PATIENCE`]
//! from the moment on at which the first has missed it, however many want it.
#![expect(clippy::disallowed_types, reason = "the store's own threads share the database; shards never see it")]

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    /// Whether someone has waited in vain since the database was taken away: nobody waits then.
    is_missed: bool,
    ended: bool,
}

/// Why there is no database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It was taken away to be opened anew, and that takes its time.
    Withdrawn,
    /// The store has ended.
    Ended,
}

/// The database, for as long as this is held.
pub(super) struct Lease {
    engine: Option<Arc<Engine>>,
    slot: Arc<Slot>,
}

impl Slot {
    /// The database, waited for if it is being opened anew.
    pub(super) fn lease(self: &Arc<Self>) -> Result<Lease, Absence> {
        let is_away = |state: &mut State| state.engine.is_none() && !state.ended && !state.is_missed;
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE, is_away);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return Err(Absence::Ended);
        }
        let Some(engine) = state.engine.clone() else {
            state.is_missed |= timeout.timed_out();
            return Err(Absence::Withdrawn);
        };
        state.leases += 1;
        Ok(Lease { engine: Some(engine), slot: self.clone() })
    }

    /// Offers a database.
    pub(super) fn put(&self, engine: Arc<Engine>) {
        self.recalled.store(false, Ordering::Relaxed);
        let mut state = self.lock();
        state.engine = Some(engine);
        state.is_missed = false;
        drop(state);
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

    /// Whether leases are asked back.
    pub(super) fn is_recalled(&self) -> bool {
        self.recalled.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Whether someone waits for this lease to end.
    pub(super) fn is_recalled(&self) -> bool {
        self.slot.is_recalled()
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

/// How long to wait for a database.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_waited_for_once() {
        let slot = Arc::new(Slot::default());
        assert_eq!(slot.lease().err(), Some(Absence::Withdrawn));
        assert!(slot.lock().is_missed, "the next one does not wait");
        assert_eq!(slot.lease().err(), Some(Absence::Withdrawn));
        let dir = tempfile::tempdir().unwrap();
        slot.put(Arc::new(Engine::open(dir.path()).unwrap()));
        assert!(!slot.lease().unwrap().is_recalled());
        slot.clear();
        assert!(!slot.lock().is_missed, "it was there in between");
        slot.end();
        assert_eq!(slot.lease().err(), Some(Absence::Ended));
    }
}
