//! Durable storage of logs, cursors, dead letters and sessions, in an embedded database (fjall) on threads of its own.
//!
//! | file | what it does |
//! |---|---|
//! | `line` | the queues to each shard; messages become bytes there |
//! | `writer`, `reopen`, `disk` | the thread that commits, and what it does when it cannot |
//! | `reader`, `query` | the threads that answer questions |
//! | `upkeep`, `unacked`, `seen` | retention |
//! | `engine`, `journal`, `slot` | the database, how it is opened, and who uses it |
//! | `block`, `records`, `encoding` | what is stored, as bytes |
//! | `offline` | what an operator does to a store |
//! | `fault` | where tests have the process killed |
//!
//! `docs/storage.md` has the format and the guarantees. Absent: what a room is, and when it is opened; that is the
//! core's ([`crate::chat::log`] is all that both know).

mod block;
mod disk;
mod encoding;
mod engine;
mod fault;
mod journal;
mod life;
mod line;
pub mod offline;
mod query;
mod reader;
mod records;
mod reopen;
mod sanctions;
mod seen;
mod slot;
#[cfg(test)]
mod tests;
mod unacked;
mod upkeep;
mod writer;

pub use engine::StoreError;
pub use fault::FAULT_POINTS;
pub use life::{ReadError, Store, StoreConfig, StoreReader};
pub use line::{Line, StorePort, lines};
