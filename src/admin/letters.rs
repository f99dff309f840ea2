//! Dead letters of a room: list them, send them again, forget them.
//!
//! Lists are read from the store; the rest is asked of the shard that owns the room, so that it happens in order with
//! what the room's consumers acknowledge. An order is accepted, not awaited: the list shows what came of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::chat::log::{DeadLetter, LetterOrder};
use crate::ids::{RoomName, Seq, UserName};
use crate::limits::PAGE_MAX;
use crate::store::StoreReader;

/// What is needed to look after letters.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) reader: StoreReader,
    /// Gives the owner of a room an order; false when it has too many.
    pub(super) order: Arc<dyn Fn(RoomName, LetterOrder) -> bool + Send + Sync>,
}

/// Which letters.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Choice {
    /// Only this user's.
    user: Option<String>,
    /// Only this message's.
    seq: Option<u64>,
    /// With `user`: begin after this one.
    after: Option<u64>,
    /// Most letters.
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Letter {
    user: String,
    seq: u64,
    epoch: String,
    reason: &'static str,
    attempts: u32,
    /// When it was given up, Unix milliseconds.
    at: u64,
    /// Whether it is to be sent again.
    replay: bool,
    sender: String,
    /// When it was said, Unix milliseconds.
    timestamp: u64,
    content: Box<RawValue>,
}

type Answer = Result<Response, Problem>;

/// A page, by user and position.
pub(super) async fn list(State(desk): State<Desk>, Path(room): Path<String>, Query(choice): Query<Choice>) -> Answer {
    let limit = choice.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, PAGE_MAX);
    let mut letters = desk.find(&room, &choice, limit + 1)?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| more).map(|l| json!({"user": l.user.as_str(), "after": l.message.seq.0}));
    let letters: Vec<Letter> = letters.iter().map(Letter::from).collect();
    Ok(Json(json!({"letters": letters, "next": next})).into_response())
}

/// Sends the chosen letters to their users again, now or when they come back.
pub(super) async fn replay(State(desk): State<Desk>, Path(room): Path<String>, Query(choice): Query<Choice>) -> Answer {
    desk.give(&room, &choice, LetterOrder::Replay)
}

/// Forgets the chosen letters.
pub(super) async fn purge(State(desk): State<Desk>, Path(room): Path<String>, Query(choice): Query<Choice>) -> Answer {
    desk.give(&room, &choice, LetterOrder::Purge)
}

impl Desk {
    fn give(&self, room: &str, choice: &Choice, order: fn(Vec<DeadLetter>) -> LetterOrder) -> Answer {
        let letters = self.find(room, choice, PAGE_MAX)?;
        let (count, name) = (letters.len(), room_name(room)?);
        if count > 0 && !(self.order)(name, order(letters)) {
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the room's shard is busy: ask again".into()));
        }
        Ok((StatusCode::ACCEPTED, Json(json!({"count": count}))).into_response())
    }

    /// Letters that were chosen, at most `max`.
    fn find(&self, room: &str, choice: &Choice, max: usize) -> Result<Vec<DeadLetter>, Problem> {
        let room = room_name(room)?;
        let user = choice.user.as_deref().map(UserName::new).transpose();
        let user = user.map_err(|error| problem(StatusCode::BAD_REQUEST, format!("`user` is no good: {error}")))?;
        let mut after = user.as_ref().map(|user| (user.clone(), Seq(choice.after.unwrap_or(0))));
        let mut found = Vec::new();
        loop {
            let from = after.as_ref().map(|(user, seq)| (user, *seq));
            let page = self.reader.letters(&room, from, PAGE_MAX);
            let page = page.map_err(|error| problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
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
}

impl From<&DeadLetter> for Letter {
    fn from(letter: &DeadLetter) -> Self {
        let content = String::from_utf8_lossy(&letter.message.content).into_owned();
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
            content: RawValue::from_string(content).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        }
    }
}

fn room_name(room: &str) -> Result<RoomName, Problem> {
    RoomName::chat(room).map_err(|error| problem(StatusCode::BAD_REQUEST, format!("no good name of a room: {error}")))
}

/// An error as RFC 9457 has it.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

fn problem(status: StatusCode, detail: String) -> Problem {
    Problem { status, detail }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail } = self;
        let body = json!({"title": status.canonical_reason(), "status": status.as_u16(), "detail": detail});
        ([(header::CONTENT_TYPE, "application/problem+json")], (status, body.to_string())).into_response()
    }
}

/// Letters in a page if the request does not say.
const LIMIT_DEFAULT: usize = 100;
