//! What an operator does to a store: check, export, import, compact, back up. All but the backup of a running store work
//! on a directory that no server uses, which the lock sees to; that backup comes from the server itself (`remote`).

mod check;
mod dump;
mod import;
mod remote;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::engine::{Engine, EngineError, StoreError, explain_io};
use super::journal;
use super::life::{ReadError, StoreReader};
pub use check::Checked;
pub use dump::{Counts, DUMP_FORMAT};
pub use import::Epochs;
pub use remote::fetch;

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be read or written.
    #[error("the store could not be read or written: {0}")]
    Engine(String),
    /// A record is not what was written; `hubbub store check` names all of them.
    #[error("the store has damaged records: `hubbub store check` names them")]
    Damaged,
    /// The store was closed, or opened anew after a failure, before the backup was through.
    #[error("the store was closed or reopened before the end: what was written is no backup; try again")]
    Interrupted,
    /// A line of what is to be imported cannot be used.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The directory to import into is in use by something else.
    #[error("{} is not empty: import into a directory that is empty or not there", .0.display())]
    NotEmpty(PathBuf),
    /// A server has the store that is to be backed up.
    #[error("{} is in use by a server: ask it for the backup with --admin http://HOST:PORT --admin-key-file FILE", .0.display())]
    Running(PathBuf),
    /// A server does not give its backup, or not all of it.
    #[error("{address}: {what}")]
    Server {
        /// Which.
        address: String,
        /// What it says, or what went wrong.
        what: String,
    },
    /// The output or input fails.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl From<EngineError> for OfflineError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Fjall(error) => Self::Engine(error.to_string()),
            EngineError::Damaged(_) => Self::Damaged,
        }
    }
}

impl From<fjall::Error> for OfflineError {
    fn from(error: fjall::Error) -> Self {
        Self::Engine(error.to_string())
    }
}

impl From<super::encoding::Damaged> for OfflineError {
    fn from(_: super::encoding::Damaged) -> Self {
        Self::Damaged
    }
}

/// Sizes of a directory before and after [`compact`], in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// Walks over everything in a store and writes what it finds, one line for each room and each finding.
pub fn check(dir: &Path, out: &mut dyn Write) -> Result<Checked, OfflineError> {
    check::check(&Engine::open_existing(dir)?, out)
}

/// Writes the whole store as lines of JSON; `docs/storage.md` has their format.
pub fn export(dir: &Path, out: &mut dyn Write) -> Result<Counts, OfflineError> {
    dump::dump(&Engine::open_existing(dir)?, out, &|| false)
}

/// As [`export`]; of a server that runs, [`fetch`] is the way.
pub fn backup(dir: &Path, out: &mut dyn Write) -> Result<Counts, OfflineError> {
    export(dir, out).map_err(|error| match error {
        OfflineError::Store(StoreError::Locked(dir)) => OfflineError::Running(dir),
        error => error,
    })
}

/// Makes a store of what [`export`] or [`StoreReader::backup`] wrote, in a directory that is empty or not there. It
/// appears there whole or not at all.
pub fn import(dir: &Path, input: &mut dyn BufRead, epochs: Epochs) -> Result<Counts, OfflineError> {
    import::import(dir, input, epochs)
}

/// Merges all that a store has into as few files as it takes, without what was removed.
pub fn compact(dir: &Path) -> Result<Compacted, OfflineError> {
    let before = size(dir)?;
    let engine = Engine::open_existing(dir)?;
    engine.flush()?;
    engine.compact()?;
    drop(engine);
    journal::empty(dir)?;
    // Opening it once more removes what the merge has replaced, and proves that it can be opened.
    drop(Engine::open_existing(dir)?);
    Ok(Compacted { before, after: size(dir)? })
}

impl StoreReader {
    /// Writes the store as it is at this moment, in the format of [`export`], while it goes on. Memory is bounded by
    /// the largest block.
    pub fn backup(&self, out: &mut dyn Write) -> Result<Counts, OfflineError> {
        let lease = self.lease().map_err(|error| match error {
            ReadError::Ended => OfflineError::Interrupted,
            ReadError::Unreadable(what) => OfflineError::Engine(what),
        })?;
        dump::dump(&lease, out, &|| lease.is_recalled())
    }
}

/// Writes to a file that appears, on the disk, when all of it is written, or to standard output.
pub fn write_output<T>(
    file: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<T, OfflineError>,
) -> Result<T, OfflineError> {
    let Some(path) = file else {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = write(&mut out)?;
        out.flush().map_err(|source| OfflineError::Io { what: "standard output".to_owned(), source })?;
        return Ok(written);
    };
    let fails = |source| OfflineError::Io { what: path.display().to_string(), source };
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut out = BufWriter::new(File::create(&part).map_err(fails)?);
    let written = write(&mut out)?;
    let file = out.into_inner().map_err(|error| fails(error.into_error()))?;
    file.sync_all().and_then(|()| std::fs::rename(&part, path)).map_err(fails)?;
    Ok(written)
}

/// Reads from a file or standard input.
pub fn read_input<T>(
    file: Option<&Path>,
    read: impl FnOnce(&mut dyn BufRead) -> Result<T, OfflineError>,
) -> Result<T, OfflineError> {
    let Some(path) = file else {
        return read(&mut io::stdin().lock());
    };
    let file = File::open(path).map_err(|source| OfflineError::Io { what: path.display().to_string(), source })?;
    read(&mut BufReader::new(file))
}

/// Bytes that a directory takes on the disk, all below it included.
fn size(dir: &Path) -> Result<u64, StoreError> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(&next).map_err(|source| explain_io(dir, source))? {
            let entry = entry.map_err(|source| explain_io(dir, source))?;
            let about = entry.metadata().map_err(|source| explain_io(dir, source))?;
            if about.is_dir() {
                left.push(entry.path());
            } else {
                // Journals are made long and empty: what counts is what they take.
                bytes += about.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}
