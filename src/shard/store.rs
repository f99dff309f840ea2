//! The shard's end of its line to the store: what the core wants stored and read goes out at the end of each turn, and
//! what the store says comes in at the beginning. Without durable rooms there is no line.
//!
//! Invariant: batches reach the store in the order of their tickets, for one that was given back goes first.

use crate::chat::Input;
use crate::chat::log::{LogBatch, LogRead};
use crate::chat::state::State;
use crate::shard::hub::Hub;
use crate::store::Line;

/// One shard's line.
pub(super) struct StoreLine {
    line: Option<Line>,
    stuck_batch: Option<LogBatch>,
    stuck_read: Option<(u64, LogRead)>,
}

impl StoreLine {
    /// The end of a line, if there is one.
    pub(super) fn new(line: Option<Line>) -> Self {
        Self { line, stuck_batch: None, stuck_read: None }
    }

    /// Hands the core what the store says.
    pub(super) fn hear(&mut self, hub: &mut Hub) {
        let Some(line) = &mut self.line else { return };
        while let Some(event) = line.next_event() {
            let _ = hub.core.handle(Input::Log(event), hub.now);
            hub.pump();
        }
    }

    /// Hands the store what the core wants of it, as far as there is room.
    pub(super) fn send(&mut self, core: &mut State) {
        let Some(line) = &mut self.line else {
            // Sessions of memory rooms are not stored; what has changed of them is no reason to stay awake.
            let nothing = core.take_log_batch();
            debug_assert!(nothing.is_none(), "nothing is stored without a store");
            return;
        };
        while let Some(batch) = self.stuck_batch.take().or_else(|| core.take_log_batch()) {
            if let Err(batch) = line.try_write(batch) {
                self.stuck_batch = Some(batch);
                break;
            }
        }
        while let Some((token, read)) = self.stuck_read.take().or_else(|| core.take_log_read()) {
            if let Err(read) = line.try_read(token, read) {
                self.stuck_read = Some(read);
                break;
            }
        }
    }

    /// Whether there is something to do now. What is stuck moves only after the store has said something.
    pub(super) fn has_work(&self, core: &State) -> bool {
        self.line.as_ref().is_some_and(Line::has_events)
            || (self.stuck_batch.is_none() && core.has_log_batch())
            || (self.stuck_read.is_none() && core.has_log_reads())
    }

    /// Whether the store has everything that is to be stored.
    pub(super) fn is_empty(&self, core: &State) -> bool {
        self.line.is_none() || (self.stuck_batch.is_none() && !core.has_log_batch())
    }
}
