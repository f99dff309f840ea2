//! Deadlines, and waiting for a condition.

use std::time::Duration;

use hubbub::clock::Clock;

/// How long a test waits for what must happen. Far longer than it takes, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A moment after which waiting is given up.
#[derive(Clone, Debug)]
pub struct Deadline {
    clock: Clock,
    within: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(within: Duration) -> Self {
        Self { clock: Clock::start(), within }
    }

    /// The usual patience, from now.
    pub fn patient() -> Self {
        Self::after(PATIENCE)
    }

    /// The time that is left; none when it is over.
    pub fn left(&self) -> Option<Duration> {
        self.within.checked_sub(self.elapsed()).filter(|left| !left.is_zero())
    }

    /// The time since the deadline was set.
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.clock.now().us)
    }
}

/// Looks again and again until `look` gives something.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::patient();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(deadline.left().is_some(), "waited {PATIENCE:?} in vain for: {what}");
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
}

const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
