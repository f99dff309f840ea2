//! Commands: what is taken must be JSON by another parser's judgement too, what is refused as no JSON must not be, and
//! content must stay valid and in one line.

use hubbub::codec::json::decode;
use hubbub::message::command::{CommandBody, Publish};
use serde::de::IgnoredAny;

/// Runs one input.
pub fn run(data: &[u8]) {
    let is_json = || serde_json::from_slice::<IgnoredAny>(data).is_ok();
    match decode(data) {
        Ok(command) => {
            assert!(is_json());
            let content = match &command.body {
                CommandBody::Message(Publish { content, .. }) | CommandBody::Signal { content, .. } => content,
                _ => return,
            };
            assert!(!content.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
            assert!(serde_json::from_slice::<IgnoredAny>(content).is_ok());
        }
        Err(error) if error.message.starts_with("not valid JSON") => assert!(!is_json()),
        Err(error) => assert!(!error.message.is_empty()),
    }
}
