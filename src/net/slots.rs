//! The ring's table of sockets, and what the kernel still holds of each.
//!
//! Invariant: a slot is freed only when nothing of it is in flight, so a completion always finds the socket it
//! belongs to. The generation makes a late mistake visible instead of harmful.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use socket2::SockAddr;

use crate::ids::ConnId;

/// Bytes on their way to the kernel. They stay in the ring until the kernel is done with them.
#[derive(Debug)]
pub enum Outgoing {
    /// One frame, shared with other connections.
    Frame(Bytes),
    /// Several frames copied together; the buffer comes back with the completion.
    Gathered(Vec<u8>),
}

impl Outgoing {
    /// All of the bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame,
            Self::Gathered(bytes) => bytes,
        }
    }
}

/// One socket.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) fd: Option<OwnedFd>,
    /// Entries in the kernel that carry this slot in their `user_data`.
    pub(super) in_flight: u16,
    pub(super) receive: Receive,
    /// Whether the owner wants to read; a cancel takes a while.
    pub(super) wants_receive: bool,
    pub(super) closing: bool,
    pub(super) sending: Option<Sending>,
    /// The address that a connect in flight points to.
    pub(super) connecting: Option<Box<SockAddr>>,
}

/// State of the slot's multishot receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Receive {
    #[default]
    Idle,
    Armed,
    Cancelling,
    /// The peer is done or the socket broke: never armed again.
    Ended,
}

/// The one send in flight.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) bytes: Outgoing,
    pub(super) sent: usize,
    /// Success comes without a completion: the round ([`super::Ring`]) whose end it is over with.
    pub(super) quiet: Option<u64>,
}

/// All sockets of a ring.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    /// Takes a socket in.
    pub(super) fn insert(&mut self, fd: OwnedFd) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        debug_assert!(entry.fd.is_none() && entry.in_flight == 0, "a free slot holds nothing");
        entry.fd = Some(fd);
        ConnId { slot, generation: entry.generation }
    }

    /// The slot, if this is still the connection in it.
    pub(super) fn get(&mut self, conn: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(conn.slot as usize).filter(|slot| slot.generation == conn.generation && slot.fd.is_some())
    }

    /// Closes the socket and frees the slot for the next one.
    pub(super) fn remove(&mut self, conn: ConnId) {
        let Some(slot) = self.get(conn) else { return };
        debug_assert_eq!(slot.in_flight, 0, "the kernel holds nothing of a slot that is freed");
        let generation = (slot.generation + 1) & GENERATION_MASK;
        *slot = Slot { generation, ..Slot::default() };
        self.free.push(conn.slot);
    }

    /// How many sockets there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// Generations have 24 bits, for they travel in `user_data`.
pub(super) const GENERATION_MASK: u32 = 0x00ff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn a_reused_slot_is_another_connection() {
        let mut slots = Slots::default();
        let first = slots.insert(socket());
        slots.remove(first);
        let second = slots.insert(socket());
        assert_eq!(first.slot, second.slot);
        assert!(slots.get(first).is_none());
        assert!(slots.get(second).is_some());
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn generations_wrap_at_24_bits() {
        let mut slots = Slots::default();
        let first = slots.insert(socket());
        slots.slots[0].generation = GENERATION_MASK;
        slots.remove(ConnId { slot: first.slot, generation: GENERATION_MASK });
        assert_eq!(slots.insert(socket()).generation, 0);
    }
}
