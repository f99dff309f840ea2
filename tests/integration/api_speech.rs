//! The API on what is said: publish, broadcast, rooms, history, presence.

use serde_json::{Value, json};

use crate::harness::{Api, Launch};

#[test]
fn members_get_what_the_operator_says_over_both_transports() {
    let api = Api::with([]);
    let mut ann = api.server.member("ann", "lobby");
    let mut bob = api.server.tcp_as("bob");
    bob.join("lobby");
    let content = json!({"x": [1, "ü", null]});
    let message = json!({"room": "lobby", "content": content, "key": "k-1", "tag": "news"});
    let first = api.post("/api/v1/publish", message.clone());
    assert_eq!((&first["room"], &first["seq"]), (&json!("lobby"), &json!(1)));
    assert_eq!((&first["durable"], &first["duplicate"]), (&json!(true), &json!(false)));
    let second = api.post("/api/v1/publish", message);
    assert_eq!((&second["seq"], &second["duplicate"]), (&json!(1), &json!(true)), "the key was used");
    let named = api.post("/api/v1/publish", json!({"room": "lobby", "content": 2, "sender": "clock", "key": "k-1"}));
    assert_eq!(named["seq"], 2, "another sender's key is another key");
    for client in [&mut ann, &mut bob] {
        let got = client.messages(2);
        assert_eq!((&got[0]["sender"], &got[0]["content"]), (&json!("operator"), &content));
        assert_eq!((&got[0]["key"], &got[0]["tag"]), (&json!("k-1"), &json!("news")));
        assert_eq!((&got[1]["sender"], got[1].seq()), (&json!("clock"), 2));
        client.expect_silence();
    }
    // Between tokens a line may end; on TCP it may not.
    let response = api.send("POST", "/api/v1/publish", "{\"room\":\"lobby\",\"content\":{\"a\":\r\n1}}");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(bob.expect("message")["content"], json!({"a": 1}));
    assert_eq!(ann.expect("message")["content"], json!({"a": 1}));
}

#[test]
fn rooms_that_are_not_kept_answer_at_once() {
    let api = Api::with(["--history=memory"]);
    let sent = api.post("/api/v1/publish", json!({"room": "a", "content": 1}));
    assert_eq!((&sent["seq"], &sent["durable"]), (&json!(1), &json!(false)));
    let room = api.get("/api/v1/rooms/a");
    assert_eq!((&room["seq"], &room["policy"]["history"]), (&json!(1), &json!("memory")));
    api.refused("GET", "/api/v1/rooms/a/dead-letters", None, 404, "not_found");
}

#[test]
fn a_broadcast_is_answered_by_each_room() {
    let api = Api::with([]);
    let rooms = ["team-a", "team-b", "other"];
    let mut members: Vec<_> = rooms.iter().map(|room| api.server.member(&format!("of {room}"), room)).collect();
    let said = api.post("/api/v1/broadcast", json!({"rooms": ["team-a", "\n", "other"], "content": 1, "key": "b"}));
    assert_eq!((&said["published"], &said["failed"]), (&json!(2), &json!(1)));
    let of = |answer: &Value, at: usize| answer["results"][at].clone();
    assert_eq!(of(&said, 0)["published"]["seq"], 1);
    assert_eq!(of(&said, 1)["problem"]["code"], "bad_request");
    assert_eq!((&of(&said, 2)["room"], &of(&said, 2)["published"]["duplicate"]), (&json!("other"), &json!(false)));
    let fitting = api.post("/api/v1/broadcast", json!({"pattern": "team-*", "content": 1, "key": "b"}));
    let names: Vec<Value> = (0..2).map(|at| of(&fitting, at)["room"].clone()).collect();
    assert_eq!((names, &fitting["published"]), (vec![json!("team-a"), json!("team-b")], &json!(2)));
    assert_eq!(of(&fitting, 0)["published"]["duplicate"], true, "the key keeps a second one out");
    assert!(fitting.get("next").is_none());
    for client in &mut members {
        assert_eq!(client.expect("message")["content"], 1);
        client.expect_silence();
    }
    for wrong in [json!({"content": 1}), json!({"content": 1, "rooms": [], "pattern": "*"})] {
        api.refused("POST", "/api/v1/broadcast", Some(&wrong), 400, "bad_request");
    }
    let many = vec!["a"; 1_001];
    api.refused("POST", "/api/v1/broadcast", Some(&json!({"content": 1, "rooms": many})), 400, "bad_request");
}

#[test]
fn a_broadcast_reaches_more_rooms_than_wait_at_once() {
    let api = Api::with(["--history=memory"]);
    let rooms: Vec<String> = (0..1_000).map(|n| format!("room-{n:03}")).collect();
    let said = api.post("/api/v1/broadcast", json!({"rooms": rooms, "content": 1}));
    assert_eq!((&said["published"], &said["failed"]), (&json!(1_000), &json!(0)));
    let asked: Vec<&str> = said["results"].as_array().unwrap().iter().map(|r| r["room"].as_str().unwrap()).collect();
    assert_eq!(asked, rooms, "answers are in the order of the rooms");
    api.post("/api/v1/publish", json!({"room": "room-x", "content": 1}));
    let fitting = api.post("/api/v1/broadcast", json!({"pattern": "room-*", "content": 2}));
    assert_eq!((&fitting["published"], &fitting["next"]), (&json!(1_000), &json!("room-999")));
    let rest = api.post("/api/v1/broadcast", json!({"pattern": "room-*", "content": 2, "after": "room-999"}));
    assert_eq!((&rest["published"], rest.get("next")), (&json!(1), None));
    let names = listed(&api, "/api/v1/rooms?limit=300&prefix=room-");
    assert_eq!((names.len(), &names[999], &names[1_000]), (1_001, &"room-999".to_owned(), &"room-x".to_owned()));
}

/// All rooms, page by page.
fn listed(api: &Api, path: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut target = path.to_owned();
    loop {
        let page = api.get(&target);
        names.extend(page["rooms"].as_array().unwrap().iter().map(|room| room["room"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => target = format!("{path}&after={next}"),
            None => return names,
        }
    }
}

#[test]
fn rooms_show_who_is_in_them() {
    let api = Api::with([]);
    let _ann = api.server.member("ann", "a");
    let mut again = api.server.tcp_as("ann");
    again.join("a");
    let mut bob = api.server.member("bob", "a");
    bob.join("b");
    bob.say_and_wait("a", 1);
    let room = api.get("/api/v1/rooms/a");
    let figures = ["members", "connections", "seq"].map(|name| room[name].as_u64().unwrap());
    assert_eq!(figures, [2, 3, 1]);
    assert_eq!(room["policy"], json!({"history": "durable", "commit": "fsync"}));
    assert_eq!(listed(&api, "/api/v1/rooms?limit=1"), ["a", "b"]);
    let page = api.get("/api/v1/rooms/a/presence?limit=1");
    assert_eq!((&page["users"][0]["user"], &page["count"], &page["next"]), (&json!("ann"), &json!(2), &json!("ann")));
    let rest = api.get("/api/v1/rooms/a/presence?after=ann");
    assert_eq!((&rest["users"][0]["user"], rest.get("next")), (&json!("bob"), None));
    assert!(rest["users"][0]["since"].as_u64().unwrap() > 1_600_000_000_000);
    api.refused("GET", "/api/v1/rooms/c", None, 404, "not_found");
    bob.ok(json!({"type": "direct", "to": "ann", "content": "psst"}));
    assert_eq!(listed(&api, "/api/v1/rooms?limit=9").len(), 2, "inboxes are not listed unasked");
    assert_eq!(api.get("/api/v1/rooms/@ann")["seq"], 1);
}

#[test]
fn history_is_read_from_the_disk_too() {
    let launch = Launch::new();
    let api = Api::launch(&launch);
    let mut ann = api.server.member("ann", "a");
    for n in 1..=250 {
        ann.say("a", n);
    }
    ann.say_and_wait("a", 251);
    let seqs = |page: &Value| {
        let all: Vec<u64> = page["messages"].as_array().unwrap().iter().map(|m| m["seq"].as_u64().unwrap()).collect();
        (all.first().copied(), all.last().copied(), all.len(), page["more"] == true)
    };
    let pages = |api: &Api| {
        assert_eq!(seqs(&api.get("/api/v1/rooms/a/history")), (Some(152), Some(251), 100, true));
        assert_eq!(seqs(&api.get("/api/v1/rooms/a/history?after=0&limit=1000")), (Some(1), Some(251), 251, false));
        assert_eq!(seqs(&api.get("/api/v1/rooms/a/history?before=11&limit=20")), (Some(1), Some(10), 10, false));
        assert_eq!(seqs(&api.get("/api/v1/rooms/a/history?after=200&limit=3")), (Some(201), Some(203), 3, true));
    };
    pages(&api);
    api.server.stop();
    let api = Api::launch(&launch);
    pages(&api);
    let page = api.get("/api/v1/rooms/a/history?after=250");
    assert_eq!((&page["messages"][0]["content"], &page["messages"][0]["sender"]), (&json!(251), &json!("ann")));
    assert_eq!(api.get("/api/v1/rooms")["rooms"], json!([]), "reading a room does not keep it in memory");
    assert_eq!(api.get("/api/v1/rooms/a")["seq"], 251);
    assert_eq!(api.get("/api/v1/rooms/nowhere/history")["messages"], json!([]));
}
