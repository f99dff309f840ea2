//! The threads that answer questions. What cannot be answered soon, because the database is being opened anew, is
//! refused: whoever asked may ask again.

use std::sync::Arc;

use super::line::{Outlet, ReadJob, Shared};
use super::query;
use super::seen::Seen;
use super::slot::{Absence, Slot};
use crate::chat::log::{LogAnswer, LogEvent, LogFailure, LogRead};
use crate::clock::Clock;
use crate::ids::ShardId;
use crate::telemetry::log::Throttle;
use crate::telemetry::store::ReaderMetrics;

/// One thread that answers questions of shards.
pub(super) struct Reader {
    pub(super) reads: flume::Receiver<ReadJob>,
    pub(super) slot: Arc<Slot>,
    pub(super) shared: Arc<Shared>,
    pub(super) outlets: Arc<[Outlet]>,
    pub(super) seen: Arc<Seen>,
    pub(super) clock: Clock,
    pub(super) metrics: &'static ReaderMetrics,
    pub(super) throttle: Throttle,
}

impl Reader {
    /// Answers until it is told to end.
    pub(super) fn run(mut self) {
        while let Ok(ReadJob::Read { shard, token, read }) = self.reads.recv() {
            let Some(outcome) = self.answer(shard, &read) else {
                return;
            };
            let sent = self.outlets[shard.index()].events.try_send(LogEvent::Read { token, outcome });
            debug_assert!(!matches!(sent, Err(flume::TrySendError::Full(_))), "a line asks no more than fits");
            self.shared.ring(shard);
        }
    }

    /// `None` once the store has ended.
    fn answer(&mut self, shard: ShardId, read: &LogRead) -> Option<Result<LogAnswer, LogFailure>> {
        let start_us = self.clock.us();
        let answer = match self.slot.lease() {
            Ok(lease) => query::answer(&lease, read),
            Err(Absence::Ended) => return None,
            Err(Absence::Withdrawn) => {
                self.metrics.errors_total.inc();
                return Some(Err(LogFailure::Unreadable));
            }
        };
        self.metrics.reads_total.inc();
        self.metrics.read_us.record(self.clock.us() - start_us);
        if let (Ok(LogAnswer::Opened(Some(state))), LogRead::Open { room, .. }) = (&answer, read) {
            self.seen.note(state.epoch, shard, room);
        }
        Some(answer.map_err(|error| {
            self.metrics.errors_total.inc();
            if let Some(suppressed) = self.throttle.admit("unreadable", self.clock.now()) {
                let (room, epoch) = about(read);
                tracing::error!(room, epoch, %error, suppressed, "the store could not read");
            }
            LogFailure::Unreadable
        }))
    }
}

/// The room, and the epoch as far as it is known.
fn about(read: &LogRead) -> (&str, Option<String>) {
    match read {
        LogRead::Open { room, .. } => (room.as_str(), None),
        LogRead::After { room, epoch, .. }
        | LogRead::Before { room, epoch, .. }
        | LogRead::User { room, epoch, .. } => (room.as_str(), Some(epoch.to_string())),
    }
}
