//! The loop of one shard: what happened, what follows from it, what is written, and sleep.
//!
//! The shard sleeps in one place only, its ring. Whatever may wake it arrives there as an event: sockets, the bell
//! of its mailbox, a timer for the next deadline. A turn is bounded, for one long turn is latency for everyone.

use std::sync::Arc;

use bytes::Bytes;

use super::accept::Acceptor;
use super::connection::Phase;
use super::hub::{Hub, Wish};
use super::mailbox::{Batch, Mailbox};
use super::pace::Beat;
use super::shutdown::{Control, Stage};
use super::store::StoreLine;
use crate::admin::Answers;
use crate::chat::outbox::Batch as Write;
use crate::chat::{Input, Request};
use crate::clock::Clock;
use crate::ids::{ConnId, ShardId};
use crate::message::close::CloseReason;
use crate::net::{Event, Outgoing, Ring};
use crate::telemetry::metrics::QueueKind;

/// One shard with its ring.
pub(super) struct Shard {
    pub(super) ring: Ring,
    pub(super) hub: Hub,
    pub(super) mailbox: Mailbox,
    pub(super) store: StoreLine,
    /// Where answers to operators go.
    pub(super) answers: Answers,
    pub(super) acceptor: Acceptor,
    pub(super) control: Arc<Control>,
    pub(super) clock: Clock,
    pub(super) beat: Beat,
    pub(super) turn: Turn,
}

/// What one turn leaves to the next.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Requests of a batch that could not all be taken.
    requests: Option<(ShardId, std::vec::IntoIter<Request>)>,
    /// Buffers for gathering small frames.
    pub(super) spare: Vec<Vec<u8>>,
    pub(super) stage: Stage,
    yielded_us: u64,
    /// Whether writes wait for the next beat.
    held_back: bool,
}

impl Shard {
    /// Runs until the server has stopped.
    pub(super) async fn run(mut self) -> std::io::Result<()> {
        loop {
            self.hub.now = self.clock.now();
            self.events();
            self.mail();
            self.settings();
            self.hub.hear_answers();
            self.store.hear(&mut self.hub);
            self.orders();
            if self.hub.next_deadline_ms().is_some_and(|deadline| deadline <= self.hub.now.ms()) {
                self.hub.tick();
            }
            self.retry_unblocked();
            self.follow_stage();
            self.post();
            self.store.send(&mut self.hub.core);
            self.answer_operators();
            self.write();
            self.handshakes()?;
            self.tokens()?;
            self.grant_wishes();
            self.hub.metrics.turn_us.record(self.clock.us().saturating_sub(self.hub.now.us));
            if self.turn.stage == Stage::Stopped {
                return Ok(());
            }
            self.enter()?;
            // Other tasks of this executor get their turn, but none that cares about latency may depend on it.
            if self.hub.now.us.saturating_sub(self.turn.yielded_us) >= YIELD_US {
                self.turn.yielded_us = self.hub.now.us;
                self.report();
                glommio::executor().yield_task_queue_now().await;
            }
        }
    }

    fn events(&mut self) {
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.ring.next_event() else { return };
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { conn, buffer } => {
                self.hub.received(conn, self.ring.bytes(&buffer));
                self.ring.give_back(buffer);
            }
            Event::Sent { conn, bytes } => {
                let len = bytes.as_slice().len();
                if let Outgoing::Gathered(buffer) = bytes
                    && self.turn.spare.len() < SPARE_MAX
                {
                    self.turn.spare.push(buffer);
                }
                self.hub.written(conn, len);
            }
            // It waits for its reader, and is watched from now on.
            Event::SendWaits { conn } => self.hub.watch_stall(conn),
            Event::ReceiveEnded { conn, why } => {
                self.hub.receive_ended(conn, why);
                self.hub.pump();
            }
            Event::SendFailed { conn, .. } => {
                self.hub.write_failed(conn);
                self.hub.pump();
            }
            Event::Released { conn } => {
                self.hub.released(conn);
                self.control.left(self.mailbox.post());
                self.acceptor.descriptor_freed(&mut self.ring);
            }
            Event::Accepted { listener, socket } => self.accepted(listener, socket),
            Event::AcceptEnded { listener, errno } => {
                if self.turn.stage == Stage::Running {
                    self.acceptor.ended(listener, errno, &mut self.ring, self.hub.metrics);
                }
            }
            Event::AcceptReady { listener } => {
                self.acceptor.refuse_waiting(listener, &mut self.ring, self.hub.metrics);
            }
            Event::Doorbell | Event::Timer => {}
            Event::Connected { .. } | Event::ConnectFailed { .. } => unreachable!("a shard connects nowhere"),
        }
    }

    /// Takes what other shards sent: deliveries always, requests while what follows from them has room.
    fn mail(&mut self) {
        if self.mailbox.is_alone() {
            return;
        }
        self.mailbox.retry();
        let (deliveries, requests) = self.mailbox.depth();
        self.hub.metrics.mailbox(QueueKind::Deliveries).set(deliveries as u64);
        self.hub.metrics.mailbox(QueueKind::Requests).set(requests as u64);
        for _ in 0..deliveries {
            let Some(Batch { from, sent_us, envelopes }) = self.mailbox.next_delivery() else { break };
            // Latency counts from when the message was read, there.
            let now = self.hub.now;
            self.hub.now.us = sent_us.min(now.us);
            for delivery in envelopes {
                let _ = self.hub.core.handle(Input::Delivery { from, delivery }, now);
                self.hub.pump();
            }
            self.hub.now = now;
        }
        self.take_requests();
    }

    fn take_requests(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            if !self.hub.core.takes_requests() {
                return;
            }
            let Some((from, requests)) = &mut self.turn.requests else {
                let Some(batch) = self.mailbox.next_request() else { return };
                self.turn.requests = Some((batch.from, batch.envelopes.into_iter()));
                continue;
            };
            let from = *from;
            let Some(request) = requests.next() else {
                self.turn.requests = None;
                continue;
            };
            let _ = self.hub.core.handle(Input::Request { from, request }, self.hub.now);
            self.hub.pump();
        }
    }

    /// Carries out what operators want, as far as there is room for what follows from it.
    fn orders(&mut self) {
        while self.hub.core.takes_requests()
            && let Some((ticket, order)) = self.mailbox.next_order()
        {
            let _ = self.hub.core.handle(Input::Order { ticket, order }, self.hub.now);
            self.hub.pump();
        }
    }

    /// Goes on with other settings.
    fn settings(&mut self) {
        while let Some(settings) = self.mailbox.next_settings() {
            self.hub.take_over(&settings);
        }
    }

    fn answer_operators(&mut self) {
        for (ticket, outcome) in self.hub.answered.drain(..) {
            self.answers.give(ticket, outcome);
        }
    }

    fn retry_unblocked(&mut self) {
        for id in std::mem::take(&mut self.hub.unblocked) {
            self.hub.retry(id);
        }
    }

    /// Sends what the core has for other shards. A batch goes out only when the last one is not stuck.
    fn post(&mut self) {
        if !self.hub.core.has_outgoing() {
            return;
        }
        let sent_us = self.hub.now.us;
        for to in (0..self.mailbox.shards()).map(ShardId) {
            if self.mailbox.can_deliver(to) {
                let deliveries = self.hub.core.take_deliveries(to);
                if !deliveries.is_empty() {
                    self.mailbox.deliver(to, deliveries, sent_us);
                }
            }
            if self.mailbox.can_request(to) {
                let requests = self.hub.core.take_requests(to);
                if !requests.is_empty() {
                    self.mailbox.request(to, requests, sent_us);
                }
            }
        }
        // Room in the queues may have unblocked connections.
        self.hub.pump();
    }

    /// Whether [`Shard::post`] would send something.
    fn can_post(&self) -> bool {
        self.hub.core.outgoing().iter().any(|&to| self.mailbox.can_deliver(to) && self.mailbox.can_request(to))
    }

    /// Hands the ring what is to be written, or waits for the next beat.
    pub(super) fn write(&mut self) {
        if self.hub.due.writes.is_empty() {
            return;
        }
        if !self.beat.writes_now(&mut self.hub.due.load, self.hub.now.us) {
            self.turn.held_back = true;
            return;
        }
        if std::mem::take(&mut self.turn.held_back) {
            self.hub.metrics.coalesced_total.add(self.hub.due.writes.len() as u64);
        }
        let now_us = self.clock.us();
        let mut writes = std::mem::take(&mut self.hub.due.writes);
        for id in writes.drain(..) {
            self.write_to(id, now_us);
        }
        self.hub.due.writes = writes;
    }

    fn write_to(&mut self, id: ConnId, now_us: u64) {
        let Some(connection) = self.hub.connections.get(id) else { return };
        connection.flags.dirty = false;
        if connection.phase == Phase::Closed || self.ring.is_sending(id) {
            return;
        }
        if connection.tls.is_some() {
            return self.write_sealed(id, now_us);
        }
        let bytes = if connection.unsent.is_empty() {
            let mut scratch = self.turn.spare.pop().unwrap_or_default();
            match connection.outbox.take_batch(&mut scratch) {
                Some(Write::Gathered) => Outgoing::Gathered(scratch),
                frame => {
                    self.turn.spare.push(scratch);
                    let Some(Write::Frame(frame)) = frame else { return };
                    connection.unsent = frame;
                    Outgoing::Frame(next_piece(&mut connection.unsent, PIECE_BYTES))
                }
            }
        } else {
            Outgoing::Frame(next_piece(&mut connection.unsent, PIECE_BYTES))
        };
        let metrics = self.hub.metrics;
        metrics.sends_total.inc();
        metrics.delivery_latency_us.record(now_us.saturating_sub(connection.queued_us));
        self.ring.send(id, bytes, connection.expects_nothing_more());
    }

    fn grant_wishes(&mut self) {
        for wish in std::mem::take(&mut self.hub.due.wishes) {
            match wish {
                Wish::Pause(id) => self.ring.pause(id),
                Wish::Resume(id) => self.ring.resume(id),
                Wish::FinishSending(id) => self.ring.finish_sending(id),
                Wish::Close(id) => self.ring.close(id),
                Wish::Reset(id) => {
                    self.ring.reset_on_close(id);
                    self.ring.close(id);
                }
            }
        }
    }

    /// Submits, and sleeps if there is nothing to do.
    fn enter(&mut self) -> std::io::Result<()> {
        let now = self.hub.now;
        if let Some(wake_us) = self.wake_us() {
            self.ring.wake_at(wake_us, now.us);
        }
        let bell = self.mailbox.bell();
        bell.prepare_sleep();
        let has_work = self.ring.has_work()
            || self.mailbox.has_work(self.hub.core.takes_requests())
            || self.turn.requests.is_some() && self.hub.core.takes_requests()
            || !self.hub.unblocked.is_empty()
            || !self.hub.due.wishes.is_empty()
            || !self.hub.handshakes.is_empty()
            || self.hub.desk.strangers.has_unchecked()
            || self.can_post()
            || self.mailbox.has_orders() && self.hub.core.takes_requests()
            || self.mailbox.has_settings()
            || self.hub.desk.has_answers()
            || self.store.has_work(&self.hub.core)
            || self.control.stage() != self.turn.stage
            || self.is_over();
        if !has_work {
            self.hub.metrics.sleeps_total.inc();
            self.report();
        }
        let result = self.ring.enter(!has_work);
        self.mailbox.bell().awake();
        result
    }

    /// When there is something to do even if nothing happens, in microseconds.
    fn wake_us(&self) -> Option<u64> {
        let deadline = self.hub.next_deadline_ms().map(|ms| ms * 1_000);
        let beat = (!self.hub.due.writes.is_empty()).then(|| self.beat.next_us());
        match (deadline, beat) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Figures that are looked up rather than counted, for the admin thread.
    fn report(&self) {
        let metrics = self.hub.metrics;
        let counts = self.hub.core.counts();
        metrics.rooms.set(counts.rooms as u64);
        metrics.audiences.set(counts.audiences as u64);
        metrics.redelivered_total.set(counts.redelivered);
        metrics.dead_letters_total.set(counts.dead_letters);
        let limited = [counts.limited.messages, counts.limited.bytes, counts.limited.joins, counts.limited.members];
        for (counter, refused) in metrics.limited_total.iter().zip(limited) {
            counter.set(refused);
        }
        metrics.token_cache_hits_total.set(self.hub.desk.cache_hits());
        metrics.token_queue.set(self.hub.desk.strangers.unchecked() as u64);
        metrics.outbox_bytes.set(self.hub.due.outbox_bytes as u64);
        metrics.enters_total.set(self.ring.enters());
        metrics.recv_buffers_exhausted_total.set(self.ring.starvations());
    }

    /// Follows the server from running over draining to its end.
    fn follow_stage(&mut self) {
        let stage = self.control.stage();
        if stage > self.turn.stage {
            self.turn.stage = stage;
            match stage {
                Stage::Running => {}
                Stage::Draining => {
                    self.acceptor.stop(&self.ring);
                    self.hub.drain(self.control.retry_after_max_ms());
                }
                Stage::Stopping | Stage::Stopped => self.hub.reset_all(),
            }
        }
        if self.is_over() {
            self.turn.stage = Stage::Stopped;
        }
    }

    fn is_over(&self) -> bool {
        self.turn.stage >= Stage::Draining
            && self.hub.connections.len() == 0
            && self.control.is_over()
            && (self.turn.stage >= Stage::Stopping || self.store.is_empty(&self.hub.core))
    }
}

impl Hub {
    /// The kernel has taken bytes of a connection.
    pub(super) fn written(&mut self, id: ConnId, len: usize) {
        self.metrics.bytes_out_total.add(len as u64);
        let now = self.now;
        let Some(connection) = self.connections.get(id) else { return };
        // The outbox counts what was said, the socket what was sent.
        let len = connection.tls.as_mut().map_or(len, |tls| tls.sent());
        connection.outbox.written(len, now.ms());
        self.due.outbox_bytes -= len;
        let has_more = connection.wants_more_writes();
        if has_more && !connection.flags.dirty {
            connection.flags.dirty = true;
            connection.queued_us = now.us;
            self.due.writes.push(id);
        }
        if !has_more && !self.due.load.was_high() {
            // Most connections are idle most of the time, and hold nothing then.
            connection.outbox.release();
        }
        let is_plain = connection.is_open() && connection.replays.is_empty() && !connection.outbox.has_gaps();
        if !is_plain {
            self.outbox_drained(id);
            self.flushed(id);
            self.pump();
        }
    }

    /// The server stops: says so to everyone.
    pub(super) fn drain(&mut self, retry_after_max_ms: u64) {
        self.draining = true;
        let _ = self.core.handle(Input::Drain { retry_after_max_ms }, self.now);
        self.pump();
        for id in self.connections.ids() {
            if self.connections.get(id).is_some_and(|connection| connection.is_before_handshake()) {
                self.end(id, CloseReason::Restart);
            }
        }
        self.pump();
    }
}

/// The next piece of a frame: a large one is written in pieces, so that a slow reader's progress shows.
pub(super) fn next_piece(unsent: &mut Bytes, bytes_max: usize) -> Bytes {
    if unsent.len() <= bytes_max {
        return std::mem::take(unsent);
    }
    unsent.split_to(bytes_max)
}

/// How often the executor's other tasks get a turn while the shard is awake.
const YIELD_US: u64 = 1_000;
const EVENTS_PER_TURN: usize = 2_048;
const REQUESTS_PER_TURN: usize = 4_096;
const SPARE_MAX: usize = 1_024;
const PIECE_BYTES: usize = 256 * 1024;
