//! How shards write to each other: batches over bounded flume queues, and a bell for a shard that sleeps.
//!
//! Each shard has two queues. *Deliveries* are always taken; *requests* are taken only while the deliveries that
//! follow from them have room. So two shards never wait for each other in a circle. A batch that does not fit
//! stays with its sender, which then takes no more from its core, and so holds up the connections that feed it;
//! the receiver rings it when there is room. Nothing is dropped.
//!
//! Both queues have many senders and one receiver, and keep the order of each sender. flume is a lock around a
//! deque, so a batch, not an envelope, is what pays for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use flume::{Receiver, Sender, TrySendError};

use super::reload::Settings;
use crate::chat::operate::Order;
use crate::chat::{Delivery, Request};
use crate::ids::ShardId;
use crate::limits::MAILBOX_BATCHES_MAX;
use crate::net::Doorbell;

/// Envelopes that one shard gathered for another in one turn.
#[derive(Debug)]
pub(super) struct Batch<T> {
    pub(super) from: ShardId,
    /// When it was sent, by the clock that all shards share.
    pub(super) sent_us: u64,
    pub(super) envelopes: Vec<T>,
}

/// An operator's order with the ticket for its answer.
type Numbered = (u64, Order);

/// The mailboxes of all shards. Made before the descriptor tables are split, so that every shard has every bell.
#[derive(Debug)]
pub(super) struct Post {
    inboxes: Box<[Inbox]>,
}

#[derive(Debug)]
struct Inbox {
    deliveries: Queue<Delivery>,
    requests: Queue<Request>,
    /// What operators want, with tickets; from the admin thread.
    orders: (Sender<Numbered>, Receiver<Numbered>),
    /// What has changed in the configuration; from the main thread.
    settings: (Sender<Arc<Settings>>, Receiver<Arc<Settings>>),
    bell: Doorbell,
    /// Senders that found a queue full, by shard, and whether there are any.
    waiting: Box<[AtomicBool]>,
    any_waiting: AtomicBool,
}

#[derive(Debug)]
struct Queue<T> {
    sender: Sender<Batch<T>>,
    receiver: Receiver<Batch<T>>,
}

impl Post {
    /// Empty mailboxes for `shards` shards.
    pub(super) fn new(shards: u16) -> std::io::Result<Self> {
        let inboxes = (0..shards).map(|_| Inbox::new(shards)).collect::<std::io::Result<_>>()?;
        Ok(Self { inboxes })
    }

    /// Gives a shard an operator's order; false when it has too many.
    pub(super) fn order(&self, shard: ShardId, ticket: u64, order: Order) -> bool {
        let inbox = &self.inboxes[shard.index()];
        let sent = inbox.orders.0.try_send((ticket, order)).is_ok();
        inbox.bell.ring();
        sent
    }

    /// Has every shard go on with other settings. Waits for a shard that has many to take.
    pub(super) fn tell_all(&self, settings: &Arc<Settings>) {
        for inbox in &self.inboxes {
            inbox.bell.ring();
            // Both ends are here.
            let _ = inbox.settings.0.send(settings.clone());
            inbox.bell.ring();
        }
    }

    /// Wakes one shard.
    pub(super) fn ring(&self, shard: ShardId) {
        self.inboxes[shard.index()].bell.ring();
    }

    /// Wakes every shard, for it to look at what is not in its mailbox.
    pub(super) fn ring_all(&self) {
        for inbox in &self.inboxes {
            inbox.bell.ring();
        }
    }
}

impl Inbox {
    fn new(shards: u16) -> std::io::Result<Self> {
        let capacity = MAILBOX_BATCHES_MAX * usize::from(shards);
        Ok(Self {
            deliveries: Queue::new(capacity),
            requests: Queue::new(capacity),
            orders: flume::bounded(ORDERS_MAX),
            settings: flume::bounded(SETTINGS_MAX),
            bell: Doorbell::new()?,
            waiting: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            any_waiting: AtomicBool::new(false),
        })
    }
}

impl<T> Queue<T> {
    fn new(capacity: usize) -> Self {
        let (sender, receiver) = flume::bounded(capacity);
        Self { sender, receiver }
    }
}

/// One shard's view of the post: its own inbox, and what it could not send yet.
#[derive(Debug)]
pub(super) struct Mailbox {
    post: Arc<Post>,
    shard: ShardId,
    stuck_deliveries: Vec<Option<Batch<Delivery>>>,
    stuck_requests: Vec<Option<Batch<Request>>>,
    stuck: usize,
}

impl Mailbox {
    /// The view of `shard`.
    pub(super) fn new(post: Arc<Post>, shard: ShardId) -> Self {
        let shards = post.inboxes.len();
        let stuck_deliveries = (0..shards).map(|_| None).collect();
        let stuck_requests = (0..shards).map(|_| None).collect();
        Self { post, shard, stuck_deliveries, stuck_requests, stuck: 0 }
    }

    /// How many shards there are.
    pub(super) fn shards(&self) -> u16 {
        self.post.inboxes.len() as u16
    }

    /// Whether there is no other shard to write to or hear from.
    pub(super) fn is_alone(&self) -> bool {
        self.post.inboxes.len() == 1
    }

    /// Everyone's inboxes.
    pub(super) fn post(&self) -> &Post {
        &self.post
    }

    /// The bell of this shard.
    pub(super) fn bell(&self) -> &Doorbell {
        &self.inbox().bell
    }

    /// Whether deliveries for `to` can be sent: none of them is stuck.
    pub(super) fn can_deliver(&self, to: ShardId) -> bool {
        self.stuck_deliveries[to.index()].is_none()
    }

    /// Whether requests to `to` can be sent: none of them is stuck.
    pub(super) fn can_request(&self, to: ShardId) -> bool {
        self.stuck_requests[to.index()].is_none()
    }

    /// Sends deliveries; only while [`Mailbox::can_deliver`].
    pub(super) fn deliver(&mut self, to: ShardId, envelopes: Vec<Delivery>, sent_us: u64) {
        let batch = Batch { from: self.shard, sent_us, envelopes };
        let refused = self.send(to, batch, |inbox| &inbox.deliveries.sender);
        self.stuck += usize::from(refused.is_some());
        self.stuck_deliveries[to.index()] = refused;
    }

    /// Sends requests; only while [`Mailbox::can_request`].
    pub(super) fn request(&mut self, to: ShardId, envelopes: Vec<Request>, sent_us: u64) {
        let batch = Batch { from: self.shard, sent_us, envelopes };
        let refused = self.send(to, batch, |inbox| &inbox.requests.sender);
        self.stuck += usize::from(refused.is_some());
        self.stuck_requests[to.index()] = refused;
    }

    /// Tries again to send what is stuck.
    pub(super) fn retry(&mut self) {
        if self.stuck == 0 {
            return;
        }
        for to in (0..self.shards()).map(ShardId) {
            if let Some(batch) = self.stuck_deliveries[to.index()].take() {
                self.stuck -= 1;
                self.deliver(to, batch.envelopes, batch.sent_us);
            }
            if let Some(batch) = self.stuck_requests[to.index()].take() {
                self.stuck -= 1;
                self.request(to, batch.envelopes, batch.sent_us);
            }
        }
    }

    /// The next batch of deliveries for this shard.
    pub(super) fn next_delivery(&mut self) -> Option<Batch<Delivery>> {
        let batch = self.inbox().deliveries.receiver.try_recv().ok()?;
        self.wake_waiting();
        Some(batch)
    }

    /// The next batch of requests to this shard.
    pub(super) fn next_request(&mut self) -> Option<Batch<Request>> {
        let batch = self.inbox().requests.receiver.try_recv().ok()?;
        self.wake_waiting();
        Some(batch)
    }

    /// The next order of an operator, and its ticket.
    pub(super) fn next_order(&mut self) -> Option<(u64, Order)> {
        self.inbox().orders.1.try_recv().ok()
    }

    /// Whether [`Mailbox::next_order`] has one.
    pub(super) fn has_orders(&self) -> bool {
        !self.inbox().orders.1.is_empty()
    }

    /// Settings to go on with.
    pub(super) fn next_settings(&mut self) -> Option<Arc<Settings>> {
        self.inbox().settings.1.try_recv().ok()
    }

    /// Whether [`Mailbox::next_settings`] has some.
    pub(super) fn has_settings(&self) -> bool {
        !self.inbox().settings.1.is_empty()
    }

    /// Batches that wait for this shard: deliveries and requests.
    pub(super) fn depth(&self) -> (usize, usize) {
        (self.inbox().deliveries.receiver.len(), self.inbox().requests.receiver.len())
    }

    /// Whether there is something to do: mail to take, or room for what is stuck. Looked at between
    /// [`Doorbell::prepare_sleep`] and sleeping. Requests count only if they would be taken.
    pub(super) fn has_work(&self, takes_requests: bool) -> bool {
        if self.is_alone() {
            return false;
        }
        let inbox = self.inbox();
        if !inbox.deliveries.receiver.is_empty() || (takes_requests && !inbox.requests.receiver.is_empty()) {
            return true;
        }
        self.stuck > 0
            && self.post.inboxes.iter().enumerate().any(|(to, inbox)| {
                (self.stuck_deliveries[to].is_some() && !inbox.deliveries.sender.is_full())
                    || (self.stuck_requests[to].is_some() && !inbox.requests.sender.is_full())
            })
    }

    fn inbox(&self) -> &Inbox {
        &self.post.inboxes[self.shard.index()]
    }

    /// Gives the batch back if there is no room.
    fn send<T>(&self, to: ShardId, batch: Batch<T>, queue: impl Fn(&Inbox) -> &Sender<Batch<T>>) -> Option<Batch<T>> {
        let inbox = &self.post.inboxes[to.index()];
        let batch = match queue(inbox).try_send(batch) {
            Ok(()) => {
                inbox.bell.ring();
                return None;
            }
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => batch,
        };
        // Ask to be rung, then try once more: the receiver either sees the wish or has made room before it.
        inbox.waiting[self.shard.index()].store(true, Ordering::Relaxed);
        inbox.any_waiting.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        match queue(inbox).try_send(batch) {
            Ok(()) => {
                inbox.bell.ring();
                None
            }
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => Some(batch),
        }
    }

    /// There is room again: rings those who found none.
    fn wake_waiting(&self) {
        fence(Ordering::SeqCst);
        let inbox = self.inbox();
        if !inbox.any_waiting.load(Ordering::Relaxed) || !inbox.any_waiting.swap(false, Ordering::SeqCst) {
            return;
        }
        for (sender, waiting) in inbox.waiting.iter().enumerate() {
            if waiting.swap(false, Ordering::Relaxed) {
                self.post.inboxes[sender].bell.ring();
            }
        }
    }
}

/// Orders of operators that may wait for one shard.
const ORDERS_MAX: usize = 64;
/// Settings that may wait for one shard.
const SETTINGS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;

    fn settled(slot: u32) -> Vec<Delivery> {
        vec![Delivery::Settled { conn: ConnId { slot, generation: 0 } }]
    }

    fn settle(slot: u32) -> Vec<Request> {
        vec![Request::Settle { conn: ConnId { slot, generation: 0 } }]
    }

    fn slot(batch: &Batch<Request>) -> u32 {
        match batch.envelopes[..] {
            [Request::Settle { conn }] => conn.slot,
            _ => panic!("{batch:?}"),
        }
    }

    fn pair() -> (Mailbox, Mailbox) {
        let post = Arc::new(Post::new(2).unwrap());
        (Mailbox::new(post.clone(), ShardId(0)), Mailbox::new(post, ShardId(1)))
    }

    /// Sends numbered requests until one is stuck; the answer is how many were sent, the stuck one included.
    fn fill(sender: &mut Mailbox) -> u32 {
        let mut sent = 0;
        while sender.can_request(ShardId(1)) {
            sender.request(ShardId(1), settle(sent), 0);
            sent += 1;
        }
        sent
    }

    #[test]
    fn a_sleeper_is_rung_and_one_that_is_awake_is_not() {
        let (mut sender, mut receiver) = pair();
        receiver.bell().prepare_sleep();
        sender.deliver(ShardId(1), settled(7), 0);
        assert!(!receiver.bell().ring(), "the bell has taken the mark away");
        assert!(receiver.has_work(false));
        assert_eq!(receiver.next_delivery().unwrap().from, ShardId(0));
        assert!(!receiver.has_work(true));
    }

    #[test]
    fn what_does_not_fit_stays_with_its_sender_and_keeps_its_place() {
        let (mut sender, mut receiver) = pair();
        let sent = fill(&mut sender);
        assert_eq!(sent as usize, 2 * MAILBOX_BATCHES_MAX + 1);
        assert!(sender.can_deliver(ShardId(1)), "a full queue of requests does not hold up deliveries");
        let mut seen = Vec::new();
        while seen.len() < sent as usize {
            seen.push(slot(&receiver.next_request().expect("room is used as soon as there is some")));
            sender.retry();
        }
        assert_eq!(seen, (0..sent).collect::<Vec<_>>());
        assert!(sender.can_request(ShardId(1)));
    }

    #[test]
    fn a_sender_that_found_no_room_is_rung_when_there_is_some() {
        let (mut sender, mut receiver) = pair();
        fill(&mut sender);
        sender.bell().prepare_sleep();
        assert!(!sender.has_work(true), "it may sleep while the queue is full");
        receiver.next_request().unwrap();
        assert!(!sender.bell().ring(), "the receiver has rung it");
        assert!(sender.has_work(true));
    }

    #[test]
    fn requests_wake_only_a_shard_that_takes_them() {
        let (mut sender, receiver) = pair();
        sender.request(ShardId(1), settle(1), 0);
        assert!(!receiver.has_work(false));
        assert!(receiver.has_work(true));
    }
}
