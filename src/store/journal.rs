//! What fjall's journal holds, looked at before fjall does.
//!
//! fjall ends its replay at the first thing it cannot read, or refuses to open at all, and cannot tell a tail that a
//! power failure tore from a page that went bad. We can: a batch is marked when something before it was not yet on the
//! disk ([`CHAINED`]). So what follows the first bad place is either part of the same unsynced tail, which nobody was
//! promised, and is cut off; or there is a batch without the mark, before which everything had been on the disk, and
//! then the disk has lost something: that is an error.
//!
//! The format is that of fjall 3: a batch is `1 · count (u32) · seqno (u64)`, so many items, and
//! `3 · XXH3-64 of the items (u64) · "FJL" 3`. An item is `2 · type · compression · keyspace (u64) · key's length (u16) ·
//! value's length (u32) · its length here (u32) · key · value`, or `4 · keyspace (u64)`. Integers have their lowest byte
//! first.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::encoding::{Cursor, Damaged};
use super::engine::{StoreError, explain_io};

/// Key, in `meta`, of a batch that was written while one before it was not known to be on the disk.
pub(super) const CHAINED: &[u8] = b"chained";

/// Verifies all journals of a database that nobody has open, and cuts off a torn tail.
pub(super) fn verify(dir: &Path) -> Result<(), StoreError> {
    let fails = |source| explain_io(dir, source);
    let _lock = lock(dir)?;
    let mut journals = journals(dir).map_err(fails)?;
    let active = journals.pop();
    for sealed in journals {
        // A journal is on the disk before the next one is begun.
        let bytes = std::fs::read(&sealed).map_err(fails)?;
        if let Some(at) = first_bad(&bytes) {
            return Err(damaged(dir, &sealed, at));
        }
    }
    let Some(active) = active else {
        return Ok(());
    };
    let bytes = std::fs::read(&active).map_err(fails)?;
    let Some(at) = first_bad(&bytes) else {
        return Ok(());
    };
    if has_promised(&bytes[at..]) {
        return Err(damaged(dir, &active, at));
    }
    tracing::warn!(journal = %active.display(), at, "the end of the journal is torn, as by a power failure; it is cut off");
    let file = OpenOptions::new().write(true).open(&active).map_err(fails)?;
    file.set_len(at as u64).and_then(|()| file.sync_all()).map_err(fails)
}

/// Empties the journal of a database that is closed and flushed.
pub(super) fn empty(dir: &Path) -> Result<(), StoreError> {
    let empty = || -> io::Result<()> {
        let mut journals = journals(dir)?;
        // The last one is the one that is written to: fjall goes on with it, and with its number.
        if let Some(active) = journals.pop() {
            let file = OpenOptions::new().write(true).open(active)?;
            file.set_len(0)?;
            file.sync_all()?;
        }
        for sealed in journals {
            std::fs::remove_file(sealed)?;
        }
        File::open(dir)?.sync_all()
    };
    empty().map_err(|source| explain_io(dir, source))
}

/// Keeps others out for as long as the file is open, as fjall does.
fn lock(dir: &Path) -> Result<Option<File>, StoreError> {
    let file = match File::open(dir.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(explain_io(dir, source)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked(dir.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(explain_io(dir, source)),
    }
}

/// All journals, oldest first.
fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|ending| ending == "jnl")) {
            journals.push((number, path));
        }
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// Where the batches end, if anything but zeros follows: journals are made long and filled later.
fn first_bad(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Ok(batch) = read_batch(&bytes[at..]) {
        at += batch.len;
    }
    bytes[at..].iter().any(|byte| *byte != 0).then_some(at)
}

/// Whether there is a batch before which everything was on the disk.
fn has_promised(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(step) = memchr::memchr(START, &bytes[at..]) {
        at += step;
        match read_batch(&bytes[at..]) {
            Ok(batch) if !batch.is_chained => return true,
            Ok(batch) => at += batch.len,
            Err(Damaged) => at += 1,
        }
    }
    false
}

struct BatchSpan {
    len: usize,
    is_chained: bool,
}

/// Reads the batch that begins here.
fn read_batch(bytes: &[u8]) -> Result<BatchSpan, Damaged> {
    let mut cursor = Cursor::new(bytes);
    if cursor.byte()? != START {
        return Err(Damaged);
    }
    let count = cursor.little(4)?;
    cursor.take(8)?;
    let start = bytes.len() - cursor.len();
    let mut is_chained = false;
    for _ in 0..count {
        match cursor.byte()? {
            ITEM => {
                cursor.take(10)?;
                let key_len = cursor.little(2)?;
                cursor.take(4)?;
                let value_len = cursor.little(4)?;
                is_chained |= cursor.take(key_len as usize)? == CHAINED;
                cursor.take(value_len as usize)?;
            }
            CLEAR => drop(cursor.take(8)?),
            _ => return Err(Damaged),
        }
    }
    let end = bytes.len() - cursor.len();
    let is_whole = cursor.byte()? == END && cursor.little(8)? == xxh3_64(&bytes[start..end]);
    if !is_whole || cursor.take(MAGIC.len())? != MAGIC {
        return Err(Damaged);
    }
    Ok(BatchSpan { len: bytes.len() - cursor.len(), is_chained })
}

fn damaged(dir: &Path, journal: &Path, at: usize) -> StoreError {
    let name = journal.file_name().unwrap_or_default().display();
    let what = format!("the journal {name} cannot be read from byte {at} on, and more follows that had been promised");
    StoreError::Damaged { dir: dir.to_owned(), what }
}

const LOCK: &str = "lock";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8] = b"FJL\x03";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Seq;
    use crate::store::tests::{EPOCH, Rig, append, crash_image, message, register};

    /// A journal with a batch on the disk, two that were not waited for, and one after all that was; and where the
    /// three messages begin.
    fn written(sync_before_last: bool) -> (tempfile::TempDir, [usize; 3]) {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open_lazy(dir.path());
        rig.write(vec![register(EPOCH)]);
        for seq in 1..=2 {
            rig.send(0, false, vec![append(EPOCH, vec![message(seq)])]);
            rig.await_applied(0, seq + 1);
        }
        if sync_before_last {
            rig.write(vec![]);
        }
        rig.send(0, false, vec![append(EPOCH, vec![message(3)])]);
        let last = rig.ticket(0);
        rig.await_applied(0, last);
        let image = crash_image(dir.path());
        let bytes = std::fs::read(image.path().join("0.jnl")).unwrap();
        let places = [1, 2, 3].map(|seq| memchr::memmem::find(&bytes, &message(seq).content).unwrap());
        (image, places)
    }

    fn wipe(dir: &Path, at: usize) {
        let path = dir.join("0.jnl");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at..at + 4].fill(0);
        std::fs::write(path, bytes).unwrap();
    }

    fn seqs(dir: &Path) -> Vec<Seq> {
        Rig::open(dir).all().iter().map(|message| message.seq).collect()
    }

    #[test]
    fn a_sound_journal_is_left_alone() {
        let (image, _) = written(true);
        let before = std::fs::read(image.path().join("0.jnl")).unwrap();
        verify(image.path()).unwrap();
        assert_eq!(std::fs::read(image.path().join("0.jnl")).unwrap(), before);
        assert_eq!(seqs(image.path()), [Seq(1), Seq(2), Seq(3)]);
    }

    #[test]
    fn a_tail_cut_short_is_dropped() {
        let (image, [_, _, third]) = written(true);
        OpenOptions::new().write(true).open(image.path().join("0.jnl")).unwrap().set_len(third as u64).unwrap();
        assert_eq!(seqs(image.path()), [Seq(1), Seq(2)]);
    }

    #[test]
    fn a_hole_in_the_last_batch_is_dropped() {
        let (image, [_, _, third]) = written(true);
        wipe(image.path(), third);
        assert_eq!(seqs(image.path()), [Seq(1), Seq(2)]);
    }

    #[test]
    fn a_hole_in_what_nobody_waited_for_ends_the_log_there() {
        let (image, [first, ..]) = written(false);
        wipe(image.path(), first);
        // None of the three was on the disk when the next was written.
        assert_eq!(seqs(image.path()), []);
    }

    #[test]
    fn a_hole_in_what_was_promised_is_an_error() {
        let (image, [_, second, _]) = written(true);
        wipe(image.path(), second);
        let error = verify(image.path()).unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { what, .. } if what.contains("0.jnl")), "{error}");
        wipe(image.path(), second);
        assert!(verify(image.path()).is_err(), "a refusal changes nothing");
    }
}
