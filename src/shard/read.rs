//! From bytes to commands: what a peer sent is decoded where it lies and given to the core.
//!
//! A command that the core blocks is kept with all that follows it, and the connection is not read until the core
//! says that it may go on.

use std::borrow::Cow;
use std::mem;

use bytes::Bytes;

use super::connection::{Connection, Pending, Phase, Transport};
use super::hub::{Hub, Wish};
use crate::chat::outbox::Kind;
use crate::chat::{Handled, Input};
use crate::codec::json;
use crate::codec::websocket::{Item, Opcode, frame};
use crate::ids::ConnId;

impl Hub {
    /// Bytes came from a peer. They may be changed in place.
    pub(super) fn received(&mut self, id: ConnId, bytes: &mut [u8]) {
        self.metrics.bytes_in_total.add(bytes.len() as u64);
        if self.connections.get(id).is_some_and(|connection| connection.tls.is_some()) {
            self.received_tls(id, bytes);
        } else {
            self.received_plain(id, bytes);
        }
    }

    /// Bytes came as the peer meant them.
    pub(super) fn received_plain(&mut self, id: ConnId, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.flags.in_core {
            self.core.alive(id, self.now);
        }
        // What was held is read first, by `Hub::retry`.
        if connection.pending.is_some() || !connection.held.is_empty() {
            connection.held.extend_from_slice(bytes);
            return;
        }
        self.read(id, bytes);
    }

    /// The core has room again: tries what was blocked, then reads on. Also when the connection's end has begun, and
    /// nothing is carried out any more.
    pub(super) fn retry(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(id) else { return };
        let is_through = match connection.pending.take().map(|pending| *pending) {
            Some(Pending::Message { bytes, is_text }) => self.message(id, Cow::Owned(bytes), is_text),
            Some(Pending::Rooms(rooms)) => self.join_rooms(id, rooms),
            None => !connection.is_open(),
        };
        if !is_through {
            return;
        }
        let Some(connection) = self.connections.get(id) else { return };
        let mut held = mem::take(&mut connection.held);
        self.read(id, &mut held);
        let Some(connection) = self.connections.get(id) else { return };
        if connection.pending.is_some() {
            return;
        }
        if connection.flags.read_ended && connection.is_open() {
            self.finish_reading(id);
        } else {
            self.due.wishes.push(Wish::Resume(id));
        }
    }

    /// Enters the rooms that the URL named, the last one first. False if the core blocks.
    pub(super) fn join_rooms(&mut self, id: ConnId, mut rooms: Vec<String>) -> bool {
        while let Some(room) = rooms.last() {
            let handled = self.core.handle(Input::JoinFromUrl { conn: id, room }, self.now);
            self.pump();
            if handled == Handled::Blocked {
                self.block(id, Pending::Rooms(rooms));
                return false;
            }
            rooms.pop();
        }
        true
    }

    /// Reads what a peer sent, in the way that its transport is read.
    pub(super) fn read(&mut self, id: ConnId, bytes: &mut [u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        match connection.transport {
            Transport::ChatWs(_) | Transport::Relay(_) => self.read_frames(id, bytes),
            Transport::ChatTcp(_) => self.read_lines(id, bytes),
            Transport::Http { .. } if connection.is_open() => self.read_head(id, bytes),
            Transport::Proxied { .. } if connection.is_open() => self.read_proxy_header(id, bytes),
            // What comes after the end began is taken from the socket and forgotten.
            Transport::Http { .. } | Transport::Proxied { .. } => {}
        }
    }

    fn read_frames(&mut self, id: ConnId, mut input: &mut [u8]) {
        let bytes_max = self.limits.max_message_bytes;
        loop {
            let Some(connection) = self.connections.get(id) else { return };
            let (Transport::ChatWs(decoder) | Transport::Relay(decoder)) = &mut connection.transport else { return };
            if connection.flags.framing_broken || connection.phase == Phase::Closed {
                return;
            }
            match decoder.decode(&mut input, bytes_max) {
                Ok(None) => return,
                Ok(Some(item)) => {
                    if !self.on_item(id, item) {
                        return self.hold(id, input);
                    }
                }
                Err(error) => {
                    connection.flags.framing_broken = true;
                    let reason = error.close_reason();
                    return self.end_when_answered(id, reason, Some(reason.code()));
                }
            }
        }
    }

    fn read_lines(&mut self, id: ConnId, mut input: &[u8]) {
        let bytes_max = self.limits.max_message_bytes;
        loop {
            let Some(connection) = self.connections.get(id).filter(|connection| connection.is_open()) else { return };
            if connection.farewell.is_some() {
                return;
            }
            let Transport::ChatTcp(decoder) = &mut connection.transport else { return };
            match decoder.decode(&mut input, bytes_max) {
                Ok(None) => return,
                Ok(Some(line)) => {
                    if !self.message(id, line, true) {
                        return self.hold(id, input);
                    }
                }
                Err(error) => {
                    let reason = error.close_reason();
                    return self.end_when_answered(id, reason, Some(reason.code()));
                }
            }
        }
    }

    /// Carries out one item. False if reading must stop.
    fn on_item(&mut self, id: ConnId, item: Item<'_>) -> bool {
        let listens = |connection: &mut Connection| connection.is_open() && connection.farewell.is_none();
        let is_heard = self.connections.get(id).is_some_and(listens);
        match item {
            Item::Close { code, .. } => {
                self.peer_closed(id, code);
                self.pump();
                true
            }
            _ if !is_heard => true,
            Item::Text(payload) => self.message(id, payload, true),
            Item::Binary(payload) => self.message(id, payload, false),
            Item::Ping(payload) => {
                self.pong(id, &payload);
                true
            }
            Item::Pong(_) => true,
        }
    }

    /// Gives one message to the core. False if the core blocks it.
    pub(super) fn message(&mut self, id: ConnId, bytes: Cow<'_, [u8]>, is_text: bool) -> bool {
        let Some(connection) = self.connections.get(id) else { return true };
        let handled = if matches!(connection.transport, Transport::Relay(_)) {
            let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
            self.metrics.messages_in_total.inc();
            let frame = relay_frame(opcode, &bytes);
            self.core.handle(Input::Relay { conn: id, frame }, self.now)
        } else {
            self.command(id, &bytes, is_text)
        };
        self.pump();
        if handled == Handled::Blocked {
            self.block(id, Pending::Message { bytes: bytes.into_owned(), is_text });
            return false;
        }
        true
    }

    fn command(&mut self, id: ConnId, bytes: &[u8], is_text: bool) -> Handled {
        let input = if is_text {
            match json::decode(bytes) {
                Ok(command) => Input::Command { conn: id, command },
                Err(error) => Input::BadCommand { conn: id, id: error.id, code: error.code, message: error.message },
            }
        } else {
            let message = "binary messages are not part of hubbub.v1.json: send JSON as text".into();
            Input::BadCommand { conn: id, id: None, code: crate::message::close::ErrorCode::BadRequest, message }
        };
        if matches!(&input, Input::Command { command, .. } if is_message(&command.body)) {
            self.metrics.messages_in_total.inc();
        }
        self.core.handle(input, self.now)
    }

    fn pong(&mut self, id: ConnId, payload: &[u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        let pong = if payload.is_empty() {
            Bytes::from_static(EMPTY_PONG)
        } else {
            let mut pong = Vec::with_capacity(payload.len() + 2);
            frame::encode(Opcode::Pong, payload, &mut pong);
            Bytes::from(pong)
        };
        let pushed = connection.push(pong, Kind::Control, &mut self.due, self.outbox_limits, self.now);
        self.pushed(id, Kind::Control, pushed);
        self.pump();
    }

    /// Keeps a blocked command, and stops reading the connection.
    fn block(&mut self, id: ConnId, pending: Pending) {
        let Some(connection) = self.connections.get(id) else { return };
        self.metrics.blocked_total.inc();
        connection.pending = Some(Box::new(pending));
        self.due.wishes.push(Wish::Pause(id));
    }

    /// Keeps what follows a blocked command.
    pub(super) fn hold(&mut self, id: ConnId, rest: &[u8]) {
        if let Some(connection) = self.connections.get(id) {
            connection.held.extend_from_slice(rest);
        }
    }
}

/// A pong without payload (RFC 6455, section 5.5.3), as a server sends it.
const EMPTY_PONG: &[u8] = &[0x8a, 0x00];

/// A relay message as every member gets it: encoded once, by the shard that read it.
fn relay_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + frame::SERVER_HEADER_BYTES_MAX);
    frame::encode(opcode, payload, &mut frame);
    Bytes::from(frame)
}

fn is_message(body: &crate::message::command::CommandBody<'_>) -> bool {
    use crate::message::command::CommandBody::{Message, Signal};
    matches!(body, Message(_) | Signal { .. })
}
