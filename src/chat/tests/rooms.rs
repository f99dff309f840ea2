//! Presence, roles and lists of rooms.

use super::{only, owned_by};
use crate::chat::driver::{World, join};
use crate::chat::log::{LogAnswer, LogFailure};
use crate::ids::Member;
use crate::limits::{Limits, ROOM_GATHERS_MAX};
use crate::message::command::{CommandBody, Join};
use std::time::Duration;

/// A room on shard 1 of 3, and ann on shard 0 who wants presence.
fn watched() -> (World, String, Member) {
    let mut world = World::new(3);
    let room = owned_by(1, 3);
    let ann = world.client(0, "ann");
    world.command(ann, Some(1), CommandBody::Join(Join { presence: true, ..join(&room) }));
    world.advance(Duration::from_secs(2));
    world.log(ann);
    (world, room, ann)
}

#[test]
fn presence_is_pushed_once_a_second_to_those_who_asked() {
    let (mut world, room, ann) = watched();
    let bob = world.joined(1, "bob", &[&room]);
    let cat = world.joined(2, "cat", &[&room]);
    assert!(world.log(ann).is_empty());
    world.advance(Duration::from_secs(1));
    assert_eq!(world.log(ann), [format!("presence {room} + bob cat - =3")]);
    world.leave(bob, &room);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.log(ann), [format!("presence {room} + - bob =2")]);
    world.advance(Duration::from_secs(10));
    assert!(only(&world.log(ann), &["presence"]).is_empty());
    assert!(only(&world.log(cat), &["presence"]).is_empty());
    world.check();
}

#[test]
fn a_room_that_cannot_be_opened_is_asked_for_again() {
    let mut world = World::durable(2);
    let room = owned_by(1, 2);
    let (ann, bob) = (world.joined(0, "ann", &[&room]), world.joined(1, "bob", &[&room]));
    assert!(world.log(ann).is_empty() && world.log(bob).is_empty(), "nobody enters a room before it is known");
    assert_eq!(world.answer(1, &Err(LogFailure::Unreadable)), 1);
    for member in [ann, bob] {
        assert_eq!(world.log(member), ["error 1 overloaded"]);
    }
    world.check();
    assert_eq!(world.states[1].counts().rooms, 0, "a room of which nothing is known is forgotten");
    world.join(ann, &room);
    assert_eq!(world.answer(1, &Ok(LogAnswer::Opened(None))), 1);
    assert_eq!(world.log(ann), [format!("ok 1 {room}@0 1 host")]);
    world.say(ann, &room, "1");
    world.pump();
    assert_eq!(world.log(ann), [format!("message {room}:1 ann 1")]);
    world.check();
}

#[test]
fn a_reconnect_within_the_grace_is_not_seen() {
    let (mut world, room, ann) = watched();
    let bob = world.joined(1, "bob", &[&room]);
    world.advance(Duration::from_secs(1));
    world.log(ann);
    world.close(bob);
    world.advance(Duration::from_secs(4));
    let bob = world.joined(2, "bob", &[&room]);
    world.advance(Duration::from_secs(10));
    assert!(only(&world.log(ann), &["presence"]).is_empty());
    world.close(bob);
    world.advance(Duration::from_secs(4));
    assert!(only(&world.log(ann), &["presence"]).is_empty());
    world.advance(Duration::from_secs(3));
    assert_eq!(only(&world.log(ann), &["presence"]), [format!("presence {room} + - bob =1")]);
    world.check();
}

#[test]
fn a_user_with_connections_on_several_shards_counts_once() {
    let (mut world, room, ann) = watched();
    let bobs: Vec<_> = (0..3).map(|shard| world.joined(shard, "bob", &[&room])).collect();
    world.advance(Duration::from_secs(1));
    assert_eq!(world.log(ann), [format!("presence {room} + bob - =2")]);
    world.leave(bobs[0], &room);
    world.close(bobs[1]);
    world.advance(Duration::from_secs(10));
    assert!(only(&world.log(ann), &["presence"]).is_empty());
    world.leave(bobs[2], &room);
    world.advance(Duration::from_secs(1));
    assert_eq!(only(&world.log(ann), &["presence"]), [format!("presence {room} + - bob =1")]);
}

#[test]
fn pages_of_presence_run_in_the_order_of_names() {
    let (mut world, room, ann) = watched();
    for (n, name) in ["dan", "cat", "bob"].into_iter().enumerate() {
        world.joined(n as u16, name, &[&room]);
    }
    let mut page = |after: Option<&str>, limit| {
        let after = after.map(|name| name.to_owned().into());
        world.command(ann, Some(5), CommandBody::Presence { room: room.clone().into(), after, limit });
        world.pump();
        world.log(ann).remove(0)
    };
    assert_eq!(page(None, Some(3)), "ok 5 [ann bob cat] 4 next=Some(\"cat\")");
    assert_eq!(page(Some("cat"), Some(3)), "ok 5 [dan] 4 next=None");
    assert_eq!(page(None, None), "ok 5 [ann bob cat dan] 4 next=None");
    assert_eq!(page(None, Some(0)), "ok 5 [] 4 next=None");
    assert_eq!(page(Some("bad\nname"), None), "error 5 bad_request");
}

#[test]
fn a_push_waits_while_queues_are_full_and_then_tells_the_sum() {
    let mut world = World::with(2, 1, Limits::default());
    let room = owned_by(0, 2);
    let ann = world.client(1, "ann");
    world.command(ann, Some(1), CommandBody::Join(Join { presence: true, ..join(&room) }));
    world.advance(Duration::from_secs(2));
    world.log(ann);
    let bob = world.joined(0, "bob", &[&room]);
    world.say(bob, &room, "fills the queue");
    assert!(!world.states[0].takes_requests());
    for _ in 0..20 {
        world.now.us += 100_000;
        world.input(bob.shard, crate::chat::Input::Tick);
    }
    assert_eq!(world.states[0].counts().deliveries_waiting, 1);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.log(ann)[1..], [format!("presence {room} + bob - =2")]);
}

#[test]
fn the_host_is_who_has_been_here_longest() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let members: Vec<_> = ["ann", "bob", "cat"].into_iter().map(|name| world.joined(0, name, &[&room])).collect();
    let role = |world: &mut World, name: &str| {
        let member = world.client(1, name);
        world.join(member, &room);
        world.pump();
        let line = world.log(member).remove(1);
        world.close(member);
        world.pump();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(role(&mut world, "ann"), "host");
    assert_eq!(role(&mut world, "bob"), "member");
    world.close(members[0]);
    world.advance(Duration::from_secs(4));
    assert_eq!(role(&mut world, "bob"), "member", "the host may still come back");
    world.advance(Duration::from_secs(6));
    assert_eq!(role(&mut world, "bob"), "host");
    assert_eq!(role(&mut world, "ann"), "member");
    world.leave(members[1], &room);
    world.advance(Duration::from_secs(6));
    assert_eq!(role(&mut world, "cat"), "host");
}

#[test]
fn lists_of_rooms_are_merged_from_all_shards_in_pages() {
    let mut world = World::new(4);
    let names: Vec<String> = (10..20).map(|n| format!("list-{n}")).collect();
    let rooms: Vec<&str> = names.iter().map(String::as_str).collect();
    let ann = world.joined(0, "ann", &rooms);
    world.joined(3, "bob", &["list-11"]);
    world.relay(2, "list-10");
    let mut page = |after: Option<&str>, limit| {
        let after = after.map(|name| name.to_owned().into());
        world.command(ann, Some(5), CommandBody::Rooms { after, limit });
        world.pump();
        world.log(ann).remove(0)
    };
    assert_eq!(page(None, Some(3)), "ok 5 [list-10=1 list-11=2 list-12=1] next=Some(\"list-12\")");
    assert_eq!(page(Some("list-16"), Some(3)), "ok 5 [list-17=1 list-18=1 list-19=1] next=None");
    assert_eq!(page(Some("zzz"), None), "ok 5 [] next=None");
    assert_eq!(page(Some(" "), None), "error 5 bad_request");
    world.check();
}

#[test]
fn one_connection_gathers_one_list_and_a_shard_so_many() {
    let mut world = World::new(2);
    let rooms = CommandBody::Rooms { after: None, limit: None };
    let ann = world.joined(0, "ann", &["lobby"]);
    for id in 0..3 {
        world.command(ann, Some(id), rooms.clone());
    }
    assert_eq!(world.clients[&ann].held.len(), 2);
    let others: Vec<_> = (0..ROOM_GATHERS_MAX).map(|n| world.client(0, &format!("user-{n}"))).collect();
    for other in &others {
        world.log(*other);
        world.command(*other, Some(1), rooms.clone());
    }
    let refused = others.iter().filter(|other| !world.clients[other].log.is_empty()).count();
    assert_eq!(refused, 1);
    world.close(others[0]);
    world.pump();
    assert_eq!(world.log(ann), [0, 1, 2].map(|id| format!("ok {id} [lobby=1] next=None")));
    assert_eq!(world.log(others[1]), ["ok 1 [lobby=1] next=None"]);
    world.check();
}
