//! How connections end: what is queued is written, the goodbye said, the peer's goodbye awaited, the socket closed.
//!
//! `Open → Ending → Lingering → Closed`. A peer that ends the conversation, or breaks its framing, is first given what
//! it is owed for what it said before. The core is told when an end begins, so it never waits for a slow peer.
//! Every end has a deadline; past it the socket is reset. A socket is not closed while the peer may still be
//! sending, for the reset that follows would destroy what it has not read (RFC 1122, section 4.2.2.13).

use bytes::Bytes;

use super::connection::{Connection, Phase, Transport};
use super::hub::{Alarm, Hub, Wish};
use crate::chat::Input;
use crate::chat::outbox::{Dropped, Kind};
use crate::codec::websocket::frame;
use crate::ids::ConnId;
use crate::message::close::{CloseReason, DropReason, ErrorCode};
use crate::message::event::Event;
use crate::net::Ended;

impl Hub {
    /// Takes nothing more from a connection, and ends it once what it said before is answered and has come back to
    /// it. `code` goes into the close frame; an empty one answers an empty one.
    pub(super) fn end_when_answered(&mut self, id: ConnId, reason: CloseReason, code: Option<u16>) {
        let Some(connection) = self.connections.get(id).filter(|connection| connection.is_open()) else { return };
        if connection.farewell.is_some() {
            return;
        }
        connection.farewell = Some((reason, code));
        if !connection.flags.in_core {
            return self.end(id, reason);
        }
        let _ = self.core.handle(Input::Finished { conn: id, reason, reads_on: false }, self.now);
        self.pump();
        if self.connections.get(id).is_some_and(|connection| connection.is_open()) {
            self.give_time_to_end(id, self.limits.close_timeout.as_millis() as u64);
        }
    }

    /// Begins the end of a connection.
    pub(super) fn end(&mut self, id: ConnId, reason: CloseReason) {
        if !matches!(reason, CloseReason::SlowConsumer | CloseReason::PeerGone) {
            self.tell_gaps(id);
        }
        self.tell_why(id, reason);
        let Some(connection) = self.connections.get(id).filter(|connection| connection.is_open()) else { return };
        let code = match connection.farewell {
            Some((farewell, code)) if farewell == reason => code,
            _ => Some(reason.code()),
        };
        connection.phase = Phase::Ending(reason);
        connection.replays = Vec::new();
        if connection.pending.take().is_some() {
            // It was not read. Now it is again, or the peer's own goodbye would never be seen.
            self.unblocked.push(id);
        }
        let was_in_core = std::mem::take(&mut connection.flags.in_core);
        let mut dropped = Dropped::default();
        if reason == CloseReason::SlowConsumer {
            dropped = connection.outbox.drop_queued();
            self.due.outbox_bytes -= dropped.bytes;
        }
        let can_speak = connection.tls.as_ref().is_none_or(|tls| !tls.has_failed());
        let says_goodbye = connection.is_websocket() && reason != CloseReason::PeerGone && can_speak;
        if says_goodbye {
            let mut goodbye = Vec::new();
            frame::encode_close(code, reason.text(), &mut goodbye);
            let _ = connection.push(Bytes::from(goodbye), Kind::Goodbye, &mut self.due, self.outbox_limits, self.now);
        }
        self.metrics.closed(reason);
        self.log_end(id, reason);
        self.metrics.dropped(DropReason::Closed, dropped.frames as u64);
        self.forget_identity(id, reason);
        if was_in_core {
            self.leave_core(id, reason);
        }
        if reason == CloseReason::PeerGone {
            self.close(id, Wish::Close(id));
            return;
        }
        self.give_time_to_end(id, self.limits.close_timeout.as_millis() as u64);
        self.flushed(id);
    }

    /// What was skipped is told before the goodbye, or the stream would end short without a word.
    fn tell_gaps(&mut self, id: ConnId) {
        while let Some(connection) = self.connections.get(id).filter(|connection| connection.is_open()) {
            let Some(gap) = connection.outbox.take_gap() else { return };
            self.send(id, &Event::Gap { room: gap.room, from: gap.from, to: gap.to });
        }
    }

    /// Lines have no close frame, so what a client cannot know by itself is an error before the end.
    fn tell_why(&mut self, id: ConnId, reason: CloseReason) {
        let code = match reason {
            CloseReason::TokenExpired => ErrorCode::Expired,
            CloseReason::Revoked => ErrorCode::Unauthorized,
            CloseReason::RateLimited => ErrorCode::RateLimited,
            CloseReason::Disconnected => ErrorCode::Forbidden,
            _ => return,
        };
        let speaks_lines = |connection: &mut Connection| matches!(connection.transport, Transport::ChatTcp(_));
        if self.connections.get(id).is_some_and(speaks_lines) {
            let message = format!("{}: {}", reason.text(), reason.next_step()).into();
            self.send(id, &Event::Error { id: None, code, message });
        }
    }

    /// An end that someone may ask about later is logged, at a bounded rate, since peers decide how many there are.
    fn log_end(&mut self, id: ConnId, reason: CloseReason) {
        if matches!(reason, CloseReason::Normal | CloseReason::PeerGone | CloseReason::Restart) {
            return;
        }
        let Some(suppressed) = self.throttle.admit(reason.label(), self.now) else { return };
        let connection = format_args!("{}-{}", id.slot, id.generation);
        tracing::info!(%connection, reason = reason.label(), code = reason.code(), suppressed, "connection closed");
    }

    /// Called when something was written: goes on with the end once all is.
    pub(super) fn flushed(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Phase::Ending(reason) = connection.phase else { return };
        if !connection.is_flushed() {
            return;
        }
        let has_ended = connection.flags.read_ended || connection.flags.peer_closed;
        // A peer that broke the framing cannot be understood any more, so FIN is all that is left to say; one that
        // is sound answers the close frame with its own.
        let awaits_close_frame = connection.is_websocket() && !breaks_framing(reason) && !has_ended;
        // Once that is written too, this is called again.
        if !awaits_close_frame && self.say_tls_goodbye(id) {
            return;
        }
        if has_ended {
            self.close(id, Wish::Close(id));
            return;
        }
        let Some(connection) = self.connections.get(id) else { return };
        connection.phase = Phase::Lingering(reason);
        if !awaits_close_frame {
            self.due.wishes.push(Wish::FinishSending(id));
        }
    }

    /// The peer has said its goodbye too.
    fn finish_lingering(&mut self, id: ConnId, reason: CloseReason) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.phase = Phase::Ending(reason);
        self.flushed(id);
    }

    /// The peer's close frame came.
    pub(super) fn peer_closed(&mut self, id: ConnId, code: Option<u16>) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.flags.peer_closed = true;
        match connection.phase {
            Phase::Open => self.end_when_answered(id, CloseReason::Normal, code),
            Phase::Lingering(reason) => self.finish_lingering(id, reason),
            Phase::Ending(_) | Phase::Closed => {}
        }
    }

    /// The socket gives no more bytes.
    pub(super) fn read_ended(&mut self, id: ConnId, why: Ended) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.flags.read_ended = true;
        match (&connection.transport, connection.phase, why) {
            (_, Phase::Lingering(reason), Ended::Finished) => self.finish_lingering(id, reason),
            (_, Phase::Lingering(_), Ended::Failed(_)) => self.close(id, Wish::Close(id)),
            (Transport::ChatTcp(_), Phase::Open, Ended::Finished) => {
                // What is blocked is read first; see `Hub::retry`.
                if connection.pending.is_none() {
                    self.finish_reading(id);
                }
            }
            // It is ending already, and may still read.
            (_, Phase::Open, Ended::Finished) if connection.farewell.is_some() => {}
            (_, Phase::Open, _) => self.end(id, CloseReason::PeerGone),
            (_, Phase::Ending(_), Ended::Failed(_)) => self.close(id, Wish::Close(id)),
            (_, Phase::Ending(_) | Phase::Closed, _) => {}
        }
    }

    /// A TCP peer has said all it will, and all of it was read.
    pub(super) fn finish_reading(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(id).filter(|connection| connection.is_open()) else { return };
        if connection.farewell.is_some() {
            return;
        }
        if let Transport::ChatTcp(decoder) = &mut connection.transport
            && let Some(line) = decoder.finish()
            && !self.message(id, line.into(), true)
        {
            return;
        }
        let finished = Input::Finished { conn: id, reason: CloseReason::Normal, reads_on: true };
        let _ = self.core.handle(finished, self.now);
        self.pump();
    }

    /// The socket takes no more bytes.
    pub(super) fn write_failed(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.is_open() {
            self.end(id, CloseReason::PeerGone);
        } else {
            self.close(id, Wish::Close(id));
        }
    }

    /// The end is to be over in so many milliseconds. What was said before does not hold any more.
    fn give_time_to_end(&mut self, id: ConnId, ms: u64) {
        if let Some(connection) = self.connections.get(id) {
            connection.ends_by_ms = self.now.ms() + ms;
        }
        self.set_alarm(id, Alarm::End, ms);
    }

    pub(super) fn end_timeout(&mut self, id: ConnId) {
        let now_ms = self.now.ms();
        let limits = self.outbox_limits;
        let Some(connection) = self.connections.get(id) else { return };
        if now_ms < connection.ends_by_ms {
            return;
        }
        match connection.phase {
            // What it is owed does not come.
            Phase::Open => {
                if let Some((reason, _)) = connection.farewell {
                    self.end(id, reason);
                    self.pump();
                }
            }
            Phase::Closed => {}
            // A reader that is slow but moves is given the time it needs to read what it is owed.
            Phase::Ending(reason) if reason != CloseReason::SlowConsumer => {
                match connection.outbox.stall_deadline_ms(&limits) {
                    Some(deadline) if deadline > now_ms => self.give_time_to_end(id, deadline - now_ms),
                    _ => self.close(id, Wish::Reset(id)),
                }
            }
            Phase::Ending(_) | Phase::Lingering(_) => self.close(id, Wish::Reset(id)),
        }
    }

    /// Ends at once what has not ended by itself.
    pub(super) fn reset_all(&mut self) {
        for id in self.connections.ids() {
            self.end(id, CloseReason::Restart);
            self.close(id, Wish::Reset(id));
        }
        self.pump();
    }

    pub(super) fn close(&mut self, id: ConnId, wish: Wish) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.phase != Phase::Closed {
            connection.phase = Phase::Closed;
            self.due.wishes.push(wish);
        }
    }
}

fn breaks_framing(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::ProtocolError | CloseReason::InvalidUtf8 | CloseReason::MessageTooLarge)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chat::CoreConfig;
    use crate::clock::Time;
    use crate::config::Config;
    use crate::ids::ShardId;
    use crate::shard::gate::Gate;
    use crate::shard::hub::Entrance;
    use crate::shard::identity::Desk;
    use crate::shard::mailbox::Post;
    use crate::shard::quota::Quotas;
    use crate::shard::reload::rules;
    use crate::telemetry::metrics::ShardMetrics;

    const ID: ConnId = ConnId { slot: 0, generation: 1 };

    fn hub() -> Hub {
        let config = Config::default();
        let rules = rules(&config);
        let core = CoreConfig {
            shard: ShardId(0),
            shards: 1,
            limits: rules.limits,
            policies: rules.policies,
            permissions: rules.permissions,
            consults: rules.consults,
            has_store: false,
            node: "test".into(),
            exchange_backlog_max: 1,
            seed: 1,
        };
        let gate = Gate::new(Arc::new(Quotas::new()), Arc::new(config.gate.clone()), false);
        let desk = Desk::new(config.auth, None, None, Arc::new(Post::new(1).unwrap()), ShardId(0));
        let metrics: &'static ShardMetrics = Box::leak(Box::default());
        Hub::new(core, &config, Entrance { gate, desk, tls: None }, metrics, Time::default())
    }

    fn at(hub: &mut Hub, ms: u64) {
        hub.now = Time { us: ms * 1_000, ..hub.now };
        hub.tick();
    }

    #[test]
    fn a_later_end_is_not_cut_short_by_an_earlier_alarm() {
        let mut hub = hub();
        hub.limits.close_timeout = std::time::Duration::from_secs(1);
        hub.insert(Connection::new(ID, Transport::Http { head: Vec::new() }, hub.now));
        hub.give_time_to_end(ID, 1_000);
        at(&mut hub, 800);
        hub.end(ID, CloseReason::Normal);
        let phase = |hub: &mut Hub| hub.connections.get(ID).map(|connection| connection.phase);
        let lingers = Some(Phase::Lingering(CloseReason::Normal));
        for ms in [1_000, 1_100, 1_799] {
            at(&mut hub, ms);
            assert_eq!((phase(&mut hub), &hub.due.wishes[..]), (lingers, &[Wish::FinishSending(ID)][..]), "{ms}");
        }
        at(&mut hub, 1_900);
        assert_eq!(phase(&mut hub), Some(Phase::Closed));
        assert_eq!(hub.due.wishes, [Wish::FinishSending(ID), Wish::Reset(ID)]);
    }
}
