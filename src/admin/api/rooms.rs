//! Rooms: which there are, what was said in one, who is in it.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::super::problem::Problem;
use super::Api;
use super::input::{Name, Named, Params, page_limit};
use super::moderation::{Sanction, sanctions};
use crate::chat::operate::{Order, OrderReply, RoomOrder, RoomView};
use crate::ids::{RoomName, Seq, UserName};
use crate::message::command::HistoryFrom;
use crate::message::event::{Message, Reply};
use crate::policy::{Commit, HistoryMode, RoomPolicy};

/// Which rooms.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RoomsQuery {
    /// Begin after this name.
    after: Option<String>,
    /// Only names that begin so.
    prefix: Option<String>,
    /// Most rooms, at most 1,000; 100 if it does not say.
    limit: Option<usize>,
}

/// A page of rooms, in the order of names.
#[derive(Serialize, ToSchema)]
pub(super) struct Rooms {
    /// The page.
    rooms: Vec<Room>,
    /// Ask again with `after` set to this, for there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A room.
#[derive(Serialize, ToSchema)]
pub(super) struct Room {
    /// Its name.
    room: String,
    /// Users in it.
    members: u64,
    /// Their connections.
    connections: u64,
    /// The last position given.
    seq: u64,
    /// Which life of its log.
    epoch: String,
    /// What is kept of it.
    policy: Policy,
    /// Bans and mutes in force, by user. Left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    sanctions: Option<Vec<Sanction>>,
}

/// What is kept of a room.
#[derive(Serialize, ToSchema)]
struct Policy {
    /// `durable`, `memory` or `off`.
    history: &'static str,
    /// Most messages; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    history_size: Option<u64>,
    /// Most bytes; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    history_bytes: Option<u64>,
    /// How long a message is kept, in milliseconds; absent if for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    history_ttl_ms: Option<u64>,
    /// `fsync` or `interval`.
    commit: &'static str,
}

/// Which part of the past.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// The messages before this position.
    before: Option<u64>,
    /// The messages after this position; 0 is from the start.
    after: Option<u64>,
    /// Most messages, at most 1,000; 100 if it does not say.
    limit: Option<usize>,
}

/// A page of the past, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct History {
    /// Where.
    room: String,
    /// Which life of its log.
    epoch: String,
    /// The page.
    messages: Vec<Said>,
    /// Whether there is more in the direction asked for.
    more: bool,
}

/// A message of the past.
#[derive(Serialize, ToSchema)]
#[schema(as = Message)]
struct Said {
    /// Its position.
    seq: u64,
    /// The position before it, where that is not `seq - 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prev: Option<u64>,
    /// Who said it.
    sender: String,
    /// What; of a deleted message, `null`.
    #[schema(value_type = serde_json::Value)]
    content: Box<RawValue>,
    /// When, Unix milliseconds.
    timestamp: u64,
    /// For members that filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    /// The sender's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Whether it was deleted.
    deleted: bool,
}

/// Which users.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PresenceQuery {
    /// Begin after this user.
    after: Option<String>,
    /// Most users, at most 1,000; 100 if it does not say.
    limit: Option<usize>,
}

/// A page of the users of a room, in the order of names.
#[derive(Serialize, ToSchema)]
pub(super) struct Users {
    /// The page.
    users: Vec<Present>,
    /// How many there are in all.
    count: u64,
    /// Ask again with `after` set to this, for there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A user in a room.
#[derive(Serialize, ToSchema)]
struct Present {
    /// Who.
    user: String,
    /// Since when, Unix milliseconds.
    since: u64,
}

/// Lists rooms: those in memory, which someone is in or was a while ago.
///
/// Inboxes are listed only with a `prefix` that begins with `@`.
#[utoipa::path(get, path = "/api/v1/rooms", tag = "rooms", params(RoomsQuery),
    responses((status = 200, body = Rooms)))]
pub(super) async fn list(State(api): State<Api>, Params(query): Params<RoomsQuery>) -> Result<Json<Rooms>, Problem> {
    let after = query.after.map(|name| RoomName::read(&name)).transpose()?;
    let (rooms, more) = page(&api, after, &query.prefix.unwrap_or_default(), page_limit(query.limit)).await?;
    let next = rooms.last().filter(|_| more).map(|last| last.room.as_str().to_owned());
    Ok(Json(Rooms { rooms: rooms.into_iter().map(Room::from).collect(), next }))
}

/// A page of all shards' rooms, and whether there are more.
pub(super) async fn page(
    api: &Api,
    after: Option<RoomName>,
    prefix: &str,
    limit: usize,
) -> Result<(Vec<RoomView>, bool), Problem> {
    let (mut all, mut more) = (Vec::new(), false);
    for shard in api.operator.shards() {
        let order = Order::Rooms { after: after.clone(), prefix: prefix.into(), limit };
        let OrderReply::Rooms { rooms, more: here } = api.operator.ask(shard, order).await? else {
            return Err(Problem::unexpected());
        };
        all.extend(rooms);
        more |= here;
    }
    all.sort_unstable_by(|a, b| a.room.cmp(&b.room));
    more |= all.len() > limit;
    all.truncate(limit);
    Ok((all, more))
}

/// Says what there is of a room.
#[utoipa::path(get, path = "/api/v1/rooms/{room}", tag = "rooms", params(("room" = String, Path)),
    responses((status = 200, body = Room)))]
pub(super) async fn look(State(api): State<Api>, Named(room): Named<RoomName>) -> Result<Json<Room>, Problem> {
    match api.operator.ask_room(room, RoomOrder::Look).await? {
        OrderReply::Room(mut view) => {
            let sanctions = Some(sanctions(std::mem::take(&mut view.sanctions)));
            Ok(Json(Room { sanctions, ..Room::from(*view) }))
        }
        _ => Err(Problem::unexpected()),
    }
}

/// Reads a page of the past, of rooms that are not in memory too. The latest messages, if it does not say.
#[utoipa::path(get, path = "/api/v1/rooms/{room}/history", tag = "rooms",
    params(("room" = String, Path), HistoryQuery), responses((status = 200, body = History)))]
pub(super) async fn history(
    State(api): State<Api>,
    Named(room): Named<RoomName>,
    Params(query): Params<HistoryQuery>,
) -> Result<Json<History>, Problem> {
    let from = match (query.before, query.after) {
        (None, None) => HistoryFrom::Latest,
        (Some(seq), None) => HistoryFrom::Before(Seq(seq)),
        (None, Some(seq)) => HistoryFrom::After(Seq(seq)),
        (Some(_), Some(_)) => return Err(Problem::bad_request("say `before` or `after`, not both")),
    };
    let order = RoomOrder::History { from, limit: page_limit(query.limit) };
    match api.operator.ask_room(room, order).await? {
        OrderReply::Said(Reply::History { room, epoch, messages, more }) => Ok(Json(History {
            room: room.as_str().to_owned(),
            epoch: epoch.to_string(),
            messages: messages.iter().map(|message| Said::from(&**message)).collect(),
            more,
        })),
        _ => Err(Problem::unexpected()),
    }
}

/// Reads a page of the users in a room.
#[utoipa::path(get, path = "/api/v1/rooms/{room}/presence", tag = "rooms",
    params(("room" = String, Path), PresenceQuery), responses((status = 200, body = Users)))]
pub(super) async fn presence(
    State(api): State<Api>,
    Named(room): Named<RoomName>,
    Params(query): Params<PresenceQuery>,
) -> Result<Json<Users>, Problem> {
    let after = query.after.map(|name| UserName::read(&name)).transpose()?;
    let order = RoomOrder::Presence { after, limit: page_limit(query.limit) };
    match api.operator.ask_room(room, order).await? {
        OrderReply::Said(Reply::Users { users, count, next }) => {
            let present = users.iter().map(|user| Present { user: user.user.as_str().to_owned(), since: user.since });
            let next = next.map(|next| next.as_str().to_owned());
            Ok(Json(Users { users: present.collect(), count, next }))
        }
        _ => Err(Problem::unexpected()),
    }
}

impl From<RoomView> for Room {
    fn from(view: RoomView) -> Self {
        Self {
            room: view.room.as_str().to_owned(),
            members: view.members,
            connections: view.connections,
            seq: view.head.0,
            epoch: view.epoch.to_string(),
            policy: Policy::from(view.policy),
            sanctions: None,
        }
    }
}

impl From<RoomPolicy> for Policy {
    fn from(policy: RoomPolicy) -> Self {
        let history = match policy.history {
            HistoryMode::Durable => "durable",
            HistoryMode::Memory => "memory",
            HistoryMode::Off => "off",
        };
        let commit = match policy.commit {
            Commit::Fsync => "fsync",
            Commit::Interval => "interval",
        };
        let history_ttl_ms = policy.ttl.map(|ttl| ttl.as_millis() as u64);
        Self { history, history_size: policy.size, history_bytes: policy.bytes, history_ttl_ms, commit }
    }
}

impl From<&Message> for Said {
    fn from(message: &Message) -> Self {
        Self {
            seq: message.seq.0,
            prev: message.prev.map(|prev| prev.0),
            sender: message.sender.as_str().to_owned(),
            content: raw(&message.content),
            timestamp: message.timestamp,
            tag: message.tag.as_deref().map(str::to_owned),
            key: message.key.as_deref().map(str::to_owned),
            deleted: message.deleted,
        }
    }
}

/// What was said, as it was written.
pub(super) fn raw(content: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(content).into_owned();
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
