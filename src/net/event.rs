//! What the owner of a ring tells it at the start, and what it hears from it.

use std::io;
use std::os::fd::OwnedFd;

use super::buffers::Buffer;
use super::slots::Outgoing;
use crate::ids::ConnId;

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Entries of the submission queue, a power of two.
    pub submissions: u32,
    /// Entries of the completion queue, a power of two.
    pub completions: u32,
    /// Buffers to receive into, a power of two.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { submissions: 4096, completions: 32_768, buffers: 4096, buffer_bytes: 2048 }
    }
}

/// Why a ring cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `io_uring_setup` was refused.
    #[error("io_uring_setup failed: {0}")]
    Setup(io::Error),
    /// The buffers to receive into were refused.
    #[error("registering the receive buffers failed: {0}")]
    Buffers(io::Error),
    /// The ring's own descriptor could not be registered.
    #[error("registering the ring failed: {0}")]
    Register(io::Error),
}

/// A listening socket of this ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerId(pub u32);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A peer connected.
    Accepted {
        /// Where.
        listener: ListenerId,
        /// Its socket; [`super::Ring::adopt`] it or drop it.
        socket: OwnedFd,
    },
    /// Accepting stopped, with an `errno`; [`super::Ring::accept`] starts it again.
    AcceptEnded {
        /// Where.
        listener: ListenerId,
        /// Why.
        errno: i32,
    },
    /// A listener that is watched has a peer waiting.
    AcceptReady {
        /// Where.
        listener: ListenerId,
    },
    /// [`super::Ring::connect`] has succeeded, and the socket is being read.
    Connected {
        /// Which.
        conn: ConnId,
    },
    /// [`super::Ring::connect`] has failed; close the connection.
    ConnectFailed {
        /// Which.
        conn: ConnId,
        /// Why.
        errno: i32,
    },
    /// Bytes came.
    Received {
        /// From whom.
        conn: ConnId,
        /// The bytes, to be given back.
        buffer: Buffer,
    },
    /// Nothing more will come.
    ReceiveEnded {
        /// From whom.
        conn: ConnId,
        /// Why.
        why: Ended,
    },
    /// Not all bytes given to [`super::Ring::send`] fit the socket's buffer; the rest waits for the peer to read.
    SendWaits {
        /// Whose.
        conn: ConnId,
    },
    /// All bytes given to [`super::Ring::send`] are with the kernel.
    Sent {
        /// To whom.
        conn: ConnId,
        /// The bytes, for the buffer to be used again.
        bytes: Outgoing,
    },
    /// The socket takes nothing any more; close it.
    SendFailed {
        /// Whose.
        conn: ConnId,
        /// Why.
        errno: i32,
    },
    /// A connection that was closed is gone, and its slot may be used again.
    Released {
        /// Which.
        conn: ConnId,
    },
    /// Somebody rang.
    Doorbell,
    /// A deadline given to [`super::Ring::wake_at`] has come.
    Timer,
}

/// Why a socket gives no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer finished sending.
    Finished,
    /// The socket failed with this `errno`.
    Failed(i32),
}
