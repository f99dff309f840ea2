//! Writes all figures in the OpenMetrics text format, which Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::message::close::{CloseReason, DropReason, ErrorCode};
use crate::telemetry::histogram::{Histogram, Snapshot};
use crate::telemetry::hooks::HookCollector;
use crate::telemetry::keys::KeyCollector;
use crate::telemetry::login::LoginOutcome;
use crate::telemetry::metrics::{
    ConnectionKind, Counter, LIMITED, Metrics, QueueKind, RefusedReason, ShardMetrics, TlsOutcome,
};
use crate::telemetry::process::ProcessFigures;
use crate::telemetry::store::StoreCollector;

/// What a scraper is told the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Makes the text of a scrape.
#[derive(Debug)]
pub struct Renderer {
    registry: Registry,
}

impl Renderer {
    /// A renderer of these figures and those of the process.
    #[must_use]
    pub fn new(metrics: &'static Metrics) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Shards(metrics)));
        registry.register_collector(Box::new(StoreCollector(&metrics.store)));
        registry.register_collector(Box::new(KeyCollector(&metrics.keys)));
        registry.register_collector(Box::new(HookCollector(&metrics.hooks)));
        registry.register_collector(Box::new(Process));
        Self { registry }
    }

    /// The figures now.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}

/// One metric of the shards. The name is without the unit and the suffixes that the format adds.
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    read: Read,
}

/// How a shard's figures are read, and thereby the metric's type.
enum Read {
    Counter(fn(&ShardMetrics) -> &Counter),
    Counters(&'static str, fn(&ShardMetrics) -> Labelled),
    Gauge(fn(&ShardMetrics) -> u64),
    Gauges(&'static str, fn(&ShardMetrics) -> Labelled),
    /// With what a recorded value is divided by.
    Histogram(fn(&ShardMetrics) -> &Histogram, f64),
}

/// Figures by the value of a label.
type Labelled = Vec<(&'static str, u64)>;

#[derive(Debug)]
struct Shards(&'static Metrics);

impl Collector for Shards {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in families() {
            family.encode(&self.0.shards, &mut encoder)?;
        }
        Ok(())
    }
}

impl Family {
    fn encode(&self, shards: &[ShardMetrics], encoder: &mut DescriptorEncoder) -> fmt::Result {
        let kind = match self.read {
            Read::Counter(_) | Read::Counters(..) => MetricType::Counter,
            Read::Gauge(_) | Read::Gauges(..) => MetricType::Gauge,
            Read::Histogram(..) => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        for (index, shard) in shards.iter().enumerate() {
            let index = index.to_string();
            let plain = [("shard", index.as_str())];
            match self.read {
                Read::Counter(read) => {
                    metric.encode_family(&plain)?.encode_counter(&read(shard).get(), NO_EXEMPLAR)?;
                }
                Read::Gauge(read) => metric.encode_family(&plain)?.encode_gauge(&read(shard))?,
                Read::Counters(label, read) => {
                    for (value, figure) in read(shard) {
                        let labels = [("shard", index.as_str()), (label, value)];
                        metric.encode_family(&labels)?.encode_counter(&figure, NO_EXEMPLAR)?;
                    }
                }
                Read::Gauges(label, read) => {
                    for (value, figure) in read(shard) {
                        let labels = [("shard", index.as_str()), (label, value)];
                        metric.encode_family(&labels)?.encode_gauge(&figure)?;
                    }
                }
                Read::Histogram(read, scale) => {
                    let Snapshot { counts, sum } = read(shard).snapshot();
                    let bounds = Snapshot::bounds().map(|bound| bound as f64 / scale).chain([f64::INFINITY]);
                    let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
                    let count = counts.iter().sum();
                    metric.encode_family(&plain)?.encode_histogram::<NoLabels>(
                        sum as f64 / scale,
                        count,
                        &buckets,
                        None,
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// The table of the shards' metrics, in the order of the documentation.
fn families() -> Vec<Family> {
    let mut families = connection_families();
    families.extend(message_families());
    families.extend(loop_families());
    families
}

fn row(name: &'static str, help: &'static str, unit: Option<Unit>, read: Read) -> Family {
    Family { name, help, unit, read }
}

/// Who comes, and who goes.
fn connection_families() -> Vec<Family> {
    use Read as R;
    vec![
        row("hubbub_connections", "Open connections", None, R::Gauges("kind", connections)),
        row("hubbub_accepted", "Connections accepted", None, R::Counter(|s| &s.accepted_total)),
        row("hubbub_refused", "Connections refused at once", None, R::Counters("reason", refused)),
        row("hubbub_logins", "Attempts to be let in", None, R::Counters("outcome", logins)),
        row(
            "hubbub_token_cache_hits",
            "Tokens that needed no look at their signature",
            None,
            R::Counter(|s| &s.token_cache_hits_total),
        ),
        row(
            "hubbub_token_queue",
            "Tokens that wait for their signature to be checked",
            None,
            R::Gauge(|s| s.token_queue.get()),
        ),
        row("hubbub_closed", "Connections ended", None, R::Counters("reason", closed)),
        row("hubbub_tls_handshakes", "TLS handshakes that are over", None, R::Counters("outcome", tls_handshakes)),
        row(
            "hubbub_tls_handshake_queue",
            "Connections that wait for their turn in a TLS handshake",
            None,
            R::Gauge(|s| s.tls_handshake_queue.get()),
        ),
        row(
            "hubbub_tls_handshake_step",
            "Time that one step of a TLS handshake took",
            Some(Unit::Seconds),
            R::Histogram(|s| &s.tls_handshake_us, MICROSECONDS),
        ),
    ]
}

/// What is said, and to how many.
fn message_families() -> Vec<Family> {
    use Read as R;
    let bytes = || Some(Unit::Bytes);
    vec![
        row("hubbub_errors", "Commands refused", None, R::Counters("code", errors)),
        row("hubbub_limited", "Commands refused for a limit", None, R::Counters("limit", limited)),
        row("hubbub_dropped", "Messages left undelivered on purpose", None, R::Counters("reason", dropped)),
        row("hubbub_rooms", "Rooms owned", None, R::Gauge(|s| s.rooms.get())),
        row("hubbub_audiences", "Rooms with members on the shard", None, R::Gauge(|s| s.audiences.get())),
        row("hubbub_messages_in", "Messages and signals read", None, R::Counter(|s| &s.messages_in_total)),
        row(
            "hubbub_messages_out",
            "Messages and signals written, per receiver",
            None,
            R::Counter(|s| &s.messages_out_total),
        ),
        row("hubbub_redelivered", "Messages sent to consumers again", None, R::Counter(|s| &s.redelivered_total)),
        row("hubbub_dead_letters", "Messages never acknowledged", None, R::Counter(|s| &s.dead_letters_total)),
        row("hubbub_in", "Bytes read from sockets", bytes(), R::Counter(|s| &s.bytes_in_total)),
        row("hubbub_out", "Bytes written to sockets", bytes(), R::Counter(|s| &s.bytes_out_total)),
        row("hubbub_fanout_size", "Receivers of one message on the shard", None, R::Histogram(|s| &s.fanout_size, 1.0)),
        row(
            "hubbub_delivery_latency",
            "From reading a message to writing it to a receiver",
            Some(Unit::Seconds),
            R::Histogram(|s| &s.delivery_latency_us, MICROSECONDS),
        ),
        row("hubbub_outbox", "Bytes waiting for slow readers", bytes(), R::Gauge(|s| s.outbox_bytes.get())),
        row("hubbub_outbox_stalls", "Times an outbox was full", None, R::Counter(|s| &s.outbox_stalls_total)),
    ]
}

/// How the loop fares.
fn loop_families() -> Vec<Family> {
    use Read as R;
    vec![
        row(
            "hubbub_mailbox_depth",
            "Batches from other shards at the last look",
            None,
            R::Gauges("queue", mailbox_depth),
        ),
        row(
            "hubbub_blocked",
            "Times a connection was not read because a queue to another shard was full",
            None,
            R::Counter(|s| &s.blocked_total),
        ),
        row(
            "hubbub_turn",
            "Length of one turn of the loop",
            Some(Unit::Seconds),
            R::Histogram(|s| &s.turn_us, MICROSECONDS),
        ),
        row("hubbub_sleeps", "Times the shard went to sleep", None, R::Counter(|s| &s.sleeps_total)),
        row("hubbub_enters", "Calls of io_uring_enter", None, R::Counter(|s| &s.enters_total)),
        row("hubbub_sends", "Writes given to the kernel", None, R::Counter(|s| &s.sends_total)),
        row(
            "hubbub_recv_buffers_exhausted",
            "Times no receive buffer was left",
            None,
            R::Counter(|s| &s.recv_buffers_exhausted_total),
        ),
        row("hubbub_coalesced", "Writes that waited so as to carry more", None, R::Counter(|s| &s.coalesced_total)),
    ]
}

fn connections(shard: &ShardMetrics) -> Labelled {
    ConnectionKind::ALL.map(|kind| (kind.label(), shard.connections.of(kind).get())).to_vec()
}

fn refused(shard: &ShardMetrics) -> Labelled {
    labelled(&RefusedReason::ALL.map(RefusedReason::label), &shard.refused_total)
}

fn logins(shard: &ShardMetrics) -> Labelled {
    labelled(&LoginOutcome::ALL.map(LoginOutcome::label), &shard.logins_total)
}

fn closed(shard: &ShardMetrics) -> Labelled {
    labelled(&CloseReason::ALL.map(CloseReason::label), &shard.closed_total)
}

fn errors(shard: &ShardMetrics) -> Labelled {
    labelled(&ErrorCode::ALL.map(ErrorCode::as_str), &shard.errors_total)
}

fn limited(shard: &ShardMetrics) -> Labelled {
    labelled(&LIMITED, &shard.limited_total)
}

fn dropped(shard: &ShardMetrics) -> Labelled {
    labelled(&DropReason::ALL.map(DropReason::label), &shard.dropped_total)
}

fn mailbox_depth(shard: &ShardMetrics) -> Labelled {
    QueueKind::ALL.map(|queue| (queue.label(), shard.mailbox(queue).get())).to_vec()
}

fn tls_handshakes(shard: &ShardMetrics) -> Labelled {
    labelled(&TlsOutcome::ALL.map(TlsOutcome::label), &shard.tls_handshakes_total)
}

fn labelled(labels: &[&'static str], counters: &[Counter]) -> Labelled {
    labels.iter().copied().zip(counters.iter().map(Counter::get)).collect()
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let figures = ProcessFigures::read();
        let mut gauge = |name, help, unit: Option<Unit>, value: f64| {
            encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
        };
        if let Some(bytes) = figures.resident_bytes {
            gauge("process_resident_memory", "Memory in RAM", Some(Unit::Bytes), bytes as f64)?;
        }
        if let Some(start) = figures.start_seconds {
            gauge("process_start_time", "Start of the process since 1970", Some(Unit::Seconds), start)?;
        }
        gauge("process_open_fds", "Open descriptors of all tables", None, figures.open_descriptors as f64)?;
        gauge("hubbub_descriptor_tables", "Distinct tables of descriptors", None, figures.descriptor_tables as f64)?;
        encode_cpu(&figures.threads, &mut encoder)?;
        let mut build = encoder.encode_descriptor("hubbub_build", "The program", None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

fn encode_cpu(threads: &[(String, f64)], encoder: &mut DescriptorEncoder) -> fmt::Result {
    let all: f64 = threads.iter().map(|(_, seconds)| seconds).sum();
    encoder
        .encode_descriptor(
            "process_cpu",
            "CPU time of the threads that run",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?
        .encode_counter(&all, NO_EXEMPLAR)?;
    let help = "CPU time of each thread";
    let mut metric = encoder.encode_descriptor("hubbub_thread_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
    // Threads may share a name, and a metric may not stand twice.
    let mut names: Vec<&str> = threads.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let seconds: f64 = threads.iter().filter(|thread| thread.0 == name).map(|(_, seconds)| seconds).sum();
        metric.encode_family(&[("thread", name)])?.encode_counter(&seconds, NO_EXEMPLAR)?;
    }
    Ok(())
}

pub(super) type NoLabels = [(&'static str, &'static str); 0];
pub(super) const NO_EXEMPLAR: Option<&Exemplar<NoLabels, f64>> = None;
/// Recorded in microseconds, told in seconds.
pub(super) const MICROSECONDS: f64 = 1e6;

#[cfg(test)]
mod tests {
    use ahash::HashMap;

    use super::*;

    /// Reads the text back: each line's name with labels, and its value.
    fn parse(text: &str) -> HashMap<String, f64> {
        assert!(text.ends_with("# EOF\n"));
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut parsed = HashMap::default();
        for sample in samples {
            let (name, value) = sample.rsplit_once(' ').unwrap();
            let previous = parsed.insert(name.to_string(), value.parse().unwrap());
            assert_eq!(previous, None, "{name} stands twice");
        }
        parsed
    }

    #[test]
    fn figures_come_back_as_they_were_counted() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new(2)));
        let shard = &metrics.shards[1];
        shard.connections.of(ConnectionKind::ChatTcp).set(7);
        shard.closed(CloseReason::SlowConsumer);
        shard.error(ErrorCode::NotMember);
        shard.dropped(DropReason::Skipped, 4);
        shard.refused(RefusedReason::Descriptors);
        shard.bytes_in_total.add(1 << 40);
        shard.mailbox(QueueKind::Deliveries).set(3);
        shard.delivery_latency_us.record_n(1_500, 2);
        shard.fanout_size.record(1_000);
        let parsed = parse(&Renderer::new(metrics).render());
        let expected = [
            (r#"hubbub_connections{shard="1",kind="chat_tcp"}"#, 7.0),
            (r#"hubbub_connections{shard="0",kind="chat_tcp"}"#, 0.0),
            (r#"hubbub_closed_total{shard="1",reason="slow_consumer"}"#, 1.0),
            (r#"hubbub_errors_total{shard="1",code="not_member"}"#, 1.0),
            (r#"hubbub_dropped_total{shard="1",reason="skipped"}"#, 4.0),
            (r#"hubbub_refused_total{shard="1",reason="descriptors"}"#, 1.0),
            (r#"hubbub_in_bytes_total{shard="1"}"#, (1_u64 << 40) as f64),
            (r#"hubbub_mailbox_depth{shard="1",queue="deliveries"}"#, 3.0),
            (r#"hubbub_delivery_latency_seconds_count{shard="1"}"#, 2.0),
            (r#"hubbub_delivery_latency_seconds_sum{shard="1"}"#, 0.003),
            (r#"hubbub_delivery_latency_seconds_bucket{le="0.001024",shard="1"}"#, 0.0),
            (r#"hubbub_delivery_latency_seconds_bucket{le="0.001536",shard="1"}"#, 2.0),
            (r#"hubbub_delivery_latency_seconds_bucket{le="+Inf",shard="1"}"#, 2.0),
            (r#"hubbub_fanout_size_sum{shard="1"}"#, 1000.0),
            (concat!(r#"hubbub_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""}"#), 1.0),
        ];
        for (name, value) in expected {
            assert_eq!(parsed.get(name), Some(&value), "{name}");
        }
        assert!(parsed["process_resident_memory_bytes"] > 0.0);
        assert!(parsed["process_cpu_seconds_total"] > 0.0);
    }

    #[test]
    fn every_family_has_help_and_a_type() {
        let text = Renderer::new(Box::leak(Box::new(Metrics::new(1)))).render();
        let count = |start| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(count("# HELP"), count("# TYPE"));
        assert!(count("# TYPE hubbub_") > families().len());
    }
}
