//! The driver: everything that talks to the kernel's network side, and the only place with `unsafe`.
//!
//! It moves bytes and knows nothing of what they mean. One [`Ring`] belongs to one thread, which sleeps nowhere
//! else: sockets, the doorbell and the timer all arrive there as events. Absent on purpose: fixed files (each
//! shard has a descriptor table of its own, so the table's lock is not shared), zero-copy sends (they cost more
//! than a copy for chat-sized frames), and any retry of a broken socket.

mod buffers;
pub mod doorbell;
mod event;
pub mod probe;
mod queues;
mod recv;
mod ring;
mod send;
mod slots;
pub mod socket;
pub mod table;
mod tag;
#[cfg(test)]
mod tests;
mod timers;

pub use buffers::Buffer;
pub use doorbell::Doorbell;
pub use event::{Ended, Event, ListenerId, RingConfig, RingError};
pub use ring::Ring;
pub use slots::Outgoing;
