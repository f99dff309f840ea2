//! What requests bring with them, and what is said when it is no good.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::super::problem::Problem;
use super::PAGE_DEFAULT;
use crate::ids::{RoomName, UserName};
use crate::limits::PAGE_MAX;

/// The body, as JSON whatever its `Content-Type`: only who shows a key comes this far.
pub(super) struct Body<T>(pub(super) T);

/// The query of the URL.
pub(super) struct Params<T>(pub(super) T);

/// The name in the path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large("a request may have 1 MiB: send less at a time"),
            _ => Problem::bad_request(rejection.body_text()),
        })?;
        // A request whose fields may all be left out needs no body.
        let text = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
        let read = Json::from_bytes(&text).map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        Ok(Self(read.0))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(read)| Self(read)).map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

/// A name that can stand in a path.
pub(super) trait Name: Sized {
    fn read(text: &str) -> Result<Self, Problem>;
}

impl Name for RoomName {
    fn read(text: &str) -> Result<Self, Problem> {
        Self::chat(text).map_err(|error| Problem::bad_name("room", error))
    }
}

impl Name for UserName {
    fn read(text: &str) -> Result<Self, Problem> {
        Self::new(text).map_err(|error| Problem::bad_name("user", error))
    }
}

impl<T: Name, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        T::read(&text).map(Self)
    }
}

/// Entries of a page.
pub(super) fn page_limit(asked: Option<usize>) -> usize {
    asked.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX)
}
