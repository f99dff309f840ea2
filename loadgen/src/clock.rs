//! The machine's monotonic clock in nanoseconds: the one place of the generator that reads it.
//!
//! The readings are absolute (since boot), so that every worker and every process of one machine shares them, and a
//! planned time that travels inside a message can be compared wherever it arrives. A process that takes part in the run of
//! another machine shifts its readings to that machine's clock.

use std::sync::atomic::{AtomicI64, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, by `CLOCK_MONOTONIC`; of the machine that [`shift`] leads to.
#[must_use]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let own = time.tv_sec as u64 * NS_PER_S + time.tv_nsec as u64;
    own.wrapping_sub(AHEAD_NS.load(Ordering::Relaxed) as u64)
}

/// Our clock is so much ahead of the one that is to be shown.
pub fn shift(ahead_ns: i64) {
    AHEAD_NS.store(ahead_ns, Ordering::Relaxed);
}

static AHEAD_NS: AtomicI64 = AtomicI64::new(0);

/// Nanoseconds in a second.
pub const NS_PER_S: u64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_do_not_go_back() {
        let first = now_ns();
        let second = now_ns();
        assert!(first > 0 && second >= first);
    }
}
