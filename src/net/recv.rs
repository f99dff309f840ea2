//! Receiving: one multishot receive per socket, armed again whenever it ends for a reason that passes.

use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use io_uring::{cqueue, opcode};
use libc::{ECANCELED, ENOBUFS};

use super::buffers::{Buffer, GROUP};
use super::event::{Ended, Event};
use super::queues::Kernel;
use super::ring::Ring;
use super::slots::Receive;
use super::tag::{Op, conn_data};
use crate::ids::ConnId;

impl<K: Kernel> Ring<K> {
    /// Stops reading soon; what has arrived by then still comes.
    pub fn pause(&mut self, conn: ConnId) {
        let Some(slot) = self.slots.get(conn) else { return };
        slot.wants_receive = false;
        if slot.receive == Receive::Armed {
            slot.receive = Receive::Cancelling;
            slot.in_flight += 1;
            let entry = opcode::AsyncCancel::new(conn_data(Op::Receive, conn)).build();
            self.push(&entry.user_data(conn_data(Op::Cancel, conn)));
        }
    }

    /// Reads again.
    pub fn resume(&mut self, conn: ConnId) {
        let Some(slot) = self.slots.get(conn) else { return };
        slot.wants_receive = true;
        if slot.receive == Receive::Idle {
            self.arm_receive(conn);
        }
    }

    pub(super) fn on_receive(&mut self, conn: ConnId, result: i32, flags: u32) -> Option<Event> {
        let buffer = cqueue::buffer_select(flags).map(|id| Buffer { id, len: result.max(0) as u32 });
        let Some(slot) = self.slots.get(conn) else {
            debug_assert!(false, "a slot outlives its completions");
            return None;
        };
        let closing = slot.closing;
        let mut ended = None;
        if !cqueue::more(flags) {
            slot.in_flight -= 1;
            ended = after_receive(slot.receive, result);
            slot.receive = if ended.is_some() { Receive::Ended } else { Receive::Idle };
            if -result == ENOBUFS {
                self.starvations += 1;
                self.starved.push(conn);
            } else if slot.receive == Receive::Idle && slot.wants_receive && !closing {
                self.arm_receive(conn);
            }
        }
        if closing {
            if let Some(buffer) = buffer {
                self.buffers.give_back(buffer);
            }
            self.release_when_idle(conn);
            return None;
        }
        if let Some(why) = ended {
            self.ready.push_front(Event::ReceiveEnded { conn, why });
        }
        match buffer {
            Some(buffer) if result > 0 => Some(Event::Received { conn, buffer }),
            Some(buffer) => {
                self.buffers.give_back(buffer);
                None
            }
            None => None,
        }
    }

    fn arm_receive(&mut self, conn: ConnId) {
        let Some(slot) = self.slots.get(conn) else { return };
        slot.receive = Receive::Armed;
        slot.in_flight += 1;
        let fd = Fd(slot.fd.as_ref().expect("a slot in use has a socket").as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build();
        self.push(&entry.user_data(conn_data(Op::Receive, conn)));
    }

    /// Buffers have come back by now, so whoever found none tries again.
    pub(super) fn feed_starved(&mut self) {
        for conn in std::mem::take(&mut self.starved) {
            let wants = self.slots.get(conn).is_some_and(|slot| slot.wants_receive && !slot.closing);
            if wants && self.slots.get(conn).is_some_and(|slot| slot.receive == Receive::Idle) {
                self.arm_receive(conn);
            }
        }
    }
}

/// What an ended receive means; `None` if it may be armed again.
fn after_receive(state: Receive, result: i32) -> Option<Ended> {
    match result {
        0 => Some(Ended::Finished),
        result if result > 0 => None,
        result if -result == ENOBUFS => None,
        result if -result == ECANCELED && state == Receive::Cancelling => None,
        result => Some(Ended::Failed(-result)),
    }
}
