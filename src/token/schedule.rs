//! When keys may be fetched: every so often, and in between when someone asks, but not more often than the cooldown
//! allows. Times are monotonic milliseconds that the caller hands in.

use std::time::Duration;

/// What was fetched when, and what follows.
#[derive(Debug)]
pub(super) struct Schedule {
    refresh_ms: u64,
    cooldown_ms: u64,
    /// The end of the last fetch; `None` before the first.
    last_ms: Option<u64>,
    /// Fetches that failed since one went well.
    failures: u32,
}

impl Schedule {
    pub(super) fn new(refresh: Duration, cooldown: Duration) -> Self {
        let (refresh_ms, cooldown_ms) = (refresh.as_millis().max(1) as u64, cooldown.as_millis() as u64);
        Self { refresh_ms, cooldown_ms, last_ms: None, failures: 0 }
    }

    /// Whether it is time to fetch though nobody has asked.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.last_ms.is_none_or(|last| now_ms >= last + self.pause_ms())
    }

    /// Whether to fetch because someone has asked.
    pub(super) fn may_fetch(&self, now_ms: u64) -> bool {
        self.last_ms.is_none_or(|last| now_ms >= last + self.cooldown_ms)
    }

    /// Time until one of the answers above changes.
    pub(super) fn next_change(&self, now_ms: u64) -> Duration {
        let Some(last) = self.last_ms else { return Duration::ZERO };
        let end = if self.may_fetch(now_ms) { last + self.pause_ms() } else { last + self.cooldown_ms };
        Duration::from_millis(end.min(last + self.pause_ms()).saturating_sub(now_ms))
    }

    /// A fetch has ended.
    pub(super) fn fetched(&mut self, now_ms: u64, went_well: bool) {
        self.last_ms = Some(now_ms);
        self.failures = if went_well { 0 } else { self.failures.saturating_add(1) };
    }

    /// From the end of a fetch to the next that nobody has asked for: after a failure sooner, then twice as long each time.
    fn pause_ms(&self) -> u64 {
        match self.failures {
            0 => self.refresh_ms,
            n => self.refresh_ms.min(self.cooldown_ms.max(RETRY_MS_MIN).saturating_mul(1 << n.min(DOUBLINGS_MAX))),
        }
    }
}

const RETRY_MS_MIN: u64 = 1_000;
const DOUBLINGS_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(300);
    const COOLDOWN: Duration = Duration::from_secs(10);

    #[test]
    fn the_first_fetch_is_due_at_once_and_the_next_after_the_refresh() {
        let mut schedule = Schedule::new(REFRESH, COOLDOWN);
        assert!(schedule.is_due(0) && schedule.may_fetch(0));
        schedule.fetched(1_000, true);
        assert!(!schedule.is_due(1_000) && !schedule.is_due(300_999) && schedule.is_due(301_000));
    }

    #[test]
    fn who_asks_is_heard_once_per_cooldown() {
        let mut schedule = Schedule::new(REFRESH, COOLDOWN);
        schedule.fetched(1_000, true);
        assert!(!schedule.may_fetch(1_000) && !schedule.may_fetch(10_999) && schedule.may_fetch(11_000));
        assert_eq!(schedule.next_change(1_000), COOLDOWN);
        assert_eq!(schedule.next_change(11_000), REFRESH - COOLDOWN);
    }

    #[test]
    fn a_failure_is_tried_again_sooner_and_then_less_often() {
        let mut schedule = Schedule::new(REFRESH, COOLDOWN);
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            schedule.fetched(now, false);
            let start = now;
            while !schedule.is_due(now) {
                now += schedule.next_change(now).as_millis() as u64;
            }
            pauses.push((now - start) / 1_000);
        }
        assert_eq!(pauses, [20, 40, 80, 160, 300, 300, 300]);
        schedule.fetched(now, true);
        assert!(!schedule.is_due(now + 299_999));
    }
}
