//! Who is in a room: pages, pushes, and reconnects that do not show.

use serde_json::{Value, json};

use crate::harness::{Client, Event, Server};

fn watcher(server: &Server, name: &str, room: &str) -> Client {
    let mut client = server.ws_as(name);
    client.ok(json!({"type": "join", "room": room, "presence": true}));
    client
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

/// Pushes until `count` users are there; all of them.
fn pushes_until(client: &mut Client, count: u64) -> Vec<Event> {
    let mut pushes = vec![client.expect("presence")];
    while pushes.last().is_some_and(|push| push["count"] != count) {
        pushes.push(client.expect("presence"));
    }
    pushes
}

fn all<'p>(pushes: &'p [Event], list: &str) -> Vec<&'p str> {
    let mut all: Vec<_> = pushes.iter().flat_map(|push| names(&push[list])).collect();
    all.sort_unstable();
    all
}

#[test]
fn pages_list_each_user_once_in_the_order_of_names() {
    let server = Server::with_shards(3);
    let mut ann = server.member("ann", "lobby");
    let mut others: Vec<Client> = (0..30).map(|n| server.member(&format!("user {:02}", n / 2), "lobby")).collect();
    let page = ann.ok(json!({"type": "presence", "room": "lobby"}));
    assert_eq!((&page["count"], page.get("next")), (&json!(16), None), "{}", page.text);
    let mut expected: Vec<String> = (0..15).map(|n| format!("user {n:02}")).collect();
    expected.insert(0, "ann".to_owned());
    let users = page["users"].as_array().unwrap();
    assert!(users.iter().map(|user| user["user"].as_str().unwrap()).eq(expected.iter().map(String::as_str)));
    assert!(users.iter().all(|user| user["since"].as_u64().is_some_and(|since| since > 1_600_000_000_000)));
    let first = ann.ok(json!({"type": "presence", "room": "lobby", "limit": 10}));
    assert_eq!((first["users"].as_array().map(Vec::len), &first["next"]), (Some(10), &json!("user 08")));
    let rest = others[0].ok(json!({"type": "presence", "room": "lobby", "limit": 10, "after": "user 08"}));
    assert_eq!((rest["users"].as_array().map(Vec::len), rest.get("next")), (Some(6), None), "{}", rest.text);
    assert_eq!((&rest["users"][0]["user"], &rest["count"]), (&json!("user 09"), &json!(16)));
    ann.refused(json!({"type": "presence", "room": "lobby", "after": ""}), "bad_request");
}

#[test]
fn comings_and_goings_are_pushed_to_those_who_asked() {
    let server = Server::with_shards(2);
    let mut watcher = watcher(&server, "ann", "lobby");
    let mut plain = server.member("bob", "lobby");
    let mut cat = server.member("cat", "lobby");
    let pushes = pushes_until(&mut watcher, 3);
    assert_eq!((all(&pushes, "joined"), all(&pushes, "left")), (vec!["bob", "cat"], vec![]), "{pushes:?}");
    assert!(pushes.iter().all(|push| push["room"] == "lobby"), "{pushes:?}");
    cat.ok(json!({"type": "leave", "room": "lobby"}));
    let pushes = pushes_until(&mut watcher, 2);
    assert_eq!((all(&pushes, "joined"), all(&pushes, "left")), (vec![], vec!["cat"]), "{pushes:?}");
    assert!(plain.fence_room("lobby").is_empty(), "nothing is pushed to who did not ask");
}

#[test]
fn a_burst_comes_in_one_push_or_two() {
    let server = Server::start();
    let mut watcher = watcher(&server, "ann", "lobby");
    let crowd: Vec<Client> = (0..50).map(|n| server.member(&format!("user {n}"), "lobby")).collect();
    let pushes = pushes_until(&mut watcher, 51);
    assert_eq!(all(&pushes, "joined").len(), 50);
    assert!(pushes.len() <= 3, "fifty users came within moments and made {} pushes", pushes.len());
    drop(crowd);
}

#[test]
fn a_reconnect_in_time_does_not_show() {
    let server = Server::with(["--shards=2", "--limits-presence-grace=60s"]);
    let mut watcher = watcher(&server, "ann", "lobby");
    let mut bob = server.member("bob", "lobby");
    pushes_until(&mut watcher, 2);
    bob.close();
    server.metrics_until("bob to be gone", |metrics| metrics.sum("hubbub_connections", &[("kind", "chat_ws")]) == 1);
    let page = watcher.ok(json!({"type": "presence", "room": "lobby"}));
    assert_eq!(page["count"], 2, "bob is expected back: {}", page.text);
    let _bob = server.member("bob", "lobby");
    // Somebody who comes later is told alone.
    let _cat = server.member("cat", "lobby");
    let pushes = pushes_until(&mut watcher, 3);
    assert_eq!((all(&pushes, "joined"), all(&pushes, "left")), (vec!["cat"], vec![]), "{pushes:?}");
}

#[test]
fn who_does_not_come_back_in_time_is_gone() {
    let server = Server::with(["--limits-presence-grace=200ms"]);
    let mut watcher = watcher(&server, "ann", "lobby");
    let bobs = [server.member("bob", "lobby"), server.member("bob", "lobby")];
    assert_eq!(all(&pushes_until(&mut watcher, 2), "joined"), ["bob"]);
    drop(bobs);
    assert_eq!(all(&pushes_until(&mut watcher, 1), "left"), ["bob"]);
}

#[test]
fn one_connection_of_several_may_leave_unseen() {
    let server = Server::with(["--limits-presence-grace=0s"]);
    let mut watcher = watcher(&server, "ann", "lobby");
    let mut bob = server.member("bob", "lobby");
    let mut other_bob = server.member("bob", "lobby");
    pushes_until(&mut watcher, 2);
    bob.ok(json!({"type": "leave", "room": "lobby"}));
    let _cat = server.member("cat", "lobby");
    let pushes = pushes_until(&mut watcher, 3);
    assert_eq!((all(&pushes, "joined"), all(&pushes, "left")), (vec!["cat"], vec![]), "{pushes:?}");
    other_bob.ok(json!({"type": "leave", "room": "lobby"}));
    assert_eq!(all(&pushes_until(&mut watcher, 2), "left"), ["bob"]);
}
