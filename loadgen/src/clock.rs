//! The machine's monotonic clock in nanoseconds: the one place of the generator that reads it.
//!
//! The readings are absolute (since boot), so that every worker and every process of one machine shares them, and a
//! planned time that travels inside a message can be compared wherever it arrives.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, by `CLOCK_MONOTONIC`.
#[must_use]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * NS_PER_S + time.tv_nsec as u64
}

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
