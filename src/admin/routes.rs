//! What the admin port answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{any, get};
use bytes::Bytes;

use super::api::{self, Api};
use super::backup::Vault;
use super::guard::{Guard, guard};
use super::operator::Operator;
use super::{Subject, profile};
use crate::chat::log::LogHealth;
use crate::store::StoreReader;
use crate::telemetry::readiness::{Readiness, Stage};
use crate::telemetry::render::{CONTENT_TYPE, Renderer};

/// All routes.
pub(super) fn router(subject: Subject, operator: Operator) -> Router {
    let renderer = Arc::new(Renderer::new(subject.metrics));
    let health = Health { readiness: subject.readiness, store: subject.store.clone() };
    let vault = subject.store.clone().map(Vault::new);
    let keys = Arc::new(Guard::new(subject.facts.clone()));
    let state = Api {
        operator,
        metrics: subject.metrics,
        store: subject.store,
        facts: subject.facts,
        drain: subject.drain,
        reload: subject.reload,
    };
    let document = Bytes::from(serde_json::to_vec(&api::document()).expect("the document is JSON"));
    Router::new()
        .route("/metrics", get(metrics_text).with_state(renderer))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready).with_state(health))
        .route("/api/v1/openapi.json", get(openapi).with_state(document))
        .merge(api::router(state, vault, &keys))
        .merge(guarded(keys))
        .fallback(missing)
}

/// What else only a key opens, whether it is there or not.
fn guarded(keys: Arc<Guard>) -> Router {
    Router::new()
        .route("/debug/pprof/profile", get(profile::profile).with_state(profile::Busy::default()))
        .route("/api", any(api::missing))
        .route("/api/{*path}", any(api::missing))
        .route("/debug", any(missing))
        .route("/debug/{*path}", any(missing))
        .layer(middleware::from_fn_with_state(keys, guard))
}

/// What decides whether the server is ready.
#[derive(Clone)]
struct Health {
    readiness: Arc<Readiness>,
    store: Option<StoreReader>,
}

async fn metrics_text(State(renderer): State<Arc<Renderer>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], renderer.render())
}

async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    match health.readiness.stage() {
        Stage::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting: not all listeners are open\n"),
        Stage::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining: the server stops\n"),
        Stage::Ready => match health.store.map(|store| store.health()) {
            None | Some(LogHealth::Writable) => (StatusCode::OK, "ready\n"),
            Some(LogHealth::Full) => {
                (StatusCode::SERVICE_UNAVAILABLE, "disk_full: durable rooms take no messages until there is space\n")
            }
            Some(LogHealth::Failed) => {
                (StatusCode::SERVICE_UNAVAILABLE, "failed: a write has failed; the store is being opened again\n")
            }
        },
    }
}

async fn openapi(State(document): State<Bytes>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document)
}

async fn missing() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "try /metrics, /healthz, /readyz, /api/v1/openapi.json or /debug/pprof/profile\n")
}
