//! `/api/v1`: what an operator can ask of a running server and have it do. [`ROUTES`] is the one table of routes;
//! the document at `/api/v1/openapi.json` says the same, and a test compares them.
//!
//! Each file has the handlers of one subject with the shapes that they take and give. Whatever concerns rooms and
//! connections is asked of their shards ([`super::operator`]).

mod batch;
mod broadcast;
mod connections;
mod document;
mod input;
mod letters;
mod moderation;
mod publish;
mod rooms;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Method;
use axum::middleware;
use axum::routing::{MethodRouter, delete, get, post};
use tokio::sync::watch;

use super::guard::{Guard, guard};
use super::operator::Operator;
use super::problem::Problem;
use super::{Facts, ReloadReport, backup};
use crate::store::StoreReader;
use crate::telemetry::metrics::Metrics;

pub(super) use document::document;

/// What handlers need.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) operator: Operator,
    pub(super) metrics: &'static Metrics,
    pub(super) store: Option<StoreReader>,
    pub(super) facts: watch::Receiver<Facts>,
    pub(super) drain: Arc<dyn Fn() + Send + Sync>,
    pub(super) reload: Arc<dyn Fn() -> ReloadReport + Send + Sync>,
}

/// A route: its method, its path below [`BASE`], what answers it.
type Route = (Method, &'static str, fn() -> MethodRouter<Api>);

/// Every route but those of the batch, the backup and the document.
const ROUTES: &[Route] = &[
    (Method::POST, "/publish", || post(publish::publish)),
    (Method::POST, "/broadcast", || post(broadcast::broadcast)),
    (Method::GET, "/rooms", || get(rooms::list)),
    (Method::GET, "/rooms/{room}", || get(rooms::look)),
    (Method::GET, "/rooms/{room}/history", || get(rooms::history)),
    (Method::GET, "/rooms/{room}/presence", || get(rooms::presence)),
    (Method::POST, "/rooms/{room}/close", || post(moderation::close)),
    (Method::POST, "/rooms/{room}/kick", || post(moderation::kick)),
    (Method::POST, "/rooms/{room}/ban", || post(moderation::ban_in_room)),
    (Method::POST, "/rooms/{room}/unban", || post(moderation::unban_in_room)),
    (Method::POST, "/rooms/{room}/mute", || post(moderation::mute_in_room)),
    (Method::POST, "/rooms/{room}/unmute", || post(moderation::unmute_in_room)),
    (Method::GET, "/rooms/{room}/dead-letters", || get(letters::list)),
    (Method::DELETE, "/rooms/{room}/dead-letters", || delete(letters::purge)),
    (Method::POST, "/rooms/{room}/dead-letters/replay", || post(letters::replay)),
    (Method::GET, "/users/{user}", || get(connections::of_user)),
    (Method::POST, "/users/{user}/disconnect", || post(connections::disconnect_user)),
    (Method::POST, "/users/{user}/ban", || post(moderation::ban)),
    (Method::POST, "/users/{user}/unban", || post(moderation::unban)),
    (Method::POST, "/users/{user}/mute", || post(moderation::mute)),
    (Method::POST, "/users/{user}/unmute", || post(moderation::unmute)),
    (Method::POST, "/users/{user}/revoke", || post(moderation::revoke)),
    (Method::POST, "/tokens/{jti}/revoke", || post(moderation::revoke_token)),
    (Method::GET, "/sanctions", || get(moderation::list)),
    (Method::GET, "/connections", || get(connections::list)),
    (Method::DELETE, "/connections/{connection}", || delete(connections::disconnect)),
    (Method::GET, "/shards", || get(server::shards)),
    (Method::GET, "/config", || get(server::config)),
    (Method::POST, "/drain", || post(server::drain)),
    (Method::POST, "/reload", || post(server::reload)),
];

/// All of `/api/v1` that only a key opens.
pub(super) fn router(api: Api, vault: Option<backup::Vault>, keys: &Arc<Guard>) -> Router {
    let mut plain = Router::new();
    for (_, path, handler) in ROUTES {
        plain = plain.route(&format!("{BASE}{path}"), handler());
    }
    let guarded = || middleware::from_fn_with_state(Arc::clone(keys), guard);
    let limit = || DefaultBodyLimit::max(BODY_BYTES_MAX);
    let plain = plain.with_state(api).method_not_allowed_fallback(other_method).layer(limit()).layer(guarded());
    // A request of a batch is answered as if it had come by itself.
    let batch = Router::new()
        .route(&format!("{BASE}{BATCH}"), post(batch::batch).with_state(plain.clone().fallback(missing)))
        .method_not_allowed_fallback(other_method)
        .layer(limit())
        .layer(guarded());
    let router = plain.merge(batch);
    match vault {
        Some(vault) => {
            let route = get(backup::backup).with_state(vault);
            router.merge(Router::new().route(&format!("{BASE}{BACKUP}"), route).layer(guarded()))
        }
        None => router,
    }
}

pub(super) async fn missing() -> Problem {
    Problem::not_found("there is no such route: /api/v1/openapi.json names them all")
}

async fn other_method() -> Problem {
    let detail = "this path knows other methods: /api/v1/openapi.json names them";
    Problem::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// Where all routes begin.
pub(super) const BASE: &str = "/api/v1";
const BATCH: &str = "/batch";
const BACKUP: &str = "/store/backup";
/// Largest request.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Entries of a page if the request does not say.
const PAGE_DEFAULT: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = serde_json::to_value(document()).unwrap();
        let mut documented = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                documented.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let table = ROUTES.iter().map(|(method, path, _)| (method.as_str(), *path));
        let others = [("POST", BATCH), ("GET", BACKUP), ("GET", "/openapi.json")];
        let served: BTreeSet<_> = table.chain(others).map(|(method, path)| format!("{method} {BASE}{path}")).collect();
        assert_eq!(documented, served);
    }
}
