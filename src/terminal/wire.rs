//! What the server says, as far as this client understands it. Pure. Fields that are missing or of another kind than
//! expected are as good as absent, and unknown events are passed over: servers may be newer.

use serde::Deserialize;
use serde_json::Value;

/// Any event. Which fields there are depends on its `kind`: `docs/protocol.md` lists them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    pub id: Option<u64>,
    pub room: Option<String>,
    pub seq: Option<u64>,
    pub sender: Option<String>,
    pub content: Option<Value>,
    pub timestamp: Option<u64>,
    pub deleted: Option<bool>,
    pub key: Option<String>,
    pub epoch: Option<String>,
    pub members: Option<u64>,
    pub role: Option<String>,
    pub recovered: Option<bool>,
    pub messages: Option<Vec<Event>>,
    pub more: Option<bool>,
    pub users: Option<Vec<Here>>,
    pub rooms: Option<Vec<Listed>>,
    pub next: Option<String>,
    pub count: Option<u64>,
    pub joined: Option<Vec<String>>,
    pub left: Option<Vec<String>>,
    pub from: Option<u64>,
    pub to: Option<u64>,
    pub reason: Option<String>,
    pub by: Option<String>,
    pub retry_after_ms: Option<u64>,
    pub code: Option<String>,
    pub message: Option<String>,
    pub temporary: Option<bool>,
    pub user: Option<String>,
    pub session: Option<String>,
    pub heartbeat_ms: Option<u64>,
    pub resumed: Option<bool>,
    pub limits: Option<Value>,
}

/// An entry of `presence`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Here {
    pub user: String,
}

/// An entry of `rooms`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Listed {
    pub room: String,
    pub members: u64,
}

impl Event {
    /// Reads what came; `None` if it is no event.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<Self>(text).ok().filter(|event| !event.kind.is_empty())
    }

    /// Why a command was refused, for people.
    pub fn why(&self) -> String {
        match (&self.message, &self.code) {
            (Some(message), Some(code)) => format!("{message} ({code})"),
            (Some(text), None) | (None, Some(text)) => text.clone(),
            (None, None) => "the server did not say why".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_whatever_else_they_hold() {
        let event = Event::parse(r#"{"type":"message","room":"r","seq":4,"content":{"a":[1]},"new":{},"key":null}"#);
        let event = event.unwrap();
        assert_eq!((event.seq, event.key), (Some(4), None));
        for text in ["", "[]", "{}", r#"{"type":7}"#, r#"{"type":"message","seq":"x"}"#, "\u{7f}"] {
            assert_eq!(Event::parse(text), None, "{text}");
        }
        assert_eq!(Event::parse(&"[".repeat(100_000)), None);
    }
}
