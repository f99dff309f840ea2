//! Replays, recovery, deletion, retention and filters.

use super::{only, owned_by};
use crate::chat::driver::{World, join, message, publish};
use crate::ids::{Epoch, Seq};
use crate::limits::{REPLAY_CHUNK_MESSAGES, ROOM_IDLE_KEEP_MS};
use crate::message::command::{CommandBody, HistoryFrom, Join, Position, Publish};
use std::time::Duration;

/// A room on shard 1 of 2 with so many messages, and bob on shard 1 who wrote them.
fn room_with(messages: u64, kept: usize) -> (World, String, crate::ids::Member) {
    let mut world = World::keeping(2, 1_024, kept);
    let room = owned_by(1, 2);
    let bob = world.joined(1, "bob", &[&room]);
    for n in 1..=messages {
        world.say(bob, &room, &n.to_string());
    }
    world.log(bob);
    (world, room, bob)
}

fn seqs(log: &[String]) -> Vec<u64> {
    let of = |line: &String| line.split(' ').find(|word| word.contains(':'))?.split_once(':')?.1.parse().ok();
    only(log, &["replay", "message"]).iter().filter_map(of).collect()
}

#[test]
fn a_replay_under_fire_has_no_gap_and_no_duplicate() {
    for shard in 0..2 {
        let (mut world, room, bob) = room_with(300, 1_000);
        world.reads_replays = false;
        let ann = world.client(shard, "ann");
        world.command(ann, Some(1), CommandBody::Join(Join { history: 250, ..join(&room) }));
        for n in 0..400 {
            world.say(bob, &room, "more");
            if n % 3 == 0 {
                world.exchange();
            }
            if n % 7 == 0 {
                world.take_chunk(ann);
            }
            world.check();
        }
        world.pump();
        while world.take_chunk(ann) {
            world.pump();
        }
        world.say(bob, &room, "live");
        world.pump();
        let log = world.log(ann);
        assert!(log[1].starts_with(&format!("ok 1 {room}@30")), "{}", log[1]);
        assert_eq!(seqs(&log), (seqs(&log)[0]..=701).collect::<Vec<_>>());
        assert!(seqs(&log)[0] <= 52);
        let replayed = only(&log, &["replay"]).len();
        assert!(replayed > 250 && replayed < 651, "{replayed} were replayed, the rest came live");
        assert!(log.last().unwrap().starts_with("message"));
        world.check();
    }
}

#[test]
fn only_one_chunk_is_on_its_way_until_the_shell_wants_more() {
    let (mut world, room, _) = room_with(300, 1_000);
    world.reads_replays = false;
    let ann = world.client(0, "ann");
    world.command(ann, Some(1), CommandBody::Join(Join { history: 300, ..join(&room) }));
    world.pump();
    assert_eq!(only(&world.log(ann), &["replay"]).len(), REPLAY_CHUNK_MESSAGES);
    world.pump();
    assert!(world.log(ann).is_empty());
    world.take_chunk(ann);
    world.pump();
    assert_eq!(only(&world.log(ann), &["replay"]).len(), REPLAY_CHUNK_MESSAGES);
}

#[test]
fn since_is_met_in_full_or_not_at_all() {
    let (mut world, room, bob) = room_with(20, 10);
    let ann = world.joined(0, "ann", &[]);
    let join_since = |world: &mut World, since: Option<Position>| {
        world.command(ann, Some(1), CommandBody::Join(Join { since, history: 5, ..join(&room) }));
        world.pump();
        let log = world.log(ann);
        world.leave(ann, &room);
        world.pump();
        world.log(ann);
        (log[0].clone(), seqs(&log))
    };
    let ok = |recovered| format!("ok 1 {room}@20 2 member recovered={recovered}");
    let at = |seq| world.position(bob, &room, seq);
    let (after_15, after_10, after_9, after_20, future) = (at(15), at(10), at(9), at(20), at(21));
    let elsewhere = Some(Position { epoch: Epoch(1), seq: Seq(15) });
    assert_eq!(join_since(&mut world, after_15), (ok(true), (16..=20).collect()));
    assert_eq!(join_since(&mut world, after_10), (ok(true), (11..=20).collect()));
    assert_eq!(join_since(&mut world, after_20), (ok(true), vec![]));
    assert_eq!(join_since(&mut world, after_9), (ok(false), vec![]));
    assert_eq!(join_since(&mut world, future), (ok(false), vec![]));
    assert_eq!(join_since(&mut world, elsewhere), (ok(false), vec![]));
    let (line, replayed) = join_since(&mut world, None);
    assert_eq!((line, replayed), (format!("ok 1 {room}@20 2 member"), (16..=20).collect()));
}

#[test]
fn retention_that_overtakes_a_replay_is_a_gap() {
    let (mut world, room, bob) = room_with(100, 100);
    world.reads_replays = false;
    let ann = world.client(0, "ann");
    world.command(ann, Some(1), CommandBody::Join(Join { history: 100, ..join(&room) }));
    world.pump();
    for _ in 0..90 {
        world.say(bob, &room, "more");
    }
    world.pump();
    world.log(ann);
    while world.take_chunk(ann) {
        world.pump();
    }
    let log = world.log(ann);
    assert_eq!(log[0], format!("gap {room}:65-90"));
    assert_eq!(seqs(&log), (91..=190).collect::<Vec<_>>());
}

#[test]
fn deleting_reaches_members_whose_replay_still_runs() {
    let (mut world, room, bob) = room_with(100, 1_000);
    world.reads_replays = false;
    let ann = world.client(0, "ann");
    world.command(ann, Some(1), CommandBody::Join(Join { history: 100, ..join(&room) }));
    world.pump();
    for seq in [1, 99] {
        world.command(bob, Some(9), CommandBody::Delete { room: room.clone().into(), seq: Seq(seq) });
    }
    world.pump();
    while world.take_chunk(ann) {
        world.pump();
    }
    let log = world.log(ann);
    let sent = log.iter().position(|line| line == &format!("replay {room}:1 bob 1")).unwrap();
    let told = log.iter().position(|line| line == &format!("deleted {room}:1")).unwrap();
    assert!(sent < told, "what was replayed before is taken back");
    assert!(log.contains(&format!("replay {room}:99 bob null deleted")), "a tombstone keeps its place");
}

#[test]
fn messages_are_deleted_by_their_sender_or_the_host() {
    let (mut world, room, bob) = room_with(1, 3);
    let ann = world.joined(0, "ann", &[&room]);
    let cat = world.joined(0, "cat", &[&room]);
    world.say(ann, &room, "mine");
    world.pump();
    for member in [ann, bob, cat] {
        world.log(member);
    }
    let delete = |seq| CommandBody::Delete { room: room.clone().into(), seq: Seq(seq) };
    world.command(cat, Some(1), delete(2));
    world.command(ann, Some(2), delete(1));
    world.command(ann, Some(3), delete(0));
    world.command(ann, Some(4), delete(9));
    world.pump();
    assert_eq!(world.log(cat), ["error 1 forbidden"]);
    assert_eq!(world.log(ann), ["error 2 forbidden", "error 3 not_found", "error 4 not_found"]);
    world.command(bob, Some(5), delete(2));
    world.command(bob, Some(6), delete(2));
    world.pump();
    assert_eq!(world.log(bob), [format!("deleted {room}:2"), "ok 5".into(), "ok 6".into()]);
    assert_eq!(world.log(cat), [format!("deleted {room}:2")], "once is enough");
    world.check();
}

#[test]
fn pages_of_history_run_both_ways() {
    let (mut world, room, _) = room_with(30, 20);
    let ann = world.joined(0, "ann", &[&room]);
    let mut page = |from, limit, id| {
        world.command(ann, id, CommandBody::History { room: room.clone().into(), from, limit });
        world.pump();
        world.log(ann).pop()
    };
    assert_eq!(page(HistoryFrom::Latest, Some(3), Some(1)).unwrap(), format!("ok 1 {room} [28 29 30] more=true"));
    assert_eq!(page(HistoryFrom::After(Seq(0)), Some(2), Some(1)).unwrap(), format!("ok 1 {room} [11 12] more=true"));
    assert_eq!(page(HistoryFrom::Before(Seq(13)), None, Some(1)).unwrap(), format!("ok 1 {room} [11 12] more=false"));
    assert_eq!(page(HistoryFrom::Latest, None, None), None, "without a tag there is no answer");
    assert!(page(HistoryFrom::Latest, Some(u64::MAX), Some(1)).unwrap().contains("[11 12"));
}

#[test]
fn members_that_filter_get_their_tags_and_what_has_none() {
    let (mut world, room, bob) = room_with(0, 1_000);
    let tagged = |tag: Option<&'static str>| {
        CommandBody::Message(Publish { tag: tag.map(Into::into), ..publish(&room, tag.unwrap_or("none")) })
    };
    for tag in [Some("goal"), Some("card"), None] {
        world.command(bob, None, tagged(tag));
    }
    let ann = world.client(0, "ann");
    let wanted = Join { tags: vec!["goal".into(), "end".into()], history: 10, ..join(&room) };
    world.command(ann, Some(1), CommandBody::Join(wanted));
    world.pump();
    for tag in [Some("card"), Some("end"), None] {
        world.command(bob, None, tagged(tag));
    }
    world.pump();
    let log = world.log(ann);
    assert_eq!(seqs(&log), [1, 3, 5, 6], "{log:?}");
    assert_eq!(world.log(bob).len(), 6);
    world.check();
}

#[test]
fn a_replay_of_which_nothing_passes_the_filter_ends_by_itself() {
    let (mut world, room, bob) = room_with(0, 1_000);
    for _ in 0..3 * REPLAY_CHUNK_MESSAGES {
        world.command(bob, None, CommandBody::Message(Publish { tag: Some("card".into()), ..publish(&room, "x") }));
    }
    world.reads_replays = false;
    let ann = world.client(0, "ann");
    world.command(ann, Some(1), CommandBody::Join(Join { tags: vec!["goal".into()], history: 500, ..join(&room) }));
    world.pump();
    world.say(bob, &room, "live");
    world.pump();
    assert_eq!(seqs(&world.log(ann)), [3 * REPLAY_CHUNK_MESSAGES as u64 + 1]);
}

#[test]
fn history_outlives_the_members_for_a_while_and_then_the_epoch_changes() {
    let (mut world, room, bob) = room_with(3, 1_000);
    let since = world.position(bob, &room, 1);
    world.close(bob);
    world.advance(Duration::from_secs(60));
    assert_eq!(world.states[1].counts().rooms_idle, 1);
    world.check();
    let rejoin = |world: &mut World, name: &str| {
        let member = world.client(0, name);
        world.command(member, Some(1), CommandBody::Join(Join { since, ..join(&room) }));
        world.pump();
        let line = world.log(member).remove(1);
        world.close(member);
        world.pump();
        line
    };
    assert_eq!(rejoin(&mut world, "ann"), format!("ok 1 {room}@3 1 host recovered=true"));
    world.advance(Duration::from_millis(ROOM_IDLE_KEEP_MS + 6_000));
    assert_eq!((world.states[1].counts().rooms, world.states[1].counts().history_bytes), (0, 0));
    assert_eq!(rejoin(&mut world, "ann"), format!("ok 1 {room}@0 1 host recovered=false"));
    world.advance(Duration::from_secs(6));
    assert_eq!(world.states[1].counts().rooms, 0, "without history a room goes with its last user");
    world.check();
}

#[test]
fn a_shard_keeps_only_so_much_history() {
    let mut world = World::new(1);
    world.states[0].history_weight_max = 4_000;
    let ann = world.joined(0, "ann", &["idle", "busy"]);
    for _ in 0..5 {
        world.say(ann, "idle", "x");
    }
    world.leave(ann, "idle");
    assert_eq!(world.states[0].counts().rooms_idle, 1);
    for _ in 0..100 {
        world.say(ann, "busy", "x");
        assert!(world.states[0].counts().history_bytes <= 4_000);
        world.check();
    }
    assert_eq!(world.states[0].counts().rooms_idle, 0, "idle rooms go first");
    world.log(ann);
    world.command(
        ann,
        Some(1),
        CommandBody::History { room: "busy".into(), from: HistoryFrom::Latest, limit: Some(2) },
    );
    assert_eq!(world.log(ann), ["ok 1 busy [99 100] more=true"], "then a room's own past");
}

#[test]
fn a_full_shard_forgets_idle_rooms_before_it_refuses_new_ones() {
    let mut world = World::new(1);
    world.states[0].rooms_max = 2;
    let ann = world.joined(0, "ann", &["one", "two"]);
    world.say(ann, "one", "x");
    world.leave(ann, "one");
    world.log(ann);
    world.join(ann, "three");
    world.join(ann, "four");
    assert_eq!(world.log(ann), ["ok 1 three@0 1 host", "error 1 overloaded"]);
    assert_eq!(world.states[0].counts().rooms, 2);
    world.check();
    world.command(ann, Some(4), message("two", "still works"));
    assert_eq!(only(&world.log(ann), &["ok"]), ["ok 4 two:1"]);
}
