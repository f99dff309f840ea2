//! The database below: its keyspaces, what is checked when it is opened, and who uses it at the moment.
//!
//! Invariant: one process at a time (fjall locks the directory). The clean mark is there only while nobody serves from
//! the directory: it is removed, and that is on the disk, before anyone is told of the store.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice};

use super::encoding::{Cursor, Damaged, put_integer};
use super::fault::fault_point;
use super::journal;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory.
    #[error("{} is in use by another process: stop it, or choose another directory with data_dir", .0.display())]
    Locked(PathBuf),
    /// The directory cannot be made or written to.
    #[error("{} cannot be written to ({source}): let this user write there, or choose another directory with data_dir", dir.display())]
    NotWritable {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to work on.
    #[error("{} holds no store: is it the data_dir of the server?", .0.display())]
    Missing(PathBuf),
    /// Another version of hubbub, or another program, wrote it.
    #[error("{} was written in a format that this version does not know ({found}); this version knows format {FORMAT}", dir.display())]
    Format {
        /// Which.
        dir: PathBuf,
        /// What was found.
        found: String,
    },
    /// What is there cannot be read.
    #[error("{} is damaged ({what}): restore a backup, or move the directory away to begin anew", dir.display())]
    Damaged {
        /// Which.
        dir: PathBuf,
        /// What was found.
        what: String,
    },
    /// The operating system refuses something.
    #[error("{} cannot be used ({source}): see to it, or choose another directory with data_dir", dir.display())]
    Io {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A part of the database with its own order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Meta,
    Rooms,
    Log,
    Trims,
    Cursors,
    Letters,
    Sessions,
    Sanctions,
}

/// An open database.
pub(super) struct Engine {
    db: Database,
    spaces: [Keyspace; Space::ALL.len()],
}

impl Space {
    pub(super) const ALL: [Self; 8] = [
        Self::Meta,
        Self::Rooms,
        Self::Log,
        Self::Trims,
        Self::Cursors,
        Self::Letters,
        Self::Sessions,
        Self::Sanctions,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Rooms => "rooms",
            Self::Log => "log",
            Self::Trims => "trims",
            Self::Cursors => "cursors",
            Self::Letters => "letters",
            Self::Sessions => "sessions",
            Self::Sanctions => "sanctions",
        }
    }

    /// Logs are read by ranges, which no filter helps, and in order, for which larger blocks pack better.
    fn options(self) -> KeyspaceCreateOptions {
        let options = KeyspaceCreateOptions::default().manual_journal_persist(true);
        match self {
            Self::Log => options
                .max_memtable_size(LOG_MEMTABLE_BYTES)
                .data_block_size_policy(BlockSizePolicy::all(LOG_BLOCK_BYTES))
                .filter_policy(FilterPolicy::disabled()),
            _ => options.max_memtable_size(MEMTABLE_BYTES),
        }
    }
}

impl Engine {
    /// Opens the database in `dir`, making both where they are not, and verifies its journal.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        make_dir(dir)?;
        journal::verify(dir)?;
        // The journal is not compressed: it is short-lived, and the one thread that writes has better things to do.
        let database = Database::builder(dir)
            .journal_compression(CompressionType::None)
            .manual_journal_persist(true)
            .max_journaling_size(JOURNALS_BYTES)
            .worker_threads(WORKERS)
            .open();
        let db = database.map_err(|error| explain(dir, error))?;
        let open = |space: Space| db.keyspace(space.name(), || space.options());
        let spaces: Result<Vec<Keyspace>, fjall::Error> = Space::ALL.into_iter().map(open).collect();
        let spaces = spaces.map_err(|error| explain(dir, error))?;
        let spaces = spaces.try_into().unwrap_or_else(|_| unreachable!("one for each name"));
        let engine = Self { db, spaces };
        engine.check_format(dir)?;
        Ok(engine)
    }

    /// Opens a database that is there already.
    pub(super) fn open_existing(dir: &Path) -> Result<Self, StoreError> {
        if !dir.join(DATABASE_MARK).exists() {
            return Err(StoreError::Missing(dir.to_owned()));
        }
        Self::open(dir)
    }

    fn check_format(&self, dir: &Path) -> Result<(), StoreError> {
        let found = self.space(Space::Meta).get(FORMAT_KEY).map_err(|error| explain(dir, error))?;
        let Some(found) = found else {
            // A stop between the making of the database and the writing of this leaves nothing but empty keyspaces.
            for space in Space::ALL {
                if !self.space(space).is_empty().map_err(|error| explain(dir, error))? {
                    return Err(StoreError::Format { dir: dir.to_owned(), found: "none".to_owned() });
                }
            }
            let mut batch = self.batch(2);
            batch.insert(self.space(Space::Meta), FORMAT_KEY, [FORMAT]);
            batch.insert(self.space(Space::Meta), CLEAN_KEY, []);
            return self.write(batch).and_then(|()| self.sync()).map_err(|error| explain(dir, error));
        };
        if *found == [FORMAT] {
            return Ok(());
        }
        let found = found.first().map_or("none".to_owned(), |format| format!("format {format}"));
        Err(StoreError::Format { dir: dir.to_owned(), found })
    }

    /// Removes the clean mark; where there was none, the last stop was not clean and is counted. Gives the count of
    /// all unclean stops.
    pub(super) fn begin_life(&self, dir: &Path) -> Result<u64, StoreError> {
        let begin = || -> Result<u64, EngineError> {
            let meta = self.space(Space::Meta);
            let mut crashes = self.crashes()?;
            let mut batch = self.batch(2);
            if meta.contains_key(CLEAN_KEY)? {
                batch.remove(meta, CLEAN_KEY);
            } else {
                crashes += 1;
                let mut value = Vec::new();
                put_integer(&mut value, crashes);
                batch.insert(meta, CRASHES_KEY, value);
            }
            self.write(batch)?;
            self.sync()?;
            fault_point("store.opened");
            Ok(crashes)
        };
        begin().map_err(|error| error.explain(dir))
    }

    /// How many unclean stops there were.
    pub(super) fn crashes(&self) -> Result<u64, EngineError> {
        match self.space(Space::Meta).get(CRASHES_KEY)? {
            Some(value) => Ok(Cursor::new(&value).integer()?),
            None => Ok(0),
        }
    }

    /// Takes over the count of another store.
    pub(super) fn set_crashes(&self, crashes: u64) -> Result<(), EngineError> {
        let mut value = Vec::new();
        put_integer(&mut value, crashes);
        let mut batch = self.batch(1);
        batch.insert(self.space(Space::Meta), CRASHES_KEY, value);
        Ok(self.write(batch)?)
    }

    /// Says that everything is written, and has it on the disk.
    pub(super) fn end_life(&self) -> Result<(), EngineError> {
        fault_point("store.before_clean_mark");
        let mut batch = self.batch(1);
        batch.insert(self.space(Space::Meta), CLEAN_KEY, []);
        self.write(batch)?;
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }

    pub(super) fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    pub(super) fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        // `Buffer` hands the batch to the operating system at once: an error is known before anyone reads from it.
        OwnedWriteBatch::with_capacity(self.db.clone(), capacity).durability(Some(PersistMode::Buffer))
    }

    /// Hands a batch to the operating system, and shows it to readers.
    pub(super) fn write(&self, batch: OwnedWriteBatch) -> Result<(), fjall::Error> {
        batch.commit()
    }

    /// Has everything written so far on the disk (`fdatasync`).
    pub(super) fn sync(&self) -> Result<(), fjall::Error> {
        self.db.persist(PersistMode::SyncData)
    }

    /// Whether writing should wait, as fjall itself would make it, and without an end if its workers have died.
    pub(super) fn is_behind(&self) -> bool {
        let log = self.space(Space::Log);
        log.sealed_memtable_count() >= SEALED_MEMTABLES_MAX || log.l0_table_count() >= FRESH_TABLES_MAX
    }

    /// Fails when a write, an fsync or a worker has failed.
    pub(super) fn check(&self) -> Result<(), fjall::Error> {
        self.db.persist(PersistMode::Buffer)
    }

    /// Has everything in tables, so that no journal is needed.
    pub(super) fn flush(&self) -> Result<(), EngineError> {
        for keyspace in &self.spaces {
            keyspace.rotate_memtable()?;
        }
        for keyspace in &self.spaces {
            // Nobody tells when it is done, nor that it never will be.
            while keyspace.sealed_memtable_count() > 0 {
                self.check()?;
                std::thread::park_timeout(FLUSH_LOOK);
            }
        }
        Ok(())
    }

    /// Merges all tables of each keyspace, leaving out what was removed or replaced.
    pub(super) fn compact(&self) -> Result<(), EngineError> {
        for keyspace in &self.spaces {
            keyspace.major_compact()?;
        }
        Ok(())
    }

    /// A view of all keyspaces at one moment.
    pub(super) fn snapshot(&self) -> fjall::Snapshot {
        self.db.snapshot()
    }

    /// The last pair of a range.
    pub(super) fn last(&self, space: Space, range: KeyRange) -> Result<Option<(Slice, Slice)>, fjall::Error> {
        self.space(space).range(range).next_back().map(fjall::Guard::into_inner).transpose()
    }
}

/// A range of keys of the log.
pub(super) type KeyRange = std::ops::RangeInclusive<[u8; 16]>;

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// By the database.
    #[error("{0}")]
    Fjall(#[from] fjall::Error),
    /// It could, but is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

impl EngineError {
    /// In the words of the whole store.
    pub(super) fn explain(self, dir: &Path) -> StoreError {
        match self {
            Self::Fjall(error) => explain(dir, error),
            Self::Damaged(damaged) => StoreError::Damaged { dir: dir.to_owned(), what: damaged.to_string() },
        }
    }
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| explain_io(dir, source))
}

pub(super) fn explain(dir: &Path, error: fjall::Error) -> StoreError {
    let damaged = |what: String| StoreError::Damaged { dir: dir.to_owned(), what };
    match error {
        fjall::Error::Locked => StoreError::Locked(dir.to_owned()),
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => explain_io(dir, source),
        fjall::Error::InvalidVersion(version) => {
            StoreError::Format { dir: dir.to_owned(), found: format!("{version:?}") }
        }
        fjall::Error::JournalRecovery(error) => damaged(format!("its journal: {error:?}")),
        error => damaged(error.to_string()),
    }
}

pub(super) fn explain_io(dir: &Path, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::AlreadyExists => StoreError::NotWritable { dir: dir.to_owned(), source },
        _ => StoreError::Io { dir: dir.to_owned(), source },
    }
}

/// Version of everything that is stored.
pub(super) const FORMAT: u8 = 1;
const FORMAT_KEY: &[u8] = b"format";
const CLEAN_KEY: &[u8] = b"clean";
const CRASHES_KEY: &[u8] = b"crashes";
/// Keys of `meta` that begin so name a log that nobody can reach any more.
pub(super) const ERASE_PREFIX: &[u8] = b"erase/";
/// The file by which fjall knows a database.
const DATABASE_MARK: &str = "version";
/// Threads that flush and compact; with two, flushing never waits for a long compaction.
const WORKERS: usize = 2;
/// Journals are replayed at start, so they are kept short: the smallest that fjall allows.
const JOURNALS_BYTES: u64 = 64 * 1024 * 1024;
const LOG_MEMTABLE_BYTES: u64 = 32 * 1024 * 1024;
const MEMTABLE_BYTES: u64 = 2 * 1024 * 1024;
const LOG_BLOCK_BYTES: u32 = 16 * 1024;
/// How often to look whether a flush is over.
const FLUSH_LOOK: std::time::Duration = std::time::Duration::from_millis(2);
/// One less than fjall stops at.
const SEALED_MEMTABLES_MAX: usize = 3;
/// Well below the 30 that fjall stops at.
const FRESH_TABLES_MAX: usize = 24;
