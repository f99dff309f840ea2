//! A store in memory that loses nothing, and answers when the script says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use hubbub::chat::log::{CursorKind, LogAnswer, LogBatch, LogEvent, LogFailure, LogRead, LogState, LogWrite};
use hubbub::ids::{Epoch, RoomName, Seq, UserName};
use hubbub::message::event::Message;

/// The logs of one shard.
#[derive(Default)]
pub struct Store {
    logs: BTreeMap<u64, Log>,
    epochs: BTreeMap<RoomName, Epoch>,
    cursors: BTreeMap<(u64, UserName, CursorKind), Seq>,
    ticket: u64,
}

#[derive(Default)]
struct Log {
    messages: BTreeMap<Seq, Arc<Message>>,
    bytes: u64,
}

impl Store {
    pub fn take(&mut self, batch: &LogBatch) {
        assert_eq!(batch.ticket, self.ticket + 1, "batches come in order");
        self.ticket = batch.ticket;
        for write in &batch.writes {
            match write {
                LogWrite::Register { room, epoch, .. } => {
                    assert_eq!(*self.epochs.entry(room.clone()).or_insert(*epoch), *epoch, "a room has one log");
                    self.logs.entry(epoch.0).or_default();
                }
                LogWrite::Append { epoch, bytes_before, messages } => {
                    let log = self.logs.get_mut(&epoch.0).expect("a log is registered first");
                    assert_eq!(*bytes_before, log.bytes);
                    for message in messages {
                        log.bytes += message.weight() as u64;
                        let last = log.messages.last_key_value().map(|(seq, _)| *seq);
                        assert!(last.is_none_or(|last| last < message.seq), "positions go up");
                        log.messages.insert(message.seq, message.clone());
                    }
                }
                LogWrite::Cursor { epoch, user, kind, seq } => {
                    self.cursors.insert((epoch.0, user.clone(), *kind), *seq);
                }
                _ => {}
            }
        }
    }

    pub fn committed(&self) -> LogEvent {
        LogEvent::Committed { applied: self.ticket, synced: self.ticket }
    }

    pub fn answer(&self, token: u64, read: &LogRead, fails: bool) -> LogEvent {
        let outcome = if fails { Err(LogFailure::Unreadable) } else { Ok(self.read(read)) };
        LogEvent::Read { token, outcome }
    }

    fn read(&self, read: &LogRead) -> LogAnswer {
        match read {
            LogRead::Open { room, .. } => LogAnswer::Opened(self.epochs.get(room).map(|epoch| {
                let log = &self.logs[&epoch.0];
                let last = log.messages.last_key_value();
                Box::new(LogState {
                    epoch: *epoch,
                    last: last.map_or(Seq(0), |(seq, _)| *seq),
                    crashes: 0,
                    trimmed: Seq(0),
                    last_timestamp: last.map_or(0, |(_, message)| message.timestamp),
                    bytes: log.bytes,
                    jumps: Vec::new(),
                    keys: Vec::new(),
                })
            })),
            LogRead::After { epoch, seq, messages_max, .. } => {
                let mut messages = self.messages(*epoch, |at| at > *seq);
                let more = messages.len() > *messages_max;
                messages.truncate(*messages_max);
                LogAnswer::Page { messages, more }
            }
            LogRead::Before { epoch, seq, messages_max, .. } => {
                let mut messages = self.messages(*epoch, |at| at < *seq);
                let more = messages.len() > *messages_max;
                messages.drain(..messages.len().saturating_sub(*messages_max));
                LogAnswer::Page { messages, more }
            }
            LogRead::User { epoch, user, .. } => {
                let cursor = |kind| self.cursors.get(&(epoch.0, user.clone(), kind)).copied();
                LogAnswer::User { ack: cursor(CursorKind::Ack), read: cursor(CursorKind::Read), letters: Vec::new() }
            }
        }
    }

    fn messages(&self, epoch: Epoch, wanted: impl Fn(Seq) -> bool) -> Vec<Arc<Message>> {
        let log = self.logs.get(&epoch.0).into_iter().flat_map(|log| &log.messages);
        log.filter(|(seq, _)| wanted(**seq)).map(|(_, message)| message.clone()).collect()
    }
}
