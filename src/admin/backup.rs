//! `/api/v1/store/backup`: the store as it is at this moment, as lines of JSON, while it goes on.
//!
//! A thread reads the store and this one passes on what it reads; between them lie a few chunks at most. The thread ends
//! when whoever asked is gone, takes nothing for too long, or the store is closed or opened anew: a reader that waits
//! for its client must not keep the store from that. An answer that ends early has no `end` line and, being chunked,
//! no last chunk. One backup is taken at a time.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::problem::Problem;
use crate::chat::log::LogHealth;
use crate::store::StoreReader;

/// What is needed to take backups.
#[derive(Clone)]
pub(super) struct Vault {
    reader: StoreReader,
    busy: Arc<AtomicBool>,
}

impl Vault {
    pub(super) fn new(reader: StoreReader) -> Self {
        Self { reader, busy: Arc::default() }
    }
}

/// Gives the whole store, as it is at this moment, as lines of JSON. An answer without an `end` line is no backup.
#[utoipa::path(get, path = "/api/v1/store/backup", tag = "server",
    responses((status = 200, content_type = "application/x-ndjson", body = String)))]
pub(super) async fn backup(State(vault): State<Vault>) -> Response {
    if vault.reader.health() == LogHealth::Failed {
        return Problem::overloaded("the store is being opened again: ask later").into_response();
    }
    if vault.busy.swap(true, Ordering::AcqRel) {
        let detail = "a backup is being taken: ask again when it is done";
        return Problem::new(StatusCode::CONFLICT, "conflict", detail).into_response();
    }
    let running = Running(vault.busy);
    let (chunks, body) = flume::bounded(CHUNKS_MAX);
    let run = move || {
        take(&vault.reader, &chunks);
        drop(running);
    };
    match std::thread::Builder::new().name("store-backup".into()).spawn(run) {
        Ok(_) => {
            let kind = (header::CONTENT_TYPE, "application/x-ndjson");
            ([kind], Body::from_stream(body.into_stream())).into_response()
        }
        Err(error) => Problem::overloaded(format!("no thread for it: {error}")).into_response(),
    }
}

/// Marks that a backup is taken, until dropped.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

type Chunk = io::Result<Bytes>;

fn take(reader: &StoreReader, chunks: &flume::Sender<Chunk>) {
    let mut out = Chunks { reader, chunks, gathered: Vec::new() };
    let taken = reader.backup(&mut out);
    match taken.map_err(|error| error.to_string()).and_then(|counts| {
        out.flush().map_err(|error| error.to_string())?;
        Ok(counts)
    }) {
        Ok(counts) => tracing::info!(%counts, "a backup was taken"),
        Err(error) => {
            tracing::warn!(error, "a backup broke off");
            // So that the answer does not end as if it were whole. If nobody takes it, it does not end well either.
            let _ = chunks.send_timeout(Err(io::Error::other(error)), LOOK);
        }
    }
}

/// Writes into the channel.
struct Chunks<'a> {
    reader: &'a StoreReader,
    chunks: &'a flume::Sender<Chunk>,
    gathered: Vec<u8>,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut chunk = Ok(std::mem::take(&mut self.gathered).into());
        for _ in 0..LOOKS_MAX {
            match self.chunks.send_timeout(chunk, LOOK) {
                Ok(()) => return Ok(()),
                Err(flume::SendTimeoutError::Timeout(back)) => chunk = back,
                Err(flume::SendTimeoutError::Disconnected(_)) => {
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "whoever asked for it is gone"));
                }
            }
            if self.reader.is_recalled() {
                return Err(io::Error::other("the store is closed or opened anew"));
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "whoever asked for it takes nothing"))
    }
}

/// Bytes after which a chunk is passed on; it may be longer by one line.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that wait to be sent.
const CHUNKS_MAX: usize = 4;
/// How often to look whether the store wants to close.
const LOOK: Duration = Duration::from_millis(50);
/// How often at most for one chunk: a minute.
const LOOKS_MAX: usize = 1_200;
