//! What operators have done to rooms and connections.

use std::sync::Arc;

use super::owned_by;
use crate::chat::driver::World;
use crate::chat::exchange::{Draft, Refusal};
use crate::chat::log::{LogAnswer, LogEvent, LogFailure, LogState};
use crate::chat::operate::{Order, OrderReply, RoomOrder, Target};
use crate::chat::{ConnKind, Input};
use crate::ids::{Epoch, RoomName, Seq, ShardId, UserName};
use crate::message::close::{CloseReason, ErrorCode};
use crate::message::command::HistoryFrom;
use crate::message::event::{Message, Reply};

const SHARDS: u16 = 2;

fn order(world: &mut World, shard: u16, ticket: u64, order: Order) {
    world.input(ShardId(shard), Input::Order { ticket, order });
}

fn about(world: &mut World, ticket: u64, room: &str, what: RoomOrder) {
    order(world, 1, ticket, Order::Room { room: RoomName::chat(room).unwrap(), order: what });
}

fn publish(key: Option<&str>) -> RoomOrder {
    let draft = Draft { content: "1".into(), key: key.map(Into::into), tag: None, echo: true, receipt: false };
    RoomOrder::Publish { sender: UserName::new("operator").unwrap(), draft }
}

fn latest() -> RoomOrder {
    RoomOrder::History { from: HistoryFrom::Latest, limit: 10 }
}

/// The one answer there is, and its ticket.
fn answer(world: &mut World) -> (u64, Result<OrderReply, Refusal>) {
    assert_eq!(world.answers.len(), 1, "{:?}", world.answers);
    world.answers.remove(0)
}

fn sent(world: &mut World) -> (u64, u64, bool, bool) {
    match answer(world) {
        (ticket, Ok(OrderReply::Said(Reply::Sent { seq, durable, duplicate, .. }))) => {
            (ticket, seq.0, durable, duplicate)
        }
        other => panic!("{other:?}"),
    }
}

fn history(world: &mut World) -> Vec<u64> {
    match answer(world).1 {
        Ok(OrderReply::Said(Reply::History { messages, .. })) => messages.iter().map(|m| m.seq.0).collect(),
        other => panic!("{other:?}"),
    }
}

fn refused(world: &mut World) -> ErrorCode {
    answer(world).1.unwrap_err().code
}

#[test]
fn an_operator_speaks_in_a_room_without_being_in_it() {
    let mut world = World::new(SHARDS);
    let room = owned_by(1, SHARDS);
    let ann = world.joined(0, "ann", &[&room]);
    about(&mut world, 7, &room, publish(None));
    assert_eq!(sent(&mut world), (7, 1, false, false));
    world.pump();
    assert_eq!(world.log(ann), [format!("message {room}:1 operator 1")]);
    about(&mut world, 8, &room, latest());
    assert_eq!(history(&mut world), [1]);
    about(&mut world, 9, &room, RoomOrder::Presence { after: None, limit: 10 });
    let (9, Ok(OrderReply::Said(Reply::Users { users, count: 1, .. }))) = answer(&mut world) else { panic!() };
    assert_eq!(users[0].user.as_str(), "ann", "the operator is not in the room");
    world.check();
}

#[test]
fn a_room_that_nobody_knows_is_not_found_and_not_made() {
    let mut world = World::new(SHARDS);
    let room = owned_by(1, SHARDS);
    about(&mut world, 1, &room, RoomOrder::Look);
    assert_eq!(refused(&mut world), ErrorCode::NotFound);
    assert_eq!(world.states[1].counts().rooms, 0);
    let _ann = world.joined(0, "ann", &[&room]);
    about(&mut world, 2, &room, RoomOrder::Look);
    let (2, Ok(OrderReply::Room(view))) = answer(&mut world) else { panic!() };
    assert_eq!((view.room.as_str(), view.members, view.connections, view.head), (&*room, 1, 1, Seq(0)));
    world.check();
}

#[test]
fn an_order_about_a_durable_room_waits_for_it_to_open_and_for_the_disk() {
    let mut world = World::durable(SHARDS);
    let room = owned_by(1, SHARDS);
    about(&mut world, 1, &room, publish(Some("k")));
    assert!(world.answers.is_empty(), "nothing is known of the room yet");
    assert_eq!(world.answer(1, &Ok(LogAnswer::Opened(None))), 1);
    assert!(world.answers.is_empty(), "nothing is on the disk yet");
    about(&mut world, 2, &room, publish(Some("k")));
    assert!(world.answers.is_empty(), "a duplicate waits for the first one's fsync");
    let ticket = world.states[1].take_log_batch().unwrap().ticket;
    world.input(ShardId(1), Input::Log(LogEvent::Committed { applied: ticket, synced: ticket }));
    let mut answers: Vec<_> =
        std::mem::take(&mut world.answers).into_iter().map(|answer| format!("{answer:?}")).collect();
    answers.sort();
    assert!(answers[0].starts_with("(1") && answers[0].contains("durable: true, duplicate: false"), "{answers:?}");
    assert!(answers[1].starts_with("(2") && answers[1].contains("durable: true, duplicate: true"), "{answers:?}");
    assert_eq!(world.states[1].counts().rooms, 0, "nobody is in it, and it is on the disk");
    world.check();
}

#[test]
fn a_room_stays_while_an_operator_reads_it_from_the_store() {
    let mut world = World::durable(SHARDS);
    let room = owned_by(1, SHARDS);
    about(&mut world, 1, &room, latest());
    let state = LogState {
        epoch: Epoch(5),
        last: Seq(2),
        crashes: 0,
        trimmed: Seq(0),
        last_timestamp: 1,
        bytes: 2,
        jumps: Vec::new(),
        keys: Vec::new(),
    };
    let (token, _) = world.states[1].take_log_read().unwrap();
    let outcome = Ok(LogAnswer::Opened(Some(Box::new(state))));
    world.input(ShardId(1), Input::Log(LogEvent::Read { token, outcome }));
    assert!(world.answers.is_empty(), "the messages are in the store");
    assert_eq!(world.states[1].counts().rooms, 1);
    world.check();
    let message = |seq| {
        Arc::new(Message {
            room: RoomName::chat(&room).unwrap(),
            seq: Seq(seq),
            prev: None,
            sender: UserName::new("ann").unwrap(),
            content: "1".into(),
            timestamp: 1,
            tag: None,
            key: None,
            deleted: false,
        })
    };
    assert_eq!(world.answer(1, &Ok(LogAnswer::Page { messages: vec![message(1), message(2)], more: false })), 1);
    assert_eq!(history(&mut world), [1, 2]);
    assert_eq!(world.states[1].counts().rooms, 0);
    world.check();
}

#[test]
fn what_cannot_be_read_is_refused() {
    let mut world = World::durable(SHARDS);
    let room = owned_by(1, SHARDS);
    for what in [publish(None), latest(), RoomOrder::Look] {
        about(&mut world, 1, &room, what);
        assert_eq!(world.answer(1, &Err(LogFailure::Unreadable)), 1);
        assert_eq!(refused(&mut world), ErrorCode::Overloaded);
    }
    assert_eq!(world.states[1].counts().rooms, 0);
    world.check();
}

#[test]
fn rooms_are_listed_by_page_and_prefix() {
    let mut world = World::new(1);
    let _ann = world.joined(0, "ann", &["team-a", "team-b", "x", "@ann", "a"]);
    let mut list = |after: Option<&str>, prefix: &str, limit| {
        let after = after.map(|name| RoomName::chat(name).unwrap());
        order(&mut world, 0, 1, Order::Rooms { after, prefix: prefix.into(), limit });
        let (1, Ok(OrderReply::Rooms { rooms, more })) = answer(&mut world) else { panic!() };
        let names: Vec<String> = rooms.iter().map(|view| view.room.as_str().to_owned()).collect();
        (names.join(" "), more)
    };
    assert_eq!(list(None, "", 10), ("a team-a team-b x".into(), false));
    assert_eq!(list(None, "", 2), ("a team-a".into(), true));
    assert_eq!(list(Some("team-a"), "", 2), ("team-b x".into(), false));
    assert_eq!(list(None, "team-", 1), ("team-a".into(), true));
    assert_eq!(list(Some("team-a"), "team-", 5), ("team-b".into(), false));
    assert_eq!(list(None, "@", 5), ("@ann".into(), false));
    assert_eq!(list(None, "zz ", 5), (String::new(), false));
}

#[test]
fn connections_are_listed_and_closed() {
    let mut world = World::new(SHARDS);
    let ann = world.joined(0, "ann", &["a", "b"]);
    let other = world.joined(0, "ann", &[]);
    let bob = world.joined(0, "bob", &["a"]);
    let silent = world.open(0, ConnKind::Chat { connect: None, ping_as_event: false });
    let ask = |world: &mut World, user: Option<&str>, after, limit| {
        let user = user.map(|user| UserName::new(user).unwrap());
        order(world, 0, 1, Order::Connections { user, after, limit });
        let (1, Ok(OrderReply::Connections { connections, more })) = answer(world) else { panic!() };
        (connections.iter().map(|view| (view.conn, view.rooms.len())).collect::<Vec<_>>(), more)
    };
    let all = [(ann.conn, 2), (other.conn, 0), (bob.conn, 1), (silent.conn, 0)];
    assert_eq!(ask(&mut world, None, None, 9), (all.to_vec(), false));
    assert_eq!(ask(&mut world, None, Some(ann.conn), 2), (all[1..3].to_vec(), true));
    assert_eq!(ask(&mut world, Some("ann"), None, 9), (all[..2].to_vec(), false));
    order(&mut world, 0, 2, Order::Disconnect(Target::User(UserName::new("ann").unwrap())));
    let (2, Ok(OrderReply::Count(2))) = answer(&mut world) else { panic!() };
    assert_eq!((world.clients[&ann].closed, world.clients[&bob].closed), (Some(CloseReason::Disconnected), None));
    for count in [1, 0] {
        order(&mut world, 0, 3, Order::Disconnect(Target::Connection(bob.conn)));
        assert!(matches!(answer(&mut world), (3, Ok(OrderReply::Count(closed))) if closed == count));
    }
    world.pump();
    world.check();
}
