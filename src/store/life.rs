//! The store from its opening to its close.

use std::collections::VecDeque;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::disk::Disk;
use super::encoding::Damaged;
use super::engine::{Engine, EngineError, Space, StoreError, explain};
use super::line::{Job, ReadJob, Shared, StorePort};
use super::query;
use super::reader::Reader;
use super::records::{decode_letter, decode_session, epoch_key, letter_key, read_room_key, room_key};
use super::sanctions;
use super::seen::Seen;
use super::slot::{Absence, Lease, Slot};
use super::upkeep::Upkeep;
use super::writer::Writer;
use crate::chat::log::{DeadLetter, LogEvent, LogHealth, SessionRecord};
use crate::ids::{RoomName, Seq, UserName};
use crate::policy::RoomPolicies;
use crate::telemetry::log::Throttle;
use crate::telemetry::store::StoreMetrics;

/// How a store is run.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Where it is; made if it is not there.
    pub dir: PathBuf,
    /// What is kept of which room.
    pub policies: RoomPolicies,
    /// How long a batch may wait for the disk if it does not ask for it.
    pub commit_interval: Duration,
    /// Below this the disk counts as full. Tables are written behind the journal, so it should be some 128 MiB.
    pub min_free_bytes: u64,
    /// How often retention is looked after.
    pub maintenance_interval: Duration,
}

/// A running store. Dropped, it closes.
pub struct Store {
    jobs: flume::Sender<Job>,
    reads: flume::Sender<ReadJob>,
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    seen: Arc<Seen>,
    /// Dropped to tell all threads that the store ends.
    closing: Option<flume::Sender<()>>,
    upkeep: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
}

/// Reads from a running store on behalf of people; any thread may have one.
#[derive(Clone)]
pub struct StoreReader {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
}

impl Store {
    /// Opens the store and starts its threads. The directory is locked, its format known, its journal verified and the
    /// clean mark removed, on the disk, when this returns; sessions that were kept are with the lines.
    pub fn open(config: StoreConfig, port: StorePort, metrics: &'static StoreMetrics) -> Result<Self, StoreError> {
        let engine = Engine::open(&config.dir)?;
        let crashes = engine.begin_life(&config.dir)?;
        send_kept(&engine, &port, &config)?;
        let engine = Arc::new(engine);
        let slot = Arc::new(Slot::default());
        slot.put(engine.clone());
        let (closing, is_closing) = flume::bounded(0);
        let seen = Arc::new(Seen::new(config.policies));
        let StorePort { shared, clock, jobs, taken_jobs, reads, taken_reads, outlets } = port;
        let writer = Writer {
            disk: Disk::new(config.dir.clone(), config.min_free_bytes, metrics),
            dir: config.dir.clone(),
            commit_interval: config.commit_interval,
            jobs: taken_jobs,
            slot: slot.clone(),
            seen: seen.clone(),
            closing: is_closing.clone(),
            clock: clock.clone(),
            metrics,
            crashes,
            engine: Some(engine),
            group: Vec::new(),
            unsynced: VecDeque::new(),
            unsynced_messages: 0,
            must_sync: false,
            is_withdrawn: false,
            to_ring: vec![false; shared.shards()],
            shared: shared.clone(),
        };
        let upkeep = Upkeep {
            interval: config.maintenance_interval,
            slot: slot.clone(),
            jobs: jobs.clone(),
            shared: shared.clone(),
            outlets: outlets.clone(),
            seen: seen.clone(),
            closing: is_closing,
            clock: clock.clone(),
            metrics,
        };
        let mut store = Self {
            jobs,
            reads,
            slot,
            shared,
            seen: seen.clone(),
            closing: Some(closing),
            upkeep: None,
            readers: Vec::new(),
            writer: None,
        };
        let dir = config.dir;
        // A failure drops the store, which ends the threads that run by then.
        store.writer = Some(spawn(&dir, "store", || writer.run())?);
        for metrics in &metrics.readers {
            let reader = Reader {
                reads: taken_reads.clone(),
                slot: store.slot.clone(),
                shared: store.shared.clone(),
                outlets: outlets.clone(),
                seen: seen.clone(),
                clock: clock.clone(),
                metrics,
                throttle: Throttle::default(),
            };
            store.readers.push(spawn(&dir, "store-read", || reader.run())?);
        }
        store.upkeep = Some(spawn(&dir, "store-upkeep", || upkeep.run())?);
        Ok(store)
    }

    /// Writes everything that was sent, has it on the disk, and leaves the clean mark. What cannot be written, because
    /// the disk is full or fails, is given up, and then there is no mark.
    pub fn close(self) {
        drop(self);
    }

    /// Whether the store takes writes.
    #[must_use]
    pub fn health(&self) -> LogHealth {
        self.shared.health()
    }

    /// Goes on with other policies.
    pub fn set_policies(&self, policies: Arc<RoomPolicies>) {
        self.seen.set_policies(policies);
    }

    /// A handle for other threads.
    #[must_use]
    pub fn reader(&self) -> StoreReader {
        StoreReader { slot: self.slot.clone(), shared: self.shared.clone() }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.closing = None;
        join(self.upkeep.take());
        for _ in &self.readers {
            let _ = self.reads.send(ReadJob::Close);
        }
        let _ = self.jobs.send(Job::Close);
        join(self.writer.take());
        // Without a writer, nobody else sends them away.
        self.slot.end();
        self.readers.drain(..).for_each(|reader| join(Some(reader)));
    }
}

fn spawn(dir: &Path, name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|source| StoreError::Io { dir: dir.to_owned(), source })
}

fn join(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("a thread of the store broke off");
    }
}

/// Leaves with each shard the sanctions that it has to know, and the sessions that name it with their first bits.
fn send_kept(engine: &Engine, port: &StorePort, config: &StoreConfig) -> Result<(), StoreError> {
    let shards = port.outlets.len();
    let mut chunks: Vec<VecDeque<Vec<SessionRecord>>> = vec![VecDeque::new(); shards];
    for guard in engine.space(Space::Sessions).iter() {
        let (key, value) = guard.into_inner().map_err(|error| explain(&config.dir, error))?;
        let Ok(session) = decode_session(&key, &value) else {
            // A session is worth less than a start: its client joins anew.
            tracing::error!("a kept session is damaged and is left out");
            continue;
        };
        let chunks = &mut chunks[(session.id.0 >> 112) as usize % shards];
        match chunks.back_mut().filter(|chunk| chunk.len() < SESSIONS_CHUNK) {
            Some(chunk) => chunk.push(session),
            None => chunks.push_back(vec![session]),
        }
    }
    let sanctions = sanctions::take_stock(engine, shards, port.clock.now().unix_ms);
    let sanctions = sanctions.map_err(|error| error.explain(&config.dir))?;
    // Who is shut out is known before anyone comes back.
    for ((outlet, mut kept), chunks) in port.outlets.iter().zip(sanctions).zip(chunks) {
        kept.extend(chunks.into_iter().map(LogEvent::Sessions));
        if !kept.is_empty() {
            let _ = outlet.kept.try_send(kept);
        }
    }
    Ok(())
}

impl StoreReader {
    /// Whether the store takes writes.
    #[must_use]
    pub fn health(&self) -> LogHealth {
        self.shared.health()
    }

    /// Rooms that something is kept of, in the order of their names; the next page is after the last of this one.
    pub fn rooms(&self, after: Option<&RoomName>, max: usize) -> Result<Vec<RoomName>, ReadError> {
        let start = after.map_or(Bound::Unbounded, |room| Bound::Excluded(room_key(room)));
        let lease = self.lease()?;
        let rooms = lease.space(Space::Rooms).range((start, Bound::Unbounded)).take(max);
        rooms.map(|guard| Ok(read_room_key(&guard.key()?)?)).collect()
    }

    /// Dead letters of a room, by user and position; the next page is after the last of this one.
    pub fn letters(
        &self,
        room: &RoomName,
        after: Option<(&UserName, Seq)>,
        max: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        let lease = self.lease()?;
        let Some(record) = query::room(&lease, room)? else {
            return Ok(Vec::new());
        };
        let epoch = record.epoch;
        let start = match after {
            Some((user, seq)) => Bound::Excluded(letter_key(epoch, user, seq)),
            None => Bound::Included(epoch_key(epoch).to_vec()),
        };
        let mut letters = Vec::new();
        for guard in lease.space(Space::Letters).range((start, Bound::Unbounded)).take(max) {
            let (key, value) = guard.into_inner()?;
            if !key.starts_with(&epoch_key(epoch)) {
                break;
            }
            letters.push(decode_letter(&key, &value)?);
        }
        Ok(letters)
    }

    /// Whether the store is about to close or to be opened anew, and waits for whoever reads from it.
    #[must_use]
    pub fn is_recalled(&self) -> bool {
        self.slot.is_recalled()
    }

    pub(super) fn lease(&self) -> Result<Lease, ReadError> {
        self.slot.lease().map_err(|absence| match absence {
            Absence::Ended => ReadError::Ended,
            Absence::Withdrawn => ReadError::Unreadable("it is being opened anew after a failure".to_owned()),
        })
    }
}

/// Why something could not be read from a running store.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store has been closed.
    #[error("the store is closed")]
    Ended,
    /// The disk could not be read, or what it gave was damaged.
    #[error("the store could not be read: {0}")]
    Unreadable(String),
}

impl From<EngineError> for ReadError {
    fn from(error: EngineError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<fjall::Error> for ReadError {
    fn from(error: fjall::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<Damaged> for ReadError {
    fn from(error: Damaged) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("health", &self.health()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for StoreReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreReader").finish_non_exhaustive()
    }
}

/// Sessions that are told of at once.
const SESSIONS_CHUNK: usize = 1_000;
