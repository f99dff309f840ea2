//! Many requests in one: each is answered as if it had come by itself, one after the other.

use axum::Router;
use axum::body::{Body as HttpBody, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::{Json, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tower_service::Service;
use utoipa::ToSchema;

use super::super::problem::Problem;
use super::BASE;
use super::input::Body;

/// Requests to be answered in order.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    /// At most 100.
    requests: Vec<BatchRequest>,
    /// Whether what comes after a failure is left out.
    #[serde(default)]
    stop_on_error: bool,
}

/// One of them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchRequest {
    /// `GET`, `POST` or `DELETE`.
    method: String,
    /// With its query; `/api/v1` may be left out.
    path: String,
    /// What a request by itself would have as its body.
    #[schema(value_type = Option<serde_json::Value>)]
    body: Option<Box<RawValue>>,
}

/// The answers, in the order of the requests.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchAnswers {
    /// Fewer than requests only if it was to stop at a failure.
    responses: Vec<BatchAnswer>,
}

/// One of them.
#[derive(Serialize, ToSchema)]
struct BatchAnswer {
    /// The HTTP status.
    status: u16,
    /// The body, also of a problem.
    #[schema(value_type = serde_json::Value)]
    body: Box<RawValue>,
}

/// Answers up to 100 requests, one after the other.
#[utoipa::path(post, path = "/api/v1/batch", tag = "server", request_body = Batch,
    responses((status = 200, body = BatchAnswers)))]
pub(super) async fn batch(
    State(router): State<Router>,
    headers: HeaderMap,
    Body(batch): Body<Batch>,
) -> Result<Json<BatchAnswers>, Problem> {
    if batch.requests.len() > REQUESTS_MAX {
        return Err(Problem::bad_request(format!("a batch may have {REQUESTS_MAX} requests: make several")));
    }
    let (mut responses, mut bytes) = (Vec::new(), 0);
    for request in batch.requests {
        let answer = if bytes > ANSWER_BYTES_MAX {
            answer_of(Problem::too_large("the answers before this one are too large: ask for it by itself"))
        } else {
            answer(router.clone(), &headers, request).await
        };
        bytes += answer.body.get().len();
        let failed = answer.status >= 400;
        responses.push(answer);
        if failed && batch.stop_on_error {
            break;
        }
    }
    Ok(Json(BatchAnswers { responses }))
}

async fn answer(router: Router, headers: &HeaderMap, request: BatchRequest) -> BatchAnswer {
    let request = match build(headers, request) {
        Ok(request) => request,
        Err(problem) => return answer_of(problem),
    };
    let mut router = router;
    let Ok(response): Result<Response, std::convert::Infallible> = router.call(request).await;
    let status = response.status().as_u16();
    match to_bytes(response.into_body(), ANSWER_BYTES_MAX).await {
        Ok(body) => {
            let text = String::from_utf8_lossy(&body).into_owned();
            // What has no body, such as an answer to HEAD, is null.
            let body = RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
            BatchAnswer { status, body }
        }
        Err(_) => answer_of(Problem::too_large("the answer is too large for a batch: ask by itself")),
    }
}

fn build(headers: &HeaderMap, request: BatchRequest) -> Result<Request, Problem> {
    let BatchRequest { method, path, body } = request;
    let method: Method = method.parse().map_err(|_| Problem::bad_request(format!("no method is called `{method}`")))?;
    let uri = if path.starts_with(BASE) { path } else { format!("{BASE}{path}") };
    let body = body.map_or_else(HttpBody::empty, |body| HttpBody::from(body.get().to_owned()));
    let mut built = Request::builder().method(method).uri(uri);
    if let Some(key) = headers.get(header::AUTHORIZATION) {
        built = built.header(header::AUTHORIZATION, key);
    }
    built.body(body).map_err(|_| Problem::bad_request("`path` is no path: it may have to be percent-encoded"))
}

fn answer_of(problem: Problem) -> BatchAnswer {
    let (status, body) = (problem.status(), serde_json::value::to_raw_value(&problem.body()));
    let status = if body.is_ok() { status } else { StatusCode::INTERNAL_SERVER_ERROR };
    BatchAnswer { status: status.as_u16(), body: body.unwrap_or_else(|_| RawValue::NULL.to_owned()) }
}

const REQUESTS_MAX: usize = 100;
/// Bytes of answers after which no more is asked; there may be as much again from the last one.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
