//! The encoding of the simulated transport: a frame names an entry in a table of everything ever said.
//!
//! A frame is its length and the entry's number, four bytes each, and padding up to about the size a real encoding
//! would have, so that outboxes fill as they would.

use bytes::Bytes;
use hubbub::message::close::CloseReason;
use hubbub::message::event::{Event, Reply};

/// What a frame says.
#[derive(Clone, Debug)]
pub enum Item {
    Event(Event),
    /// A ping of the transport.
    Ping,
    /// The server's last word.
    Goodbye(CloseReason),
}

/// Encodes, and remembers what was encoded.
#[derive(Debug, Default)]
pub struct Wire {
    items: Vec<Item>,
}

impl Wire {
    pub fn encode(&mut self, item: Item) -> Bytes {
        let len = HEAD + padding(&item);
        let mut frame = vec![b'.'; len];
        frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
        frame[4..HEAD].copy_from_slice(&(self.items.len() as u32).to_le_bytes());
        self.items.push(item);
        Bytes::from(frame)
    }
}

/// What a client has read of the stream so far.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, however the stream was cut.
    pub fn next(&mut self, wire: &Wire) -> Option<Item> {
        let head = self.bytes.get(..HEAD)?;
        let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
        let number = u32::from_le_bytes(head[4..].try_into().ok()?) as usize;
        if self.bytes.len() < len {
            return None;
        }
        self.bytes.drain(..len);
        Some(wire.items[number].clone())
    }
}

fn padding(item: &Item) -> usize {
    match item {
        Item::Event(Event::Message(message) | Event::Redelivered { message, .. }) => 60 + message.content.len(),
        Item::Event(Event::Signal(signal)) => 40 + signal.content.len(),
        Item::Event(Event::Presence(presence)) => 40 + 12 * (presence.joined.len() + presence.left.len()),
        Item::Event(Event::Ok { body: Reply::History { messages, .. }, .. }) => 60 + 90 * messages.len(),
        Item::Event(Event::Relay(frame)) => 2 + frame.len(),
        Item::Event(_) => 60,
        Item::Ping | Item::Goodbye(_) => 2,
    }
}

/// Bytes before the padding.
const HEAD: usize = 8;
