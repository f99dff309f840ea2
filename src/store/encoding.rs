//! Bytes and what they are made of: integers of variable length (LEB128), texts with their length before them.
//!
//! Invariant: reading never panics and never allocates more than a small multiple of what it was given; whatever was
//! not written here is [`Damaged`].

use std::sync::Arc;

use crate::ids::{Namespace, RoomName, UserName};

/// What was read is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record is damaged")]
pub struct Damaged;

/// Reads a record from its start.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    left: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// How much is left, in bytes: no count of anything that follows can be larger.
    pub(super) fn len(&self) -> usize {
        self.left.len()
    }

    /// Fails unless everything was read.
    pub(super) fn end(&self) -> Result<(), Damaged> {
        if self.is_empty() { Ok(()) } else { Err(Damaged) }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let (taken, left) = self.left.split_at_checked(len).ok_or(Damaged)?;
        self.left = left;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Damaged> {
        Ok(self.take(1)?[0])
    }

    /// An integer in its order of keys: eight bytes, the highest first.
    pub(super) fn fixed(&mut self) -> Result<u64, Damaged> {
        let bytes = self.take(8)?;
        Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| Damaged)?))
    }

    /// An integer of so many bytes, at most eight, the lowest first.
    pub(super) fn little(&mut self, len: usize) -> Result<u64, Damaged> {
        Ok(self.take(len)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    pub(super) fn integer(&mut self) -> Result<u64, Damaged> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Damaged);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damaged)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let len = usize::try_from(self.integer()?).map_err(|_| Damaged)?;
        self.take(len)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Damaged> {
        simdutf8::basic::from_utf8(self.bytes()?).map_err(|_| Damaged)
    }

    pub(super) fn label(&mut self) -> Result<Arc<str>, Damaged> {
        Ok(self.text()?.into())
    }

    pub(super) fn user(&mut self) -> Result<UserName, Damaged> {
        UserName::new(self.text()?).map_err(|_| Damaged)
    }

    /// All that is left, as the name of a room.
    pub(super) fn room(&mut self) -> Result<RoomName, Damaged> {
        let namespace = self.byte()?;
        let text = simdutf8::basic::from_utf8(self.left).map_err(|_| Damaged)?;
        self.left = &[];
        match namespace {
            0 => RoomName::chat(text).map_err(|_| Damaged),
            1 => RoomName::new(Namespace::Relay, text).map_err(|_| Damaged),
            _ => Err(Damaged),
        }
    }

    /// How many things follow that take at least `bytes_min` each.
    pub(super) fn count(&mut self, bytes_min: usize) -> Result<usize, Damaged> {
        let count = usize::try_from(self.integer()?).map_err(|_| Damaged)?;
        if count > self.left.len() / bytes_min { Err(Damaged) } else { Ok(count) }
    }
}

pub(super) fn put_integer(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_integer(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_room(out: &mut Vec<u8>, room: &RoomName) {
    out.push(match room.namespace() {
        Namespace::Chat => 0,
        Namespace::Relay => 1,
    });
    out.extend_from_slice(room.as_str().as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_come_back(value in prop_oneof![any::<u64>(), 0_u64..300, Just(u64::MAX)]) {
            let mut out = Vec::new();
            put_integer(&mut out, value);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.integer(), Ok(value));
            prop_assert_eq!(cursor.end(), Ok(()));
            prop_assert_eq!(Cursor::new(&out[..out.len() - 1]).integer(), Err(Damaged));
        }
    }

    #[test]
    fn an_integer_that_is_too_long_is_damage() {
        assert_eq!(Cursor::new(&[0x80; 20]).integer(), Err(Damaged));
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).integer(), Err(Damaged));
    }

    #[test]
    fn a_count_is_no_larger_than_what_follows() {
        assert_eq!(Cursor::new(&[3, 0, 0, 0, 0, 0, 0]).count(2), Ok(3));
        assert_eq!(Cursor::new(&[4, 0, 0, 0, 0, 0, 0]).count(2), Err(Damaged));
    }

    #[test]
    fn rooms_of_both_kinds_come_back() {
        let rooms = [
            RoomName::chat("lobby").unwrap(),
            RoomName::chat("@ann").unwrap(),
            RoomName::new(Namespace::Relay, "lobby").unwrap(),
        ];
        for room in rooms {
            let mut out = Vec::new();
            put_room(&mut out, &room);
            assert_eq!(Cursor::new(&out).room(), Ok(room));
        }
        assert_eq!(Cursor::new(b"\x02lobby").room().unwrap_err(), Damaged);
    }
}
