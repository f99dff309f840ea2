//! The codecs: HTTP heads, WebSocket, lines, JSON.

mod http;
mod json;
mod lines;
mod websocket;

use super::Operation;

/// A command of about 150 bytes.
const COMMAND: &[u8] = br#"{"type":"message","room":"lobby","content":{"text":"hello everyone, this is a message of a usual length","n":12345},"key":"c-000123","id":4711}"#;

pub(super) fn operations() -> Vec<Operation> {
    [http::operations(), websocket::operations(), lines::operations(), json::operations()]
        .into_iter()
        .flatten()
        .collect()
}
