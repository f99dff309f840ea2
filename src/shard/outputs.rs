//! Carries out what the core wants: events go to outboxes, ends begin.

use std::collections::VecDeque;
use std::sync::Arc;

use super::connection::{Connection, Phase};
use super::fanout::{self, Encoder};
use super::hub::{Due, Hub};
use super::strangers::Purpose;
use crate::access::Identity;
use crate::chat::operate::{OrderReply, TransportView};
use crate::chat::outbox::{Kind, Pushed};
use crate::chat::{AudienceId, Input, Output, Refusal};
use crate::ids::ConnId;
use crate::message::close::{CloseReason, DropReason};
use crate::message::event::{Event, Reply};
use crate::telemetry::login::LoginOutcome;

/// What the core has to hear once its outputs are worked off.
#[derive(Debug, Default)]
pub(super) struct FollowUps {
    queue: VecDeque<FollowUp>,
}

#[derive(Debug)]
enum FollowUp {
    Closed(ConnId, CloseReason),
    ReplayReady(ConnId, AudienceId),
    Identified(ConnId, Result<Arc<Identity>, Refusal>),
    Consulted(ConnId, Result<(), Refusal>),
    /// Not for the core: what it answers to what came before is queued by then.
    End(ConnId, CloseReason),
}

impl FollowUps {
    /// It is known who a connection is, or what its client is told.
    pub(super) fn identified(&mut self, conn: ConnId, outcome: Result<Arc<Identity>, Refusal>) {
        self.queue.push_back(FollowUp::Identified(conn, outcome));
    }

    /// It is known whether a command goes on.
    pub(super) fn consulted(&mut self, conn: ConnId, verdict: Result<(), Refusal>) {
        self.queue.push_back(FollowUp::Consulted(conn, verdict));
    }

    /// Ends a connection, once it was told what came before.
    pub(super) fn end(&mut self, conn: ConnId, reason: CloseReason) {
        self.queue.push_back(FollowUp::End(conn, reason));
    }
}

impl Hub {
    /// Works off the core's outputs until there are none.
    pub(super) fn pump(&mut self) {
        loop {
            while let Some(output) = self.core.poll_output() {
                self.apply(output);
            }
            let Some(next) = self.follow_ups.queue.pop_front() else { return };
            let input = match next {
                FollowUp::Closed(conn, reason) => Input::Closed { conn, reason },
                FollowUp::ReplayReady(conn, audience) => Input::ReplayReady { conn, audience },
                FollowUp::Identified(conn, outcome) => Input::Identified { conn, outcome },
                FollowUp::Consulted(conn, verdict) => Input::Consulted { conn, verdict },
                FollowUp::End(conn, reason) => {
                    self.end(conn, reason);
                    continue;
                }
            };
            let _ = self.core.handle(input, self.now);
        }
    }

    fn apply(&mut self, output: Output) {
        match output {
            Output::Send { conn, event } => self.send(conn, &event),
            Output::Fanout { audience, event, except } => self.fan_out(audience, &event, except),
            Output::ReplayChunk { conn, audience, messages, attempt } => {
                for message in messages {
                    let event = match attempt {
                        0 | 1 => Event::Message(message),
                        attempt => Event::Redelivered { message, attempt },
                    };
                    self.send(conn, &event);
                }
                self.replay_chunk_queued(conn, audience);
            }
            Output::Ping { conn } => self.push_control(conn, PING_FRAME),
            Output::Close { conn, reason } => self.end(conn, reason),
            Output::Identify { conn, token, name, refresh, resumes } => {
                let purpose = match (refresh, resumes) {
                    (true, _) => Purpose::Refresh,
                    (_, true) => Purpose::Resume,
                    _ => Purpose::Connect,
                };
                self.identify(conn, token.as_deref(), name.as_deref(), purpose);
            }
            Output::Consult { conn, question } => self.consult(conn, question),
            Output::Noted(note) => self.note(&note),
            Output::Unblocked { conn } => self.unblocked.push(conn),
            Output::Answered { ticket, outcome } => self.answer_operator(ticket, outcome),
        }
    }

    /// Passes an answer on, with what only the shell knows of connections.
    fn answer_operator(&mut self, ticket: u64, mut outcome: Result<OrderReply, Refusal>) {
        if let Ok(OrderReply::Connections { connections, .. }) = &mut outcome {
            for view in connections {
                let connection = self.connections.get(view.conn);
                view.transport = connection.map(|connection| TransportView {
                    kind: connection.kind().label(),
                    since_unix_s: connection.since_unix_s.into(),
                    address: self.gate.address(view.conn),
                });
            }
        }
        self.answered.push((ticket, outcome));
    }

    /// Tells the core that a connection is gone, after its outputs so far.
    pub(super) fn leave_core(&mut self, conn: ConnId, reason: CloseReason) {
        self.follow_ups.queue.push_back(FollowUp::Closed(conn, reason));
    }

    /// Sends one event to one connection.
    pub(super) fn send(&mut self, id: ConnId, event: &Event) {
        match event {
            Event::Error { code, .. } => self.metrics.error(*code),
            Event::Welcome { .. } => self.metrics.login(LoginOutcome::Ok),
            _ => {}
        }
        let Some(connection) = self.connections.get(id).filter(|connection| connection.is_open()) else { return };
        if connection.outbox.has_gaps() && ends_or_renews(event) {
            // What was skipped is told before a reply that may end or renew a membership, or before a later gap.
            while let Some(gap) = self.connections.get(id).and_then(|connection| connection.outbox.take_gap()) {
                self.send_plain(id, &Event::Gap { room: gap.room, from: gap.from, to: gap.to });
            }
        }
        self.send_plain(id, event);
    }

    fn send_plain(&mut self, id: ConnId, event: &Event) {
        let Some(connection) = self.connections.get(id).filter(|connection| connection.is_open()) else { return };
        let bytes = self.encoder.frames(event).bytes(connection.encoding());
        let kind = fanout::kind(event);
        if matches!(kind, Kind::Message { .. } | Kind::Signal) {
            self.metrics.messages_out_total.inc();
        }
        let pushed = connection.push(bytes, kind, &mut self.due, self.outbox_limits, self.now);
        self.pushed(id, kind, pushed);
    }

    /// Queues bytes that are neither a message nor encoded from an event.
    pub(super) fn push_control(&mut self, id: ConnId, frame: &'static [u8]) {
        let Some(connection) = self.connections.get(id).filter(|connection| connection.is_open()) else { return };
        let frame = bytes::Bytes::from_static(frame);
        let pushed = connection.push(frame, Kind::Control, &mut self.due, self.outbox_limits, self.now);
        self.pushed(id, Kind::Control, pushed);
    }

    fn fan_out(&mut self, audience: AudienceId, event: &Event, except: Option<ConnId>) {
        let Self { core, connections, encoder, due, outbox_limits, metrics, now, .. } = self;
        let members = core.audience(audience);
        let kind = fanout::kind(event);
        let mut frames = Encoder::frames(encoder, event);
        let (mut queued, mut refused) = (0, Vec::new());
        for &member in members {
            if Some(member) == except {
                continue;
            }
            let Some(connection) = connections.get(member).filter(|connection| connection.is_open()) else { continue };
            let bytes = frames.bytes(connection.encoding());
            match connection.push(bytes, kind, due, *outbox_limits, *now) {
                Pushed::Queued => queued += 1,
                pushed => refused.push((member, pushed)),
            }
        }
        if matches!(event, Event::Message(_) | Event::Signal(_) | Event::Relay(_)) {
            metrics.fanout_size.record(queued);
            metrics.messages_out_total.add(queued);
        }
        due.load.fanned_out(queued);
        for (member, pushed) in refused {
            self.pushed(member, kind, pushed);
        }
    }

    /// Draws the consequences of what an outbox said.
    pub(super) fn pushed(&mut self, id: ConnId, kind: Kind<'_>, pushed: Pushed) {
        match (pushed, kind) {
            (Pushed::Queued, _) => {}
            (Pushed::Skipped, Kind::Signal) => self.metrics.dropped(DropReason::SignalSkipped, 1),
            (Pushed::Skipped, _) => self.metrics.dropped(DropReason::Skipped, 1),
            (Pushed::Overflow, _) => self.end(id, CloseReason::SlowConsumer),
        }
    }

    /// Goes on with a replay now, or when the outbox is half empty.
    fn replay_chunk_queued(&mut self, id: ConnId, audience: AudienceId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.outbox.is_below_half(&self.outbox_limits) {
            self.follow_ups.queue.push_back(FollowUp::ReplayReady(id, audience));
        } else {
            connection.replays.push(audience);
        }
    }

    /// The outbox has become shorter: goes on with replays, and tells what was skipped.
    pub(super) fn outbox_drained(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.phase != Phase::Open || !connection.outbox.is_below_half(&self.outbox_limits) {
            return;
        }
        for audience in std::mem::take(&mut connection.replays) {
            self.follow_ups.queue.push_back(FollowUp::ReplayReady(id, audience));
        }
        while let Some(gap) = self.connections.get(id).and_then(|c| c.outbox.next_gap(&self.outbox_limits)) {
            self.send(id, &Event::Gap { room: gap.room, from: gap.from, to: gap.to });
        }
    }
}

impl Connection {
    /// Queues a frame and puts the connection on the list of those to be written.
    #[inline]
    pub(super) fn push(
        &mut self,
        frame: bytes::Bytes,
        kind: Kind<'_>,
        due: &mut Due,
        limits: crate::chat::outbox::OutboxLimits,
        now: crate::clock::Time,
    ) -> Pushed {
        let bytes = frame.len();
        let pushed = self.outbox.push(frame, kind, &limits, now.ms());
        if pushed == Pushed::Queued {
            due.outbox_bytes += bytes;
        }
        if pushed == Pushed::Queued && !self.flags.dirty {
            self.flags.dirty = true;
            self.queued_us = now.us;
            due.writes.push(self.id);
        }
        pushed
    }
}

/// Whether the event may end or renew a membership, or is a gap that the core tells.
fn ends_or_renews(event: &Event) -> bool {
    matches!(event, Event::Ok { body: Reply::Done | Reply::Joined(_), .. } | Event::Gap { .. } | Event::Kicked { .. })
}

/// A ping without payload (RFC 6455, section 5.5.2), as a server sends it.
const PING_FRAME: &[u8] = &[0x89, 0x00];
