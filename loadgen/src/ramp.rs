//! When each connection of a worker is begun, at a rate that is steady or changes evenly, and how long it may take until it has joined.
//!
//! Paced by a rate, and held back when too many handshakes are under way: the ramp is not open loop, it is there to
//! bring the connections up without drowning the server. No socket and no clock.

use std::collections::VecDeque;

/// How fast, and how patiently.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// When the first connection of all workers is due.
    pub first_ns: u64,
    /// Connections per second, all workers together.
    pub rate: f64,
    /// That rate for the last connection.
    pub rate_end: f64,
    /// Connections of all workers together.
    pub connections: u32,
    /// Handshakes under way at once, all workers together.
    pub in_flight: u32,
    /// Until a connection must have joined.
    pub timeout_ns: u64,
}

/// The ramp of one worker; its connections are numbered from 0.
#[derive(Debug)]
pub struct Ramp {
    worker: u32,
    workers: u32,
    connections: u32,
    next: u32,
    in_flight: u32,
    in_flight_max: u32,
    pace: Pace,
    /// Deadlines in the order of connections, which is that of time.
    deadlines: VecDeque<(u64, u32)>,
}

impl Ramp {
    /// The part of `worker` among `workers`, who take turns, with `connections` of its own.
    #[must_use]
    pub fn new(worker: u32, workers: u32, connections: u32, pace: Pace) -> Self {
        Self {
            worker,
            workers,
            connections,
            next: 0,
            in_flight: 0,
            in_flight_max: pace.in_flight.div_ceil(workers),
            pace,
            deadlines: VecDeque::new(),
        }
    }

    /// The next connection to begin, if one is due, and when its turn was.
    pub fn due(&mut self, now_ns: u64) -> Option<(u32, u64)> {
        let at_ns = self.next_at().filter(|&at| at <= now_ns)?;
        let connection = self.next;
        self.next += 1;
        self.in_flight += 1;
        self.deadlines.push_back((now_ns + self.pace.timeout_ns, connection));
        Some((connection, at_ns))
    }

    /// A connection has joined, or will not.
    pub fn resolved(&mut self) {
        debug_assert!(self.in_flight > 0, "a connection is resolved once");
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A connection whose time is over; the caller knows whether it has joined. Ask until there is none.
    pub fn expired(&mut self, now_ns: u64) -> Option<u32> {
        let (_, connection) = *self.deadlines.front().filter(|(deadline, _)| *deadline <= now_ns)?;
        self.deadlines.pop_front();
        Some(connection)
    }

    /// No more connections.
    pub fn end(&mut self) {
        self.connections = self.next;
        self.deadlines.clear();
    }

    /// When there is something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let expiry = self.deadlines.front().map(|(deadline, _)| *deadline).filter(|_| self.in_flight > 0);
        self.next_at().into_iter().chain(expiry).min()
    }

    fn next_at(&self) -> Option<u64> {
        let may = self.next < self.connections && self.in_flight < self.in_flight_max;
        let turn = u64::from(self.next) * u64::from(self.workers) + u64::from(self.worker);
        may.then(|| self.pace.first_ns + (self.pace.seconds_until(turn as f64) * 1e9) as u64)
    }
}

impl Pace {
    /// Time until connection `turn` is due when the rate goes from one end to the other evenly in time: the rate after
    /// `turn` connections is the root of `rate² + 2·a·turn`, where `a` is what it changes by in a second.
    fn seconds_until(&self, turn: f64) -> f64 {
        let (from, to) = (self.rate, self.rate_end);
        let rate_then = (from * from + (to * to - from * from) * turn / f64::from(self.connections.max(1))).sqrt();
        turn * 2.0 / (from + rate_then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { first_ns: 1_000, rate: 1e7, rate_end: 1e7, connections: 18, in_flight: 4, timeout_ns: 5_000 };

    #[test]
    fn workers_take_turns_at_the_rate() {
        let (mut first, mut second) = (Ramp::new(0, 2, 9, PACE), Ramp::new(1, 2, 9, PACE));
        assert_eq!((first.deadline(), second.deadline()), (Some(1_000), Some(1_100)));
        assert_eq!(first.due(999), None);
        assert_eq!((first.due(1_000), first.due(1_000)), (Some((0, 1_000)), None));
        assert_eq!((second.due(1_099), second.due(1_300)), (None, Some((0, 1_100))));
        assert_eq!(first.deadline(), Some(1_200));
        assert_eq!(second.due(1_300), Some((1, 1_300)));
    }

    #[test]
    fn too_many_handshakes_hold_the_ramp_back() {
        let mut ramp = Ramp::new(0, 2, 9, PACE);
        let mut due = |now| ramp.due(now).map(|(connection, _)| connection);
        assert_eq!((due(9_000), due(9_000), due(9_000)), (Some(0), Some(1), None));
        ramp.resolved();
        assert_eq!((ramp.due(9_001), ramp.due(9_001)), (Some((2, 1_400)), None));
    }

    #[test]
    fn a_rate_that_rises_evenly_takes_as_long_as_its_mean() {
        let pace = Pace { rate: 100.0, rate_end: 300.0, connections: 2_000, ..PACE };
        assert!((pace.seconds_until(2_000.0) - 10.0).abs() < 1e-9);
        // After half the time the rate is 200, and 750 connections have come.
        assert!((pace.seconds_until(750.0) - 5.0).abs() < 1e-9);
        assert_eq!(pace.seconds_until(0.0), 0.0);
        let falling = Pace { rate: 300.0, rate_end: 100.0, ..pace };
        assert!((falling.seconds_until(1_250.0) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_handshake_has_its_time() {
        let mut ramp = Ramp::new(0, 1, 2, PACE);
        assert_eq!((ramp.due(1_000), ramp.due(1_100)), (Some((0, 1_000)), Some((1, 1_100))));
        assert_eq!(ramp.deadline(), Some(6_000));
        assert_eq!(ramp.expired(5_999), None);
        assert_eq!((ramp.expired(6_050), ramp.expired(6_050)), (Some(0), None));
        assert_eq!(ramp.deadline(), Some(6_100));
        ramp.resolved();
        ramp.resolved();
        assert_eq!(ramp.deadline(), None, "nobody is woken for those who have joined");
        assert_eq!(ramp.expired(6_100), Some(1));
    }
}
