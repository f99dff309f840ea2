//! What the application's hooks count, and how a scrape shows it.
//!
//! Invariant, as for shards: each figure has one writer. Every thread that calls the application has a set of its own,
//! and every shard one for what it could not ask.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::telemetry::histogram::{Histogram, Snapshot};
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::render::NO_EXEMPLAR;
use crate::telemetry::store::{gauge, histogram};

/// Threads that may call the application.
pub const HOOK_CALLERS_MAX: usize = 64;

/// What the application hears of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookEvent {
    /// A connection has said who it is.
    Open,
    /// It is about to enter a room.
    Join,
    /// It is about to say something that is kept.
    Message,
    /// It has ended.
    Close,
}

impl HookEvent {
    /// Every event.
    pub const ALL: [Self; 4] = [Self::Open, Self::Join, Self::Message, Self::Close];

    /// The word in settings, requests and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Join => "join",
            Self::Message => "message",
            Self::Close => "close",
        }
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookOutcome {
    /// The application allows it, or has taken note.
    Allowed,
    /// The application does not allow it.
    Refused,
    /// There was no usable answer, however often it was tried.
    Failed,
    /// Nobody was asked, for too many calls were waiting.
    Dropped,
}

impl HookOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Allowed, Self::Refused, Self::Failed, Self::Dropped];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// The figures of the hooks.
#[derive(Debug)]
pub struct HookMetrics {
    /// One set per thread that calls.
    pub callers: Box<[CallerMetrics]>,
    /// One set per shard, in their order.
    pub lines: Box<[LineMetrics]>,
}

/// The figures of one thread that calls the application.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CallerMetrics {
    /// Calls by [`HookEvent`] and [`HookOutcome`].
    calls_total: [[Counter; HookOutcome::ALL.len()]; HookEvent::ALL.len()],
    /// Attempts after the first of a call.
    pub retries_total: Counter,
    /// From the question to its outcome, waiting and retries included, in microseconds.
    pub call_us: Histogram,
    /// Calls taken from the queue.
    pub taken_total: Counter,
    /// 1 while it calls.
    pub busy: Gauge,
}

/// The figures of one shard's line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LineMetrics {
    /// Calls put into the queue.
    pub queued_total: Counter,
    dropped_total: [Counter; HookEvent::ALL.len()],
}

impl HookMetrics {
    /// Zeroed figures for so many shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self {
            callers: (0..HOOK_CALLERS_MAX).map(|_| CallerMetrics::default()).collect(),
            lines: (0..shards).map(|_| LineMetrics::default()).collect(),
        }
    }

    /// Calls with one outcome.
    #[must_use]
    pub fn calls(&self, event: HookEvent, outcome: HookOutcome) -> u64 {
        let made: u64 =
            self.callers.iter().map(|caller| caller.calls_total[event as usize][outcome as usize].get()).sum();
        match outcome {
            HookOutcome::Dropped => self.lines.iter().map(|line| line.dropped_total[event as usize].get()).sum(),
            _ => made,
        }
    }

    /// Calls that wait in the queue.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        let taken: u64 = self.callers.iter().map(|caller| caller.taken_total.get()).sum();
        let queued: u64 = self.lines.iter().map(|line| line.queued_total.get()).sum();
        // A call may be taken before it is counted as queued.
        queued.saturating_sub(taken)
    }

    /// Calls that are being made.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.callers.iter().map(|caller| caller.busy.get()).sum()
    }
}

impl CallerMetrics {
    /// A call came to its end.
    pub fn called(&self, event: HookEvent, outcome: HookOutcome) {
        self.calls_total[event as usize][outcome as usize].inc();
    }
}

impl LineMetrics {
    /// The queue was full.
    pub fn dropped(&self, event: HookEvent) {
        self.dropped_total[event as usize].inc();
    }
}

/// Shows the figures.
#[derive(Debug)]
pub(super) struct HookCollector(pub(super) &'static HookMetrics);

impl Collector for HookCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let hooks = self.0;
        let help = "Calls of the application";
        let mut calls = encoder.encode_descriptor("hubbub_hook_calls", help, None, MetricType::Counter)?;
        for event in HookEvent::ALL {
            for outcome in HookOutcome::ALL {
                let labels = [("event", event.as_str()), ("outcome", outcome.label())];
                calls.encode_family(&labels)?.encode_counter(&hooks.calls(event, outcome), NO_EXEMPLAR)?;
            }
        }
        let retries: u64 = hooks.callers.iter().map(|caller| caller.retries_total.get()).sum();
        let help = "Attempts after the first of a call";
        let mut metric = encoder.encode_descriptor("hubbub_hook_retries", help, None, MetricType::Counter)?;
        metric.encode_counter(&retries, NO_EXEMPLAR)?;
        gauge(&mut encoder, "hubbub_hook_queue_depth", "Calls that wait", None, hooks.waiting())?;
        gauge(&mut encoder, "hubbub_hook_in_flight", "Calls that are being made", None, hooks.in_flight())?;
        let mut all = Histogram::default().snapshot();
        for caller in &hooks.callers {
            let Snapshot { counts, sum } = caller.call_us.snapshot();
            all.sum += sum;
            all.counts.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
        }
        let help = "From a question to its outcome";
        histogram(&mut encoder, "hubbub_hook_call", help, Some(Unit::Seconds), all, super::render::MICROSECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::render::Renderer;

    #[test]
    fn figures_of_all_threads_are_shown_as_one() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new(2)));
        let hooks = &metrics.hooks;
        hooks.callers[0].called(HookEvent::Join, HookOutcome::Refused);
        hooks.callers[63].called(HookEvent::Join, HookOutcome::Refused);
        hooks.callers[1].busy.set(1);
        hooks.callers[1].call_us.record(1_000);
        hooks.callers[1].taken_total.add(3);
        hooks.lines[0].queued_total.add(1);
        hooks.lines[1].queued_total.add(4);
        hooks.lines[1].dropped(HookEvent::Close);
        let text = Renderer::new(metrics).render();
        let lines = [
            r#"hubbub_hook_calls_total{event="join",outcome="refused"} 2"#,
            r#"hubbub_hook_calls_total{event="close",outcome="dropped"} 1"#,
            r#"hubbub_hook_calls_total{event="open",outcome="allowed"} 0"#,
            "hubbub_hook_queue_depth 2",
            "hubbub_hook_in_flight 1",
            "hubbub_hook_call_seconds_count 1",
        ];
        for line in lines {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
    }

    #[test]
    fn figures_stand_at_the_index_of_their_name() {
        assert_eq!(HookEvent::ALL.map(|event| event as usize), [0, 1, 2, 3]);
        assert_eq!(HookOutcome::ALL.map(|outcome| outcome as usize), [0, 1, 2, 3]);
    }
}
