//! What clients tell the oracle.

use std::sync::Arc;

use serde_json::Value;

/// One thing that a client did or was told. Those of one client come in their order, and what was sent is told before
/// anyone can have seen it.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A message is about to be sent for the first time.
    Sent { sender: Arc<str>, room: Arc<str>, key: Arc<str>, content: Arc<str> },
    /// A message was answered by `ok`.
    Acked { client: Arc<str>, room: Arc<str>, epoch: u64, seq: u64, key: Arc<str>, durable: bool, duplicate: bool },
    /// A message was refused for now.
    Refused { client: Arc<str>, code: String },
    /// A `connect` with `resume` was answered.
    Resumed { client: Arc<str>, resumed: bool },
    /// A room was entered, from this position if one was told.
    Joined { client: Arc<str>, room: Arc<str>, epoch: u64, head: u64, since: Option<Position>, recovered: Option<bool> },
    /// A message came, replayed or live.
    Pushed { client: Arc<str>, room: Arc<str>, epoch: u64, message: Message },
    /// Messages up to a position do not come.
    Gap { client: Arc<str>, room: Arc<str>, epoch: u64, to: u64 },
    /// Something came that has no place here.
    Strange { client: Arc<str>, what: String },
}

/// A place in one life of a room's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub epoch: u64,
    pub seq: u64,
}

/// A message as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub seq: u64,
    /// The position before it.
    pub prev: u64,
    pub sender: String,
    pub key: String,
    pub content: String,
    pub timestamp: u64,
}

impl Message {
    /// Reads a `message` event.
    pub fn read(event: &Value) -> Option<Self> {
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        let seq = event["seq"].as_u64()?;
        let prev = if event["prev"].is_null() { seq.checked_sub(1)? } else { event["prev"].as_u64()? };
        Some(Self {
            seq,
            prev,
            sender: text("sender")?,
            key: text("key")?,
            content: text("content")?,
            timestamp: event["timestamp"].as_u64()?,
        })
    }
}

/// Reads an epoch.
pub fn epoch(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?, 16).ok()
}

impl Position {
    /// As a client sends it.
    pub fn json(self) -> Value {
        serde_json::json!({"epoch": format!("{:016x}", self.epoch), "seq": self.seq})
    }
}
