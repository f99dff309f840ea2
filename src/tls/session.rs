//! One connection's TLS, without its socket: ciphertext in, bytes out, and the other way.
//!
//! Bytes that came go in by [`TlsSession::hold`] and [`TlsSession::advance`] during the handshake, which costs CPU and
//! is therefore done when its turn comes, and by [`TlsSession::read`] afterwards. [`TlsSession::take_outgoing`] gives
//! what the protocol itself has to say, and [`TlsSession::seal`] turns bytes into records.
//!
//! Invariants:
//! - `inbox` is exactly what was received and not yet used up. It begins where a record begins, holds at most one
//!   record and what came with its last piece, and `rustls` is always shown all of it: it remembers places in it.
//! - Idle and in the clear it owns no buffer.
//! - After a failure it says its alert and nothing else.
//!
//! `rustls`'s unbuffered interface is used because its buffered one keeps 4 KiB for each connection that ever received,
//! and copies once more in each direction.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{Error, HandshakeKind, ServerConfig};

/// A server's side of one TLS connection.
pub struct TlsSession {
    connection: UnbufferedServerConnection,
    inbox: Vec<u8>,
    /// Handshake messages, tickets and alerts to be sent.
    outgoing: Vec<u8>,
    stage: Stage,
    /// Bytes of the handshake that are used up.
    handshake_bytes: usize,
    peer_closed: bool,
    said_goodbye: bool,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The client's first message is awaited, also once more if it was asked for another key (HelloRetryRequest).
    /// Answering it is what costs most.
    Hello,
    /// The client's last message of the handshake is awaited.
    Finishing,
    /// Bytes go both ways.
    Open,
    /// Broken. An alert may still have to be sent.
    Failed,
}

/// Why a session failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsFailure {
    /// The handshake is larger than any honest one.
    #[error("the handshake has more than {HANDSHAKE_BYTES_MAX} bytes")]
    TooLarge,
    /// The peer broke the protocol, or nothing could be agreed on.
    #[error("{0}")]
    Protocol(#[from] Error),
}

impl TlsSession {
    /// A session before its handshake.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, TlsFailure> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            inbox: Vec::new(),
            outgoing: Vec::new(),
            stage: Stage::Hello,
            handshake_bytes: 0,
            peer_closed: false,
            said_goodbye: false,
        })
    }

    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the handshake was a short one, by a ticket.
    #[must_use]
    pub fn was_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether the peer has said that nothing more will come (`close_notify`).
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether the protocol itself has something to send.
    #[must_use]
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Bytes received and not used up.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.inbox.len()
    }

    /// Keeps bytes for the next [`TlsSession::advance`].
    pub fn hold(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// Uses up what was held: takes the next step of a handshake, and appends what the peer said to `plain`.
    ///
    /// # Errors
    /// When the session has failed. What `plain` got came before, and is sound.
    pub fn advance(&mut self, plain: &mut Vec<u8>) -> Result<(), TlsFailure> {
        let mut inbox = std::mem::take(&mut self.inbox);
        let used = self.process(&mut inbox, plain);
        if let Ok(used) = used {
            inbox.drain(..used);
            self.keep(inbox);
        }
        used.map(|_| ())
    }

    /// Decrypts what came after the handshake, in place where it lies if whole records came, and appends it to `plain`.
    ///
    /// # Errors
    /// When the session has failed. What `plain` got came before, and is sound.
    pub fn read(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<(), TlsFailure> {
        if !self.inbox.is_empty() {
            self.hold(bytes);
            return self.advance(plain);
        }
        let used = self.process(bytes, plain)?;
        self.hold(&bytes[used..]);
        Ok(())
    }

    /// Appends to `out` what the protocol itself has to send; it comes before anything sealed later.
    pub fn take_outgoing(&mut self, out: &mut Vec<u8>) {
        if !self.outgoing.is_empty() {
            out.extend_from_slice(&self.outgoing);
            self.outgoing = Vec::new();
        }
    }

    /// Appends `plain` to `out` as records. What [`TlsSession::take_outgoing`] gives must be in `out` before.
    ///
    /// # Errors
    /// When the session is not open, or has used up its keys (TLS 1.2 after 2^24 records and more).
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFailure> {
        debug_assert!(self.outgoing.is_empty(), "records must not overtake each other");
        let sealed = self.when_writable(out, |traffic, out| encrypt(traffic, plain, out));
        sealed.unwrap_or(Err(TlsFailure::Protocol(Error::EncryptError))).inspect_err(|_| self.stage = Stage::Failed)
    }

    /// Has `close_notify` sent, once. False if there is nothing to be said: it was said before, or cannot be.
    pub fn say_goodbye(&mut self) -> bool {
        if self.stage != Stage::Open || std::mem::replace(&mut self.said_goodbye, true) {
            return false;
        }
        let mut out = std::mem::take(&mut self.outgoing);
        let said = self.when_writable(&mut out, |traffic, out| fill(out, |room| traffic.queue_close_notify(room)));
        self.outgoing = out;
        matches!(said, Some(Ok(())))
    }

    /// Lets `write` write, if it is time to. What the protocol has to send is put before it.
    fn when_writable<T>(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> T,
    ) -> Option<T> {
        for _ in 0..STEPS_MAX {
            // All that could be used of the inbox was used when it came.
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.inbox);
            debug_assert_eq!(discard, 0);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => return Some(write(&mut traffic, out)),
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                _ => return None,
            }
        }
        None
    }

    /// Works through `bytes` and gives how many of them are used up: all, where nothing can follow any more.
    fn process(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<usize, TlsFailure> {
        if self.stage == Stage::Failed || self.peer_closed {
            return Ok(bytes.len());
        }
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut bytes[used..]);
            let mut is_through = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(TlsFailure::Protocol)?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(_) => is_through = true,
                Err(error) => {
                    self.fail(&mut bytes[used..]);
                    return Err(error.into());
                }
            }
            used += discard;
            if is_through {
                self.settle(used, bytes.len() - used)?;
                return Ok(if self.peer_closed { bytes.len() } else { used });
            }
        }
    }

    /// Finds out how far the session has come.
    fn settle(&mut self, used: usize, left: usize) -> Result<(), TlsFailure> {
        if self.stage == Stage::Open {
            return Ok(());
        }
        if !self.connection.is_handshaking() {
            self.stage = Stage::Open;
            return Ok(());
        }
        if !self.outgoing.is_empty() && self.stage == Stage::Hello && !self.awaits_second_hello() {
            self.stage = Stage::Finishing;
        }
        self.handshake_bytes += used;
        if self.handshake_bytes + left > HANDSHAKE_BYTES_MAX {
            self.stage = Stage::Failed;
            return Err(TlsFailure::TooLarge);
        }
        Ok(())
    }

    /// Whether all that was said is that the client should begin again with another key.
    fn awaits_second_hello(&self) -> bool {
        let was_asked = self.connection.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest);
        was_asked && self.connection.negotiated_key_exchange_group().is_none()
    }

    /// Takes the alert that tells the peer what it did.
    fn fail(&mut self, rest: &mut [u8]) {
        self.stage = Stage::Failed;
        // Once that is taken it would only fail again.
        while self.connection.wants_write() {
            match self.connection.process_tls_records(rest).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                _ => return,
            }
        }
    }

    /// Keeps the part of a record that came, and no buffer for nothing.
    fn keep(&mut self, inbox: Vec<u8>) {
        if !inbox.is_empty() {
            self.inbox = inbox;
        }
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// Appends a message of the protocol.
fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else { return };
    let start = out.len();
    out.resize(start + needed.required_size, 0);
    let encoded = data.encode(&mut out[start..]);
    debug_assert!(encoded.is_ok(), "there is as much room as was asked for");
}

fn encrypt(
    traffic: &mut WriteTraffic<'_, ServerConnectionData>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), TlsFailure> {
    let start = out.len();
    let records = plain.len().div_ceil(RECORD_BYTES_MAX);
    out.resize(start + plain.len() + records * RECORD_OVERHEAD_BYTES, 0);
    match traffic.encrypt(plain, &mut out[start..]) {
        Ok(len) => {
            out.truncate(start + len);
            Ok(())
        }
        // A message of the protocol that goes along is not counted in.
        Err(EncryptError::InsufficientSize(_)) => {
            out.truncate(start);
            fill(out, |room| traffic.encrypt(plain, room))
        }
        Err(EncryptError::EncryptExhausted) => {
            out.truncate(start);
            Err(TlsFailure::Protocol(Error::EncryptError))
        }
    }
}

/// Appends what `write` writes, with as much room as it asks for.
fn fill(out: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>) -> Result<(), TlsFailure> {
    let start = out.len();
    let mut written = write(&mut []);
    if let Err(EncryptError::InsufficientSize(needed)) = written {
        out.resize(start + needed.required_size, 0);
        written = write(&mut out[start..]);
    }
    match written {
        Ok(len) => {
            out.truncate(start + len);
            Ok(())
        }
        Err(_) => {
            out.truncate(start);
            Err(TlsFailure::Protocol(Error::EncryptError))
        }
    }
}

/// Bytes of a record's contents (RFC 8446, section 5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// A header of 5 bytes, and at most 24 for nonce, tag and content type.
const RECORD_OVERHEAD_BYTES: usize = 29;
/// Bytes of a handshake that are read; a client's own are 2 KiB at most, certificates aside, which are not asked for.
pub const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;
/// States that are passed on the way to the one that is wanted; more than ever are.
const STEPS_MAX: usize = 16;

#[cfg(test)]
mod tests;
