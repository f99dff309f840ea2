//! How a shell's connections end: as the core wants, or for slowness.

use hubbub::chat::outbox::{Kind, Pushed};
use hubbub::ids::ConnId;
use hubbub::message::close::CloseReason;

use super::Shell;
use crate::env::Env;
use crate::link::Closing;
use crate::wire::Item;

impl Shell {
    /// Closes as the core wants: what is queued still goes out.
    pub(super) fn close(&mut self, conn: ConnId, reason: CloseReason, env: &mut Env) {
        let reset_ms = env.now.ms() + env.plan.limits.close_timeout.as_millis() as u64;
        let heartbeat_ms = env.plan.limits.heartbeat_interval.as_millis() as u64;
        let now_ms = env.now.ms();
        let Some(link) = self.live_link(conn, env) else { return };
        let silence_ms = now_ms - link.heard_ms;
        if link.closing.is_some() {
            return;
        }
        while let Some(gap) = self.live_link(conn, env).and_then(|link| link.outbox.take_gap()) {
            self.tell_gap(conn.slot, gap, env);
        }
        let Some(link) = self.live_link(conn, env).filter(|link| link.closing.is_none()) else { return };
        link.closing = Some(Closing { reason, told: false, reset_ms });
        self.goodbye(conn.slot, reason, env);
        match reason {
            CloseReason::HeartbeatTimeout => {
                env.seen.heartbeat_timeouts += 1;
                if silence_ms < 2 * heartbeat_ms {
                    env.fail(|| format!("{conn:?} was given up after {silence_ms} ms of silence"));
                }
            }
            CloseReason::HandshakeTimeout => env.seen.handshake_timeouts += 1,
            CloseReason::SessionResumed => env.seen.connections_replaced += 1,
            _ => {}
        }
    }

    /// Closes for slowness: only what is in flight still goes out, and the goodbye.
    pub(super) fn close_slow(&mut self, slot: u32, env: &mut Env) {
        let reset_ms = env.now.ms() + env.plan.limits.close_timeout.as_millis() as u64;
        let Some(link) = self.link_mut(slot) else { return };
        env.seen.slow_closes += 1;
        link.outbox.drop_queued();
        link.closing = Some(Closing { reason: CloseReason::SlowConsumer, told: false, reset_ms });
        self.goodbye(slot, CloseReason::SlowConsumer, env);
    }

    fn goodbye(&mut self, slot: u32, reason: CloseReason, env: &mut Env) {
        let frame = env.wire.encode(Item::Goodbye(reason));
        let Some(link) = self.link_mut(slot) else { return };
        if link.outbox.push(frame, Kind::Goodbye, &link.limits, env.now.ms()) != Pushed::Queued {
            env.fail(|| "a goodbye was not queued".into());
        }
    }
}
