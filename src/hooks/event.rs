//! What the application is asked and told, and how that reads as JSON.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::chat::exchange::Refusal;
use crate::clock::Time;
use crate::ids::{RoomName, UserName};
use crate::message::close::CloseReason;
use crate::telemetry::hooks::HookEvent;

/// Whether a client may go on, as the core wants to hear it.
pub type Verdict = Result<(), Refusal>;

/// Something that a client may only do if the application allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The connection, as `welcome` names it.
    pub connection: Arc<str>,
    /// Who is behind it.
    pub user: UserName,
    /// What it is about to do.
    pub about: About,
}

/// What a client is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// Be let in.
    Open {
        /// Where it comes from.
        address: Option<Arc<str>>,
        /// What it speaks.
        transport: Transport,
    },
    /// Enter a room.
    Join {
        /// Which.
        room: RoomName,
    },
    /// Say something that is kept.
    Message {
        /// Where; an inbox if it is for one user.
        room: RoomName,
        /// JSON text.
        content: Bytes,
        /// The sender's own name for it.
        key: Option<Arc<str>>,
        /// For members that filter.
        tag: Option<Arc<str>>,
    },
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The chat protocol over WebSocket.
    WebSocket,
    /// The chat protocol over TCP.
    Tcp,
}

/// The end of a connection that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The connection, as `welcome` named it.
    pub connection: Arc<str>,
    /// Who was behind it.
    pub user: UserName,
    /// Why it ended.
    pub reason: CloseReason,
}

/// The body of a request; what does not apply is left out.
#[derive(Serialize)]
struct Body<'a> {
    event: &'static str,
    id: &'a str,
    /// Unix milliseconds.
    timestamp: u64,
    node: &'a str,
    connection: &'a str,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Question {
    /// Which event it belongs to.
    #[must_use]
    pub fn event(&self) -> HookEvent {
        match self.about {
            About::Open { .. } => HookEvent::Open,
            About::Join { .. } => HookEvent::Join,
            About::Message { .. } => HookEvent::Message,
        }
    }

    /// As the application reads it. Fails if the content is not JSON.
    pub(super) fn body(&self, id: &str, node: &str, asked: Time) -> serde_json::Result<Vec<u8>> {
        let mut body = Body::new(self.event(), id, node, asked, &self.connection, &self.user);
        match &self.about {
            About::Open { address, transport } => {
                body.address = address.as_deref();
                body.transport = Some(transport.as_str());
            }
            About::Join { room } => body.room = Some(room.as_str()),
            About::Message { room, content, key, tag } => {
                body.room = Some(room.as_str());
                body.content = Some(serde_json::from_slice(content)?);
                (body.key, body.tag) = (key.as_deref(), tag.as_deref());
            }
        }
        serde_json::to_vec(&body)
    }
}

impl Notice {
    /// As the application reads it.
    pub(super) fn body(&self, id: &str, node: &str, told: Time) -> serde_json::Result<Vec<u8>> {
        let mut body = Body::new(HookEvent::Close, id, node, told, &self.connection, &self.user);
        (body.code, body.reason) = (Some(self.reason.code()), Some(self.reason.label()));
        serde_json::to_vec(&body)
    }
}

impl<'a> Body<'a> {
    fn new(event: HookEvent, id: &'a str, node: &'a str, time: Time, connection: &'a str, user: &'a UserName) -> Self {
        Self {
            event: event.as_str(),
            id,
            timestamp: time.unix_ms,
            node,
            connection,
            user: user.as_str(),
            address: None,
            transport: None,
            room: None,
            content: None,
            key: None,
            tag: None,
            code: None,
            reason: None,
        }
    }
}

impl Transport {
    fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Tcp => "tcp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Time = Time { us: 5, unix_ms: 1_790_000_000_000 };

    fn question(about: About) -> Question {
        Question { connection: "0-1-1".into(), user: UserName::new("ann \"a\"").unwrap(), about }
    }

    fn text(body: serde_json::Result<Vec<u8>>) -> String {
        String::from_utf8(body.unwrap()).unwrap()
    }

    #[test]
    fn requests_read_as_documented() {
        let room = RoomName::chat("lobby").unwrap();
        let open = question(About::Open { address: Some("192.0.2.1".into()), transport: Transport::Tcp });
        assert_eq!(
            text(open.body("i", "n", ASKED)),
            r#"{"event":"open","id":"i","timestamp":1790000000000,"node":"n","connection":"0-1-1","user":"ann \"a\"","address":"192.0.2.1","transport":"tcp"}"#
        );
        let join = question(About::Join { room: room.clone() });
        assert_eq!(
            text(join.body("i", "n", ASKED)),
            r#"{"event":"join","id":"i","timestamp":1790000000000,"node":"n","connection":"0-1-1","user":"ann \"a\"","room":"lobby"}"#
        );
        let content = Bytes::from_static(br#"{ "a": 1e400 }"#);
        let message = question(About::Message { room, content, key: Some("k".into()), tag: None });
        assert_eq!(
            text(message.body("i", "n", ASKED)),
            r#"{"event":"message","id":"i","timestamp":1790000000000,"node":"n","connection":"0-1-1","user":"ann \"a\"","room":"lobby","content":{ "a": 1e400 },"key":"k"}"#
        );
        let user = UserName::new("ann").unwrap();
        let close = Notice { connection: "0-1-1".into(), user, reason: CloseReason::SlowConsumer };
        assert_eq!(
            text(close.body("i", "n", ASKED)),
            r#"{"event":"close","id":"i","timestamp":1790000000000,"node":"n","connection":"0-1-1","user":"ann","code":4008,"reason":"slow_consumer"}"#
        );
    }

    #[test]
    fn content_that_is_not_json_makes_no_request() {
        let room = RoomName::chat("lobby").unwrap();
        let content = Bytes::from_static(br#"1},"user":"root""#);
        let message = question(About::Message { room, content, key: None, tag: None });
        assert!(message.body("i", "n", ASKED).is_err());
    }
}
