//! The API on connections and users.

use serde_json::{Value, json};

use crate::harness::Api;

fn named(connections: &Value) -> Vec<String> {
    let all = connections["connections"].as_array().unwrap();
    all.iter().map(|connection| connection["connection"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn connections_are_shown_with_what_they_do() {
    let api = Api::with([]);
    let mut ann = api.server.ws();
    let welcome = ann.connect_as("ann");
    ann.join("a");
    ann.join("b");
    let _bob = api.server.tcp_as("bob");
    let mut relay = api.server.relay("x");
    relay.settle("one");
    let of_ann = api.get("/api/v1/users/ann");
    let shown = &of_ann["connections"][0];
    assert_eq!((&of_ann["user"], &shown["connection"]), (&json!("ann"), &welcome["connection"]));
    assert_eq!((&shown["user"], &shown["transport"]), (&json!("ann"), &json!("chat_ws")));
    assert_eq!(shown["rooms"], json!(["a", "b"]));
    assert!(shown["since"].as_u64().unwrap() > 1_600_000_000_000);
    assert_eq!(api.get("/api/v1/users/nobody")["connections"], json!([]));
    let all = api.get("/api/v1/connections");
    assert_eq!((named(&all).len(), all.get("next")), (3, None));
    let kinds = |kind: &str| all["connections"].as_array().unwrap().iter().filter(|c| c["transport"] == kind).count();
    assert_eq!((kinds("chat_ws"), kinds("chat_tcp"), kinds("relay")), (1, 1, 1));
    let mut paged: Vec<String> = Vec::new();
    let mut target = "/api/v1/connections?limit=1".to_owned();
    loop {
        let page = api.get(&target);
        paged.extend(named(&page));
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/api/v1/connections?limit=1&after={next}");
    }
    assert_eq!(paged, named(&all));
    assert_eq!(named(&api.get("/api/v1/connections?user=bob")).len(), 1);
}

#[test]
fn a_user_is_disconnected_over_both_transports() {
    let api = Api::with([]);
    let mut ws = api.server.member("ann", "a");
    let mut tcp = api.server.tcp_as("ann");
    let mut bob = api.server.member("bob", "a");
    assert_eq!(api.ok("POST", "/api/v1/users/ann/disconnect", None), json!({"closed": 2}));
    assert_eq!(ws.end().1, Some((4506, "disconnected by an operator".into())));
    assert_eq!(tcp.end().1, None);
    bob.say_and_wait("a", 1);
    assert_eq!(api.ok("POST", "/api/v1/users/ann/disconnect", None), json!({"closed": 0}));
    let closed = api.server.metrics().sum("hubbub_closed_total", &[("reason", "disconnected")]);
    assert_eq!(closed, 2);
}

#[test]
fn one_connection_is_closed_by_its_name() {
    let api = Api::with([]);
    let mut ann = api.server.ws();
    let name = ann.connect_as("ann")["connection"].as_str().unwrap().to_owned();
    let mut other = api.server.ws_as("ann");
    let path = format!("/api/v1/connections/{name}");
    assert_eq!(api.ok("DELETE", &path, None), json!({"closed": 1}));
    assert_eq!(ann.close_code(), Some(4506));
    other.expect_silence();
    api.refused("DELETE", &path, None, 404, "not_found");
    api.refused("DELETE", "/api/v1/connections/s99-0-0", None, 404, "not_found");
    api.refused("DELETE", "/api/v1/connections/x", None, 400, "bad_request");
}
