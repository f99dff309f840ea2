//! Keys of every keyspace, and the records that are not blocks.
//!
//! Keys begin with the epoch where there is one, so that all of a log lies together; integers in keys are written with
//! the highest byte first, so that their order is that of the bytes.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `rooms` | namespace (1 byte) · name | version · epoch · crashes · count · (prev · next)* |
//! | `log` | epoch · first seq | a block |
//! | `trims` | epoch | version · upto · last · last_timestamp · bytes |
//! | `cursors` | epoch · kind (1 byte) · user | seq |
//! | `letters` | epoch · user · 0 · seq | version · reason · attempts · at_ms · replay · room · message |
//! | `sessions` | id (16 bytes) | version · user · count · (flags · room · count · tag*)* |

use std::sync::Arc;

use super::block;
use super::encoding::{Cursor, Damaged, put_bytes, put_integer, put_room};
use crate::chat::log::{CursorKind, DeadLetter, DeadReason, Jump, SessionRecord, SessionRoom};
use crate::ids::{Epoch, RoomName, Seq, SessionId, UserName};

/// What is kept of a room's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RoomRecord {
    pub(super) epoch: Epoch,
    /// Unclean stops of the store before the room was registered.
    pub(super) crashes: u64,
    pub(super) jumps: Vec<Jump>,
}

/// What retention has taken of a log, and what must be known of it all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trim {
    /// Everything up to here is gone for readers.
    pub(super) upto: Seq,
    /// The last message of the last block that was removed; not after `upto`.
    pub(super) last: Seq,
    /// Its time.
    pub(super) last_timestamp: u64,
    /// Bytes of all messages up to it.
    pub(super) bytes: u64,
}

pub(super) fn room_key(room: &RoomName) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + room.as_str().len());
    put_room(&mut key, room);
    key
}

pub(super) fn read_room_key(key: &[u8]) -> Result<RoomName, Damaged> {
    Cursor::new(key).room()
}

/// Key of the block that begins with `first`.
pub(super) fn log_key(epoch: Epoch, first: Seq) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&epoch.0.to_be_bytes());
    key[8..].copy_from_slice(&first.0.to_be_bytes());
    key
}

pub(super) fn read_log_key(key: &[u8]) -> Result<(Epoch, Seq), Damaged> {
    let mut cursor = Cursor::new(key);
    let read = (Epoch(cursor.fixed()?), Seq(cursor.fixed()?));
    cursor.end()?;
    Ok(read)
}

pub(super) fn epoch_key(epoch: Epoch) -> [u8; 8] {
    epoch.0.to_be_bytes()
}

pub(super) fn read_epoch_key(key: &[u8]) -> Result<Epoch, Damaged> {
    let mut cursor = Cursor::new(key);
    let epoch = Epoch(cursor.fixed()?);
    cursor.end()?;
    Ok(epoch)
}

pub(super) fn cursor_key(epoch: Epoch, kind: CursorKind, user: &UserName) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + user.as_str().len());
    key.extend_from_slice(&epoch_key(epoch));
    key.push(match kind {
        CursorKind::Ack => 0,
        CursorKind::Read => 1,
    });
    key.extend_from_slice(user.as_str().as_bytes());
    key
}

pub(super) fn read_cursor_key(key: &[u8]) -> Result<(Epoch, CursorKind, UserName), Damaged> {
    let mut cursor = Cursor::new(key);
    let epoch = Epoch(cursor.fixed()?);
    let kind = match cursor.byte()? {
        0 => CursorKind::Ack,
        1 => CursorKind::Read,
        _ => return Err(Damaged),
    };
    Ok((epoch, kind, user(cursor.take(cursor.len())?)?))
}

/// What the keys of a user's letters begin with. No name has a zero byte, so no name's letters begin like another's.
pub(super) fn letters_prefix(epoch: Epoch, user: &UserName) -> Vec<u8> {
    let mut key = Vec::with_capacity(17 + user.as_str().len());
    key.extend_from_slice(&epoch_key(epoch));
    key.extend_from_slice(user.as_str().as_bytes());
    key.push(0);
    key
}

pub(super) fn letter_key(epoch: Epoch, user: &UserName, seq: Seq) -> Vec<u8> {
    let mut key = letters_prefix(epoch, user);
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

pub(super) fn read_letter_key(key: &[u8]) -> Result<(Epoch, UserName, Seq), Damaged> {
    let mut cursor = Cursor::new(key);
    let epoch = Epoch(cursor.fixed()?);
    let name = cursor.take(cursor.len().checked_sub(9).ok_or(Damaged)?)?;
    if cursor.byte()? != 0 {
        return Err(Damaged);
    }
    Ok((epoch, user(name)?, Seq(cursor.fixed()?)))
}

pub(super) fn session_key(id: SessionId) -> [u8; 16] {
    id.0.to_be_bytes()
}

pub(super) fn read_session_key(key: &[u8]) -> Result<SessionId, Damaged> {
    Ok(SessionId(u128::from_be_bytes(key.try_into().map_err(|_| Damaged)?)))
}

fn user(bytes: &[u8]) -> Result<UserName, Damaged> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| Damaged)?;
    UserName::new(text).map_err(|_| Damaged)
}

/// Reads the version that every record begins with.
fn begin(bytes: &[u8]) -> Result<Cursor<'_>, Damaged> {
    let mut cursor = Cursor::new(bytes);
    if cursor.byte()? == VERSION { Ok(cursor) } else { Err(Damaged) }
}

impl RoomRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_integer(&mut out, self.epoch.0);
        put_integer(&mut out, self.crashes);
        put_integer(&mut out, self.jumps.len() as u64);
        for jump in &self.jumps {
            put_integer(&mut out, jump.prev.0);
            put_integer(&mut out, jump.next.0);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut cursor = begin(bytes)?;
        let (epoch, crashes) = (Epoch(cursor.integer()?), cursor.integer()?);
        let mut jumps = Vec::with_capacity(cursor.clone().count(2)?);
        for _ in 0..cursor.count(2)? {
            jumps.push(Jump { prev: Seq(cursor.integer()?), next: Seq(cursor.integer()?) });
        }
        cursor.end()?;
        Ok(Self { epoch, crashes, jumps })
    }
}

impl Trim {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for integer in [self.upto.0, self.last.0, self.last_timestamp, self.bytes] {
            put_integer(&mut out, integer);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut cursor = begin(bytes)?;
        let trim = Self {
            upto: Seq(cursor.integer()?),
            last: Seq(cursor.integer()?),
            last_timestamp: cursor.integer()?,
            bytes: cursor.integer()?,
        };
        cursor.end()?;
        Ok(trim)
    }
}

pub(super) fn encode_cursor(seq: Seq) -> [u8; 8] {
    seq.0.to_be_bytes()
}

pub(super) fn decode_cursor(bytes: &[u8]) -> Result<Seq, Damaged> {
    Ok(Seq(read_epoch_key(bytes)?.0))
}

pub(super) fn encode_letter(letter: &DeadLetter) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.push(letter.reason as u8);
    put_integer(&mut out, u64::from(letter.attempts));
    put_integer(&mut out, letter.at_ms);
    out.push(u8::from(letter.replay));
    let mut room = Vec::new();
    put_room(&mut room, &letter.message.room);
    put_bytes(&mut out, &room);
    block::encode_message(&mut out, &letter.message);
    out
}

pub(super) fn decode_letter(key: &[u8], bytes: &[u8]) -> Result<DeadLetter, Damaged> {
    let (epoch, user, seq) = read_letter_key(key)?;
    let mut cursor = begin(bytes)?;
    let reason = *DeadReason::ALL.get(usize::from(cursor.byte()?)).ok_or(Damaged)?;
    let attempts = u32::try_from(cursor.integer()?).map_err(|_| Damaged)?;
    let at_ms = cursor.integer()?;
    let replay = flag(cursor.byte()?)?;
    let room = Cursor::new(cursor.bytes()?).room()?;
    let message = Arc::new(block::decode_message(&mut cursor, &room)?);
    cursor.end()?;
    if message.seq != seq {
        return Err(Damaged);
    }
    Ok(DeadLetter { epoch, user, message, reason, attempts, at_ms, replay })
}

pub(super) fn encode_session(session: &SessionRecord) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_bytes(&mut out, session.user.as_str().as_bytes());
    put_integer(&mut out, session.rooms.len() as u64);
    let mut name = Vec::new();
    for room in &session.rooms {
        out.push(u8::from(room.presence) | u8::from(room.ack) << 1);
        name.clear();
        put_room(&mut name, &room.room);
        put_bytes(&mut out, &name);
        put_integer(&mut out, room.tags.len() as u64);
        for tag in &room.tags {
            put_bytes(&mut out, tag.as_bytes());
        }
    }
    out
}

pub(super) fn decode_session(key: &[u8], bytes: &[u8]) -> Result<SessionRecord, Damaged> {
    let id = read_session_key(key)?;
    let mut cursor = begin(bytes)?;
    let user = cursor.user()?;
    let mut rooms = Vec::new();
    for _ in 0..cursor.count(4)? {
        let flags = cursor.byte()?;
        if flags > 3 {
            return Err(Damaged);
        }
        let room = Cursor::new(cursor.bytes()?).room()?;
        let tags = (0..cursor.count(1)?).map(|_| cursor.label()).collect::<Result<_, _>>()?;
        rooms.push(SessionRoom { room, tags, presence: flags & 1 != 0, ack: flags & 2 != 0 });
    }
    cursor.end()?;
    Ok(SessionRecord { id, user, rooms })
}

fn flag(byte: u8) -> Result<bool, Damaged> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Damaged),
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn ann() -> UserName {
        UserName::new("ann").unwrap()
    }

    fn letter(message: crate::message::event::Message) -> DeadLetter {
        DeadLetter {
            epoch: Epoch(7),
            user: ann(),
            message: Arc::new(message),
            reason: DeadReason::Retention,
            attempts: 5,
            at_ms: 1_700_000_000_000,
            replay: true,
        }
    }

    proptest! {
        #[test]
        fn records_come_back(integers in any::<[u64; 4]>(), jumps in vec((any::<u64>(), any::<u64>()), 0..5)) {
            let [a, b, c, d] = integers;
            let jumps = jumps.into_iter().map(|(prev, next)| Jump { prev: Seq(prev), next: Seq(next) }).collect();
            let room = RoomRecord { epoch: Epoch(a), crashes: b, jumps };
            prop_assert_eq!(RoomRecord::decode(&room.encode()), Ok(room));
            let trim = Trim { upto: Seq(a), last: Seq(b), last_timestamp: c, bytes: d };
            prop_assert_eq!(Trim::decode(&trim.encode()), Ok(trim));
            prop_assert_eq!(decode_cursor(&encode_cursor(Seq(a))), Ok(Seq(a)));
        }

        #[test]
        fn letters_come_back(messages in block::tests::messages()) {
            let letter = letter((*messages[0]).clone());
            let key = letter_key(letter.epoch, &letter.user, letter.message.seq);
            prop_assert_eq!(decode_letter(&key, &encode_letter(&letter)), Ok(letter));
        }

        #[test]
        fn damaged_records_never_panic(mut bytes in vec(any::<u8>(), 0..100), key in vec(any::<u8>(), 0..40)) {
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            if let Ok(record) = RoomRecord::decode(&bytes) {
                prop_assert!(record.jumps.len() <= bytes.len());
            }
            let _ = (Trim::decode(&bytes), decode_letter(&key, &bytes), decode_session(&key, &bytes));
            let _ = (read_room_key(&key), read_log_key(&key), read_cursor_key(&key), read_letter_key(&key));
        }
    }

    #[test]
    fn sessions_come_back_and_no_shorter_record_does() {
        let room = |name, tags: &[&str], presence, ack| SessionRoom {
            room: RoomName::chat(name).unwrap(),
            tags: tags.iter().map(|tag| Arc::from(*tag)).collect(),
            presence,
            ack,
        };
        let rooms = vec![room("lobby", &["a", "b"], true, false), room("@ann", &[], false, true)];
        let session = SessionRecord { id: SessionId(u128::MAX - 3), user: ann(), rooms };
        let (key, bytes) = (session_key(session.id), encode_session(&session));
        assert_eq!(decode_session(&key, &bytes), Ok(session));
        for cut in 0..bytes.len() {
            assert_eq!(decode_session(&key, &bytes[..cut]), Err(Damaged), "{cut}");
        }
    }

    #[test]
    fn keys_sort_by_epoch_and_then_by_position() {
        let keys = [(1, 5), (1, 256), (2, 1), (256, 0)].map(|(epoch, seq)| log_key(Epoch(epoch), Seq(seq)));
        assert!(keys.is_sorted());
        assert_eq!(read_log_key(&keys[1]), Ok((Epoch(1), Seq(256))));
    }

    #[test]
    fn keys_of_users_come_back_and_do_not_mix() {
        let key = cursor_key(Epoch(9), CursorKind::Read, &ann());
        assert_eq!(read_cursor_key(&key), Ok((Epoch(9), CursorKind::Read, ann())));
        let key = letter_key(Epoch(9), &ann(), Seq(3));
        assert_eq!(read_letter_key(&key), Ok((Epoch(9), ann(), Seq(3))));
        let anna = letter_key(Epoch(9), &UserName::new("anna").unwrap(), Seq(3));
        assert!(!anna.starts_with(&letters_prefix(Epoch(9), &ann())));
    }
}
