//! From the first signal to the end of the process.
//!
//! `Running → Draining → Stopping → Stopped`. Draining: no new connections, everyone is told and closed in
//! batches; a shard goes on until nobody is connected to any. Stopping: the deadline has passed, what is left is reset. A second signal ends the process at once.

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
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Running,
            1 => Stage::Draining,
            2 => Stage::Stopping,
            _ => Stage::Stopped,
        }
    }

    /// Goes on to a later stage and wakes every shard.
    pub(super) fn advance(&self, stage: Stage, post: &Post) {
        self.stage.fetch_max(stage as u8, Ordering::SeqCst);
        post.ring_all();
    }

    /// Counts a connection in, unless there are too many.
    pub(super) fn enter(&self) -> bool {
        let one_more = |connections| (connections < self.connections_max).then_some(connections + 1);
        self.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// Counts a connection out. The last one that leaves a server that stops wakes every shard.
    pub(super) fn left(&self, post: &Post) {
        if self.connections.fetch_sub(1, Ordering::SeqCst) == 1 && self.stage() >= Stage::Draining {
            post.ring_all();
        }
    }

    /// Whether a server that stops needs this shard no more. Not while any shard has a connection, for it may
    /// wait for what the rooms of this shard answer.
    pub(super) fn is_over(&self) -> bool {
        match self.stage() {
            Stage::Running => false,
            Stage::Draining => self.connections.load(Ordering::SeqCst) == 0,
            Stage::Stopping | Stage::Stopped => true,
        }
    }

    /// The latest that clients are asked to come back after a drain.
    pub(super) fn retry_after_max_ms(&self) -> u64 {
        self.retry_after_max_ms
    }
}
