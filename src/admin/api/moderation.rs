//! Who may not be where: kicks, bans, mutes and revocations, in one room or on the whole server.
//!
//! Whatever outlasts the request is answered once it is on the disk.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::problem::Problem;
use super::Api;
use super::input::{Body, Name, Named, Params, page_limit};
use crate::chat::log::{SanctionKind, SanctionRecord, Scope};
use crate::chat::operate::{Order, OrderReply, RoomOrder};
use crate::chat::placement;
use crate::clock::Clock;
use crate::ids::{RoomName, ShardId, UserName, is_forbidden};

/// Who is meant.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Kick {
    /// The user.
    user: String,
}

/// Who is meant, and for how long.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InRoom {
    /// The user.
    user: String,
    /// For how long, in milliseconds; without it there is no end.
    for_ms: Option<u64>,
    /// Why, for people: the user reads it when it is refused for this.
    reason: Option<String>,
}

/// For how long. May be left out as a whole.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Term {
    /// In milliseconds; without it there is no end.
    for_ms: Option<u64>,
    /// Why, for people: the user reads it when it is refused for this.
    reason: Option<String>,
}

/// Connections were put out.
#[derive(Serialize, ToSchema)]
pub(super) struct Kicked {
    /// How many.
    kicked: u64,
}

/// It is done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    /// True.
    done: bool,
}

/// Something in force against someone.
#[derive(Serialize, ToSchema)]
pub(super) struct Sanction {
    /// `ban`, `mute` or `revoke`.
    kind: &'static str,
    /// Whom it hits; absent for a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// Where; absent for the whole server.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<String>,
    /// Which token, by its `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// When it ends, Unix milliseconds; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    /// Of a revoked user: tokens issued before this, Unix milliseconds, are worth nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<u64>,
    /// The user who decided it; absent for an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Which of what is in force.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SanctionsQuery {
    /// Begin after this: `next` of the page before.
    after: Option<String>,
    /// Most users and tokens, at most 1,000; 100 if it does not say.
    limit: Option<usize>,
}

/// A page of what is in force on the whole server.
#[derive(Serialize, ToSchema)]
pub(super) struct Sanctions {
    /// The page: users, then tokens, in the order of names.
    sanctions: Vec<Sanction>,
    /// Ask again with `after` set to this, for there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

type Answer = Result<Json<Done>, Problem>;

/// Puts everyone out of a room. What was said stays, and the room can be entered again.
#[utoipa::path(post, path = "/api/v1/rooms/{room}/close", tag = "rooms", params(("room" = String, Path)),
    responses((status = 200, body = Done)))]
pub(super) async fn close(State(api): State<Api>, Named(room): Named<RoomName>) -> Answer {
    api.operator.ask_room(room, RoomOrder::Close).await?;
    Ok(DONE)
}

/// Puts a user out of a room, who may come back.
#[utoipa::path(post, path = "/api/v1/rooms/{room}/kick", tag = "rooms", params(("room" = String, Path)),
    request_body = Kick, responses((status = 200, body = Kicked)))]
pub(super) async fn kick(
    State(api): State<Api>,
    Named(room): Named<RoomName>,
    Body(kick): Body<Kick>,
) -> Result<Json<Kicked>, Problem> {
    let user = UserName::read(&kick.user)?;
    match api.operator.ask_room(room, RoomOrder::Kick(user)).await? {
        OrderReply::Count(kicked) => Ok(Json(Kicked { kicked })),
        _ => Err(Problem::unexpected()),
    }
}

/// Puts a user out of a room and keeps it out.
#[utoipa::path(post, path = "/api/v1/rooms/{room}/ban", tag = "rooms", params(("room" = String, Path)),
    request_body = InRoom, responses((status = 200, body = Done)))]
pub(super) async fn ban_in_room(api: State<Api>, room: Named<RoomName>, wish: Body<InRoom>) -> Answer {
    in_room(api, room, wish, SanctionKind::Ban, false).await
}

/// Lets a user into a room again.
#[utoipa::path(post, path = "/api/v1/rooms/{room}/unban", tag = "rooms", params(("room" = String, Path)),
    request_body = InRoom, responses((status = 200, body = Done)))]
pub(super) async fn unban_in_room(api: State<Api>, room: Named<RoomName>, wish: Body<InRoom>) -> Answer {
    in_room(api, room, wish, SanctionKind::Ban, true).await
}

/// Lets a user be in a room, but not speak.
#[utoipa::path(post, path = "/api/v1/rooms/{room}/mute", tag = "rooms", params(("room" = String, Path)),
    request_body = InRoom, responses((status = 200, body = Done)))]
pub(super) async fn mute_in_room(api: State<Api>, room: Named<RoomName>, wish: Body<InRoom>) -> Answer {
    in_room(api, room, wish, SanctionKind::Mute, false).await
}

/// Lets a user speak in a room again.
#[utoipa::path(post, path = "/api/v1/rooms/{room}/unmute", tag = "rooms", params(("room" = String, Path)),
    request_body = InRoom, responses((status = 200, body = Done)))]
pub(super) async fn unmute_in_room(api: State<Api>, room: Named<RoomName>, wish: Body<InRoom>) -> Answer {
    in_room(api, room, wish, SanctionKind::Mute, true).await
}

/// Closes a user's connections and keeps it out of the server.
#[utoipa::path(post, path = "/api/v1/users/{user}/ban", tag = "users", params(("user" = String, Path)),
    request_body = Option<Term>, responses((status = 200, body = Done)))]
pub(super) async fn ban(State(api): State<Api>, Named(user): Named<UserName>, Body(term): Body<Term>) -> Answer {
    everywhere(&api, term.record(Scope::User(user), SanctionKind::Ban, false)?).await
}

/// Lets a user into the server again.
#[utoipa::path(post, path = "/api/v1/users/{user}/unban", tag = "users", params(("user" = String, Path)),
    responses((status = 200, body = Done)))]
pub(super) async fn unban(State(api): State<Api>, Named(user): Named<UserName>) -> Answer {
    everywhere(&api, Term::NONE.record(Scope::User(user), SanctionKind::Ban, true)?).await
}

/// Lets a user say nothing on the whole server.
#[utoipa::path(post, path = "/api/v1/users/{user}/mute", tag = "users", params(("user" = String, Path)),
    request_body = Option<Term>, responses((status = 200, body = Done)))]
pub(super) async fn mute(State(api): State<Api>, Named(user): Named<UserName>, Body(term): Body<Term>) -> Answer {
    everywhere(&api, term.record(Scope::User(user), SanctionKind::Mute, false)?).await
}

/// Lets a user speak on the server again.
#[utoipa::path(post, path = "/api/v1/users/{user}/unmute", tag = "users", params(("user" = String, Path)),
    responses((status = 200, body = Done)))]
pub(super) async fn unmute(State(api): State<Api>, Named(user): Named<UserName>) -> Answer {
    everywhere(&api, Term::NONE.record(Scope::User(user), SanctionKind::Mute, true)?).await
}

/// Makes every token of a user that was issued before now worthless, and closes the connections that came with one.
#[utoipa::path(post, path = "/api/v1/users/{user}/revoke", tag = "users", params(("user" = String, Path)),
    request_body = Option<Term>, responses((status = 200, body = Done)))]
pub(super) async fn revoke(State(api): State<Api>, Named(user): Named<UserName>, Body(term): Body<Term>) -> Answer {
    everywhere(&api, term.record(Scope::User(user), SanctionKind::Revoke, false)?).await
}

/// Makes one token worthless, and closes the connections that came with it.
///
/// `for_ms` may be the rest of the token's life: then it need not be remembered for ever.
#[utoipa::path(post, path = "/api/v1/tokens/{jti}/revoke", tag = "users", params(("jti" = String, Path)),
    request_body = Option<Term>, responses((status = 200, body = Done)))]
pub(super) async fn revoke_token(State(api): State<Api>, Path(jti): Path<String>, Body(term): Body<Term>) -> Answer {
    if jti.len() > JTI_BYTES_MAX || jti.chars().any(char::is_control) {
        return Err(Problem::bad_request(format!(
            "a `jti` has at most {JTI_BYTES_MAX} bytes and no control characters"
        )));
    }
    everywhere(&api, term.record(Scope::Token(jti.into()), SanctionKind::Revoke, false)?).await
}

/// Lists bans, mutes and revocations of the whole server. Those of one room are shown with the room.
#[utoipa::path(get, path = "/api/v1/sanctions", tag = "users", params(SanctionsQuery),
    responses((status = 200, body = Sanctions)))]
pub(super) async fn list(
    State(api): State<Api>,
    Params(query): Params<SanctionsQuery>,
) -> Result<Json<Sanctions>, Problem> {
    let after = query.after.as_deref().map(read_cursor).transpose()?;
    let limit = page_limit(query.limit);
    // One more tells whether there are more.
    let order = Order::ServerSanctions { after, limit: limit + 1 };
    let OrderReply::Sanctions(mut records) = api.operator.ask(ShardId(0), order).await? else {
        return Err(Problem::unexpected());
    };
    let mut scopes: Vec<Scope> = records.iter().map(|record| record.scope.clone()).collect();
    scopes.dedup();
    let last = scopes.get(limit - 1).filter(|_| scopes.len() > limit).cloned();
    if let Some(last) = &last {
        records.retain(|record| record.scope <= *last);
    }
    Ok(Json(Sanctions { sanctions: sanctions(records), next: last.map(|last| cursor(&last)) }))
}

fn cursor(scope: &Scope) -> String {
    match scope {
        Scope::Room(_, user) | Scope::User(user) => format!("user:{}", user.as_str()),
        Scope::Token(token) => format!("token:{token}"),
    }
}

fn read_cursor(text: &str) -> Result<Scope, Problem> {
    match text.split_once(':') {
        Some(("user", name)) => UserName::read(name).map(Scope::User),
        Some(("token", jti)) => Ok(Scope::Token(jti.into())),
        _ => Err(Problem::bad_request("`after` is `next` of the page before: user:NAME or token:JTI")),
    }
}

async fn in_room(
    State(api): State<Api>,
    Named(room): Named<RoomName>,
    Body(wish): Body<InRoom>,
    kind: SanctionKind,
    lifted: bool,
) -> Answer {
    let owner = placement::owner(room.placement_hash(), api.operator.shards().count() as u16);
    let scope = Scope::Room(room, UserName::read(&wish.user)?);
    let record = Term { for_ms: wish.for_ms, reason: wish.reason }.record(scope, kind, lifted)?;
    sanction(&api, owner, record).await.map(|()| DONE)
}

/// Tells every shard. The first has it stored, so if it refuses, nothing has changed anywhere. If it does not answer in
/// time it may well have begun, and the others are told all the same.
async fn everywhere(api: &Api, record: SanctionRecord) -> Answer {
    let mut outcome = Ok(DONE);
    for shard in api.operator.shards() {
        let Err(problem) = sanction(api, shard, record.clone()).await else { continue };
        if shard == ShardId(0) && problem.status() != StatusCode::GATEWAY_TIMEOUT {
            return Err(problem);
        }
        outcome = Err(problem);
    }
    outcome
}

async fn sanction(api: &Api, shard: ShardId, record: SanctionRecord) -> Result<(), Problem> {
    api.operator.ask(shard, Order::Sanction(Box::new(record))).await.map(drop)
}

impl Term {
    /// Without end or reason.
    const NONE: Self = Self { for_ms: None, reason: None };

    fn record(self, scope: Scope, kind: SanctionKind, lifted: bool) -> Result<SanctionRecord, Problem> {
        if self.for_ms == Some(0) {
            return Err(Problem::bad_request("`for_ms` is at least 1; without it there is no end"));
        }
        let is_bad = |reason: &String| reason.len() > REASON_BYTES_MAX || reason.chars().any(is_forbidden);
        if self.reason.as_ref().is_some_and(is_bad) {
            let text = format!("`reason` may have {REASON_BYTES_MAX} bytes, and no control characters");
            return Err(Problem::bad_request(text));
        }
        let now = Clock::start().now().unix_ms;
        let before_unix_ms = (kind == SanctionKind::Revoke && matches!(scope, Scope::User(_))).then_some(now);
        Ok(SanctionRecord {
            scope,
            kind,
            until_unix_ms: self.for_ms.filter(|_| !lifted).map(|for_ms| now.saturating_add(for_ms)),
            before_unix_ms,
            by: None,
            reason: self.reason.map(Arc::from),
            lifted,
        })
    }
}

/// What is in force, as it is shown: of rooms first, by name and user.
pub(super) fn sanctions(mut records: Vec<SanctionRecord>) -> Vec<Sanction> {
    records.sort_unstable_by(|a, b| (&a.scope, a.kind).cmp(&(&b.scope, b.kind)));
    records.into_iter().map(Sanction::from).collect()
}

impl From<SanctionRecord> for Sanction {
    fn from(record: SanctionRecord) -> Self {
        let (room, user, token) = match &record.scope {
            Scope::Room(room, user) => (Some(room.as_str()), Some(user.as_str()), None),
            Scope::User(user) => (None, Some(user.as_str()), None),
            Scope::Token(token) => (None, None, Some(&**token)),
        };
        let kind = match record.kind {
            SanctionKind::Ban => "ban",
            SanctionKind::Mute => "mute",
            SanctionKind::Revoke => "revoke",
        };
        Self {
            kind,
            user: user.map(str::to_owned),
            room: room.map(str::to_owned),
            token: token.map(str::to_owned),
            until: record.until_unix_ms,
            before: record.before_unix_ms,
            by: record.by.map(|by| by.as_str().to_owned()),
            reason: record.reason.as_deref().map(str::to_owned),
        }
    }
}

const DONE: Json<Done> = Json(Done { done: true });
const REASON_BYTES_MAX: usize = 256;
const JTI_BYTES_MAX: usize = 256;
