//! Tokens that wait: for their signature to be checked, or for the key that they name.
//!
//! A signature costs a hundred times what a message does, so signatures are checked in [`Shard::tokens`], after the live
//! connections were served and for a bounded time per turn.
//!
//! Invariants: a connection waits with one token at a time, and not beyond the beginning of its end. So there are never
//! more tokens than connections. Whoever is gone may still be named in a queue for a while, and is passed over.

use std::collections::VecDeque;

use ahash::HashMap;

use super::turn::Shard;
use crate::ids::ConnId;
use crate::limits::TOKEN_BUDGET_US;

/// Those who have yet to be identified, and what they have shown.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    waiting: HashMap<ConnId, Stranger>,
    /// Whose token is to be checked, oldest first.
    unchecked: VecDeque<ConnId>,
    /// Whose token names a key that is being fetched.
    unknown: Vec<ConnId>,
}

/// What someone has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) token: Box<str>,
    pub(super) purpose: Purpose,
    /// Its key was fetched, or is not to be had.
    pub(super) has_waited: bool,
}

/// Why someone is to be identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// They want to come in.
    Connect,
    /// They want to come in and go on with a session, whose connection may not be known to be gone.
    Resume,
    /// They are known, and show a fresh token.
    Refresh,
}

impl Strangers {
    /// Whether [`Strangers::next`] may have someone.
    pub(super) fn has_unchecked(&self) -> bool {
        !self.unchecked.is_empty()
    }

    /// How many wait for their token to be checked; those who have gone meanwhile may be among them.
    pub(super) fn unchecked(&self) -> usize {
        self.unchecked.len()
    }

    /// Someone's token is to be checked.
    pub(super) fn await_check(&mut self, conn: ConnId, stranger: Stranger) {
        self.waiting.insert(conn, stranger);
        self.unchecked.push_back(conn);
    }

    /// Someone's token is to be checked once there are more keys.
    pub(super) fn await_keys(&mut self, conn: ConnId, stranger: Stranger) {
        self.waiting.insert(conn, Stranger { has_waited: true, ..stranger });
        self.unknown.push(conn);
    }

    /// There may be more keys: all who wait for them get in line.
    pub(super) fn keys_have_come(&mut self) {
        self.unchecked.extend(self.unknown.drain(..));
    }

    /// A connection is ending.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.waiting.remove(&conn);
    }

    /// Takes whoever has waited longest for their token to be checked.
    pub(super) fn next(&mut self) -> Option<(ConnId, Stranger)> {
        while let Some(conn) = self.unchecked.pop_front() {
            if let Some(stranger) = self.waiting.remove(&conn) {
                return Some((conn, stranger));
            }
        }
        None
    }
}

impl Shard {
    /// Checks tokens that wait, for a bounded time. What was to be written before goes out first.
    pub(super) fn tokens(&mut self) -> std::io::Result<()> {
        if !self.hub.desk.strangers.has_unchecked() {
            return Ok(());
        }
        self.ring.enter(false)?;
        take_steps(TOKEN_BUDGET_US, || self.clock.us(), || self.hub.check_token());
        self.write();
        Ok(())
    }
}

/// Takes steps until there are none or the time is up, and at least one. Time: microseconds.
fn take_steps(budget_us: u64, clock_us: impl Fn() -> u64, mut step: impl FnMut() -> bool) {
    let start = clock_us();
    while step() && clock_us().saturating_sub(start) < budget_us {}
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const NOBODY: [u32; 0] = [];

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 1 }
    }

    fn stranger(token: &str) -> Stranger {
        Stranger { token: token.into(), purpose: Purpose::Connect, has_waited: false }
    }

    fn in_line(tokens: u32) -> Strangers {
        let mut strangers = Strangers::default();
        (0..tokens).for_each(|n| strangers.await_check(conn(n), stranger("t")));
        strangers
    }

    /// Whom one turn takes when each step takes so long.
    fn turn(strangers: &mut Strangers, step_us: u64, budget_us: u64) -> Vec<u32> {
        let (clock, mut taken) = (Cell::new(0), Vec::new());
        let step = || {
            clock.set(clock.get() + step_us);
            strangers.next().map(|(conn, _)| taken.push(conn.slot)).is_some()
        };
        take_steps(budget_us, || clock.get(), step);
        taken
    }

    #[test]
    fn a_turn_checks_what_its_time_allows_and_at_least_one() {
        let mut strangers = in_line(9);
        assert_eq!(turn(&mut strangers, 70, 200), [0, 1, 2]);
        assert_eq!(turn(&mut strangers, 500, 200), [3]);
        assert_eq!(turn(&mut strangers, 70, 0), [4]);
        assert_eq!((strangers.unchecked(), strangers.has_unchecked()), (4, true));
        assert_eq!(turn(&mut strangers, 1, 200), [5, 6, 7, 8]);
        assert!(!strangers.has_unchecked());
        assert_eq!(turn(&mut strangers, 1, 200), NOBODY);
    }

    #[test]
    fn who_comes_again_waits_behind_the_others() {
        let mut strangers = in_line(3);
        assert_eq!(strangers.next().map(|(conn, _)| conn), Some(conn(0)));
        strangers.await_check(conn(0), stranger("another"));
        assert_eq!(turn(&mut strangers, 1, 200), [1, 2, 0]);
    }

    #[test]
    fn who_is_gone_costs_no_check_and_keeps_nothing() {
        let mut strangers = in_line(4);
        strangers.await_keys(conn(9), stranger("of an unknown key"));
        for gone in [0, 2, 3, 9] {
            strangers.forget(conn(gone));
        }
        assert_eq!(strangers.waiting.len(), 1, "no token outlives its connection");
        strangers.keys_have_come();
        assert_eq!(turn(&mut strangers, 500, 200), [1], "those before it took no step");
        assert_eq!(turn(&mut strangers, 500, 200), NOBODY);
        assert!(!strangers.has_unchecked());
    }

    #[test]
    fn who_waits_for_a_key_gets_in_line_when_there_are_more() {
        let mut strangers = in_line(1);
        strangers.await_keys(conn(7), stranger("of an unknown key"));
        assert_eq!(turn(&mut strangers, 1, 200), [0]);
        assert!(!strangers.has_unchecked(), "a shard may sleep until the keys have come");
        strangers.keys_have_come();
        let expected = Stranger { has_waited: true, ..stranger("of an unknown key") };
        assert_eq!(strangers.next(), Some((conn(7), expected)));
    }
}
