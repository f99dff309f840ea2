//! Codecs: bytes to what they mean and back.
//!
//! Sans-io: a codec is handed bytes and hands back values; it never reads, waits or looks at a clock. Every decoder
//! answers the same however its bytes are split, allocates no more than has arrived, and never panics on what a
//! peer sends. Nothing here knows rooms or connections.

pub mod forwarded;
pub mod http;
pub mod json;
pub mod lines;
pub mod proxy;
pub mod websocket;
