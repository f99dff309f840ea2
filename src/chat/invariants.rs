//! Whether all parts of a shard's state agree: for tests and simulations, because it looks at everything.

use crate::chat::audience::Part;
use crate::chat::room::Room;
use crate::chat::session::{MemberState, Phase, Wait, Who};
use crate::chat::state::State;
use crate::ids::{ConnId, Namespace};

impl State {
    /// Checks that all parts agree with each other; panics where they do not. Meant for when all outputs have been
    /// polled.
    pub fn check_invariants(&self) {
        self.lanes.check();
        self.journal.check();
        self.check_homes();
        self.sanctions.check();
        self.check_sessions();
        self.check_audiences();
        self.check_rooms();
        if self.deferred.is_empty() {
            self.check_own_rooms();
        }
    }

    fn check_sessions(&self) {
        let mut blocked = 0;
        for (conn, session) in self.sessions.iter() {
            blocked += usize::from(matches!(session.wait, Wait::Answer | Wait::Deliveries | Wait::Requests(_)));
            let state =
                |wanted: fn(MemberState) -> bool| session.memberships.iter().filter(|m| wanted(m.state)).count() as u16;
            assert_eq!(session.joining, state(|s| s == MemberState::Joining), "joins are counted");
            let replays = |s| matches!(s, MemberState::ReplayAsked | MemberState::ReplayWithShell);
            let replaying = session.memberships.iter().filter(|m| replays(m.state) && !m.ack).count();
            assert_eq!(usize::from(session.replaying), replaying, "replays are counted");
            assert!(session.unanswered >= session.joining || session.phase == Phase::Closing);
            match session.phase {
                Phase::Connecting => assert!(matches!(session.who, Who::Pending(_))),
                Phase::Open => assert!(!matches!(session.who, Who::Pending(_))),
                Phase::Closing => assert!(session.memberships.is_empty() || !self.deferred.is_empty()),
            }
            assert!(session.phase != Phase::Connecting || session.memberships.is_empty());
            for membership in &session.memberships {
                self.check_membership(conn, membership);
            }
        }
        assert_eq!(blocked, self.blocked, "blocked connections are counted");
    }

    fn check_membership(&self, conn: ConnId, membership: &crate::chat::session::Membership) {
        let Some(audience) = self.audiences.at(membership.audience) else {
            panic!("a membership's audience lives");
        };
        assert!(membership.state == MemberState::Joining || audience.room.is_some(), "the room is known");
        for part in Part::ALL {
            let listed = audience.list(part).iter().filter(|c| **c == conn).count();
            let (wanted, place) = match part {
                Part::Presence => (membership.presence && membership.list().is_some(), membership.presence_place),
                _ => (membership.list() == Some(part), membership.place),
            };
            assert_eq!(listed, usize::from(wanted), "a member is on the lists of its state");
            assert!(!wanted || audience.list(part)[place as usize] == conn, "a member knows its place");
        }
    }

    fn check_audiences(&self) {
        assert_eq!(self.audience_by_name.len(), self.audiences.len());
        let mut seats = vec![Vec::new(); self.audiences.iter().map(|a| a.0 as usize + 1).max().unwrap_or(0)];
        for membership in self.sessions.iter().flat_map(|(_, session)| &session.memberships) {
            seats[membership.audience as usize].push(membership.seat);
        }
        for (slot, generation, audience) in self.audiences.iter() {
            let id = self.audience_by_name.get(&audience.name);
            assert!(id.is_some_and(|id| (id.slot, id.generation) == (slot, generation)), "audiences are found by name");
            audience.check(std::mem::take(&mut seats[slot as usize]));
            let listed = Part::ALL.iter().flat_map(|part| audience.list(*part));
            for conn in listed {
                let session = self.sessions.get(*conn);
                let member = session.is_some_and(|s| s.memberships.iter().any(|m| m.audience == slot));
                assert!(member, "whoever is on a list is a member");
            }
        }
    }

    fn check_rooms(&self) {
        assert_eq!(self.room_by_name.len(), self.rooms.len());
        let mut weight = 0;
        for (slot, generation, room) in self.rooms.iter() {
            room.check();
            weight += room.history.weight();
            let id = self.room_by_name.get(&room.name);
            assert!(id.is_some_and(|id| (id.slot, id.generation) == (slot, generation)), "rooms are found by name");
            assert!(!room.is_empty(), "a room without members and history is gone");
            assert_eq!(room.people.is_some(), room.name.namespace() == Namespace::Chat);
            if let Some(idle) = room.idle {
                let listed = self.idle_rooms.get(&idle.stamp);
                assert!(listed.is_some_and(|id| id.slot == slot), "idle rooms wait to be forgotten");
            }
        }
        assert_eq!(weight, self.history_weight, "history is weighed");
        let keys: usize = self.rooms.iter().map(|(_, _, room)| room.keys_len()).sum();
        assert_eq!(keys, self.keys, "keys are counted");
        assert_eq!(self.idle_rooms.len(), self.rooms.iter().filter(|(_, _, room)| room.idle.is_some()).count());
        assert!(self.idle_rooms.is_empty() || self.idle_armed);
    }

    /// Where this shard owns the room of its own members, both halves know the same members, once the room is open.
    fn check_own_rooms(&self) {
        for (slot, _, audience) in self.audiences.iter().filter(|(_, _, a)| a.owner == self.here) {
            let named = self.room_by_name.get(&audience.name).and_then(|id| self.rooms.get(id.slot, id.generation));
            if named.is_some_and(Room::is_opening) {
                continue;
            }
            let Some(id) = audience.room else {
                // Its members wait for their cursors.
                continue;
            };
            let Some(room) = self.rooms.get(id.slot, id.generation) else {
                panic!("a room lives as long as its audiences");
            };
            let listener = room.listeners.iter().find(|listener| listener.shard == self.here);
            let seated = listener.map_or(0, |listener| listener.seated().count());
            assert!(seated <= audience.memberships as usize);
            for seat in listener.into_iter().flat_map(|listener| listener.seated()) {
                let session = self.sessions.get(seat.conn);
                let mut memberships = session.into_iter().flat_map(|s| &s.memberships);
                assert!(memberships.any(|m| m.audience == slot && m.seat == seat.number), "both halves agree");
            }
        }
    }
}
