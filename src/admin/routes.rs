//! What the admin port answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};

use super::backup::{self, Vault};
use super::key::AdminKey;
use super::letters::{self, Desk};
use super::{Subject, profile};
use crate::chat::log::LogHealth;
use crate::store::StoreReader;
use crate::telemetry::readiness::{Readiness, Stage};
use crate::telemetry::render::{CONTENT_TYPE, Renderer};

/// All routes.
pub(super) fn router(subject: Subject) -> Router {
    let renderer = Arc::new(Renderer::new(subject.metrics));
    let health = Health { readiness: subject.readiness, store: subject.store.clone() };
    let vault = subject.store.clone().map(Vault::new);
    let desk = subject.store.map(|reader| Desk { reader, order: subject.order });
    Router::new()
        .route("/metrics", get(metrics_text).with_state(renderer))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready).with_state(health))
        .merge(guarded(subject.key, desk, vault))
        .fallback(missing)
}

/// What only the admin key opens, whether it is there or not.
fn guarded(key: Option<AdminKey>, desk: Option<Desk>, vault: Option<Vault>) -> Router {
    let mut routes = Router::new();
    if let Some(vault) = vault {
        routes = routes.route("/api/v1/store/backup", get(backup::backup).with_state(vault));
    }
    if let Some(desk) = desk {
        let letters = get(letters::list).delete(letters::purge).with_state(desk.clone());
        routes = routes
            .route("/api/v1/rooms/{room}/dead-letters", letters)
            .route("/api/v1/rooms/{room}/dead-letters/replay", post(letters::replay).with_state(desk));
    }
    routes
        .route("/debug/pprof/profile", get(profile::profile).with_state(profile::Busy::default()))
        .route("/api", any(missing))
        .route("/api/{*path}", any(missing))
        .route("/debug", any(missing))
        .route("/debug/{*path}", any(missing))
        .layer(middleware::from_fn_with_state(Arc::new(key), guard))
}

/// What decides whether the server is ready.
#[derive(Clone)]
struct Health {
    readiness: Arc<Readiness>,
    store: Option<StoreReader>,
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

async fn missing() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "try /metrics, /healthz, /readyz or /debug/pprof/profile\n")
}
