//! Lines: how a shard and the threads that call the application talk. A shard only ever puts things into queues and takes
//! them out.
//!
//! Invariant: the queue of answers is never full for the callers. A line asks only while few of its own questions have
//! no answer that it has taken, and the queue holds that many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::config::{HookConfig, OnFailure};
use super::event::{Notice, Question, Verdict};
use crate::chat::exchange::Refusal;
use crate::clock::{Clock, Time};
use crate::ids::ShardId;
use crate::message::close::ErrorCode;
use crate::telemetry::hooks::{HookEvent, HookMetrics, LineMetrics};

/// Makes the queues between `shards` shards and hooks that are started later: no descriptor is opened and no thread
/// started. `node` names the server in requests. `ring` is called, from threads of the hooks, after answers for a shard
/// became available.
#[must_use]
pub fn lines(
    config: &HookConfig,
    node: &str,
    shards: u16,
    ring: Arc<dyn Fn(ShardId) + Send + Sync>,
    metrics: &'static HookMetrics,
) -> (HookPort, Vec<HookLine>) {
    let (questions, asked) = flume::bounded(config.queue);
    let (notices, told) = flume::bounded(config.queue);
    let shared = Arc::new(Shared {
        asks: HookEvent::ALL.map(|event| config.asks(event)),
        on_failure: config.on_failure,
        closing: AtomicBool::new(false),
        ring,
    });
    let clock = Clock::start();
    let asking_max = config.queue + config.concurrency;
    let mut outlets = Vec::with_capacity(usize::from(shards));
    let line = |shard: u16| {
        let (outlet, answers) = flume::bounded(asking_max);
        outlets.push(outlet);
        HookLine {
            shard: ShardId(shard),
            shared: shared.clone(),
            clock: clock.clone(),
            questions: questions.clone(),
            notices: notices.clone(),
            answers,
            asking: 0,
            asking_max,
            metrics: &metrics.lines[usize::from(shard)],
        }
    };
    let all = (0..shards).map(line).collect();
    let config = config.clone();
    let (node, outlets) = (node.into(), outlets.into());
    (HookPort { config, node, shared, clock, questions, asked, notices, told, outlets, metrics }, all)
}

/// The hooks' end of all lines.
pub struct HookPort {
    pub(super) config: HookConfig,
    pub(super) node: Arc<str>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) questions: flume::Sender<Job>,
    pub(super) asked: flume::Receiver<Job>,
    pub(super) notices: flume::Sender<Job>,
    pub(super) told: flume::Receiver<Job>,
    pub(super) outlets: Arc<[flume::Sender<Answer>]>,
    pub(super) metrics: &'static HookMetrics,
}

/// A shard's end of its line; used by that shard's thread alone, and never waits.
pub struct HookLine {
    shard: ShardId,
    shared: Arc<Shared>,
    clock: Clock,
    questions: flume::Sender<Job>,
    notices: flume::Sender<Job>,
    answers: flume::Receiver<Answer>,
    /// Questions whose answer was not taken yet.
    asking: usize,
    asking_max: usize,
    metrics: &'static LineMetrics,
}

/// What both ends see.
pub(super) struct Shared {
    /// By event.
    asks: [bool; HookEvent::ALL.len()],
    on_failure: OnFailure,
    closing: AtomicBool,
    ring: Arc<dyn Fn(ShardId) + Send + Sync>,
}

/// What a question came to, with its token.
pub(super) type Answer = (u64, Verdict);

/// What callers are asked to do.
pub(super) enum Job {
    /// Find out, and answer.
    Ask { shard: ShardId, token: u64, asked: Time, question: Question },
    /// Pass on.
    Tell { told: Time, notice: Notice },
    /// One caller is to end.
    End,
}

impl HookLine {
    /// Whether the application is asked about, or told of, these.
    #[must_use]
    pub fn asks(&self, event: HookEvent) -> bool {
        self.shared.asks[event as usize]
    }

    /// Asks; the answer comes with `token` from [`HookLine::next_answer`]. What is known at once is given back instead:
    /// that nobody wants to be asked, or, when too many questions wait, what stands for a failed call.
    pub fn try_ask(&mut self, token: u64, question: Question) -> Result<(), Verdict> {
        let event = question.event();
        if !self.asks(event) {
            return Err(Ok(()));
        }
        let job = Job::Ask { shard: self.shard, token, asked: self.clock.now(), question };
        let has_room = self.asking < self.asking_max && !self.shared.is_closing();
        if !has_room || self.questions.try_send(job).is_err() {
            self.metrics.dropped(event);
            return Err(self.shared.failure());
        }
        self.asking += 1;
        self.metrics.queued_total.inc();
        Ok(())
    }

    /// Tells of the end of a connection, if the application wants to know. Lost, and counted, when too much waits.
    pub fn notify(&mut self, notice: Notice) {
        if !self.asks(HookEvent::Close) {
            return;
        }
        match self.notices.try_send(Job::Tell { told: self.clock.now(), notice }) {
            Ok(()) => self.metrics.queued_total.inc(),
            Err(_) => self.metrics.dropped(HookEvent::Close),
        }
    }

    /// The next question that is decided, by its token.
    pub fn next_answer(&mut self) -> Option<(u64, Verdict)> {
        let answer = self.answers.try_recv().ok()?;
        self.asking -= 1;
        Some(answer)
    }

    /// Whether [`HookLine::next_answer`] has something to say.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }
}

impl Shared {
    /// What a call without a usable answer means to the client.
    pub(super) fn failure(&self) -> Verdict {
        match self.on_failure {
            OnFailure::Allow => Ok(()),
            OnFailure::Refuse => Err(Refusal::new(ErrorCode::Overloaded, FAILURE)),
        }
    }

    /// Whether the hooks are coming to their end.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn ring(&self, shard: ShardId) {
        (self.ring)(shard);
    }
}

impl std::fmt::Debug for HookLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HookLine").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for HookPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HookPort").field("shards", &self.outlets.len()).finish_non_exhaustive()
    }
}

const FAILURE: &str = "the application could not be asked: try again later";
