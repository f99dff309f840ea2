//! Tests of the whole store, each on a directory of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{Line, Store, StoreConfig, StoreError, lines};
use crate::chat::log::{
    CursorKind, DeadLetter, DeadReason, Jump, LogAnswer, LogBatch, LogEvent, LogFailure, LogHealth, LogKey, LogRead,
    LogState, LogWrite, SessionRecord, SessionRoom,
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

#[test]
fn a_log_survives_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    assert_eq!(rig.state(), None);
    rig.write(vec![register(EPOCH), append(EPOCH, (1..=3).map(message).collect())]);
    rig.close();
    let mut rig = Rig::open(dir.path());
    let bytes = (1..=3).map(|seq| message(seq).weight() as u64).sum();
    let expected = LogState {
        epoch: EPOCH,
        last: Seq(3),
        crashes: 0,
        trimmed: Seq(0),
        last_timestamp: 1_003,
        bytes,
        jumps: Vec::new(),
        keys: Vec::new(),
    };
    assert_eq!(rig.state(), Some(expected));
    assert_eq!(rig.all(), (1..=3).map(message).collect::<Vec<_>>());
}

#[test]
fn an_unclean_stop_counts_until_the_room_is_registered_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.write(vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    let image = crash_image(dir.path());
    let mut rig = Rig::open(image.path());
    let state = rig.state().unwrap();
    assert_eq!((state.crashes, state.last), (1, Seq(1)));
    let second = crash_image(image.path());
    let mut rig = Rig::open(second.path());
    assert_eq!(rig.state().unwrap().crashes, 2);
    let jumps = vec![Jump { prev: Seq(1), next: Seq(8_196) }];
    rig.write(vec![LogWrite::Register { room: room(), epoch: EPOCH, jumps: jumps.clone() }]);
    let state = rig.state().unwrap();
    assert_eq!((state.crashes, state.jumps), (0, jumps));
    rig.close();
    assert_eq!(Rig::open(second.path()).state().unwrap().crashes, 0);
}

#[test]
fn a_directory_in_use_is_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::open(dir.path());
    let error = Rig::with(config(dir.path())).err().unwrap().to_string();
    assert!(error.contains("in use by another process") && error.contains(dir.path().to_str().unwrap()), "{error}");
    rig.close();
    Rig::open(dir.path()).close();
}

#[test]
fn a_directory_that_cannot_be_made_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Rig::with(config(&file.join("data"))).err().unwrap();
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
}

#[test]
fn the_directory_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    Rig::open(&data).close();
    assert_eq!(std::fs::metadata(data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Rig::open(dir.path()).close();
    let engine = super::engine::Engine::open(dir.path()).unwrap();
    let mut batch = engine.batch(1);
    batch.insert(engine.space(super::engine::Space::Meta), "format", [9]);
    engine.write(batch).unwrap();
    drop(engine);
    let error = Rig::with(config(dir.path())).err().unwrap();
    assert!(matches!(&error, StoreError::Format { found, .. } if found == "format 9"), "{error}");
}

#[test]
fn pages_go_both_ways_over_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let blocks = [1..=1, 2..=4, 5..=5, 6..=9].map(|seqs| append(EPOCH, seqs.map(message).collect()));
    rig.write(std::iter::once(register(EPOCH)).chain(blocks).collect());
    assert_eq!(rig.page(after(0, 3, usize::MAX)), (vec![1, 2, 3], true));
    assert_eq!(rig.page(after(3, 3, usize::MAX)), (vec![4, 5, 6], true));
    assert_eq!(rig.page(after(6, 3, usize::MAX)), (vec![7, 8, 9], false));
    assert_eq!(rig.page(after(9, 3, usize::MAX)), (vec![], false));
    assert_eq!(rig.page(before(10, 2, usize::MAX)), (vec![8, 9], true));
    assert_eq!(rig.page(before(8, 4, usize::MAX)), (vec![4, 5, 6, 7], true));
    assert_eq!(rig.page(before(4, 9, usize::MAX)), (vec![1, 2, 3], false));
    assert_eq!(rig.page(before(1, 9, usize::MAX)), (vec![], false));
    let weight = message(1).weight();
    assert_eq!(rig.page(after(0, 9, 1)), (vec![1], true));
    assert_eq!(rig.page(after(0, 9, 2 * weight)), (vec![1, 2], true));
    assert_eq!(rig.page(before(10, 9, 2 * weight + 1)), (vec![7, 8, 9], true));
}

#[test]
fn logs_of_other_epochs_do_not_show() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let neighbours = [EPOCH.0 - 1, EPOCH.0 + 1].map(|epoch| append(Epoch(epoch), (1..=9).map(message).collect()));
    rig.write(std::iter::once(register(EPOCH)).chain(neighbours).collect());
    assert_eq!(rig.page(after(0, 9, usize::MAX)), (vec![], false));
    assert_eq!(rig.page(before(9, 9, usize::MAX)), (vec![], false));
    assert_eq!(rig.state().unwrap().last, Seq(0));
}

#[test]
fn the_buried_are_gone_whenever_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let keyed = |seq, key: &str| Message { key: Some(key.into()), ..message(seq) };
    let bury = |seq| LogWrite::Bury { room: room(), epoch: EPOCH, seq: Seq(seq) };
    rig.write(vec![register(EPOCH), append(EPOCH, vec![keyed(1, "a"), keyed(2, "b")])]);
    // One from before, one of the same batch, twice the same block, and one that never was.
    rig.write(vec![bury(1), append(EPOCH, vec![keyed(3, "c"), keyed(4, "d")]), bury(3), bury(4), bury(9)]);
    let tombstone = |seq| Message { content: Bytes::from_static(b"null"), deleted: true, ..message(seq) };
    let expected = vec![tombstone(1), keyed(2, "b"), tombstone(3), tombstone(4)];
    assert_eq!(rig.all(), expected);
    let keys: Vec<(String, u64)> =
        rig.state().unwrap().keys.iter().map(|key| (key.key.to_string(), key.seq.0)).collect();
    assert_eq!(keys, [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(key, seq)| (key.to_owned(), seq)));
}

#[test]
fn only_keys_of_recent_messages_are_brought_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let keyed = |seq: u64| Message { key: Some(format!("key {seq}").into()), ..message(seq) };
    let blocks = [1..=2, 3..=5, 6..=6].map(|seqs| append(EPOCH, seqs.map(keyed).collect()));
    rig.write(std::iter::once(register(EPOCH)).chain(blocks).collect());
    let answer = rig.read(LogRead::Open { room: room(), keys_since_ms: 1_004 });
    let LogAnswer::Opened(Some(state)) = answer else { panic!("{answer:?}") };
    let key = |seq: u64| LogKey {
        user: user("ann"),
        key: format!("key {seq}").into(),
        seq: Seq(seq),
        timestamp: 1_000 + seq,
    };
    assert_eq!(state.keys, [4, 5, 6].map(key));
}

#[test]
fn what_waits_for_nobody_is_synced_after_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let ticket = rig.send(1, false, vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    rig.await_synced(1, ticket);
    assert_eq!(rig.metrics.fsync_us.snapshot().count(), 1);
    assert_eq!(rig.metrics.commit_messages.snapshot().sum, 1);
}

#[test]
fn many_messages_are_synced_before_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(StoreConfig { commit_interval: Duration::from_secs(3_600), ..config(dir.path()) }).unwrap();
    rig.send(0, false, vec![register(EPOCH), append(EPOCH, (1..=1_000).map(message).collect())]);
    let ticket = rig.send(0, false, vec![append(EPOCH, (1_001..=1_024).map(message).collect())]);
    rig.await_synced(0, ticket);
}

#[test]
fn a_line_admits_so_many_batches_and_no_more() {
    let (port, mut lines) = lines(1, Arc::new(|_| {}));
    let mut admitted = 0;
    while lines[0].try_write(LogBatch { ticket: admitted + 1, ..LogBatch::default() }).is_ok() {
        admitted += 1;
    }
    assert_eq!(admitted, 64);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path()), port, Box::leak(Box::default())).unwrap();
    store.close();
    assert!(lines[0].has_events());
    let event = lines[0].next_event();
    assert!(matches!(event, Some(LogEvent::Committed { applied: 64, synced: 64 })), "{event:?}");
    assert!(lines[0].next_event().is_none() && !lines[0].has_events());
}

#[test]
fn users_find_their_cursors_and_letters_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let letter = |name: &str, seq, replay| DeadLetter {
        epoch: EPOCH,
        user: user(name),
        message: Arc::new(message(seq)),
        reason: DeadReason::Attempts,
        attempts: 10,
        at_ms: 5,
        replay,
    };
    let cursor = |kind, seq| LogWrite::Cursor { epoch: EPOCH, user: user("ann"), kind, seq: Seq(seq) };
    let add = |letter| LogWrite::AddLetter(Box::new(letter));
    rig.write(vec![
        register(EPOCH),
        cursor(CursorKind::Ack, 3),
        cursor(CursorKind::Read, 5),
        cursor(CursorKind::Ack, 4),
        add(letter("ann", 2, true)),
        add(letter("ann", 300, true)),
        add(letter("ann", 7, false)),
        add(letter("anna", 3, true)),
        add(letter("ann", 8, true)),
        LogWrite::DropLetter { epoch: EPOCH, seq: Seq(8), user: user("ann") },
    ]);
    let answer = rig.read(LogRead::User { room: room(), epoch: EPOCH, user: user("ann") });
    let LogAnswer::User { ack, read, letters } = answer else { panic!("{answer:?}") };
    assert_eq!((ack, read), (Some(Seq(4)), Some(Seq(5))));
    assert_eq!(letters, [letter("ann", 2, true), letter("ann", 300, true)]);
    let reader = rig.reader();
    let first = reader.letters(&room(), None, 3).unwrap();
    assert_eq!(first, [letter("ann", 2, true), letter("ann", 7, false), letter("ann", 300, true)]);
    let rest = reader.letters(&room(), Some((&user("ann"), Seq(300))), 3).unwrap();
    assert_eq!(rest, [letter("anna", 3, true)]);
    assert_eq!(reader.rooms(None, 9).unwrap(), [room()]);
    assert_eq!(reader.rooms(Some(&room()), 9).unwrap(), []);
}

#[test]
fn sessions_come_back_to_the_shard_their_first_bits_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let session = |id: u128| {
        let room = SessionRoom { room: room(), tags: vec!["a".into()], presence: true, ack: false };
        SessionRecord { id: SessionId(id), user: user("ann"), rooms: vec![room] }
    };
    let put = |id| LogWrite::PutSession(Box::new(session(id)));
    let odd = 1 << 112 | 5;
    rig.write(vec![put(7), put(odd), put(9), LogWrite::DropSession(SessionId(9))]);
    rig.close();
    let mut rig = Rig::open(dir.path());
    for (shard, id) in [7, odd].into_iter().enumerate() {
        let event = rig.event(shard);
        assert!(matches!(&event, LogEvent::Sessions(kept) if *kept == [session(id)]), "{event:?}");
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

#[test]
fn retention_by_number_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = open_keeping(dir.path(), RoomPolicy { size: Some(4), ..durable() });
    rig.write_blocks(&[1..=1, 2..=3, 4..=6, 7..=9]);
    rig.await_trimmed(5);
    assert_eq!(rig.page(after(0, 99, usize::MAX)), (vec![6, 7, 8, 9], false));
    assert_eq!(rig.page(before(7, 99, usize::MAX)), (vec![6], false));
    assert_eq!(rig.page(before(6, 99, usize::MAX)), (vec![], false));
    assert_eq!(rig.state().unwrap().trimmed, Seq(5));
    assert_eq!((rig.blocks_kept(), rig.metrics.trimmed_total.get()), (2, 5));
    rig.close();
    assert_eq!(Rig::open(dir.path()).page(after(0, 99, usize::MAX)), (vec![6, 7, 8, 9], false));
}

#[test]
fn retention_by_bytes_keeps_no_more_than_that() {
    let dir = tempfile::tempdir().unwrap();
    let weight = message(1).weight() as u64;
    let mut rig = open_keeping(dir.path(), RoomPolicy { bytes: Some(3 * weight + 1), ..durable() });
    rig.write_blocks(&[1..=4, 5..=9]);
    rig.await_trimmed(6);
    assert_eq!(rig.page(after(0, 99, usize::MAX)), (vec![7, 8, 9], false));
    assert_eq!(rig.state().unwrap().bytes, 9 * weight);
}

#[test]
fn a_log_that_retention_took_whole_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    // The messages are from 1970.
    let mut rig = open_keeping(dir.path(), RoomPolicy { ttl: Some(Duration::from_secs(3_600)), ..durable() });
    rig.write_blocks(&[1..=4, 5..=9]);
    rig.await_trimmed(9);
    assert_eq!((rig.all(), rig.blocks_kept()), (vec![], 0));
    let expected = rig.state().unwrap();
    assert_eq!((expected.last, expected.trimmed, expected.last_timestamp), (Seq(9), Seq(9), 1_009));
    assert_eq!(expected.bytes, 9 * message(1).weight() as u64);
    rig.close();
    assert_eq!(Rig::open(dir.path()).state(), Some(expected));
}

#[test]
fn retention_in_many_pieces_ends_where_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = open_keeping(dir.path(), RoomPolicy { size: Some(10), ..durable() });
    let blocks: Vec<_> = (1..=1_000).map(|seq| seq..=seq).collect();
    rig.write_blocks(&blocks);
    rig.await_trimmed(990);
    assert_eq!((rig.all().len(), rig.blocks_kept()), (10, 10));
}

/// Dead letters as user and position, and the cursor of each of these users.
fn letters_and_cursors(rig: &mut Rig, users: &[&str]) -> (Vec<(String, u64)>, Vec<u64>) {
    let letters = rig.reader().letters(&room(), None, usize::MAX).unwrap();
    for letter in &letters {
        assert_eq!((letter.reason, letter.attempts, letter.replay), (DeadReason::Retention, 0, false));
        assert_eq!(*letter.message, message(letter.message.seq.0));
    }
    let cursors = users.iter().map(|name| {
        let answer = rig.read(LogRead::User { room: room(), epoch: EPOCH, user: user(name) });
        let LogAnswer::User { ack: Some(ack), .. } = answer else { panic!("{answer:?}") };
        ack.0
    });
    let cursors = cursors.collect();
    (letters.iter().map(|letter| (letter.user.as_str().to_owned(), letter.message.seq.0)).collect(), cursors)
}

impl Rig {
    /// Waits until retention has come to a position in a log that no shard has been told of.
    fn await_hidden(&mut self, upto: u64) {
        while self.state().unwrap().trimmed != Seq(upto) {}
    }
}

fn acked(name: &str, seq: u64) -> LogWrite {
    LogWrite::Cursor { epoch: EPOCH, user: user(name), kind: CursorKind::Ack, seq: Seq(seq) }
}

#[test]
fn what_retention_takes_unacknowledged_is_with_the_dead_letters_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let read = LogWrite::Cursor { epoch: EPOCH, user: user("eve"), kind: CursorKind::Read, seq: Seq(1) };
    let bury = LogWrite::Bury { room: room(), epoch: EPOCH, seq: Seq(4) };
    rig.write(vec![register(EPOCH), acked("ann", 2), acked("bob", 5), acked("cat", 9), read]);
    rig.write_blocks(&[1..=1, 2..=3, 4..=6, 7..=9]);
    rig.write(vec![bury]);
    rig.close();
    let mut rig = open_keeping(dir.path(), RoomPolicy { size: Some(3), ..durable() });
    rig.await_hidden(6);
    let expected = [("ann", 3), ("ann", 5), ("ann", 6), ("bob", 6)].map(|(name, seq)| (name.to_owned(), seq));
    let users = ["ann", "bob", "cat"];
    assert_eq!(letters_and_cursors(&mut rig, &users), (expected.to_vec(), vec![6, 6, 9]));
    assert_eq!(rig.metrics.retention_letters_total.get(), 4);
    // A cursor that comes late, from before the removal, brings no letter back; what goes from now on does.
    rig.write(vec![
        acked("ann", 3),
        LogWrite::DropLetter { epoch: EPOCH, seq: Seq(5), user: user("ann") },
        append(EPOCH, vec![message(10)]),
    ]);
    rig.await_hidden(7);
    let expected = [("ann", 3), ("ann", 6), ("ann", 7), ("bob", 6), ("bob", 7)];
    let expected = expected.map(|(name, seq)| (name.to_owned(), seq)).to_vec();
    assert_eq!(letters_and_cursors(&mut rig, &users), (expected, vec![7, 7, 9]));
}

#[test]
fn more_letters_than_fit_in_a_step_are_all_written_before_anything_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    // More users than a step takes, and more letters for each than a pass may write of all.
    let names: Vec<String> = (0..150).map(|n| format!("user {n:03}")).collect();
    let cursors = names.iter().map(|name| acked(name, 0));
    rig.write(std::iter::once(register(EPOCH)).chain(cursors).collect());
    rig.write_blocks(&[1..=50, 51..=100, 101..=110]);
    rig.close();
    let mut rig = open_keeping(dir.path(), RoomPolicy { size: Some(10), ..durable() });
    rig.await_hidden(100);
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    let (letters, cursors) = letters_and_cursors(&mut rig, &users);
    let expected = names.iter().flat_map(|name| (1..=100).map(move |seq| (name.clone(), seq)));
    assert_eq!(letters, expected.collect::<Vec<_>>());
    assert!(cursors.iter().all(|cursor| *cursor == 100));
    assert_eq!(rig.metrics.retention_letters_total.get(), 15_000);
    assert_eq!(rig.metrics.retention_postponed_total.get(), 1, "10,000 in a pass");
}

#[test]
fn a_replaced_log_is_removed_with_all_that_belongs_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    let cursor = LogWrite::Cursor { epoch: EPOCH, user: user("ann"), kind: CursorKind::Ack, seq: Seq(1) };
    rig.write(vec![register(EPOCH), append(EPOCH, vec![message(1)]), append(EPOCH, vec![message(2)]), cursor]);
    let next = Epoch(EPOCH.0 + 1);
    rig.write(vec![register(next), append(next, vec![message(1)])]);
    let reader = rig.reader();
    let is_erased = || {
        let lease = reader.lease().unwrap();
        let count = |space| lease.space(space).iter().count();
        let (log, cursors) = (count(super::engine::Space::Log), count(super::engine::Space::Cursors));
        (log, cursors, lease.space(super::engine::Space::Meta).prefix("erase/").count()) == (1, 0, 0)
    };
    while !is_erased() {
        rig.write(vec![]);
    }
    assert_eq!(rig.state().unwrap().epoch, next);
}

#[test]
fn a_failed_fsync_is_no_success_and_loses_nothing() {
    use std::sync::atomic::Ordering::Relaxed;
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.write(vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    rig.shared.failing_syncs.store(2, Relaxed);
    let ticket = rig.send(0, true, vec![append(EPOCH, vec![message(2)])]);
    let mut failed = 0;
    loop {
        match rig.event(0) {
            LogEvent::Health(LogHealth::Failed) => failed += 1,
            LogEvent::Committed { synced, .. } if synced == ticket => break,
            _ => {}
        }
    }
    assert!(failed > 0);
    assert_eq!((rig.metrics.reopenings_total.get(), rig.shared.failing_syncs.load(Relaxed)), (2, 0));
    assert_eq!(rig.all(), [message(1), message(2)]);
    let image = crash_image(dir.path());
    assert_eq!(Rig::open(image.path()).all(), [message(1), message(2)]);
    rig.write(vec![append(EPOCH, vec![message(3)])]);
    rig.close();
    let mut rig = Rig::open(dir.path());
    assert_eq!(rig.all(), [message(1), message(2), message(3)]);
    assert_eq!(rig.state().unwrap().crashes, 0);
}

#[test]
fn a_full_disk_takes_no_writes_until_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(StoreConfig { min_free_bytes: u64::MAX, ..config(dir.path()) }).unwrap();
    rig.send(0, true, vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    let event = rig.event(0);
    assert!(matches!(event, LogEvent::Health(LogHealth::Full)), "{event:?}");
    assert!(rig.metrics.disk_free_bytes.get() > 0);
    assert_eq!(rig.state(), None);
    // There is room for this in truth, so the end succeeds.
    rig.close();
    assert_eq!(Rig::open(dir.path()).all(), [message(1)]);
}

#[test]
fn a_damaged_block_is_unreadable_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(dir.path());
    rig.write(vec![register(EPOCH), append(EPOCH, vec![message(1)])]);
    let lease = rig.reader().lease().unwrap();
    let mut batch = lease.batch(1);
    batch.insert(lease.space(super::engine::Space::Log), super::records::log_key(EPOCH, Seq(2)), [1, 1, 1]);
    lease.write(batch).unwrap();
    drop(lease);
    rig.lines[0].try_read(5, after(0, 9, usize::MAX)).unwrap();
    let event = rig.event(0);
    let LogEvent::Read { token: 5, outcome: Err(LogFailure::Unreadable) } = event else { panic!("{event:?}") };
    assert_eq!(rig.metrics.readers.iter().map(|reader| reader.errors_total.get()).sum::<u64>(), 1);
    rig.write(vec![LogWrite::Bury { room: room(), epoch: EPOCH, seq: Seq(2) }]);
    assert_eq!(rig.page(after(0, 1, usize::MAX)), (vec![1], true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Pages of any size, from anywhere, against a plain list.
    #[test]
    fn pages_are_what_a_list_would_give(
        lengths in proptest::collection::vec((1_u64..6, 0_u64..3), 1..20),
        questions in proptest::collection::vec((0_u64..120, 1_usize..12, 1_usize..200), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path());
        let mut list = Vec::new();
        let mut writes = vec![register(EPOCH)];
        let mut seq = 0;
        for (length, jump) in lengths {
            seq += jump;
            let block: Vec<Message> = (seq + 1..=seq + length).map(message).collect();
            seq += length;
            list.extend(block.iter().cloned());
            writes.push(append(EPOCH, block));
        }
        rig.write(writes);
        for (at, messages_max, bytes_max) in questions {
            let take = |candidates: Vec<&Message>| {
                let mut bytes = 0;
                let mut taken = Vec::new();
                for message in &candidates {
                    if taken.len() == messages_max || (!taken.is_empty() && bytes >= bytes_max) {
                        break;
                    }
                    bytes += message.weight();
                    taken.push(message.seq.0);
                }
                let more = taken.len() < candidates.len();
                (taken, more)
            };
            let later = take(list.iter().filter(|message| message.seq.0 > at).collect());
            prop_assert_eq!(rig.page(after(at, messages_max, bytes_max)), later);
            let mut earlier = take(list.iter().rev().filter(|message| message.seq.0 < at).collect());
            earlier.0.reverse();
            prop_assert_eq!(rig.page(before(at, messages_max, bytes_max)), earlier);
        }
    }
}

pub(super) const EPOCH: Epoch = Epoch(0x0123_4567_89ab_cdef);
const PATIENCE: Duration = Duration::from_secs(20);
