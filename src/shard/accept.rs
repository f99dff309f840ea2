//! New connections: taken in, or refused in a way that the peer understands.
//!
//! A refused peer gets a 503, or over TCP an error line, and never costs more than a few calls. When the
//! descriptor table is full, a descriptor kept for the purpose is given up for a moment to say so; accepting goes
//! on by itself once a connection has left.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::hub::Port;
use super::shutdown::Stage;
use super::turn::Shard;
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
                refuse(peer, self.port(listener));
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
        let metrics = self.hub.metrics;
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
            metrics.refused(reason);
            refuse(socket, port);
            return;
        }
        metrics.accepted_total.inc();
        let id = self.ring.adopt(socket);
        self.hub.accepted(id, port);
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

/// Tells a peer that there is no room for it, without ever waiting for it.
fn refuse(peer: OwnedFd, port: Port) {
    let answer = match port {
        Port::Http => REFUSAL_HTTP,
        Port::Lines => REFUSAL_LINE,
    };
    // Whatever fails here, the peer is gone.
    let _ = rustix::net::send(&peer, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(&peer, Shutdown::Write);
    // A close with bytes unread is a reset, which may overtake the answer.
    let mut unread = [0u8; 4096];
    let _ = rustix::net::recv(&peer, &mut unread, RecvFlags::DONTWAIT);
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
const REFUSAL_HTTP: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain; \
charset=utf-8\r\nContent-Length: 34\r\nConnection: close\r\n\r\nno room for another connection now";
const REFUSAL_LINE: &[u8] = b"{\"type\":\"error\",\"code\":\"overloaded\",\"message\":\"no room for another \
connection now: try again in a few seconds\",\"temporary\":true}\n";
