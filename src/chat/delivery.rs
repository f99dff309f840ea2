//! What waits to go to other shards, and who waits for room there.
//!
//! Invariants: each of the two queues to a shard keeps the order in which it was filled. `full_deliveries` counts the
//! queues of deliveries that are full. Those who wait get their turn in the order they began to wait, and never more
//! of them at a time than there is room for: a place that one of them was promised counts as taken until it tries
//! again, goes, or the queue is taken.
//!
//! Bounds: a queue of requests holds at most `max` of those that count; a queue of deliveries `max` and what one
//! request or deadline more produces. Leaves, and requests of which a membership has at most one, do not count.

use std::collections::VecDeque;

use crate::chat::exchange::{Delivery, Request};
use crate::chat::session::Promise;
use crate::ids::{ConnId, ShardId};

/// The queues to all shards.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    /// Envelopes at which a queue is full.
    max: usize,
    full_deliveries: usize,
    /// Shards for which something waits.
    outgoing: Vec<ShardId>,
    /// Who waits until no queue of deliveries is full.
    waiters: VecDeque<ConnId>,
    promised: usize,
    /// Entries in all lists of waiters.
    waiting: usize,
}

#[derive(Debug, Default)]
struct Lane {
    deliveries: Vec<Delivery>,
    requests: Vec<Request>,
    /// Requests that count.
    counted: usize,
    /// Who waits for room among the requests.
    waiters: VecDeque<ConnId>,
    promised: usize,
    /// Whether `outgoing` has it.
    listed: bool,
    /// How many there were the last time, so that the next queue need not grow step by step.
    last_deliveries: usize,
    last_requests: usize,
}

impl Lanes {
    pub(super) fn new(shards: u16, max: usize) -> Self {
        Self {
            lanes: (0..shards).map(|_| Lane::default()).collect(),
            max: max.max(1),
            full_deliveries: 0,
            outgoing: Vec::new(),
            waiters: VecDeque::new(),
            promised: 0,
            waiting: 0,
        }
    }

    /// Whether what a room's owner has to say must wait.
    #[inline]
    pub(super) fn deliveries_full(&self) -> bool {
        self.full_deliveries > 0
    }

    /// Whether a request to `to` must wait.
    #[inline]
    pub(super) fn requests_full(&self, to: ShardId) -> bool {
        self.lanes[to.index()].counted >= self.max
    }

    /// The first shard to which a request must wait.
    pub(super) fn first_full(&self) -> Option<ShardId> {
        self.lanes.iter().position(|lane| lane.counted >= self.max).map(|index| ShardId(index as u16))
    }

    pub(super) fn push_delivery(&mut self, to: ShardId, delivery: Delivery) {
        let lane = &mut self.lanes[to.index()];
        if lane.deliveries.is_empty() {
            lane.deliveries.reserve(lane.last_deliveries.min(self.max));
        }
        lane.deliveries.push(delivery);
        if lane.deliveries.len() == self.max {
            self.full_deliveries += 1;
        }
        self.list(to);
    }

    pub(super) fn push_request(&mut self, to: ShardId, request: Request) {
        let lane = &mut self.lanes[to.index()];
        if lane.requests.is_empty() {
            lane.requests.reserve(lane.last_requests.min(self.max));
        }
        lane.counted += usize::from(counts(&request));
        lane.requests.push(request);
        self.list(to);
    }

    pub(super) fn outgoing(&self) -> &[ShardId] {
        &self.outgoing
    }

    pub(super) fn take_deliveries(&mut self, to: ShardId) -> Vec<Delivery> {
        let lane = &mut self.lanes[to.index()];
        if lane.deliveries.len() >= self.max {
            self.full_deliveries -= 1;
        }
        self.promised = 0;
        let taken = std::mem::take(&mut lane.deliveries);
        lane.last_deliveries = taken.len();
        self.unlist(to);
        taken
    }

    pub(super) fn take_requests(&mut self, to: ShardId) -> Vec<Request> {
        let lane = &mut self.lanes[to.index()];
        lane.counted = 0;
        lane.promised = 0;
        let taken = std::mem::take(&mut lane.requests);
        lane.last_requests = taken.len();
        self.unlist(to);
        taken
    }

    /// Puts a connection last in the line for `promise`.
    pub(super) fn wait(&mut self, conn: ConnId, promise: Promise) {
        self.waiting += 1;
        match promise {
            Promise::Deliveries => self.waiters.push_back(conn),
            Promise::Requests(to) => self.lanes[to.index()].waiters.push_back(conn),
        }
    }

    /// The next in some line for whom there is room, which is now promised to it. The connection may have gone.
    pub(super) fn wake(&mut self) -> Option<(ConnId, Promise)> {
        if self.waiting == 0 {
            return None;
        }
        if self.full_deliveries == 0
            && self.promised < self.max
            && let Some(conn) = self.waiters.pop_front()
        {
            self.waiting -= 1;
            self.promised += 1;
            return Some((conn, Promise::Deliveries));
        }
        let max = self.max;
        let ready = |lane: &&mut Lane| lane.counted + lane.promised < max && !lane.waiters.is_empty();
        let (index, lane) = self.lanes.iter_mut().enumerate().find(|(_, lane)| ready(lane))?;
        let conn = lane.waiters.pop_front()?;
        if lane.waiters.is_empty() {
            lane.waiters = VecDeque::new();
        }
        self.waiting -= 1;
        lane.promised += 1;
        Some((conn, Promise::Requests(ShardId(index as u16))))
    }

    /// A promise was used, or never will be.
    pub(super) fn release(&mut self, promise: Promise) {
        let promised = match promise {
            Promise::Deliveries => &mut self.promised,
            Promise::Requests(to) => &mut self.lanes[to.index()].promised,
        };
        *promised = promised.saturating_sub(1);
    }

    /// Gives up all promises: who was woken and has not come back in all this time has other worries.
    pub(super) fn release_all(&mut self) {
        self.promised = 0;
        for lane in &mut self.lanes {
            lane.promised = 0;
        }
    }

    pub(super) fn deliveries_waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.deliveries.len()).sum()
    }

    pub(super) fn requests_waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.requests.len()).sum()
    }

    fn list(&mut self, to: ShardId) {
        let lane = &mut self.lanes[to.index()];
        if !lane.listed {
            lane.listed = true;
            self.outgoing.push(to);
        }
    }

    fn unlist(&mut self, to: ShardId) {
        let lane = &mut self.lanes[to.index()];
        if lane.listed && lane.deliveries.is_empty() && lane.requests.is_empty() {
            lane.listed = false;
            self.outgoing.retain(|shard| *shard != to);
        }
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        let full = self.lanes.iter().filter(|lane| lane.deliveries.len() >= self.max).count();
        assert_eq!(full, self.full_deliveries, "full queues are counted");
        let waiting: usize = self.lanes.iter().map(|lane| lane.waiters.len()).sum();
        assert_eq!(waiting + self.waiters.len(), self.waiting, "waiters are counted");
        for (index, lane) in self.lanes.iter().enumerate() {
            assert_eq!(lane.counted, lane.requests.iter().filter(|r| counts(r)).count(), "requests are counted");
            assert!(lane.counted <= self.max, "a full queue of requests takes no more");
            let listed = self.outgoing.contains(&ShardId(index as u16));
            assert_eq!(listed, !(lane.deliveries.is_empty() && lane.requests.is_empty()), "what waits is listed");
        }
    }
}

/// Whether a request counts against the bound of its queue.
fn counts(request: &Request) -> bool {
    match request {
        Request::Leave { .. }
        | Request::ReplayNext { .. }
        | Request::Settle { .. }
        | Request::Resume { .. }
        | Request::Standing { .. }
        | Request::Rooms { again: true, .. }
        | Request::Received { .. } => false,
        // A connection of the relay joins once in its life, and has nobody to tell that it should wait.
        Request::Join(join) => join.user.is_some() && !join.ticket.resumed,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::access::Identity;

    const THERE: ShardId = ShardId(1);

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    fn settled(slot: u32) -> Delivery {
        Delivery::Settled { conn: conn(slot) }
    }

    fn rooms() -> Request {
        let identity = Arc::new(Identity::named(crate::ids::UserName::new("ann").unwrap()));
        Request::Rooms { gather: 0, identity, again: false, after: None, limit: 1 }
    }

    #[test]
    fn queues_keep_order_and_are_listed_only_while_something_waits() {
        let mut lanes = Lanes::new(2, 4);
        assert!(lanes.outgoing().is_empty());
        for slot in 0..3 {
            lanes.push_delivery(THERE, settled(slot));
        }
        lanes.push_request(THERE, rooms());
        assert_eq!(lanes.outgoing(), [THERE]);
        let slots = |deliveries: Vec<Delivery>| -> Vec<u32> {
            deliveries.iter().map(|d| if let Delivery::Settled { conn } = d { conn.slot } else { 99 }).collect()
        };
        assert_eq!(slots(lanes.take_deliveries(THERE)), [0, 1, 2]);
        assert_eq!(lanes.outgoing(), [THERE]);
        assert_eq!(lanes.take_requests(THERE).len(), 1);
        assert!(lanes.outgoing().is_empty());
        lanes.check();
    }

    #[test]
    fn a_queue_is_full_at_its_bound_and_what_does_not_count_still_goes() {
        let mut lanes = Lanes::new(2, 2);
        lanes.push_request(THERE, rooms());
        lanes.push_request(THERE, Request::Settle { conn: conn(0) });
        assert!(!lanes.requests_full(THERE) && lanes.first_full().is_none());
        lanes.push_request(THERE, rooms());
        assert!(lanes.requests_full(THERE) && lanes.first_full() == Some(THERE));
        lanes.push_delivery(THERE, settled(0));
        assert!(!lanes.deliveries_full());
        lanes.push_delivery(THERE, settled(0));
        lanes.push_delivery(THERE, settled(0));
        assert!(lanes.deliveries_full());
        lanes.check();
        assert_eq!((lanes.take_deliveries(THERE).len(), lanes.deliveries_full()), (3, false));
        lanes.check();
    }

    #[test]
    fn who_waits_is_woken_in_order_and_only_as_room_appears() {
        let mut lanes = Lanes::new(2, 2);
        lanes.push_request(THERE, rooms());
        lanes.push_request(THERE, rooms());
        for slot in 0..5 {
            lanes.wait(conn(slot), Promise::Requests(THERE));
        }
        assert!(lanes.wake().is_none());
        let _ = lanes.take_requests(THERE);
        let woken = |lanes: &mut Lanes| lanes.wake().map(|(conn, _)| conn.slot);
        assert_eq!([woken(&mut lanes), woken(&mut lanes), woken(&mut lanes)], [Some(0), Some(1), None]);
        lanes.release(Promise::Requests(THERE));
        lanes.push_request(THERE, rooms());
        assert_eq!(woken(&mut lanes), None, "one place is taken, one promised");
        lanes.release(Promise::Requests(THERE));
        assert_eq!([woken(&mut lanes), woken(&mut lanes)], [Some(2), None]);
        let _ = lanes.take_requests(THERE);
        assert_eq!([woken(&mut lanes), woken(&mut lanes), woken(&mut lanes)], [Some(3), Some(4), None]);
        lanes.check();
    }

    #[test]
    fn who_waits_for_deliveries_is_woken_when_no_queue_is_full() {
        let mut lanes = Lanes::new(3, 1);
        lanes.push_delivery(THERE, settled(0));
        lanes.push_delivery(ShardId(2), settled(0));
        lanes.wait(conn(7), Promise::Deliveries);
        let _ = lanes.take_deliveries(THERE);
        assert!(lanes.wake().is_none());
        let _ = lanes.take_deliveries(ShardId(2));
        assert_eq!(lanes.wake(), Some((conn(7), Promise::Deliveries)));
        assert!(lanes.wake().is_none());
    }
}
