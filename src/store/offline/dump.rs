//! The store as lines of JSON, and the writing of them. `docs/storage.md` has the format.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fjall::{Readable, Slice, Snapshot};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::OfflineError;
use crate::chat::log::{CursorKind, DeadReason, SanctionKind, SanctionRecord, Scope};
use crate::ids::{Epoch, Namespace, RoomName};
use crate::store::block::{Block, Entry};
use crate::store::engine::{Engine, Space};
use crate::store::query;
use crate::store::records::{
    RoomRecord, Trim, decode_cursor, decode_letter, epoch_key, read_cursor_key, read_log_key, read_room_key,
};
use crate::store::sanctions;

/// Version of the lines.
pub const DUMP_FORMAT: u32 = 1;

/// How much was written or read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rooms.
    pub rooms: u64,
    /// Messages, tombstones included.
    pub messages: u64,
    /// Cursors.
    pub cursors: u64,
    /// Dead letters.
    pub letters: u64,
    /// Bans, mutes and revocations.
    #[serde(default)]
    pub sanctions: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rooms, messages, cursors, letters, sanctions } = self;
        write!(
            f,
            "{rooms} rooms, {messages} messages, {cursors} cursors, {letters} dead letters, {sanctions} sanctions"
        )
    }
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line<'a> {
    /// The first.
    Store { format: u32, crashes: u64 },
    /// A ban, a mute or a revocation.
    #[serde(borrow)]
    Sanction(SanctionLine<'a>),
    /// Then for each room its own, followed by all that belongs to it.
    #[serde(borrow)]
    Room(RoomLine<'a>),
    /// A message, oldest first.
    #[serde(borrow)]
    Message(MessageLine<'a>),
    #[serde(borrow)]
    Cursor(CursorLine<'a>),
    #[serde(borrow)]
    Letter(Box<LetterLine<'a>>),
    /// The last: without it something is missing.
    End(Counts),
}

/// Of a user in a room, of a user, or of a token.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SanctionLine<'a> {
    pub(super) kind: SanctionWord,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) relay: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) room: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<Cow<'a, str>>,
    /// Unix milliseconds, as is the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SanctionWord {
    Ban,
    Mute,
    Revoke,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RoomLine<'a> {
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) relay: bool,
    #[serde(borrow)]
    pub(super) room: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) epoch: Cow<'a, str>,
    pub(super) crashes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) jumps: Vec<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trim: Option<TrimLine>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TrimLine {
    pub(super) upto: u64,
    pub(super) last: u64,
    pub(super) last_timestamp: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MessageLine<'a> {
    pub(super) seq: u64,
    pub(super) timestamp: u64,
    #[serde(borrow)]
    pub(super) sender: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub(super) content: Option<&'a RawValue>,
    /// In place of `content` where that is no JSON.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) content_base64: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) tag: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prev: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) deleted: bool,
    /// With the first message of a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) block: Option<BlockLine>,
}

/// What a block says of its messages: tombstones weigh less than what they replaced, so it cannot be counted again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct BlockLine {
    pub(super) count: usize,
    pub(super) bytes_before: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CursorLine<'a> {
    #[serde(borrow)]
    pub(super) user: Cow<'a, str>,
    pub(super) kind: CursorWord,
    pub(super) seq: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CursorWord {
    Ack,
    Read,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LetterLine<'a> {
    #[serde(borrow)]
    pub(super) user: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) reason: Cow<'a, str>,
    pub(super) attempts: u32,
    pub(super) at_ms: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) replay: bool,
    #[serde(borrow)]
    pub(super) message: MessageLine<'a>,
}

/// What is given is there, though it be `null`.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls it with")]
fn is_false(value: &bool) -> bool {
    !value
}

impl From<CursorKind> for CursorWord {
    fn from(kind: CursorKind) -> Self {
        match kind {
            CursorKind::Ack => Self::Ack,
            CursorKind::Read => Self::Read,
        }
    }
}

impl From<CursorWord> for CursorKind {
    fn from(word: CursorWord) -> Self {
        match word {
            CursorWord::Ack => Self::Ack,
            CursorWord::Read => Self::Read,
        }
    }
}

/// The reason of that name.
pub(super) fn reason(name: &str) -> Option<DeadReason> {
    DeadReason::ALL.into_iter().find(|reason| reason.as_str() == name)
}

impl From<SanctionKind> for SanctionWord {
    fn from(kind: SanctionKind) -> Self {
        match kind {
            SanctionKind::Ban => Self::Ban,
            SanctionKind::Mute => Self::Mute,
            SanctionKind::Revoke => Self::Revoke,
        }
    }
}

impl From<SanctionWord> for SanctionKind {
    fn from(word: SanctionWord) -> Self {
        match word {
            SanctionWord::Ban => Self::Ban,
            SanctionWord::Mute => Self::Mute,
            SanctionWord::Revoke => Self::Revoke,
        }
    }
}

impl<'a> SanctionLine<'a> {
    fn of(record: &'a SanctionRecord) -> Self {
        let (room, user, token) = match &record.scope {
            Scope::Room(room, user) => (Some(room), Some(user), None),
            Scope::User(user) => (None, Some(user), None),
            Scope::Token(token) => (None, None, Some(token)),
        };
        Self {
            kind: record.kind.into(),
            relay: room.is_some_and(|room| room.namespace() == Namespace::Relay),
            room: room.map(|room| room.as_str().into()),
            user: user.map(|user| user.as_str().into()),
            token: token.map(|token| (&**token).into()),
            until: record.until_unix_ms,
            before: record.before_unix_ms,
            by: record.by.as_ref().map(|by| by.as_str().into()),
            reason: record.reason.as_deref().map(Cow::from),
        }
    }
}

impl<'a> MessageLine<'a> {
    fn of(entry: &Entry<'a>) -> Self {
        let content = serde_json::from_slice::<&RawValue>(entry.content).ok();
        let content = content.filter(|raw| raw.get().as_bytes() == entry.content);
        Self {
            seq: entry.seq.0,
            timestamp: entry.timestamp,
            sender: entry.sender.into(),
            content,
            content_base64: content.is_none().then(|| STANDARD.encode(entry.content).into()),
            key: entry.key.map(Cow::from),
            tag: entry.tag.map(Cow::from),
            prev: entry.prev.map(|prev| prev.0),
            deleted: entry.deleted,
            block: None,
        }
    }
}

/// Writes everything but the sessions, which are secrets and do not outlive a move. `is_recalled` says when to give up.
pub(super) fn dump(
    engine: &Engine,
    out: &mut dyn Write,
    is_recalled: &dyn Fn() -> bool,
) -> Result<Counts, OfflineError> {
    let mut dump = Dump { engine, view: engine.snapshot(), out, is_recalled, counts: Counts::default() };
    dump.put(&Line::Store { format: DUMP_FORMAT, crashes: engine.crashes()? })?;
    for guard in dump.view.iter(engine.space(Space::Sanctions)) {
        let (_, value) = guard.into_inner()?;
        dump.counts.sanctions += 1;
        dump.put(&Line::Sanction(SanctionLine::of(&sanctions::decode(&value)?)))?;
    }
    for guard in dump.view.iter(engine.space(Space::Rooms)) {
        let (key, value) = guard.into_inner()?;
        dump.room(&read_room_key(&key)?, &RoomRecord::decode(&value)?)?;
    }
    dump.put(&Line::End(dump.counts))?;
    Ok(dump.counts)
}

struct Dump<'a> {
    engine: &'a Engine,
    view: Snapshot,
    out: &'a mut dyn Write,
    is_recalled: &'a dyn Fn() -> bool,
    counts: Counts,
}

impl Dump<'_> {
    fn room(&mut self, room: &RoomName, record: &RoomRecord) -> Result<(), OfflineError> {
        let epoch = record.epoch;
        let trim = self.view.get(self.engine.space(Space::Trims), epoch_key(epoch))?;
        let trim = trim.map(|trim| Trim::decode(&trim)).transpose()?;
        self.put(&Line::Room(RoomLine {
            relay: room.namespace() == Namespace::Relay,
            room: room.as_str().into(),
            epoch: epoch.to_string().into(),
            crashes: record.crashes,
            jumps: record.jumps.iter().map(|jump| (jump.prev.0, jump.next.0)).collect(),
            trim: trim.map(|trim| TrimLine {
                upto: trim.upto.0,
                last: trim.last.0,
                last_timestamp: trim.last_timestamp,
                bytes: trim.bytes,
            }),
        }))?;
        self.counts.rooms += 1;
        self.messages(epoch, trim.unwrap_or_default())?;
        for guard in self.view.prefix(self.engine.space(Space::Cursors), epoch_key(epoch)) {
            let (key, value) = guard.into_inner()?;
            let (_, kind, user) = read_cursor_key(&key)?;
            let seq = decode_cursor(&value)?.0;
            self.counts.cursors += 1;
            self.put(&Line::Cursor(CursorLine { user: user.as_str().into(), kind: kind.into(), seq }))?;
        }
        for guard in self.view.prefix(self.engine.space(Space::Letters), epoch_key(epoch)) {
            let (key, value) = guard.into_inner()?;
            self.letter(&key, &value)?;
        }
        Ok(())
    }

    /// The messages that retention has left.
    fn messages(&mut self, epoch: Epoch, trim: Trim) -> Result<(), OfflineError> {
        let range = query::blocks(epoch, trim, query::END);
        for guard in self.view.range(self.engine.space(Space::Log), range) {
            let (key, value) = guard.into_inner()?;
            let block = Block::new(read_log_key(&key)?.1, &value)?;
            let entries = block.entries().collect::<Result<Vec<_>, _>>()?;
            let (gone, left) = entries.split_at(entries.partition_point(|entry| entry.seq <= trim.upto));
            let gone_bytes = gone.iter().map(|entry| entry.weight() as u64).sum::<u64>().min(block.header.bytes);
            let mut about = Some(BlockLine {
                count: left.len(),
                bytes_before: block.header.bytes_before.saturating_add(gone_bytes),
                bytes: block.header.bytes - gone_bytes,
            });
            for entry in left {
                self.counts.messages += 1;
                self.put(&Line::Message(MessageLine { block: about.take(), ..MessageLine::of(entry) }))?;
            }
        }
        Ok(())
    }

    fn letter(&mut self, key: &Slice, value: &Slice) -> Result<(), OfflineError> {
        let letter = decode_letter(key, value)?;
        self.counts.letters += 1;
        self.put(&Line::Letter(Box::new(LetterLine {
            user: letter.user.as_str().into(),
            reason: letter.reason.as_str().into(),
            attempts: letter.attempts,
            at_ms: letter.at_ms,
            replay: letter.replay,
            message: MessageLine::of(&Entry::of(&letter.message)),
        })))
    }

    fn put(&mut self, line: &Line<'_>) -> Result<(), OfflineError> {
        if (self.is_recalled)() {
            return Err(OfflineError::Interrupted);
        }
        let fails = |source| OfflineError::Io { what: "the output".to_owned(), source };
        serde_json::to_writer(&mut *self.out, line).map_err(|error| fails(error.into()))?;
        self.out.write_all(b"\n").map_err(fails)
    }
}
