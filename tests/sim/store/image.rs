//! What a store has of its logs at one moment, in memory or on the disk.
//!
//! Invariant: an image is changed by whole batches alone, and by retention.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hubbub::chat::log::{
    CursorKind, DeadLetter, DeadReason, Jump, LogAnswer, LogBatch, LogKey, LogState, LogWrite, SanctionKind,
    SanctionRecord, Scope, SessionRecord,
};
use hubbub::ids::{Epoch, RoomName, Seq, SessionId, UserName};
use hubbub::limits::REPLAYED_LETTERS_MAX;
use hubbub::message::event::Message;

/// All logs.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// By epoch.
    logs: BTreeMap<u64, Log>,
    epochs: BTreeMap<RoomName, Epoch>,
    cursors: BTreeMap<(u64, UserName, CursorKind), Seq>,
    letters: BTreeMap<(u64, UserName, Seq), DeadLetter>,
    /// What ever was a letter.
    given_up: BTreeSet<(u64, UserName, Seq)>,
    sessions: BTreeMap<u128, SessionRecord>,
    sanctions: BTreeMap<(Scope, SanctionKind), SanctionRecord>,
}

/// The log of one room.
#[derive(Clone, Debug)]
pub struct Log {
    pub room: RoomName,
    pub messages: BTreeMap<Seq, Arc<Message>>,
    /// The last message that ever was.
    pub last: Seq,
    pub trimmed: Seq,
    last_timestamp: u64,
    bytes: u64,
    jumps: Vec<Jump>,
    keys: Vec<LogKey>,
    /// How many unclean stops there had been when it was registered last.
    crashes_before: u64,
}

impl Image {
    pub fn log_of(&self, room: &RoomName) -> Option<(Epoch, &Log)> {
        let epoch = *self.epochs.get(room)?;
        Some((epoch, &self.logs[&epoch.0]))
    }

    pub fn logs(&self) -> impl Iterator<Item = (Epoch, &Log)> {
        self.logs.iter().map(|(epoch, log)| (Epoch(*epoch), log))
    }

    /// Does what a batch says; after so many unclean stops.
    pub fn apply(&mut self, batch: &LogBatch, crashes: u64) -> Result<(), String> {
        batch.writes.iter().try_for_each(|write| self.write(write, crashes))
    }

    fn write(&mut self, write: &LogWrite, crashes: u64) -> Result<(), String> {
        match write {
            LogWrite::Register { room, epoch, jumps } => {
                let known = *self.epochs.entry(room.clone()).or_insert(*epoch);
                if known != *epoch {
                    return Err(format!("{room:?} has the log {known:?} and is given {epoch:?}"));
                }
                let log = self.logs.entry(epoch.0).or_insert_with(|| Log::new(room.clone()));
                (log.jumps, log.crashes_before) = (jumps.clone(), crashes);
                Ok(())
            }
            LogWrite::Append { epoch, bytes_before, messages } => {
                let log = self.logs.get_mut(&epoch.0).ok_or_else(|| format!("{epoch:?} was never registered"))?;
                if log.bytes != *bytes_before {
                    return Err(format!("{epoch:?} has {} bytes and not {bytes_before}", log.bytes));
                }
                messages.iter().try_for_each(|message| log.append(message))
            }
            LogWrite::Bury { epoch, seq, .. } => {
                let log = self.logs.get_mut(&epoch.0).ok_or_else(|| format!("{epoch:?} was never registered"))?;
                if let Some(message) = log.messages.get_mut(seq) {
                    let content = Bytes::from_static(b"null");
                    *message = Arc::new(Message { content, key: None, deleted: true, ..(**message).clone() });
                } else if *seq > log.trimmed {
                    return Err(format!("{seq:?} of {epoch:?} is not there to be deleted"));
                }
                Ok(())
            }
            LogWrite::Cursor { epoch, user, kind, seq } => {
                let cursor = self.cursors.entry((epoch.0, user.clone(), *kind)).or_default();
                if seq < cursor {
                    return Err(format!("{user:?} goes back from {cursor:?} to {seq:?}"));
                }
                *cursor = *seq;
                Ok(())
            }
            LogWrite::AddLetter(letter) => {
                let name = (letter.epoch.0, letter.user.clone(), letter.message.seq);
                self.given_up.insert(name.clone());
                self.letters.insert(name, (**letter).clone());
                Ok(())
            }
            LogWrite::DropLetter { epoch, seq, user } => {
                self.letters.remove(&(epoch.0, user.clone(), *seq));
                Ok(())
            }
            LogWrite::PutSession(session) => {
                self.sessions.insert(session.id.0, (**session).clone());
                Ok(())
            }
            LogWrite::DropSession(id) => {
                self.sessions.remove(&id.0);
                Ok(())
            }
            LogWrite::Sanction(record) => {
                let key = (record.scope.clone(), record.kind);
                self.sanctions.remove(&key);
                if !record.lifted {
                    self.sanctions.insert(key, (**record).clone());
                }
                Ok(())
            }
        }
    }

    /// Every ban and mute.
    pub fn sanctions(&self) -> Vec<SanctionRecord> {
        self.sanctions.values().cloned().collect()
    }

    /// What is kept of a user in a room.
    pub fn user(&self, epoch: Epoch, user: &UserName) -> LogAnswer {
        let cursor = |kind| self.cursors.get(&(epoch.0, user.clone(), kind)).copied();
        let (first, last) = ((epoch.0, user.clone(), Seq(0)), (epoch.0, user.clone(), Seq(u64::MAX)));
        let letters = self.letters.range(first..=last).map(|(_, letter)| letter).filter(|letter| letter.replay);
        let letters = letters.take(REPLAYED_LETTERS_MAX).cloned().collect();
        LogAnswer::User { ack: cursor(CursorKind::Ack), read: cursor(CursorKind::Read), letters }
    }

    /// Sessions that one of so many shards keeps alive.
    pub fn sessions(&self, shard: u16, shards: u16) -> Vec<SessionRecord> {
        let of_shard = self.sessions.iter().filter(|(id, _)| (**id >> 112) as u16 % shards == shard);
        of_shard.map(|(_, session)| session.clone()).collect()
    }

    pub fn letters(&self, room: &RoomName) -> Vec<DeadLetter> {
        let Some((epoch, _)) = self.log_of(room) else { return Vec::new() };
        self.letters.values().filter(|letter| letter.epoch == epoch).cloned().collect()
    }

    pub fn was_letter(&self, epoch: Epoch, user: &UserName, seq: Seq) -> bool {
        self.given_up.contains(&(epoch.0, user.clone(), seq))
    }

    pub fn acked(&self, epoch: Epoch, user: &UserName) -> Option<Seq> {
        self.cursors.get(&(epoch.0, user.clone(), CursorKind::Ack)).copied()
    }

    pub fn session(&self, id: SessionId) -> Option<SessionRecord> {
        self.sessions.get(&id.0).cloned()
    }

    /// What there is of a room, after so many unclean stops.
    pub fn open(&self, room: &RoomName, keys_since_ms: u64, crashes: u64) -> Option<Box<LogState>> {
        let (epoch, log) = self.log_of(room)?;
        Some(Box::new(LogState {
            epoch,
            last: log.last,
            crashes: crashes - log.crashes_before,
            trimmed: log.trimmed,
            last_timestamp: log.last_timestamp,
            bytes: log.bytes,
            jumps: log.jumps.clone(),
            keys: log.keys.iter().filter(|key| key.timestamp >= keys_since_ms).cloned().collect(),
        }))
    }

    /// The positions that are passed over if the server starts now, by room and log: after the first, up to the second.
    pub fn dead(&self, crashes: u64, jump: u64) -> Vec<(RoomName, Epoch, u64, u64)> {
        let crashed = self.logs().filter(|(_, log)| log.crashes_before < crashes);
        let dead = |(epoch, log): (Epoch, &Log)| {
            let to = log.last.0 + (crashes - log.crashes_before) * jump - 1;
            (log.room.clone(), epoch, log.last.0, to)
        };
        crashed.map(dead).collect()
    }

    pub fn after(&self, epoch: Epoch, seq: Seq, messages_max: usize, bytes_max: usize) -> LogAnswer {
        let log = self.logs.get(&epoch.0);
        let later = log.into_iter().flat_map(|log| log.messages.range(seq.next()..)).map(|(_, message)| message);
        let messages = take(later.clone(), messages_max, bytes_max);
        let more = later.count() > messages.len();
        LogAnswer::Page { messages, more }
    }

    pub fn before(&self, epoch: Epoch, seq: Seq, messages_max: usize, bytes_max: usize) -> LogAnswer {
        let log = self.logs.get(&epoch.0);
        let earlier = log.into_iter().flat_map(|log| log.messages.range(..seq).rev()).map(|(_, message)| message);
        let mut messages = take(earlier.clone(), messages_max, bytes_max);
        messages.reverse();
        let more = earlier.count() > messages.len();
        LogAnswer::Page { messages, more }
    }

    /// Takes everything of a room up to a position, which must be there.
    pub fn trim(&mut self, epoch: Epoch, upto: Seq) {
        if let Some(log) = self.logs.get_mut(&epoch.0) {
            let acked = self.cursors.iter().filter(|((of, _, kind), _)| *of == epoch.0 && *kind == CursorKind::Ack);
            for ((_, user, _), acked) in acked {
                for (seq, message) in log.messages.range(acked.next()..).take_while(|(seq, _)| **seq <= upto) {
                    self.given_up.insert((epoch.0, user.clone(), *seq));
                    let letter = DeadLetter {
                        epoch,
                        user: user.clone(),
                        message: Arc::clone(message),
                        reason: DeadReason::Retention,
                        attempts: 0,
                        at_ms: 0,
                        replay: false,
                    };
                    self.letters.entry((epoch.0, user.clone(), *seq)).or_insert(letter);
                }
            }
            log.messages = log.messages.split_off(&upto.next());
            log.trimmed = log.trimmed.max(upto);
        }
    }

    /// Loses a message, as no store may.
    pub fn lose(&mut self, epoch: Epoch, seq: Seq) {
        if let Some(log) = self.logs.get_mut(&epoch.0) {
            log.messages.remove(&seq);
        }
    }
}

impl Log {
    fn new(room: RoomName) -> Self {
        Self {
            room,
            messages: BTreeMap::new(),
            last: Seq(0),
            trimmed: Seq(0),
            last_timestamp: 0,
            bytes: 0,
            jumps: Vec::new(),
            keys: Vec::new(),
            crashes_before: 0,
        }
    }

    fn append(&mut self, message: &Arc<Message>) -> Result<(), String> {
        let expected = message.prev.unwrap_or(Seq(message.seq.0 - 1));
        let jumped = Jump { prev: self.last, next: message.seq };
        if expected != self.last || (message.prev.is_some() && self.jumps.last() != Some(&jumped)) {
            return Err(format!("{message:?} comes after {:?}, jumps are {:?}", self.last, self.jumps));
        }
        if message.room != self.room || message.timestamp < self.last_timestamp || message.deleted {
            return Err(format!("{message:?} cannot be in the log of {:?}", self.room));
        }
        (self.last, self.last_timestamp) = (message.seq, message.timestamp);
        self.bytes += message.weight() as u64;
        if let Some(key) = &message.key {
            let (user, key) = (message.sender.clone(), Arc::clone(key));
            self.keys.push(LogKey { user, key, seq: message.seq, timestamp: message.timestamp });
        }
        self.messages.insert(message.seq, Arc::clone(message));
        Ok(())
    }

    /// Whether the message was written, even if retention has taken it since.
    pub fn had(&self, seq: Seq) -> bool {
        seq <= self.trimmed || self.messages.contains_key(&seq)
    }
}

fn take<'a>(
    messages: impl Iterator<Item = &'a Arc<Message>>,
    messages_max: usize,
    bytes_max: usize,
) -> Vec<Arc<Message>> {
    let mut bytes = 0;
    let mut taken: Vec<Arc<Message>> = Vec::new();
    for message in messages.take(messages_max) {
        bytes += message.weight();
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(Arc::clone(message));
    }
    taken
}
