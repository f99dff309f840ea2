//! Pages of the past.

use serde_json::{Value, json};

use crate::harness::{Client, Server};

fn page(client: &mut Client, query: Value) -> (Vec<u64>, bool) {
    let mut command = json!({"type": "history", "room": "lobby"});
    for (name, value) in query.as_object().unwrap() {
        command[name] = value.clone();
    }
    let page = client.ok(command);
    let seqs = page["messages"].as_array().unwrap().iter().map(|message| message["seq"].as_u64().unwrap());
    (seqs.collect(), page["more"].as_bool().unwrap())
}

fn talk(client: &mut Client, messages: u64) {
    for n in 1..=messages {
        client.send(&json!({"type": "message", "room": "lobby", "content": n, "echo": false}));
    }
    client.fence_room("lobby");
}

#[test]
fn pages_run_both_ways_oldest_first() {
    for shards in [1, 3] {
        let server = Server::with_shards(shards);
        let mut ann = server.member("ann", "lobby");
        talk(&mut ann, 100);
        let range = |from: u64, to: u64| (from..=to).collect::<Vec<_>>();
        assert_eq!(page(&mut ann, json!({})), (range(51, 100), true), "the latest, fifty unless said otherwise");
        assert_eq!(page(&mut ann, json!({"limit": 3})), (range(98, 100), true));
        assert_eq!(page(&mut ann, json!({"before": 98, "limit": 3})), (range(95, 97), true));
        assert_eq!(page(&mut ann, json!({"before": 3, "limit": 3})), (range(1, 2), false));
        assert_eq!(page(&mut ann, json!({"before": 1})), (vec![], false));
        assert_eq!(page(&mut ann, json!({"after": 0, "limit": 3})), (range(1, 3), true));
        assert_eq!(page(&mut ann, json!({"after": 97, "limit": 5})), (range(98, 100), false));
        assert_eq!(page(&mut ann, json!({"after": 100})), (vec![], false));
        assert_eq!(page(&mut ann, json!({"after": 5000})), (vec![], false));
        assert_eq!(page(&mut ann, json!({"before": 5000, "limit": 2})), (range(99, 100), true));
        assert_eq!(page(&mut ann, json!({"limit": 100})), (range(1, 100), false));
        ann.refused(json!({"type": "history", "room": "lobby", "before": 5, "after": 1}), "bad_request");
        ann.refused(json!({"type": "history", "room": "lobby", "before": -1}), "bad_request");
        ann.refused(json!({"type": "history"}), "bad_request");
    }
}

#[test]
fn a_page_shows_messages_as_members_got_them() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    ann.send_text(r#"{"type":"message","room":"lobby","content":{"a":  1.50},"tag":"t","key":"k"}"#);
    let live = ann.expect("message");
    let mut bob = server.tcp_as("bob");
    let joined = bob.join("lobby");
    let page = bob.ok(json!({"type": "history", "room": "lobby"}));
    assert_eq!((&page["room"], &page["epoch"]), (&joined["room"], &joined["epoch"]));
    assert!(page.text.contains("\"content\":{\"a\":  1.50}"), "{}", page.text);
    let mut kept = page["messages"][0].clone();
    kept["type"] = json!("message");
    assert_eq!(kept, live.value);
}

#[test]
fn a_page_is_clamped() {
    let server = Server::with(["--limits-history-size=3000", "--limits-history-bytes=10000000"]);
    let mut ann = server.member("ann", "lobby");
    talk(&mut ann, 1_500);
    let (seqs, more) = page(&mut ann, json!({"after": 0, "limit": 1_000_000}));
    assert!(seqs.iter().copied().eq(1..=1_000) && more, "{} messages", seqs.len());
    assert_eq!(page(&mut ann, json!({"limit": 0})), (vec![], true));
}

#[test]
fn only_so_much_is_kept() {
    let server = Server::with(["--history=memory", "--limits-history-size=10"]);
    let mut ann = server.member("ann", "lobby");
    talk(&mut ann, 25);
    assert_eq!(page(&mut ann, json!({"after": 0})), ((16..=25).collect(), false));
    assert_eq!(page(&mut ann, json!({"before": 16})), (vec![], false));
    ann.refused(json!({"type": "delete", "room": "lobby", "seq": 15}), "not_found");

    let server = Server::with(["--history=memory", "--limits-history-bytes=5000"]);
    let mut ann = server.member("ann", "lobby");
    for _ in 0..20 {
        ann.say_and_wait("lobby", "x".repeat(1_000));
    }
    let (seqs, _) = page(&mut ann, json!({"after": 0}));
    assert!(seqs.ends_with(&[18, 19, 20]) && seqs.len() <= 5, "{seqs:?}");

    let server = Server::with(["--history=off"]);
    let mut ann = server.member("ann", "lobby");
    assert_eq!(ann.say_and_wait("lobby", 1), 1);
    assert_eq!(ann.say_and_wait("lobby", 2), 2);
    assert_eq!(page(&mut ann, json!({"after": 0})), (vec![], false));
}

#[test]
fn a_join_may_ask_for_the_latest_messages() {
    for shards in [1, 3] {
        let server = Server::with_shards(shards);
        let mut ann = server.member("ann", "lobby");
        talk(&mut ann, 200);
        for (history, first) in [(0, 201), (1, 200), (70, 131), (10_000, 1)] {
            let mut bob = server.tcp_as("bob");
            let ok = bob.ok(json!({"type": "join", "room": "lobby", "history": history}));
            assert_eq!((ok.seq(), ok.get("recovered")), (200, None), "{}", ok.text);
            let replayed = bob.messages(201 - first);
            assert!(replayed.iter().map(|message| message.seq()).eq(first as u64..=200));
            bob.expect_silence();
        }
    }
}
