//! What each fuzz target does with one input. Here and not in the targets, so that `tests/fuzz.rs` can run the corpus
//! with any compiler.

pub mod http_head;
pub mod json_command;
pub mod json_event;
pub mod lines;
pub mod proxy_header;
pub mod session;
pub mod token;
pub mod utf8;
pub mod websocket_decoder;

/// Runs one input.
pub type Run = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Run)] = &[
    ("http_head", http_head::run),
    ("json_command", json_command::run),
    ("json_event", json_event::run),
    ("lines", lines::run),
    ("proxy_header", proxy_header::run),
    ("session", session::run),
    ("token", token::run),
    ("utf8", utf8::run),
    ("websocket_decoder", websocket_decoder::run),
];
