//! The application's say: HTTP requests to it, signed, when a connection opens, joins, speaks and ends.
//!
//! | file | what it does |
//! |---|---|
//! | `config` | what an operator decides |
//! | `event` | what is asked and told, as JSON |
//! | `line` | the queues to each shard |
//! | `caller` | the threads that call, with their attempts |
//! | `client`, `sign` | one request: HTTP, and the signature |
//! | `life` | start and stop |
//!
//! Invariant: a shard never waits. What it asks goes into a bounded queue or is decided at once, and an answer comes
//! within [`HookConfig::deadline`] of its question. `docs/hooks.md` has what the application sees. Absent: who is asked
//! about what, and what a refusal does; those are the shell's and the core's.

mod caller;
mod client;
mod config;
mod event;
mod life;
mod line;
mod sign;
#[cfg(test)]
mod tests;

pub use config::{HookConfig, OnFailure, UrlError, check_url};
pub use event::{About, Notice, Question, Transport, Verdict};
pub use life::{HookError, Hooks};
pub use line::{HookLine, HookPort, lines};

pub use crate::telemetry::hooks::{HookEvent, HookMetrics, HookOutcome};
