//! How to speak to the target of a scenario: the names that connections and rooms have, and what all connections of a
//! worker share so as to write and read without allocating.

use std::sync::Arc;

use hubbub::codec::websocket::handshake::SUBPROTOCOL_JSON;
use memchr::memmem;

use crate::payload::StampFinder;
use crate::plan::Random;
use crate::scenario::{ConnectBy, Scenario};
use crate::target::{Protocol, Target};
use crate::users::Users;

/// What all connections of a worker share: how to speak, and buffers to speak with.
#[derive(Debug)]
pub struct Dialect {
    /// The load.
    pub scenario: Arc<Scenario>,
    /// Where it goes.
    pub target: Arc<Target>,
    users: Users,
    random: Random,
    /// Finds stamps in messages.
    pub stamps: StampFinder,
    /// Finds numbers in messages.
    pub seqs: SeqFinder,
    /// Reads the `ok`s of messages.
    pub oks: OkReader,
    /// Where messages are written before they are framed.
    pub text: Vec<u8>,
}

impl Dialect {
    /// `seed` decides mask keys only.
    #[must_use]
    pub fn new(scenario: Arc<Scenario>, target: Arc<Target>, users: Users, seed: u64) -> Self {
        let random = Random::new(seed);
        Self {
            scenario,
            target,
            users,
            random,
            stamps: StampFinder::new(),
            seqs: SeqFinder::new(),
            oks: OkReader::new(),
            text: Vec::new(),
        }
    }

    /// The name of the room of connection `index`.
    #[must_use]
    pub fn room(&self, index: u32) -> String {
        format!("{}-{}", self.scenario.room_prefix, self.scenario.layout.room_of(index))
    }

    /// A key that is never 0, which would leave the payload unmasked and spare the server a part of its work.
    pub fn mask_key(&mut self) -> [u8; 4] {
        (self.random.next_u64() as u32 | 1).to_ne_bytes()
    }

    /// What is random in an upgrade request.
    pub fn entropy(&mut self) -> [u8; 16] {
        (u128::from(self.random.next_u64()) << 64 | u128::from(self.random.next_u64())).to_ne_bytes()
    }

    /// What an upgrade asks for.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&'static str> {
        (self.target.protocol == Protocol::Chat).then_some(SUBPROTOCOL_JSON)
    }

    /// The path of connection `index`.
    #[must_use]
    pub fn path(&self, index: u32) -> String {
        let path = self.target.path_of(&self.room(index));
        let (field, value) = self.users.credential(index);
        let is_told = match self.target.protocol {
            // Relays know no names.
            Protocol::Relay => field == "token",
            _ => self.scenario.connect_by == ConnectBy::Url,
        };
        if !is_told {
            return path;
        }
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}{field}={value}")
    }

    /// The command by which connection `index` says who it is, with `more` fields.
    #[must_use]
    pub fn connect(&self, index: u32, more: &str) -> String {
        let (field, value) = self.users.credential(index);
        format!("{{\"type\":\"connect\",\"{field}\":\"{value}\"{more}}}")
    }
}

/// Reads the number after `"seq":`, looking first where the last one was.
#[derive(Debug)]
pub struct SeqFinder {
    last_at: usize,
    key: memmem::Finder<'static>,
}

impl SeqFinder {
    fn new() -> Self {
        Self { last_at: 0, key: memmem::Finder::new(SEQ_KEY) }
    }

    /// The number in `event`, if there is one.
    pub fn read(&mut self, event: &[u8]) -> Option<u64> {
        if !event.get(self.last_at..).is_some_and(|rest| rest.starts_with(SEQ_KEY)) {
            self.last_at = self.key.find(event)?;
        }
        let digits = &event[self.last_at + SEQ_KEY.len()..];
        number(digits.strip_prefix(b" ").unwrap_or(digits)).map(|(number, _)| number)
    }
}

/// An `ok` for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageOk {
    /// The `id` that the message carried.
    pub id: u64,
    /// The room's number for it.
    pub seq: u64,
    /// Whether it says that the message is on disk.
    pub durable: bool,
}

/// Reads `ok`s as hubbub writes them, without parsing what is between the fields. Every other text is left to the
/// parser.
#[derive(Debug)]
pub struct OkReader {
    seqs: SeqFinder,
}

impl OkReader {
    fn new() -> Self {
        Self { seqs: SeqFinder::new() }
    }

    /// The `ok` in `event`, if it is one for a message and has no field that says more.
    #[inline]
    pub fn read(&mut self, event: &[u8]) -> Option<MessageOk> {
        let (id, rest) = number(event.strip_prefix(OK_HEAD)?)?;
        let (rest, durable) = match rest.strip_suffix(DURABLE) {
            Some(rest) => (rest, true),
            None => (rest.strip_suffix(NOT_DURABLE)?, false),
        };
        Some(MessageOk { id, seq: self.seqs.read(rest)?, durable })
    }
}

/// The number at the head of a text, and what follows it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let len = text.iter().take(DIGITS_MAX).take_while(|digit| digit.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(len);
    (len > 0).then(|| (digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')), rest))
}

const SEQ_KEY: &[u8] = b"\"seq\":";
const OK_HEAD: &[u8] = b"{\"type\":\"ok\",\"id\":";
const DURABLE: &[u8] = b",\"durable\":true}";
const NOT_DURABLE: &[u8] = b",\"durable\":false}";
/// What fits into 64 bits whatever the digits are.
const DIGITS_MAX: usize = 19;

#[cfg(test)]
mod tests {
    use hubbub::codec::json::encode;
    use hubbub::ids::{Namespace, RoomName, Seq};
    use hubbub::message::event::{Event, Reply};

    use super::*;

    #[test]
    fn room_numbers_are_read_wherever_they_stand() {
        let mut finder = SeqFinder::new();
        let table = [
            ("{\"seq\":7,\"x\":1}", Some(7)),
            ("{\"seq\":18446744073709551615}", Some(1_844_674_407_370_955_161)),
            ("{\"room\":\"a\",\"seq\": 12}", Some(12)),
            ("{\"seq\":\"7\"}", None),
            ("{\"room\":\"a\"}", None),
        ];
        for (event, expected) in table {
            assert_eq!(finder.read(event.as_bytes()), expected, "{event}");
        }
    }

    #[test]
    fn oks_are_read_as_the_server_writes_them() {
        let ok = |durable, duplicate| {
            let room = RoomName::new(Namespace::Chat, "r-1").unwrap();
            let sent = Reply::Sent { room, seq: Seq(42), timestamp: 1_700_000_000_000, durable, duplicate };
            let mut out = Vec::new();
            encode(&Event::Ok { id: Some(7), body: sent }, &mut out);
            out
        };
        let mut reader = OkReader::new();
        for durable in [true, false] {
            assert_eq!(reader.read(&ok(durable, false)), Some(MessageOk { id: 7, seq: 42, durable }));
        }
        assert_eq!(reader.read(&ok(true, true)), None, "one that says more is parsed in full");
        for other in
            ["{\"type\":\"ok\",\"id\":1}", "{\"type\":\"ping\"}", "", "{\"type\":\"ok\",\"id\":x,\"durable\":true}"]
        {
            assert_eq!(reader.read(other.as_bytes()), None, "{other}");
        }
    }
}
