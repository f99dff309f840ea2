//! Connections: whose they are, what they speak, which rooms they are in; and their end.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::problem::Problem;
use super::Api;
use super::input::{Name, Named, Params, page_limit};
use super::moderation::{Sanction, sanctions};
use crate::chat::operate::{ConnectionView, Order, OrderReply, Target};
use crate::ids::{Member, ShardId, UserName};
use crate::limits::PAGE_MAX;

/// Which connections.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConnectionsQuery {
    /// Only this user's.
    user: Option<String>,
    /// Begin after this one.
    after: Option<String>,
    /// Most connections, at most 1,000; 100 if it does not say.
    limit: Option<usize>,
}

/// A page of connections, by shard and slot.
#[derive(Serialize, ToSchema)]
pub(super) struct Connections {
    /// The page.
    connections: Vec<Connection>,
    /// Ask again with `after` set to this, for there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A connection.
#[derive(Serialize, ToSchema)]
pub(super) struct Connection {
    /// As `welcome` and the log name it.
    connection: String,
    /// Whose; absent in the relay, and before `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// What it speaks: `chat_ws`, `chat_tcp` or `relay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    /// When it was accepted, Unix milliseconds, to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// From where; absent while no limit and no proxy has the server look.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// When its token ends, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    /// The rooms it is in.
    rooms: Vec<String>,
}

/// A user.
#[derive(Serialize, ToSchema)]
pub(super) struct User {
    /// Who.
    user: String,
    /// Its connections, at most 1,000.
    connections: Vec<Connection>,
    /// What is in force against it, in rooms and on the whole server.
    sanctions: Vec<Sanction>,
}

/// How many were meant.
#[derive(Serialize, ToSchema)]
pub(super) struct Closed {
    /// Connections that are being closed.
    closed: u64,
}

/// Lists connections.
#[utoipa::path(get, path = "/api/v1/connections", tag = "connections", params(ConnectionsQuery),
    responses((status = 200, body = Connections)))]
pub(super) async fn list(
    State(api): State<Api>,
    Params(query): Params<ConnectionsQuery>,
) -> Result<Json<Connections>, Problem> {
    let user = query.user.map(|user| UserName::read(&user)).transpose()?;
    let after = query.after.map(|after| Member::read(&after)).transpose()?;
    let (found, more) = page(&api, user.as_ref(), after, page_limit(query.limit)).await?;
    let connections: Vec<Connection> = found.into_iter().map(Connection::from).collect();
    let next = connections.last().filter(|_| more).map(|last| last.connection.clone());
    Ok(Json(Connections { connections, next }))
}

/// Shows a user's connections, and what is in force against it.
///
/// The server keeps no list of users: one that it has never seen has neither.
#[utoipa::path(get, path = "/api/v1/users/{user}", tag = "users", params(("user" = String, Path)),
    responses((status = 200, body = User)))]
pub(super) async fn of_user(State(api): State<Api>, Named(user): Named<UserName>) -> Result<Json<User>, Problem> {
    let (found, _) = page(&api, Some(&user), None, PAGE_MAX).await?;
    let connections = found.into_iter().map(Connection::from).collect();
    let mut records = Vec::new();
    for shard in api.operator.shards() {
        match api.operator.ask(shard, Order::Sanctions(user.clone())).await? {
            OrderReply::Sanctions(known) => records.extend(known),
            _ => return Err(Problem::unexpected()),
        }
    }
    Ok(Json(User { user: user.as_str().to_owned(), connections, sanctions: sanctions(records) }))
}

/// Closes all connections of a user, with code 4506. It may come back.
#[utoipa::path(post, path = "/api/v1/users/{user}/disconnect", tag = "users", params(("user" = String, Path)),
    responses((status = 200, body = Closed)))]
pub(super) async fn disconnect_user(
    State(api): State<Api>,
    Named(user): Named<UserName>,
) -> Result<Json<Closed>, Problem> {
    let mut closed = 0;
    for shard in api.operator.shards() {
        closed += close(&api, shard, Target::User(user.clone())).await?;
    }
    Ok(Json(Closed { closed }))
}

/// Closes one connection, with code 4506.
#[utoipa::path(delete, path = "/api/v1/connections/{connection}", tag = "connections",
    params(("connection" = String, Path)), responses((status = 200, body = Closed)))]
pub(super) async fn disconnect(State(api): State<Api>, Named(member): Named<Member>) -> Result<Json<Closed>, Problem> {
    let known = api.operator.shards().any(|shard| shard == member.shard);
    let closed = if known { close(&api, member.shard, Target::Connection(member.conn)).await? } else { 0 };
    match closed {
        0 => Err(Problem::not_found("there is no such connection (any more)")),
        closed => Ok(Json(Closed { closed })),
    }
}

async fn close(api: &Api, shard: ShardId, target: Target) -> Result<u64, Problem> {
    match api.operator.ask(shard, Order::Disconnect(target)).await? {
        OrderReply::Count(closed) => Ok(closed),
        _ => Err(Problem::unexpected()),
    }
}

/// A page of all shards' connections, and whether there are more.
async fn page(
    api: &Api,
    user: Option<&UserName>,
    after: Option<Member>,
    limit: usize,
) -> Result<(Vec<(ShardId, ConnectionView)>, bool), Problem> {
    let mut found = Vec::new();
    let first = after.map_or(ShardId(0), |after| after.shard);
    for shard in api.operator.shards().filter(|shard| *shard >= first) {
        let after = after.filter(|after| after.shard == shard).map(|after| after.conn);
        let left = limit - found.len();
        // Whether there are more is asked too once the page is full.
        let order = Order::Connections { user: user.cloned(), after, limit: left.max(1) };
        let OrderReply::Connections { connections, more } = api.operator.ask(shard, order).await? else {
            return Err(Problem::unexpected());
        };
        if left == 0 && connections.is_empty() {
            continue;
        }
        if left == 0 || more {
            found.extend(connections.into_iter().take(left).map(|view| (shard, view)));
            return Ok((found, true));
        }
        found.extend(connections.into_iter().map(|view| (shard, view)));
    }
    Ok((found, false))
}

impl Name for Member {
    fn read(text: &str) -> Result<Self, Problem> {
        text.parse().map_err(|error| Problem::bad_name("connection", error))
    }
}

impl From<(ShardId, ConnectionView)> for Connection {
    fn from((shard, view): (ShardId, ConnectionView)) -> Self {
        Self {
            connection: Member { shard, conn: view.conn }.to_string(),
            user: view.user.map(|user| user.as_str().to_owned()),
            transport: view.transport.map(|transport| transport.kind),
            since: view.transport.map(|transport| transport.since_unix_s * 1_000),
            address: view.transport.and_then(|transport| transport.address).map(|address| address.to_string()),
            expires: view.expires_unix_ms,
            rooms: view.rooms.iter().map(|room| room.as_str().to_owned()).collect(),
        }
    }
}
