//! What retention takes from users who have not acknowledged it: they get dead letters instead.
//!
//! Invariants: a message that such a user has yet to acknowledge is removed only together with the writing of its
//! letter, or after that; the user's cursor moves with the letters, so that none is written twice. Tombstones and what
//! is with the letters already get none. One step is bounded by users, letters and bytes, though one message for all
//! users of a step always fits.

use std::sync::Arc;

use super::block::{Block, Entry};
use super::engine::{Engine, EngineError, Space};
use super::line::Op;
use super::query;
use super::records::{
    Trim, cursor_key, decode_cursor, encode_letter, epoch_key, letter_key, read_cursor_key, read_log_key,
};
use crate::chat::log::{CursorKind, DeadLetter, DeadReason};
use crate::ids::{Epoch, RoomName, Seq, UserName};

/// What is to be written before or with a removal.
pub(super) struct Step {
    pub(super) ops: Vec<Op>,
    /// How many letters are among it.
    pub(super) letters: usize,
    /// Whether nobody waits for anything that is to be removed once this is written.
    pub(super) is_last: bool,
}

/// The next step of putting with the dead letters what of a log is to go, up to `upto`.
pub(super) fn step(
    engine: &Engine,
    (room, epoch): (&RoomName, Epoch),
    trim: Trim,
    upto: Seq,
    now_ms: u64,
) -> Result<Step, EngineError> {
    let (mut behind, has_more) = behind(engine, epoch, upto)?;
    let (mut letters, mut bytes, mut reached) = (0, 0, upto);
    let Some(start) = behind.iter().map(|user| user.acked).min() else {
        return Ok(Step { ops: Vec::new(), letters, is_last: true });
    };
    'blocks: for guard in engine.space(Space::Log).range(query::blocks(epoch, trim, upto)) {
        let (key, value) = guard.into_inner()?;
        let block = Block::new(read_log_key(&key)?.1, &value)?;
        if block.header.last <= start {
            continue;
        }
        for entry in block.entries() {
            let entry = entry?;
            if entry.seq > upto {
                break 'blocks;
            }
            // What was hidden before is settled, wherever a cursor may be.
            if entry.deleted || entry.seq <= start.max(trim.upto) {
                continue;
            }
            for user in behind.iter_mut().filter(|user| user.acked < entry.seq) {
                if let Some(letter) = user.letter(engine, (room, epoch), &entry, now_ms)? {
                    bytes += letter;
                    letters += 1;
                }
            }
            if letters >= STEP_LETTERS_MAX || bytes >= STEP_BYTES_MAX {
                reached = entry.seq;
                break 'blocks;
            }
        }
    }
    let overtaken = behind.into_iter().filter(|user| user.acked < reached);
    let ops = overtaken
        .map(|user| Op::Overtake {
            cursor: cursor_key(epoch, CursorKind::Ack, &user.name).into(),
            seq: reached,
            letters: user.letters,
        })
        .collect();
    Ok(Step { ops, letters, is_last: reached == upto && !has_more })
}

/// A user who has yet to acknowledge what is to go.
struct Behind {
    name: UserName,
    acked: Seq,
    /// Their positions, keys and values.
    letters: Vec<(Seq, fjall::Slice, fjall::Slice)>,
}

/// Some users that are behind a position, and whether there are more.
fn behind(engine: &Engine, epoch: Epoch, upto: Seq) -> Result<(Vec<Behind>, bool), EngineError> {
    let mut users = Vec::new();
    let mut prefix = epoch_key(epoch).to_vec();
    prefix.push(CursorKind::Ack as u8);
    for guard in engine.space(Space::Cursors).prefix(prefix) {
        let (key, value) = guard.into_inner()?;
        let acked = decode_cursor(&value)?;
        if acked >= upto {
            continue;
        }
        if users.len() == STEP_USERS_MAX {
            return Ok((users, true));
        }
        users.push(Behind { name: read_cursor_key(&key)?.2, acked, letters: Vec::new() });
    }
    Ok((users, false))
}

impl Behind {
    /// Writes a letter unless there is one. Gives its bytes.
    fn letter(
        &mut self,
        engine: &Engine,
        (room, epoch): (&RoomName, Epoch),
        entry: &Entry<'_>,
        now_ms: u64,
    ) -> Result<Option<usize>, EngineError> {
        let key = letter_key(epoch, &self.name, entry.seq);
        if engine.space(Space::Letters).contains_key(&key)? {
            return Ok(None);
        }
        let value = encode_letter(&DeadLetter {
            epoch,
            user: self.name.clone(),
            message: Arc::new(entry.message(room)?),
            reason: DeadReason::Retention,
            attempts: 0,
            at_ms: now_ms,
            replay: false,
        });
        let bytes = key.len() + value.len();
        self.letters.push((entry.seq, key.into(), value.into()));
        Ok(Some(bytes))
    }
}

/// Users whose cursors are moved at once.
const STEP_USERS_MAX: usize = 128;
/// Letters after which a step takes no more messages.
const STEP_LETTERS_MAX: usize = 1_000;
/// Bytes of letters after which a step takes no more messages.
const STEP_BYTES_MAX: usize = 4 * 1024 * 1024;
