//! What a room's owner says, as it arrives at the shard of the members: fan-out, answers, joins and replays.
//!
//! Invariants: a member is on exactly the list of its audience that its state says. Taking a delivery never has to
//! wait for anything; at most it asks for the next chunk of a replay or leaves the room that was switched from,
//! neither of which counts against any bound.

use std::sync::Arc;

use crate::chat::Output;
use crate::chat::audience::{AudienceId, Part};
use crate::chat::exchange::{Count, Delivery, JoinTicket, JoinedReply, Refusal, Request, RoomRef, Seat};
use crate::chat::operate::{OPERATOR, OrderReply};
use crate::chat::session::{Kind, MemberState, Phase, Wait};
use crate::chat::state::State;
use crate::ids::{ConnId, Seq};
use crate::message::close::{CloseReason, ErrorCode};
use crate::message::event::{Event, KickNotice, Message, Reply};

impl State {
    pub(super) fn on_delivery(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Message { audience, message, except, count } => {
                self.fan_out_message(audience, message, except, count);
            }
            Delivery::Relay { audience, frame } => self.fan_out(audience, Event::Relay(frame), None),
            Delivery::Signal { audience, signal } => self.fan_out_to_joined(audience, &Event::Signal(signal)),
            Delivery::Deleted { audience, seq } => {
                if let Some(found) = self.audiences.get(audience.slot, audience.generation) {
                    let event = Event::Deleted { room: found.name.clone(), seq };
                    self.fan_out_to_joined(audience, &event);
                }
            }
            Delivery::Presence { audience, presence } => {
                self.fan_out(audience.part(Part::Presence), Event::Presence(presence), None);
            }
            Delivery::Joined(reply) => self.on_joined(*reply),
            Delivery::JoinRefused { audience, conn, ticket, refusal } => {
                self.on_join_refused(audience, conn, ticket, refusal);
            }
            Delivery::Replay { audience, conn, gap, messages, live, attempt } => {
                self.on_replay((audience, conn), gap, messages, live, attempt);
            }
            Delivery::Kicked { audience, conns, notice } => self.on_kicked(audience, &conns, &notice),
            Delivery::RoomClosed { audience } => self.on_room_closed(audience),
            Delivery::Receipt { conn, room, seq, delivered, members } => {
                if self.sessions.get(conn).is_some_and(|session| session.phase == Phase::Open) {
                    self.send(conn, Event::Receipt { room, seq, delivered, members });
                }
            }
            Delivery::Resumed { conn, session } => self.on_resumed(conn, session),
            Delivery::Reply { conn, id, outcome } => self.on_reply(conn, id, outcome),
            Delivery::Rooms { gather, shard, rooms, reached } => self.on_rooms(gather, shard, rooms, reached),
            Delivery::Settled { conn } => self.answered(conn),
        }
    }

    /// The shell has room for more of a replay.
    pub(super) fn on_replay_ready(&mut self, conn: ConnId, id: AudienceId) {
        if self.audiences.get(id.slot, id.generation).is_none() {
            return;
        }
        let session = self.sessions.get_mut(conn);
        let Some((_, membership)) = session.and_then(|session| session.membership_in(id.slot)) else {
            return;
        };
        if membership.state == MemberState::ReplayWithShell {
            membership.state = MemberState::ReplayAsked;
            let seat = Seat { number: membership.seat, conn };
            self.ask_for_replay(conn, id, seat);
        }
    }

    /// Takes a connection out of one of its rooms and tells the owner. `grace`: it may come back soon.
    pub(super) fn drop_membership(&mut self, conn: ConnId, index: usize, grace: bool) {
        let Some((slot, number)) = self.unlist_membership(conn, index) else {
            return;
        };
        let Some(audience) = self.audiences.at_mut(slot) else {
            return;
        };
        let owner = audience.owner;
        let room = audience.room.map_or_else(|| RoomRef::Name(audience.name.clone()), RoomRef::Id);
        self.give_seat(slot, number);
        self.session_changed(conn);
        self.ask(conn, owner, false, Request::Leave { room, seat: Seat { number, conn }, grace });
    }

    /// A connection's command has been answered by another shard.
    pub(super) fn answered(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(conn).filter(|session| session.phase != Phase::Closing) else {
            return;
        };
        debug_assert!(session.unanswered > 0, "an answer is to something that was asked");
        session.unanswered = session.unanswered.saturating_sub(1);
        if session.wait == Wait::Answer {
            session.wait = Wait::No;
            session.heard_ms = self.now.ms();
            self.blocked -= 1;
            self.outputs.push_back(Output::Unblocked { conn });
        }
        self.close_if_answered(conn);
    }

    #[inline]
    pub(super) fn fan_out(&mut self, id: AudienceId, event: Event, except: Option<ConnId>) {
        if !self.audience(id).is_empty() {
            self.outputs.push_back(Output::Fanout { audience: id, event, except });
        }
    }

    #[inline]
    pub(super) fn fan_out_message(
        &mut self,
        id: AudienceId,
        message: Arc<Message>,
        except: Option<ConnId>,
        count: Count,
    ) {
        if count != Count::No {
            self.count_members(id, &message, count);
        }
        let filtered = id.part(Part::Filtered);
        if !self.audience(filtered).is_empty() {
            self.fan_out_filtered(filtered, &message, except);
        }
        self.fan_out(id, Event::Message(message), except);
    }

    /// Tells the owner how many members here get a message.
    fn count_members(&mut self, id: AudienceId, message: &Message, count: Count) {
        let Some(audience) = self.audiences.get(id.slot, id.generation) else {
            return;
        };
        let wants = |conn: &&ConnId| {
            let session = self.sessions.get(**conn);
            let mut memberships = session.into_iter().flat_map(|session| &session.memberships);
            memberships.any(|membership| membership.audience == id.slot && membership.wants(message.tag.as_deref()))
        };
        let listed = audience.list(Part::Live).iter().chain(audience.list(Part::Filtered).iter().filter(wants));
        let others = listed.filter(|conn| count != Count::Others(**conn)).count() as u32;
        if let (Some(room), owner) = (audience.room, audience.owner) {
            let request = Request::Received { room, seq: message.seq, count: others };
            if owner == self.here {
                self.on_request(owner, request);
            } else {
                self.lanes.push_request(owner, request);
            }
        }
    }

    /// The owner has put members out of the room.
    fn on_kicked(&mut self, id: AudienceId, conns: &[ConnId], notice: &KickNotice) {
        let Some(room) = self.audiences.get(id.slot, id.generation).map(|audience| audience.name.clone()) else {
            return;
        };
        for &conn in conns {
            let membership = self.sessions.get_mut(conn).and_then(|session| session.membership_in(id.slot));
            // Who is joining has left meanwhile, and is meant no more.
            if let Some((index, membership)) = membership
                && membership.state != MemberState::Joining
            {
                self.send(conn, Event::Kicked { room: room.clone(), notice: Box::new(notice.clone()) });
                self.drop_membership(conn, index, false);
            }
        }
    }

    /// The room was closed: everyone who has joined it is out.
    fn on_room_closed(&mut self, id: AudienceId) {
        let Some(audience) = self.audiences.get(id.slot, id.generation) else {
            return;
        };
        let room = audience.name.clone();
        let lists = [Part::Live, Part::Filtered, Part::Replaying].map(|part| audience.list(part).to_vec());
        for conn in lists.concat() {
            let membership = self.sessions.get_mut(conn).and_then(|session| session.membership_in(id.slot));
            if let Some((index, _)) = membership {
                self.send(conn, Event::Closed { room: room.clone() });
                self.drop_membership(conn, index, false);
            }
        }
    }

    /// A member is told of presence no more.
    pub(super) fn stop_presence(&mut self, conn: ConnId, slot: u32) {
        let session = self.sessions.get_mut(conn);
        let Some((_, membership)) = session.and_then(|session| session.membership_in(slot)) else {
            return;
        };
        let is_listed = membership.presence && membership.list().is_some();
        membership.presence = false;
        let place = membership.presence_place;
        if is_listed {
            self.unlist(slot, Part::Presence, place);
        }
    }

    /// Members that filter get what has no tag together, and what has one each by itself.
    fn fan_out_filtered(&mut self, id: AudienceId, message: &Arc<Message>, except: Option<ConnId>) {
        let Some(tag) = message.tag.as_deref() else {
            return self.fan_out(id, Event::Message(Arc::clone(message)), except);
        };
        let conns = self.audiences.get(id.slot, id.generation).map_or(&[][..], |audience| audience.list(id.part));
        for &conn in conns.iter().filter(|conn| Some(**conn) != except) {
            let membership = self.sessions.get_mut(conn).and_then(|session| session.membership_in(id.slot));
            if membership.is_some_and(|(_, membership)| membership.wants(Some(tag))) {
                self.outputs.push_back(Output::Send { conn, event: Event::Message(Arc::clone(message)) });
            }
        }
    }

    /// For what has no tag and is in no replay: all members get it, live or not yet.
    fn fan_out_to_joined(&mut self, id: AudienceId, event: &Event) {
        for part in [Part::Live, Part::Filtered, Part::Replaying] {
            self.fan_out(id.part(part), event.clone(), None);
        }
    }

    fn on_joined(&mut self, reply: JoinedReply) {
        let JoinedReply { audience: id, seat, room, joined, ticket, live } = reply;
        let conn = seat.conn;
        // Whoever has left meanwhile may have been the last one there.
        if !self.is_joining(conn, id) {
            return;
        }
        if let Some(audience) = self.audiences.get_mut(id.slot, id.generation) {
            debug_assert!(audience.room.is_none_or(|known| known == room), "a room lives as long as its members");
            audience.room = Some(room);
        }
        if let Some(from) = ticket.switch_from {
            self.end_switch(conn, from);
        }
        let state = if live { MemberState::Live } else { MemberState::ReplayAsked };
        self.set_member_state(conn, id, state);
        self.list_presence(conn, id);
        if ticket.say_ok
            && let Some(joined) = joined
        {
            self.send(conn, Event::Ok { id: ticket.id, body: Reply::Joined(Box::new(joined)) });
        }
        self.session_changed(conn);
        self.answered(conn);
        if ticket.rules != self.rules {
            self.review_conn(conn);
        }
    }

    fn on_join_refused(&mut self, id: AudienceId, conn: ConnId, ticket: JoinTicket, refusal: Refusal) {
        if !self.is_joining(conn, id) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(conn) {
            session.switching = false;
            if let Some((index, _)) = session.membership_in(id.slot)
                && let Some((slot, number)) = self.unlist_membership(conn, index)
            {
                self.give_seat(slot, number);
            }
        }
        if self.sessions.get(conn).is_some_and(|session| session.kind == Kind::Relay) {
            let is_forbidden = refusal.code == ErrorCode::Forbidden;
            return self.close(conn, if is_forbidden { CloseReason::Forbidden } else { CloseReason::TryAgainLater });
        }
        self.refuse(conn, ticket.id, refusal);
        self.answered(conn);
    }

    fn on_replay(
        &mut self,
        (id, conn): (AudienceId, ConnId),
        gap: Option<(Seq, Seq)>,
        mut messages: Vec<Arc<Message>>,
        live: bool,
        attempt: u32,
    ) {
        let Some(audience) = self.audiences.get(id.slot, id.generation) else {
            return;
        };
        let session = self.sessions.get_mut(conn);
        let Some((_, membership)) = session.and_then(|session| session.membership_in(id.slot)) else {
            return;
        };
        if membership.state != MemberState::ReplayAsked {
            return;
        }
        if let Some((from, to)) = gap {
            let event = Event::Gap { room: audience.name.clone(), from, to };
            self.outputs.push_back(Output::Send { conn, event });
        }
        messages.retain(|message| membership.wants(message.tag.as_deref()));
        let nothing = messages.is_empty();
        let seat = Seat { number: membership.seat, conn };
        if !nothing {
            self.outputs.push_back(Output::ReplayChunk { conn, audience: id, messages, attempt });
        }
        if live {
            self.set_member_state(conn, id, MemberState::Live);
            self.close_if_answered(conn);
        } else if nothing {
            self.ask_for_replay(conn, id, seat);
        } else {
            self.set_member_state(conn, id, MemberState::ReplayWithShell);
        }
    }

    pub(super) fn on_reply(&mut self, conn: ConnId, id: Option<u64>, outcome: Result<Reply, Refusal>) {
        if conn == OPERATOR {
            return self.answer_order(id.unwrap_or_default(), outcome.map(OrderReply::Said));
        }
        if self.sessions.get(conn).is_none_or(|session| session.phase == Phase::Closing) {
            return;
        }
        match outcome {
            Ok(body) => self.send(conn, Event::Ok { id, body }),
            Err(refusal) => self.refuse(conn, id, refusal),
        }
        if id.is_some() {
            self.answered(conn);
        }
    }

    fn ask_for_replay(&mut self, conn: ConnId, id: AudienceId, seat: Seat) {
        let Some(audience) = self.audiences.get(id.slot, id.generation) else {
            return;
        };
        if let Some(room) = audience.room {
            self.ask(conn, audience.owner, false, Request::ReplayNext { room, seat });
        }
    }

    fn end_switch(&mut self, conn: ConnId, from: AudienceId) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        session.switching = false;
        if self.audiences.get(from.slot, from.generation).is_some()
            && let Some((index, _)) = session.membership_in(from.slot)
        {
            self.drop_membership(conn, index, false);
        }
    }

    fn is_joining(&mut self, conn: ConnId, id: AudienceId) -> bool {
        if self.audiences.get(id.slot, id.generation).is_none() {
            return false;
        }
        let session = self.sessions.get_mut(conn);
        let membership = session.and_then(|session| session.membership_in(id.slot));
        membership.is_some_and(|(_, membership)| membership.state == MemberState::Joining)
    }

    /// Moves a member to the list of its new state.
    fn set_member_state(&mut self, conn: ConnId, id: AudienceId, state: MemberState) {
        let Some(session) = self.sessions.get_mut(conn) else {
            return;
        };
        let Some((_, membership)) = session.membership_in(id.slot) else {
            return;
        };
        let (old, old_list, place, ack) = (membership.state, membership.list(), membership.place, membership.ack);
        membership.state = state;
        let new_list = membership.list();
        session.joining -= u16::from(old == MemberState::Joining);
        // A consumer's replay has no end to wait for.
        session.replaying -= u16::from(old_list == Some(Part::Replaying) && !ack);
        session.replaying += u16::from(new_list == Some(Part::Replaying) && !ack);
        if old_list == new_list {
            return;
        }
        if let Some(list) = old_list {
            self.unlist(id.slot, list, place);
        }
        if let Some(list) = new_list
            && let Some(audience) = self.audiences.at_mut(id.slot)
            && let Some((_, membership)) = self.sessions.get_mut(conn).and_then(|s| s.membership_in(id.slot))
        {
            membership.place = audience.add(list, conn);
        }
    }

    fn list_presence(&mut self, conn: ConnId, id: AudienceId) {
        if let Some(audience) = self.audiences.at_mut(id.slot)
            && let Some((_, membership)) = self.sessions.get_mut(conn).and_then(|s| s.membership_in(id.slot))
            && membership.presence
        {
            membership.presence_place = audience.add(Part::Presence, conn);
        }
    }

    /// Takes a membership from its connection and from the lists; what is left is its audience's slot and its seat.
    fn unlist_membership(&mut self, conn: ConnId, index: usize) -> Option<(u32, u32)> {
        let session = self.sessions.get_mut(conn)?;
        let membership = session.memberships.swap_remove(index);
        session.joining -= u16::from(membership.state == MemberState::Joining);
        session.replaying -= u16::from(membership.list() == Some(Part::Replaying) && !membership.ack);
        if let Some(list) = membership.list() {
            self.unlist(membership.audience, list, membership.place);
            if membership.presence {
                self.unlist(membership.audience, Part::Presence, membership.presence_place);
            }
            if let Some(audience) = self.audiences.at_mut(membership.audience)
                && [Part::Live, Part::Filtered, Part::Replaying].iter().all(|part| audience.list(*part).is_empty())
            {
                // Whoever is still joining may be refused, or find the room made anew.
                audience.room = None;
            }
        }
        Some((membership.audience, membership.seat))
    }

    /// Takes a place out of a list and tells the member that moved into it.
    fn unlist(&mut self, slot: u32, list: Part, place: u32) {
        let Some(moved) = self.audiences.at_mut(slot).and_then(|audience| audience.remove(list, place)) else {
            return;
        };
        let membership = self.sessions.get_mut(moved).and_then(|session| session.membership_in(slot));
        let Some((_, membership)) = membership else {
            debug_assert!(false, "whoever is on a list is a member");
            return;
        };
        if list == Part::Presence {
            membership.presence_place = place;
        } else {
            membership.place = place;
        }
    }

    /// Gives a seat back; an audience without members goes.
    fn give_seat(&mut self, slot: u32, number: u32) {
        let Some(audience) = self.audiences.at_mut(slot) else {
            return;
        };
        audience.give_seat(number);
        if audience.memberships == 0 {
            let generation = self.audiences.generation(slot);
            if let Some(audience) = self.audiences.remove(slot, generation) {
                self.audience_by_name.remove(&audience.name);
                if self.audience_by_name.len() < self.audience_by_name.capacity() / 8 {
                    self.audience_by_name.shrink_to_fit();
                }
            }
        }
    }
}
