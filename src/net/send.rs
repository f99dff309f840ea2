//! Sending: one send per socket at a time.
//!
//! The first attempt never waits (`MSG_DONTWAIT`), so it is over when the `enter` that submits it returns: with all
//! bytes taken, or with a completion that says how many were not. Only then is the rest submitted as a send that
//! waits for the peer. So a quiet send needs no completion for success (`IOSQE_CQE_SKIP_SUCCESS`), and yet it is
//! known when its bytes may be let go.

use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use libc::{EAGAIN, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_WAITALL};

use super::event::Event;
use super::queues::Kernel;
use super::ring::Ring;
use super::slots::{Outgoing, Sending};
use super::tag::{Op, conn_data};
use crate::ids::ConnId;

impl<K: Kernel> Ring<K> {
    /// Whether a send is in flight; then no other may start.
    pub fn is_sending(&mut self, conn: ConnId) -> bool {
        self.slots.get(conn).is_some_and(|slot| slot.sending.is_some())
    }

    /// Sends bytes, all of them; ends in [`Event::Sent`] or [`Event::SendFailed`].
    ///
    /// With `quiet`, success alone does not wake the owner: [`Event::Sent`] comes with whatever comes next. That
    /// saves a wake-up and a completion for each send, and is right when nothing waits for this one to be over.
    ///
    /// # Panics
    /// When a send is in flight already: two might be reordered.
    pub fn send(&mut self, conn: ConnId, bytes: Outgoing, quiet: bool) {
        let Some(slot) = self.slots.get(conn) else { return };
        assert!(slot.sending.is_none(), "one send in flight per connection");
        slot.sending = Some(Sending { bytes, sent: 0, quiet: quiet.then_some(self.quiet_round) });
        slot.in_flight += 1;
        if quiet {
            self.quiet.push(conn);
        }
        self.push_send(conn, Op::Send);
    }

    /// The first attempt is over, and said so.
    pub(super) fn on_send(&mut self, conn: ConnId, result: i32) -> Option<Event> {
        let slot = self.slots.get(conn)?;
        let sending = slot.sending.as_mut().expect("a send completes once");
        sending.quiet = None;
        sending.sent += result.max(0) as usize;
        let is_whole = sending.sent == sending.bytes.as_slice().len();
        if !is_whole && (result >= 0 || -result == EAGAIN) && !slot.closing {
            self.push_send(conn, Op::SendRest);
            return Some(Event::SendWaits { conn });
        }
        self.end_send(conn, result)
    }

    /// The send that waited is over, or the peer has read a part.
    pub(super) fn on_send_rest(&mut self, conn: ConnId, result: i32) -> Option<Event> {
        let slot = self.slots.get(conn)?;
        let sending = slot.sending.as_mut().expect("a send completes once");
        sending.sent += result.max(0) as usize;
        if result > 0 && sending.sent < sending.bytes.as_slice().len() && !slot.closing {
            self.push_send(conn, Op::SendRest);
            return None;
        }
        self.end_send(conn, result)
    }

    /// Takes note of the quiet sends that have succeeded. Only when all completions of the `enter` that submitted
    /// them are worked off: those that failed are quiet no more.
    pub(super) fn next_quiet(&mut self) -> Option<Event> {
        while let Some(conn) = self.quiet_submitted.pop() {
            let round = self.slots.get(conn).and_then(|slot| slot.sending.as_ref()).and_then(|sending| sending.quiet);
            let succeeded = round.is_some_and(|round| round < self.quiet_round);
            if succeeded && let Some(event) = self.end_send(conn, 0) {
                return Some(event);
            }
        }
        None
    }

    fn end_send(&mut self, conn: ConnId, result: i32) -> Option<Event> {
        let slot = self.slots.get(conn)?;
        let sending = slot.sending.take().expect("the caller has seen it");
        slot.in_flight -= 1;
        if slot.closing {
            self.release_when_idle(conn);
            return None;
        }
        if result < 0 {
            return Some(Event::SendFailed { conn, errno: -result });
        }
        Some(Event::Sent { conn, bytes: sending.bytes })
    }

    fn push_send(&mut self, conn: ConnId, op: Op) {
        let Some(slot) = self.slots.get(conn) else { return };
        let fd = Fd(slot.fd.as_ref().expect("a slot in use has a socket").as_raw_fd());
        let sending = slot.sending.as_ref().expect("the caller has set it");
        let rest = &sending.bytes.as_slice()[sending.sent..];
        let wait = if op == Op::Send { MSG_DONTWAIT } else { 0 };
        let flags = MSG_WAITALL | MSG_NOSIGNAL | wait;
        let mut entry = opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32).flags(flags).build();
        if sending.quiet.is_some() {
            entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        }
        self.push(&entry.user_data(conn_data(op, conn)));
    }
}
