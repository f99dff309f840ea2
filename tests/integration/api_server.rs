//! The API on the server as a whole: shards, settings, reload, drain.

use serde_json::{Value, json};

use crate::harness::{Api, DataDir, Launch};

#[test]
fn shards_show_what_they_carry() {
    let api = Api::with([]);
    let _clients: Vec<_> = (0..6).map(|n| api.server.member(&format!("user {n}"), &format!("room {n}"))).collect();
    api.server.metrics_until("all to be counted", |metrics| metrics.sum("hubbub_rooms", &[]) == 6);
    let shards = api.get("/api/v1/shards");
    let all = shards["shards"].as_array().unwrap();
    let sum = |name: &str| all.iter().map(|shard| shard[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((all.len(), sum("connections"), sum("rooms")), (2, 6, 6));
    assert!(all.iter().enumerate().all(|(index, shard)| shard["shard"] == index));
    assert!(all.iter().all(|shard| shard["load"].as_f64().is_some_and(|load| (0.0..0.9).contains(&load))), "{shards}");
}

fn setting(settings: &Value, key: &str) -> Value {
    let all = settings["settings"].as_array().unwrap();
    all.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("no {key}")).clone()
}

#[test]
fn settings_are_shown_with_their_origin_and_follow_a_reload() {
    let data = DataDir::new();
    std::fs::create_dir_all(data.path()).unwrap();
    let file = data.path().join("hubbub.toml");
    std::fs::write(&file, "max_message_bytes = 3000\n").unwrap();
    let launch = Launch::new().arguments(["--shards=2", &format!("--config={}", file.display())]);
    let api = Api::launch(&launch);
    let settings = api.get("/api/v1/config");
    assert_eq!(setting(&settings, "shards"), json!({"key": "shards", "value": "2", "origin": "--shards"}));
    assert_eq!(setting(&settings, "node")["origin"], "default");
    let bytes = setting(&settings, "max_message_bytes");
    assert_eq!((&bytes["value"], &bytes["origin"]), (&json!("3000"), &json!(file.display().to_string())));

    let content = |bytes: usize| json!({"room": "a", "content": "x".repeat(bytes - 2)});
    api.refused("POST", "/api/v1/publish", Some(&content(4_000)), 413, "too_large");
    std::fs::write(&file, "max_message_bytes = 5000\nnode = 'other'\n").unwrap();
    let report = api.ok("POST", "/api/v1/reload", None);
    assert_eq!((&report["applied"], &report["needs_restart"]), (&json!(["max_message_bytes"]), &json!(["node"])));
    assert!(report["unchanged"].as_array().unwrap().contains(&json!("shards")) && report.get("error").is_none());
    let settings = api.get("/api/v1/config");
    assert_eq!(setting(&settings, "max_message_bytes")["value"], "5000");
    assert_eq!(setting(&settings, "node")["value"], "\"hubbub\"", "it needs a restart");
    api.post("/api/v1/publish", content(4_000));

    std::fs::write(&file, "max_message_bytes = 'many'\n").unwrap();
    let detail = api.refused("POST", "/api/v1/reload", None, 422, "bad_configuration");
    assert!(detail.contains("max_message_bytes") && detail.contains("many"), "{detail}");
    assert_eq!(setting(&api.get("/api/v1/config"), "max_message_bytes")["value"], "5000");
}

#[test]
fn a_drain_ends_the_server_as_a_signal_does() {
    let mut api = Api::with(["--drain-timeout=3s"]);
    let mut ann = api.server.member("ann", "a");
    let seq = ann.say_and_wait("a", 1);
    assert_eq!(api.ok("POST", "/api/v1/drain", None), json!({"stage": "draining"}));
    let (events, close) = ann.end();
    assert_eq!((seq, close.map(|(code, _)| code)), (1, Some(1012)));
    assert!(events.iter().any(|event| event.kind() == "closing"), "{events:?}");
    assert_eq!(api.server.wait_exit().code(), Some(0));
}
