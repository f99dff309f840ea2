//! One connection as its shard sees it: what it speaks, what it is owed, and how far its end has come.
//!
//! Invariants: `pending` holds a command exactly while the core has it blocked, and then `held` takes all bytes
//! that come; a connection is in the core (`in_core`) from its handshake until its end begins.

use bytes::Bytes;

use super::hub::Port;
use super::tls::Tls;
use crate::chat::AudienceId;
use crate::chat::outbox::Outbox;
use crate::clock::Time;
use crate::codec::lines;
use crate::codec::websocket::Decoder;
use crate::ids::ConnId;
use crate::message::close::CloseReason;
use crate::telemetry::metrics::ConnectionKind;

/// A connection's state outside the core. There are tens of thousands, so what is rare is boxed.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) transport: Transport,
    pub(super) phase: Phase,
    pub(super) outbox: Outbox,
    /// When it was accepted, in Unix seconds.
    pub(super) since_unix_s: u32,
    /// When the oldest bytes in the outbox were pushed.
    pub(super) queued_us: u64,
    /// The rest of a large frame, of which a piece is in flight.
    pub(super) unsent: Bytes,
    /// Bytes that came while a command was blocked: what the ring had received before it stopped, and no more.
    pub(super) held: Vec<u8>,
    pub(super) pending: Option<Box<Pending>>,
    /// Replays that go on when the outbox is half empty.
    pub(super) replays: Vec<AudienceId>,
    /// It is closed for this reason, with this code, once what it said is answered. Nothing more is taken from it.
    pub(super) farewell: Option<(CloseReason, Option<u16>)>,
    /// When its end must be over, in monotonic milliseconds. An alarm that comes earlier is an old one.
    pub(super) ends_by_ms: u64,
    pub(super) flags: Flags,
    /// Below everything else; `None` where the port speaks in the clear.
    pub(super) tls: Option<Box<Tls>>,
}

/// What is true of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    /// It is on the list of those to be written.
    pub(super) dirty: bool,
    /// The core knows it.
    pub(super) in_core: bool,
    /// The peer has finished sending, or cannot be read any more.
    pub(super) read_ended: bool,
    /// The peer broke the framing: its bytes mean nothing any more.
    pub(super) framing_broken: bool,
    /// The peer has sent its close frame.
    pub(super) peer_closed: bool,
    /// An alarm for its stalled outbox is set.
    pub(super) stall_watched: bool,
}

/// What a connection speaks.
#[derive(Debug)]
pub(super) enum Transport {
    /// A PROXY header is coming.
    Proxied {
        /// What is spoken after it.
        port: Port,
        /// What has come of it.
        header: Vec<u8>,
    },
    /// A request head is coming.
    Http {
        /// What has come of it.
        head: Vec<u8>,
    },
    /// WebSocket frames with JSON commands.
    ChatWs(Decoder),
    /// JSON lines.
    ChatTcp(lines::Decoder),
    /// WebSocket frames, passed on as they are.
    Relay(Decoder),
}

/// How far a connection's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is in use.
    Open,
    /// Its last frames are being written.
    Ending(CloseReason),
    /// All is written; the peer's end is awaited.
    Lingering(CloseReason),
    /// The socket is being closed.
    Closed,
}

/// A command that the core has blocked.
#[derive(Debug)]
pub(super) enum Pending {
    /// A command or relay message as it was read.
    Message {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Whether it is text.
        is_text: bool,
    },
    /// Rooms that the URL named, the next one last.
    Rooms(Vec<String>),
}

/// How frames are encoded for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// JSON in a WebSocket text frame.
    JsonFrame,
    /// JSON on a line.
    JsonLine,
}

impl Connection {
    /// A connection that was just accepted.
    pub(super) fn new(id: ConnId, transport: Transport, now: Time) -> Self {
        Self {
            id,
            transport,
            phase: Phase::Open,
            outbox: Outbox::default(),
            since_unix_s: (now.unix_ms / 1_000) as u32,
            queued_us: 0,
            unsent: Bytes::new(),
            held: Vec::new(),
            pending: None,
            replays: Vec::new(),
            farewell: None,
            ends_by_ms: 0,
            flags: Flags::default(),
            tls: None,
        }
    }

    /// What the metrics call it.
    pub(super) fn kind(&self) -> ConnectionKind {
        match self.transport {
            Transport::Http { .. } | Transport::Proxied { port: Port::Http, .. } => ConnectionKind::Http,
            Transport::ChatWs(_) => ConnectionKind::ChatWs,
            Transport::ChatTcp(_) | Transport::Proxied { port: Port::Lines, .. } => ConnectionKind::ChatTcp,
            Transport::Relay(_) => ConnectionKind::Relay,
        }
    }

    /// How events are written to it.
    pub(super) fn encoding(&self) -> Encoding {
        match self.transport {
            Transport::ChatTcp(_) => Encoding::JsonLine,
            _ => Encoding::JsonFrame,
        }
    }

    /// Whether frames may still be queued.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether no protocol was agreed on yet.
    pub(super) fn is_before_handshake(&self) -> bool {
        matches!(self.transport, Transport::Http { .. } | Transport::Proxied { .. })
            || self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether all that was to be written is.
    pub(super) fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && self.tls.as_ref().is_none_or(|tls| tls.is_flushed())
    }

    /// Whether anything waits to be written that is not in flight.
    pub(super) fn wants_more_writes(&self) -> bool {
        !self.unsent.is_empty() || self.outbox.wants_write() || self.tls.as_ref().is_some_and(|tls| tls.has_outgoing())
    }

    /// Whether nothing waits for what is being written to be over.
    pub(super) fn expects_nothing_more(&self) -> bool {
        self.is_open()
            && self.unsent.is_empty()
            && self.outbox.queued_bytes() == self.outbox.in_flight_bytes()
            && self.replays.is_empty()
            && !self.outbox.has_gaps()
    }

    /// Whether it speaks WebSocket, and so says goodbye with a close frame.
    pub(super) fn is_websocket(&self) -> bool {
        matches!(self.transport, Transport::ChatWs(_) | Transport::Relay(_))
    }
}

const _: () = assert!(size_of::<Connection>() <= 320, "there are tens of thousands");

/// All connections of a shard, by slot. Kept in pages that never move, so that growing neither copies nor leaves
/// memory behind.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pages: Vec<Box<[Option<Connection>]>>,
    count: usize,
}

impl Connections {
    /// Takes in a new connection.
    pub(super) fn insert(&mut self, connection: Connection) {
        let slot = connection.id.slot as usize;
        while slot / PAGE >= self.pages.len() {
            self.pages.push((0..PAGE).map(|_| None).collect());
        }
        let place = &mut self.pages[slot / PAGE][slot % PAGE];
        debug_assert!(place.is_none(), "the ring frees a slot before it is used again");
        *place = Some(connection);
        self.count += 1;
    }

    /// The connection, if it is still there.
    #[inline]
    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Connection> {
        let slot = id.slot as usize;
        self.pages.get_mut(slot / PAGE)?[slot % PAGE].as_mut().filter(|connection| connection.id == id)
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        self.count -= 1;
        let slot = id.slot as usize;
        self.pages[slot / PAGE][slot % PAGE].take()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// All that are there.
    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.pages.iter().flatten().flatten().map(|connection| connection.id).collect()
    }
}

/// Connections in a page; a power of two, so that finding one is a shift and a mask.
const PAGE: usize = 64;
