//! A connection as the core sees it: its phase, who it is, and the rooms it is in.
//!
//! Invariants: a connection is found only by its slot and generation together. Its phase goes one way: connecting,
//! open, closing, then gone. It waits for at most one thing.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::access::Identity;
use crate::chat::audience::Part;
use crate::chat::buckets::Buckets;
use crate::chat::exchange::Refusal;
use crate::chat::identity::Introduction;
use crate::chat::resume::Resuming;
use crate::ids::{ConnId, SessionId, ShardId, UserName};
use crate::message::close::CloseReason;

/// All connections of a shard.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<Option<Session>>,
    len: usize,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) generation: u32,
    pub(super) phase: Phase,
    pub(super) kind: Kind,
    pub(super) memberships: SmallVec<[Membership; 1]>,
    pub(super) who: Who,
    /// When bytes last came, in monotonic milliseconds.
    pub(super) heard_ms: u64,
    /// When the last ping was sent; before the first one, when the connection was opened.
    pub(super) asked_ms: u64,
    /// Commands that wait for an answer from another shard.
    pub(super) unanswered: u16,
    /// Memberships whose join is not answered, and whose replay runs.
    pub(super) joining: u16,
    pub(super) replaying: u16,
    /// Pings without any sign of life since.
    pub(super) missed: u8,
    /// Pings sent, as far as they count for the phase.
    pub(super) phased: u8,
    pub(super) wait: Wait,
    /// The shell does not read it.
    pub(super) paused: bool,
    /// A `switch` is not answered.
    pub(super) switching: bool,
    /// A list of rooms is being gathered.
    pub(super) gathering: bool,
    /// It sent something to another shard that is not answered by itself.
    pub(super) unsettled: bool,
    /// In the relay: it may listen, but not speak.
    pub(super) listens_only: bool,
    /// Close it once everything is answered.
    pub(super) farewell: Option<Farewell>,
    /// Its session's secret, from welcome to the end.
    pub(super) id: Option<SessionId>,
    /// The store has its session.
    pub(super) stored: bool,
    /// The session is to be stored as it is now.
    pub(super) changed: bool,
    /// What it waits for that only others know.
    pub(super) awaits: Option<Box<Awaited>>,
    /// What it has used up of its rates; absent while none is limited.
    pub(super) buckets: Option<Box<Buckets>>,
}

/// What a connection needs that only others know.
#[derive(Debug)]
pub(super) enum Awaited {
    /// Who it is.
    Identity(Introduction),
    /// The session that it wants to go on with.
    Session(Resuming),
    /// Whether its command may go on; the answer, once that is there.
    Verdict(Option<Result<(), Refusal>>),
}

/// How a connection ends that is still owed something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Farewell {
    pub(super) reason: CloseReason,
    /// A replay that runs is finished first.
    pub(super) after_replays: bool,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// `connect` has not come.
    Connecting,
    /// It may do what it likes.
    Open,
    /// The shell was told to close it.
    Closing,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The chat protocol; heartbeats are events or the transport's own.
    Chat { ping_as_event: bool },
    /// One room of the relay.
    Relay,
}

/// Who a connection is.
#[derive(Debug)]
pub(super) enum Who {
    /// Not known yet.
    Pending(Box<Newcomer>),
    /// This one.
    Known(Arc<Identity>),
    /// Nobody needs to know.
    Nobody,
}

/// A connection of which it is not known who it is.
#[derive(Debug)]
pub(super) struct Newcomer {
    /// What its names will be made of.
    pub(super) entropy: u128,
    /// How often it was turned away.
    pub(super) refusals: u8,
}

/// What a connection's input waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing.
    No,
    /// An answer to one of its own commands.
    Answer,
    /// Room in the queues of deliveries.
    Deliveries,
    /// Room in the queue of requests to this shard.
    Requests(ShardId),
    /// It may try again; the room it was promised there is not given to another meanwhile.
    Granted(Promise),
}

/// Where a connection that waited may now use a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// In the queues of deliveries.
    Deliveries,
    /// In the queue of requests to this shard.
    Requests(ShardId),
}

/// One room that a connection is in.
#[derive(Debug)]
pub(super) struct Membership {
    /// The audience's slot; the audience lives at least as long as this.
    pub(super) audience: u32,
    /// Number known to the room's owner.
    pub(super) seat: u32,
    /// Some bits of the room's name, so that few names have to be compared.
    pub(super) hint: u32,
    /// Place in the audience's list for `state`.
    pub(super) place: u32,
    /// Place in the audience's list of those that want presence.
    pub(super) presence_place: u32,
    pub(super) state: MemberState,
    pub(super) presence: bool,
    /// It acknowledges what it gets, and is fed from the log.
    pub(super) ack: bool,
    /// Only messages with one of these tags, or with none, are for it.
    pub(super) tags: Option<Box<[Arc<str>]>>,
}

/// How far a membership has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberState {
    /// The owner has not answered.
    Joining,
    /// The shell has a chunk of the replay, and says when it wants the next.
    ReplayWithShell,
    /// The owner was asked for a chunk of the replay.
    ReplayAsked,
    /// It gets what happens.
    Live,
}

impl Sessions {
    #[inline]
    pub(super) fn get(&self, conn: ConnId) -> Option<&Session> {
        match self.slots.get(conn.slot as usize) {
            Some(Some(session)) if session.generation == conn.generation => Some(session),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Session> {
        match self.slots.get_mut(conn.slot as usize) {
            Some(Some(session)) if session.generation == conn.generation => Some(session),
            _ => None,
        }
    }

    /// Adds a connection. Its slot must be free.
    pub(super) fn insert(&mut self, conn: ConnId, session: Session) {
        let slot = conn.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        debug_assert!(self.slots[slot].is_none(), "a slot is used again only after Closed");
        self.slots[slot] = Some(session);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Session> {
        self.get(conn)?;
        let session = self.slots[conn.slot as usize].take();
        self.len -= 1;
        if self.len == 0 {
            self.slots = Vec::new();
        }
        session
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Slots in use are below this.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The connection in a slot.
    pub(super) fn at(&self, slot: usize) -> Option<ConnId> {
        let session = self.slots.get(slot)?.as_ref()?;
        Some(ConnId { slot: slot as u32, generation: session.generation })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnId, &Session)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, session)| {
            session.as_ref().map(|s| (ConnId { slot: slot as u32, generation: s.generation }, s))
        })
    }
}

impl Session {
    /// A connection that has just finished its transport's handshake.
    pub(super) fn new(conn: ConnId, kind: Kind, who: Who, now_ms: u64) -> Self {
        Self {
            generation: conn.generation,
            phase: if matches!(who, Who::Pending(_)) { Phase::Connecting } else { Phase::Open },
            kind,
            memberships: SmallVec::new(),
            who,
            heard_ms: now_ms,
            asked_ms: now_ms,
            unanswered: 0,
            joining: 0,
            replaying: 0,
            missed: 0,
            phased: 0,
            wait: Wait::No,
            paused: false,
            switching: false,
            gathering: false,
            unsettled: false,
            listens_only: false,
            farewell: None,
            id: None,
            stored: false,
            changed: false,
            awaits: None,
            buckets: None,
        }
    }

    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.who {
            Who::Known(identity) => Some(identity),
            Who::Pending(_) | Who::Nobody => None,
        }
    }

    #[inline]
    pub(super) fn user(&self) -> Option<&UserName> {
        self.identity().map(|identity| &identity.user)
    }

    /// Whether others have to say who it is, or what it was, before it may do anything.
    pub(super) fn awaits_identity(&self) -> bool {
        matches!(self.awaits.as_deref(), Some(Awaited::Identity(_) | Awaited::Session(_)))
    }

    /// The membership in an audience, with its place among the connection's own.
    pub(super) fn membership_in(&mut self, audience: u32) -> Option<(usize, &mut Membership)> {
        self.memberships.iter_mut().enumerate().find(|(_, membership)| membership.audience == audience)
    }
}

impl Membership {
    /// The list of the audience that this member is on.
    pub(super) fn list(&self) -> Option<Part> {
        match self.state {
            MemberState::Joining => None,
            MemberState::ReplayAsked | MemberState::ReplayWithShell => Some(Part::Replaying),
            MemberState::Live if self.tags.is_some() => Some(Part::Filtered),
            MemberState::Live => Some(Part::Live),
        }
    }

    /// Whether a message with this tag is for the member.
    pub(super) fn wants(&self, tag: Option<&str>) -> bool {
        match (&self.tags, tag) {
            (Some(tags), Some(tag)) => tags.iter().any(|wanted| &**wanted == tag),
            _ => true,
        }
    }
}

/// Some bits of a name: its length and three of its bytes.
#[inline]
pub(super) fn hint(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let byte = |index: usize| u32::from(bytes.get(index).copied().unwrap_or_default());
    let len = bytes.len();
    byte(len.wrapping_sub(1)) | byte(len.wrapping_sub(2)) << 8 | byte(len / 2) << 16 | (len as u32) << 24
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32, generation: u32) -> ConnId {
        ConnId { slot, generation }
    }

    #[test]
    fn a_stale_connection_finds_nothing() {
        let mut sessions = Sessions::default();
        let old = conn(4, 1);
        sessions.insert(old, Session::new(old, Kind::Relay, Who::Nobody, 0));
        assert!(sessions.remove(conn(4, 2)).is_none());
        assert!(sessions.remove(old).is_some());
        let new = conn(4, 2);
        sessions.insert(new, Session::new(new, Kind::Relay, Who::Nobody, 0));
        assert!(sessions.get(old).is_none() && sessions.get_mut(old).is_none());
        assert!(sessions.get(new).is_some() && sessions.len() == 1);
        assert_eq!(sessions.at(4), Some(new));
    }

    #[test]
    fn a_connection_costs_little() {
        // 50,000 of these are held, and each byte counts.
        assert!(size_of::<Option<Session>>() <= 208, "{}", size_of::<Option<Session>>());
        assert!(size_of::<Membership>() <= 40, "{}", size_of::<Membership>());
    }

    #[test]
    fn tags_filter_only_what_has_a_tag() {
        let mut membership = Membership {
            audience: 0,
            seat: 0,
            hint: 0,
            place: 0,
            presence_place: 0,
            state: MemberState::Live,
            presence: false,
            ack: false,
            tags: Some(["goal".into()].into()),
        };
        assert!(membership.wants(Some("goal")) && membership.wants(None) && !membership.wants(Some("card")));
        assert_eq!(membership.list(), Some(Part::Filtered));
        membership.tags = None;
        assert!(membership.wants(Some("card")));
        assert_eq!(membership.list(), Some(Part::Live));
    }

    #[test]
    fn hints_tell_numbered_names_apart() {
        assert_eq!(hint("room-17"), hint(&String::from("room-17")));
        assert_ne!(hint("room-17"), hint("room-18"));
        assert_ne!(hint("room-17"), hint("room-27"));
        assert_ne!(hint("a"), hint("aa"));
    }
}
