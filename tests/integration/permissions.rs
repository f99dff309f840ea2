//! What a user may do in which rooms, by the token and by the rules of the file, over both transports.

use serde_json::{Value, json};

use crate::harness::{Client, Issuer, Server, TRANSPORTS};

fn message(room: &str) -> Value {
    json!({"type": "message", "room": room, "content": "hello"})
}

fn join(room: &str) -> Value {
    json!({"type": "join", "room": room})
}

/// A client that has shown this token.
fn enter(open: fn(&Server) -> Client, server: &Server, token: &str) -> Client {
    let mut client = open(server);
    client.connect_with(token);
    client
}

/// Such a client, in a room.
fn member(open: fn(&Server) -> Client, server: &Server, token: &str, room: &str) -> Client {
    let mut client = enter(open, server, token);
    client.join(room);
    client
}

#[test]
fn a_guest_listens_and_may_neither_send_nor_signal_nor_delete_nor_moderate() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    for open in TRANSPORTS {
        let mut ann = member(open, &server, &issuer.token("ann", json!({})), "lobby");
        let seq = member(open, &server, &issuer.token("bob", json!({})), "lobby").say_and_wait("lobby", "as a member");
        let guest = issuer.token("bob", json!({"rooms": {"lob*": "guest"}}));
        let mut bob = enter(open, &server, &guest);
        assert_eq!(bob.join("lobby")["role"], "guest");
        let lacks = "the right to `send` in this room is missing";
        bob.refused_saying(message("lobby"), "forbidden", lacks);
        bob.refused_saying(json!({"type": "signal", "room": "lobby", "content": 1}), "forbidden", lacks);
        bob.refused_saying(json!({"type": "delete", "room": "lobby", "seq": seq}), "forbidden", lacks);
        for kind in ["kick", "ban", "mute", "unban", "unmute", "close"] {
            let order = json!({"type": kind, "room": "lobby", "user": "ann"});
            bob.refused_saying(order, "forbidden", "the right to `moderate` this room is missing: ask a host");
        }
        // What is open to a guest is, and nothing of the rest has come to others.
        assert_eq!(bob.ok(json!({"type": "presence", "room": "lobby"}))["count"], 2);
        let last = ann.say_and_wait("lobby", "to all");
        assert_eq!(bob.expect("message").seq(), last);
        let heard: Vec<u64> = ann.fence_room("lobby").iter().map(|event| event.seq()).collect();
        assert_eq!(heard, [seq, last]);
        let kept = bob.ok(json!({"type": "history", "room": "lobby", "limit": 2}));
        assert_eq!(kept["messages"][0]["content"], "as a member");
    }
}

#[test]
fn only_its_sender_and_a_host_delete_a_message() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    for open in TRANSPORTS {
        let mut ann = member(open, &server, &issuer.token("ann", json!({})), "lobby");
        let mut bob = member(open, &server, &issuer.token("bob", json!({})), "lobby");
        let mut host = member(open, &server, &issuer.token("zoe", json!({"rooms": {"*": "host"}})), "lobby");
        let delete = |seq: u64| json!({"type": "delete", "room": "lobby", "seq": seq});
        let (first, second) = (ann.say_and_wait("lobby", 1), ann.say_and_wait("lobby", 2));
        bob.refused_saying(delete(first), "forbidden", "only its sender and the room's host may delete a message");
        ann.ok(delete(first));
        host.ok(delete(second));
        ann.refused(delete(9_999), "not_found");
    }
}

#[test]
fn a_stranger_gets_into_none_but_the_rooms_of_its_token() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let lacks = "`ann` may not enter `lobby`: the right to `join` it is missing";
    for open in TRANSPORTS {
        let mut ann = enter(open, &server, &issuer.token("ann", json!({"rooms": {"team-*": "member"}})));
        ann.refused_saying(join("lobby"), "forbidden", lacks);
        ann.refused(message("lobby"), "not_member");
        for kind in ["presence", "history"] {
            ann.refused(json!({"type": kind, "room": "lobby"}), "not_member");
        }
        ann.join("team-a");
        let switch = json!({"type": "switch", "from": "team-a", "to": "lobby"});
        ann.refused_saying(switch, "forbidden", lacks);
        ann.say_and_wait("team-a", "still here");
        // A token whose list of rooms is empty opens none.
        enter(open, &server, &issuer.token("bob", json!({"rooms": {}}))).refused(join("team-a"), "forbidden");
    }
    let token = issuer.token("ann", json!({"rooms": {"team-*": "member"}}));
    let mut by_url = server.ws_at(&format!("/ws?token={token}&room=lobby&room=team-a"));
    by_url.expect("welcome");
    let replies = [by_url.next(), by_url.next()];
    assert!(replies.iter().any(|reply| reply["code"] == "forbidden"), "{replies:?}");
    assert!(replies.iter().any(|reply| reply["room"] == "team-a" && reply.kind() == "ok"), "{replies:?}");
}

#[test]
fn the_most_specific_pattern_of_a_token_decides() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let rooms = json!({"*": "guest", "team-*": "member", "team-secret-*": "guest", "team-secret-1": "host"});
    let token = issuer.token("ann", json!({"rooms": rooms}));
    for open in TRANSPORTS {
        let mut ann = enter(open, &server, &token);
        for (room, role) in [
            ("lobby", "guest"),
            ("team-a", "member"),
            ("team-", "member"),
            ("team", "guest"),
            ("team-secret-2", "guest"),
            ("team-secret-1", "host"),
            ("team-secret-11", "guest"),
        ] {
            assert_eq!(ann.join(room)["role"], role, "{room}");
            match role {
                "guest" => _ = ann.refused(message(room), "forbidden"),
                _ => _ = ann.ok(message(room)),
            }
        }
    }
}

#[test]
fn the_first_rule_that_fits_decides_who_joins_and_who_sends() {
    let issuer = Issuer::new();
    let server = issuer.launch(RULES).start();
    for open in TRANSPORTS {
        let as_user = |user: &str, claims: Value| enter(open, &server, &issuer.token(user, claims));
        let mut ann = as_user("ann", json!({}));
        assert_eq!(ann.join("news")["role"], "guest");
        ann.refused_saying(message("news"), "forbidden", "the right to `send`");
        for mut reporter in [
            as_user("eve", json!({"roles": ["editor"]})),
            as_user("kim", json!({"rooms": {"news": "host"}})),
            as_user("dan", json!({"roles": ["staff", "editor"], "rooms": {"staff-*": "member"}})),
        ] {
            reporter.join("news");
            reporter.ok(message("news"));
        }
        for room in ["staff-1", "staff-2"] {
            ann.refused_saying(join(room), "forbidden", "the right to `join`");
            as_user("eve", json!({"roles": ["editor"]})).refused(join(room), "forbidden");
            let mut sam = as_user("sam", json!({"roles": ["staff"]}));
            assert_eq!(sam.join(room)["role"], "guest");
            sam.ok(message(room));
            // The rule names this user, and lets it in and no further.
            let mut zoe = as_user("zoe", json!({}));
            zoe.join(room);
            zoe.refused_saying(message(room), "forbidden", "the right to `send`");
            zoe.refused_saying(json!({"type": "presence", "room": room}), "forbidden", "`presence`");
            zoe.refused_saying(json!({"type": "history", "room": room}), "forbidden", "`history`");
        }
        // A rule counts for hosts too, and an empty list is nobody.
        let mut host = as_user("pat", json!({"rooms": {"*": "host"}}));
        assert_eq!(host.join("archive")["role"], "host");
        host.refused_saying(message("archive"), "forbidden", "the right to `send`");
        // What anyone may, also those may whose token opens other rooms.
        let mut outsider = as_user("out", json!({"rooms": {"elsewhere": "member"}}));
        outsider.join("square");
        outsider.ok(message("square"));
        outsider.refused(join("lobby"), "forbidden");
        // Where no rule fits, everyone is a member.
        assert_eq!(ann.join("lobby")["role"], "member");
        ann.ok(message("lobby"));
    }
}

#[test]
fn only_rooms_that_may_be_entered_are_listed() {
    let issuer = Issuer::new();
    let server = issuer.launch(RULES).arguments(["--shards=2"]).start();
    let mut sam = enter(Server::ws, &server, &issuer.token("sam", json!({"roles": ["staff"]})));
    for room in ["lobby", "news", "staff-1", "team-a"] {
        sam.join(room);
    }
    let mut inbox = enter(Server::tcp, &server, &issuer.token("sam", json!({})));
    inbox.join("@sam");
    for open in TRANSPORTS {
        let listed = |user: &str, claims: Value| {
            let reply = enter(open, &server, &issuer.token(user, claims)).ok(json!({"type": "rooms"}));
            let rooms = reply["rooms"].as_array().unwrap().clone();
            rooms.iter().map(|room| room["room"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(listed("ann", json!({})), ["lobby", "news", "team-a"]);
        assert_eq!(listed("zoe", json!({})), ["lobby", "news", "staff-1", "team-a"]);
        assert_eq!(listed("bob", json!({"rooms": {"team-*": "member"}})), ["news", "team-a"]);
    }
}

#[test]
fn without_the_right_to_history_nothing_of_the_past_is_told() {
    let issuer = Issuer::new();
    let server = issuer.launch("[[permissions]]\nrooms = 'quiet'\nhistory = ['host']").start();
    let mut host = enter(Server::ws, &server, &issuer.token("zoe", json!({"rooms": {"*": "host"}})));
    let epoch = host.join("quiet")["epoch"].clone();
    host.say_and_wait("quiet", "before");
    host.say_and_wait("quiet", "before");
    for open in TRANSPORTS {
        let mut ann = enter(open, &server, &issuer.token("ann", json!({})));
        let asked = [
            json!({"type": "join", "room": "quiet", "history": 10}),
            json!({"type": "join", "room": "quiet", "since": {"epoch": epoch, "seq": 1}}),
        ];
        for command in asked {
            let is_since = command["since"].is_object();
            let joined = ann.ok(command);
            assert!(joined["recovered"] == json!(false) || !is_since, "{}", joined.text);
            // The next thing that comes is what is said next.
            let seq = host.say_and_wait("quiet", "now");
            assert_eq!(ann.expect("message").seq(), seq);
            ann.refused_saying(json!({"type": "history", "room": "quiet"}), "forbidden", "the right to read `history`");
            ann.ok(json!({"type": "leave", "room": "quiet"}));
        }
        let consume = json!({"type": "join", "room": "quiet", "ack": true});
        ann.refused_saying(consume, "forbidden", "the right to read `history` is missing");
    }
    assert!(host.ok(json!({"type": "history", "room": "quiet"}))["messages"].as_array().unwrap().len() >= 6);
}

#[test]
fn without_the_right_to_presence_nobody_is_seen() {
    let issuer = Issuer::new();
    for open in TRANSPORTS {
        let server = issuer.launch("[[permissions]]\nrooms = 'masked'\npresence = ['host']").start();
        let watch = json!({"type": "join", "room": "masked", "presence": true});
        let mut ann = enter(open, &server, &issuer.token("ann", json!({})));
        let mut host = enter(open, &server, &issuer.token("zoe", json!({"rooms": {"*": "host"}})));
        ann.ok(watch.clone());
        host.ok(watch);
        let ask = json!({"type": "presence", "room": "masked"});
        ann.refused_saying(ask.clone(), "forbidden", "the right to see `presence` in this room is missing");
        assert_eq!(host.ok(ask)["count"], 2);
        let _bob = member(open, &server, &issuer.token("bob", json!({})), "masked");
        while !host.expect("presence")["joined"].as_array().unwrap().contains(&json!("bob")) {}
        // The host has been told, and what was meant for others has been sent with it.
        let told = ann.fence_room("masked");
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn writing_to_an_inbox_takes_the_right_to_send_there() {
    let issuer = Issuer::new();
    let server = issuer.launch("[[permissions]]\nrooms = '@boss'\nsend = ['role:staff']").start();
    let lacks = "the right to `send` in this room is missing";
    for open in TRANSPORTS {
        let direct = |to: &str| json!({"type": "direct", "to": to, "content": "hello"});
        let mut bob = member(open, &server, &issuer.token("bob", json!({"rooms": {}})), "@bob");
        for rooms in [json!({"team-*": "member"}), json!({"*": "guest"})] {
            let mut ann = enter(open, &server, &issuer.token("ann", json!({"rooms": rooms})));
            ann.refused_saying(direct("bob"), "forbidden", lacks);
        }
        let mut ann = enter(open, &server, &issuer.token("ann", json!({"rooms": {"@*": "member"}})));
        ann.refused_saying(direct("boss"), "forbidden", lacks);
        ann.refused_saying(join("@bob"), "forbidden", "only its own user reads an inbox");
        ann.ok(direct("bob"));
        assert_eq!(bob.expect("message")["content"], "hello");
        enter(open, &server, &issuer.token("sam", json!({"roles": ["staff"]}))).ok(direct("boss"));
        // Whose inbox it is may have enough of someone.
        bob.ok(json!({"type": "mute", "room": "@bob", "user": "ann"}));
        ann.refused_saying(direct("bob"), "forbidden", "you are muted in this room");
        bob.ok(json!({"type": "unmute", "room": "@bob", "user": "ann"}));
        ann.ok(direct("bob"));
    }
}

#[test]
fn a_relay_is_closed_to_who_may_not_send_there() {
    let issuer = Issuer::new();
    let server = issuer.launch("").start();
    let token = issuer.token("ann", json!({"rooms": {"*": "guest"}}));
    let mut guest = server.raw_ws(&format!("/relay/r?token={token}"));
    let mut member = server.raw_ws(&format!("/relay/r?token={}", issuer.token("bob", json!({}))));
    member.frame(0x81, b"to all");
    // Whether the guest was in the room by then is chance, so it is not asked whether it heard that.
    assert_eq!(member.next_data().unwrap().text(), "to all");
    guest.frame(0x81, b"from a guest");
    assert_eq!(guest.closed_with(), Some(4505));
    member.frame(0x81, b"still here");
    assert_eq!(member.next_data().unwrap().text(), "still here");
}

#[test]
fn a_rule_lets_others_moderate_but_not_hosts() {
    let issuer = Issuer::new();
    let server = issuer.launch("[[permissions]]\nrooms = 'den'\nmoderate = ['host', 'role:mod']").start();
    for open in TRANSPORTS {
        let mut host = member(open, &server, &issuer.token("zoe", json!({"rooms": {"*": "host"}})), "den");
        let mut keeper = member(open, &server, &issuer.token("max", json!({"roles": ["mod"]})), "den");
        let mut ann = member(open, &server, &issuer.token("ann", json!({})), "den");
        let order = |kind: &str, user: &str| json!({"type": kind, "room": "den", "user": user});
        for kind in ["kick", "ban", "mute"] {
            keeper.refused_saying(order(kind, "zoe"), "forbidden", "only a host can do this to a host");
        }
        keeper.ok(order("kick", "ann"));
        let kicked = ann.expect("kicked");
        assert_eq!((&kicked["by"], &kicked["reason"]), (&json!("max"), &json!("kicked")));
        host.ok(order("kick", "max"));
        assert_eq!(keeper.expect("kicked")["by"], "zoe");
        keeper.refused(order("kick", "ann"), "not_member");
    }
}

const RULES: &str = "
[[permissions]]
rooms = 'news'
role = 'guest'
join = ['anyone']
send = ['role:editor', 'host']

[[permissions]]
rooms = 'staff-*'
role = 'none'
join = ['role:staff', 'user:zoe']
send = ['role:staff']
presence = ['role:staff']
history = ['role:staff']

[[permissions]]
rooms = 'archive'
send = []

[[permissions]]
rooms = 'square'
role = 'none'
join = ['anyone']
send = ['anyone']
";
