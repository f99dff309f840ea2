//! The relay: connections with one room each and nothing around what they say.
//!
//! Absent: positions, history, users' names. This is the shortest way through the core.

use bytes::Bytes;

use crate::access::{Action, Identity};
use crate::chat::Handled;
use crate::chat::auth;
use crate::chat::buckets::Spend;
use crate::chat::exchange::{Delivery, JoinTicket, Request, RoomId, RoomRef, Seat};
use crate::chat::identity::Introduction;
use crate::chat::placement;
use crate::chat::session::{Phase, Wait};
use crate::chat::state::State;
use crate::ids::{ConnId, Namespace, RoomName};
use crate::message::close::CloseReason;
use crate::message::command::Join;
use crate::message::event::Event;

impl State {
    pub(super) fn connect_relay(&mut self, conn: ConnId, room: &str, token: Option<Box<str>>) {
        let Ok(name) = RoomName::new(Namespace::Relay, room) else {
            return self.close(conn, CloseReason::ProtocolError);
        };
        if self.config.consults.connect {
            return self.introduce(conn, Introduction::Relay(name), token, None);
        }
        self.open_relay(conn, name, &Identity::named(auth::guest(0)));
    }

    pub(super) fn open_relay(&mut self, conn: ConnId, name: RoomName, identity: &Identity) {
        let standing = self.config.permissions.standing(identity, &name);
        let (_, rights) = standing.settle(false);
        if !rights.has(Action::Join) {
            return self.close(conn, CloseReason::Forbidden);
        }
        if let Some(session) = self.sessions.get_mut(conn) {
            session.listens_only = !rights.has(Action::Send);
        }
        let owner = placement::owner(name.placement_hash(), self.config.shards);
        let ticket = JoinTicket { id: None, say_ok: false, switch_from: None, resumed: false, rules: self.rules };
        self.ask_to_join(conn, name, owner, &Join::default(), (standing, ticket));
    }

    /// A frame of the relay. This is the shortest way through the core: no position, no history, nothing allocated.
    pub(super) fn on_relay(&mut self, conn: ConnId, frame: Bytes) -> Handled {
        self.stop_waiting(conn);
        let Some(session) = self.sessions.get_mut(conn) else {
            return Handled::Done;
        };
        session.heard_ms = self.now.ms();
        if session.phase == Phase::Connecting {
            return self.block(conn, Wait::Answer);
        }
        let Some(membership) = session.memberships.first() else {
            return Handled::Done;
        };
        if session.listens_only {
            self.close(conn, CloseReason::Forbidden);
            return Handled::Done;
        }
        let (seat, slot) = (Seat { number: membership.seat, conn }, membership.audience);
        let Some(audience) = self.audiences.at(slot) else {
            return Handled::Done;
        };
        let owner = audience.owner;
        if let Some(wait) = self.full(owner) {
            return self.block(conn, wait);
        }
        if self.is_guarded() && !self.admit_frame(conn, frame.len()) {
            return Handled::Done;
        }
        let Some(audience) = self.audiences.at(slot) else {
            return Handled::Done;
        };
        let room = match audience.room {
            Some(room) if owner == self.here => {
                self.relay_here(room, frame);
                return Handled::Done;
            }
            Some(room) => RoomRef::Id(room),
            None => RoomRef::Name(audience.name.clone()),
        };
        self.ask(conn, owner, false, Request::Relay { room, seat, frame });
        Handled::Done
    }

    /// A frame of the relay: whoever sends too many is closed, for nothing else can be told.
    pub(super) fn admit_frame(&mut self, conn: ConnId, bytes: usize) -> bool {
        if self.muted_everywhere(conn).is_some() {
            self.close(conn, CloseReason::Forbidden);
            return false;
        }
        if self.spend(conn, Spend::Message(bytes)).is_err() {
            self.close(conn, CloseReason::RateLimited);
            return false;
        }
        true
    }

    /// Tells everyone in a room of the relay.
    #[inline]
    pub(super) fn relay_here(&mut self, id: RoomId, frame: Bytes) {
        let Some(room) = self.rooms.get(id.slot, id.generation) else {
            return;
        };
        let mut local = None;
        for listener in &room.listeners {
            if listener.shard == self.here {
                local = Some(listener.audience);
            } else {
                let delivery = Delivery::Relay { audience: listener.audience, frame: frame.clone() };
                self.lanes.push_delivery(listener.shard, delivery);
            }
        }
        if let Some(audience) = local {
            debug_assert!(self.deferred.is_empty(), "nobody joins and speaks in one input");
            self.fan_out(audience, Event::Relay(frame), None);
        }
    }
}
