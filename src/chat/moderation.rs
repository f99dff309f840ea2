//! What a room's owner does for those who moderate it: puts users out, keeps them out, silences them, closes the room.
//!
//! Invariants: nobody moderates themselves, only a host a host, and no member undoes what an operator did. A member that
//! is put out has no rights from that moment on, and stays seated until its own shard has said that it is gone: a room
//! lives as long as its audiences.

use crate::access::Action;
use crate::chat::commands::{Outcome, bad_name};
use crate::chat::exchange::{Delivery, Order, Refusal, Request, RoomId, RoomRef, Seat};
use crate::chat::journal::{Answer, Waiter};
use crate::chat::log::{SanctionKind, SanctionRecord, Scope};
use crate::chat::publish::NOT_MEMBER;
use crate::chat::state::State;
use crate::chat::{Handled, Note, Output};
use crate::ids::{ConnId, RoomName, ShardId, UserName};
use crate::message::close::ErrorCode;
use crate::message::command::Measure;
use crate::message::event::{KickNotice, Reply, Role};

impl State {
    pub(super) fn moderate(
        &mut self,
        conn: ConnId,
        id: Option<u64>,
        room: &str,
        user: &str,
        (measure, for_ms): (Measure, Option<u64>),
    ) -> Outcome {
        let user = UserName::new(user).map_err(|error| bad_name("user", error))?;
        if for_ms == Some(0) {
            let text = "`for_ms` is at least 1; without it there is no end";
            return Err(Refusal::new(ErrorCode::BadRequest, text));
        }
        self.about_room(conn, id.is_some(), room, |room, seat| {
            let order = Box::new(Order { user, measure, for_ms });
            Some(Request::Moderate { room, seat, id, order })
        })
    }

    pub(super) fn ask_to_close(&mut self, conn: ConnId, id: Option<u64>, room: &str) -> Result<Handled, Refusal> {
        self.about_room(conn, id.is_some(), room, |room, seat| Some(Request::CloseRoom { room, seat, id }))
    }

    /// Acts on a user, if the member may. What is to outlast a restart is answered once it is stored.
    pub(super) fn moderate_here(&mut self, from: ShardId, room: &RoomRef, seat: Seat, id: Option<u64>, order: Order) {
        let is_kick = order.measure == Measure::Kick;
        let outcome = self.carry_out(from, room, seat, order);
        match (outcome, id) {
            (Ok(()), Some(id)) if self.config.has_store && !is_kick => {
                self.journal.wait(Waiter { shard: from, conn: seat.conn, id, answer: Answer::Done });
                self.owe(from, seat.conn);
            }
            (outcome, id) => self.reply(from, seat.conn, id, outcome.map(|()| Reply::Done)),
        }
    }

    fn carry_out(&mut self, from: ShardId, room: &RoomRef, seat: Seat, order: Order) -> Result<(), Refusal> {
        let (id, by) = self.allowed(from, room, seat, Action::Moderate)?;
        let by = by.ok_or(NOT_MEMBER)?;
        let Order { user, measure, for_ms } = order;
        if user == by {
            return Err(Refusal::new(ErrorCode::Forbidden, "nobody can do this to themselves: name another `user`"));
        }
        let room = self.rooms.get(id.slot, id.generation).ok_or(NOT_MEMBER)?;
        let acts_as_host = room.occupant(from, seat).is_some_and(|o| room.role_of(o) == Role::Host);
        if !acts_as_host && room.has_host(&user) && !measure.lifts() {
            return Err(Refusal::new(ErrorCode::Forbidden, "only a host can do this to a host"));
        }
        let name = room.name.clone();
        let until_unix_ms = for_ms.map(|for_ms| self.now.unix_ms.saturating_add(for_ms));
        let kind = match measure {
            Measure::Kick => {
                return self.kick(id, &user, Some(by));
            }
            Measure::Ban | Measure::Unban => SanctionKind::Ban,
            Measure::Mute | Measure::Unmute => SanctionKind::Mute,
        };
        let held = self.sanctions.in_room(&name, &user, kind, self.now.unix_ms);
        if held.is_some_and(|held| held.by.is_none()) {
            let text = "an operator has decided this: only an operator can lift or change it";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
        self.sanction(SanctionRecord {
            scope: Scope::Room(name, user),
            kind,
            until_unix_ms: until_unix_ms.filter(|_| !measure.lifts()),
            before_unix_ms: None,
            by: Some(by),
            reason: None,
            lifted: measure.lifts(),
        })
    }

    /// Puts a user out of a room that this shard owns, once.
    pub(super) fn kick(&mut self, id: RoomId, user: &UserName, by: Option<UserName>) -> Result<(), Refusal> {
        let notice = KickNotice { by: by.clone(), ..KickNotice::new("kicked") };
        if self.put_out_user(id, user, notice) == 0 {
            return Err(Refusal::new(ErrorCode::NotFound, "this user is not in the room"));
        }
        if let Some(room) = self.rooms.get(id.slot, id.generation).map(|room| room.name.clone()) {
            self.outputs.push_back(Output::Noted(Box::new(Note::Kick { room, user: user.clone(), by })));
        }
        Ok(())
    }

    /// Puts a user's connections out of a room; how many those were.
    pub(super) fn put_out_user(&mut self, id: RoomId, user: &UserName, notice: KickNotice) -> usize {
        let mut count = 0;
        let room = self.rooms.get_mut(id.slot, id.generation);
        let put_out = room.map_or_else(Vec::new, |room| room.put_out(user));
        for (shard, audience, conns) in put_out {
            count += conns.len();
            self.deliver(shard, Delivery::Kicked { audience, conns, notice: Box::new(notice.clone()) });
        }
        count
    }

    /// Lets nobody of a user speak whom the room's sanctions silence.
    pub(super) fn mark_muted(&mut self, room: &RoomName, user: &UserName) {
        let id = self.room_by_name.get(room).copied();
        if let Some(room) = id.and_then(|id| self.rooms.get_mut(id.slot, id.generation)) {
            room.occupants_of(user).for_each(|occupant| occupant.muted = true);
        }
    }

    pub(super) fn close_here(&mut self, from: ShardId, room: &RoomRef, seat: Seat, id: Option<u64>) {
        let outcome = self.allowed(from, room, seat, Action::Moderate);
        if let Ok((room, by)) = &outcome {
            self.empty_room(*room, by.clone());
        }
        self.reply(from, seat.conn, id, outcome.map(|_| Reply::Done));
    }

    /// Ends all memberships of a room that this shard owns. What was said stays, and it can be entered again. Whether
    /// anyone was in it. An operator's order, like [`State::sanction`].
    pub fn close_room(&mut self, room: &RoomName) -> bool {
        let id = self.room_by_name.get(room).copied();
        id.is_some_and(|id| self.empty_room(id, None))
    }

    fn empty_room(&mut self, id: RoomId, by: Option<UserName>) -> bool {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return false;
        };
        let audiences = room.put_out_all();
        self.outputs.push_back(Output::Noted(Box::new(Note::Close { room: room.name.clone(), by })));
        for (shard, audience) in &audiences {
            self.deliver(*shard, Delivery::RoomClosed { audience: *audience });
        }
        !audiences.is_empty()
    }
}

impl Measure {
    /// Whether it takes something back.
    fn lifts(self) -> bool {
        matches!(self, Self::Unban | Self::Unmute)
    }
}

impl SanctionRecord {
    /// What whoever it puts out is told.
    pub(super) fn notice(&self, reason: &'static str) -> KickNotice {
        KickNotice { reason, by: self.by.clone(), until_unix_ms: self.until_unix_ms }
    }
}
