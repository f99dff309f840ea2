//! When to write: at once while there is little to do, in common beats while much is fanned out.
//!
//! A write to a socket costs about the same whether it carries one small frame or ten. So while more than
//! [`FANNED_OUT_PER_MS_ON`] frames per millisecond are fanned out, each connection is written at most once per
//! beat, and a hot room costs a fraction. Replies to the sender alone do not count: a client that waits for each
//! answer is never held up by its own echo.

/// How much is being fanned out.
#[derive(Debug, Default)]
pub(super) struct Load {
    since_us: u64,
    frames: u64,
    frames_per_ms: u64,
    is_high: bool,
}

impl Load {
    /// A message went to so many members.
    pub(super) fn fanned_out(&mut self, members: u64) {
        self.frames += members.saturating_sub(1);
    }

    /// Whether writes were being gathered when last asked.
    pub(super) fn was_high(&self) -> bool {
        self.is_high
    }

    /// Whether writes should be gathered, as of `now_us`.
    pub(super) fn is_high(&mut self, now_us: u64) -> bool {
        let elapsed_us = now_us.saturating_sub(self.since_us);
        if elapsed_us >= WINDOW_US {
            let rate = self.frames * 1_000 / elapsed_us;
            self.frames_per_ms = (self.frames_per_ms * 3 + rate) / 4;
            self.since_us = now_us;
            self.frames = 0;
            let bound = if self.is_high { FANNED_OUT_PER_MS_OFF } else { FANNED_OUT_PER_MS_ON };
            self.is_high = self.frames_per_ms > bound;
        }
        self.is_high
    }
}

/// The beat of writes under load.
#[derive(Debug)]
pub(super) struct Beat {
    interval_us: u64,
    next_us: u64,
}

impl Beat {
    /// Beats that are `interval_us` apart; 0 writes at once, always.
    pub(super) fn new(interval_us: u64) -> Self {
        Self { interval_us, next_us: 0 }
    }

    /// Whether to write now. If not, [`Beat::next_us`] is the time.
    pub(super) fn writes_now(&mut self, load: &mut Load, now_us: u64) -> bool {
        if load.is_high(now_us) && now_us < self.next_us {
            return false;
        }
        self.next_us = now_us + self.interval_us;
        true
    }

    /// When to write next.
    pub(super) fn next_us(&self) -> u64 {
        self.next_us
    }
}

const WINDOW_US: u64 = 1_000;
const FANNED_OUT_PER_MS_ON: u64 = 64;
const FANNED_OUT_PER_MS_OFF: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(members: u64, messages_per_ms: u64) -> u32 {
        let (mut load, mut beat) = (Load::default(), Beat::new(2_000));
        let mut writes = 0;
        for ms in 0..1_000 {
            for message in 0..messages_per_ms {
                load.fanned_out(members);
                writes += u32::from(beat.writes_now(&mut load, ms * 1_000 + message * 1_000 / messages_per_ms));
            }
        }
        writes
    }

    #[test]
    fn a_hot_room_is_written_in_beats() {
        assert!((490..=520).contains(&run(200, 2)), "{}", run(200, 2));
    }

    #[test]
    fn echoes_and_small_rooms_are_written_at_once() {
        assert_eq!(run(1, 30), 30_000);
        assert_eq!(run(5, 10), 10_000);
    }
}
