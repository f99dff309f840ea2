//! The API on who may be where: kick, ban, mute, close, revoke.

use serde_json::{Value, json};

use crate::harness::{Api, Launch};

fn kinds(sanctions: &Value) -> Vec<String> {
    let word = |sanction: &Value, name: &str| sanction[name].as_str().unwrap_or("-").to_owned();
    let all = sanctions["sanctions"].as_array().unwrap();
    all.iter().map(|s| ["kind", "user", "room"].map(|name| word(s, name)).join(" ")).collect()
}

#[test]
fn a_kick_puts_out_and_a_ban_keeps_out_over_both_transports() {
    let api = Api::with([]);
    let mut ann = api.server.member("ann", "a");
    let mut bob = api.server.tcp_as("bob");
    bob.join("a");
    assert_eq!(api.post("/api/v1/rooms/a/kick", json!({"user": "bob"})), json!({"kicked": 1}));
    assert_eq!(bob.expect("kicked")["room"], "a");
    bob.join("a");
    for (user, client) in [("ann", &mut ann), ("bob", &mut bob)] {
        let ban = json!({"user": user, "for_ms": 600_000, "reason": "spam"});
        assert_eq!(api.post("/api/v1/rooms/a/ban", ban), json!({"done": true}));
        client.expect("kicked");
        let refusal = client.refused(json!({"type": "join", "room": "a"}), "forbidden");
        assert!(refusal["message"].as_str().unwrap().contains("spam"), "{}", refusal.text);
    }
    let room = api.get("/api/v1/rooms/a");
    assert_eq!(kinds(&room), ["ban ann a", "ban bob a"]);
    assert!(room["sanctions"][0]["until"].as_u64().unwrap() > 1_600_000_000_000);
    assert_eq!(kinds(&api.get("/api/v1/users/bob")), ["ban bob a"]);
    api.post("/api/v1/rooms/a/unban", json!({"user": "bob"}));
    bob.join("a");
    assert_eq!(kinds(&api.get("/api/v1/rooms/a")), ["ban ann a"]);
    api.refused("POST", "/api/v1/rooms/a/kick", Some(&json!({"user": "zoe"})), 404, "not_found");
    api.refused("POST", "/api/v1/rooms/nowhere/kick", Some(&json!({"user": "zoe"})), 404, "not_found");
    let endless = json!({"user": "zoe", "for_ms": 0});
    api.refused("POST", "/api/v1/rooms/a/ban", Some(&endless), 400, "bad_request");
    let wordy = json!({"user": "zoe", "reason": "x".repeat(300)});
    api.refused("POST", "/api/v1/rooms/a/ban", Some(&wordy), 400, "bad_request");
    let forged = json!({"user": "zoe", "reason": "x\ny"});
    api.refused("POST", "/api/v1/rooms/a/ban", Some(&forged), 400, "bad_request");
}

#[test]
fn no_host_undoes_what_an_operator_did() {
    let api = Api::with([]);
    let mut hosts = [api.server.ws_as("ann"), api.server.tcp_as("bob")];
    for (host, room) in hosts.iter_mut().zip(["a", "b"]) {
        host.join(room);
        api.post(&format!("/api/v1/rooms/{room}/ban"), json!({"user": "eve"}));
        for order in [json!({"type": "unban"}), json!({"type": "ban", "for_ms": 1})] {
            let mut order = order;
            order["room"] = json!(room);
            order["user"] = json!("eve");
            host.refused_saying(order, "forbidden", "only an operator can lift or change it");
        }
        assert_eq!(kinds(&api.get(&format!("/api/v1/rooms/{room}"))), [format!("ban eve {room}")]);
        host.ok(json!({"type": "mute", "room": room, "user": "eve"}));
        host.ok(json!({"type": "unmute", "room": room, "user": "eve"}));
    }
}

#[test]
fn the_muted_read_but_do_not_speak() {
    let api = Api::with([]);
    let mut ann = api.server.member("ann", "a");
    let mut bob = api.server.tcp_as("bob");
    bob.join("b");
    api.post("/api/v1/rooms/a/mute", json!({"user": "ann"}));
    api.ok("POST", "/api/v1/users/bob/mute", Some(&json!({"for_ms": 600_000})));
    for (client, room) in [(&mut ann, "a"), (&mut bob, "b")] {
        client.refused(json!({"type": "message", "room": room, "content": 1}), "forbidden");
        api.post("/api/v1/publish", json!({"room": room, "content": 1}));
        client.expect("message");
    }
    assert_eq!(kinds(&api.get("/api/v1/users/bob")), ["mute bob -"]);
    api.post("/api/v1/rooms/a/unmute", json!({"user": "ann"}));
    api.ok("POST", "/api/v1/users/bob/unmute", None);
    for (client, room) in [(&mut ann, "a"), (&mut bob, "b")] {
        client.say_and_wait(room, 2);
    }
}

#[test]
fn a_closed_room_is_left_by_everyone_and_keeps_what_was_said() {
    let api = Api::with([]);
    let mut ann = api.server.member("ann", "a");
    let mut bob = api.server.tcp_as("bob");
    bob.join("a");
    ann.say_and_wait("a", 1);
    bob.expect("message");
    assert_eq!(api.ok("POST", "/api/v1/rooms/a/close", None), json!({"done": true}));
    assert_eq!(bob.expect("closed")["room"], "a");
    ann.expect("message");
    assert_eq!(ann.expect("closed")["room"], "a");
    ann.refused(json!({"type": "message", "room": "a", "content": 2}), "not_member");
    assert_eq!(api.get("/api/v1/rooms/a/history")["messages"][0]["content"], 1);
    api.refused("POST", "/api/v1/rooms/nowhere/close", None, 404, "not_found");
}

#[test]
fn who_is_banned_from_the_server_stays_out_of_it_also_after_a_restart() {
    let launch = Launch::new();
    let api = Api::launch(&launch);
    let mut ann = api.server.ws_as("ann");
    let mut tcp = api.server.tcp_as("ann");
    assert_eq!(api.ok("POST", "/api/v1/users/ann/ban", None), json!({"done": true}));
    assert_eq!(ann.close_code(), Some(4502));
    tcp.end();
    assert_eq!(kinds(&api.get("/api/v1/users/ann")), ["ban ann -"]);
    api.server.stop();
    let api = Api::launch(&launch);
    assert_eq!(kinds(&api.get("/api/v1/users/ann")), ["ban ann -"]);
    for mut client in [api.server.ws(), api.server.tcp()] {
        client.refused(json!({"type": "connect", "name": "ann"}), "forbidden");
    }
    api.ok("POST", "/api/v1/users/ann/unban", None);
    api.server.ws_as("ann");
    assert_eq!(kinds(&api.get("/api/v1/users/ann")), Vec::<String>::new());
}

#[test]
fn revocations_are_kept() {
    let api = Api::with([]);
    api.ok("POST", "/api/v1/users/ann/revoke", Some(&json!({"for_ms": 600_000})));
    let user = api.get("/api/v1/users/ann");
    assert_eq!(kinds(&user), ["revoke ann -"]);
    assert!(user["sanctions"][0]["before"].as_u64().unwrap() > 1_600_000_000_000);
    api.ok("POST", "/api/v1/tokens/token%2F1/revoke", None);
    api.refused("POST", &format!("/api/v1/tokens/{}/revoke", "x".repeat(257)), None, 400, "bad_request");
    api.ok("POST", "/api/v1/users/bob/ban", None);
    api.ok("POST", "/api/v1/users/ann/mute", None);
    api.post("/api/v1/rooms/a/ban", json!({"user": "carl"}));
    let page = |query: &str| {
        let page = api.get(&format!("/api/v1/sanctions{query}"));
        (kinds(&page), page["next"].as_str().map(str::to_owned))
    };
    let of_users = ["mute ann -", "revoke ann -", "ban bob -"];
    assert_eq!(page(""), ([&of_users[..], &["revoke - -"]].concat().into_iter().map(String::from).collect(), None));
    assert_eq!(page("?limit=1").1.as_deref(), Some("user:ann"));
    assert_eq!(page("?limit=2").1.as_deref(), Some("user:bob"));
    assert_eq!(page("?after=user:ann&limit=1"), (vec!["ban bob -".into()], Some("user:bob".into())));
    assert_eq!(page("?after=user:bob&limit=1"), (vec!["revoke - -".into()], None));
    assert_eq!(page("?after=token:token/1"), (vec![], None));
    api.refused("GET", "/api/v1/sanctions?after=ann", None, 400, "bad_request");
    // A name without a token is no token.
    api.server.ws_as("ann");
}
