//! What the admin port answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{any, get};

use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{Readiness, Stage};
use crate::telemetry::render::{CONTENT_TYPE, Renderer};

/// All routes.
pub(super) fn router(metrics: &'static Metrics, readiness: Arc<Readiness>) -> Router {
    let renderer = Arc::new(Renderer::new(metrics));
    Router::new()
        .route("/metrics", get(metrics_text).with_state(renderer))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/api", any(forbidden))
        .route("/api/{*path}", any(forbidden))
        .route("/debug", any(forbidden))
        .route("/debug/{*path}", any(forbidden))
        .fallback(missing)
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

async fn forbidden() -> (StatusCode, &'static str) {
    (StatusCode::FORBIDDEN, "this needs an admin key, and this version of hubbub has none to set\n")
}

async fn missing() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz\n")
}
