//! What a room's owner does: gives positions, keeps the past, knows who is here, and tells the shards that listen.
//!
//! Invariants: one envelope per message and interested shard. A message reaches its sender's shard before the answer
//! to it does. Nothing here looks at a connection: members are seats of some shard, this one or another.

use std::sync::Arc;

use bytes::Bytes;

use crate::access::Action;
use crate::chat::exchange::{Delivery, Draft, Refusal, Request, RoomId, RoomRef, Seat};
use crate::chat::journal::{Answer, Waiter};
use crate::chat::lifecycle::Timer;
use crate::chat::log::LogWrite;
use crate::chat::operate::{OPERATOR, OrderReply};
use crate::chat::publish::{NOT_MEMBER, Published};
use crate::chat::room::Room;
use crate::chat::state::{Deferred, State};
use crate::ids::{ConnId, RoomName, Seq, ShardId, UserName};
use crate::message::close::ErrorCode;
use crate::message::event::{Event, Reply, Signal};

impl State {
    pub(super) fn on_request(&mut self, from: ShardId, request: Request) {
        let Some(request) = self.park(from, request) else {
            return;
        };
        match request {
            Request::Publish { room, seat, id, draft } => match self.allowed(from, &room, seat, Action::Send) {
                Ok((room, Some(sender))) => {
                    if let Published::Answered(outcome) = self.publish_here(room, (from, seat.conn), id, sender, draft)
                    {
                        self.reply(from, seat.conn, id, outcome);
                    }
                }
                Ok((_, None)) => {}
                Err(refusal) => self.reply(from, seat.conn, id, Err(refusal)),
            },
            Request::Relay { room, seat, frame } => {
                if let Ok((room, _)) = self.member(from, &room, seat) {
                    self.relay_here(room, frame);
                }
            }
            Request::Join(join) => self.join_here(from, join),
            Request::Leave { room, seat, grace } => self.leave_here(from, &room, seat, grace),
            Request::ReplayNext { room, seat } => self.replay_here(from, room, seat),
            Request::Signal { room, seat, id, content } => {
                let outcome = self.signal_here(from, &room, seat, content);
                self.reply(from, seat.conn, id, outcome);
            }
            Request::Delete { room, seat, id, seq } => {
                self.delete_here(from, &room, seat, id, seq);
            }
            Request::History { room, seat, id, from: start, limit } => {
                match self.allowed(from, &room, seat, Action::History) {
                    Ok((room, _)) => self.history_here(from, (room, seat.conn, id), start, limit),
                    Err(refusal) => self.reply(from, seat.conn, Some(id), Err(refusal)),
                }
            }
            Request::Presence { room, seat, id, after, limit } => {
                let outcome = self.presence_here(from, &room, seat, after.as_ref(), limit);
                self.reply(from, seat.conn, Some(id), outcome);
            }
            Request::Rooms { gather, identity, again: _, after, limit } => {
                let (rooms, reached) = self.rooms_here(&identity, after.as_ref(), limit);
                self.deliver(from, Delivery::Rooms { gather, shard: self.here, rooms, reached });
            }
            Request::Moderate { room, seat, id, order } => self.moderate_here(from, &room, seat, id, *order),
            Request::CloseRoom { room, seat, id } => self.close_here(from, &room, seat, id),
            Request::Standing { room, seat, standing } => {
                self.restand(from, &room, seat, standing);
                if from != self.here {
                    self.deliver(from, Delivery::Settled { conn: seat.conn });
                }
            }
            Request::Direct { room, conn, user, id, draft } => self.direct_here(from, (room, conn, id), user, draft),
            Request::Cursor { room, seat, id, kind, seq } => self.cursor_here(from, &room, (seat, id), kind, seq),
            Request::Resume { session, user, conn } => {
                let session = self.resume_here(session, user.as_ref());
                self.deliver(from, Delivery::Resumed { conn, session });
            }
            Request::Received { room, seq, count } => self.on_received(room, seq, count),
            Request::Operate { room, ticket, order } => self.order_about_room(ticket, room, *order),
            Request::Settle { conn } => self.deliver(from, Delivery::Settled { conn }),
        }
    }

    /// Lets a request wait whose room is not open yet. Gives it back if it need not.
    fn park(&mut self, from: ShardId, request: Request) -> Option<Request> {
        if self.opening == 0 || self.unparking {
            return Some(request);
        }
        let id = request.room().and_then(|room| self.resolve(room));
        match id.filter(|id| self.rooms.get(id.slot, id.generation).is_some_and(Room::is_opening)) {
            Some(id) => {
                self.park_in(from, id, request);
                None
            }
            None => Some(request),
        }
    }

    pub(super) fn park_in(&mut self, from: ShardId, id: RoomId, request: Request) {
        let log = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut());
        if let Some(parked) = log.and_then(|log| log.parked.as_mut()) {
            parked.push_back((from, request));
        }
    }

    /// Says no to a request whose room could not be opened.
    pub(super) fn refuse_request(&mut self, from: ShardId, request: Request, refusal: Refusal) {
        match request {
            Request::Join(join) => {
                let (audience, conn, ticket) = (join.audience, join.seat.conn, join.ticket);
                self.deliver(from, Delivery::JoinRefused { audience, conn, ticket, refusal });
            }
            other => {
                if let Some((conn, id)) = other.waiter() {
                    self.reply(from, conn, id, Err(refusal));
                }
            }
        }
    }

    /// Says something in a room that the sender is not in.
    fn direct_here(
        &mut self,
        from: ShardId,
        (name, conn, tag): (RoomName, ConnId, Option<u64>),
        user: UserName,
        draft: Draft,
    ) {
        // Whose inbox it is may have had enough of someone.
        if let Some(refusal) = self.muted_in(&name, &user).or_else(|| self.banned_from(&name, &user)) {
            return self.reply(from, conn, tag, Err(refusal));
        }
        let Some(id) = self.room_to_join(&name) else {
            let text = "this server holds as many rooms as it can: try again later";
            return self.reply(from, conn, tag, Err(Refusal::new(ErrorCode::Overloaded, text)));
        };
        let opening = self.rooms.get(id.slot, id.generation).is_some_and(Room::is_opening);
        if opening && !self.unparking {
            self.park_in(from, id, Request::Direct { room: name, conn, user, id: tag, draft });
            return;
        }
        if let Published::Answered(outcome) = self.publish_here(id, (from, conn), tag, user, draft) {
            self.reply(from, conn, tag, outcome);
        }
        self.settle_room(id);
    }

    fn leave_here(&mut self, from: ShardId, room: &RoomRef, seat: Seat, grace: bool) {
        let Some(id) = self.resolve(room) else {
            return;
        };
        let grace_ms = self.config.limits.presence_grace.as_millis() as u64;
        let until = (grace && grace_ms > 0).then(|| self.now.ms() + grace_ms);
        let left = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.leave(from, seat, until));
        let Some(occupant) = left else {
            if self.forget_entering(id, from, seat) {
                self.settle_room(id);
            }
            return;
        };
        if let Some(consumer) = &occupant.consumer {
            self.rest_consumer(id, from, seat, consumer);
        }
        if let Some(user) = &occupant.user {
            self.forget_cursors(id, user);
        }
        self.arm(id);
        self.settle_room(id);
    }

    fn signal_here(&mut self, from: ShardId, room: &RoomRef, seat: Seat, content: Bytes) -> Result<Reply, Refusal> {
        let (id, user) = self.allowed(from, room, seat, Action::Send)?;
        if let (Some(sender), Some(room)) = (user, self.rooms.get(id.slot, id.generation)) {
            let signal = Arc::new(Signal { room: room.name.clone(), sender, content });
            self.tell_listeners(id, |audience| Delivery::Signal { audience, signal: Arc::clone(&signal) });
        }
        Ok(Reply::Done)
    }

    /// Replaces a message by its tombstone, if the member may.
    fn delete_here(&mut self, from: ShardId, room: &RoomRef, seat: Seat, id: Option<u64>, seq: Seq) {
        let outcome = self.member(from, room, seat).and_then(|(room_id, _)| {
            let room = self.rooms.get(room_id.slot, room_id.generation).ok_or(NOT_MEMBER)?;
            let message = room.history.get(seq).cloned();
            if message.is_none() && room.trimmed() < seq && seq <= room.history.before() {
                return Ok((room_id, None));
            }
            self.may_delete(from, room_id, seat, message.as_deref())?;
            Ok((room_id, message))
        });
        match outcome {
            Err(refusal) => self.reply(from, seat.conn, id, Err(refusal)),
            Ok((room, None)) => self.delete_stored(from, room, seat, id, seq),
            Ok((room, Some(message))) if message.deleted => {
                self.confirm_burial(from, room, (seat.conn, id), seq, false)
            }
            Ok((room, Some(_))) => self.bury(from, room, (seat.conn, id), seq, false),
        }
    }

    /// Puts a tombstone in a message's place, tells everyone, and answers once it is kept. `owed`: the answer is
    /// counted already.
    pub(super) fn bury(&mut self, from: ShardId, id: RoomId, (conn, tag): (ConnId, Option<u64>), seq: Seq, owed: bool) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let weight = room.history.weight();
        room.history.bury(seq);
        self.history_weight = self.history_weight - weight + room.history.weight();
        let log = room.log.as_mut().map(|log| {
            log.burying += 1;
            LogWrite::Bury { room: room.name.clone(), epoch: room.epoch, seq }
        });
        self.tell_listeners(id, |audience| Delivery::Deleted { audience, seq });
        let Some(write) = log else {
            return self.reply(from, conn, tag, Ok(Reply::Done));
        };
        let waiter = tag.map(|id| Waiter { shard: from, conn, id, answer: Answer::Done });
        if waiter.is_some() && !owed {
            self.owe(from, conn);
        }
        self.journal.bury(write, (id, seq), waiter);
    }

    /// Answers whoever wants to delete what is deleted already, once that is kept.
    pub(super) fn confirm_burial(
        &mut self,
        from: ShardId,
        room: RoomId,
        (conn, tag): (ConnId, Option<u64>),
        seq: Seq,
        owed: bool,
    ) {
        let Some(id) = tag else {
            return;
        };
        if self.journal.is_burying(room, seq) {
            self.journal.wait(Waiter { shard: from, conn, id, answer: Answer::Done });
            if !owed {
                self.owe(from, conn);
            }
        } else if owed {
            self.answer_waiter(from, conn, id, Ok(Reply::Done));
        } else {
            self.reply(from, conn, tag, Ok(Reply::Done));
        }
    }

    fn presence_here(
        &mut self,
        from: ShardId,
        room: &RoomRef,
        seat: Seat,
        after: Option<&UserName>,
        limit: usize,
    ) -> Result<Reply, Refusal> {
        let (id, _) = self.allowed(from, room, seat, Action::Presence)?;
        self.users_page(id, after, limit)
    }

    fn tell_listeners(&mut self, id: RoomId, delivery: impl Fn(crate::chat::AudienceId) -> Delivery) {
        let Some(room) = self.rooms.get(id.slot, id.generation) else {
            return;
        };
        let mut local = None;
        for listener in &room.listeners {
            if listener.shard == self.here {
                local = Some(delivery(listener.audience));
            } else {
                self.lanes.push_delivery(listener.shard, delivery(listener.audience));
            }
        }
        if let Some(delivery) = local {
            self.deliver(self.here, delivery);
        }
    }

    /// Sends to a member's shard. To this one it is done at once if that cannot change an audience for which
    /// something may still wait to be polled.
    #[inline]
    pub(super) fn deliver(&mut self, to: ShardId, delivery: Delivery) {
        if to != self.here {
            self.lanes.push_delivery(to, delivery);
        } else if self.deferred.is_empty() && !changes_audience(&delivery) {
            self.on_delivery(delivery);
        } else {
            self.deferred.push_back(Deferred::Delivery(delivery));
        }
    }

    pub(super) fn reply(&mut self, to: ShardId, conn: ConnId, id: Option<u64>, outcome: Result<Reply, Refusal>) {
        if id.is_none() && outcome.is_ok() {
            return;
        }
        if to != self.here {
            return self.lanes.push_delivery(to, Delivery::Reply { conn, id, outcome });
        }
        if conn == OPERATOR {
            return self.answer_order(id.unwrap_or_default(), outcome.map(OrderReply::Said));
        }
        match outcome {
            Ok(body) => self.send(conn, Event::Ok { id, body }),
            Err(refusal) => self.refuse(conn, id, refusal),
        }
    }

    /// Puts the room's next push of presence and the next end of a grace on the wheel.
    pub(super) fn arm(&mut self, id: RoomId) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let phase = room.name.placement_hash();
        let Some(people) = &mut room.people else {
            return;
        };
        if !people.push_armed
            && let Some(due) = people.push_deadline_ms(self.now.ms(), phase)
        {
            people.push_armed = true;
            self.wheel.schedule(due, Timer::Presence(id));
        }
        if !people.grace_armed
            && let Some(due) = people.grace_deadline_ms()
        {
            people.grace_armed = true;
            self.wheel.schedule(due, Timer::Grace(id));
        }
    }

    /// Tells those who want to know who came and went. When queues are full it waits, and says less.
    pub(super) fn push_presence(&mut self, id: RoomId) {
        let full = self.lanes.deliveries_full();
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let Some(people) = &mut room.people else {
            return;
        };
        if full {
            return self.wheel.schedule(self.now.ms() + PRESENCE_RETRY_MS, Timer::Presence(id));
        }
        people.push_armed = false;
        let Some(presence) = people.take_push(&room.name, self.now.ms()) else {
            return;
        };
        let presence = Arc::new(presence);
        let asked = room.listeners.iter().filter(|listener| listener.presence > 0);
        let to: Vec<_> = asked.map(|listener| (listener.shard, listener.audience)).collect();
        for (shard, audience) in to {
            self.deliver(shard, Delivery::Presence { audience, presence: Arc::clone(&presence) });
        }
    }

    /// Gives up the users of a room whose grace has ended.
    pub(super) fn end_grace(&mut self, id: RoomId) {
        let Some(people) = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.people.as_mut()) else {
            return;
        };
        people.grace_armed = false;
        people.expire(self.now.ms());
        self.arm(id);
        self.settle_room(id);
    }
}

/// Whether a delivery adds or removes members of an audience.
fn changes_audience(delivery: &Delivery) -> bool {
    matches!(
        delivery,
        Delivery::Joined(_)
            | Delivery::JoinRefused { .. }
            | Delivery::Replay { .. }
            | Delivery::Kicked { .. }
            | Delivery::RoomClosed { .. }
            | Delivery::Resumed { .. }
    )
}

/// How long a push of presence waits for room in the queues.
const PRESENCE_RETRY_MS: u64 = 100;
