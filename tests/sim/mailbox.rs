//! One queue from one shard to another: batches in order, a bound, and a delay.
//!
//! Invariant: what was sent first arrives first, however the delays fall.

use std::collections::VecDeque;

/// Batches of `T` on their way.
#[derive(Debug)]
pub struct Mailbox<T> {
    batches: VecDeque<Batch<T>>,
    capacity: usize,
}

#[derive(Debug)]
struct Batch<T> {
    ready_us: u64,
    letters: VecDeque<T>,
}

impl<T> Mailbox<T> {
    /// `capacity` counts batches, as the real queues do.
    pub fn new(capacity: usize) -> Self {
        Self { batches: VecDeque::new(), capacity }
    }

    pub fn has_room(&self) -> bool {
        self.batches.len() < self.capacity
    }

    /// The batch can be read from `ready_us` on, and not before the batches ahead of it.
    pub fn send(&mut self, letters: Vec<T>, ready_us: u64) {
        assert!(self.has_room());
        if !letters.is_empty() {
            self.batches.push_back(Batch { ready_us, letters: letters.into() });
        }
    }

    /// When the next letter can be read.
    pub fn ready_us(&self) -> Option<u64> {
        self.batches.front().map(|batch| batch.ready_us)
    }

    /// Takes the next letter. A batch occupies its place until its last letter is taken.
    pub fn receive(&mut self) -> Option<T> {
        let batch = self.batches.front_mut()?;
        let letter = batch.letters.pop_front();
        if batch.letters.is_empty() {
            self.batches.pop_front();
        }
        letter
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}
