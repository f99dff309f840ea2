//! How another thread wakes a shard that sleeps in its ring: an eventfd, rung only for a sleeper.
//!
//! The protocol, without which wakes are lost: the sleeper marks itself asleep, fences, looks once more into its
//! mailbox, and only then waits. The sender puts its envelope into the mailbox, fences, takes the mark away, and
//! rings only if it was there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// One shard's bell. Shared by everyone who sends to it.
#[derive(Debug)]
pub struct Doorbell {
    asleep: AtomicBool,
    eventfd: OwnedFd,
}

impl Doorbell {
    /// A bell for a shard that is awake. Made before descriptor tables are split, so that every table has it.
    pub fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asleep: AtomicBool::new(false), eventfd })
    }

    /// The owner is about to sleep. It must look into its mailbox after this and before it waits.
    pub fn prepare_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake and needs no bell.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Called by a sender after it has put something into the mailbox. True if the bell was rung.
    pub fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        if !self.asleep.swap(false, Ordering::Relaxed) {
            return false;
        }
        // A full counter (EAGAIN) means that the bell is ringing already.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        true
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_only_for_a_sleeper_and_only_once() {
        let bell = Doorbell::new().unwrap();
        assert!(!bell.ring());
        bell.prepare_sleep();
        assert!(bell.ring());
        assert!(!bell.ring());
        bell.prepare_sleep();
        bell.awake();
        assert!(!bell.ring());
    }
}
