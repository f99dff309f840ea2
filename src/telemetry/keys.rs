//! What the thread that looks after keys counts, and how a scrape shows it. That thread is the one writer.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::render::NO_EXEMPLAR;

/// The figures of the keys for tokens.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct KeyMetrics {
    /// Keys that tokens are checked with.
    pub keys: Gauge,
    /// Times keys were fetched.
    pub fetches_total: Counter,
    /// Times that failed, and the keys stayed as they were.
    pub fetch_failures_total: Counter,
}

/// Shows the figures.
#[derive(Debug)]
pub(super) struct KeyCollector(pub(super) &'static KeyMetrics);

impl Collector for KeyCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        encoder
            .encode_descriptor("hubbub_token_keys", "Keys that tokens are checked with", None, MetricType::Gauge)?
            .encode_gauge(&self.0.keys.get())?;
        let mut counter = |name, help, figure: &Counter| {
            encoder.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter(&figure.get(), NO_EXEMPLAR)
        };
        counter("hubbub_token_key_fetches", "Times keys were fetched", &self.0.fetches_total)?;
        counter("hubbub_token_key_fetch_failures", "Times that failed", &self.0.fetch_failures_total)
    }
}
