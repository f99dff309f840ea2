//! The shell of a shard: bytes in, core, outboxes, bytes out. One thread per shard, and nothing shared but mailboxes.
//!
//! `runtime` starts and stops the threads; `turn` is the loop of one; `hub` is everything in it above the ring:
//! `http` and `read` turn bytes into commands, `outputs` and `fanout` turn the core's outputs into bytes, `closing`
//! ends connections. `gate` and `quota` decide who is let in. `mailbox` is how shards reach each other.

mod accept;
mod closing;
mod connection;
mod fanout;
mod gate;
mod http;
mod hub;
mod identity;
mod mailbox;
mod outputs;
mod pace;
mod quota;
mod read;
mod reload;
mod runtime;
mod shutdown;
mod store;
mod strangers;
mod tls;
mod turn;

pub use reload::Surroundings;
pub use runtime::{ServeError, serve};
