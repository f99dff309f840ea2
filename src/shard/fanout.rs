//! From an event to bytes: encoded once for each encoding, and shared by all its receivers.

use bytes::Bytes;

use super::connection::Encoding;
use crate::chat::outbox::Kind;
use crate::codec::json;
use crate::codec::websocket::Opcode;
use crate::codec::websocket::frame::{self, SERVER_HEADER_BYTES_MAX};
use crate::message::event::Event;

/// Encodes events. Keeps a buffer, so that an event costs one allocation for its bytes.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    scratch: Vec<u8>,
}

/// One event in the encodings that were asked for so far.
#[derive(Debug)]
pub(super) struct Frames<'e> {
    event: &'e Event,
    encoder: &'e mut Encoder,
    frame: Option<Bytes>,
    line: Option<Bytes>,
}

impl Encoder {
    /// The encodings of one event, made when they are first needed.
    pub(super) fn frames<'e>(&'e mut self, event: &'e Event) -> Frames<'e> {
        let frame = match event {
            Event::Relay(frame) => Some(frame.clone()),
            _ => None,
        };
        Frames { event, encoder: self, frame, line: None }
    }

    fn encode(&mut self, event: &Event, encoding: Encoding) -> Bytes {
        self.scratch.clear();
        let bytes = match encoding {
            Encoding::JsonFrame => {
                // The header stands right before the payload, whose length is known only afterwards.
                self.scratch.extend_from_slice(&[0; SERVER_HEADER_BYTES_MAX]);
                json::encode(event, &mut self.scratch);
                let mut header = [0; SERVER_HEADER_BYTES_MAX];
                let payload_bytes = self.scratch.len() - SERVER_HEADER_BYTES_MAX;
                let header_bytes = frame::header(Opcode::Text, payload_bytes, &mut header);
                let start = SERVER_HEADER_BYTES_MAX - header_bytes;
                self.scratch[start..SERVER_HEADER_BYTES_MAX].copy_from_slice(&header[..header_bytes]);
                Bytes::copy_from_slice(&self.scratch[start..])
            }
            Encoding::JsonLine => {
                json::encode(event, &mut self.scratch);
                debug_assert!(!self.scratch.contains(&b'\n'), "an event never breaks its line");
                self.scratch.push(b'\n');
                Bytes::copy_from_slice(&self.scratch)
            }
        };
        if self.scratch.capacity() > SCRATCH_KEPT_BYTES {
            self.scratch = Vec::new();
        }
        bytes
    }
}

impl Frames<'_> {
    /// The event's bytes in one encoding.
    #[inline]
    pub(super) fn bytes(&mut self, encoding: Encoding) -> Bytes {
        let made = match encoding {
            Encoding::JsonFrame => &mut self.frame,
            Encoding::JsonLine => &mut self.line,
        };
        if let Some(bytes) = made {
            return bytes.clone();
        }
        let bytes = self.encoder.encode(self.event, encoding);
        *made = Some(bytes.clone());
        bytes
    }
}

/// What may be done without an event when its receiver is slow.
pub(super) fn kind(event: &Event) -> Kind<'_> {
    match event {
        Event::Message(message) => Kind::Message { room: &message.room, seq: message.seq },
        Event::Signal(_) => Kind::Signal,
        _ => Kind::Control,
    }
}

/// A buffer larger than this is given back after use.
const SCRATCH_KEPT_BYTES: usize = 256 * 1024;
