//! The threads that call the application, and the attempts of one call.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Reply};
use super::config::pause_max;
use super::event::Verdict;
use super::line::{Answer, Job, Shared};
use crate::chat::exchange::Refusal;
use crate::clock::{Clock, Time};
use crate::message::close::ErrorCode;
use crate::telemetry::hooks::{CallerMetrics, HookEvent, HookOutcome};
use crate::telemetry::log::Throttle;

/// One thread that calls.
pub(super) struct Caller {
    pub(super) jobs: flume::Receiver<Job>,
    pub(super) shared: Arc<Shared>,
    pub(super) outlets: Arc<[flume::Sender<Answer>]>,
    pub(super) client: Client,
    pub(super) node: Arc<str>,
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
    /// For all attempts of a call.
    pub(super) deadline: Duration,
    /// Disconnected when the hooks come to their end.
    pub(super) closing: flume::Receiver<()>,
    /// Dropped when this thread has ended.
    pub(super) _running: flume::Sender<()>,
    pub(super) clock: Clock,
    pub(super) metrics: &'static CallerMetrics,
    pub(super) throttle: Throttle,
}

impl Caller {
    /// Calls until it is told to end.
    pub(super) fn run(mut self) {
        while let Some(job) = self.next_job() {
            match job {
                Job::Ask { shard, token, asked, question } => {
                    let body = |id: &str, node: &str| question.body(id, node, asked);
                    let reply = self.call(question.event(), asked, asked, body);
                    let verdict = self.verdict(reply);
                    let sent = self.outlets[shard.index()].try_send((token, verdict));
                    debug_assert!(!matches!(sent, Err(flume::TrySendError::Full(_))), "a line asks no more than fits");
                    self.shared.ring(shard);
                }
                Job::Tell { told, notice } => {
                    // Nobody waits for it, so its time begins now.
                    let begun = self.clock.now();
                    self.call(HookEvent::Close, told, begun, |id, node| notice.body(id, node, told));
                }
                Job::End => return,
            }
        }
    }

    /// What waits is still worked off when the hooks come to their end.
    fn next_job(&self) -> Option<Job> {
        if self.shared.is_closing() { self.jobs.try_recv().ok() } else { self.jobs.recv().ok() }
    }

    /// Makes one call, with all its attempts, and counts it.
    fn call(
        &mut self,
        event: HookEvent,
        queued: Time,
        begun: Time,
        body: impl FnOnce(&str, &str) -> serde_json::Result<Vec<u8>>,
    ) -> Reply {
        self.metrics.taken_total.inc();
        self.metrics.busy.set(1);
        let reply = match body(&new_id(), &self.node) {
            Ok(body) => self.try_calling(event, &body, begun.us + self.deadline.as_micros() as u64),
            Err(error) => Reply::Failed { why: format!("no request can be made of it: {error}").into(), again: false },
        };
        let outcome = match &reply {
            Reply::Allowed => HookOutcome::Allowed,
            Reply::Refused(_) => HookOutcome::Refused,
            Reply::Failed { why, .. } => {
                if let Some(suppressed) = self.throttle.admit("hook", self.clock.now()) {
                    tracing::warn!(
                        event = event.as_str(),
                        why = &**why,
                        suppressed,
                        "the application could not be called"
                    );
                }
                HookOutcome::Failed
            }
        };
        self.metrics.busy.set(0);
        self.metrics.call_us.record(self.clock.us() - queued.us);
        self.metrics.called(event, outcome);
        reply
    }

    /// Tries as often as configured, and no longer than until `deadline_us`.
    fn try_calling(&self, event: HookEvent, body: &[u8], deadline_us: u64) -> Reply {
        let left = || Duration::from_micros(deadline_us.saturating_sub(self.clock.us()));
        let over = |why: &'static str| Reply::Failed { why: Cow::Borrowed(why), again: false };
        if event != HookEvent::Close && self.shared.is_closing() {
            return over("the server stops");
        }
        let mut attempt = 1;
        loop {
            let timeout = self.timeout.min(left());
            if timeout.is_zero() {
                return over("it waited for too long");
            }
            let reply = self.client.post(event, body, self.clock.now().unix_ms, timeout);
            if attempt == self.attempts || !matches!(reply, Reply::Failed { again: true, .. }) {
                return reply;
            }
            let pause = pause(attempt);
            if pause >= left() || self.closing.recv_timeout(pause) != Err(flume::RecvTimeoutError::Timeout) {
                return reply;
            }
            attempt += 1;
            self.metrics.retries_total.inc();
        }
    }

    fn verdict(&self, reply: Reply) -> Verdict {
        match reply {
            Reply::Allowed => Ok(()),
            Reply::Refused(reason) => {
                let message = reason.map_or(Cow::Borrowed(REFUSAL), Cow::Owned);
                Err(Refusal { code: ErrorCode::Forbidden, message })
            }
            Reply::Failed { .. } => self.shared.failure(),
        }
    }
}

/// The pause after so many attempts: random in the upper half, so that what failed together is not tried again together.
fn pause(attempts: u32) -> Duration {
    let half = pause_max(attempts) / 2;
    let random = getrandom::u32().unwrap_or(u32::MAX);
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// A name for a call that no other call has: a UUID of version 4 (RFC 9562, section 5.4).
fn new_id() -> String {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the kernel gives random bytes once it has booted");
    let bits = u128::from_be_bytes(random) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// When the application gives no reason.
const REFUSAL: &str = "the application does not allow it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_apart_and_as_uuids_are() {
        let (one, other) = (new_id(), new_id());
        assert_ne!(one, other);
        for id in [one, other] {
            let groups: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
            assert_eq!(&id[14..15], "4", "{id}");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        }
    }

    #[test]
    fn pauses_lie_in_the_upper_half_of_their_longest() {
        for attempts in [1, 2, 3, 9] {
            let (pause, longest) = (pause(attempts), pause_max(attempts));
            assert!(longest / 2 <= pause && pause <= longest, "{pause:?} of {longest:?}");
        }
    }
}
