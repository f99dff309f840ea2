//! TLS between the ring and everything above it: bytes that come are decrypted before they are read, batches are
//! sealed before they are sent, and handshakes wait for their turn.
//!
//! A handshake costs a hundred times what a message does, so its steps are taken in [`Shard::handshakes`], after the
//! live connections were served and for a bounded time per turn. Those that have only their cheap last step left go
//! first: they hold memory, and have paid.
//!
//! Everything above sees plain bytes, and an outbox that counts them: what a send carried is remembered here, since the
//! ring counts ciphertext.

use std::collections::VecDeque;
use std::sync::Arc;

use super::connection::{Connection, Phase, Transport};
use super::hub::{Alarm, Due, Hub, Port, Wish};
use super::turn::{Shard, next_piece};
use crate::chat::ConnKind;
use crate::chat::outbox::Batch;
use crate::clock::Time;
use crate::codec::http::{HttpError, Status};
use crate::codec::lines;
use crate::ids::ConnId;
use crate::message::close::{CloseReason, ErrorCode};
use crate::message::event::Event;
use crate::net::{Ended, Outgoing};
use crate::telemetry::metrics::TlsOutcome;
use crate::tls::{Stage, TlsConfigs, TlsFailure, TlsSession};

/// TLS of one connection.
#[derive(Debug)]
pub(super) struct Tls {
    port: Port,
    /// Made with the first bytes, with the certificate that is in force then.
    session: Option<TlsSession>,
    /// It waits for its turn to go on with the handshake.
    is_queued: bool,
    /// It is not read until it has had its turn.
    is_paused: bool,
    /// The handshake was counted.
    is_counted: bool,
    /// The socket ended while it was queued.
    has_ended: bool,
    /// A send is in flight.
    is_sending: bool,
    /// Bytes of the outbox that it carries.
    in_flight: usize,
}

/// Connections whose handshake can go on.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Not yet answered.
    hellos: VecDeque<ConnId>,
    /// One cheap step away from their end.
    last_steps: VecDeque<ConnId>,
}

impl Handshakes {
    pub(super) fn is_empty(&self) -> bool {
        self.hellos.is_empty() && self.last_steps.is_empty()
    }

    fn len(&self) -> usize {
        self.hellos.len() + self.last_steps.len()
    }

    fn next(&mut self) -> Option<ConnId> {
        self.last_steps.pop_front().or_else(|| self.hellos.pop_front())
    }
}

impl Tls {
    /// A connection that was just accepted.
    pub(super) fn new(port: Port) -> Self {
        Self {
            port,
            session: None,
            is_queued: false,
            is_paused: false,
            is_counted: false,
            has_ended: false,
            is_sending: false,
            in_flight: 0,
        }
    }

    fn stage(&self) -> Stage {
        self.session.as_ref().map_or(Stage::Hello, TlsSession::stage)
    }

    /// Whether nothing can be said yet.
    pub(super) fn is_handshaking(&self) -> bool {
        matches!(self.stage(), Stage::Hello | Stage::Finishing)
    }

    /// Whether all it can still say is its alert.
    pub(super) fn has_failed(&self) -> bool {
        self.stage() == Stage::Failed
    }

    /// Whether the protocol itself has something to send.
    pub(super) fn has_outgoing(&self) -> bool {
        self.session.as_ref().is_some_and(TlsSession::has_outgoing)
    }

    /// Whether nothing of it waits or is on its way.
    pub(super) fn is_flushed(&self) -> bool {
        !self.is_sending && !self.has_outgoing()
    }

    /// The send in flight is over; gives how many bytes of the outbox it carried.
    pub(super) fn sent(&mut self) -> usize {
        self.is_sending = false;
        std::mem::take(&mut self.in_flight)
    }
}

impl Hub {
    /// Offers something else to those who begin from now on. Nobody who has begun notices.
    pub(super) fn set_tls(&mut self, tls: Option<Arc<TlsConfigs>>) {
        self.tls = tls;
    }

    /// Bytes came from a peer that speaks TLS, or should.
    pub(super) fn received_tls(&mut self, id: ConnId, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get(id).filter(|_| !bytes.is_empty()) else { return };
        let (is_open, is_closed) = (connection.is_open(), connection.phase == Phase::Closed);
        let Some(tls) = connection.tls.as_deref_mut() else { return };
        match tls.stage() {
            Stage::Hello | Stage::Finishing if is_open => self.received_handshake(id, bytes),
            Stage::Open if !is_closed => {
                let Some(session) = &mut tls.session else { return };
                let outcome = session.read(bytes, &mut self.plain);
                self.decrypted(id, outcome);
            }
            // It ended before it could be understood, or cannot be understood any more.
            _ => {}
        }
    }

    /// Keeps bytes of a handshake until its turn comes.
    fn received_handshake(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(Connection { tls: Some(tls), .. }) = self.connections.get(id) else { return };
        let session = match &mut tls.session {
            Some(session) => session,
            None if is_plain(tls.port, bytes) => return self.refuse_plain(id),
            none => {
                let Some(configs) = &self.tls else { return self.end(id, CloseReason::Restart) };
                let config = match tls.port {
                    Port::Http => configs.http(),
                    Port::Lines => configs.lines(),
                };
                match TlsSession::new(config.clone()) {
                    Ok(session) => none.insert(session),
                    Err(error) => return self.tls_failed(id, &error),
                }
            }
        };
        session.hold(bytes);
        if session.held_bytes() > HELD_BYTES_MAX && !tls.is_paused {
            tls.is_paused = true;
            self.due.wishes.push(Wish::Pause(id));
        }
        if !std::mem::replace(&mut tls.is_queued, true) {
            match tls.stage() {
                Stage::Hello => self.handshakes.hellos.push_back(id),
                _ => self.handshakes.last_steps.push_back(id),
            }
        }
    }

    /// Takes the next step of a handshake. False if none can go on.
    fn handshake_step(&mut self) -> bool {
        while let Some(id) = self.handshakes.next() {
            let Some(connection) = self.connections.get(id) else { continue };
            let is_open = connection.is_open();
            let Some(Tls { session: Some(session), is_queued, .. }) = connection.tls.as_deref_mut() else { continue };
            *is_queued = false;
            // Whoever has gone meanwhile costs nothing more.
            if !is_open {
                continue;
            }
            let outcome = session.advance(&mut self.plain);
            if session.stage() == Stage::Open {
                self.handshake_done(id);
            } else {
                // Of one that failed right after its handshake nothing is taken.
                self.plain.clear();
            }
            self.decrypted(id, outcome);
            let Some(Connection { tls: Some(tls), pending, .. }) = self.connections.get(id) else { return true };
            let is_read = pending.is_none();
            let (was_paused, has_ended) = (std::mem::take(&mut tls.is_paused), std::mem::take(&mut tls.has_ended));
            // Unless what it said first is blocked.
            if was_paused && is_read {
                self.due.wishes.push(Wish::Resume(id));
            }
            if has_ended {
                self.receive_ended(id, Ended::Finished);
            }
            self.pump();
            return true;
        }
        false
    }

    fn handshake_done(&mut self, id: ConnId) {
        let Some(Connection { tls: Some(tls), .. }) = self.connections.get(id) else { return };
        tls.is_counted = true;
        let was_resumed = tls.session.as_ref().is_some_and(TlsSession::was_resumed);
        let port = tls.port;
        self.metrics.tls_handshake(if was_resumed { TlsOutcome::Resumed } else { TlsOutcome::Full });
        if port == Port::Lines {
            self.enter_core(id, ConnKind::Chat { connect: None, ping_as_event: true });
        }
    }

    /// Passes on what was decrypted, and draws the consequences of what the protocol said.
    fn decrypted(&mut self, id: ConnId, outcome: Result<(), TlsFailure>) {
        if !self.plain.is_empty() {
            let mut plain = std::mem::take(&mut self.plain);
            self.received_plain(id, &mut plain);
            plain.clear();
            if plain.capacity() <= PLAIN_KEPT_BYTES {
                self.plain = plain;
            }
        }
        let Some(connection) = self.connections.get(id) else { return };
        let Some(tls) = connection.tls.as_deref() else { return };
        let has_ended = tls.session.as_ref().is_some_and(TlsSession::peer_closed) && !connection.flags.read_ended;
        if tls.has_outgoing() {
            connection.wants_write(&mut self.due, self.now);
        }
        if let Err(error) = outcome {
            self.tls_failed(id, &error);
        } else if has_ended {
            self.read_ended(id, Ended::Finished);
        }
        self.pump();
    }

    /// The socket gives no more bytes.
    pub(super) fn receive_ended(&mut self, id: ConnId, why: Ended) {
        let Some(connection) = self.connections.get(id) else { return };
        let is_open = connection.is_open();
        if let Some(tls) = connection.tls.as_deref_mut() {
            if is_open && tls.is_handshaking() {
                if tls.is_queued && why == Ended::Finished {
                    tls.has_ended = true;
                    return;
                }
                self.metrics.tls_handshake(TlsOutcome::Gone);
                connection.flags.read_ended = true;
                return self.end(id, CloseReason::PeerGone);
            }
            // What was said before is answered, but nobody knows how the last line would have gone on
            // (RFC 8446, section 6.1).
            let was_cut = !tls.session.as_ref().is_some_and(TlsSession::peer_closed);
            if let Transport::ChatTcp(decoder) = &mut connection.transport
                && was_cut
            {
                *decoder = lines::Decoder::new();
            }
            if connection.flags.read_ended && why == Ended::Finished && !matches!(connection.phase, Phase::Lingering(_))
            {
                return;
            }
        }
        self.read_ended(id, why);
    }

    /// TLS has failed: nothing more can be read or said but the alert.
    pub(super) fn tls_failed(&mut self, id: ConnId, error: &TlsFailure) {
        let now = self.now;
        let Some(connection) = self.connections.get(id) else { return };
        if let Some(tls) = connection.tls.as_deref_mut()
            && !std::mem::replace(&mut tls.is_counted, true)
        {
            let too_large = *error == TlsFailure::TooLarge;
            self.metrics.tls_handshake(if too_large { TlsOutcome::TooLarge } else { TlsOutcome::Failed });
        }
        if let Some(suppressed) = self.throttle.admit("tls", now) {
            tracing::info!(connection = %format_args!("{}-{}", id.slot, id.generation), %error, suppressed, "TLS failed");
        }
        if !connection.is_open() {
            return self.close(id, Wish::Reset(id));
        }
        connection.flags.framing_broken = true;
        // What was not sealed by now never is.
        let unsent = std::mem::take(&mut connection.unsent).len();
        connection.outbox.written(unsent, now.ms());
        self.due.outbox_bytes -= unsent + connection.outbox.drop_queued().bytes;
        self.end(id, CloseReason::ProtocolError);
        self.pump();
    }

    /// A peer that does not know that this port speaks TLS is told so, in the way that it speaks.
    fn refuse_plain(&mut self, id: ConnId) {
        self.metrics.tls_handshake(TlsOutcome::Plaintext);
        let Some(connection) = self.connections.get(id) else { return };
        let Some(tls) = connection.tls.take() else { return };
        match tls.port {
            Port::Http => {
                let mut response = Vec::new();
                HttpError::new(Status::BadRequest, SPEAKS_TLS_HTTP).write(false, &mut response);
                self.respond(id, response);
                self.end(id, CloseReason::Normal);
            }
            Port::Lines => {
                let message = SPEAKS_TLS_LINES.into();
                self.send(id, &Event::Error { id: None, code: ErrorCode::BadRequest, message });
                self.end(id, CloseReason::NotThisProtocol);
            }
        }
        self.pump();
    }

    /// Has `close_notify` sent before the socket is closed. False if there is nothing to be said.
    pub(super) fn say_tls_goodbye(&mut self, id: ConnId) -> bool {
        let Some(connection) = self.connections.get(id) else { return false };
        let Some(session) = connection.tls.as_mut().and_then(|tls| tls.session.as_mut()) else { return false };
        let says = session.say_goodbye();
        if says {
            connection.wants_write(&mut self.due, self.now);
        }
        says
    }

    /// Watches a handshake from its first moment.
    pub(super) fn await_handshake(&mut self, id: ConnId, port: Port) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.tls = Some(Box::new(Tls::new(port)));
        self.set_alarm(id, Alarm::Handshake, self.limits.handshake_timeout.as_millis() as u64);
    }
}

impl Connection {
    /// Puts the connection on the list of those to be written, for bytes that are not in its outbox.
    fn wants_write(&mut self, due: &mut Due, now: Time) {
        if !self.flags.dirty {
            self.flags.dirty = true;
            self.queued_us = now.us;
            due.writes.push(self.id);
        }
    }
}

impl Shard {
    /// Goes on with handshakes for as long as they may take, once what live connections are owed is on its way.
    pub(super) fn handshakes(&mut self) -> std::io::Result<()> {
        if self.hub.handshakes.is_empty() {
            return Ok(());
        }
        self.ring.enter(false)?;
        let start = self.clock.us();
        let mut before = start;
        while self.hub.handshake_step() {
            let now = self.clock.us();
            self.hub.metrics.tls_handshake_us.record(now.saturating_sub(before));
            before = now;
            if now.saturating_sub(start) >= self.hub.handshake_budget_us {
                break;
            }
        }
        self.hub.metrics.tls_handshake_queue.set(self.hub.handshakes.len() as u64);
        self.write();
        Ok(())
    }

    /// Hands the ring the next records of a connection.
    pub(super) fn write_sealed(&mut self, id: ConnId, now_us: u64) {
        let mut records = self.turn.spare.pop().unwrap_or_default();
        records.clear();
        let sealed = self.seal(id, &mut records);
        if let Err(error) = sealed {
            self.hub.tls_failed(id, &error);
        }
        let Some(connection) = self.hub.connections.get(id) else { return };
        let Some(tls) = connection.tls.as_deref_mut() else { return };
        if records.is_empty() {
            self.turn.spare.push(records);
            return;
        }
        tls.is_sending = true;
        let metrics = self.hub.metrics;
        metrics.sends_total.inc();
        metrics.delivery_latency_us.record(now_us.saturating_sub(connection.queued_us));
        self.ring.send(id, Outgoing::Gathered(records), connection.expects_nothing_more());
    }

    /// Seals the next batch, after what the protocol itself has to say.
    fn seal(&mut self, id: ConnId, records: &mut Vec<u8>) -> Result<(), TlsFailure> {
        let Some(connection) = self.hub.connections.get(id) else { return Ok(()) };
        let Some(tls) = connection.tls.as_deref_mut() else { return Ok(()) };
        let Some(session) = &mut tls.session else { return Ok(()) };
        session.take_outgoing(records);
        if session.stage() != Stage::Open {
            return Ok(());
        }
        if connection.unsent.is_empty() {
            let mut scratch = self.turn.spare.pop().unwrap_or_default();
            let batch = connection.outbox.take_batch(&mut scratch);
            let sealed = match batch {
                Some(Batch::Gathered) => {
                    tls.in_flight = scratch.len();
                    session.seal(&scratch, records)
                }
                Some(Batch::Frame(frame)) => {
                    connection.unsent = frame;
                    Ok(())
                }
                None => Ok(()),
            };
            self.turn.spare.push(scratch);
            sealed?;
        }
        if connection.unsent.is_empty() {
            return Ok(());
        }
        let piece = next_piece(&mut connection.unsent, SEALED_PIECE_BYTES);
        tls.in_flight = piece.len();
        session.seal(&piece, records)
    }
}

/// Whether a first piece is of a protocol without TLS, whose records begin with 22 (RFC 8446, section 5.1).
fn is_plain(port: Port, bytes: &[u8]) -> bool {
    match (port, bytes.first()) {
        (Port::Http, Some(first)) => first.is_ascii_uppercase(),
        (Port::Lines, Some(first)) => *first == b'{' || first.is_ascii_whitespace(),
        (_, None) => false,
    }
}

/// Bytes held for a handshake that waits, past which its connection is not read. What the ring had received comes on
/// top.
const HELD_BYTES_MAX: usize = 16 * 1024;
/// A large frame is sealed in pieces of this size: unlike the frame, they are not shared with other connections.
const SEALED_PIECE_BYTES: usize = 64 * 1024;
/// A buffer larger than this is given back after use.
const PLAIN_KEPT_BYTES: usize = 256 * 1024;
const SPEAKS_TLS_HTTP: &str = "this port speaks TLS: use https:// or wss://";
const SPEAKS_TLS_LINES: &str = "this port speaks TLS: connect with TLS, as openssl s_client does";
