//! Answers from the database: rooms as they were found, pages of messages, and what is kept of a user.
//!
//! Invariant: what retention has taken is never shown, though a block is only removed when all of it is gone. Ranges
//! begin after the last block that was removed, so that nobody walks over what a compaction has yet to clear away.

use std::sync::Arc;

use super::block::{Block, Header};
use super::encoding::Damaged;
use super::engine::{Engine, EngineError, KeyRange, Space};
use super::records::{
    RoomRecord, Trim, cursor_key, decode_cursor, decode_letter, epoch_key, letters_prefix, log_key, read_log_key,
    room_key,
};
use crate::chat::log::{CursorKind, LogAnswer, LogKey, LogRead, LogState};
use crate::ids::{Epoch, RoomName, Seq, UserName};
use crate::limits::{KEYS_PER_ROOM_MAX, REPLAYED_LETTERS_MAX};
use crate::message::event::Message;

/// Answers a question.
pub(super) fn answer(engine: &Engine, read: &LogRead) -> Result<LogAnswer, EngineError> {
    match read {
        LogRead::Open { room, keys_since_ms } => {
            Ok(LogAnswer::Opened(open(engine, room, *keys_since_ms)?.map(Box::new)))
        }
        LogRead::After { room, epoch, seq, messages_max, bytes_max } => {
            after(engine, room, *epoch, *seq, Bounds { messages: *messages_max, bytes: *bytes_max })
        }
        LogRead::Before { room, epoch, seq, messages_max, bytes_max } => {
            before(engine, room, *epoch, *seq, Bounds { messages: *messages_max, bytes: *bytes_max })
        }
        LogRead::User { epoch, user, .. } => of_user(engine, *epoch, user),
    }
}

/// How large a page may be.
#[derive(Clone, Copy)]
struct Bounds {
    messages: usize,
    bytes: usize,
}

/// What is known of a room by its name.
pub(super) fn room(engine: &Engine, room: &RoomName) -> Result<Option<RoomRecord>, EngineError> {
    let record = engine.space(Space::Rooms).get(room_key(room))?;
    Ok(record.map(|record| RoomRecord::decode(&record)).transpose()?)
}

/// What retention has taken of a log.
pub(super) fn trim(engine: &Engine, epoch: Epoch) -> Result<Trim, EngineError> {
    let trim = engine.space(Space::Trims).get(epoch_key(epoch))?;
    Ok(trim.map(|trim| Trim::decode(&trim)).transpose()?.unwrap_or_default())
}

/// Keys of the blocks from the first that is left to the one that holds or precedes `upto`.
pub(super) fn blocks(epoch: Epoch, trim: Trim, upto: Seq) -> KeyRange {
    let first = log_key(epoch, Seq(trim.last.0.saturating_add(1)));
    first..=log_key(epoch, upto).max(first)
}

/// The header of the last block of a log.
pub(super) fn last_header(engine: &Engine, epoch: Epoch, trim: Trim) -> Result<Option<Header>, EngineError> {
    let Some((key, value)) = engine.last(Space::Log, blocks(epoch, trim, END))? else {
        return Ok(None);
    };
    Ok(Some(Block::new(read_log_key(&key)?.1, &value)?.header))
}

fn open(engine: &Engine, name: &RoomName, keys_since_ms: u64) -> Result<Option<LogState>, EngineError> {
    let Some(record) = room(engine, name)? else {
        return Ok(None);
    };
    let epoch = record.epoch;
    let trim = trim(engine, epoch)?;
    let last = last_header(engine, epoch, trim)?;
    let (last, last_timestamp, bytes) = match last {
        Some(header) => (header.last, header.last_timestamp, header.bytes_before.saturating_add(header.bytes)),
        None => (trim.last, trim.last_timestamp, trim.bytes),
    };
    Ok(Some(LogState {
        epoch,
        last,
        crashes: engine.crashes()?.saturating_sub(record.crashes),
        trimmed: trim.upto,
        last_timestamp,
        bytes,
        jumps: record.jumps,
        keys: keys(engine, epoch, trim, keys_since_ms)?,
    }))
}

/// Keys of messages since then, oldest first. Walks back block by block, since time never goes back in a room.
fn keys(engine: &Engine, epoch: Epoch, trim: Trim, since_ms: u64) -> Result<Vec<LogKey>, EngineError> {
    let mut keys = Vec::new();
    for guard in engine.space(Space::Log).range(blocks(epoch, trim, END)).rev() {
        let (key, value) = guard.into_inner()?;
        let block = Block::new(read_log_key(&key)?.1, &value)?;
        if block.header.last_timestamp < since_ms || keys.len() >= KEYS_PER_ROOM_MAX {
            break;
        }
        let start = keys.len();
        for entry in block.entries() {
            let entry = entry?;
            if entry.timestamp >= since_ms {
                keys.extend(entry.log_key()?);
            }
        }
        keys[start..].reverse();
    }
    keys.truncate(KEYS_PER_ROOM_MAX);
    keys.reverse();
    Ok(keys)
}

fn after(engine: &Engine, room: &RoomName, epoch: Epoch, seq: Seq, max: Bounds) -> Result<LogAnswer, EngineError> {
    let trim = trim(engine, epoch)?;
    let Some(start) = seq.max(trim.upto).0.checked_add(1).map(Seq) else {
        return Ok(LogAnswer::Page { messages: Vec::new(), more: false });
    };
    // The block that holds the position may begin before it.
    let holding = engine.last(Space::Log, blocks(epoch, trim, start))?;
    let first = holding.map(|(key, _)| read_log_key(&key)).transpose()?.map_or(start, |(_, first)| first);
    let mut messages = Vec::new();
    let mut bytes = 0;
    for guard in engine.space(Space::Log).range(log_key(epoch, first)..=log_key(epoch, END)) {
        if is_full(&messages, bytes, max) {
            return Ok(LogAnswer::Page { messages, more: true });
        }
        let (key, value) = guard.into_inner()?;
        for entry in Block::new(read_log_key(&key)?.1, &value)?.entries() {
            let entry = entry?;
            if entry.seq < start {
                continue;
            }
            if is_full(&messages, bytes, max) {
                return Ok(LogAnswer::Page { messages, more: true });
            }
            bytes += entry.weight();
            messages.push(Arc::new(entry.message(room)?));
        }
    }
    Ok(LogAnswer::Page { messages, more: false })
}

fn before(engine: &Engine, room: &RoomName, epoch: Epoch, seq: Seq, max: Bounds) -> Result<LogAnswer, EngineError> {
    let trim = trim(engine, epoch)?;
    let mut messages = Vec::new();
    let mut bytes = 0;
    let mut more = false;
    let end = Seq(seq.0.saturating_sub(1));
    if end <= trim.upto {
        return Ok(LogAnswer::Page { messages, more });
    }
    'blocks: for guard in engine.space(Space::Log).range(blocks(epoch, trim, end)).rev() {
        if is_full(&messages, bytes, max) {
            // A block that is there has more than retention took.
            more = true;
            break;
        }
        let (key, value) = guard.into_inner()?;
        let entries = Block::new(read_log_key(&key)?.1, &value)?.entries().collect::<Result<Vec<_>, Damaged>>()?;
        for entry in entries.iter().rev().filter(|entry| entry.seq <= end) {
            if entry.seq <= trim.upto {
                break 'blocks;
            }
            if is_full(&messages, bytes, max) {
                more = true;
                break 'blocks;
            }
            bytes += entry.weight();
            messages.push(Arc::new(entry.message(room)?));
        }
    }
    messages.reverse();
    Ok(LogAnswer::Page { messages, more })
}

/// Whether a page takes no more; it has at least one message.
fn is_full(messages: &[Arc<Message>], bytes: usize, max: Bounds) -> bool {
    messages.len() >= max.messages.max(1) || (!messages.is_empty() && bytes >= max.bytes)
}

fn of_user(engine: &Engine, epoch: Epoch, user: &UserName) -> Result<LogAnswer, EngineError> {
    let cursor = |kind| -> Result<Option<Seq>, EngineError> {
        let seq = engine.space(Space::Cursors).get(cursor_key(epoch, kind, user))?;
        Ok(seq.map(|seq| decode_cursor(&seq)).transpose()?)
    };
    let (ack, read) = (cursor(CursorKind::Ack)?, cursor(CursorKind::Read)?);
    let mut letters = Vec::new();
    for guard in engine.space(Space::Letters).prefix(letters_prefix(epoch, user)) {
        let (key, value) = guard.into_inner()?;
        let letter = decode_letter(&key, &value)?;
        if letter.replay {
            letters.push(letter);
        }
        if letters.len() == REPLAYED_LETTERS_MAX {
            break;
        }
    }
    Ok(LogAnswer::User { ack, read, letters })
}

/// Past every position.
pub(super) const END: Seq = Seq(u64::MAX);
