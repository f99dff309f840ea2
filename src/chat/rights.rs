//! What a room's owner lets a member do.
//!
//! Invariant: whoever was put out may do nothing, from the moment it was put out.

use crate::access::{Action, Standing};
use crate::chat::audience::AudienceId;
use crate::chat::exchange::{Delivery, JoinRequest, Refusal, RoomId, RoomRef, Seat};
use crate::chat::publish::NOT_MEMBER;
use crate::chat::room::{Occupant, Room};
use crate::chat::state::State;
use crate::ids::{ConnId, ShardId, UserName};
use crate::message::close::ErrorCode;
use crate::message::event::{KickNotice, Message, Role};

impl State {
    /// The room, and the user on that seat of it, if that one may do this.
    #[inline]
    pub(super) fn allowed(
        &self,
        from: ShardId,
        room: &RoomRef,
        seat: Seat,
        action: Action,
    ) -> Result<(RoomId, Option<UserName>), Refusal> {
        let id = self.resolve(room).ok_or(NOT_MEMBER)?;
        let room = self.rooms.get(id.slot, id.generation).ok_or(NOT_MEMBER)?;
        let occupant = room.occupant(from, seat).ok_or(NOT_MEMBER)?;
        if !room.may(occupant, action) {
            return Err(lacks(action));
        }
        if occupant.muted
            && action == Action::Send
            && let Some(user) = &occupant.user
            && let Some(refusal) = self.muted_in(&room.name, user)
        {
            return Err(refusal);
        }
        Ok((id, occupant.user.clone()))
    }

    /// The room, and the user on that seat of it.
    pub(super) fn member(
        &self,
        from: ShardId,
        room: &RoomRef,
        seat: Seat,
    ) -> Result<(RoomId, Option<UserName>), Refusal> {
        let id = self.resolve(room).ok_or(NOT_MEMBER)?;
        let room = self.rooms.get(id.slot, id.generation).ok_or(NOT_MEMBER)?;
        let occupant = room.occupant(from, seat).ok_or(NOT_MEMBER)?;
        Ok((id, occupant.user.clone()))
    }

    pub(super) fn resolve(&self, room: &RoomRef) -> Option<RoomId> {
        match room {
            RoomRef::Id(id) => Some(*id),
            RoomRef::Name(name) => self.room_by_name.get(name).copied(),
        }
    }

    /// Whether a member may delete what was found.
    pub(super) fn may_delete(
        &self,
        from: ShardId,
        room: RoomId,
        seat: Seat,
        message: Option<&Message>,
    ) -> Result<(), Refusal> {
        let (id, user) = self.member(from, &RoomRef::Id(room), seat)?;
        let room = self.rooms.get(id.slot, id.generation).ok_or(NOT_MEMBER)?;
        let occupant = room.occupant(from, seat).ok_or(NOT_MEMBER)?;
        let Some(message) = message else {
            return Err(Refusal::new(ErrorCode::NotFound, "no message with that `seq` is kept in this room"));
        };
        if room.log.is_some()
            && let Some(refusal) = self.journal.refusal(false)
        {
            return Err(refusal);
        }
        if room.may(occupant, Action::Moderate) {
            return Ok(());
        }
        if user.is_none_or(|user| message.sender != user) {
            return Err(Refusal::new(ErrorCode::Forbidden, "only its sender and the room's host may delete a message"));
        }
        if room.may(occupant, Action::Send) { Ok(()) } else { Err(lacks(Action::Send)) }
    }

    /// A member is and may do something else from now on. One that is being told the past, and may not read it any more,
    /// is put out.
    pub(super) fn restand(&mut self, from: ShardId, room: &RoomRef, seat: Seat, standing: Standing) {
        let id = self.resolve(room);
        let Some(room) = id.and_then(|id| self.rooms.get_mut(id.slot, id.generation)) else {
            return;
        };
        room.restand(from, seat, standing);
        let reads = |occupant: &&Occupant| occupant.cursor.is_some() || occupant.consumer.is_some();
        let Some(reader) = room.occupant(from, seat).filter(reads) else {
            return;
        };
        if !room.may(reader, Action::History)
            && let Some((audience, conn)) = room.put_out_seat(from, seat)
        {
            let notice = Box::new(KickNotice::new("forbidden"));
            self.deliver(from, Delivery::Kicked { audience, conns: vec![conn], notice });
        }
    }
}

impl Room {
    /// Whether a member may do something.
    #[inline]
    pub(super) fn may(&self, occupant: &Occupant, action: Action) -> bool {
        match occupant.standing {
            Standing::Fixed { rights, .. } => rights.has(action),
            Standing::BySeniority { member, .. } if member.has(action) => true,
            Standing::BySeniority { host, .. } => host.has(action) && self.is_senior(occupant.user.as_ref()),
        }
    }

    /// Whether who wants to enter may read what was said before. The first one here is as good as the host.
    pub(super) fn reads_history(&self, join: &JoinRequest) -> bool {
        let is_first = self.people.as_ref().is_none_or(|people| people.is_empty());
        join.standing.settle(is_first || self.is_senior(join.user.as_ref())).1.has(Action::History)
    }

    /// What a member is.
    pub(super) fn role_of(&self, occupant: &Occupant) -> Role {
        occupant.standing.settle(self.is_senior(occupant.user.as_ref())).0
    }

    /// Whether a user is here as a host.
    pub(super) fn has_host(&self, user: &UserName) -> bool {
        let occupants = self.listeners.iter().flat_map(|listener| listener.seats.iter().flatten());
        let of_user = |occupant: &&Occupant| !occupant.out && occupant.user.as_ref() == Some(user);
        self.is_connected(user) && occupants.filter(of_user).any(|occupant| self.role_of(occupant) == Role::Host)
    }

    /// Who is here of a user.
    pub(super) fn occupants_of(&mut self, user: &UserName) -> impl Iterator<Item = &mut Occupant> {
        let occupants = self.listeners.iter_mut().flat_map(|listener| listener.seats.iter_mut().flatten());
        occupants.filter(move |occupant| occupant.user.as_ref() == Some(user))
    }

    /// Puts a user out; whom that hits, by shard.
    pub(super) fn put_out(&mut self, user: &UserName) -> Vec<(ShardId, AudienceId, Vec<ConnId>)> {
        if !self.is_connected(user) {
            return Vec::new();
        }
        let mut hit = Vec::new();
        for listener in &mut self.listeners {
            let occupants = listener.seats.iter_mut().flatten();
            let of_user = occupants.filter(|occupant| !occupant.out && occupant.user.as_ref() == Some(user));
            let conns: Vec<ConnId> = of_user.map(Occupant::put_out).collect();
            if !conns.is_empty() {
                hit.push((listener.shard, listener.audience, conns));
            }
        }
        hit
    }

    /// Puts one member out; whom that hits.
    fn put_out_seat(&mut self, from: ShardId, seat: Seat) -> Option<(AudienceId, ConnId)> {
        let listener = self.listeners.iter_mut().find(|listener| listener.shard == from)?;
        let audience = listener.audience;
        listener.occupant_mut(seat).filter(|occupant| !occupant.out).map(|occupant| (audience, occupant.put_out()))
    }

    /// Puts everyone out; of which shards.
    pub(super) fn put_out_all(&mut self) -> Vec<(ShardId, AudienceId)> {
        let mut hit = Vec::new();
        for listener in &mut self.listeners {
            let mut left = 0;
            for occupant in listener.seats.iter_mut().flatten().filter(|occupant| !occupant.out) {
                occupant.put_out();
                left += 1;
            }
            if left > 0 {
                hit.push((listener.shard, listener.audience));
            }
        }
        hit
    }

    fn restand(&mut self, from: ShardId, seat: Seat, standing: Standing) {
        let Some(listener) = self.listeners.iter_mut().find(|listener| listener.shard == from) else {
            return;
        };
        let Some(occupant) = listener.occupant_mut(seat) else {
            return;
        };
        occupant.standing = standing;
        if occupant.presence && !standing.settle(false).1.has(Action::Presence) {
            occupant.presence = false;
            listener.presence -= 1;
            if let Some(people) = &mut self.people {
                people.listen(false);
            }
        }
    }

    fn is_connected(&self, user: &UserName) -> bool {
        self.people.as_ref().is_some_and(|people| people.is_connected(user))
    }

    fn is_senior(&self, user: Option<&UserName>) -> bool {
        let people = self.people.as_ref().zip(user);
        people.is_some_and(|(people, user)| people.is_senior(user))
    }
}

/// What whoever lacks a right is told.
pub(super) fn lacks(action: Action) -> Refusal {
    let text = match action {
        Action::Join => "the right to `join` this room is missing",
        Action::Send => "the right to `send` in this room is missing",
        Action::Presence => "the right to see `presence` in this room is missing",
        Action::History => "the right to read `history` in this room is missing",
        Action::Moderate => "the right to `moderate` this room is missing: ask a host",
    };
    Refusal::new(ErrorCode::Forbidden, text)
}
