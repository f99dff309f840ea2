//! Dead letters of a room: list them, send them again, forget them.
//!
//! Lists are read from the store; the rest is asked of the shard that owns the room, so that it happens in order with
//! what the room's consumers acknowledge. An order is accepted, not awaited: the list shows what came of it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::super::problem::Problem;
use super::Api;
use super::input::{Name, Named, Params, page_limit};
use super::rooms::raw;
use crate::chat::log::{DeadLetter, LetterOrder};
use crate::chat::operate::RoomOrder;
use crate::ids::{RoomName, Seq, UserName};
use crate::limits::PAGE_MAX;

/// Which letters.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Choice {
    /// Only this user's.
    user: Option<String>,
    /// Only this message's.
    seq: Option<u64>,
    /// With `user`: begin after this one.
    after: Option<u64>,
    /// Most letters, at most 1,000; 100 if it does not say.
    limit: Option<usize>,
}

/// A page of dead letters, by user and position.
#[derive(Serialize, ToSchema)]
pub(super) struct Letters {
    /// The page.
    letters: Vec<Letter>,
    /// Ask again with these, for there are more; `null` if not.
    next: Option<NextLetter>,
}

/// Where the next page of letters begins.
#[derive(Serialize, ToSchema)]
struct NextLetter {
    /// The parameter `user`.
    user: String,
    /// The parameter `after`.
    after: u64,
}

/// A message that a user never acknowledged.
#[derive(Debug, Serialize, ToSchema)]
struct Letter {
    /// Who.
    user: String,
    /// Its position.
    seq: u64,
    /// In which life of the room's log.
    epoch: String,
    /// Why it was given up: `attempts` or `retention`.
    reason: &'static str,
    /// How often it was sent.
    attempts: u32,
    /// When it was given up, Unix milliseconds.
    at: u64,
    /// Whether it is to be sent again.
    replay: bool,
    /// Who said it.
    sender: String,
    /// When it was said, Unix milliseconds.
    timestamp: u64,
    /// What.
    #[schema(value_type = serde_json::Value)]
    content: Box<RawValue>,
}

/// What an order about letters is about.
#[derive(Serialize, ToSchema)]
pub(super) struct Ordered {
    /// Letters, at most 1,000.
    count: usize,
}

/// Lists a room's dead letters.
#[utoipa::path(get, path = "/api/v1/rooms/{room}/dead-letters", tag = "dead letters",
    params(("room" = String, Path), Choice), responses((status = 200, body = Letters)))]
pub(super) async fn list(
    State(api): State<Api>,
    Named(room): Named<RoomName>,
    Params(choice): Params<Choice>,
) -> Result<Json<Letters>, Problem> {
    let limit = page_limit(choice.limit);
    let mut letters = find(&api, &room, &choice, limit + 1)?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters
        .last()
        .filter(|_| more)
        .map(|last| NextLetter { user: last.user.as_str().to_owned(), after: last.message.seq.0 });
    Ok(Json(Letters { letters: letters.iter().map(Letter::from).collect(), next }))
}

/// Sends the chosen letters to their users again, now or when they come back.
#[utoipa::path(post, path = "/api/v1/rooms/{room}/dead-letters/replay", tag = "dead letters",
    params(("room" = String, Path), Choice), responses((status = 202, body = Ordered)))]
pub(super) async fn replay(
    State(api): State<Api>,
    Named(room): Named<RoomName>,
    Params(choice): Params<Choice>,
) -> Result<(StatusCode, Json<Ordered>), Problem> {
    give(&api, room, &choice, LetterOrder::Replay).await
}

/// Forgets the chosen letters.
#[utoipa::path(delete, path = "/api/v1/rooms/{room}/dead-letters", tag = "dead letters",
    params(("room" = String, Path), Choice), responses((status = 202, body = Ordered)))]
pub(super) async fn purge(
    State(api): State<Api>,
    Named(room): Named<RoomName>,
    Params(choice): Params<Choice>,
) -> Result<(StatusCode, Json<Ordered>), Problem> {
    give(&api, room, &choice, LetterOrder::Purge).await
}

async fn give(
    api: &Api,
    room: RoomName,
    choice: &Choice,
    order: fn(Vec<DeadLetter>) -> LetterOrder,
) -> Result<(StatusCode, Json<Ordered>), Problem> {
    let letters = find(api, &room, choice, PAGE_MAX)?;
    let count = letters.len();
    if count > 0 {
        api.operator.ask_room(room, RoomOrder::Letters(order(letters))).await?;
    }
    Ok((StatusCode::ACCEPTED, Json(Ordered { count })))
}

/// Letters that were chosen, at most `max`.
fn find(api: &Api, room: &RoomName, choice: &Choice, max: usize) -> Result<Vec<DeadLetter>, Problem> {
    let Some(reader) = &api.store else {
        return Err(Problem::not_found("no room of this server is kept on the disk, so there are no dead letters"));
    };
    let user = choice.user.as_deref().map(UserName::read).transpose()?;
    let mut after = user.as_ref().map(|user| (user.clone(), Seq(choice.after.unwrap_or(0))));
    let mut found = Vec::new();
    loop {
        let from = after.as_ref().map(|(user, seq)| (user, *seq));
        let page = reader.letters(room, from, PAGE_MAX);
        let page = page.map_err(|error| Problem::overloaded(error.to_string()))?;
        let full = page.len() == PAGE_MAX;
        after = page.last().map(|last| (last.user.clone(), last.message.seq));
        for letter in page {
            let past = user.as_ref().is_some_and(|user| letter.user != *user);
            if past || found.len() == max {
                return Ok(found);
            }
            if choice.seq.is_none_or(|seq| letter.message.seq.0 == seq) {
                found.push(letter);
            }
        }
        if !full {
            return Ok(found);
        }
    }
}

impl From<&DeadLetter> for Letter {
    fn from(letter: &DeadLetter) -> Self {
        Self {
            user: letter.user.as_str().to_owned(),
            seq: letter.message.seq.0,
            epoch: letter.epoch.to_string(),
            reason: letter.reason.as_str(),
            attempts: letter.attempts,
            at: letter.at_ms,
            replay: letter.replay,
            sender: letter.message.sender.as_str().to_owned(),
            timestamp: letter.message.timestamp,
            content: raw(&letter.message.content),
        }
    }
}
