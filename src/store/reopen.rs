//! After a failed write or fsync: the database is closed and opened anew, until that works.
//!
//! After a failed fsync the kernel may take pages for clean that the disk never got, and reading them back proves
//! nothing. So no byte of the old journal is trusted or followed by another: what it held is flushed to tables, which
//! have an fsync of their own, the journal is emptied, and all batches that nobody was told of are written again.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, EngineError, StoreError};
use super::journal;
use super::writer::Writer;

/// Opens the writer's database again; false when the store ends before that works. What was not synced is in the
/// writer's group then.
pub(super) fn reopen(writer: &mut Writer) -> bool {
    writer.regroup();
    writer.is_withdrawn = true;
    writer.slot.clear();
    loop {
        writer.metrics.reopenings_total.inc();
        match try_reopen(writer) {
            Ok(()) => return true,
            Err(error) => tracing::error!(dir = %writer.dir.display(), %error, "the store cannot be opened again yet"),
        }
        if writer.wait(PAUSE) {
            return false;
        }
    }
}

fn try_reopen(writer: &mut Writer) -> Result<(), ReopenError> {
    // The last reference: after this nothing of the database is open.
    writer.engine = None;
    let engine = Engine::open_existing(&writer.dir)?;
    engine.flush()?;
    drop(engine);
    journal::empty(&writer.dir)?;
    writer.engine = Some(Arc::new(Engine::open_existing(&writer.dir)?));
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum ReopenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// How long to wait before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);
