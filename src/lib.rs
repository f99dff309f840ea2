//! hubbub: a thread-per-core io_uring chat server. `src/ARCHITECTURE.md` is the map.

// L0
pub mod access;
pub mod clock;
pub mod ids;
pub mod limits;
pub mod message;
pub mod policy;

// L1
pub mod chat;
pub mod codec;

// L2
pub mod config;
pub mod doctor;
pub mod hooks;
pub mod net;
pub mod store;
pub mod telemetry;
pub mod terminal;
pub mod tls;
pub mod token;
pub mod web;

// L3
pub mod admin;
pub mod shard;
