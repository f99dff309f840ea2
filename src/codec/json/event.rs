//! Reads events, for clients: `hubbub chat` and the load generator.
//!
//! The server is trusted to mean what it says: grammar is checked, and a field of the wrong type is as good as absent.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::scan::{Scanner, unescape};

/// Why a text is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The bytes are not UTF-8.
    #[error("the event is not UTF-8")]
    NotUtf8,
    /// The text is not one JSON object.
    #[error("the event is not a JSON object")]
    NotJson,
    /// There is no `type`.
    #[error("the event has no type")]
    NoType,
}

/// One event, or an object within one; fields are found by their names in `docs/protocol.md`.
#[derive(Clone, Debug)]
pub struct ServerEvent<'a> {
    kind: Cow<'a, str>,
    members: SmallVec<[(&'a str, &'a str); 10]>,
}

/// Reads one event: one JSON object with a `type`.
pub fn decode_event(bytes: &[u8]) -> Result<ServerEvent<'_>, EventError> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| EventError::NotUtf8)?;
    let event = ServerEvent::read(text).ok_or(EventError::NotJson)?;
    if event.kind.is_empty() { Err(EventError::NoType) } else { Ok(event) }
}

impl<'a> ServerEvent<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut event = Self { kind: Cow::Borrowed(""), members: SmallVec::new() };
        Scanner::new(text).object(|name, value| event.members.push((name, value.raw))).ok()?;
        event.kind = event.text("type").unwrap_or_default();
        Some(event)
    }

    /// Its `type`; empty only in objects within an event.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// A field as it was written, such as `content`.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.members.iter().find(|(found, _)| *found == name).map(|(_, raw)| *raw)
    }

    /// A field that is a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        string(self.raw(name)?)
    }

    /// A field that is an integer from 0 to 2^64 - 1.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<u64> {
        self.raw(name)?.parse().ok()
    }

    /// A field that is a boolean.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.raw(name)?.parse().ok()
    }

    /// A field that is an object, such as `limits`.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<Self> {
        Self::read(self.raw(name)?)
    }

    /// The objects of a field that is an array, such as `messages`; what is no object is left out.
    #[must_use]
    pub fn objects(&self, name: &str) -> Vec<Self> {
        self.elements(name, Self::read)
    }

    /// The strings of a field that is an array, such as `joined`; what is no string is left out.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<Cow<'a, str>> {
        self.elements(name, string)
    }

    fn elements<T>(&self, name: &str, read: impl Fn(&'a str) -> Option<T>) -> Vec<T> {
        let mut elements = Vec::new();
        if let Some(raw) = self.raw(name) {
            // A fault would have shown when the whole was read.
            let _ = Scanner::new(raw).array(|element| elements.extend(read(element.raw)));
        }
        elements
    }
}

fn string(raw: &str) -> Option<Cow<'_, str>> {
    unescape(raw.strip_prefix('"')?.strip_suffix('"')?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::json::encode;
    use crate::ids::{Epoch, Namespace, RoomName, Seq, UserName};
    use crate::message::event::{Event, Message, Presence, Reply};

    fn written(event: &Event) -> Vec<u8> {
        let mut out = Vec::new();
        encode(event, &mut out);
        out
    }

    fn name() -> impl Strategy<Value = String> {
        "[a-zé\"\\\\/]{1,12}"
    }

    fn message() -> impl Strategy<Value = Message> {
        let label = || prop::option::of(any::<String>().prop_map(Arc::from));
        let content = any::<String>().prop_map(|text| serde_json::to_vec(&text).expect("a string is JSON"));
        (name(), name(), any::<u64>(), any::<u64>(), content, label(), label(), any::<bool>()).prop_map(
            |(room, sender, seq, timestamp, content, tag, key, deleted)| Message {
                room: RoomName::new(Namespace::Chat, &room).expect("the room's name is legal"),
                seq: Seq(seq),
                prev: None,
                sender: UserName::new(&sender).expect("the user's name is legal"),
                content: Bytes::from(content),
                timestamp,
                tag,
                key,
                deleted,
            },
        )
    }

    fn check(read: &ServerEvent<'_>, said: &Message) {
        assert_eq!(read.kind(), "message");
        assert_eq!(read.text("room").unwrap(), said.room.as_str());
        assert_eq!(read.text("sender").unwrap(), said.sender.as_str());
        assert_eq!(read.integer("seq"), Some(said.seq.0));
        assert_eq!(read.integer("timestamp"), Some(said.timestamp));
        assert_eq!(read.raw("content").unwrap().as_bytes(), said.content);
        assert_eq!(read.text("tag").as_deref(), said.tag.as_deref());
        assert_eq!(read.text("key").as_deref(), said.key.as_deref());
        assert_eq!(read.flag("deleted"), said.deleted.then_some(true));
    }

    #[test]
    fn lists_and_objects_are_read() {
        let joined = ["a", "\"b\""].map(|name| UserName::new(name).unwrap()).to_vec();
        let room = RoomName::new(Namespace::Chat, "lobby").unwrap();
        let bytes = written(&Event::Presence(Arc::new(Presence { room, joined, left: vec![], count: 2 })));
        let event = decode_event(&bytes).unwrap();
        assert_eq!((event.kind(), event.integer("count")), ("presence", Some(2)));
        assert_eq!(event.texts("joined"), ["a", "\"b\""]);
        assert!(event.texts("left").is_empty() && event.texts("count").is_empty() && event.texts("absent").is_empty());
        let event = decode_event(br#"{"type":"welcome","limits":{"rooms":128}}"#).unwrap();
        assert_eq!(event.object("limits").unwrap().integer("rooms"), Some(128));
        assert!(event.object("type").is_none() && event.integer("type").is_none());
    }

    #[test]
    fn what_is_no_event_is_named() {
        let error = |bytes: &[u8]| decode_event(bytes).unwrap_err();
        assert_eq!(error(b"{\"type\":\"\xff\"}"), EventError::NotUtf8);
        assert_eq!(error(b"{\"type\":\"ok\""), EventError::NotJson);
        assert_eq!(error(b"{\"type\":1}"), EventError::NoType);
    }

    proptest! {
        #[test]
        fn messages_read_back_and_stay_in_one_line(messages in prop::collection::vec(message().prop_map(Arc::new), 0..5)) {
            for said in &messages {
                let bytes = written(&Event::Message(Arc::clone(said)));
                prop_assert!(!bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
                check(&decode_event(&bytes).unwrap(), said);
            }
            let room = RoomName::new(Namespace::Chat, "lobby").unwrap();
            let history = Reply::History { room, epoch: Epoch(1), messages: messages.clone(), more: false };
            let bytes = written(&Event::Ok { id: Some(3), body: history });
            let page = decode_event(&bytes).unwrap();
            prop_assert_eq!((page.kind(), page.integer("id"), page.flag("more")), ("ok", Some(3), Some(false)));
            let read = page.objects("messages");
            prop_assert_eq!(read.len(), messages.len());
            for (read, said) in read.iter().zip(&messages) {
                check(read, said);
            }
        }

        #[test]
        fn any_bytes_are_judged_without_panic(bytes: Vec<u8>) {
            let _ = decode_event(&bytes);
        }
    }
}
