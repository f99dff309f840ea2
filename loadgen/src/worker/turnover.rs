//! Members that leave and come back, connections that are dropped, and readers that pause.
//!
//! Whoever is to go stops sending and waits until it has had everything that was sent to its room by then; so nothing of
//! its own is on the way when it goes, and the audit knows what it should have had. A server that lost something keeps
//! it waiting no longer than the drain.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Peekable;

use super::link::Course;
use super::{Job, Worker};
use crate::client::Stage;
use crate::clock::NS_PER_MS;
use crate::disturbance::{Act, Disturbance, Disturbances};
use crate::plan::Random;
use crate::scenario::ChurnBy;
use crate::target::Protocol;

/// What is to happen to the connections of one worker.
pub(super) struct Turnover {
    disturbances: Peekable<Box<dyn Iterator<Item = Disturbance>>>,
    departing: Vec<Departing>,
    /// In monotonic nanoseconds.
    timers: BinaryHeap<Reverse<(u64, u32, Due)>>,
    random: Random,
}

/// One that is about to go.
struct Departing {
    place: u32,
    /// When it is dropped; `None` for one that leaves properly.
    drop_ns: Option<u64>,
    /// When it goes whatever it has had.
    patience_ns: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// Coming back.
    Return,
    /// Being back, by this attempt.
    Joined(u32),
    /// Reading again.
    Read,
}

impl Turnover {
    pub(super) fn new(job: &Job) -> Self {
        let (worker, workers) = (job.worker, job.workers);
        let mine = Disturbances::of(&job.scenario).filter(move |one| one.connection % workers == worker);
        let mine: Box<dyn Iterator<Item = Disturbance>> = Box::new(mine);
        Self {
            disturbances: mine.peekable(),
            departing: Vec::new(),
            timers: BinaryHeap::new(),
            random: Random::new(job.scenario.seed ^ u64::from(worker)),
        }
    }

    /// Nothing more is to happen.
    pub(super) fn end(&mut self) {
        let nothing: Box<dyn Iterator<Item = Disturbance>> = Box::new(std::iter::empty());
        self.disturbances = nothing.peekable();
        self.departing.clear();
        self.timers.clear();
    }

    /// When there is something to do next. `start_ns` is 0 until the load starts.
    pub(super) fn deadline(&mut self, start_ns: u64) -> Option<u64> {
        let next = self.disturbances.peek().filter(|_| start_ns > 0).map(|one| start_ns + one.at_ns);
        let look = (!self.departing.is_empty()).then(|| crate::clock::now_ns() + LOOK_NS);
        let timer = self.timers.peek().map(|Reverse((at_ns, ..))| *at_ns);
        [next, look, timer].into_iter().flatten().min()
    }
}

impl Worker {
    /// Lets happen what is due.
    pub(super) fn turn_over(&mut self, now: u64) {
        if self.start_ns == 0 {
            return;
        }
        let since_start = now.saturating_sub(self.start_ns);
        while let Some(one) = self.turnover.disturbances.next_if(|one| one.at_ns <= since_start) {
            self.disturb(one, now);
        }
        let mut at = 0;
        while at < self.turnover.departing.len() {
            if self.may_go(at, now) {
                let gone = self.turnover.departing.swap_remove(at);
                self.depart(&gone, now);
            } else {
                at += 1;
            }
        }
        while let Some(&Reverse((at_ns, place, due))) = self.turnover.timers.peek() {
            if at_ns > now {
                break;
            }
            self.turnover.timers.pop();
            self.on_timer(place, due, now);
        }
    }

    fn disturb(&mut self, one: Disturbance, now: u64) {
        let place = one.connection / self.job.workers;
        let link = &mut self.links[place as usize];
        if link.course != Course::Steady || link.client.stage() != Stage::Joined {
            return;
        }
        let drop_ns = match one.act {
            Act::StopReading => return self.stop_reading(place, now),
            Act::DropAt(at_ns) => Some(self.start_ns + at_ns),
            Act::Leave => None,
        };
        link.course = Course::Departing;
        link.fence = self.ledger.fence(place);
        let patience_ns = now.max(drop_ns.unwrap_or(0)) + self.job.scenario.drain.ns();
        self.turnover.departing.push(Departing { place, drop_ns, patience_ns });
    }

    fn stop_reading(&mut self, place: u32, now: u64) {
        let Some(conn) = self.links[place as usize].conn else { return };
        self.ring.pause(conn);
        self.ledger.slowed(place);
        let load_end_ns = self.start_ns + self.job.load_ns();
        let slow_ns = self.job.scenario.slow_for.ns();
        // What became of those that stopped for good shows when they read at the end.
        let until_ns = if slow_ns == 0 { load_end_ns } else { load_end_ns.min(now + slow_ns) };
        self.turnover.timers.push(Reverse((until_ns, place, Due::Read)));
    }

    fn may_go(&self, at: usize, now: u64) -> bool {
        let departing = &self.turnover.departing[at];
        let link = &self.links[departing.place as usize];
        let is_over = link.client.stage() != Stage::Joined;
        let has_all = || self.ledger.has_passed(departing.place, &link.fence);
        let is_time = departing.drop_ns.is_none_or(|drop_ns| drop_ns <= now);
        is_over || now >= departing.patience_ns || (is_time && !link.sending && link.out.is_empty() && has_all())
    }

    fn depart(&mut self, departing: &Departing, now: u64) {
        let place = departing.place;
        let link = &mut self.links[place as usize];
        if link.client.stage() != Stage::Joined {
            return;
        }
        if departing.drop_ns.is_some() {
            self.drop_link(place, now);
        } else if self.job.target.protocol == Protocol::Relay {
            self.has_left(place, now);
        } else {
            super::link::take_buffer(&mut link.out, &mut self.spare);
            link.client.leave(&mut self.dialect, now, &mut link.out);
            self.ready.push(place);
        }
    }

    /// The server knows that this member is gone.
    pub(super) fn has_left(&mut self, place: u32, now: u64) {
        let link = &mut self.links[place as usize];
        link.course = Course::Away;
        let fence = std::mem::take(&mut link.fence);
        if self.job.scenario.churn_by == ChurnBy::Connection || self.job.target.protocol == Protocol::Relay {
            link.client.goodbye(&mut self.dialect, &mut link.out);
            self.settle(place);
        }
        self.ledger.left(place, &fence);
        self.turnover.timers.push(Reverse((now + self.job.scenario.away.ns(), place, Due::Return)));
    }

    /// Ends a connection without a farewell.
    fn drop_link(&mut self, place: u32, now: u64) {
        let seen = self.ledger.dropped(place, now);
        self.hang_up(place);
        let link = &mut self.links[place as usize];
        link.course = Course::Away;
        link.seen = seen;
        let scenario = &self.job.scenario;
        let wait_ns = scenario.drop_for.ns() + self.turnover.random.below(scenario.backoff.ns());
        self.turnover.timers.push(Reverse((now + wait_ns, place, Due::Return)));
    }

    fn hang_up(&mut self, place: u32) {
        let link = &mut self.links[place as usize];
        link.client.end();
        (link.out, link.sending) = (Vec::new(), false);
        if let Some(conn) = link.conn.take() {
            self.ring.close(conn);
        }
    }

    /// An attempt to come back has failed: the next one waits longer.
    pub(super) fn try_again(&mut self, place: u32, why: String, now: u64) {
        self.ledger.retried(why);
        self.hang_up(place);
        let scenario = &self.job.scenario;
        let link = &mut self.links[place as usize];
        link.course = Course::Away;
        link.failures += 1;
        let longest_ns =
            (scenario.backoff.ns() << link.failures.min(BACKOFF_DOUBLINGS_MAX)).min(scenario.backoff_max.ns());
        let wait_ns = self.turnover.random.below(longest_ns);
        self.turnover.timers.push(Reverse((now + wait_ns, place, Due::Return)));
    }

    fn on_timer(&mut self, place: u32, due: Due, now: u64) {
        let link = &mut self.links[place as usize];
        match due {
            Due::Return if link.course == Course::Away => self.come_back(place, now),
            Due::Joined(attempt) if link.course == Course::Returning && link.attempt == attempt => {
                self.try_again(place, "coming back took too long".to_owned(), now);
            }
            Due::Read => {
                if let Some(conn) = link.conn.filter(|_| link.client.stage() < Stage::Ended) {
                    self.ring.resume(conn);
                    // A reset that came while the window was shut may not have been taken; whoever speaks gets another.
                    link.client.show_life(&mut self.dialect, &mut link.out);
                    self.ready.push(place);
                }
            }
            Due::Return | Due::Joined(_) => {}
        }
    }

    fn come_back(&mut self, place: u32, now: u64) {
        let is_resuming = self.job.scenario.drop_share > 0.0;
        // Who left for good reasons need not come back to an empty stage.
        if !is_resuming && now >= self.start_ns + self.job.load_ns() {
            return;
        }
        let link = &mut self.links[place as usize];
        link.course = Course::Returning;
        link.attempt += 1;
        let deadline = (now + self.job.scenario.handshake_timeout.ns(), place, Due::Joined(link.attempt));
        self.turnover.timers.push(Reverse(deadline));
        if link.client.stage() == Stage::Outside {
            super::link::take_buffer(&mut link.out, &mut self.spare);
            link.client.join(&mut self.dialect, now, &mut link.out);
            return self.ready.push(place);
        }
        link.client = link.client.again(link.seen, now);
        (link.out, link.sending) = (Vec::new(), false);
        // One that said goodbye may still be closing.
        if let Some(conn) = link.conn.take() {
            self.ring.close(conn);
        }
        if let Err(problem) = self.dial(place) {
            self.try_again(place, problem, now);
        }
    }
}

/// How often those who are about to go are looked at.
const LOOK_NS: u64 = 5 * NS_PER_MS;
/// Keeps the shift within 64 bits for every backoff that can be written.
const BACKOFF_DOUBLINGS_MAX: u32 = 10;
