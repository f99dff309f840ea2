//! What the store counts, and how a scrape shows it.
//!
//! Invariant, as for shards: each figure has one writer. The thread that commits writes all but those of the readers,
//! which have a set each, and those of upkeep.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use crate::chat::log::LogHealth;
use crate::telemetry::histogram::{Histogram, Snapshot};
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::render::{NO_EXEMPLAR, NoLabels};

/// Threads that answer questions to the store.
pub const STORE_READERS: usize = 2;

/// The figures of the store.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct StoreMetrics {
    /// Groups of batches written.
    pub commits_total: Counter,
    /// Messages of one group.
    pub commit_messages: Histogram,
    /// How long the oldest batch of a group had waited when its group was written, in microseconds.
    pub commit_wait_us: Histogram,
    /// Length of one fsync, in microseconds.
    pub fsync_us: Histogram,
    /// Bytes of keys and values written.
    pub written_bytes_total: Counter,
    /// Batches of one group, at the last one.
    pub queue_depth: Gauge,
    /// State of the store, as the index in [`LogHealth::ALL`].
    pub health: Gauge,
    /// Bytes that the file system of the data directory has left.
    pub disk_free_bytes: Gauge,
    /// Times the database was opened again after a failure.
    pub reopenings_total: Counter,
    /// Messages that retention removed.
    pub trimmed_total: Counter,
    /// Dead letters for what retention removed before it was acknowledged.
    pub retention_letters_total: Counter,
    /// Times retention left the rest of a room to its next pass, for so many letters had to be written.
    pub retention_postponed_total: Counter,
    /// One set per reader.
    pub readers: [ReaderMetrics; STORE_READERS],
}

/// The figures of one thread that answers questions.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ReaderMetrics {
    /// Questions answered.
    pub reads_total: Counter,
    /// Time for one answer, in microseconds.
    pub read_us: Histogram,
    /// Questions that could not be answered.
    pub errors_total: Counter,
}

/// Shows the figures.
#[derive(Debug)]
pub(super) struct StoreCollector(pub(super) &'static StoreMetrics);

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let store = self.0;
        let mut counter = |name, help, unit: Option<Unit>, figure: u64| {
            encoder
                .encode_descriptor(name, help, unit.as_ref(), prometheus_client::metrics::MetricType::Counter)?
                .encode_counter(&figure, NO_EXEMPLAR)
        };
        let reads = |read: fn(&ReaderMetrics) -> &Counter| store.readers.iter().map(|reader| read(reader).get()).sum();
        counter("hubbub_store_commits", "Groups of batches written", None, store.commits_total.get())?;
        let written = store.written_bytes_total.get();
        counter("hubbub_store_written", "Bytes of keys and values written", Some(Unit::Bytes), written)?;
        counter("hubbub_store_reopenings", "Times the database was opened again", None, store.reopenings_total.get())?;
        counter("hubbub_store_trimmed", "Messages that retention removed", None, store.trimmed_total.get())?;
        let letters = store.retention_letters_total.get();
        counter("hubbub_store_retention_letters", "Dead letters for what was not acknowledged", None, letters)?;
        let postponed = store.retention_postponed_total.get();
        counter("hubbub_store_retention_postponed", "Times retention waited for its letters", None, postponed)?;
        counter("hubbub_store_reads", "Questions answered", None, reads(|reader| &reader.reads_total))?;
        counter("hubbub_store_read_errors", "Questions without an answer", None, reads(|reader| &reader.errors_total))?;
        gauge(&mut encoder, "hubbub_store_queue_depth", "Batches of the last group", None, store.queue_depth.get())?;
        let free = store.disk_free_bytes.get();
        gauge(&mut encoder, "hubbub_store_disk_free", "Bytes left on the file system", Some(Unit::Bytes), free)?;
        encode_health(&mut encoder, store.health.get())?;
        let messages = store.commit_messages.snapshot();
        histogram(&mut encoder, "hubbub_store_commit_messages", "Messages of one group", None, messages, 1.0)?;
        let mut seconds = |name, help, snapshot| {
            histogram(&mut encoder, name, help, Some(Unit::Seconds), snapshot, super::render::MICROSECONDS)
        };
        let wait = store.commit_wait_us.snapshot();
        seconds("hubbub_store_commit_wait", "Age of the oldest batch when its group is written", wait)?;
        seconds("hubbub_store_fsync", "Length of one fsync", store.fsync_us.snapshot())?;
        let mut reads = Histogram::default().snapshot();
        for reader in &store.readers {
            let Snapshot { counts, sum } = reader.read_us.snapshot();
            reads.sum += sum;
            reads.counts.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
        }
        seconds("hubbub_store_read", "Time for one answer", reads)
    }
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    figure: u64,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, unit.as_ref(), prometheus_client::metrics::MetricType::Gauge)?
        .encode_gauge(&figure)
}

fn encode_health(encoder: &mut DescriptorEncoder, now: u64) -> fmt::Result {
    let kind = prometheus_client::metrics::MetricType::Gauge;
    let mut metric = encoder.encode_descriptor("hubbub_store_health", "1 for the state it is in", None, kind)?;
    for (index, state) in LogHealth::ALL.into_iter().enumerate() {
        metric.encode_family(&[("state", state.as_str())])?.encode_gauge(&u64::from(index as u64 == now))?;
    }
    Ok(())
}

pub(super) fn histogram(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    snapshot: Snapshot,
    scale: f64,
) -> fmt::Result {
    let bounds = Snapshot::bounds().map(|bound| bound as f64 / scale).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(snapshot.counts.iter().copied()).collect();
    encoder
        .encode_descriptor(name, help, unit.as_ref(), prometheus_client::metrics::MetricType::Histogram)?
        .encode_histogram::<NoLabels>(snapshot.sum as f64 / scale, snapshot.count(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::render::Renderer;

    #[test]
    fn readers_are_shown_as_one_and_health_as_states() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new(1)));
        metrics.store.readers[0].reads_total.add(2);
        metrics.store.readers[1].reads_total.add(3);
        metrics.store.readers[1].read_us.record_n(1_000, 3);
        metrics.store.health.set(LogHealth::Full as u64);
        let text = Renderer::new(metrics).render();
        let lines = [
            "hubbub_store_reads_total 5",
            "hubbub_store_read_seconds_count 3",
            r#"hubbub_store_health{state="writable"} 0"#,
            r#"hubbub_store_health{state="disk_full"} 1"#,
        ];
        for line in lines {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
    }
}
