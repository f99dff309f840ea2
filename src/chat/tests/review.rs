//! Permissions that change while people are in rooms.

use std::time::Duration;

use super::owned_by;
use crate::access::{Action, PermissionRule, Permissions};
use crate::chat::Consults;
use crate::chat::driver::{Held, World, join, message};
use crate::limits::REVIEW_BATCH;
use crate::message::command::{CommandBody, Join};
use crate::message::event::Role;
use crate::policy::Pattern;

#[test]
fn new_rules_reach_those_who_are_in_already() {
    let mut world = World::new(2);
    let (news, room) = (owned_by(0, 2), owned_by(1, 2));
    let nobody = |pattern: &str, action| {
        let rooms = Pattern::new(pattern);
        PermissionRule { rooms, role: Some(Role::Member), allowed: vec![(action, vec![])] }
    };
    let rules = |rules| Permissions { rules };
    let crowd: Vec<_> = (0..2 * REVIEW_BATCH).map(|n| world.joined(0, &format!("user-{n}"), &[&news, &room])).collect();
    let (first, last) = (crowd[0], crowd[crowd.len() - 1]);
    let far = world.joined(1, "far", &[&news, &room]);
    let tv = world.relay(0, "tv");
    for member in [first, last, far, tv] {
        world.log(member);
    }
    // The same rules anew are no news.
    world.rule(Consults::default(), Permissions::default());
    world.advance(Duration::from_millis(50));
    assert!([first, last, far, tv].into_iter().all(|member| world.log(member).is_empty()));
    world.rule(Consults::default(), rules(vec![nobody(&room, Action::Join), nobody("*", Action::Send)]));
    world.advance(Duration::from_millis(50));
    for member in [first, last, far] {
        assert_eq!(world.log(member), [format!("kicked {room} forbidden")]);
        world.command(member, Some(1), message(&news, "no"));
        world.command(member, Some(2), message(&room, "no"));
        world.pump();
        let mut heard = world.log(member);
        heard.sort();
        assert_eq!(heard, ["error 1 forbidden", "error 2 not_member"]);
    }
    world.give(tv, Held::Relay("x".into()));
    world.pump();
    assert_eq!(world.log(tv), ["close forbidden"], "a guest of the relay only listens");
    let tv = world.relay(0, "tv");
    world.rule(Consults::default(), rules(vec![nobody("tv", Action::Join)]));
    world.advance(Duration::from_millis(50));
    assert_eq!(world.log(tv), ["close forbidden"]);
    world.command(last, Some(3), message(&news, "again"));
    world.pump();
    assert!(world.log(last).iter().any(|line| line.starts_with("ok 3 ")));
    world.check();
}

#[test]
fn who_is_about_to_enter_meets_the_new_rules_too() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let ann = world.client(0, "ann");
    world.log(ann);
    world.command(ann, Some(1), CommandBody::Join(join(&room)));
    let nobody =
        PermissionRule { rooms: Pattern::new("*"), role: Some(Role::Member), allowed: vec![(Action::Join, vec![])] };
    world.rule(Consults::default(), Permissions { rules: vec![nobody] });
    world.pump();
    world.advance(Duration::from_millis(50));
    assert_eq!(world.log(ann).last(), Some(&format!("kicked {room} forbidden")));
    world.check();
}

#[test]
fn who_may_not_read_the_past_any_more_is_not_sent_the_rest_of_it() {
    for shard in 0..2 {
        let mut world = World::keeping(2, 1_024, 2_000);
        let room = owned_by(0, 2);
        let ann = world.joined(0, "ann", &[&room]);
        for n in 0..2_000 {
            world.say(ann, &room, &format!("message {n}"));
        }
        world.pump();
        let live = world.joined(shard, "bob", &[&room]);
        world.reads_replays = false;
        let reader = world.client(shard, "cat");
        world.command(reader, Some(1), CommandBody::Join(Join { history: 2_000, ..join(&room) }));
        world.pump();
        world.log(reader);
        world.log(live);
        let rules =
            vec![PermissionRule { rooms: Pattern::new("*"), role: None, allowed: vec![(Action::History, vec![])] }];
        world.rule(Consults::default(), Permissions { rules });
        world.advance(Duration::from_millis(50));
        world.take_chunk(reader);
        world.pump();
        assert_eq!(world.log(reader), [format!("kicked {room} forbidden")]);
        assert!(world.log(live).is_empty(), "who is told nothing of the past stays");
        world.check();
    }
}
