//! What the admin port answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

use super::key::AdminKey;
use super::profile;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{Readiness, Stage};
use crate::telemetry::render::{CONTENT_TYPE, Renderer};

/// All routes.
pub(super) fn router(key: Option<AdminKey>, metrics: &'static Metrics, readiness: Arc<Readiness>) -> Router {
    let renderer = Arc::new(Renderer::new(metrics));
    Router::new()
        .route("/metrics", get(metrics_text).with_state(renderer))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready).with_state(readiness))
        .merge(guarded(key))
        .fallback(missing)
}

/// What only the admin key opens, whether it is there or not.
fn guarded(key: Option<AdminKey>) -> Router {
    Router::new()
        .route("/debug/pprof/profile", get(profile::profile).with_state(profile::Busy::default()))
        .route("/api", any(missing))
        .route("/api/{*path}", any(missing))
        .route("/debug", any(missing))
        .route("/debug/{*path}", any(missing))
        .layer(middleware::from_fn_with_state(Arc::new(key), guard))
}

async fn guard(State(key): State<Arc<Option<AdminKey>>>, request: Request, next: Next) -> Response {
    match &*key {
        None => {
            (StatusCode::FORBIDDEN, "this needs an admin key: start the server with --admin-key-file\n").into_response()
        }
        Some(key) if key.is_shown(request.headers()) => next.run(request).await,
        Some(_) => (StatusCode::FORBIDDEN, "this needs the admin key: Authorization: Bearer KEY\n").into_response(),
    }
}

async fn metrics_text(State(renderer): State<Arc<Renderer>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], renderer.render())
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> (StatusCode, &'static str) {
    match readiness.stage() {
        Stage::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting: not all listeners are open\n"),
        Stage::Ready => (StatusCode::OK, "ready\n"),
        Stage::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining: the server stops\n"),
    }
}

async fn missing() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "try /metrics, /healthz, /readyz or /debug/pprof/profile\n")
}
