//! Rates and sizes: what is refused past them, and what is not.

use std::time::Duration;

use super::{only, owned, owned_by};
use crate::chat::Limited;
use crate::chat::driver::{Held, World, message};
use crate::ids::{Member, Namespace};
use crate::limits::{Limits, RATE_REFUSALS_MAX};
use crate::message::command::CommandBody;

fn world(shards: u16, change: impl FnOnce(&mut Limits)) -> World {
    let mut limits = Limits::default();
    change(&mut limits);
    World::with(shards, 1_024, limits)
}

fn replies(world: &mut World, member: Member) -> Vec<String> {
    world.pump();
    only(&world.log(member), &["ok", "error", "close"])
}

#[test]
fn who_says_too_much_is_refused_and_told_when_to_go_on() {
    for shard in 0..2 {
        let mut world = world(2, |limits| limits.messages_per_second = Some(3));
        let room = owned_by(0, 2);
        let ann = world.joined(shard, "ann", &[&room]);
        world.command(ann, Some(1), message(&room, "1"));
        world.command(ann, Some(2), CommandBody::Signal { room: room.clone().into(), content: b"1"[..].into() });
        world.command(ann, Some(3), CommandBody::Direct { to: "bob".into(), content: b"1"[..].into(), key: None });
        world.command(ann, Some(4), message(&room, "4"));
        let mut log = replies(&mut world, ann);
        log.sort();
        assert_eq!(log, ["error 4 rate_limited", &format!("ok 1 {room}:1"), "ok 2", "ok 3 @bob:1"]);
        assert_eq!(world.states[usize::from(shard)].counts().limited, Limited { messages: 1, ..Limited::default() });
        world.advance(Duration::from_millis(334));
        world.command(ann, Some(5), message(&room, "5"));
        assert_eq!(replies(&mut world, ann), [format!("ok 5 {room}:2")]);
        world.check();
    }
}

#[test]
fn bytes_and_joins_have_rates_of_their_own() {
    let mut world = world(1, |limits| {
        limits.bytes_per_second = Some(100);
        limits.joins_per_second = Some(2);
    });
    let ann = world.client(0, "ann");
    world.log(ann);
    for room in ["a", "b", "c"] {
        world.join(ann, room);
    }
    world.command(ann, Some(2), message("a", &"x".repeat(100)));
    world.command(ann, Some(3), message("a", "x"));
    let expected = ["ok 1 a@0 1 host", "ok 1 b@0 1 host", "error 1 rate_limited", "ok 2 a:1", "error 3 rate_limited"];
    assert_eq!(replies(&mut world, ann), expected);
    assert_eq!(world.states[0].counts().limited, Limited { bytes: 1, joins: 1, ..Limited::default() });
    world.check();
}

#[test]
fn who_goes_on_and_on_is_closed() {
    let mut world = world(1, |limits| limits.messages_per_second = Some(1));
    let ann = world.joined(0, "ann", &["lobby"]);
    for _ in 0..RATE_REFUSALS_MAX {
        world.say(ann, "lobby", "x");
    }
    assert_eq!(world.log(ann).len(), usize::from(RATE_REFUSALS_MAX), "one message, the rest refused");
    world.say(ann, "lobby", "x");
    assert_eq!(world.log(ann), ["error rate_limited", "close rate_limited"]);
    world.check();
}

#[test]
fn a_relay_connection_beyond_its_rate_is_closed() {
    let mut world = world(2, |limits| limits.messages_per_second = Some(2));
    let tv = world.relay(0, "tv");
    world.pump();
    for _ in 0..3 {
        world.give(tv, Held::Relay("x".into()));
        world.pump();
    }
    assert_eq!(world.log(tv), ["relay x", "relay x", "close rate_limited"]);
    world.check();
}

#[test]
fn a_full_room_takes_its_own_users_and_nobody_else() {
    let mut world = world(2, |limits| limits.room_members_max = Some(2));
    let room = owned_by(0, 2);
    for (shard, user, taken) in [(0, "ann", true), (1, "bob", true), (1, "cat", false), (0, "bob", true)] {
        let member = world.client(shard, user);
        world.log(member);
        world.join(member, &room);
        let log = replies(&mut world, member);
        assert_eq!(log[0].starts_with("ok"), taken, "{log:?}");
        assert!(taken || log == ["error 1 room_full"]);
    }
    assert_eq!(world.states[0].counts().limited.members, 1);
    let relays = [0, 1, 0].map(|shard| world.relay(shard, "tv"));
    world.pump();
    let logs = relays.map(|relay| world.log(relay));
    assert_eq!(logs.concat(), ["close try_again_later"], "one of the three was too many");
    world.check();
}

#[test]
fn a_room_that_is_made_anew_behind_a_refused_join_is_left_as_it_should() {
    let mut world = world(2, |limits| limits.room_members_max = Some(2));
    let room = owned(Namespace::Relay, 1, 2, 0);
    let [first, second, _refused] = [0; 3].map(|shard| world.relay(shard, &room));
    world.close(first);
    world.close(second);
    let late = world.relay(0, &room);
    world.pump();
    world.check();
    world.close(late);
    world.pump();
    world.check();
    assert_eq!(world.states[1].counts().rooms, 0, "nobody is left in it");
}
