//! How a room's owner takes a member in: whether it may enter, what it has to know first, and where it begins.
//!
//! Invariants: whoever is banned is refused when it asks, and again when the store has said what it had to say: a ban may
//! have come meanwhile.

use crate::access::Standing;
use crate::chat::audience::AudienceId;
use crate::chat::exchange::{Delivery, Refusal, Request, RoomId, Seat};
use crate::chat::log::DeadLetter;
use crate::chat::publish::NOT_MEMBER;
use crate::chat::state::State;
use crate::ids::{RoomName, ShardId, UserName};
use crate::message::close::ErrorCode;
use crate::message::command::Position;
use crate::message::event::Joined;

/// What a join asks for.
#[derive(Debug)]
pub struct JoinRequest {
    /// The room's name.
    pub room: RoomName,
    /// The audience on the member's shard, to which the owner sends what everyone there gets.
    pub audience: AudienceId,
    /// The member.
    pub seat: Seat,
    /// Who it is; absent in the relay.
    pub user: Option<UserName>,
    /// What it is and may do there.
    pub standing: Standing,
    /// Where the member left off.
    pub since: Option<Position>,
    /// Without `since`: how many of the latest messages to replay.
    pub history: u64,
    /// Whether it wants presence pushed.
    pub presence: bool,
    /// Whether it acknowledges what it gets.
    pub ack: bool,
    /// Handed back with the answer.
    pub ticket: JoinTicket,
}

/// What the member's shard needs to know again when a join is answered.
#[derive(Clone, Copy, Debug)]
pub struct JoinTicket {
    /// The command's tag.
    pub id: Option<u64>,
    /// Whether to say `ok` (a join from the URL gets one without a tag).
    pub say_ok: bool,
    /// The audience that is left when this join succeeds.
    pub switch_from: Option<AudienceId>,
    /// Whether it belongs to a session that goes on. Such joins come all at once, and do not count against a queue's
    /// bound.
    pub resumed: bool,
    /// The rules by which it was judged what the member may do.
    pub rules: u32,
}

/// How a join succeeded.
#[derive(Debug)]
pub struct JoinedReply {
    /// Which audience.
    pub audience: AudienceId,
    /// The member.
    pub seat: Seat,
    /// The room's place at its owner.
    pub room: RoomId,
    /// What the client is told; absent in the relay.
    pub joined: Option<Joined>,
    /// As it was given.
    pub ticket: JoinTicket,
    /// Whether there is nothing to replay. Otherwise a [`Delivery::Replay`] follows by itself.
    pub live: bool,
}

impl State {
    pub(super) fn join_here(&mut self, from: ShardId, join: Box<JoinRequest>) {
        if let Some(user) = &join.user
            && let Some(refusal) = self.banned_from(&join.room, user)
        {
            return self.refuse_request(from, Request::Join(join), refusal);
        }
        let Some(id) = self.room_to_join(&join.room) else {
            let text = "this server holds as many rooms as it can: try again later, or join a room that exists";
            let refusal = Refusal::new(ErrorCode::Overloaded, text);
            let (audience, conn, ticket) = (join.audience, join.seat.conn, join.ticket);
            return self.deliver(from, Delivery::JoinRefused { audience, conn, ticket, refusal });
        };
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        if room.is_opening() && !self.unparking {
            return self.park_in(from, id, Request::Join(join));
        }
        if let Some(idle) = room.idle.take() {
            self.idle_rooms.remove(&idle.stamp);
        }
        if let Err(refusal) = self.admits(id, &join) {
            self.refuse_request(from, Request::Join(join), refusal);
            return self.settle_room(id);
        }
        if let Some(join) = self.ask_for_cursors(from, id, join) {
            self.enter_here(from, id, &join, Vec::new());
        }
    }

    /// Seats a member of whom everything is known.
    pub(super) fn enter_here(&mut self, from: ShardId, id: RoomId, join: &JoinRequest, letters: Vec<DeadLetter>) {
        let consumer = if join.ack { self.new_consumer(id, join, letters) } else { None };
        let muted = join.user.as_ref().is_some_and(|user| self.muted_in(&join.room, user).is_some());
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let start = room.enter(from, join, (consumer, muted), self.now);
        let joined = match (&room.people, &join.user) {
            (Some(people), Some(user)) => Some(Joined {
                room: room.name.clone(),
                epoch: room.epoch,
                seq: room.head,
                members: people.count(),
                role: join.standing.settle(people.is_senior(user)).0,
                recovered: start.recovered,
                unread: room.unread(user),
            }),
            _ => None,
        };
        let reply = JoinedReply {
            audience: join.audience,
            seat: join.seat,
            room: id,
            joined,
            ticket: join.ticket,
            live: start.live,
        };
        self.deliver(from, Delivery::Joined(Box::new(reply)));
        if !start.live {
            self.replay_here(from, id, join.seat);
        }
        self.arm(id);
    }

    /// Whether a room takes one more member, and this one.
    pub(super) fn admits(&mut self, id: RoomId, join: &JoinRequest) -> Result<(), Refusal> {
        let Some(room) = self.rooms.get(id.slot, id.generation) else {
            return Err(NOT_MEMBER);
        };
        if let Some(user) = &join.user
            && let Some(refusal) = self.banned_from(&join.room, user)
        {
            return Err(refusal);
        }
        let (members, is_here) = match (&room.people, &join.user) {
            (Some(people), Some(user)) => (people.count(), people.is_here(user)),
            _ => (room.listeners.iter().map(|listener| u64::from(listener.members)).sum(), false),
        };
        if let Some(max) = self.config.limits.room_members_max
            && !is_here
            && members >= u64::from(max)
        {
            self.limited.members += 1;
            let message = format!("the room is full: it takes {max} users; try again when somebody has left");
            return Err(Refusal { code: ErrorCode::RoomFull, message: message.into() });
        }
        if join.ack && room.log.is_none() {
            let text = "this room keeps no log, so delivery cannot be acknowledged: leave out `ack`";
            return Err(Refusal::new(ErrorCode::BadRequest, text));
        }
        if join.ack && !room.reads_history(join) {
            let text =
                "delivery is acknowledged from the log, and the right to read `history` is missing: leave out `ack`";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        Ok(())
    }
}
