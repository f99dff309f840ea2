//! Entering and leaving rooms, `switch`, roles, and the list of rooms.

use serde_json::json;

use crate::harness::{Client, Server};

#[test]
fn join_says_where_the_room_is() {
    let server = Server::with_shards(2);
    let mut ann = server.ws_as("ann");
    let first = ann.join("lobby");
    assert_eq!(first["room"], "lobby");
    assert_eq!((&first["seq"], &first["members"], &first["role"]), (&json!(0), &json!(1), &json!("host")));
    let epoch = first["epoch"].as_str().unwrap();
    assert!(epoch.len() == 16 && epoch.bytes().all(|b| b.is_ascii_hexdigit()), "{}", first.text);
    assert_eq!(first.get("recovered"), None, "without `since` there is nothing to recover");
    ann.say_and_wait("lobby", 1);
    let mut bob = server.tcp_as("bob");
    let second = bob.join("lobby");
    assert_eq!((&second["seq"], &second["members"], &second["role"]), (&json!(1), &json!(2), &json!("member")));
    assert_eq!(second["epoch"], first["epoch"]);
    // A user counts once.
    assert_eq!(server.ws_as("bob").join("lobby")["members"], 2);
    assert_ne!(ann.join("den")["epoch"], first["epoch"]);
}

#[test]
fn joins_against_the_rules_are_refused() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    ann.refused(json!({"type": "join", "room": "lobby"}), "bad_request");
    for room in ["", "@", " x", "a\u{7}b", &"x".repeat(129)] {
        ann.refused(json!({"type": "join", "room": room}), "bad_request");
    }
    ann.refused(json!({"type": "join"}), "bad_request");
    ann.refused(json!({"type": "join", "room": null}), "bad_request");
    ann.refused(json!({"type": "join", "room": "x", "since": 5}), "bad_request");
    ann.refused(json!({"type": "join", "room": "x", "since": {"epoch": "z", "seq": 1}}), "bad_request");
    ann.refused(json!({"type": "join", "room": "x", "history": -1}), "bad_request");
    ann.refused(json!({"type": "join", "room": "x", "tags": "goal"}), "bad_request");
    ann.refused(json!({"type": "leave", "room": "x"}), "not_member");
    ann.join(&"x".repeat(128));
}

#[test]
fn a_connection_may_be_in_so_many_rooms() {
    let server = Server::with_shards(2);
    let mut ann = server.ws_as("ann");
    for n in 0..128 {
        ann.join(&format!("room {n}"));
    }
    ann.refused(json!({"type": "join", "room": "one more"}), "room_full");
    // A switch needs no more room than there is.
    ann.ok(json!({"type": "switch", "from": "room 5", "to": "one more"}));
    ann.refused(json!({"type": "join", "room": "room 5"}), "room_full");
    ann.ok(json!({"type": "leave", "room": "room 6"}));
    ann.join("room 5");
}

#[test]
fn switch_leaves_and_enters_in_one_step() {
    for shards in [1, 4] {
        let server = Server::with_shards(shards);
        let mut talker = server.member("talker", "old");
        talker.join("new");
        for round in 0..20 {
            let mut ann = server.member("ann", "old");
            // Both rooms are busy around the switch.
            for n in 0..10 {
                talker.say("old", n);
                talker.say("new", n);
            }
            let id = ann.send_with_id(json!({"type": "switch", "from": "old", "to": "new", "history": 3}));
            for n in 10..20 {
                talker.say("old", n);
                talker.say("new", n);
            }
            let last = talker.say_and_wait("new", "last");
            let (mut before, mut after) = (Vec::new(), Vec::new());
            let ok = loop {
                let event = ann.next();
                if event["id"] == id {
                    break event;
                }
                before.push(event);
            };
            assert_eq!((ok.kind(), &ok["room"]), ("ok", &json!("new")), "{}", ok.text);
            while after.last().is_none_or(|seq| *seq < last) {
                let event = ann.expect("message");
                assert_eq!(event["room"], "new", "round {round}: {} came after the switch", event.text);
                after.push(event.seq());
            }
            assert!(before.iter().all(|event| event["room"] == "old"), "round {round}: {before:?}");
            let start = ok.seq() - ok.seq().min(3) + 1;
            assert!(after.iter().copied().eq(start..=last), "round {round}: from {start} to {last}: {after:?}");
            ann.refused(json!({"type": "message", "room": "old", "content": 1}), "not_member");
            talker.fence();
        }
    }
}

#[test]
fn a_refused_switch_stays_where_it_was() {
    let server = Server::with_shards(2);
    let mut ann = server.member("ann", "old");
    ann.join("other");
    ann.refused(json!({"type": "switch", "from": "old", "to": "@bob"}), "forbidden");
    ann.refused(json!({"type": "switch", "from": "old", "to": "other"}), "bad_request");
    ann.refused(json!({"type": "switch", "from": "old", "to": "old"}), "bad_request");
    ann.refused(json!({"type": "switch", "from": "nowhere", "to": "new"}), "not_member");
    ann.refused(json!({"type": "switch", "from": "old"}), "bad_request");
    ann.refused(json!({"type": "switch", "to": "new"}), "bad_request");
    for room in ["old", "other"] {
        ann.say(room, "still here");
        assert_eq!(ann.expect("message")["room"], room);
    }
    ann.refused(json!({"type": "message", "room": "new", "content": 1}), "not_member");
}

fn may_delete_what_others_wrote(client: &mut Client, seq: u64) -> bool {
    client.ask(json!({"type": "delete", "room": "lobby", "seq": seq})).kind() == "ok"
}

#[test]
fn the_longest_standing_member_becomes_host() {
    let server = Server::with(["--shards=2", "--limits-presence-grace=0s"]);
    let mut guest = server.member("ann", "lobby");
    let mut bob = server.member("bob", "lobby");
    let mut cat = server.member("cat", "lobby");
    let seq = guest.say_and_wait("lobby", "mine");
    assert!(!may_delete_what_others_wrote(&mut bob, seq));
    guest.ok(json!({"type": "leave", "room": "lobby"}));
    assert!(!may_delete_what_others_wrote(&mut cat, seq));
    assert!(may_delete_what_others_wrote(&mut bob, seq));
    // Who comes back is the last in line.
    assert_eq!(guest.join("lobby")["role"], "member");
    bob.close();
    let rooms = |client: &mut Client| client.ok(json!({"type": "presence", "room": "lobby"}))["count"].as_u64();
    crate::harness::until("bob to be gone", || (rooms(&mut guest) == Some(2)).then_some(()));
    let seq = guest.say_and_wait("lobby", "mine");
    assert!(may_delete_what_others_wrote(&mut cat, seq));
}

#[test]
fn a_host_that_reconnects_in_time_is_still_host() {
    let server = Server::with(["--limits-presence-grace=60s"]);
    let mut host = server.member("ann", "lobby");
    let mut bob = server.member("bob", "lobby");
    host.close();
    server.metrics_until("ann to be gone", |metrics| metrics.sum("hubbub_connections", &[("kind", "chat_ws")]) == 1);
    assert_eq!(server.ws_as("ann").join("lobby")["role"], "host");
    bob.ok(json!({"type": "leave", "room": "lobby"}));
}

#[test]
fn rooms_are_listed_over_all_shards_in_the_order_of_names() {
    let server = Server::with_shards(4);
    let mut ann = server.ws_as("ann");
    let mut names: Vec<String> = (0..50).map(|n| format!("room {n}")).collect();
    for name in &names {
        ann.join(name);
    }
    server.member("bob", "room 7").join("room 9");
    names.sort_unstable();
    let all = ann.ok(json!({"type": "rooms"}));
    let rooms = all["rooms"].as_array().unwrap();
    assert!(rooms.iter().map(|room| room["room"].as_str().unwrap()).eq(names.iter().map(String::as_str)));
    assert_eq!(all.get("next"), None, "{}", all.text);
    // Bob stays present for a while after his connection has gone.
    for room in rooms {
        let members = if room["room"] == "room 7" || room["room"] == "room 9" { 2 } else { 1 };
        assert_eq!(room["members"], members, "{room}");
    }
    let (mut paged, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = ann.ok(json!({"type": "rooms", "limit": 7, "after": after}));
        let rooms = page["rooms"].as_array().unwrap();
        assert!(rooms.len() <= 7);
        paged.extend(rooms.iter().map(|room| room["room"].as_str().unwrap().to_owned()));
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
        assert_eq!(after.as_ref(), paged.last());
    }
    assert_eq!(paged, names);
    ann.refused(json!({"type": "rooms", "limit": "x"}), "bad_request");
}

#[test]
fn a_room_without_members_and_history_is_gone() {
    let server = Server::with(["--shards=2", "--limits-presence-grace=0s"]);
    let mut ann = server.member("ann", "empty");
    ann.join("kept");
    ann.say_and_wait("kept", 1);
    let epochs = ["empty", "kept"].map(|room| {
        ann.ok(json!({"type": "leave", "room": room}));
        let epoch = ann.join(room)["epoch"].clone();
        ann.ok(json!({"type": "leave", "room": room}));
        epoch
    });
    assert_ne!(ann.join("empty")["epoch"], epochs[0], "nothing of it was left");
    assert_eq!(ann.join("kept")["epoch"], epochs[1], "its history keeps it");
    assert_eq!(ann.ok(json!({"type": "history", "room": "kept"}))["messages"][0]["content"], 1);
}
