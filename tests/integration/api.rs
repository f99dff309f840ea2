//! The API as such: who may use it, what it says when it refuses, batches, and its client in the terminal.

use serde_json::{Value, json};

use crate::harness::{Api, KEY, READING_KEY, Server, http, keys_file, run_to_end, until};

#[test]
fn without_keys_everything_but_the_document_is_closed() {
    let server = Server::start();
    for path in ["/api/v1/rooms", "/api/v1/publish", "/api/v1/nothing"] {
        let response = http(server.admin(), "GET", path, &[]);
        assert_eq!(response.status, 403, "{path}");
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        let problem: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&json!("no_admin_key"), &json!(403)));
        assert_eq!(problem["type"], "urn:hubbub:problem:no_admin_key");
        assert!(problem["detail"].as_str().unwrap().contains("--admin-key-file"));
    }
    let document = http(server.admin(), "GET", "/api/v1/openapi.json", &[]);
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    assert!(document.text().starts_with("{\"openapi\":\"3.1"), "{}", &document.text()[..60]);
}

#[test]
fn a_wrong_key_is_told_so_and_nothing_is_logged_of_it() {
    let mut api = Api::with(["--log-format=json"]);
    let wrong = "0123456789 not a key";
    for headers in [vec![], vec![("Authorization", wrong)], vec![("Authorization", "Bearer 0123456789 not a key")]] {
        let response = http(api.server.admin(), "GET", "/api/v1/rooms", &headers);
        assert_eq!((response.status, response.header("www-authenticate")), (401, Some("Bearer")));
        assert_eq!(api.checked("GET", "/api/v1/rooms", &response)["code"], "unauthorized");
    }
    api.get("/api/v1/rooms?limit=3");
    let said = until("the records", || {
        let said = api.server.stderr().to_owned();
        said.contains("\"by\":\"ops\"").then_some(said)
    });
    let records: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let audit: Vec<&Value> = records.iter().filter(|record| record["target"] == "hubbub::audit").collect();
    let of = |record: &&&Value| (record["outcome"].clone(), record["status"].clone());
    assert_eq!(audit.iter().filter(|record| of(record) == (json!("refused"), json!(401))).count(), 3, "{said}");
    let call = audit.iter().find(|record| record["by"] == "ops").unwrap();
    assert_eq!(
        (&call["event"], &call["method"], &call["path"]),
        (&json!("admin"), &json!("GET"), &json!("/api/v1/rooms"))
    );
    assert_eq!(of(&call), (json!("done"), json!(200)));
    assert!(!said.contains(KEY) && !said.contains(READING_KEY) && !said.contains(wrong), "{said}");
}

#[test]
fn a_key_that_only_reads_changes_nothing() {
    let api = Api::with([]).reading();
    api.get("/api/v1/rooms");
    let message = json!({"room": "a", "content": 1});
    let detail = api.refused("POST", "/api/v1/publish", Some(&message), 403, "read_only");
    assert!(detail.contains("ro"), "{detail}");
    let batch = json!({"requests": [
        {"method": "GET", "path": "/rooms"},
        {"method": "POST", "path": "/publish", "body": message},
    ]});
    let answers = api.post("/api/v1/batch", batch);
    assert_eq!(statuses(&answers), [200, 403], "{answers}");
    api.refused("GET", "/api/v1/rooms/a", None, 404, "not_found");
}

#[test]
fn keys_can_be_replaced_while_the_server_runs() {
    let file = keys_file("old:0123456789abcdef\n");
    let server = Server::with(["--admin-key-file", file.to_str().unwrap()]);
    let ask = |method, path, key: &str| {
        let key = format!("Bearer {key}");
        http(server.admin(), method, path, &[("Authorization", &key)]).status
    };
    std::fs::write(&file, "new:fedcba9876543210\n").unwrap();
    assert_eq!(ask("GET", "/api/v1/rooms", "fedcba9876543210"), 401);
    assert_eq!(ask("POST", "/api/v1/reload", "0123456789abcdef"), 200);
    assert_eq!(ask("GET", "/api/v1/rooms", "fedcba9876543210"), 200);
    assert_eq!(ask("GET", "/api/v1/rooms", "0123456789abcdef"), 401);
    std::fs::write(&file, "short\n").unwrap();
    assert_eq!(ask("POST", "/api/v1/reload", "fedcba9876543210"), 422);
    assert_eq!(ask("GET", "/api/v1/rooms", "fedcba9876543210"), 200, "a bad file changes nothing");
}

#[test]
fn what_cannot_be_understood_is_told_where() {
    let api = Api::with([]);
    let detail = |body: &str| {
        let response = api.send("POST", "/api/v1/publish", body);
        let problem = api.checked("POST", "/api/v1/publish", &response);
        assert_eq!((response.status, &problem["code"]), (400, &json!("bad_request")), "{body}: {problem}");
        problem["detail"].as_str().unwrap().to_owned()
    };
    assert!(detail("{\"room\": \"a\",\n x}").contains("line 2 column 2"));
    assert!(detail("{\"room\": 5, \"content\": 1}").contains("room"));
    assert!(detail("{\"room\": \"a\"}").contains("content"));
    assert!(detail("{\"room\": \"a\", \"content\": 1, \"colour\": 2}").contains("colour"));
    assert!(detail("").contains("line 1"));
    assert!(detail("{\"room\": \"a\\nb\", \"content\": 1}").contains("control character"));
    assert!(detail("{\"room\": \"a\", \"content\": 1, \"sender\": \" x\"}").contains("sender"));
    let key = "k".repeat(129);
    assert!(detail(&json!({"room": "a", "content": 1, "key": key}).to_string()).contains("key"));
    let nested = format!("{{\"room\": \"a\", \"content\": {}1{}}}", "[".repeat(100), "]".repeat(100));
    assert!(detail(&nested).contains("nests deeper"));
    for (path, about) in [
        ("/api/v1/rooms?limit=many", "limit"),
        ("/api/v1/rooms?colour=1", "colour"),
        ("/api/v1/rooms?after=%0a", "room"),
        ("/api/v1/rooms/a/history?before=1&after=2", "before"),
        ("/api/v1/rooms/%ff", "UTF-8"),
        ("/api/v1/connections?after=x", "s0-12-3"),
        ("/api/v1/users/%20", "user"),
    ] {
        let detail = api.refused("GET", path, None, 400, "bad_request");
        assert!(detail.contains(about), "{path}: {detail}");
    }
    api.refused("DELETE", "/api/v1/rooms", None, 405, "method_not_allowed");
    api.refused("GET", "/api/v1/elsewhere", None, 404, "not_found");
}

#[test]
fn what_is_too_large_is_refused() {
    let api = Api::with(["--max-message-bytes=2000"]);
    let content = |bytes: usize| json!({"room": "a", "content": "x".repeat(bytes - 2)});
    api.post("/api/v1/publish", content(2_000));
    let detail = api.refused("POST", "/api/v1/publish", Some(&content(2_001)), 413, "too_large");
    assert!(detail.contains("2001") && detail.contains("2000"), "{detail}");
    api.refused("POST", "/api/v1/publish", Some(&content(1_100_000)), 413, "too_large");
}

#[test]
fn a_batch_is_answered_in_order() {
    let api = Api::with([]);
    let publish =
        |content: Value| json!({"method": "POST", "path": "/publish", "body": {"room": "a", "content": content}});
    let requests = json!([
        publish(json!(1)),
        {"method": "GET", "path": "/api/v1/rooms/a/history"},
        {"method": "GET", "path": "/rooms/nowhere"},
        {"method": "POST", "path": "/batch", "body": {"requests": []}},
        {"method": "NO METHOD", "path": "/rooms"},
        {"method": "GET", "path": "/rooms/a b"},
        publish(json!(2)),
    ]);
    let answers = api.post("/api/v1/batch", json!({"requests": requests}));
    assert_eq!(statuses(&answers), [200, 200, 404, 404, 400, 400, 200], "{answers}");
    let bodies = |at: usize| &answers["responses"][at]["body"];
    api.check("GET", "/api/v1/rooms/a/history", 200, "application/json", bodies(1));
    assert_eq!(bodies(1)["messages"][0]["content"], 1);
    assert_eq!((&bodies(2)["code"], &bodies(6)["seq"]), (&json!("not_found"), &json!(2)));
    let stopped = api.post("/api/v1/batch", json!({"requests": requests, "stop_on_error": true}));
    assert_eq!(statuses(&stopped), [200, 200, 404]);
    let many = vec![json!({"method": "GET", "path": "/rooms"}); 101];
    let detail = api.refused("POST", "/api/v1/batch", Some(&json!({"requests": many})), 400, "bad_request");
    assert!(detail.contains("100"), "{detail}");
}

#[test]
fn the_terminal_asks_and_says_how_it_went() {
    let api = Api::with([]);
    let keys = keys_file(&format!("{KEY}\n"));
    let run = |arguments: &[&str]| {
        let (url, keys) = (api.url(), keys.display().to_string());
        let output = run_to_end(&[&["admin", "--url", &url, "--key-file", &keys], arguments].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, said, _) = run(&["publish", "größe 1", "hallo", "--sender", "ann"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["seq"], &said["room"]), (0, &json!(1), &json!("größe 1")));
    let (code, said, _) = run(&["history", "größe 1", "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["messages"][0]["content"]), (0, &json!("hallo")));
    let (code, said, complaint) = run(&["room", "nowhere"]);
    assert!(
        code == 1 && said.is_empty() && complaint.contains("404") && complaint.contains("no such room"),
        "{complaint}"
    );
    let (code, _, complaint) = run(&["publish", "a", "{", "--raw"]);
    assert!(code == 1 && complaint.contains("line 1"), "{complaint}");
    let output = run_to_end(&["admin", "--url", &api.url(), "rooms"]);
    assert_eq!(output.status.code(), Some(2), "without a key it cannot even ask");
    let output = run_to_end(&["admin", "--url", "http://127.0.0.1:1", "--key-file", keys.to_str().unwrap(), "rooms"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

fn statuses(answers: &Value) -> Vec<u64> {
    answers["responses"].as_array().unwrap().iter().map(|answer| answer["status"].as_u64().unwrap()).collect()
}
