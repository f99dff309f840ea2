//! The server as a whole: its shards, its settings, and its end.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::ReloadReport;
use super::super::problem::Problem;
use super::Api;
use crate::clock::Clock;
use crate::telemetry::metrics::{ConnectionKind, QueueKind, ShardMetrics};

/// The shards.
#[derive(Serialize, ToSchema)]
pub(super) struct Shards {
    /// In the order of their numbers.
    shards: Vec<Shard>,
}

/// A shard, by figures that may be a moment old.
#[derive(Serialize, ToSchema)]
struct Shard {
    /// Its number.
    shard: usize,
    /// Connections, also those before their handshake.
    connections: u64,
    /// Rooms and relay rooms that it owns.
    rooms: u64,
    /// Rooms with members among its connections.
    audiences: u64,
    /// The part of one CPU that its thread used in the last tenth of a second; absent where the kernel does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<f64>,
    /// Batches of other shards that wait for it: what rooms tell members.
    deliveries_waiting: u64,
    /// Batches of other shards that wait for it: what members ask of rooms.
    requests_waiting: u64,
    /// Bytes in all outboxes.
    outbox_bytes: u64,
}

/// The settings.
#[derive(Serialize, ToSchema)]
pub(super) struct Settings {
    /// Every setting, and the rules for rooms.
    settings: Vec<Setting>,
}

/// A setting.
#[derive(Serialize, ToSchema)]
struct Setting {
    /// As in the file.
    key: String,
    /// As it would stand in the file.
    value: String,
    /// Where it was given.
    origin: String,
}

/// The server stops.
#[derive(Serialize, ToSchema)]
pub(super) struct Draining {
    /// `draining`.
    stage: &'static str,
}

/// Shows the shards. Takes a tenth of a second, in which it looks how busy they are.
#[utoipa::path(get, path = "/api/v1/shards", tag = "server", responses((status = 200, body = Shards)))]
pub(super) async fn shards(State(api): State<Api>) -> Json<Shards> {
    let metrics = &api.metrics.shards;
    let clock = Clock::start();
    let before: Vec<Option<u64>> = metrics.iter().map(cpu_ns).collect();
    tokio::time::sleep(SAMPLE).await;
    let elapsed_ns = clock.us().max(1) * 1_000;
    let load = |(shard, before): (&ShardMetrics, &Option<u64>)| {
        let used = cpu_ns(shard)?.saturating_sub((*before)?);
        Some((used as f64 / elapsed_ns as f64 * 1_000.0).round() / 1_000.0)
    };
    let loads = metrics.iter().zip(&before).map(load);
    let shards = metrics.iter().zip(loads).enumerate().map(|(index, (shard, load))| Shard {
        shard: index,
        connections: ConnectionKind::ALL.iter().map(|kind| shard.connections.of(*kind).get()).sum(),
        rooms: shard.rooms.get(),
        audiences: shard.audiences.get(),
        load,
        deliveries_waiting: shard.mailbox(QueueKind::Deliveries).get(),
        requests_waiting: shard.mailbox(QueueKind::Requests).get(),
        outbox_bytes: shard.outbox_bytes.get(),
    });
    Json(Shards { shards: shards.collect() })
}

/// CPU time that a shard's thread has used, from `/proc/self/task/TID/schedstat`.
fn cpu_ns(shard: &ShardMetrics) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", shard.thread.get())).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Shows every setting with where it was given. Secrets are not shown.
#[utoipa::path(get, path = "/api/v1/config", tag = "server", responses((status = 200, body = Settings)))]
pub(super) async fn config(State(api): State<Api>) -> Json<Settings> {
    let shown = |setting: &crate::config::Explained| Setting {
        key: setting.key.clone(),
        value: without_password(&setting.value),
        origin: setting.origin.clone(),
    };
    Json(Settings { settings: api.facts.borrow().settings.iter().map(shown).collect() })
}

/// A value in which the user and the password of a URL are left out.
fn without_password(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return value.to_owned();
    };
    let end = rest.find(['/', '?', '#', '"', '\'']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => value.to_owned(),
    }
}

/// Stops the server as SIGTERM does: clients are told to come back later, what is stored is stored.
#[utoipa::path(post, path = "/api/v1/drain", tag = "server", responses((status = 202, body = Draining)))]
pub(super) async fn drain(State(api): State<Api>) -> (StatusCode, Json<Draining>) {
    (api.drain)();
    (StatusCode::ACCEPTED, Json(Draining { stage: "draining" }))
}

/// Reads the configuration again, as SIGHUP does. What is unusable changes nothing, and is told with status 422.
#[utoipa::path(post, path = "/api/v1/reload", tag = "server", responses((status = 200, body = ReloadReport)))]
pub(super) async fn reload(State(api): State<Api>) -> Result<Json<ReloadReport>, Problem> {
    // Files are read, which may take its time.
    let report = tokio::task::spawn_blocking(move || (api.reload)()).await;
    let report = report.map_err(|_| Problem::overloaded("the server stops"))?;
    match report.error {
        Some(error) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_configuration", error)),
        None => Ok(Json(report)),
    }
}

/// How long shards are watched for their load.
const SAMPLE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_shown() {
        assert_eq!(without_password("\"https://ann:secret@host/a@b\""), "\"https://…@host/a@b\"");
        for plain in ["\"https://host/a@b\"", "8s", "[\"127.0.0.1:9000\"]"] {
            assert_eq!(without_password(plain), plain);
        }
    }
}
