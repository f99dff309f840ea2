//! Walking over everything that is stored: is it what the store would have written?

use std::fmt::Display;
use std::io::Write;

use ahash::HashMap;
use serde_json::value::RawValue;

use super::OfflineError;
use super::dump::Counts;
use crate::chat::log::Jump;
use crate::ids::{Epoch, RoomName, Seq};
use crate::store::block::{Block, Entry};
use crate::store::encoding::Damaged;
use crate::store::engine::{ERASE_PREFIX, Engine, EngineError, Space};
use crate::store::records::{
    RoomRecord, Trim, decode_cursor, decode_letter, decode_session, read_cursor_key, read_epoch_key, read_log_key,
    read_room_key,
};
use crate::store::sanctions;

/// What a check has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// What there is.
    pub counts: Counts,
    /// How many things are not as they should be.
    pub findings: u64,
}

pub(super) fn check(engine: &Engine, out: &mut dyn Write) -> Result<Checked, OfflineError> {
    let mut check = Check { engine, out, rooms: HashMap::default(), checked: Checked::default() };
    check.rooms()?;
    check.trims()?;
    check.logs()?;
    check.others()?;
    let Checked { counts, findings } = check.checked;
    check.say(&format_args!("{counts}: {findings} findings"))?;
    Ok(check.checked)
}

struct Check<'a> {
    engine: &'a Engine,
    out: &'a mut dyn Write,
    rooms: HashMap<Epoch, Room>,
    checked: Checked,
}

struct Room {
    name: RoomName,
    jumps: Vec<Jump>,
    trim: Trim,
}

/// A log on the way through it.
#[derive(Default)]
struct Walk {
    blocks: u64,
    messages: u64,
    first: Option<Seq>,
    last: Seq,
    last_timestamp: u64,
    bytes: u64,
}

impl Check<'_> {
    fn rooms(&mut self) -> Result<(), OfflineError> {
        for guard in self.engine.space(Space::Rooms).iter() {
            let Some((key, value)) = self.read(guard, "rooms")? else { continue };
            match read_room_key(&key).and_then(|name| Ok((name, RoomRecord::decode(&value)?))) {
                Ok((name, record)) => {
                    self.checked.counts.rooms += 1;
                    let room = Room { name, jumps: record.jumps, trim: Trim::default() };
                    if let Some(other) = self.rooms.insert(record.epoch, room) {
                        self.finding(&format_args!("two rooms share epoch {}: {}", record.epoch, other.name.as_str()))?;
                    }
                }
                Err(Damaged) => self.finding(&format_args!("a room's record is damaged: key {key:?}"))?,
            }
        }
        Ok(())
    }

    fn trims(&mut self) -> Result<(), OfflineError> {
        for guard in self.engine.space(Space::Trims).iter() {
            let Some((key, value)) = self.read(guard, "trims")? else { continue };
            match read_epoch_key(&key).and_then(|epoch| Ok((epoch, Trim::decode(&value)?))) {
                Ok((epoch, trim)) => {
                    if trim.last > trim.upto {
                        self.finding(&format_args!("what retention removed of epoch {epoch} goes past its cut"))?;
                    }
                    if let Some(room) = self.rooms.get_mut(&epoch) {
                        room.trim = trim;
                    }
                }
                Err(Damaged) => self.finding(&format_args!("a record of retention is damaged: key {key:?}"))?,
            }
        }
        Ok(())
    }

    /// All logs, in the order of their epochs.
    fn logs(&mut self) -> Result<(), OfflineError> {
        let mut walk = Walk::default();
        let mut of: Option<Epoch> = None;
        for guard in self.engine.space(Space::Log).iter() {
            let Some((key, value)) = self.read(guard, "log")? else { continue };
            let Ok((epoch, first)) = read_log_key(&key) else {
                self.finding(&format_args!("a key of the log is damaged: {key:?}"))?;
                continue;
            };
            if of != Some(epoch) {
                self.end_log(of, &walk)?;
                of = Some(epoch);
                walk = Walk::default();
                let is_known = self.rooms.contains_key(&epoch) || self.is_being_erased(epoch)?;
                if !is_known {
                    self.finding(&format_args!("no room has the log of epoch {epoch}"))?;
                }
            }
            if self.block(epoch, first, &value, &mut walk)? == Err(Damaged) {
                self.finding(&format_args!("{}: the block at {} is damaged", self.name(epoch), first.0))?;
            }
        }
        self.end_log(of, &walk)
    }

    fn end_log(&mut self, epoch: Option<Epoch>, walk: &Walk) -> Result<(), OfflineError> {
        let Some(epoch) = epoch else { return Ok(()) };
        self.checked.counts.messages += walk.messages;
        let Walk { blocks, messages, first, last, bytes, .. } = walk;
        let upto = self.rooms.get(&epoch).map_or(0, |room| room.trim.upto.0);
        self.say(&format_args!(
            "{} ({epoch}): {messages} messages in {blocks} blocks, {} to {}, {bytes} bytes ever, trimmed to {upto}",
            self.name(epoch),
            first.map_or(0, |first| first.0),
            last.0,
        ))
    }

    /// Checks a block against what came before it.
    fn block(
        &mut self,
        epoch: Epoch,
        first: Seq,
        value: &[u8],
        walk: &mut Walk,
    ) -> Result<Result<(), Damaged>, OfflineError> {
        let Ok(block) = Block::new(first, value) else {
            return Ok(Err(Damaged));
        };
        let header = block.header;
        if walk.blocks > 0 && header.bytes_before != walk.bytes {
            let (has, says) = (walk.bytes, header.bytes_before);
            let name = self.name(epoch);
            self.finding(&format_args!("{name}: {has} bytes come before {}, and its block says {says}", first.0))?;
        }
        walk.blocks += 1;
        walk.bytes = header.bytes_before.saturating_add(header.bytes);
        for entry in block.entries() {
            let Ok(entry) = entry else {
                return Ok(Err(Damaged));
            };
            if let Some(problem) = self.problem(epoch, &entry, walk) {
                let name = self.name(epoch);
                self.finding(&format_args!("{name}: message {}: {problem}", entry.seq.0))?;
            }
            walk.first.get_or_insert(entry.seq);
            walk.last = entry.seq;
            walk.last_timestamp = entry.timestamp;
            walk.messages += 1;
        }
        Ok(Ok(()))
    }

    fn problem(&self, epoch: Epoch, entry: &Entry<'_>, walk: &Walk) -> Option<&'static str> {
        if crate::ids::UserName::new(entry.sender).is_err() {
            return Some("its sender's name is none");
        }
        if serde_json::from_slice::<&RawValue>(entry.content).is_err() {
            return Some("its content is no JSON");
        }
        if entry.timestamp < walk.last_timestamp {
            return Some("it is older than the one before it");
        }
        // What came before the first that is there, nobody knows any more.
        if walk.messages == 0 || entry.seq == walk.last.next() {
            return None;
        }
        if entry.seq <= walk.last {
            return Some("it is not after the one before it");
        }
        let jump = Jump { prev: walk.last, next: entry.seq };
        let is_known = self.rooms.get(&epoch).is_none_or(|room| room.jumps.contains(&jump));
        if !is_known || entry.prev != Some(walk.last) {
            return Some("messages before it are missing");
        }
        None
    }

    fn others(&mut self) -> Result<(), OfflineError> {
        for guard in self.engine.space(Space::Cursors).iter() {
            let Some((key, value)) = self.read(guard, "cursors")? else { continue };
            self.checked.counts.cursors += 1;
            if read_cursor_key(&key).and_then(|_| decode_cursor(&value)).is_err() {
                self.finding(&format_args!("a cursor is damaged: key {key:?}"))?;
            }
        }
        for guard in self.engine.space(Space::Letters).iter() {
            let Some((key, value)) = self.read(guard, "letters")? else { continue };
            self.checked.counts.letters += 1;
            if decode_letter(&key, &value).is_err() {
                self.finding(&format_args!("a dead letter is damaged: key {key:?}"))?;
            }
        }
        for guard in self.engine.space(Space::Sanctions).iter() {
            let Some((key, value)) = self.read(guard, "sanctions")? else { continue };
            self.checked.counts.sanctions += 1;
            if sanctions::decode(&value).map(|record| sanctions::key(&record)) != Ok(key.to_vec()) {
                self.finding(&format_args!("a ban, mute or revocation is damaged: key {key:?}"))?;
            }
        }
        for guard in self.engine.space(Space::Sessions).iter() {
            let Some((key, value)) = self.read(guard, "sessions")? else { continue };
            if decode_session(&key, &value).is_err() {
                // Its key is a secret.
                self.finding(&"a session is damaged")?;
            }
        }
        Ok(())
    }

    /// Whether a log without a room is on its way out.
    fn is_being_erased(&self, epoch: Epoch) -> Result<bool, EngineError> {
        let mut key = ERASE_PREFIX.to_vec();
        key.extend_from_slice(&epoch.0.to_be_bytes());
        Ok(self.engine.space(Space::Meta).contains_key(key)?)
    }

    fn name(&self, epoch: Epoch) -> String {
        self.rooms.get(&epoch).map_or_else(|| "no room".to_owned(), |room| format!("room {:?}", room.name.as_str()))
    }

    /// What lies at one place; a table that cannot be read is a finding, and ends its keyspace.
    fn read(&mut self, guard: fjall::Guard, space: &str) -> Result<Option<(fjall::Slice, fjall::Slice)>, OfflineError> {
        match guard.into_inner() {
            Ok(pair) => Ok(Some(pair)),
            Err(error) => {
                self.finding(&format_args!("a part of {space} cannot be read: {error}"))?;
                Ok(None)
            }
        }
    }

    fn finding(&mut self, what: &dyn Display) -> Result<(), OfflineError> {
        self.checked.findings += 1;
        self.say(&format_args!("FINDING {what}"))
    }

    fn say(&mut self, what: &dyn Display) -> Result<(), OfflineError> {
        let written = writeln!(self.out, "{what}");
        written.map_err(|source| OfflineError::Io { what: "the output".to_owned(), source })
    }
}
