//! Making a store of lines of JSON.
//!
//! Nothing in the lines is believed: names, order and counts are checked, and what is wrong is named with its line. The
//! store is made beside its place and moved there when it is whole.

use std::borrow::Cow;
use std::io::BufRead;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fjall::OwnedWriteBatch;

use super::OfflineError;
use super::dump::{BlockLine, Counts, DUMP_FORMAT, Line, MessageLine, RoomLine, SanctionLine, reason};
use crate::chat::log::{DeadLetter, Jump, SanctionRecord, Scope};
use crate::ids::{Epoch, Namespace, RoomName, Seq, UserName};
use crate::message::event::Message;
use crate::store::block::{self, Entry};
use crate::store::engine::{Engine, Space, explain_io};
use crate::store::records::{
    RoomRecord, Trim, cursor_key, encode_cursor, encode_letter, epoch_key, letter_key, log_key, room_key,
};
use crate::store::sanctions;

/// What becomes of the epochs of rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epochs {
    /// Each room begins a new one: clients may have seen messages that were not in the backup, and their positions
    /// must not mean others.
    New,
    /// They stay: the store that was exported was not used since.
    Keep,
}

pub(super) fn import(dir: &Path, input: &mut dyn BufRead, epochs: Epochs) -> Result<Counts, OfflineError> {
    if dir.exists() && std::fs::read_dir(dir).map_err(|source| explain_io(dir, source))?.next().is_some() {
        return Err(OfflineError::NotEmpty(dir.to_owned()));
    }
    let mut beside = dir.as_os_str().to_owned();
    beside.push(".importing");
    let beside = Path::new(&beside);
    if beside.exists() {
        std::fs::remove_dir_all(beside).map_err(|source| explain_io(beside, source))?;
    }
    let engine = Engine::open(beside)?;
    let batch = engine.batch(BATCH);
    let import = Import { engine: &engine, epochs, batch, room: None, block: Vec::new(), counts: Counts::default() };
    let counts = import.read(input)?;
    engine.flush()?;
    drop(engine);
    if dir.exists() {
        std::fs::remove_dir(dir).map_err(|source| explain_io(dir, source))?;
    }
    std::fs::rename(beside, dir).map_err(|source| explain_io(dir, source))?;
    Ok(counts)
}

struct Import<'a> {
    engine: &'a Engine,
    epochs: Epochs,
    batch: OwnedWriteBatch,
    room: Option<Room>,
    /// Messages that become one block, and what the blocks they come from said.
    block: Vec<Message>,
    counts: Counts,
}

/// The room whose lines come.
struct Room {
    name: RoomName,
    epoch: Epoch,
    last: Seq,
    about: BlockLine,
    /// How many messages are missing from the block that came last.
    missing: usize,
    bytes: usize,
}

/// What is wrong with a line.
enum Problem {
    Text(Cow<'static, str>),
    Offline(OfflineError),
}

impl From<&'static str> for Problem {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl<E: Into<OfflineError>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Offline(error.into())
    }
}

impl Import<'_> {
    fn read(mut self, input: &mut dyn BufRead) -> Result<Counts, OfflineError> {
        let mut text = Vec::new();
        let mut is_whole = false;
        for line in 1.. {
            text.clear();
            let read = input.read_until(b'\n', &mut text);
            let read = read.map_err(|source| OfflineError::Io { what: "the input".to_owned(), source })?;
            let taken = match (read, is_whole) {
                (0, true) => break,
                (0, false) => Err("the end is missing: this was not written to its end".into()),
                (_, true) => Err("something follows the end".into()),
                (_, false) => self.line(&text, line),
            };
            is_whole = taken.map_err(|problem| match problem {
                Problem::Text(problem) => OfflineError::Line { line, problem: problem.into_owned() },
                Problem::Offline(error) => error,
            })?;
        }
        self.end_block()?;
        self.write()?;
        self.engine.sync()?;
        Ok(self.counts)
    }

    /// Takes a line; true if it was the last.
    fn line(&mut self, text: &[u8], number: u64) -> Result<bool, Problem> {
        let line: Line<'_> = serde_json::from_slice(text).map_err(|error| Problem::Text(error.to_string().into()))?;
        match line {
            Line::Store { format, crashes } if number == 1 => {
                if format != DUMP_FORMAT {
                    return Err("another version wrote this: its format is not known".into());
                }
                self.engine.set_crashes(crashes)?;
            }
            _ if number == 1 => return Err("the first line says of which format it is".into()),
            Line::Store { .. } => return Err("this belongs at the beginning".into()),
            Line::Sanction(line) => {
                let record = sanction(&line)?;
                self.counts.sanctions += 1;
                self.put(Space::Sanctions, &sanctions::key(&record), &sanctions::encode(&record))?;
            }
            Line::Room(room) => self.begin_room(&room)?,
            Line::Message(message) => self.message(&message)?,
            Line::Cursor(cursor) => {
                let epoch = self.end_messages()?;
                self.counts.cursors += 1;
                let key = cursor_key(epoch, cursor.kind.into(), &user(&cursor.user)?);
                self.put(Space::Cursors, &key, &encode_cursor(Seq(cursor.seq)))?;
            }
            Line::Letter(line) => {
                let epoch = self.end_messages()?;
                self.counts.letters += 1;
                let letter = DeadLetter {
                    epoch,
                    user: user(&line.user)?,
                    message: Arc::new(self.decode(&line.message)?),
                    reason: reason(&line.reason).ok_or("there is no such reason")?,
                    attempts: line.attempts,
                    at_ms: line.at_ms,
                    replay: line.replay,
                };
                let key = letter_key(epoch, &letter.user, letter.message.seq);
                self.put(Space::Letters, &key, &encode_letter(&letter))?;
            }
            Line::End(counts) => {
                if self.room.is_some() {
                    self.end_messages()?;
                }
                if counts != self.counts {
                    return Err("the counts are not those of the lines before: something is missing".into());
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn begin_room(&mut self, line: &RoomLine<'_>) -> Result<(), Problem> {
        if self.room.is_some() {
            self.end_messages()?;
        }
        let name = room(line.relay, &line.room)?;
        if self.engine.space(Space::Rooms).contains_key(room_key(&name))? {
            return Err("this room stands twice".into());
        }
        let epoch = match self.epochs {
            Epochs::Keep => Epoch::from_str(&line.epoch).map_err(|_| "an epoch is 16 hexadecimal digits")?,
            Epochs::New => Epoch(getrandom::u64().map_err(|_| "the system gives no random numbers")?),
        };
        let jumps = line.jumps.iter().map(|&(prev, next)| Jump { prev: Seq(prev), next: Seq(next) }).collect();
        let record = RoomRecord { epoch, crashes: line.crashes, jumps };
        self.put(Space::Rooms, &room_key(&name), &record.encode())?;
        let mut last = Seq(0);
        if let Some(trim) = &line.trim {
            let &super::dump::TrimLine { upto, last_timestamp, bytes, .. } = trim;
            let trim = Trim { upto: Seq(upto), last: Seq(trim.last), last_timestamp, bytes };
            self.put(Space::Trims, &epoch_key(epoch), &trim.encode())?;
            last = trim.upto;
        }
        // The next room is looked up among those that are written.
        self.write()?;
        self.counts.rooms += 1;
        let about = BlockLine { count: 0, bytes_before: 0, bytes: 0 };
        self.room = Some(Room { name, epoch, last, about, missing: 0, bytes: 0 });
        Ok(())
    }

    fn message(&mut self, line: &MessageLine<'_>) -> Result<(), Problem> {
        let message = self.decode(line)?;
        let room = self.room.as_ref().ok_or("this comes before any room")?;
        match &line.block {
            Some(_) if room.missing > 0 => return Err("the block before has too few messages".into()),
            None if room.missing == 0 => return Err("this message is in no block".into()),
            _ => {}
        }
        if message.seq <= room.last {
            return Err("positions do not rise".into());
        }
        if line.block.is_some() && (self.block.len() >= BLOCK_MESSAGES || room.bytes >= BLOCK_BYTES) {
            self.end_block()?;
        }
        let room = self.room.as_mut().ok_or("this comes before any room")?;
        if let Some(about) = line.block {
            if self.block.is_empty() {
                room.about = BlockLine { count: 0, bytes: 0, ..about };
            }
            room.about.bytes = room.about.bytes.checked_add(about.bytes).ok_or("that many bytes cannot be")?;
            room.missing = about.count;
        }
        room.missing = room.missing.checked_sub(1).ok_or("a block has at least one message")?;
        room.last = message.seq;
        room.bytes += message.weight();
        self.block.push(message);
        self.counts.messages += 1;
        Ok(())
    }

    /// The messages of the room are over; gives its epoch.
    fn end_messages(&mut self) -> Result<Epoch, Problem> {
        self.end_block()?;
        let room = self.room.as_ref().ok_or("this comes before any room")?;
        if room.missing > 0 { Err("the block before has too few messages".into()) } else { Ok(room.epoch) }
    }

    fn end_block(&mut self) -> Result<(), OfflineError> {
        let (Some(room), Some(first)) = (self.room.as_mut(), self.block.first()) else {
            return Ok(());
        };
        let key = log_key(room.epoch, first.seq);
        let mut value = Vec::new();
        let BlockLine { bytes_before, bytes, .. } = room.about;
        let entries = self.block.iter().map(Entry::of);
        block::encode_entries(&mut value, bytes_before, bytes, self.block.len(), entries);
        room.bytes = 0;
        self.block.clear();
        self.put(Space::Log, &key, &value)
    }

    fn decode(&self, line: &MessageLine<'_>) -> Result<Message, Problem> {
        let room = self.room.as_ref().ok_or("this comes before any room")?;
        let content = match (line.content, &line.content_base64) {
            (Some(raw), None) => raw.get().as_bytes().to_vec(),
            (None, Some(text)) => STANDARD.decode(text.as_bytes()).map_err(|_| "this is no base64")?,
            _ => return Err("a message has its content once".into()),
        };
        Ok(Message {
            room: room.name.clone(),
            seq: Seq(line.seq),
            prev: line.prev.map(Seq),
            sender: user(&line.sender)?,
            content: content.into(),
            timestamp: line.timestamp,
            tag: line.tag.as_deref().map(Arc::from),
            key: line.key.as_deref().map(Arc::from),
            deleted: line.deleted,
        })
    }

    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), OfflineError> {
        self.batch.insert(self.engine.space(space), key, value);
        if self.batch.len() >= BATCH { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), OfflineError> {
        let batch = std::mem::replace(&mut self.batch, self.engine.batch(BATCH));
        Ok(self.engine.write(batch)?)
    }
}

fn sanction(line: &SanctionLine<'_>) -> Result<SanctionRecord, Problem> {
    let scope = match (&line.room, &line.user, &line.token) {
        (Some(name), Some(name_of_user), None) => Scope::Room(room(line.relay, name)?, user(name_of_user)?),
        (None, Some(name), None) => Scope::User(user(name)?),
        (None, None, Some(token)) => Scope::Token(token.as_ref().into()),
        _ => return Err("a sanction is of a user, of a user in a room, or of a token".into()),
    };
    Ok(SanctionRecord {
        scope,
        kind: line.kind.into(),
        until_unix_ms: line.until,
        before_unix_ms: line.before,
        by: line.by.as_deref().map(user).transpose()?,
        reason: line.reason.as_deref().map(Arc::from),
        lifted: false,
    })
}

fn room(relay: bool, name: &str) -> Result<RoomName, Problem> {
    let name = if relay { RoomName::new(Namespace::Relay, name) } else { RoomName::chat(name) };
    name.map_err(|error| Problem::Text(error.to_string().into()))
}

fn user(name: &str) -> Result<UserName, Problem> {
    UserName::new(name).map_err(|error| Problem::Text(error.to_string().into()))
}

/// Changes that are written at once.
const BATCH: usize = 256;
/// Messages past which a block takes no more blocks.
const BLOCK_MESSAGES: usize = 128;
/// Bytes of messages past which a block takes no more blocks.
const BLOCK_BYTES: usize = 16 * 1024;
