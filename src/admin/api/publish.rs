//! Messages that come from the operator or from a program of hers. They take the way of a member's message: the same
//! rules for what may be said, the same order, keys and waiting for the disk.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::super::problem::Problem;
use super::Api;
use super::input::{Body, Name};
use crate::chat::exchange::Draft;
use crate::chat::operate::{OrderReply, RoomOrder};
use crate::codec::json;
use crate::ids::{RoomName, UserName};
use crate::message::command::CommandBody;
use crate::message::event::Reply;

/// A message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Publish {
    /// Where; made if it is new. `@user` is a user's inbox.
    room: String,
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    content: Box<RawValue>,
    /// The same key from the same sender within five minutes is the same message.
    key: Option<String>,
    /// Under whose name members get it; `operator` if it does not say.
    sender: Option<String>,
    /// For members that filter.
    tag: Option<String>,
}

/// A message has its place.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Published {
    /// Where.
    room: String,
    /// Its position.
    seq: u64,
    /// When, Unix milliseconds.
    timestamp: u64,
    /// Whether it survives a crash by now.
    durable: bool,
    /// Whether the key had been used: this is the first message's place, and there is no second.
    duplicate: bool,
}

/// Says something in a room, and answers once it is on the disk.
///
/// Rooms that are not kept on the disk are answered at once, with `durable: false`.
#[utoipa::path(post, path = "/api/v1/publish", tag = "messages", request_body = Publish,
    responses((status = 200, body = Published)))]
pub(super) async fn publish(State(api): State<Api>, Body(publish): Body<Publish>) -> Result<Json<Published>, Problem> {
    let room = RoomName::read(&publish.room)?;
    let said = Said::new(&publish.content, publish.key.as_deref(), publish.tag.as_deref(), publish.sender.as_deref())?;
    said.check_size(api.facts.borrow().message_bytes_max)?;
    said.say(&api, room).await.map(Json)
}

/// Something to be said, checked.
pub(super) struct Said {
    sender: UserName,
    content: Bytes,
    key: Option<Arc<str>>,
    tag: Option<Arc<str>>,
}

impl Said {
    /// Applies the rules for members' messages, by having them read as one.
    pub(super) fn new(
        content: &RawValue,
        key: Option<&str>,
        tag: Option<&str>,
        sender: Option<&str>,
    ) -> Result<Self, Problem> {
        #[derive(Serialize)]
        struct Command<'a> {
            r#type: &'a str,
            room: &'a str,
            content: &'a RawValue,
            key: Option<&'a str>,
            tag: Option<&'a str>,
        }
        let sender = sender.unwrap_or(SENDER_DEFAULT);
        let sender = UserName::new(sender).map_err(|error| Problem::bad_name("sender", error))?;
        let command = Command { r#type: "message", room: "-", content, key, tag };
        let text = serde_json::to_vec(&command).map_err(|error| Problem::bad_request(error.to_string()))?;
        let command = json::decode(&text).map_err(|error| Problem::bad_request(error.message))?;
        let CommandBody::Message(message) = command.body else {
            return Err(Problem::unexpected());
        };
        let label = |text: Option<std::borrow::Cow<'_, str>>| text.map(|text| Arc::from(text.as_ref()));
        Ok(Self {
            sender,
            content: Bytes::copy_from_slice(&message.content),
            key: label(message.key),
            tag: label(message.tag),
        })
    }

    /// Refuses what no member could have said.
    pub(super) fn check_size(&self, bytes_max: usize) -> Result<(), Problem> {
        if self.content.len() > bytes_max {
            let detail = format!("`content` has {} bytes, and a message may have {bytes_max}", self.content.len());
            return Err(Problem::too_large(format!("{detail} (limits.max_message_bytes)")));
        }
        Ok(())
    }

    /// Says it, and waits for its place.
    pub(super) async fn say(&self, api: &Api, room: RoomName) -> Result<Published, Problem> {
        let draft = Draft {
            content: self.content.clone(),
            key: self.key.clone(),
            tag: self.tag.clone(),
            echo: true,
            receipt: false,
        };
        let order = RoomOrder::Publish { sender: self.sender.clone(), draft };
        match api.operator.ask_room(room, order).await? {
            OrderReply::Said(Reply::Sent { room, seq, timestamp, durable, duplicate }) => {
                Ok(Published { room: room.as_str().to_owned(), seq: seq.0, timestamp, durable, duplicate })
            }
            _ => Err(Problem::unexpected()),
        }
    }
}

/// Who speaks if nobody is named.
const SENDER_DEFAULT: &str = "operator";
