//! `hubbub chat`: the client for people, on a terminal or in a pipe.
//!
//! A pure part decides everything: `session` and `talk` (the connection and its rooms), `outbox`, `room`, `command`, `editor`,
//! `rows` and `model` (what is shown). It has no socket, clock, terminal or thread, and is tested without them. Round it:
//! `network` has the connection on a thread of its own, `screen` owns the terminal, `plain` the pipes, and both hand in what
//! happens and carry out what is wanted.
//!
//! Nothing that comes from a server is shown before `text::harmless` has seen it. Every list is bounded.
//!
//! Absent: files of its own (it remembers nothing when it ends), and all that the protocol does not offer.

mod command;
mod editor;
mod ending;
mod happening;
mod launch;
mod link;
mod model;
mod network;
mod options;
mod outbox;
mod palette;
mod perform;
mod plain;
mod room;
mod rows;
mod screen;
mod session;
mod talk;
mod text;
mod tls;
mod view;
mod wire;
mod zone;

#[cfg(test)]
mod tests;

pub use launch::run;
pub use options::{Options, Scheme, Target, TokenSource, subcommand};
