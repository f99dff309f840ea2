//! What a crash of the whole machine may do to the end of a journal, and a bad disk to any of it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::rng::Rng;

/// What happens to a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Its last bytes are missing.
    Cut,
    /// Something follows its end.
    Garbage,
    /// Some of its last bytes are zero.
    Hole,
}

/// Does that to the newest journal of a store.
pub fn inflict(dir: &Path, damage: Damage, rng: &mut Rng) {
    let path = newest_journal(dir);
    let bytes = fs::read(&path).expect("a journal can be read");
    // Journals are made longer than what is in them.
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("something was written") as u64 + 1;
    let file = OpenOptions::new().write(true).open(&path).expect("a journal can be written");
    let few = rng.range(1, 40);
    match damage {
        Damage::Cut => file.set_len(end - few),
        Damage::Garbage => {
            let garbage: Vec<u8> = (0..few).map(|_| rng.next_u64() as u8).collect();
            file.write_all_at(&garbage, end)
        }
        Damage::Hole => file.write_all_at(&vec![0; few as usize], end - 2 * few),
    }
    .expect("a journal can be written");
}

/// The journal with the highest number.
fn newest_journal(dir: &Path) -> PathBuf {
    let entries = fs::read_dir(dir).expect("the directory can be read").flatten().map(|entry| entry.path());
    let numbered = entries.filter_map(|path| {
        let number: u64 = path.file_name()?.to_str()?.strip_suffix(".jnl")?.parse().ok()?;
        Some((number, path))
    });
    numbered.max().expect("there is a journal").1
}
