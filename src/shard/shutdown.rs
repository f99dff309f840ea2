//! From the first signal to the end of the process.
//!
//! `Running → Draining → Stopping → Stopped`. Draining: no new connections, everyone is told and closed in
//! batches. Stopping: the deadline has passed, what is left is reset. A second signal ends the process at once.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::mailbox::Post;

/// How far the server's end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Stage {
    /// It serves.
    #[default]
    Running,
    /// It says goodbye.
    Draining,
    /// It ends now.
    Stopping,
    /// It has ended.
    Stopped,
}

/// What all shards follow, and what they count together.
#[derive(Debug)]
pub(super) struct Control {
    stage: AtomicU8,
    connections: AtomicU64,
    connections_max: u64,
    retry_after_max_ms: u64,
}

impl Control {
    /// A server that runs, and takes so many connections.
    pub(super) fn new(connections_max: u64, retry_after_max_ms: u64) -> Self {
        Self {
            stage: AtomicU8::new(Stage::Running as u8),
            connections: AtomicU64::new(0),
            connections_max,
            retry_after_max_ms,
        }
    }

    /// The stage now.
    pub(super) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Running,
            1 => Stage::Draining,
            2 => Stage::Stopping,
            _ => Stage::Stopped,
        }
    }

    /// Goes on to a later stage and wakes every shard.
    pub(super) fn advance(&self, stage: Stage, post: &Post) {
        self.stage.fetch_max(stage as u8, Ordering::Relaxed);
        post.ring_all();
    }

    /// Counts a connection in, unless there are too many.
    pub(super) fn enter(&self) -> bool {
        if self.connections.fetch_add(1, Ordering::Relaxed) < self.connections_max {
            return true;
        }
        self.left();
        false
    }

    /// Counts a connection out.
    pub(super) fn left(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The latest that clients are asked to come back after a drain.
    pub(super) fn retry_after_max_ms(&self) -> u64 {
        self.retry_after_max_ms
    }
}
