//! How much room the disk has left, looked at no more often than needed.

use std::path::PathBuf;

use crate::telemetry::store::StoreMetrics;

/// Watches the file system of a directory.
pub(super) struct Disk {
    dir: PathBuf,
    free_bytes_min: u64,
    metrics: &'static StoreMetrics,
    looked_us: Option<u64>,
    written: u64,
    has_room: bool,
}

impl Disk {
    pub(super) fn new(dir: PathBuf, free_bytes_min: u64, metrics: &'static StoreMetrics) -> Self {
        Self { dir, free_bytes_min, metrics, looked_us: None, written: 0, has_room: true }
    }

    /// Whether there is room for writing `bytes` now.
    pub(super) fn admits(&mut self, now_us: u64, bytes: u64) -> bool {
        self.written += bytes;
        let is_recent = self.looked_us.is_some_and(|looked| now_us.saturating_sub(looked) < LOOK_US);
        if !self.has_room || !is_recent || self.written >= LOOK_BYTES {
            self.look(now_us);
        }
        self.has_room
    }

    fn look(&mut self, now_us: u64) {
        self.looked_us = Some(now_us);
        self.written = 0;
        // If it cannot be known, writing will tell.
        let free = rustix::fs::statvfs(&self.dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        self.metrics.disk_free_bytes.set(free);
        self.has_room = free >= self.free_bytes_min;
    }
}

/// Longest time between two looks while something is written.
const LOOK_US: u64 = 100_000;
/// Most bytes written between two looks.
const LOOK_BYTES: u64 = 64 * 1024 * 1024;
