//! Kicking, banning, muting and closing, and what of it outlasts a restart.

use std::time::Duration;

use super::{only, owned_by};
use crate::access::Permissions;
use crate::chat::driver::{World, message};
use crate::chat::log::{LogEvent, LogWrite, SanctionKind, SanctionRecord, Scope};
use crate::chat::{Consults, Input, Note};
use crate::ids::{Member, RoomName, Seq, ShardId, UserName};
use crate::message::command::{CommandBody, Measure};

fn act(measure: Measure, room: &str, user: &str, for_ms: Option<u64>) -> CommandBody<'static> {
    CommandBody::Moderate { room: room.to_owned().into(), user: user.to_owned().into(), measure, for_ms }
}

fn refused(room: &str, user: &str) -> SanctionRecord {
    SanctionRecord {
        scope: Scope::Room(RoomName::chat(room).unwrap(), UserName::new(user).unwrap()),
        kind: SanctionKind::Ban,
        until_unix_ms: None,
        before_unix_ms: None,
        by: None,
        reason: None,
        lifted: false,
    }
}

/// A room of three shards, whose host is ann, with bob on each of the others.
fn crowd(owner: u16) -> (World, String, Member, [Member; 2]) {
    let mut world = World::new(3);
    let room = owned_by(owner, 3);
    let ann = world.joined(0, "ann", &[&room]);
    let bobs = [world.joined(1, "bob", &[&room]), world.joined(2, "bob", &[&room])];
    world.log(ann);
    bobs.iter().for_each(|bob| _ = world.log(*bob));
    (world, room, ann, bobs)
}

#[test]
fn a_kick_hits_every_connection_of_its_user_and_nobody_else() {
    for owner in 0..3 {
        let (mut world, room, ann, bobs) = crowd(owner);
        let cat = world.joined(1, "cat", &[&room]);
        world.command(ann, Some(1), act(Measure::Kick, &room, "bob", None));
        world.command(ann, Some(2), message(&room, "gone"));
        world.pump();
        let replies = only(&world.log(ann), &["ok", "error"]);
        assert_eq!(replies, ["ok 1".to_owned(), format!("ok 2 {room}:1")]);
        for bob in bobs {
            assert_eq!(world.log(bob), [format!("kicked {room} kicked by ann")], "and nothing after it");
            world.say(bob, &room, "still here?");
            assert_eq!(world.log(bob), ["error not_member"]);
        }
        assert_eq!(world.log(cat).len(), 1);
        world.join(bobs[0], &room);
        world.pump();
        assert_eq!(world.log(bobs[0]), [format!("ok 1 {room}@1 3 member")], "who was kicked may come back");
        world.check();
    }
}

#[test]
fn a_ban_keeps_its_user_out_until_it_ends_or_is_lifted() {
    for (owner, lifted) in [(0, false), (1, true), (2, false)] {
        let (mut world, room, ann, bobs) = crowd(owner);
        world.command(ann, Some(1), act(Measure::Ban, &room, "bob", Some(5_000)));
        world.pump();
        let until = world.now.unix_ms + 5_000;
        world.join(bobs[0], &room);
        world.pump();
        let expected = [format!("kicked {room} banned by ann until {until}"), "error 1 forbidden".to_owned()];
        assert_eq!(world.log(bobs[0]), expected);
        // The room is forgotten, the ban is not.
        world.leave(ann, &room);
        world.join(bobs[1], &room);
        world.pump();
        assert_eq!(world.log(bobs[1])[1..], ["error 1 forbidden"]);
        if lifted {
            world.join(ann, &room);
            world.command(ann, Some(3), act(Measure::Unban, &room, "bob", None));
            world.pump();
        } else {
            world.advance(Duration::from_millis(5_001));
        }
        world.join(bobs[0], &room);
        world.pump();
        assert!(world.log(bobs[0])[0].starts_with("ok 1"));
        world.check();
    }
}

#[test]
fn who_is_muted_hears_but_cannot_speak_wherever_it_comes_from() {
    for owner in 0..3 {
        let (mut world, room, ann, [bob, other]) = crowd(owner);
        world.command(ann, Some(1), act(Measure::Mute, &room, "bob", Some(5_000)));
        world.pump();
        let late = world.joined(0, "bob", &[&room]);
        for member in [bob, other, late] {
            world.command(member, Some(2), message(&room, "hm"));
            world.command(member, None, CommandBody::Signal { room: room.clone().into(), content: b"1"[..].into() });
            world.pump();
            assert_eq!(world.log(member), ["error 2 forbidden", "error forbidden"]);
        }
        world.say(ann, &room, "listen");
        world.pump();
        assert_eq!(world.log(bob), [format!("message {room}:1 ann listen")]);
        world.advance(Duration::from_millis(5_001));
        world.say(bob, &room, "at last");
        world.command(ann, None, act(Measure::Mute, &room, "bob", None));
        world.command(ann, None, act(Measure::Unmute, &room, "bob", None));
        world.say(late, &room, "me too");
        world.pump();
        assert_eq!(only(&world.log(ann), &["message"]).len(), 3);
        world.check();
    }
}

#[test]
fn only_who_moderates_does_and_not_to_themselves_nor_to_a_host() {
    let (mut world, room, ann, [bob, _]) = crowd(1);
    for (id, measure) in [Measure::Kick, Measure::Ban, Measure::Mute, Measure::Unban].into_iter().enumerate() {
        world.command(bob, Some(id as u64), act(measure, &room, "ann", None));
    }
    world.command(bob, Some(8), CommandBody::Close { room: room.clone().into() });
    world.command(ann, Some(1), act(Measure::Ban, &room, "ann", None));
    world.command(ann, Some(2), act(Measure::Kick, &room, "zoe", None));
    world.command(ann, Some(3), act(Measure::Mute, &room, "bob", Some(0)));
    world.command(ann, Some(4), act(Measure::Mute, &room, " ", None));
    world.command(ann, Some(5), act(Measure::Mute, "elsewhere", "bob", None));
    world.command(ann, Some(6), act(Measure::Unban, &room, "bob", None));
    world.pump();
    assert_eq!(world.log(bob), [0, 1, 2, 3, 8].map(|id| format!("error {id} forbidden")));
    let mut log = world.log(ann);
    log.sort();
    let refused = ["1 forbidden", "2 not_found", "3 bad_request", "4 bad_request", "5 not_member"];
    assert_eq!(log[..5], refused.map(|line| format!("error {line}")));
    assert_eq!(log[5..], ["ok 6"], "what is not there need not be lifted");
    world.check();
}

#[test]
fn a_closed_room_is_left_by_all_and_can_be_entered_again() {
    for owner in 0..3 {
        let (mut world, room, ann, bobs) = crowd(owner);
        world.say(ann, &room, "last words");
        world.pump();
        bobs.iter().for_each(|bob| _ = world.log(*bob));
        world.log(ann);
        world.command(ann, Some(1), CommandBody::Close { room: room.clone().into() });
        world.pump();
        let mut log = world.log(ann);
        log.sort();
        assert_eq!(log, [format!("closed {room}"), "ok 1".to_owned()]);
        for bob in bobs {
            assert_eq!(world.log(bob), [format!("closed {room}")]);
        }
        world.check();
        world.join(bobs[0], &room);
        world.pump();
        assert_eq!(world.log(bobs[0]), [format!("ok 1 {room}@1 1 host")], "what was said is still there");
    }
}

#[test]
fn a_ban_is_confirmed_when_it_is_stored_and_holds_after_a_restart() {
    let mut world = World::durable(1);
    let ann = world.client(0, "ann");
    world.join(ann, "lobby");
    world.answer(0, &Ok(crate::chat::log::LogAnswer::Opened(None)));
    let batch = world.states[0].take_log_batch();
    let synced = batch.map_or(0, |batch| batch.ticket);
    world.log(ann);
    world.command(ann, Some(7), act(Measure::Ban, "lobby", "bob", None));
    world.pump();
    assert!(world.log(ann).is_empty(), "it is not stored yet");
    let batch = world.states[0].take_log_batch().unwrap();
    let [LogWrite::Sanction(record)] = &batch.writes[..] else { panic!("{batch:?}") };
    assert_eq!((batch.ticket, batch.sync), (synced + 1, true));
    let expected = SanctionRecord { by: Some(UserName::new("ann").unwrap()), ..refused("lobby", "bob") };
    assert_eq!(**record, expected);
    let (applied, synced) = (batch.ticket, batch.ticket);
    world.input(ShardId(0), Input::Log(LogEvent::Committed { applied, synced }));
    assert_eq!(world.log(ann), ["ok 7"]);
    let mut later = World::durable(1);
    later.input(ShardId(0), Input::Log(LogEvent::Sanctions(vec![expected])));
    let bob = later.client(0, "bob");
    later.join(bob, "lobby");
    assert_eq!(later.log(bob)[1..], ["error 1 forbidden"]);
    later.check();
}

#[test]
fn a_ban_overtakes_a_join_that_waits_for_the_store() {
    let mut world = World::durable(1);
    let bob = world.client(0, "bob");
    world.join(bob, "lobby");
    world.answer(0, &Ok(crate::chat::log::LogAnswer::Opened(None)));
    world.say(bob, "lobby", "hello");
    let eve = world.client(0, "eve");
    world.log(eve);
    world.join(eve, "lobby");
    world.command(bob, None, act(Measure::Ban, "lobby", "eve", None));
    let answered =
        world.answer(0, &Ok(crate::chat::log::LogAnswer::User { ack: None, read: None, letters: Vec::new() }));
    assert_eq!((answered, world.log(eve)), (1, vec!["error 1 forbidden".to_owned()]));
    world.check();
}

#[test]
fn a_member_put_out_says_nothing_more_not_even_what_is_on_its_way() {
    let mut world = World::new(2);
    let room = owned_by(0, 2);
    let ann = world.joined(0, "ann", &[&room]);
    let bob = world.joined(1, "bob", &[&room]);
    world.log(ann);
    world.command(bob, Some(1), message(&room, "too late"));
    world.command(bob, Some(2), CommandBody::Delete { room: room.clone().into(), seq: Seq(1) });
    world.command(ann, None, act(Measure::Kick, &room, "bob", None));
    world.pump();
    let mut log = world.log(bob);
    log.sort();
    assert_eq!(log, ["error 1 not_member", "error 2 not_member", &format!("kicked {room} kicked by ann")]);
    assert!(world.log(ann).is_empty());
    world.check();
}

#[test]
fn what_is_done_to_someone_is_noted_once() {
    for owner in 0..3 {
        let (mut world, room, ann, _) = crowd(owner);
        world.command(ann, Some(1), act(Measure::Kick, &room, "nobody", None));
        world.command(ann, Some(2), act(Measure::Kick, &room, "bob", None));
        world.command(ann, Some(3), act(Measure::Ban, &room, "bob", None));
        world.command(ann, Some(4), act(Measure::Unban, &room, "bob", None));
        world.command(ann, Some(5), CommandBody::Close { room: room.clone().into() });
        world.pump();
        let by = || Some(UserName::new("ann").unwrap());
        let name = RoomName::chat(&room).unwrap();
        let ban = SanctionRecord { by: by(), ..refused(&room, "bob") };
        let expected = [
            Note::Kick { room: name.clone(), user: UserName::new("bob").unwrap(), by: by() },
            Note::Sanction(ban.clone()),
            Note::Sanction(SanctionRecord { lifted: true, ..ban }),
            Note::Close { room: name, by: by() },
        ];
        assert_eq!(world.notes, expected);
    }
}

#[test]
fn who_is_silenced_while_the_application_is_asked_stays_silent() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let ann = world.joined(0, "ann", &[&room]);
    world.rule(Consults { connect: false, join: false, message: true }, Permissions::default());
    world.command(ann, Some(1), message(&room, "hi"));
    world.pump();
    let ann_everywhere = Scope::User(UserName::new("ann").unwrap());
    world.sanction(&SanctionRecord { scope: ann_everywhere, kind: SanctionKind::Mute, ..refused(&room, "ann") });
    world.verdict(Ok(()));
    world.pump();
    assert_eq!(world.log(ann), ["error 1 forbidden"]);
    world.check();
}
