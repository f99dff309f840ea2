//! New connections: taken in, or refused in a way that the peer understands.
//!
//! A refused peer gets a 503, or over TCP an error line, and never costs more than a few calls. When the
//! descriptor table is full, a descriptor kept for the purpose is given up for a moment to say so; accepting goes
//! on by itself once a connection has left.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::gate::Arrival;
use super::hub::Port;
use super::shutdown::Stage;
use super::turn::Shard;
use crate::codec::http::{HttpError, Status};
use crate::codec::json;
use crate::message::close::ErrorCode;
use crate::message::event::Event;
use crate::net::{ListenerId, Ring, socket};
use crate::telemetry::metrics::{RefusedReason, ShardMetrics};

/// The listeners of a shard, and what accepting has come to.
#[derive(Debug)]
pub(super) struct Acceptor {
    ports: Vec<Port>,
    /// Connections that this shard's descriptor table has room for.
    connections_max: usize,
    /// Listeners that stopped because there were no descriptors.
    exhausted: Vec<ListenerId>,
    /// Kept open to be given up when there is no other descriptor.
    reserve: Option<File>,
}

impl Acceptor {
    /// An acceptor without listeners, for at most `connections_max` connections.
    pub(super) fn new(connections_max: usize) -> std::io::Result<Self> {
        Ok(Self { ports: Vec::new(), connections_max, exhausted: Vec::new(), reserve: Some(open_reserve()?) })
    }

    /// Starts accepting on a listening socket.
    pub(super) fn listen(&mut self, socket: OwnedFd, port: Port, ring: &mut Ring) {
        let id = ring.listen(socket);
        debug_assert_eq!(id.0 as usize, self.ports.len());
        self.ports.push(port);
    }

    /// What is spoken on a listener.
    pub(super) fn port(&self, listener: ListenerId) -> Port {
        self.ports[listener.0 as usize]
    }

    /// Stops listening for good.
    pub(super) fn stop(&mut self, ring: &Ring) {
        self.exhausted.clear();
        for listener in 0..self.ports.len() {
            socket::stop_listening(&ring.listener(ListenerId(listener as u32)));
        }
    }

    /// Accepting has stopped. Without descriptors it waits for one; anything else is tried again.
    pub(super) fn ended(&mut self, listener: ListenerId, errno: i32, ring: &mut Ring, metrics: &ShardMetrics) {
        if matches!(errno, libc::EMFILE | libc::ENFILE) {
            self.exhausted.push(listener);
            self.refuse_waiting(listener, ring, metrics);
        } else {
            // A peer that has gone before it was accepted (accept(2)), or memory that is short for a moment.
            ring.accept(listener);
        }
    }

    /// A descriptor is free again: goes on accepting.
    pub(super) fn descriptor_freed(&mut self, ring: &mut Ring) {
        while let Some(listener) = self.exhausted.pop() {
            ring.accept(listener);
        }
    }

    /// Refuses those who wait on a listener for which there are no descriptors, and asks to be told of the next.
    pub(super) fn refuse_waiting(&mut self, listener: ListenerId, ring: &mut Ring, metrics: &ShardMetrics) {
        if !self.exhausted.contains(&listener) {
            return;
        }
        for _ in 0..REFUSED_AT_ONCE {
            let socket = ring.listener(listener);
            if !is_readable(&socket) {
                break;
            }
            self.reserve = None;
            if let Ok(peer) = rustix::net::accept(socket) {
                metrics.refused(RefusedReason::Descriptors);
                refuse(&peer, self.port(listener), RefusedReason::Descriptors);
            }
            self.reserve = open_reserve().ok();
        }
        ring.watch(listener);
    }
}

impl Shard {
    /// A peer connected.
    pub(super) fn accepted(&mut self, listener: ListenerId, socket: OwnedFd) {
        let port = self.acceptor.port(listener);
        let refused = if self.turn.stage != Stage::Running {
            Some(RefusedReason::Draining)
        } else if self.ring.connections() >= self.acceptor.connections_max {
            Some(RefusedReason::Descriptors)
        } else if !self.control.enter() {
            Some(RefusedReason::MaxConnections)
        } else {
            None
        };
        if let Some(reason) = refused {
            self.hub.refused(reason, None);
            refuse(&socket, port, reason);
            return;
        }
        match self.arrival(&socket, port) {
            Some(arrival) => {
                self.hub.metrics.accepted_total.inc();
                let has_proxy_header = arrival.has_proxy_header;
                let id = self.ring.adopt(socket);
                self.hub.gate.keep(id, arrival);
                if has_proxy_header {
                    self.hub.await_proxy_header(id, port);
                } else {
                    self.hub.accepted(id, port);
                }
            }
            None => self.control.left(self.mailbox.post()),
        }
    }

    /// Asks the gate. `None` when the peer is refused, and has been told so, or is gone already.
    fn arrival(&mut self, socket: &OwnedFd, port: Port) -> Option<Arrival> {
        let address =
            if self.hub.gate.needs_addresses() { Some(socket::peer_address(socket).ok()?.ip()) } else { None };
        let arrival = self.hub.gate.arrive(address, self.hub.now.us);
        arrival
            .inspect_err(|&reason| {
                self.hub.refused(reason, address);
                refuse(socket, port, reason);
            })
            .ok()
    }
}

/// Fresh random bits, fetched from the kernel for many connections at once.
#[derive(Debug)]
pub(super) struct Entropy {
    pool: [u8; ENTROPY_POOL_BYTES],
    used: usize,
}

impl Entropy {
    /// An empty pool.
    pub(super) fn new() -> Self {
        Self { pool: [0; ENTROPY_POOL_BYTES], used: ENTROPY_POOL_BYTES }
    }

    /// 128 bits that nobody else has seen.
    pub(super) fn next(&mut self) -> u128 {
        if self.used == ENTROPY_POOL_BYTES {
            getrandom::fill(&mut self.pool).expect("the kernel gives random bytes once it has booted");
            self.used = 0;
        }
        let mut bits = [0; 16];
        let taken = &mut self.pool[self.used..self.used + 16];
        bits.copy_from_slice(taken);
        taken.fill(0);
        self.used += 16;
        u128::from_ne_bytes(bits)
    }
}

/// Tells a peer why it may not come in, without ever waiting for it.
fn refuse(peer: &OwnedFd, port: Port, reason: RefusedReason) {
    // Whatever fails here, the peer is gone.
    let _ = rustix::net::send(peer, refusal(reason, port), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(peer, Shutdown::Write);
    // A close with bytes unread is a reset, which may overtake the answer.
    let mut unread = [0u8; 4096];
    let _ = rustix::net::recv(peer, &mut unread, RecvFlags::DONTWAIT);
}

/// What a peer is told that may not come in: a whole response, or a line.
pub(super) fn refusal(reason: RefusedReason, port: Port) -> &'static [u8] {
    let (response, line) = &REFUSALS[reason as usize];
    match port {
        Port::Http => response,
        Port::Lines => line,
    }
}

/// The answers, written once: a flood of refused connections costs no formatting.
static REFUSALS: LazyLock<[(Vec<u8>, Vec<u8>); RefusedReason::ALL.len()]> = LazyLock::new(|| {
    RefusedReason::ALL.map(|reason| {
        let (status, code, text) = terms(reason);
        let mut response = Vec::new();
        HttpError::new(status, text).write(false, &mut response);
        let mut line = Vec::new();
        json::encode(&Event::Error { id: None, code, message: text.into() }, &mut line);
        line.push(b'\n');
        (response, line)
    })
});

/// How a refusal is said: over HTTP, over TCP, and to people.
fn terms(reason: RefusedReason) -> (Status, ErrorCode, &'static str) {
    use RefusedReason as R;
    match reason {
        R::Descriptors | R::MaxConnections | R::Draining => (
            Status::ServiceUnavailable,
            ErrorCode::Overloaded,
            "no room for another connection now: try again in a few seconds",
        ),
        R::ConnectionsPerIp => (
            Status::ServiceUnavailable,
            ErrorCode::Overloaded,
            "this address has as many connections as it may: close one first",
        ),
        R::ConnectionsPerUser => (
            Status::ServiceUnavailable,
            ErrorCode::Overloaded,
            "this user has as many connections as they may: close one first",
        ),
        R::ConnectsPerSecond => (
            Status::TooManyRequests,
            ErrorCode::RateLimited,
            "too many connections are being opened: try again in a second",
        ),
        R::ConnectsPerSecondPerIp => (
            Status::TooManyRequests,
            ErrorCode::RateLimited,
            "this address opens connections too fast: try again in a second",
        ),
        R::NotAProxy => (
            Status::Forbidden,
            ErrorCode::Forbidden,
            "connections come through a proxy here; the operator may name more in trusted_proxies",
        ),
        R::ProxyHeader => (
            Status::BadRequest,
            ErrorCode::BadRequest,
            "the connection must begin with a PROXY header, as proxy_protocol says",
        ),
    }
}

fn is_readable(socket: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

fn open_reserve() -> std::io::Result<File> {
    File::open("/dev/null")
}

/// Peers refused in one go before others get their turn.
const REFUSED_AT_ONCE: usize = 64;
const ENTROPY_POOL_BYTES: usize = 1_024;
