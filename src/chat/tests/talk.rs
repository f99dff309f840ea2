//! Connecting, joining, talking and switching.

use super::{only, owned, owned_by};
use crate::chat::driver::{Held, World, join, message, publish};
use crate::chat::{ConnKind, Handled, Input};
use crate::ids::{Namespace, Seq};
use crate::limits::{Limits, ROOMS_PER_CONNECTION_MAX, UNANSWERED_MAX};
use crate::message::command::{CommandBody, Connect, Join};

#[test]
fn connect_join_and_message_in_one_packet_work_wherever_the_room_lives() {
    for owner in 0..4 {
        let mut world = World::new(4);
        let room = owned_by(owner, 4);
        let ann = world.open(1, ConnKind::Chat { connect: None, ping_as_event: true });
        let connect = Connect { name: Some("ann".into()), ..Connect::default() };
        world.command(ann, None, CommandBody::Connect(connect));
        world.join(ann, &room);
        world.command(ann, Some(2), message(&room, "hi"));
        world.pump();
        let log = world.log(ann);
        let replies = only(&log, &["welcome", "ok"]);
        assert_eq!(replies, ["welcome ann s1-0-7", &format!("ok 1 {room}@0 1 host"), &format!("ok 2 {room}:1")]);
        assert!(log.contains(&format!("message {room}:1 ann hi")) && log.len() == 4, "{log:?}");
        world.check();
    }
}

#[test]
fn rooms_of_the_url_are_answered_in_its_order() {
    let mut world = World::new(3);
    let rooms: Vec<String> = [2, 0, 1, 2].iter().enumerate().map(|(n, s)| owned(Namespace::Chat, *s, 3, n)).collect();
    let ann = world.client(0, "ann");
    for room in &rooms {
        world.give(ann, Held::Url(room.clone()));
    }
    world.give(ann, Held::Url("@reserved".into()));
    world.pump();
    let expected: Vec<String> = rooms.iter().map(|room| format!("ok {room}@0 1 host")).collect();
    let log = world.log(ann);
    assert_eq!(log[1..5], expected);
    assert_eq!(log[5], "error forbidden");
}

#[test]
fn who_has_not_connected_may_do_nothing_else() {
    let mut world = World::new(1);
    let ann = world.open(0, ConnKind::Chat { connect: None, ping_as_event: true });
    world.join(ann, "lobby");
    world.command(ann, None, CommandBody::Ping);
    world.give(ann, Held::Url("lobby".into()));
    let token = Connect { token: Some("ey".into()), name: Some("ann".into()), resume: None };
    world.command(ann, Some(5), CommandBody::Connect(token));
    let bad = Connect { name: Some(" ".into()), ..Connect::default() };
    world.command(ann, Some(6), CommandBody::Connect(bad));
    let expected = ["error 1 unauthorized", "error unauthorized", "error unauthorized"];
    let log = world.log(ann);
    assert_eq!(log[..3], expected);
    assert_eq!(log[3..], ["error 5 unauthorized", "error 6 bad_request"]);
    let resume = Connect::default();
    world.command(ann, Some(7), CommandBody::Connect(resume.clone()));
    world.command(ann, Some(8), CommandBody::Connect(resume));
    let log = world.log(ann);
    assert!(log[0].starts_with("welcome 7 guest-"), "{log:?}");
    assert_eq!(log[1..], ["error 8 bad_request"]);
}

#[test]
fn everyone_sees_one_order_on_every_shard() {
    let mut world = World::new(4);
    let room = owned_by(2, 4);
    let members: Vec<_> = (0..8).map(|n| world.joined(n % 4, &format!("user-{n}"), &[&room])).collect();
    for round in 0..5 {
        for member in &members {
            world.say(*member, &room, &round.to_string());
        }
        world.exchange();
    }
    world.pump();
    let first = world.log(members[0]);
    assert_eq!(first.len(), 40);
    let seqs: Vec<String> = first.iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(seqs, (1..=40).map(|seq| format!("{room}:{seq}")).collect::<Vec<_>>());
    for (n, member) in members.iter().enumerate() {
        if n > 0 {
            assert_eq!(world.log(*member), first);
        }
        let sender = format!(" user-{n} ");
        let own: Vec<&str> = first.iter().filter(|l| l.contains(&sender)).map(|l| &l[l.len() - 1..]).collect();
        assert_eq!(own, ["0", "1", "2", "3", "4"], "a sender's messages keep their order");
    }
    world.check();
}

#[test]
fn without_echo_only_the_sending_connection_is_left_out() {
    for owner in 0..2 {
        let mut world = World::new(2);
        let room = owned_by(owner, 2);
        let ann = world.joined(0, "ann", &[&room]);
        let other = world.joined(0, "ann", &[&room]);
        let bob = world.joined(1, "bob", &[&room]);
        let quiet = publish(&room, "x");
        world.command(ann, Some(9), CommandBody::Message(crate::message::command::Publish { echo: false, ..quiet }));
        world.pump();
        assert_eq!(world.log(ann), [format!("ok 9 {room}:1")]);
        assert_eq!(world.log(other), [format!("message {room}:1 ann x")]);
        assert_eq!(world.log(bob), [format!("message {room}:1 ann x")]);
    }
}

#[test]
fn signals_reach_everyone_and_leave_nothing_behind() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let ann = world.joined(0, "ann", &[&room]);
    let bob = world.joined(1, "bob", &[&room]);
    world.command(ann, Some(3), CommandBody::Signal { room: room.clone().into(), content: b"1"[..].into() });
    world.pump();
    assert_eq!(world.log(bob), [format!("signal {room} ann 1")]);
    assert_eq!(world.log(ann), [format!("signal {room} ann 1"), "ok 3".into()]);
    world.command(ann, Some(4), message(&room, "x"));
    world.pump();
    assert!(world.log(ann).contains(&format!("ok 4 {room}:1")));
}

#[test]
fn strangers_are_refused_before_anything_is_routed() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let ann = world.joined(0, "ann", &[]);
    let room_of = || room.clone().into();
    world.command(ann, Some(1), message(&room, "x"));
    world.command(ann, None, CommandBody::Signal { room: room_of(), content: b"1"[..].into() });
    world.command(ann, Some(3), CommandBody::Leave { room: room_of() });
    world.command(ann, Some(4), CommandBody::Delete { room: room_of(), seq: Seq(1) });
    world.command(ann, Some(5), CommandBody::Presence { room: room_of(), after: None, limit: None });
    world.command(ann, Some(6), CommandBody::Switch { from: room_of(), to: join("other") });
    assert!(!world.states[0].has_outgoing());
    let log = world.log(ann);
    assert_eq!(log.len(), 6);
    assert!(log.iter().all(|line| line.ends_with("not_member")), "{log:?}");
}

#[test]
fn what_the_server_cannot_do_is_refused_by_name() {
    let mut world = World::new(1);
    let ann = world.joined(0, "ann", &["lobby"]);
    world.command(ann, Some(2), CommandBody::Join(Join { ack: true, ..join("other") }));
    world.command(ann, Some(3), CommandBody::Join(join("lobby")));
    world.command(ann, Some(4), CommandBody::Ack { room: "lobby".into(), seq: Seq(1) });
    world.command(ann, Some(6), CommandBody::Read { room: "lobby".into(), seq: Seq(1) });
    world.command(ann, Some(5), CommandBody::Switch { from: "lobby".into(), to: join("lobby") });
    let log = world.log(ann);
    assert_eq!(log.len(), 5);
    assert!(log.iter().all(|line| line.ends_with("bad_request")), "{log:?}");
}

#[test]
fn a_connection_may_be_in_so_many_rooms_and_switch_between_them() {
    let mut world = World::new(2);
    let ann = world.joined(0, "ann", &[]);
    for n in 0..=ROOMS_PER_CONNECTION_MAX {
        world.join(ann, &format!("many-{n}"));
    }
    world.pump();
    let log = world.log(ann);
    assert_eq!(only(&log, &["ok"]).len(), ROOMS_PER_CONNECTION_MAX);
    assert_eq!(only(&log, &["error"]), ["error 1 room_full"]);
    world.command(ann, Some(7), CommandBody::Switch { from: "many-0".into(), to: join("one-more") });
    world.pump();
    assert_eq!(world.log(ann), ["ok 7 one-more@0 1 host"]);
    world.check();
}

#[test]
fn leaving_does_not_overtake_what_was_said_before() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let bob = world.joined(1, "bob", &[&room]);
    let ann = world.joined(0, "ann", &[&room]);
    for n in 0..3 {
        world.say(ann, &room, &n.to_string());
    }
    world.leave(ann, &room);
    world.join(ann, &room);
    world.say(ann, &room, "back");
    assert_eq!(world.log(ann), ["ok 2"]);
    world.pump();
    let expected = ["1 ann 0", "2 ann 1", "3 ann 2", "4 ann back"].map(|line| format!("message {room}:{line}"));
    assert_eq!(world.log(bob), expected);
    assert_eq!(world.log(ann), [format!("ok 1 {room}@3 2 member"), expected[3].clone()]);
    world.check();
}

#[test]
fn who_has_left_gets_nothing_more() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let bob = world.joined(1, "bob", &[&room]);
    let ann = world.joined(0, "ann", &[&room]);
    world.say(bob, &room, "on its way");
    world.leave(ann, &room);
    world.say(bob, &room, "later");
    world.pump();
    assert_eq!(world.log(ann), ["ok 2"]);
    world.leave(ann, &room);
    assert_eq!(world.log(ann), ["error 2 not_member"]);
}

#[test]
fn leave_and_join_wait_for_a_join_that_is_on_its_way() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let ann = world.joined(0, "ann", &[]);
    world.join(ann, &room);
    world.leave(ann, &room);
    world.join(ann, &room);
    assert_eq!(world.states[0].counts().blocked, 1);
    world.pump();
    assert_eq!(world.log(ann), [format!("ok 1 {room}@0 1 host"), "ok 2".into(), format!("ok 1 {room}@0 1 host")]);
    assert_eq!(world.states[0].counts().blocked, 0);
    world.check();
}

#[test]
fn a_switch_is_one_step() {
    for (from_owner, to_owner) in [(0, 0), (0, 1), (1, 0), (1, 2), (1, 1)] {
        let mut world = World::new(3);
        let from = owned(Namespace::Chat, from_owner, 3, 0);
        let to = owned(Namespace::Chat, to_owner, 3, 1);
        let bob = world.joined(2, "bob", &[&from, &to]);
        let ann = world.joined(0, "ann", &[&from]);
        world.command(ann, Some(5), CommandBody::Switch { from: from.clone().into(), to: join(&to) });
        world.command(ann, Some(6), message(&to, "hello"));
        world.command(ann, Some(7), message(&from, "gone"));
        for n in 0..6 {
            world.say(bob, &from, &n.to_string());
            world.say(bob, &to, &n.to_string());
            world.exchange();
        }
        world.pump();
        let log = world.log(ann);
        let ok = log.iter().position(|line| line.starts_with("ok 5")).unwrap();
        let of = |lines: &[String], room: &str| only(lines, &[&format!("message {room}:")]).len();
        assert_eq!((of(&log[..ok], &to), of(&log[ok..], &from)), (0, 0), "{log:?}");
        assert!(log.iter().any(|line| line.starts_with("ok 6")) && log.contains(&"error 7 not_member".into()));
        // The members of both rooms agree about who is where.
        assert_eq!(of(&world.log(bob), &to), 7);
        world.check();
    }
}

#[test]
fn a_refused_switch_stays_where_it_was() {
    let mut world = World::new(2);
    let from = owned_by(0, 2);
    let to = owned_by(1, 2);
    let ann = world.joined(0, "ann", &[&from]);
    world.states[1].rooms_max = 0;
    world.command(ann, Some(5), CommandBody::Switch { from: from.clone().into(), to: join(&to) });
    world.say(ann, &from, "still here");
    world.pump();
    assert_eq!(world.log(ann), ["error 5 overloaded".into(), format!("message {from}:1 ann still here")]);
    world.command(ann, Some(6), message(&to, "x"));
    assert_eq!(world.log(ann), ["error 6 not_member"]);
    world.check();
}

#[test]
fn what_follows_a_refused_join_is_refused_by_the_owner() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    world.states[1].rooms_max = 0;
    let ann = world.joined(0, "ann", &[]);
    world.join(ann, &room);
    world.command(ann, Some(2), message(&room, "x"));
    world.command(ann, None, message(&room, "y"));
    world.pump();
    assert_eq!(world.log(ann), ["error 1 overloaded", "error 2 not_member", "error not_member"]);
    world.check();
    assert_eq!((world.states[0].counts().audiences, world.states[1].counts().rooms), (0, 0));
}

#[test]
fn queues_of_one_envelope_make_progress_and_lose_nothing() {
    let mut world = World::with(3, 1, Limits::default());
    let rooms: Vec<String> = (0..3).map(|shard| owned_by(shard, 3)).collect();
    let names: Vec<&str> = rooms.iter().map(String::as_str).collect();
    let members: Vec<_> = (0..6).map(|n| world.joined(n % 3, &format!("user-{n}"), &names)).collect();
    for n in 0..30 {
        for member in &members {
            for room in &rooms {
                world.command(*member, Some(n), message(room, "x"));
            }
        }
    }
    assert!(world.states.iter().any(|state| state.counts().blocked > 0));
    world.check();
    world.pump();
    for member in &members {
        assert!(world.clients[member].held.is_empty());
        let log = world.log(*member);
        assert_eq!(only(&log, &["ok"]).len(), 90);
        for room in &rooms {
            let seqs: Vec<String> = only(&log, &[&format!("message {room}:")]);
            let seqs: Vec<&str> = seqs.iter().map(|line| line.split([':', ' ']).nth(2).unwrap()).collect();
            assert_eq!(seqs, (1..=180).map(|seq| seq.to_string()).collect::<Vec<_>>());
        }
    }
    assert!(world.states.iter().all(|state| state.counts().blocked == 0));
    world.check();
}

#[test]
fn blocked_input_has_left_no_trace() {
    let mut world = World::with(2, 1, Limits::default());
    let (here, there) = (owned_by(0, 2), owned_by(1, 2));
    let ann = world.joined(0, "ann", &[&here, &there]);
    let bob = world.joined(1, "bob", &[&here]);
    world.say(ann, &there, "fills the queue of requests");
    world.say(ann, &here, "fills the queue of deliveries");
    let before = world.states[0].counts();
    for body in [
        message(&there, "x"),
        message(&here, "x"),
        CommandBody::Join(join(&owned(Namespace::Chat, 1, 2, 1))),
        CommandBody::Join(join(&owned(Namespace::Chat, 0, 2, 1))),
        CommandBody::Rooms { after: None, limit: None },
        CommandBody::History {
            room: there.clone().into(),
            from: crate::message::command::HistoryFrom::Latest,
            limit: None,
        },
    ] {
        let command = crate::message::command::Command { id: Some(1), body };
        assert_eq!(world.try_input(ann.shard, Input::Command { conn: ann.conn, command }), Handled::Blocked);
        assert_eq!(world.states[0].counts(), crate::chat::Counts { blocked: 1, ..before });
        world.check();
    }
    // Leaving needs no room in any queue.
    let leave = |room: &str| CommandBody::Leave { room: room.to_owned().into() };
    for room in [&here, &there] {
        let command = crate::message::command::Command { id: None, body: leave(room) };
        assert_eq!(world.try_input(ann.shard, Input::Command { conn: ann.conn, command }), Handled::Done);
    }
    assert_eq!(world.log(bob), Vec::<String>::new());
    world.pump();
    assert_eq!(world.log(bob).len(), 1);
}

#[test]
fn those_who_wait_proceed_in_the_order_they_began() {
    let mut world = World::with(2, 2, Limits::default());
    let room = owned_by(1, 2);
    let members: Vec<_> = (0..9).map(|n| world.joined(0, &format!("user-{n}"), &[&room])).collect();
    for member in &members {
        world.say(*member, &room, "x");
    }
    assert_eq!(world.states[0].counts().blocked, 7);
    world.send_out(0);
    assert_eq!(world.states[0].counts().blocked, 5, "no more are woken than there is room for");
    // One that was let try is gone before it does; its place goes to the next.
    world.close(members[4]);
    world.pump();
    let log = world.log(members[0]);
    let senders: Vec<&str> = log.iter().map(|line| line.split(' ').nth(2).unwrap()).collect();
    assert_eq!(senders, [0, 1, 2, 3, 5, 6, 7, 8].map(|n| format!("user-{n}")));
}

#[test]
fn so_many_unanswered_commands_stop_the_reading() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let ann = world.joined(0, "ann", &[&room]);
    for n in 0..UNANSWERED_MAX as u64 + 10 {
        world.command(ann, Some(n), message(&room, "x"));
    }
    assert_eq!((world.clients[&ann].held.len(), world.states[0].counts().blocked), (10, 1));
    world.pump();
    assert_eq!(only(&world.log(ann), &["ok"]).len(), UNANSWERED_MAX + 10);
}

#[test]
fn relay_frames_go_to_everyone_on_the_path_and_nowhere_else() {
    for owner in 0..3 {
        let mut world = World::new(3);
        let room = owned(Namespace::Relay, owner, 3, 0);
        let members: Vec<_> = (0..6).map(|n| world.relay(n % 3, &room)).collect();
        let stranger = world.relay(0, "elsewhere");
        let chatter = world.joined(1, "ann", &[&room]);
        for (n, member) in members.iter().enumerate() {
            world.give(*member, Held::Relay(format!("frame {n}").into()));
        }
        world.pump();
        let first = world.log(members[0]);
        assert_eq!(first.len(), 6);
        for member in &members[1..] {
            assert_eq!(world.log(*member), first);
        }
        assert!(world.log(stranger).is_empty() && world.log(chatter).is_empty());
        world.check();
        for member in members {
            world.close(member);
        }
        world.pump();
        world.check();
        assert_eq!(world.states[usize::from(owner)].counts().history_bytes, 0);
    }
}

#[test]
fn a_relay_room_with_an_impossible_name_is_closed() {
    let mut world = World::new(1);
    let member = world.relay(0, "bad\nname");
    assert_eq!(world.log(member), ["close protocol_error"]);
}
