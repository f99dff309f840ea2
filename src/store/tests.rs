//! Tests of the whole store, each on a directory of its own: here what they play the shards with.

mod faults;
mod opening;
mod people;
mod reading;
mod retention;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{Line, Store, StoreConfig, StoreError, lines};
use crate::chat::log::{
    CursorKind, DeadLetter, DeadReason, Jump, LogAnswer, LogBatch, LogEvent, LogFailure, LogHealth, LogKey, LogRead,
    LogState, LogWrite, SanctionKind, SanctionRecord, Scope, SessionRecord, SessionRoom,
};
use crate::ids::{Epoch, RoomName, Seq, SessionId, ShardId, UserName};
use crate::message::event::Message;
use crate::policy::{HistoryMode, RoomPolicies, RoomPolicy};
use crate::telemetry::store::StoreMetrics;

/// A store with two shards, of which the test plays both.
pub(super) struct Rig {
    store: Option<Store>,
    lines: Vec<Line>,
    rung: flume::Receiver<ShardId>,
    tickets: [u64; 2],
    metrics: &'static StoreMetrics,
    shared: Arc<super::line::Shared>,
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig {
        dir: dir.to_owned(),
        policies: RoomPolicies::default(),
        commit_interval: Duration::from_millis(20),
        min_free_bytes: 0,
        maintenance_interval: Duration::from_millis(5),
    }
}

impl Rig {
    pub(super) fn open(dir: &Path) -> Self {
        Self::with(config(dir)).unwrap()
    }

    /// Opens a store that syncs only when asked to.
    pub(super) fn open_lazy(dir: &Path) -> Self {
        Self::with(StoreConfig { commit_interval: Duration::from_secs(3_600), ..config(dir) }).unwrap()
    }

    /// The number of the last batch.
    pub(super) fn ticket(&self, shard: usize) -> u64 {
        self.tickets[shard]
    }

    /// Waits until reads see a batch.
    pub(super) fn await_applied(&mut self, shard: usize, ticket: u64) {
        while self.shared.progress(ShardId(shard as u16)).0 < ticket {
            self.rung.recv_timeout(PATIENCE).unwrap();
        }
    }

    fn with(config: StoreConfig) -> Result<Self, StoreError> {
        let (ring, rung) = flume::bounded(100_000);
        let ring = move |shard| {
            let _ = ring.try_send(shard);
        };
        let (port, lines) = lines(2, Arc::new(ring));
        let metrics: &'static StoreMetrics = Box::leak(Box::default());
        let shared = port.shared.clone();
        let store = Some(Store::open(config, port, metrics)?);
        Ok(Self { store, lines, rung, tickets: [0; 2], metrics, shared })
    }

    /// The next event of a shard; waits for it.
    fn event(&mut self, shard: usize) -> LogEvent {
        loop {
            if let Some(event) = self.lines[shard].next_event() {
                return event;
            }
            self.rung.recv_timeout(PATIENCE).expect("the store rings after an event");
        }
    }

    pub(super) fn send(&mut self, shard: usize, sync: bool, writes: Vec<LogWrite>) -> u64 {
        self.tickets[shard] += 1;
        let ticket = self.tickets[shard];
        self.lines[shard].try_write(LogBatch { ticket, sync, writes }).unwrap();
        ticket
    }

    /// Waits until a batch is on the disk.
    pub(super) fn await_synced(&mut self, shard: usize, ticket: u64) {
        loop {
            if let LogEvent::Committed { applied, synced } = self.event(shard) {
                assert!(applied >= synced);
                if synced >= ticket {
                    return;
                }
            }
        }
    }

    pub(super) fn write(&mut self, writes: Vec<LogWrite>) {
        let ticket = self.send(0, true, writes);
        self.await_synced(0, ticket);
    }

    fn read(&mut self, read: LogRead) -> LogAnswer {
        self.lines[0].try_read(77, read).unwrap();
        loop {
            if let LogEvent::Read { token, outcome } = self.event(0) {
                assert_eq!(token, 77);
                return outcome.unwrap();
            }
        }
    }

    pub(super) fn state(&mut self) -> Option<LogState> {
        match self.read(LogRead::Open { room: room(), keys_since_ms: 0 }) {
            LogAnswer::Opened(state) => state.map(|state| *state),
            answer => panic!("{answer:?}"),
        }
    }

    fn page(&mut self, read: LogRead) -> (Vec<u64>, bool) {
        match self.read(read) {
            LogAnswer::Page { messages, more } => (messages.iter().map(|message| message.seq.0).collect(), more),
            answer => panic!("{answer:?}"),
        }
    }

    pub(super) fn all(&mut self) -> Vec<Message> {
        match self.read(after(0, usize::MAX, usize::MAX)) {
            LogAnswer::Page { messages, more: false } => messages.iter().map(|message| (**message).clone()).collect(),
            answer => panic!("{answer:?}"),
        }
    }

    pub(super) fn reader(&self) -> super::StoreReader {
        self.store.as_ref().unwrap().reader()
    }

    pub(super) fn close(mut self) {
        self.store.take().unwrap().close();
    }
}

pub(super) fn room() -> RoomName {
    RoomName::chat("lobby").unwrap()
}

pub(super) fn user(name: &str) -> UserName {
    UserName::new(name).unwrap()
}

pub(super) fn message(seq: u64) -> Message {
    Message {
        room: room(),
        seq: Seq(seq),
        prev: None,
        sender: user("ann"),
        content: Bytes::from(format!("\"message {seq}\"")),
        timestamp: 1_000 + seq,
        tag: None,
        key: None,
        deleted: false,
    }
}

pub(super) fn register(epoch: Epoch) -> LogWrite {
    LogWrite::Register { room: room(), epoch, jumps: Vec::new() }
}

/// An append of messages that follow each other; all before had the same weight.
pub(super) fn append(epoch: Epoch, messages: Vec<Message>) -> LogWrite {
    let bytes_before = (1..messages[0].seq.0).map(|seq| message(seq).weight() as u64).sum();
    LogWrite::Append { epoch, bytes_before, messages: messages.into_iter().map(Arc::new).collect() }
}

fn after(seq: u64, messages_max: usize, bytes_max: usize) -> LogRead {
    LogRead::After { room: room(), epoch: EPOCH, seq: Seq(seq), messages_max, bytes_max }
}

fn before(seq: u64, messages_max: usize, bytes_max: usize) -> LogRead {
    LogRead::Before { room: room(), epoch: EPOCH, seq: Seq(seq), messages_max, bytes_max }
}

/// What a crash at this moment would leave.
pub(super) fn crash_image(dir: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    copy(dir, image.path());
    image
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Opens with such a policy for all rooms.
pub(super) fn open_keeping(dir: &Path, policy: RoomPolicy) -> Rig {
    let policies = RoomPolicies { rules: Vec::new(), default: policy };
    Rig::with(StoreConfig { policies, ..config(dir) }).unwrap()
}

pub(super) fn durable() -> RoomPolicy {
    RoomPolicy::new(HistoryMode::Durable)
}

impl Rig {
    /// Waits until retention has come to a position.
    pub(super) fn await_trimmed(&mut self, expected: u64) {
        loop {
            match self.event(0) {
                LogEvent::Trimmed { room: of, epoch, upto } => {
                    assert_eq!((of, epoch), (room(), EPOCH));
                    assert!(upto.0 <= expected, "{upto:?}");
                    if upto.0 == expected {
                        return;
                    }
                }
                LogEvent::Committed { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }

    fn write_blocks(&mut self, blocks: &[std::ops::RangeInclusive<u64>]) {
        let blocks = blocks.iter().map(|seqs| append(EPOCH, seqs.clone().map(message).collect()));
        let ticket = self.send(0, true, std::iter::once(register(EPOCH)).chain(blocks).collect());
        // Events are left to whoever waits for trims: the oldest may come among those of the commit.
        while self.shared.progress(ShardId(0)).1 < ticket {
            self.rung.recv_timeout(PATIENCE).unwrap();
        }
    }

    fn blocks_kept(&self) -> usize {
        let lease = self.reader().lease().unwrap();
        lease.space(super::engine::Space::Log).iter().count()
    }
}

pub(super) const EPOCH: Epoch = Epoch(0x0123_4567_89ab_cdef);
const PATIENCE: Duration = Duration::from_secs(20);
