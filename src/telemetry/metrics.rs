//! What is counted, per shard, by the store and by the hooks. One shard's thread writes a [`ShardMetrics`]; the admin thread reads them all.
//!
//! Invariant: one writer. So an addition is a load and a store, neither locked nor fenced, and costs the hot path
//! what a plain field would. Readers may see figures of slightly different moments.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::message::close::{CloseReason, DropReason, ErrorCode};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::hooks::HookMetrics;
use crate::telemetry::keys::KeyMetrics;
use crate::telemetry::login::LoginOutcome;
use crate::telemetry::store::StoreMetrics;

/// All shards' figures.
#[derive(Debug)]
pub struct Metrics {
    /// One entry per shard, in their order.
    pub shards: Box<[ShardMetrics]>,
    /// Those of the store.
    pub store: StoreMetrics,
    /// Those of the keys for tokens.
    pub keys: KeyMetrics,
    /// Those of the hooks.
    pub hooks: HookMetrics,
}

impl Metrics {
    /// Zeroed figures for so many shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self {
            shards: (0..shards).map(|_| ShardMetrics::default()).collect(),
            store: StoreMetrics::default(),
            keys: KeyMetrics::default(),
            hooks: HookMetrics::new(shards),
        }
    }
}

/// The limits of [`ShardMetrics::limited_total`].
pub const LIMITED: [&str; 4] = ["messages", "bytes", "joins", "room_members"];

/// The figures of one shard. Aligned so that two shards never write to one cache line, nor to a pair of lines that
/// the prefetcher takes together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// The thread that runs it; 0 before it runs. No metric.
    pub thread: Gauge,
    /// Open connections, by [`ConnectionKind`].
    pub connections: PerKind<Gauge>,
    /// Connections accepted.
    pub accepted_total: Counter,
    /// Connections refused at once, by [`RefusedReason`].
    pub refused_total: [Counter; RefusedReason::ALL.len()],
    /// What came of `connect`s, by [`LoginOutcome`].
    pub logins_total: [Counter; LoginOutcome::ALL.len()],
    /// Tokens that needed no look at their signature, for they had been looked at before.
    pub token_cache_hits_total: Counter,
    /// Connections ended, in the order of [`CloseReason::ALL`].
    pub closed_total: [Counter; CloseReason::ALL.len()],
    /// Commands refused, in the order of [`ErrorCode::ALL`].
    pub errors_total: [Counter; ErrorCode::ALL.len()],
    /// Commands refused because there were too many, by [`LIMITED`].
    pub limited_total: [Counter; LIMITED.len()],
    /// Messages left undelivered on purpose, in the order of [`DropReason::ALL`].
    pub dropped_total: [Counter; DropReason::ALL.len()],
    /// Rooms that this shard owns.
    pub rooms: Gauge,
    /// Rooms that connections of this shard are in.
    pub audiences: Gauge,
    /// Messages and signals read from connections, the relay's included.
    pub messages_in_total: Counter,
    /// Messages and signals written to connections, once for each receiver.
    pub messages_out_total: Counter,
    /// Messages sent to consumers more than once, each time.
    pub redelivered_total: Counter,
    /// Messages given up because a consumer did not acknowledge them however often they were sent.
    pub dead_letters_total: Counter,
    /// Bytes read from sockets.
    pub bytes_in_total: Counter,
    /// Bytes written to sockets.
    pub bytes_out_total: Counter,
    /// Receivers of one message on this shard.
    pub fanout_size: Histogram,
    /// From reading a message to handing it to the receiver's socket, in microseconds.
    pub delivery_latency_us: Histogram,
    /// Bytes waiting for slow readers.
    pub outbox_bytes: Gauge,
    /// Times a connection's outbox was found full.
    pub outbox_stalls_total: Counter,
    /// Batches taken from the mailbox at the last look, by [`QueueKind`].
    pub mailbox_depth: [Gauge; QueueKind::ALL.len()],
    /// Times a connection was not read because a queue to another shard was full.
    pub blocked_total: Counter,
    /// Length of one turn of the loop, in microseconds.
    pub turn_us: Histogram,
    /// Times the shard went to sleep.
    pub sleeps_total: Counter,
    /// Calls of `io_uring_enter`.
    pub enters_total: Counter,
    /// Writes given to the kernel.
    pub sends_total: Counter,
    /// Times the ring had no receive buffer left.
    pub recv_buffers_exhausted_total: Counter,
    /// Writes that waited so as to carry more.
    pub coalesced_total: Counter,
    /// Tokens that waited for their signature to be checked at the last look.
    pub token_queue: Gauge,
    /// Handshakes of TLS that are over, by [`TlsOutcome`].
    pub tls_handshakes_total: [Counter; TlsOutcome::ALL.len()],
    /// Connections that waited for their turn in a handshake at the last look.
    pub tls_handshake_queue: Gauge,
    /// Time that one step of a handshake took, in microseconds.
    pub tls_handshake_us: Histogram,
}

impl ShardMetrics {
    /// A connection ended.
    pub fn closed(&self, reason: CloseReason) {
        self.closed_total[reason as usize].inc();
    }

    /// A command was refused.
    pub fn error(&self, code: ErrorCode) {
        self.errors_total[code as usize].inc();
    }

    /// So many messages were left undelivered.
    pub fn dropped(&self, reason: DropReason, messages: u64) {
        self.dropped_total[reason as usize].add(messages);
    }

    /// A connection was refused at once.
    pub fn refused(&self, reason: RefusedReason) {
        self.refused_total[reason as usize].inc();
    }

    /// A handshake of TLS is over.
    pub fn tls_handshake(&self, outcome: TlsOutcome) {
        self.tls_handshakes_total[outcome as usize].inc();
    }

    /// Someone has said who they are.
    pub fn login(&self, outcome: LoginOutcome) {
        self.logins_total[outcome as usize].inc();
    }

    /// The depth of one of the mailbox's queues.
    #[must_use]
    pub fn mailbox(&self, queue: QueueKind) -> &Gauge {
        &self.mailbox_depth[queue as usize]
    }
}

/// A figure that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        add(&self.0, n);
    }

    /// Takes over what was counted elsewhere.
    pub fn set(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    /// The figure now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A figure that rises and falls. Never below zero.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        add(&self.0, n);
    }

    /// Takes `n` away.
    pub fn sub(&self, n: u64) {
        let value = self.0.load(Ordering::Relaxed);
        debug_assert!(value >= n, "a gauge fell below zero: {value} - {n}");
        self.0.store(value.saturating_sub(n), Ordering::Relaxed);
    }

    /// The figure now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One figure for each [`ConnectionKind`].
#[derive(Debug, Default)]
pub struct PerKind<T>([T; ConnectionKind::ALL.len()]);

impl<T> PerKind<T> {
    /// The figure for one kind.
    #[must_use]
    pub fn of(&self, kind: ConnectionKind) -> &T {
        &self.0[kind as usize]
    }
}

/// What a connection is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// HTTP, before an upgrade or without one.
    Http,
    /// The chat protocol over WebSocket.
    ChatWs,
    /// The chat protocol over TCP.
    ChatTcp,
    /// The relay.
    Relay,
}

impl ConnectionKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Http, Self::ChatWs, Self::ChatTcp, Self::Relay];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::ChatWs => "chat_ws",
            Self::ChatTcp => "chat_tcp",
            Self::Relay => "relay",
        }
    }
}

/// Why a connection was refused before its first command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedReason {
    /// The shard's table of descriptors is full.
    Descriptors,
    /// `max_connections` are open.
    MaxConnections,
    /// The server stops.
    Draining,
    /// Its address has as many connections as it may.
    ConnectionsPerIp,
    /// Its user has as many connections as they may.
    ConnectionsPerUser,
    /// Connections come too fast.
    ConnectsPerSecond,
    /// Its address opens connections too fast.
    ConnectsPerSecondPerIp,
    /// Only proxies may connect, and it is none.
    NotAProxy,
    /// The PROXY header was missing or wrong.
    ProxyHeader,
}

impl RefusedReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Descriptors,
        Self::MaxConnections,
        Self::Draining,
        Self::ConnectionsPerIp,
        Self::ConnectionsPerUser,
        Self::ConnectsPerSecond,
        Self::ConnectsPerSecondPerIp,
        Self::NotAProxy,
        Self::ProxyHeader,
    ];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::MaxConnections => "max_connections",
            Self::Draining => "draining",
            Self::ConnectionsPerIp => "connections_per_ip",
            Self::ConnectionsPerUser => "connections_per_user",
            Self::ConnectsPerSecond => "connects_per_second",
            Self::ConnectsPerSecondPerIp => "connects_per_second_per_ip",
            Self::NotAProxy => "not_a_proxy",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

/// How a handshake of TLS ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsOutcome {
    /// Well, with new keys.
    Full,
    /// Well, by a ticket.
    Resumed,
    /// The peer broke the protocol, refused the certificate, or nothing could be agreed on.
    Failed,
    /// The peer did not speak TLS.
    Plaintext,
    /// It had more bytes than any honest one.
    TooLarge,
    /// It took too long.
    Timeout,
    /// The peer went away.
    Gone,
}

impl TlsOutcome {
    /// Every outcome.
    pub const ALL: [Self; 7] =
        [Self::Full, Self::Resumed, Self::Failed, Self::Plaintext, Self::TooLarge, Self::Timeout, Self::Gone];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
            Self::Plaintext => "plaintext",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Gone => "gone",
        }
    }
}

/// A queue between two shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// What must always be taken.
    Deliveries,
    /// What is taken while there is room for what it leads to.
    Requests,
}

impl QueueKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Deliveries, Self::Requests];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Deliveries => "deliveries",
            Self::Requests => "requests",
        }
    }
}

/// Adds to a figure that only this thread writes.
pub(super) fn add(figure: &AtomicU64, n: u64) {
    figure.store(figure.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_at_the_index_of_their_name() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index);
        }
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        assert_eq!(ConnectionKind::ALL.map(|kind| kind as usize), [0, 1, 2, 3]);
        assert_eq!(RefusedReason::ALL.map(|reason| reason as usize), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(TlsOutcome::ALL.map(|outcome| outcome as usize), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(QueueKind::ALL.map(|queue| queue as usize), [0, 1]);
    }

    #[test]
    fn shards_do_not_share_cache_lines() {
        assert_eq!(align_of::<ShardMetrics>(), 128);
        assert_eq!(size_of::<ShardMetrics>() % 128, 0);
    }

    #[test]
    fn gauges_rise_and_fall() {
        let metrics = ShardMetrics::default();
        metrics.connections.of(ConnectionKind::Relay).add(3);
        metrics.connections.of(ConnectionKind::Relay).sub(2);
        metrics.mailbox(QueueKind::Requests).set(7);
        assert_eq!(metrics.connections.of(ConnectionKind::Relay).get(), 1);
        assert_eq!(metrics.connections.of(ConnectionKind::Http).get(), 0);
        assert_eq!(metrics.mailbox(QueueKind::Requests).get(), 7);
    }
}
