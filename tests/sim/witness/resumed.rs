//! Sessions as clients know them: what is left of a connection that is over, and whether another one gets it back.

use std::collections::{BTreeMap, BTreeSet};

use hubbub::chat::log::SessionRecord;
use hubbub::ids::SessionId;
use hubbub::message::event::Welcome;

use super::{Asked, JoinAsked, Witness};
use crate::env::Env;
use crate::truth::Author;

/// A session without its connection.
#[derive(Clone, Debug)]
pub struct Lost {
    pub session: SessionId,
    /// The connection that had it.
    pub author: Author,
    /// When it was lost, or somewhat before.
    pub lost_ms: u64,
    pub fate: Fate,
    /// Rooms it is in for certain, and rooms in which it may be.
    pub rooms: BTreeMap<usize, JoinAsked>,
    pub maybe: BTreeMap<usize, JoinAsked>,
}

/// What the server must have of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It keeps the session for its time.
    Kept,
    Unknown,
    /// The secret is good for nothing any more.
    Gone,
}

/// A connection that asks for a session.
#[derive(Clone, Debug)]
pub struct Resume {
    pub lost: Lost,
    /// It gives another name than the session's user.
    pub wrong_name: bool,
    /// The answer, once it has come.
    pub resumed: Option<bool>,
}

impl Lost {
    /// The server has stopped or died and has this of the session now.
    pub fn restarted(&mut self, crash: bool, record: Option<SessionRecord>, env: &mut Env) {
        let now_ms = env.now.ms();
        let is_kept = self.fate == Fate::Kept && now_ms - self.lost_ms < env.plan.session_ttl_ms();
        let stored: BTreeMap<usize, JoinAsked> = (record.iter().flat_map(|record| &record.rooms))
            .filter_map(|room| {
                let (tags, index) = (room.tags.iter().map(|tag| tag.to_string()).collect(), env.room(&room.room)?);
                let (presence, ack) = (room.presence, room.ack);
                Some((index, JoinAsked { room: index, tags, presence, ack, ..JoinAsked::default() }))
            })
            .collect();
        let durable = self.rooms.keys().any(|room| env.plan.is_durable(*room));
        let differs =
            |(room, asked): (&usize, &JoinAsked)| stored.get(room).is_none_or(|stored| !stored.is_like(asked));
        if !crash && is_kept && durable && self.rooms.iter().any(differs) {
            env.fail(|| format!("{self:?} was not kept over a stop: {stored:?}"));
        }
        self.fate = match (self.fate, &record) {
            (_, None) => Fate::Gone,
            (Fate::Gone | Fate::Unknown, Some(_)) => Fate::Unknown,
            (Fate::Kept, Some(_)) => Fate::Kept,
        };
        (self.lost_ms, self.rooms, self.maybe) = (now_ms, stored, BTreeMap::new());
    }
}

impl JoinAsked {
    fn is_like(&self, other: &Self) -> bool {
        (&self.tags, self.presence, self.ack) == (&other.tags, other.presence, other.ack)
    }
}

impl Witness {
    pub(super) fn on_session(&mut self, welcome: &Welcome, env: &mut Env) {
        self.session = Some(welcome.session);
        let Some(resume) = &mut self.resume else {
            if welcome.resumed.is_some() {
                env.fail(|| format!("{:?} asked for no session: {welcome:?}", self.author));
            }
            return;
        };
        let Some(resumed) = welcome.resumed else {
            return env.fail(|| format!("{:?} asked for a session: {welcome:?}", self.author));
        };
        resume.resumed = Some(resumed);
        let Resume { lost, wrong_name, .. } = resume.clone();
        let in_time = env.now.ms() - lost.lost_ms < env.plan.session_ttl_ms();
        if resumed && (wrong_name || lost.fate == Fate::Gone) {
            env.fail(|| format!("{:?} got a session that is not its: {lost:?}", self.author));
        }
        if !resumed && !wrong_name && lost.fate == Fate::Kept && in_time {
            env.fail(|| format!("{:?} did not get its session: {lost:?}", self.author));
        }
        if !resumed {
            env.seen.not_resumed += 1;
            return;
        }
        env.seen.resumed += 1;
        self.resumed_maybe = lost.maybe;
        if env.plan.store.unreadable > 0 {
            self.resumed_maybe.extend(lost.rooms);
        } else {
            self.member_of.extend(lost.rooms.keys());
            self.resumed_due = lost.rooms;
        }
    }

    /// What a room that comes back by itself was joined with.
    pub(super) fn take_resumed(&mut self, room: usize, env: &mut Env) -> Option<JoinAsked> {
        let maybe = self.resumed_maybe.remove(&room);
        if maybe.is_some() {
            self.member_of.insert(room);
        }
        let asked = maybe.or_else(|| self.resumed_due.remove(&room))?;
        env.seen.rooms_resumed += 1;
        Some(asked)
    }

    /// Whether the session that was asked for is not there, or not yet.
    pub fn lacks_session(&self) -> bool {
        self.resume.as_ref().is_some_and(|resume| resume.resumed != Some(true))
    }

    /// Whether it only wanted somebody else's session.
    pub fn is_imposter(&self) -> bool {
        self.resume.as_ref().is_some_and(|resume| resume.wrong_name)
    }

    /// Whether it was welcomed.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// What is left for another connection. Nothing if the client cannot say in which rooms it is with which fields.
    pub fn lost(&self, vanished: bool, env: &Env) -> Option<Lost> {
        let session = self.session?;
        let (mut rooms, mut maybe) = (BTreeMap::new(), BTreeMap::new());
        for room in 0..env.plan.rooms.len() {
            let entering = self.asked.values().filter_map(|asked| match asked {
                Asked::Join(to) | Asked::Switch { to, .. } if to.room == room => Some(to.clone()),
                _ => None,
            });
            let from_url = self.url_joins.iter().filter(|url| **url == room);
            let from_url = from_url.map(|room| JoinAsked { room: *room, ..JoinAsked::default() });
            let resumed = self.resumed_due.get(&room).or(self.resumed_maybe.get(&room)).cloned();
            let view = self.views.get(&room);
            let known = view.map(|view| view.asked.clone());
            let mut all: Vec<JoinAsked> = known.into_iter().chain(entering).chain(from_url).chain(resumed).collect();
            let Some(asked) = all.pop() else { continue };
            let asked = JoinAsked { since: None, history: 0, stored: None, ..asked };
            if !all.is_empty() {
                return None;
            }
            match view {
                Some(view) if !view.leaving && self.is_settled(room) && !asked.ack => rooms.insert(room, asked),
                _ => maybe.insert(room, asked),
            };
        }
        let fate = if rooms.is_empty() || self.half_closed { Fate::Unknown } else { Fate::Kept };
        // What the server has closed it may have closed a while ago.
        let now_ms = env.now.ms();
        let lost_ms = if vanished { now_ms } else { now_ms.saturating_sub(CLOSED_AGO_MS_MAX) };
        Some(Lost { session, author: self.author, lost_ms, fate, rooms, maybe })
    }

    /// Whether a room of the session must still come.
    pub fn is_coming_back(&self, room: usize) -> bool {
        self.resumed_due.contains_key(&room)
    }

    /// Rooms that may come back at any time.
    pub fn uncertain(&self) -> BTreeSet<usize> {
        self.resumed_maybe.keys().copied().collect()
    }
}

/// Longer than a close takes to reach a client that reads slowly.
const CLOSED_AGO_MS_MAX: u64 = 20_000;
