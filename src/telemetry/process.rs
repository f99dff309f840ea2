//! What the kernel says about this process: memory, CPU time of each thread, open descriptors of all tables.
//!
//! A file of `/proc` that is missing or unreadable leaves its figure out; a scrape never fails for it.

use std::fs;
use std::path::{Path, PathBuf};

/// The process at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// Memory in RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// When it started, in seconds since 1970.
    pub start_seconds: Option<f64>,
    /// Each thread's name and CPU time in seconds, in the order of their ids.
    pub threads: Vec<(String, f64)>,
    /// Open descriptors, summed over the tables that threads have of their own.
    pub open_descriptors: u64,
    /// How many distinct tables there are.
    pub descriptor_tables: u64,
}

impl ProcessFigures {
    /// Reads them all.
    #[must_use]
    pub fn read() -> Self {
        let tasks = tasks();
        let tables = descriptor_tables(&tasks);
        Self {
            resident_bytes: resident_bytes(),
            start_seconds: start_seconds(),
            threads: tasks.iter().filter_map(|task| thread(task)).collect(),
            open_descriptors: tables.iter().map(|table| table.open).sum(),
            descriptor_tables: tables.len() as u64,
        }
    }
}

fn tasks() -> Vec<PathBuf> {
    let mut tasks: Vec<(u64, PathBuf)> = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    tasks.sort_unstable();
    tasks.into_iter().map(|(_, path)| path).collect()
}

fn thread(task: &Path) -> Option<(String, f64)> {
    let name = fs::read_to_string(task.join("comm")).ok()?.trim_end().to_string();
    let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
    let nanoseconds: u64 = schedstat.split_whitespace().next()?.parse().ok()?;
    Some((name, nanoseconds as f64 / 1e9))
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn start_seconds() -> Option<f64> {
    let boot: f64 =
        fs::read_to_string("/proc/stat").ok()?.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything; the 22nd is the start in ticks.
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(boot + ticks / rustix::param::clock_ticks_per_second() as f64)
}

struct Table {
    /// The lowest descriptors with what they refer to. Tables that agree in these are taken for one: each shard has
    /// listeners of its own, opened before any connection, whose inodes differ.
    face: Vec<(String, PathBuf)>,
    open: u64,
}

fn descriptor_tables(tasks: &[PathBuf]) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for task in tasks {
        let directory = task.join("fd");
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let links = entries.flatten().take(TABLE_FACE_DESCRIPTORS).filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            // The directory being read shows up in the one table that belongs to this thread.
            (!target.starts_with("/proc")).then(|| (entry.file_name().to_string_lossy().into_owned(), target))
        });
        let face: Vec<_> = links.collect();
        if tables.iter().all(|table| table.face != face) {
            tables.push(Table { face, open: count(&directory) });
        }
    }
    tables
}

/// Entries of a directory of descriptors: its size since Linux 6.2, counted before.
fn count(directory: &Path) -> u64 {
    match fs::metadata(directory) {
        Ok(metadata) if metadata.len() > 0 => metadata.len(),
        _ => fs::read_dir(directory).map_or(0, |entries| entries.count() as u64),
    }
}

const TABLE_FACE_DESCRIPTORS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let figures = ProcessFigures::read();
        assert!(figures.resident_bytes.unwrap() > 1 << 20);
        assert!(figures.start_seconds.unwrap() > 1.6e9);
        assert!(figures.threads.iter().any(|(_, seconds)| *seconds > 0.0));
        assert!(figures.open_descriptors >= 3);
        assert_eq!(figures.descriptor_tables, 1);
    }

    #[test]
    fn open_descriptors_are_counted() {
        let before = count(Path::new("/proc/self/fd"));
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close files of their own meanwhile.
        assert!(count(Path::new("/proc/self/fd")) > before + 50);
        drop(files);
    }
}
