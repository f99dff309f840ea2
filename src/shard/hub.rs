//! Everything of a shard above the ring: the core, the connections' transports and outboxes.
//!
//! The hub is handed bytes and events and never touches a socket: what it wants of the ring it leaves in [`Due`],
//! which the loop works off at the end of each turn.

use std::sync::Arc;

use super::accept::Entropy;
use super::connection::{Connection, Connections, Transport};
use super::fanout::Encoder;
use super::gate::Gate;
use super::identity::Desk;
use super::outputs::FollowUps;
use super::pace::Load;
use super::tls::Handshakes;
use crate::chat::exchange::Refusal;
use crate::chat::operate::OrderReply;
use crate::chat::outbox::OutboxLimits;
use crate::chat::wheel::Wheel;
use crate::chat::{ConnKind, CoreConfig, Input, State};
use crate::clock::Time;
use crate::codec::lines;
use crate::config::{Auth, Config};
use crate::ids::ConnId;
use crate::limits::Limits;
use crate::message::close::CloseReason;
use crate::telemetry::log::Throttle;
use crate::telemetry::metrics::ShardMetrics;
use crate::tls::TlsConfigs;

/// One shard without its ring.
pub(super) struct Hub {
    pub(super) core: State,
    pub(super) connections: Connections,
    pub(super) encoder: Encoder,
    pub(super) due: Due,
    pub(super) follow_ups: FollowUps,
    /// Connections whose blocked command may be tried again.
    pub(super) unblocked: Vec<ConnId>,
    /// Deadlines of transports; those of sessions are the core's.
    pub(super) alarms: Wheel<(ConnId, Alarm)>,
    pub(super) metrics: &'static ShardMetrics,
    pub(super) limits: Limits,
    pub(super) outbox_limits: OutboxLimits,
    pub(super) admission: Arc<Admission>,
    pub(super) gate: Gate,
    pub(super) desk: Desk,
    /// Answers to operators, with tickets, that the loop passes on at the end of the turn.
    pub(super) answered: Vec<(u64, Result<OrderReply, Refusal>)>,
    pub(super) entropy: Entropy,
    /// Bounds log lines that peers cause.
    pub(super) throttle: Throttle,
    /// What is offered to those who connect from now on; `None` without TLS.
    pub(super) tls: Option<Arc<TlsConfigs>>,
    pub(super) handshakes: Handshakes,
    /// Time per turn that they may take.
    pub(super) handshake_budget_us: u64,
    /// Where bytes are decrypted to; empty between two reads.
    pub(super) plain: Vec<u8>,
    /// The time of this turn.
    pub(super) now: Time,
    pub(super) draining: bool,
}

/// What the hub wants of the ring.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Connections with something to write.
    pub(super) writes: Vec<ConnId>,
    /// Other wishes, in order.
    pub(super) wishes: Vec<Wish>,
    /// How much is being fanned out.
    pub(super) load: Load,
    /// Bytes in all outboxes.
    pub(super) outbox_bytes: usize,
}

/// Something for the ring to do with one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Stop reading.
    Pause(ConnId),
    /// Read again.
    Resume(ConnId),
    /// Send FIN and go on reading.
    FinishSending(ConnId),
    /// Close.
    Close(ConnId),
    /// Close with a reset, for the peer does not read.
    Reset(ConnId),
}

/// A deadline of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// The request head must have come.
    Handshake,
    /// The end must be over.
    End,
    /// The outbox must have made progress.
    Stall,
}

/// Who may come in over HTTP.
#[derive(Debug)]
pub(super) struct Admission {
    /// Whether the `Host` must be a loopback name: in open mode a page elsewhere could be made to resolve here
    /// (DNS rebinding).
    pub(super) host_must_be_loopback: bool,
    /// Origins that may connect beside the server's own.
    pub(super) allowed_origins: Vec<String>,
}

impl Admission {
    /// What the configuration says of it.
    pub(super) fn of(config: &Config) -> Self {
        let host_must_be_loopback = config.auth == Auth::Open && !config.allow_anonymous;
        Self { host_must_be_loopback, allowed_origins: config.allowed_origins.clone() }
    }
}

/// What a connection passes on its way in.
pub(super) struct Entrance {
    pub(super) gate: Gate,
    pub(super) desk: Desk,
    /// Absent without TLS.
    pub(super) tls: Option<Arc<TlsConfigs>>,
}

/// Where a connection was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// HTTP and WebSocket.
    Http,
    /// JSON lines.
    Lines,
}

impl Hub {
    /// An empty shard.
    pub(super) fn new(
        core: CoreConfig,
        config: &Config,
        entrance: Entrance,
        metrics: &'static ShardMetrics,
        now: Time,
    ) -> Self {
        let Entrance { gate, desk, tls } = entrance;
        Self {
            core: State::new(core),
            connections: Connections::default(),
            encoder: Encoder::default(),
            due: Due::default(),
            follow_ups: FollowUps::default(),
            unblocked: Vec::new(),
            alarms: Wheel::new(),
            metrics,
            outbox_limits: OutboxLimits::from(&config.limits),
            limits: config.limits.clone(),
            admission: Arc::new(Admission::of(config)),
            gate,
            desk,
            answered: Vec::new(),
            entropy: Entropy::new(),
            throttle: Throttle::default(),
            tls,
            handshakes: Handshakes::default(),
            handshake_budget_us: config.tls.handshake_budget.as_micros() as u64,
            plain: Vec::new(),
            now,
            draining: false,
        }
    }

    /// A peer was accepted.
    pub(super) fn accepted(&mut self, id: ConnId, port: Port) {
        let transport = match port {
            Port::Http => Transport::Http { head: Vec::new() },
            Port::Lines => Transport::ChatTcp(lines::Decoder::new()),
        };
        self.insert(Connection::new(id, transport, self.now));
        if self.tls.is_some() {
            return self.await_handshake(id, port);
        }
        match port {
            Port::Http => self.set_alarm(id, Alarm::Handshake, self.limits.handshake_timeout.as_millis() as u64),
            Port::Lines => {
                let kind = ConnKind::Chat { connect: None, ping_as_event: true };
                self.enter_core(id, kind);
            }
        }
    }

    pub(super) fn insert(&mut self, connection: Connection) {
        self.metrics.connections.of(connection.kind()).add(1);
        self.connections.insert(connection);
    }

    /// The transport's handshake is over.
    pub(super) fn enter_core(&mut self, id: ConnId, kind: ConnKind) {
        let entropy = self.entropy.next();
        if let Some(connection) = self.connections.get(id) {
            connection.flags.in_core = true;
        }
        let _ = self.core.handle(Input::Opened { conn: id, kind, entropy }, self.now);
        self.pump();
    }

    /// The connection's socket is closed, and its slot may be used again.
    pub(super) fn released(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.remove(id) {
            debug_assert!(!connection.flags.in_core, "the core is told when an end begins");
            self.due.outbox_bytes -= connection.outbox.queued_bytes();
            self.metrics.connections.of(connection.kind()).sub(1);
            self.gate.released(id);
        }
    }

    /// Works off deadlines that have come.
    pub(super) fn tick(&mut self) {
        self.alarms.advance(self.now.ms());
        while let Some((id, alarm)) = self.alarms.pop() {
            match alarm {
                Alarm::Handshake => self.handshake_timeout(id),
                Alarm::End => self.end_timeout(id),
                Alarm::Stall => self.stall_timeout(id),
            }
        }
        if self.core.next_deadline_ms().is_some_and(|deadline| deadline <= self.now.ms()) {
            let _ = self.core.handle(Input::Tick, self.now);
        }
        self.pump();
    }

    /// The next deadline, in monotonic milliseconds.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        match (self.core.next_deadline_ms(), self.alarms.next_deadline_ms()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    pub(super) fn set_alarm(&mut self, id: ConnId, alarm: Alarm, after_ms: u64) {
        self.alarms.schedule(self.now.ms() + after_ms, (id, alarm));
    }

    /// An outbox that does not move is watched from the first turn in which it did not.
    pub(super) fn watch_stall(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.flags.stall_watched {
            return;
        }
        connection.flags.stall_watched = true;
        self.set_alarm(id, Alarm::Stall, self.outbox_limits.stall_ms);
    }

    fn stall_timeout(&mut self, id: ConnId) {
        let now_ms = self.now.ms();
        let limits = self.outbox_limits;
        let Some(connection) = self.connections.get(id) else { return };
        connection.flags.stall_watched = false;
        match connection.outbox.stall_deadline_ms(&limits) {
            None => {}
            Some(deadline) if deadline > now_ms => {
                connection.flags.stall_watched = true;
                self.set_alarm(id, Alarm::Stall, deadline - now_ms);
            }
            Some(_) => {
                self.metrics.outbox_stalls_total.inc();
                self.end(id, CloseReason::SlowConsumer);
            }
        }
    }
}
