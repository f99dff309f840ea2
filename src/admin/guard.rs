//! Who may use `/api` and `/debug`: requests that show a key, and each of them is told to the audit log.
//!
//! What is refused for want of a key is told too, but not more often than the log can bear.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{Mutex, watch};

use super::Facts;
use super::keys::Holder;
use super::problem::Problem;
use crate::clock::Clock;
use crate::telemetry::audit::{Security, TARGET};
use crate::telemetry::log::Throttle;

/// What opens the doors.
pub(super) struct Guard {
    facts: watch::Receiver<Facts>,
    /// Bounds the lines about those who are refused.
    refusals: Mutex<(Throttle, Clock)>,
}

impl Guard {
    pub(super) fn new(facts: watch::Receiver<Facts>) -> Self {
        Self { facts, refusals: Mutex::new((Throttle::default(), Clock::start())) }
    }

    fn refuse(&self, request: &Request, problem: Problem) -> Response {
        // Requests are answered by one thread, which keeps it for no longer than this.
        if let Ok(mut refusals) = self.refusals.try_lock()
            && let (throttle, clock) = &mut *refusals
            && let Some(suppressed) = throttle.admit("admin key", clock.now())
        {
            let (method, path) = (request.method().as_str(), request.uri().path());
            let status = problem.status().as_u16();
            tracing::info!(target: TARGET, event = Security::Admin.as_str(), outcome = "refused", method, path, status, suppressed, "security");
        }
        problem.into_response()
    }
}

/// Lets a request pass that shows a key.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let holder = match &guard.facts.borrow().keys {
        Some(keys) => keys.holder(request.headers()).cloned(),
        None => return guard.refuse(&request, Problem::new(StatusCode::FORBIDDEN, "no_admin_key", NO_KEY)),
    };
    let Some(holder) = holder else {
        let remedy = "this needs an admin key: Authorization: Bearer KEY, with one of the keys in admin_key_file";
        return guard.refuse(&request, Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", remedy));
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Each request of a batch passes here by itself.
    let response = if holder.reads_only && !is_read(&method) && path != BATCH {
        let remedy = "this key only reads: use one without `ro` in admin_key_file";
        Problem::new(StatusCode::FORBIDDEN, "read_only", remedy).into_response()
    } else {
        // What has begun is finished and recorded also when whoever asked has hung up.
        let answered = tokio::spawn(async move {
            let response = next.run(request).await;
            record(&holder, &method, &path, &response);
            response
        });
        return answered.await.unwrap_or_else(|_| Problem::unexpected().into_response());
    };
    record(&holder, &method, &path, &response);
    response
}

fn record(holder: &Holder, method: &Method, path: &str, response: &Response) {
    let status = response.status().as_u16();
    tracing::info!(
        target: TARGET,
        event = Security::Admin.as_str(),
        outcome = if status < 400 { "done" } else { "refused" },
        by = holder.name,
        method = method.as_str(),
        path,
        status,
        "security"
    );
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

const NO_KEY: &str = "the API is closed: write a key into a file (openssl rand -hex 32) and start the server with \
    --admin-key-file";
const BATCH: &str = "/api/v1/batch";
