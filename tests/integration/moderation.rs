//! Those who moderate a room: whom they put out, keep out and silence, and what those are told, over both transports.

use serde_json::{Value, json};

use crate::harness::{Client, Issuer, Launch, Server, TRANSPORTS, now_seconds, until};

fn order(kind: &str, user: &str) -> Value {
    json!({"type": kind, "room": "den", "user": user})
}

fn join() -> Value {
    json!({"type": "join", "room": "den"})
}

fn say() -> Value {
    json!({"type": "message", "room": "den", "content": 1})
}

fn close() -> Value {
    json!({"type": "close", "room": "den"})
}

/// A server in open mode, and its clients in one room: the first one is the host.
fn room(open: fn(&Server) -> Client, names: [&str; 3]) -> (Server, [Client; 3]) {
    let server = Server::with_shards(2);
    let clients = names.map(|name| member(open, &server, name));
    (server, clients)
}

fn member(open: fn(&Server) -> Client, server: &Server, name: &str) -> Client {
    let mut client = open(server);
    client.connect_as(name);
    client.join("den");
    client
}

#[test]
fn only_hosts_moderate_and_nobody_themselves() {
    for open in TRANSPORTS {
        let (server, [mut ann, mut bob, mut carl]) = room(open, ["ann", "bob", "carl"]);
        for kind in ["kick", "ban", "mute", "unban", "unmute"] {
            let lacks = "the right to `moderate` this room is missing: ask a host";
            bob.refused_saying(order(kind, "carl"), "forbidden", lacks);
            bob.refused_saying(order(kind, "ann"), "forbidden", lacks);
            let text = "nobody can do this to themselves";
            ann.refused_saying(order(kind, "ann"), "forbidden", text);
            ann.refused(json!({"type": kind, "room": "den", "user": ""}), "bad_request");
            ann.refused(json!({"type": kind, "room": "den"}), "bad_request");
        }
        for kind in ["ban", "mute"] {
            let never = json!({"type": kind, "room": "den", "user": "bob", "for_ms": 0});
            ann.refused_saying(never, "bad_request", "`for_ms` is at least 1");
        }
        bob.refused(close(), "forbidden");
        ann.refused_saying(order("kick", "nobody"), "not_found", "not in the room");
        let mut outsider = open(&server);
        outsider.connect_as("out");
        for command in [order("kick", "bob"), order("ban", "bob"), close()] {
            outsider.refused(command, "not_member");
        }
        assert!(bob.fence_room("den").is_empty() && carl.fence_room("den").is_empty(), "nobody was put out");
    }
}

#[test]
fn who_is_kicked_is_no_member_any_more_and_may_come_back() {
    for open in TRANSPORTS {
        let (server, [mut ann, mut bob, mut carl]) = room(open, ["ann", "bob", "carl"]);
        let mut bob_again = member(open, &server, "bob");
        ann.ok(order("kick", "bob"));
        for client in [&mut bob, &mut bob_again] {
            let kicked = client.expect("kicked");
            let wanted = json!({"type": "kicked", "room": "den", "reason": "kicked", "by": "ann"});
            assert_eq!(kicked.value, wanted);
            client.refused_saying(say(), "not_member", "join the room first");
            client.refused(json!({"type": "signal", "room": "den", "content": 1}), "not_member");
        }
        ann.refused(order("kick", "bob"), "not_found");
        ann.say_and_wait("den", "without bob");
        assert_eq!(carl.expect("message")["content"], "without bob");
        bob.expect_silence();
        bob.ok(join());
        bob.ok(say());
    }
}

#[test]
fn who_is_banned_stays_out_until_the_ban_ends_or_is_lifted() {
    for open in TRANSPORTS {
        let (server, [mut ann, mut bob, mut carl]) = room(open, ["ann", "bob", "carl"]);
        ann.ok(order("ban", "bob"));
        let wanted = json!({"type": "kicked", "room": "den", "reason": "banned", "by": "ann"});
        assert_eq!(bob.expect("kicked").value, wanted);
        bob.refused(say(), "not_member");
        let text = "you are banned from this room until someone lifts it";
        bob.refused_saying(join(), "forbidden", text);
        bob.join("elsewhere");
        bob.refused_saying(json!({"type": "switch", "from": "elsewhere", "to": "den"}), "forbidden", text);
        ann.ok(order("unban", "bob"));
        bob.ok(join());

        let before_ms = now_seconds() * 1_000;
        let mut for_a_while = order("ban", "carl");
        for_a_while["for_ms"] = json!(600_000);
        ann.ok(for_a_while);
        let kicked = carl.expect("kicked");
        let ends = kicked["until"].as_u64().unwrap();
        assert!((before_ms + 600_000..before_ms + 660_000).contains(&ends), "{}", kicked.text);
        let refused = carl.refused_saying(join(), "forbidden", &format!("until {ends} (Unix ms), for "));
        assert!(refused["message"].as_str().unwrap().ends_with(" s more"), "{}", refused.text);

        // One who is not there, for a moment.
        let mut briefly = order("ban", "dan");
        briefly["for_ms"] = json!(400);
        ann.ok(briefly);
        let mut dan = open(&server);
        dan.connect_as("dan");
        until("the end of the ban", || (dan.ask(join()).kind() == "ok").then_some(()));
    }
}

#[test]
fn who_is_muted_listens_until_the_mute_ends_or_is_lifted() {
    for open in TRANSPORTS {
        let (_server, [mut ann, mut bob, mut carl]) = room(open, ["ann", "bob", "carl"]);
        ann.ok(order("mute", "bob"));
        let text = "you are muted in this room until someone lifts it";
        bob.refused_saying(say(), "forbidden", text);
        bob.refused_saying(json!({"type": "signal", "room": "den", "content": 1}), "forbidden", text);
        // Coming again is no way out.
        bob.ok(json!({"type": "leave", "room": "den"}));
        bob.ok(join());
        bob.refused_saying(say(), "forbidden", text);
        ann.say_and_wait("den", "do you hear?");
        assert_eq!(bob.expect("message")["content"], "do you hear?");
        assert_eq!(carl.fence_room("den").len(), 1, "nothing of bob's has come");
        ann.ok(order("unmute", "bob"));
        bob.ok(say());
        let mut briefly = order("mute", "bob");
        briefly["for_ms"] = json!(400);
        ann.ok(briefly);
        until("the end of the mute", || (bob.ask(say()).kind() == "ok").then_some(()));
    }
}

#[test]
fn a_closed_room_puts_everyone_out_and_can_be_entered_again() {
    for open in TRANSPORTS {
        let (_server, [mut ann, mut bob, mut carl]) = room(open, ["ann", "bob", "carl"]);
        ann.say_and_wait("den", "kept");
        let id = ann.send_with_id(close());
        assert_eq!(ann.reply_to(id).kind(), "ok");
        for client in [&mut ann, &mut bob, &mut carl] {
            assert_eq!(client.expect("message")["content"], "kept");
            assert_eq!(client.expect("closed").value, json!({"type": "closed", "room": "den"}));
            client.refused(say(), "not_member");
        }
        let joined = bob.ok(join());
        assert_eq!((&joined["role"], joined.seq()), (&json!("host"), 1));
        carl.ok(join());
        assert_eq!(carl.ok(json!({"type": "history", "room": "den"}))["messages"][0]["content"], "kept");
    }
}

#[test]
fn bans_and_mutes_outlast_restarts_and_crashes() {
    // The room itself keeps nothing.
    let issuer = Issuer::new();
    issuer.configure("[[rooms]]\npattern = 'den'\nhistory = 'off'");
    let launch = Launch::new().arguments(["--shards=2", &format!("--config={}", issuer.config_path().display())]);
    let mut ends = 0;
    for crashes in [true, false] {
        let server = launch.start();
        let (banned, muted) = if crashes { (["bob", "eve"], "carl") } else { (["dan", "fay"], "gus") };
        let mut ann = member(Server::ws, &server, "ann");
        let mut for_an_hour = order("ban", banned[0]);
        for_an_hour["for_ms"] = json!(3_600_000);
        ann.ok(for_an_hour);
        ann.ok(order("ban", banned[1]));
        ann.ok(order("mute", muted));
        if crashes {
            let mut bob = server.ws_as("bob");
            ends = until_of(&bob.refused(join(), "forbidden"));
            // Dropped, it is killed.
            drop(server);
        } else {
            server.stop();
        }
    }
    // Another number of shards changes nothing.
    let server = launch.arguments(["--shards=3"]).start();
    for open in TRANSPORTS {
        let as_user = |user: &str| {
            let mut client = open(&server);
            client.connect_as(user);
            client
        };
        assert_eq!(until_of(&as_user("bob").refused(join(), "forbidden")), ends);
        as_user("dan").refused_saying(join(), "forbidden", "(Unix ms), for ");
        for user in ["eve", "fay"] {
            as_user(user).refused_saying(join(), "forbidden", "until someone lifts it");
        }
        for user in ["carl", "gus"] {
            member(open, &server, user).refused_saying(say(), "forbidden", "muted");
        }
        member(open, &server, "kim");
    }
}

/// The end of a ban, from its refusal.
fn until_of(refusal: &Value) -> u64 {
    let message = refusal["message"].as_str().unwrap();
    let number = message.split("until ").nth(1).and_then(|rest| rest.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{message:?} says no end"))
}
