//! Time as the server knows it. The core is handed a [`Time`] and never reads a clock.

use std::cell::Cell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Microseconds since the clock was made; never goes back.
    pub us: u64,
    /// Milliseconds since 1970 by the wall clock, which may jump.
    pub unix_ms: u64,
}

impl Time {
    /// Monotonic milliseconds.
    #[must_use]
    pub fn ms(self) -> u64 {
        self.us / 1_000
    }
}

/// Reads the machine's clocks. Cheap enough for every turn of a shard: the wall clock is looked at once a second and
/// carried on by the monotonic one.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    /// The wall clock in milliseconds when the monotonic one showed `looked_us`.
    unix_ms: Cell<u64>,
    looked_us: Cell<u64>,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    #[must_use]
    pub fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
        let start = Instant::now();
        Self { start, unix_ms: Cell::new(wall_ms()), looked_us: Cell::new(0) }
    }

    /// Reads both clocks.
    #[must_use]
    pub fn now(&self) -> Time {
        let us = self.us();
        let since_us = us - self.looked_us.get();
        if since_us < LOOK_US {
            return Time { us, unix_ms: self.unix_ms.get() + since_us / 1_000 };
        }
        self.looked_us.set(us);
        self.unix_ms.set(wall_ms());
        Time { us, unix_ms: self.unix_ms.get() }
    }

    /// Monotonic microseconds alone.
    #[must_use]
    pub fn us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// How long the wall clock is carried on before it is looked at again.
const LOOK_US: u64 = 1_000_000;
