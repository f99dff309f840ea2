//! Blocks: the messages of one append, as one value of the keyspace `log`.
//!
//! ```text
//! block   = version (1 byte) · count · bytes_before · bytes · last_timestamp · last_seq - first_seq · message*
//! message = flags (1 byte) · seq - seq of the message before it, or first_seq · last_timestamp - timestamp (wrapping)
//!         · sender · content · [key] · [tag] · [prev]
//! ```
//!
//! Integers are LEB128, texts have their length before them; `first_seq` is in the block's key. `bytes_before` and
//! `bytes` are what was appended ([`Message::weight`]) before and by this block; they stay when a message is buried. A
//! tombstone keeps its key, for it was used, but no reader is told.

use std::sync::Arc;

use bytes::Bytes;

use super::encoding::{Cursor, Damaged, put_bytes, put_integer};
use crate::chat::log::LogKey;
use crate::ids::{RoomName, Seq};
use crate::message::event::Message;

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) count: usize,
    /// Bytes of all messages ever appended before.
    pub(super) bytes_before: u64,
    /// Bytes of its messages when they were appended.
    pub(super) bytes: u64,
    pub(super) last_timestamp: u64,
    pub(super) first: Seq,
    pub(super) last: Seq,
}

/// A block whose header was read.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    pub(super) header: Header,
    messages: Cursor<'a>,
}

/// A message as it lies in its block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) seq: Seq,
    pub(super) timestamp: u64,
    pub(super) sender: &'a str,
    pub(super) content: &'a [u8],
    pub(super) key: Option<&'a str>,
    pub(super) tag: Option<&'a str>,
    pub(super) prev: Option<Seq>,
    pub(super) deleted: bool,
}

/// Writes a block; `messages` is not empty.
pub(super) fn encode(out: &mut Vec<u8>, bytes_before: u64, messages: &[Arc<Message>]) {
    let bytes: usize = messages.iter().map(|message| message.weight()).sum();
    let entries = messages.iter().map(|message| Entry::of(message));
    encode_entries(out, bytes_before, bytes as u64, messages.len(), entries);
}

/// Writes a block of entries, in the order of their positions.
pub(super) fn encode_entries<'a>(
    out: &mut Vec<u8>,
    bytes_before: u64,
    bytes: u64,
    count: usize,
    entries: impl Iterator<Item = Entry<'a>> + Clone,
) {
    let (Some(first), Some(last)) = (entries.clone().next(), entries.clone().last()) else {
        return;
    };
    out.push(VERSION);
    put_integer(out, count as u64);
    put_integer(out, bytes_before);
    put_integer(out, bytes);
    put_integer(out, last.timestamp);
    put_integer(out, last.seq.0.wrapping_sub(first.seq.0));
    let mut seq = first.seq;
    for entry in entries {
        put_entry(out, &entry, seq, last.timestamp);
        seq = entry.seq;
    }
}

/// Writes a message alone, as in a dead letter.
pub(super) fn encode_message(out: &mut Vec<u8>, message: &Message) {
    put_entry(out, &Entry::of(message), Seq(0), 0);
}

/// Reads a message written by [`encode_message`].
pub(super) fn decode_message(cursor: &mut Cursor<'_>, room: &RoomName) -> Result<Message, Damaged> {
    take_entry(cursor, Seq(0), 0)?.message(room)
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry<'_>, previous: Seq, last_timestamp: u64) {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(
        flag(entry.key.is_some(), KEY)
            | flag(entry.tag.is_some(), TAG)
            | flag(entry.prev.is_some(), PREV)
            | flag(entry.deleted, DELETED),
    );
    put_integer(out, entry.seq.0.wrapping_sub(previous.0));
    put_integer(out, last_timestamp.wrapping_sub(entry.timestamp));
    put_bytes(out, entry.sender.as_bytes());
    put_bytes(out, entry.content);
    for label in [entry.key, entry.tag].into_iter().flatten() {
        put_bytes(out, label.as_bytes());
    }
    if let Some(prev) = entry.prev {
        put_integer(out, prev.0);
    }
}

fn take_entry<'a>(cursor: &mut Cursor<'a>, previous: Seq, last_timestamp: u64) -> Result<Entry<'a>, Damaged> {
    let flags = cursor.byte()?;
    if flags & !(KEY | TAG | PREV | DELETED) != 0 {
        return Err(Damaged);
    }
    let seq = Seq(previous.0.wrapping_add(cursor.integer()?));
    let timestamp = last_timestamp.wrapping_sub(cursor.integer()?);
    let sender = cursor.text()?;
    let content = cursor.bytes()?;
    let key = if flags & KEY != 0 { Some(cursor.text()?) } else { None };
    let tag = if flags & TAG != 0 { Some(cursor.text()?) } else { None };
    let prev = if flags & PREV != 0 { Some(Seq(cursor.integer()?)) } else { None };
    Ok(Entry { seq, timestamp, sender, content, key, tag, prev, deleted: flags & DELETED != 0 })
}

impl<'a> Block<'a> {
    /// Reads the header.
    pub(super) fn new(first: Seq, bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut cursor = Cursor::new(bytes);
        if cursor.byte()? != VERSION {
            return Err(Damaged);
        }
        let count = usize::try_from(cursor.integer()?).map_err(|_| Damaged)?;
        let (bytes_before, bytes) = (cursor.integer()?, cursor.integer()?);
        let last_timestamp = cursor.integer()?;
        let last = Seq(first.0.checked_add(cursor.integer()?).ok_or(Damaged)?);
        if count == 0 || count > cursor.len() / ENTRY_BYTES_MIN || bytes_before.checked_add(bytes).is_none() {
            return Err(Damaged);
        }
        let header = Header { count, bytes_before, bytes, last_timestamp, first, last };
        Ok(Self { header, messages: cursor })
    }

    /// The messages, oldest first. Ends after the first that is damaged.
    pub(super) fn entries(&self) -> Entries<'a> {
        Entries { header: self.header, cursor: self.messages.clone(), left: self.header.count, seq: self.header.first }
    }

    /// The block with one message replaced by its tombstone; `None` when it is not in there, or is one already.
    pub(super) fn bury(&self, seq: Seq) -> Result<Option<Vec<u8>>, Damaged> {
        let mut entries = self.entries().collect::<Result<Vec<_>, _>>()?;
        let Some(entry) = entries.iter_mut().find(|entry| entry.seq == seq && !entry.deleted) else {
            return Ok(None);
        };
        entry.content = b"null";
        entry.deleted = true;
        let mut out = Vec::new();
        let Header { bytes_before, bytes, .. } = self.header;
        encode_entries(&mut out, bytes_before, bytes, entries.len(), entries.iter().copied());
        Ok(Some(out))
    }
}

/// Iterates over the messages of a block.
#[derive(Clone, Debug)]
pub(super) struct Entries<'a> {
    header: Header,
    cursor: Cursor<'a>,
    left: usize,
    seq: Seq,
}

impl<'a> Entries<'a> {
    fn take(&mut self) -> Result<Entry<'a>, Damaged> {
        let is_first = self.left == self.header.count;
        let entry = take_entry(&mut self.cursor, self.seq, self.header.last_timestamp)?;
        let in_order = if is_first { entry.seq == self.header.first } else { entry.seq > self.seq };
        self.seq = entry.seq;
        self.left -= 1;
        let ends_well = self.left > 0 || (self.cursor.is_empty() && entry.seq == self.header.last);
        if in_order && ends_well { Ok(entry) } else { Err(Damaged) }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let taken = self.take();
        if taken.is_err() {
            self.left = 0;
        }
        Some(taken)
    }
}

impl<'a> Entry<'a> {
    pub(super) fn of(message: &'a Message) -> Self {
        Self {
            seq: message.seq,
            timestamp: message.timestamp,
            sender: message.sender.as_str(),
            content: &message.content,
            key: message.key.as_deref(),
            tag: message.tag.as_deref(),
            prev: message.prev,
            deleted: message.deleted,
        }
    }

    /// Bytes of content, key and tag, as [`Message::weight`].
    pub(super) fn weight(&self) -> usize {
        self.content.len() + self.key.map_or(0, str::len) + self.tag.map_or(0, str::len)
    }

    /// The message as it is given back.
    pub(super) fn message(&self, room: &RoomName) -> Result<Message, Damaged> {
        let sender = crate::ids::UserName::new(self.sender).map_err(|_| Damaged)?;
        Ok(Message {
            room: room.clone(),
            seq: self.seq,
            prev: self.prev,
            sender,
            content: if self.deleted { Bytes::from_static(b"null") } else { Bytes::copy_from_slice(self.content) },
            timestamp: self.timestamp,
            tag: self.tag.map(Arc::from),
            key: self.key.filter(|_| !self.deleted).map(Arc::from),
            deleted: self.deleted,
        })
    }

    /// The key that was used for it, if any.
    pub(super) fn log_key(&self) -> Result<Option<LogKey>, Damaged> {
        let Some(key) = self.key else {
            return Ok(None);
        };
        let user = crate::ids::UserName::new(self.sender).map_err(|_| Damaged)?;
        Ok(Some(LogKey { user, key: key.into(), seq: self.seq, timestamp: self.timestamp }))
    }
}

const VERSION: u8 = 1;
const KEY: u8 = 1;
const TAG: u8 = 2;
const PREV: u8 = 4;
const DELETED: u8 = 8;
/// Flags, position, time, a sender of one byte, and content of none.
const ENTRY_BYTES_MIN: usize = 6;

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::UserName;

    pub(in crate::store) fn room() -> RoomName {
        RoomName::chat("lobby").unwrap()
    }

    /// Messages with rising positions.
    pub(in crate::store) fn messages() -> impl Strategy<Value = Vec<Arc<Message>>> {
        let label = || option::of("[a-zé]{1,20}".prop_map(|text| Arc::from(text.as_str())));
        let one = (
            1_u64..5_000,
            option::of(any::<u64>()),
            "[a-zA-Zß]{1,16}",
            vec(any::<u8>(), 0..300),
            any::<u64>(),
            (label(), label()),
            any::<bool>(),
        );
        vec(one, 1..20).prop_map(|drawn| {
            let mut seq = 0;
            let message = |(step, prev, sender, content, timestamp, (tag, key), deleted): (
                _,
                Option<u64>,
                String,
                Vec<u8>,
                _,
                (_, Option<_>),
                _,
            )| {
                seq += step;
                Arc::new(Message {
                    room: room(),
                    seq: Seq(seq),
                    prev: prev.map(Seq),
                    sender: UserName::new(&sender).unwrap(),
                    content: if deleted { Bytes::from_static(b"null") } else { content.into() },
                    timestamp,
                    tag,
                    key: key.filter(|_| !deleted),
                    deleted,
                })
            };
            drawn.into_iter().map(message).collect()
        })
    }

    fn decode(first: Seq, bytes: &[u8]) -> Result<Vec<Message>, Damaged> {
        Block::new(first, bytes)?.entries().map(|entry| entry?.message(&room())).collect()
    }

    proptest! {
        #[test]
        fn any_messages_come_back(messages in messages(), bytes_before in 0..u64::MAX / 2) {
            let mut out = Vec::new();
            encode(&mut out, bytes_before, &messages);
            let (first, last) = (messages[0].seq, messages[messages.len() - 1].clone());
            let header = Block::new(first, &out).unwrap().header;
            prop_assert_eq!(header.count, messages.len());
            prop_assert_eq!((header.last, header.last_timestamp), (last.seq, last.timestamp));
            prop_assert_eq!(header.bytes_before, bytes_before);
            prop_assert_eq!(header.bytes, messages.iter().map(|message| message.weight() as u64).sum::<u64>());
            let expected: Vec<Message> = messages.iter().map(|message| (**message).clone()).collect();
            prop_assert_eq!(decode(first, &out), Ok(expected));
        }

        #[test]
        fn a_message_alone_comes_back(messages in messages()) {
            let mut out = Vec::new();
            encode_message(&mut out, &messages[0]);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(decode_message(&mut cursor, &room()), Ok((*messages[0]).clone()));
            prop_assert_eq!(cursor.end(), Ok(()));
        }

        #[test]
        fn a_block_cut_short_is_damaged(messages in messages(), cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            encode(&mut out, 7, &messages);
            prop_assert_eq!(decode(messages[0].seq, &out[..cut.index(out.len())]), Err(Damaged));
        }

        #[test]
        fn damaged_bytes_never_panic(mut messages in vec(any::<u8>(), 0..200), first in any::<u64>()) {
            if let Some(version) = messages.first_mut() {
                *version = VERSION;
            }
            if let Ok(decoded) = decode(Seq(first), &messages) {
                prop_assert!(decoded.len() <= messages.len());
            }
        }

        #[test]
        fn the_buried_leave_their_place_and_their_key(messages in messages(), which in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            encode(&mut out, 7, &messages);
            let first = messages[0].seq;
            let buried = &messages[which.index(messages.len())];
            let block = Block::new(first, &out).unwrap();
            let Some(after) = block.bury(buried.seq).unwrap() else {
                prop_assert!(buried.deleted);
                return Ok(());
            };
            let block = Block::new(first, &after).unwrap();
            prop_assert_eq!(block.header, Block::new(first, &out).unwrap().header);
            let tombstone = Message { content: Bytes::from_static(b"null"), key: None, deleted: true, ..(**buried).clone() };
            let expected: Vec<Message> = messages
                .iter()
                .map(|message| if message.seq == buried.seq { tombstone.clone() } else { (**message).clone() })
                .collect();
            prop_assert_eq!(decode(first, &after), Ok(expected));
            let entry = block.entries().map(Result::unwrap).find(|entry| entry.seq == buried.seq).unwrap();
            prop_assert_eq!(entry.key, buried.key.as_deref());
            prop_assert_eq!(block.bury(buried.seq), Ok(None));
            prop_assert_eq!(block.bury(Seq(0)), Ok(None));
        }
    }
}
