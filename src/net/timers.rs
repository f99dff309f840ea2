//! Timeouts in the kernel, few and shared: a new one is armed only when it must come before all others.
//!
//! Invariant: a timespec stays where it is until its timeout has fired, for the kernel may read it late.

use io_uring::types::Timespec;

/// The timeouts that are armed.
#[derive(Debug, Default)]
pub(super) struct Timers {
    timers: Vec<Timer>,
}

#[derive(Debug)]
struct Timer {
    /// When it fires, by the owner's clock; `None` once it has.
    deadline_us: Option<u64>,
    timespec: Box<Timespec>,
}

impl Timers {
    /// What to submit so that something fires at `deadline_us`: a timer's number and its timespec, or nothing if
    /// one that is armed comes early enough.
    pub(super) fn arm(&mut self, deadline_us: u64, now_us: u64) -> Option<(u32, &Timespec)> {
        if self.timers.iter().filter_map(|timer| timer.deadline_us).any(|armed| armed <= deadline_us) {
            return None;
        }
        let after = std::time::Duration::from_micros(deadline_us.saturating_sub(now_us));
        let place = self.timers.iter().position(|timer| timer.deadline_us.is_none()).unwrap_or_else(|| {
            self.timers.push(Timer { deadline_us: None, timespec: Box::default() });
            self.timers.len() - 1
        });
        let timer = &mut self.timers[place];
        timer.deadline_us = Some(deadline_us);
        *timer.timespec = Timespec::from(after);
        Some((place as u32, &*timer.timespec))
    }

    /// A timer has fired.
    pub(super) fn fired(&mut self, timer: u32) {
        self.timers[timer as usize].deadline_us = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_earlier_deadline_costs_a_timer() {
        let mut timers = Timers::default();
        assert_eq!(timers.arm(1_000, 0).unwrap().0, 0);
        assert!(timers.arm(2_000, 0).is_none());
        assert_eq!(timers.arm(500, 0).unwrap().0, 1);
        timers.fired(1);
        assert!(timers.arm(1_500, 600).is_none());
        assert_eq!(timers.arm(700, 600).unwrap().0, 1);
    }
}
