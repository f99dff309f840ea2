//! One message to many rooms, each of which answers for itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::super::problem::{Problem, ProblemBody};
use super::input::{Body, Name};
use super::publish::{Published, Said};
use super::{Api, rooms};
use crate::ids::RoomName;
use crate::limits::PAGE_MAX;
use crate::policy::Pattern;

/// A message for many rooms: those named in `rooms`, or those in memory that fit `pattern`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Broadcast {
    /// At most 1,000.
    rooms: Option<Vec<String>>,
    /// In which each `*` stands for any text.
    pattern: Option<String>,
    /// With `pattern`: begin after this room.
    after: Option<String>,
    /// Any JSON.
    #[schema(value_type = serde_json::Value)]
    content: Box<RawValue>,
    /// Makes it safe to ask again: a room that has the message says so and gets no second.
    key: Option<String>,
    /// Under whose name members get it; `operator` if it does not say.
    sender: Option<String>,
    /// For members that filter.
    tag: Option<String>,
}

/// What the rooms said.
#[derive(Serialize, ToSchema)]
pub(super) struct Broadcasted {
    /// In the order of names, or as they were given.
    results: Vec<BroadcastResult>,
    /// Rooms that have the message.
    published: usize,
    /// Rooms that have not.
    failed: usize,
    /// With `pattern`: ask again with `after` set to this, for there are more rooms.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What one room said: one of both.
#[derive(Serialize, ToSchema)]
struct BroadcastResult {
    /// Which.
    room: String,
    /// Its place there.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<Published>,
    /// Why it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody>,
}

/// Says the same in many rooms, at most 1,000 at a time.
#[utoipa::path(post, path = "/api/v1/broadcast", tag = "messages", request_body = Broadcast,
    responses((status = 200, body = Broadcasted)))]
pub(super) async fn broadcast(
    State(api): State<Api>,
    Body(wish): Body<Broadcast>,
) -> Result<Json<Broadcasted>, Problem> {
    let said = Said::new(&wish.content, wish.key.as_deref(), wish.tag.as_deref(), wish.sender.as_deref())?;
    said.check_size(api.facts.borrow().message_bytes_max)?;
    let (names, next) = match (wish.rooms, wish.pattern) {
        (Some(rooms), None) if rooms.len() <= PAGE_MAX => (rooms, None),
        (Some(_), None) => return Err(Problem::bad_request("`rooms` may have 1,000 names: ask more often")),
        (None, Some(pattern)) => fitting(&api, &pattern, wish.after).await?,
        _ => return Err(Problem::bad_request("say either `rooms` or `pattern`")),
    };
    let results = say_in_all(&api, Arc::new(said), names).await;
    let published = results.iter().filter(|result| result.published.is_some()).count();
    let failed = results.len() - published;
    Ok(Json(Broadcasted { results, published, failed, next }))
}

/// Rooms that fit a pattern, and the last one of them if there may be more.
async fn fitting(api: &Api, pattern: &str, after: Option<String>) -> Result<(Vec<String>, Option<String>), Problem> {
    let prefix = pattern.split('*').next().unwrap_or_default().to_owned();
    let pattern = Pattern::new(pattern);
    let mut after = after.map(|name| RoomName::read(&name)).transpose()?;
    let mut names = Vec::new();
    for _ in 0..PAGES_MAX {
        let (rooms, more) = rooms::page(api, after, &prefix, PAGE_MAX).await?;
        after = rooms.last().map(|room| room.room.clone());
        for room in rooms.into_iter().filter(|view| pattern.fits(view.room.as_str())) {
            names.push(room.room.as_str().to_owned());
            if names.len() == PAGE_MAX {
                return Ok((names, Some(room.room.as_str().to_owned())));
            }
        }
        if !more {
            return Ok((names, None));
        }
    }
    Ok((names, after.map(|name| name.as_str().to_owned())))
}

async fn say_in_all(api: &Api, said: Arc<Said>, names: Vec<String>) -> Vec<BroadcastResult> {
    let mut results: Vec<Option<BroadcastResult>> = Vec::new();
    results.resize_with(names.len(), || None);
    let mut waiting = JoinSet::new();
    let mut names = names.into_iter().enumerate();
    loop {
        while waiting.len() < AT_ONCE_MAX
            && let Some((index, name)) = names.next()
        {
            let (api, said) = (api.clone(), Arc::clone(&said));
            waiting.spawn(async move { (index, say_in(&api, &said, name).await) });
        }
        match waiting.join_next().await {
            Some(Ok((index, result))) => results[index] = Some(result),
            Some(Err(_)) => {}
            None => return results.into_iter().flatten().collect(),
        }
    }
}

async fn say_in(api: &Api, said: &Said, room: String) -> BroadcastResult {
    let outcome = match RoomName::read(&room) {
        Ok(name) => said.say(api, name).await,
        Err(problem) => Err(problem),
    };
    match outcome {
        Ok(published) => BroadcastResult { room, published: Some(published), problem: None },
        Err(problem) => BroadcastResult { room, published: None, problem: Some(problem.body()) },
    }
}

/// Rooms that are waited for at the same time: fewer than one shard takes orders.
const AT_ONCE_MAX: usize = 32;
/// Pages of rooms that are looked through for one answer.
const PAGES_MAX: usize = 64;
