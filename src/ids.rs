//! Identifiers: newtypes over integers and shared names.
//!
//! Invariant: a name that exists has passed its rules, so nothing behind the edge checks a name again.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::limits::{ROOM_NAME_BYTES_MAX, USER_NAME_BYTES_MAX};

/// A shard of this process, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard's place in tables with one entry per shard.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A connection of one shard. The generation tells apart connections that used the same slot in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Place in the shard's slab of connections.
    pub slot: u32,
    /// Counts the slot's uses, modulo 2^24.
    pub generation: u32,
}

/// A connection of any shard. Written `s`, the shard, the slot and the generation, with `-` between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The shard that owns the connection.
    pub shard: ShardId,
    /// The connection there.
    pub conn: ConnId,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}-{}-{}", self.shard.0, self.conn.slot, self.conn.generation)
    }
}

impl FromStr for Member {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut numbers = text.strip_prefix('s').ok_or(NameError::Connection)?.splitn(3, '-');
        let mut next = || numbers.next().ok_or(NameError::Connection);
        let (shard, slot, generation) = (next()?, next()?, next()?);
        let number = |text: &str| text.parse::<u32>().map_err(|_| NameError::Connection);
        let shard = shard.parse().map(ShardId).map_err(|_| NameError::Connection)?;
        Ok(Self { shard, conn: ConnId { slot: number(slot)?, generation: number(generation)? } })
    }
}

/// Position of a message in its room's log; the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One life of a room's log. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() != 16 || text.bytes().any(|b| !b.is_ascii_hexdigit()) {
            return Err(NameError::Epoch);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| NameError::Epoch)
    }
}

/// The secret with which a client resumes its session. Never logged. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

impl FromStr for SessionId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() != 32 || text.bytes().any(|b| !b.is_ascii_hexdigit()) {
            return Err(NameError::Session);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| NameError::Session)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(secret)")
    }
}

/// Rooms of the chat protocol and rooms of the relay never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// Rooms of the chat protocol.
    Chat,
    /// Rooms under `/relay/`.
    Relay,
}

/// The name of a room with its namespace; cheap to clone and to send to another shard.
#[derive(Clone, Debug)]
pub struct RoomName(Arc<RoomNameInner>);

#[derive(Debug)]
struct RoomNameInner {
    placement_hash: u64,
    namespace: Namespace,
    text: Box<str>,
}

impl RoomName {
    /// Checks `text` against the rules for names: 1 to 128 bytes, no control characters, no space at either
    /// end, and no leading `@` (reserved for private inboxes).
    pub fn new(namespace: Namespace, text: &str) -> Result<Self, NameError> {
        check_name(text, ROOM_NAME_BYTES_MAX)?;
        if text.starts_with('@') {
            return Err(NameError::Reserved);
        }
        Ok(Self::unchecked(namespace, text))
    }

    fn unchecked(namespace: Namespace, text: &str) -> Self {
        let seed = match namespace {
            Namespace::Chat => 0,
            Namespace::Relay => 1,
        };
        let placement_hash = xxh3_64_with_seed(text.as_bytes(), seed);
        Self(Arc::new(RoomNameInner { placement_hash, namespace, text: text.into() }))
    }

    /// The name of a chat room that may be an inbox.
    pub fn chat(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix('@') {
            Some(user) => UserName::new(user).map(|user| Self::inbox(&user)),
            None => Self::new(Namespace::Chat, text),
        }
    }

    /// The inbox of a user: `@` and the user's name. Only that user reads it.
    #[must_use]
    pub fn inbox(user: &UserName) -> Self {
        Self::unchecked(Namespace::Chat, &format!("@{}", user.as_str()))
    }

    /// Where inboxes lie among all names.
    #[must_use]
    pub fn inboxes() -> std::ops::Range<Self> {
        // What comes after `@` is `A`.
        Self::unchecked(Namespace::Chat, "@")..Self::unchecked(Namespace::Chat, "A")
    }

    /// Whose inbox this is, if it is one.
    #[must_use]
    pub fn inbox_of(&self) -> Option<&str> {
        self.0.text.strip_prefix('@')
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Which kind of room it names.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        self.0.namespace
    }

    /// XXH3-64 of the name's bytes, seeded with 0 for chat rooms and 1 for relay rooms. It decides the owner
    /// shard and nothing else: peers choose names, so tables hash the text with a random key instead.
    #[must_use]
    pub fn placement_hash(&self) -> u64 {
        self.0.placement_hash
    }
}

impl PartialEq for RoomName {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.namespace == other.0.namespace && self.0.text == other.0.text)
    }
}

impl Eq for RoomName {}

impl Hash for RoomName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.namespace.hash(state);
        self.0.text.hash(state);
    }
}

impl PartialOrd for RoomName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RoomName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let namespace = (self.0.namespace as u8).cmp(&(other.0.namespace as u8));
        namespace.then_with(|| self.0.text.cmp(&other.0.text))
    }
}

/// The name of a user: a token's subject, or in open mode the name that the client gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Arc<str>);

impl UserName {
    /// Checks `text` against the rules for names: 1 to 64 bytes, no control characters, no space at either end.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name(text, USER_NAME_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a name was refused. The text goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("the name is empty")]
    Empty,
    /// Longer than its limit.
    #[error("the name is longer than {0} bytes")]
    TooLong(usize),
    /// A character that could break a log line or a terminal.
    #[error("the name has a control character")]
    Control,
    /// White space at either end.
    #[error("the name begins or ends with white space")]
    Space,
    /// A leading `@`.
    #[error("names that begin with @ are reserved")]
    Reserved,
    /// Not 16 hexadecimal digits.
    #[error("an epoch is 16 hexadecimal digits")]
    Epoch,
    /// Not 32 hexadecimal digits.
    #[error("a session is 32 hexadecimal digits")]
    Session,
    /// Not what `welcome` calls a connection.
    #[error("a connection is written as in `welcome`, such as s0-12-3")]
    Connection,
}

fn check_name(text: &str, bytes_max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > bytes_max {
        return Err(NameError::TooLong(bytes_max));
    }
    if text.chars().any(is_forbidden) {
        return Err(NameError::Control);
    }
    if text.trim() != text {
        return Err(NameError::Space);
    }
    Ok(())
}

/// Control characters, line separators and the marks that turn the direction of text.
pub(crate) fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_edge() {
        assert_eq!(UserName::new(""), Err(NameError::Empty));
        assert_eq!(UserName::new(" ann"), Err(NameError::Space));
        assert_eq!(UserName::new("a\nb"), Err(NameError::Control));
        assert_eq!(UserName::new("a\u{202e}b"), Err(NameError::Control));
        assert_eq!(UserName::new(&"x".repeat(65)), Err(NameError::TooLong(64)));
        assert_eq!(RoomName::new(Namespace::Chat, "@ann").unwrap_err(), NameError::Reserved);
        assert_eq!(RoomName::new(Namespace::Chat, "größe 1").unwrap().as_str(), "größe 1");
    }

    #[test]
    fn placement_hash_is_fixed() {
        // Rooms must be found at the same owner by every build; these figures may never change.
        let lobby = RoomName::new(Namespace::Chat, "lobby").unwrap();
        assert_eq!(lobby.placement_hash(), xxhash_rust::xxh3::xxh3_64(b"lobby"));
        let relay = RoomName::new(Namespace::Relay, "lobby").unwrap();
        assert_ne!(lobby.placement_hash(), relay.placement_hash());
        assert_ne!(lobby, relay);
    }

    #[test]
    fn a_connection_reads_back_what_it_writes() {
        let member = Member { shard: ShardId(3), conn: ConnId { slot: 12, generation: 7 } };
        assert_eq!(member.to_string(), "s3-12-7");
        assert_eq!("s3-12-7".parse(), Ok(member));
        for wrong in ["", "3-12-7", "s3-12", "s3-12-7-1", "s70000-1-1", "s1--1"] {
            assert_eq!(wrong.parse::<Member>(), Err(NameError::Connection), "{wrong}");
        }
    }

    #[test]
    fn epoch_reads_back_what_it_writes() {
        let epoch = Epoch(0x0123_4567_89ab_cdef);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert_eq!("+123456789abcdef".parse::<Epoch>(), Err(NameError::Epoch));
    }
}
