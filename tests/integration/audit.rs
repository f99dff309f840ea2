//! The audit log: what an operator finds in its file.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Api, Issuer, Launch, Server, TRANSPORTS, foreign_token, until};

/// A server that writes such a file.
fn audited(launch: Launch) -> (Server, PathBuf) {
    let path = launch.data_dir().join("audit");
    let server = launch.arguments([&format!("--audit-file={}", path.display())]).start();
    (server, path)
}

/// So many records, once they are written.
fn records(path: &Path, count: usize) -> Vec<Value> {
    let records = until("the records", || Some(read(path)).filter(|records| records.len() >= count));
    assert_eq!(records.len(), count, "{records:?}");
    records
}

/// What is written by now.
fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"))).collect()
}

fn shown(record: &Value, fields: [&str; 5]) -> String {
    fields.map(|field| record[field].as_str().unwrap_or("-")).join(" ")
}

#[test]
fn what_was_done_to_whom_and_by_whom_is_recorded() {
    for open in TRANSPORTS {
        let (server, path) = audited(Launch::new());
        let mut clients = ["ann", "bob"].map(|name| {
            let mut client = open(&server);
            client.connect_as(name);
            client.join("den");
            client
        });
        let order = |kind: &str, user: &str| json!({"type": kind, "room": "den", "user": user});
        let [ann, bob] = &mut clients;
        // What is refused was not done.
        bob.refused(order("kick", "ann"), "forbidden");
        ann.ok(order("kick", "bob"));
        let mut for_a_while = order("ban", "bob");
        for_a_while["for_ms"] = json!(60_000);
        ann.ok(for_a_while);
        ann.ok(order("mute", "carl"));
        ann.ok(order("unban", "bob"));
        ann.ok(order("unmute", "carl"));
        ann.ok(json!({"type": "close", "room": "den"}));
        let records = records(&path, 6);
        let shown: Vec<_> =
            records.iter().map(|record| shown(record, ["event", "outcome", "user", "room", "by"])).collect();
        let wanted = [
            "kick done bob den ann",
            "ban done bob den ann",
            "mute done carl den ann",
            "lift done bob den ann",
            "lift done carl den ann",
            "close done - den ann",
        ];
        assert_eq!(shown, wanted);
        assert!(records[1]["detail"].as_str().unwrap().starts_with("until "), "{}", records[1]);
        server.stop();
    }
}

#[test]
fn where_names_are_enough_refusals_are_recorded_and_counted_too() {
    let launch = Launch::new();
    let path = launch.data_dir().join("audit");
    let api = Api::launch(&launch.arguments([&format!("--audit-file={}", path.display())]));
    api.ok("POST", "/api/v1/users/eve/ban", None);
    for open in TRANSPORTS {
        open(&api.server).refused(json!({"type": "connect", "name": "eve"}), "forbidden");
        open(&api.server).refused(json!({"type": "connect", "name": "a\nb"}), "bad_request");
        open(&api.server).refused(json!({"type": "connect", "token": "x.y.z"}), "unauthorized");
        open(&api.server).connect_as("ann");
    }
    let is_refusal = |record: &Value| record["event"] == "login_refused";
    let refused = until("the refusals", || {
        let refused: Vec<Value> = read(&path).into_iter().filter(is_refusal).collect();
        (refused.len() >= 6).then_some(refused)
    });
    let shown: Vec<_> =
        refused.iter().map(|record| shown(record, ["outcome", "user", "room", "by", "address"])).collect();
    let once = ["forbidden eve - - 127.0.0.1", "name - - - 127.0.0.1", "name - - - 127.0.0.1"];
    assert_eq!(shown, [once, once].concat());
    let metrics = api.server.metrics();
    for (outcome, count) in [("forbidden", 2), ("name", 4), ("ok", 2)] {
        assert_eq!(metrics.sum("hubbub_logins_total", &[("outcome", outcome)]), count, "{outcome}");
    }
    api.server.stop();
}

#[test]
fn what_an_operator_began_is_finished_and_recorded_though_nobody_waits() {
    let launch = Launch::new();
    let path = launch.data_dir().join("audit");
    let api = Api::launch(&launch.arguments([&format!("--audit-file={}", path.display())]));
    let users: Vec<String> = (0..20).map(|n| format!("user-{n}")).collect();
    for user in &users {
        api.post_and_hang_up(&format!("/api/v1/users/{user}/ban"));
    }
    let recorded = until("the records", || {
        let paths = read(&path).into_iter().filter(|record| record["event"] == "admin" && record["outcome"] == "done");
        Some(paths.count()).filter(|count| *count >= users.len())
    });
    assert_eq!(recorded, users.len());
    for user in &users {
        // Each shard knows of it.
        for _ in 0..4 {
            api.server.ws().refused(json!({"type": "connect", "name": user}), "forbidden");
        }
    }
    api.server.stop();
}

#[test]
fn who_was_not_let_in_is_recorded_without_the_token() {
    let issuer = Issuer::new();
    let (server, path) = audited(issuer.launch(""));
    let token = foreign_token("ann");
    for open in TRANSPORTS {
        open(&server).refused(json!({"type": "connect", "token": token}), "unauthorized");
        open(&server).refused(json!({"type": "connect"}), "unauthorized");
    }
    let records = records(&path, 4);
    for (at, record) in records.iter().enumerate() {
        let outcome = ["signature", "missing"][at % 2];
        assert_eq!(shown(record, ["event", "outcome", "user", "room", "by"]), format!("login_refused {outcome} - - -"));
        assert_eq!(record["address"], "127.0.0.1");
        assert!(record["connection"].as_str().is_some_and(|name| name.starts_with('s')), "{record}");
        assert!(record["detail"].as_str().is_some_and(|detail| detail.len() > 8), "{record}");
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(token.split('.').all(|part| !text.contains(part)), "{text}");
    server.stop();
}
