//! Heartbeats, half-closed connections, endings and the drain.

use super::{only, owned_by};
use crate::chat::driver::{World, join, message};
use crate::chat::{ConnKind, Input};
use crate::ids::{ConnId, Member, SessionId};
use crate::limits::{DRAIN_BATCH, Limits};
use crate::message::close::CloseReason;
use crate::message::command::{CommandBody, Connect, Join, Resume};
use std::time::Duration;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn silence_is_answered_by_pings_and_then_by_the_end() {
    let mut world = World::new(1);
    let ann = world.joined(0, "ann", &["lobby"]);
    world.advance(seconds(89));
    let (first, second) = (world.pings[0], world.pings[1]);
    assert!((15..=30).contains(&first) && second == 60 && world.pings.len() == 2, "{:?}", world.pings);
    assert!(world.clients[&ann].closed.is_none());
    world.advance(seconds(2));
    assert_eq!(world.log(ann), ["ping", "ping", "close heartbeat_timeout"]);
    world.check();
}

#[test]
fn any_sign_of_life_keeps_a_connection() {
    let mut world = World::new(1);
    world.answers_pings = true;
    let ann = world.joined(0, "ann", &["lobby"]);
    world.advance(seconds(300));
    assert!(world.clients[&ann].closed.is_none());
    let gaps: Vec<u64> = world.pings.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 8 && gaps[1..].iter().all(|gap| (30..=31).contains(gap)), "{:?}", world.pings);
    // Who talks is not pinged.
    world.pings.clear();
    for _ in 0..100 {
        world.say(ann, "lobby", "x");
        world.advance(seconds(10));
    }
    assert!(world.pings.is_empty() && world.clients[&ann].closed.is_none());
}

#[test]
fn the_adaptive_heartbeat_is_shorter_after_a_miss() {
    let limits = Limits { heartbeat_adaptive: true, ..Limits::default() };
    let mut world = World::with(1, 1_024, limits);
    let ann = world.joined(0, "ann", &[]);
    world.advance(seconds(74));
    assert!(world.clients[&ann].closed.is_none());
    world.advance(seconds(2));
    assert_eq!(world.clients[&ann].closed, Some(CloseReason::HeartbeatTimeout));
}

#[test]
fn time_in_which_the_server_did_not_read_does_not_count() {
    let mut world = World::with(2, 1, Limits::default());
    let room = owned_by(1, 2);
    let ann = world.joined(0, "ann", &[&room]);
    let bob = world.joined(0, "bob", &[&room]);
    world.states[0].reading_paused(ann.conn);
    // Bob's second message waits for room, and nobody takes the first.
    world.say(bob, &room, "x");
    world.say(bob, &room, "y");
    assert_eq!(world.states[0].counts().blocked, 1);
    for _ in 0..300 {
        world.now.us += 1_000_000;
        world.input(ann.shard, Input::Tick);
    }
    assert!(world.clients[&ann].closed.is_none() && world.clients[&bob].closed.is_none());
    world.states[0].reading_resumed(ann.conn, world.now);
    world.pump();
    world.advance(seconds(29));
    assert!(world.clients[&ann].closed.is_none() && world.clients[&bob].closed.is_none());
    world.advance(seconds(100));
    assert_eq!(world.clients[&ann].closed, Some(CloseReason::HeartbeatTimeout));
    assert_eq!(world.clients[&bob].closed, Some(CloseReason::HeartbeatTimeout));
}

#[test]
fn pings_of_connections_opened_at_once_are_spread_evenly() {
    let mut world = World::new(1);
    world.answers_pings = true;
    for _ in 0..3_000 {
        world.open(0, chat(false));
    }
    world.advance(seconds(150));
    // After the first two of each, there are 100 in every second.
    for second in 60..150 {
        let pings = world.pings.iter().filter(|at| **at == second).count();
        assert!((65..=135).contains(&pings), "{pings} pings in second {second}");
    }
}

#[test]
fn the_handshake_takes_ten_seconds_at_most() {
    let mut world = World::new(1);
    let silent = world.open(0, ConnKind::Chat { connect: None, ping_as_event: true });
    let ann = world.joined(0, "ann", &[]);
    world.advance(Duration::from_millis(9_900));
    assert!(world.clients[&silent].closed.is_none());
    world.advance(seconds(1));
    assert_eq!(world.clients[&silent].closed, Some(CloseReason::HandshakeTimeout));
    assert!(world.clients[&ann].closed.is_none());
}

#[test]
fn a_half_closed_connection_is_answered_and_then_closed() {
    for owner in 0..2 {
        let mut world = World::new(2);
        let room = owned_by(owner, 2);
        let ann = world.client(0, "ann");
        world.join(ann, &room);
        world.pump();
        world.command(ann, Some(2), message(&room, "with a tag"));
        world.say(ann, &room, "without");
        world.input(ann.shard, Input::Finished { conn: ann.conn, reason: CloseReason::Normal, reads_on: true });
        world.pump();
        let log = world.log(ann);
        let lines = ["message", "close"].map(|word| only(&log, &[word]));
        assert_eq!(lines[0].len(), 2, "{log:?}");
        assert_eq!(only(&log, &["ok"]).len(), 2);
        assert_eq!(log.last().unwrap(), "close normal");
        world.check();
    }
}

#[test]
fn a_half_closed_connection_that_asked_for_a_session_is_welcomed() {
    let mut world = World::new(2);
    let ann = world.open(0, ConnKind::Chat { connect: None, ping_as_event: true });
    let resume = Resume { session: SessionId(1 << 112), rooms: Vec::new() };
    let connect = Connect { name: Some("ann".into()), resume: Some(resume), ..Connect::default() };
    world.command(ann, Some(1), CommandBody::Connect(connect));
    world.input(ann.shard, Input::Finished { conn: ann.conn, reason: CloseReason::Normal, reads_on: true });
    world.pump();
    let log = world.log(ann);
    assert_eq!(only(&log, &["welcome"]).len(), 1, "{log:?}");
    assert_eq!(log.last().unwrap(), "close normal");
    world.check();
}

#[test]
fn a_half_closed_connection_gets_the_replay_it_asked_for() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let bob = world.joined(1, "bob", &[&room]);
    for _ in 0..200 {
        world.say(bob, &room, "x");
    }
    world.reads_replays = false;
    let ann = world.client(0, "ann");
    world.command(ann, Some(1), CommandBody::Join(Join { history: 200, ..join(&room) }));
    world.input(ann.shard, Input::Finished { conn: ann.conn, reason: CloseReason::Normal, reads_on: true });
    world.pump();
    assert!(world.clients[&ann].closed.is_none());
    while world.take_chunk(ann) {
        world.pump();
    }
    let log = world.log(ann);
    assert_eq!(only(&log, &["replay"]).len(), 200);
    assert_eq!(log.last().unwrap(), "close normal");
}

#[test]
fn half_closed_connections_with_nothing_to_wait_for_go_at_once() {
    let mut world = World::new(2);
    let silent = world.open(0, ConnKind::Chat { connect: None, ping_as_event: true });
    let relay = world.relay(0, "room");
    let ann = world.joined(0, "ann", &[]);
    world.pump();
    for member in [silent, relay, ann] {
        world.input(member.shard, Input::Finished { conn: member.conn, reason: CloseReason::Normal, reads_on: true });
        assert_eq!(world.clients[&member].closed, Some(CloseReason::Normal), "{member:?}");
    }
}

#[test]
fn the_end_of_a_connection_while_everything_is_on_its_way_leaves_nothing() {
    for steps in 0..6 {
        let mut world = World::new(3);
        let room = owned_by(1, 3);
        let bob = world.joined(2, "bob", &[&room]);
        world.say(bob, &room, "x");
        let ann = world.client(0, "ann");
        world.command(ann, Some(1), CommandBody::Join(Join { history: 5, presence: true, ..join(&room) }));
        world.command(ann, Some(2), message(&room, "x"));
        world.command(ann, Some(3), CommandBody::Rooms { after: None, limit: None });
        for step in 0..steps {
            if step % 2 == 0 {
                world.send_out(step / 2)
            } else {
                world.receive(step / 2 + 1)
            };
        }
        world.close(ann);
        world.pump();
        world.check();
        assert_eq!((world.states[0].counts().sessions, world.states[0].counts().audiences), (0, 0));
        world.close(bob);
        world.advance(seconds(700));
        world.check();
        assert!(world.states.iter().all(|state| state.counts().rooms == 0));
    }
}

#[test]
fn what_comes_for_a_connection_that_is_gone_finds_nothing() {
    let mut world = World::new(1);
    let ann = world.joined(0, "ann", &["lobby"]);
    let stale = ConnId { generation: ann.conn.generation + 1, ..ann.conn };
    let stale = Member { conn: stale, ..ann };
    let before = world.states[0].counts();
    let command = crate::message::command::Command { id: Some(1), body: message("lobby", "x") };
    world.input(stale.shard, Input::Command { conn: stale.conn, command });
    world.input(stale.shard, Input::Relay { conn: stale.conn, frame: "x".into() });
    world.input(stale.shard, Input::Finished { conn: stale.conn, reason: CloseReason::Normal, reads_on: true });
    world.input(stale.shard, Input::Closed { conn: stale.conn, reason: CloseReason::Normal });
    assert_eq!(world.states[0].counts(), before);
    assert!(world.log(ann).is_empty());
}

#[test]
fn bad_input_is_an_error_and_loses_nothing() {
    let mut world = World::new(1);
    let ann = world.joined(0, "ann", &["lobby"]);
    let code = crate::message::close::ErrorCode::UnknownType;
    let text = "there is no such command".into();
    world.input(ann.shard, Input::BadCommand { conn: ann.conn, id: Some(4), code, message: text });
    world.command(ann, Some(5), CommandBody::Ping);
    assert_eq!(world.log(ann), ["error 4 unknown_type", "pong 5"]);
}

#[test]
fn a_drain_tells_everyone_and_closes_in_batches() {
    let mut world = World::new(1);
    let ann = world.joined(0, "ann", &["lobby"]);
    let relay = world.relay(0, "room");
    let others: Vec<_> = (0..DRAIN_BATCH + 10).map(|_| world.open(0, chat(true))).collect();
    let connecting = world.open(0, ConnKind::Chat { connect: None, ping_as_event: true });
    world.input(ann.shard, Input::Drain { retry_after_max_ms: 5_000 });
    assert_eq!(world.log(ann), ["closing restart true", "close restart"]);
    assert_eq!(world.log(relay), ["close restart"]);
    assert!(world.clients[others.last().unwrap()].closed.is_none(), "not all at once");
    let last = *others.last().unwrap();
    world.log(last);
    world.join(last, "lobby");
    assert_eq!(world.log(last), ["error 1 overloaded"]);
    world.advance(Duration::from_millis(100));
    assert!(world.clients.values().all(|client| client.closed == Some(CloseReason::Restart)));
    assert_eq!(world.log(connecting), ["close restart"]);
    for kind in [chat(true), ConnKind::Relay { room: "room".into(), token: None }] {
        let late = world.open(0, kind);
        assert_eq!(world.log(late), ["close restart"]);
    }
    world.check();
    assert_eq!(world.states[0].counts().audiences, 0);
}

#[test]
fn a_drain_waits_for_the_answers_of_other_shards() {
    let mut world = World::new(2);
    let room = owned_by(1, 2);
    let ann = world.joined(0, "ann", &[&room]);
    world.command(ann, Some(1), message(&room, "x"));
    world.input(ann.shard, Input::Drain { retry_after_max_ms: 5_000 });
    assert_eq!(world.log(ann), ["closing restart true"]);
    world.pump();
    assert_eq!(world.log(ann), [format!("message {room}:1 ann x"), format!("ok 1 {room}:1"), "close restart".into()]);
}

fn chat(ping_as_event: bool) -> ConnKind {
    ConnKind::Chat { connect: Some(crate::message::command::Connect::default()), ping_as_event }
}
