//! Random lives of many clients, with every invariant checked on the way and an oracle of order at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::access::{Action, PermissionRule, Permissions, Who};
use crate::chat::Consults;
use crate::chat::driver::{Held, World, join, message};
use crate::chat::random::Random;
use crate::ids::{Member, Seq, UserName};
use crate::message::command::{CommandBody, HistoryFrom, Join};
use crate::message::event::Role;
use crate::policy::Pattern;

const ROOMS: [&str; 4] = ["walk-a", "walk-b", "walk-c", "walk-d"];

#[test]
fn random_lives_keep_every_invariant() {
    for seed in 0..200 {
        let mut random = Random::new(seed, 0);
        let shards = 1 + random.below(4) as u16;
        let backlog = [1, 2, 1_024][random.below(3) as usize];
        let mut world = World::keeping(shards, backlog, 8 + random.below(100) as usize);
        world.reads_replays = random.below(2) == 0;
        let mut members: Vec<Member> = Vec::new();
        for step in 0..400 {
            walk(&mut world, &mut random, &mut members, shards);
            if step % 20 == 0 {
                world.check();
            }
        }
        settle(&mut world, &members);
        world.check();
        for (member, client) in &world.clients {
            let is_closed = client.log.last().is_some_and(|line| line.starts_with("close "));
            assert!(client.held.is_empty() || is_closed, "seed {seed}: {member:?} is still blocked");
            check_order(seed, &client.log);
        }
        let last: Vec<Member> = world.clients.keys().copied().collect();
        for member in last {
            world.close(member);
        }
        world.advance(Duration::from_secs(1_000));
        world.check();
        for state in &world.states {
            let counts = state.counts();
            assert_eq!((counts.sessions, counts.rooms, counts.audiences, counts.blocked), (0, 0, 0, 0), "seed {seed}");
        }
    }
}

/// One thing happens.
fn walk(world: &mut World, random: &mut Random, members: &mut Vec<Member>, shards: u16) {
    if members.len() < 3 || random.below(25) == 0 {
        let shard = random.below(u64::from(shards)) as u16;
        let member = if random.below(5) == 0 {
            world.relay(shard, "walk-a")
        } else {
            world.client(shard, &format!("user-{}", random.below(6)))
        };
        members.push(member);
        return;
    }
    if random.below(100) == 0 {
        return world.rule(Consults::default(), some_rules(random));
    }
    let index = random.below(members.len() as u64) as usize;
    let member = members[index];
    let (room, other) = (ROOMS[random.below(4) as usize], ROOMS[random.below(4) as usize]);
    let name = || room.to_owned().into();
    let id = (random.below(2) == 0).then_some(7);
    let body = match random.below(30) {
        0..3 => CommandBody::Join(some_join(random, room)),
        3 => CommandBody::Leave { room: name() },
        4 => CommandBody::Switch { from: name(), to: some_join(random, other) },
        5..14 => return say(world, member, room, id),
        14 => CommandBody::Signal { room: name(), content: b"1"[..].into() },
        15 => CommandBody::Delete { room: name(), seq: Seq(random.below(50)) },
        16 => CommandBody::History { room: name(), from: HistoryFrom::After(Seq(random.below(50))), limit: Some(5) },
        17 => CommandBody::Presence { room: name(), after: None, limit: Some(2) },
        18 => CommandBody::Rooms { after: None, limit: Some(2) },
        19 => {
            members.swap_remove(index);
            return world.close(member);
        }
        20 => return world.advance(Duration::from_millis(random.below(3_000))),
        21..24 => {
            world.take_chunk(member);
            return;
        }
        24..27 => {
            world.send_out(random.below(u64::from(shards)) as u16);
            return;
        }
        _ => {
            world.receive(random.below(u64::from(shards)) as u16);
            return;
        }
    };
    // Joins have a tag, so that the log tells where a membership begins.
    let joins = matches!(body, CommandBody::Join(_) | CommandBody::Switch { .. });
    world.command(member, id.or(joins.then_some(8)), body);
}

fn some_join(random: &mut Random, room: &str) -> Join<'static> {
    let tags = if random.below(5) == 0 { vec!["tag".into()] } else { Vec::new() };
    Join { history: random.below(100), presence: random.below(2) == 0, tags, ..join(room) }
}

/// One room that not everyone may enter, and another in which not everyone may speak; or no rules.
fn some_rules(random: &mut Random) -> Permissions {
    let mut of = |action| {
        let users = (0..random.below(6)).map(|n| Who::User(UserName::new(&format!("user-{n}")).unwrap())).collect();
        let rooms = Pattern::new(ROOMS[random.below(4) as usize]);
        PermissionRule { rooms, role: Some(Role::Member), allowed: vec![(action, users)] }
    };
    let rules = vec![of(Action::Join), of(Action::Send)];
    if random.below(3) == 0 { Permissions::default() } else { Permissions { rules } }
}

fn say(world: &mut World, member: Member, room: &str, id: Option<u64>) {
    let frame = Held::Relay("x".into());
    let relay = world.states[member.shard.index()].sessions.get(member.conn).is_some_and(|s| s.user().is_none());
    if relay { world.give(member, frame) } else { world.command(member, id, message(room, "x")) }
}

fn settle(world: &mut World, members: &[Member]) {
    for _ in 0..1_000 {
        world.pump();
        let mut took = false;
        for member in members {
            took |= world.take_chunk(*member);
        }
        if !took {
            return;
        }
    }
    panic!("replays do not end");
}

/// Between two joins of a room its messages come one after the other, each once, with gaps only where they are told.
fn check_order(seed: u64, log: &[String]) {
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for line in log {
        let words: Vec<&str> = line.split(' ').collect();
        if let Some((room, _)) = words.iter().find_map(|word| word.split_once('@')) {
            next.remove(room);
            continue;
        }
        if words[0] == "kicked" {
            // Not even a message that was under way comes now.
            next.insert(words[1].into(), u64::MAX);
            continue;
        }
        let Some((room, seq)) = words.get(1).and_then(|word| word.split_once(':')) else {
            continue;
        };
        let expected = next.get(room).copied();
        match words[0] {
            "message" | "replay" => {
                let seq: u64 = seq.parse().unwrap();
                assert!(
                    expected.is_none_or(|expected| expected == seq),
                    "seed {seed}: {line}, expected {expected:?}\n{log:#?}"
                );
                next.insert(room.into(), seq + 1);
            }
            "gap" => {
                let (from, to) = seq.split_once('-').unwrap();
                assert!(
                    expected.is_none_or(|expected| expected == from.parse::<u64>().unwrap()),
                    "seed {seed}: {line}"
                );
                next.insert(room.into(), to.parse::<u64>().unwrap() + 1);
            }
            _ => {}
        }
    }
}
