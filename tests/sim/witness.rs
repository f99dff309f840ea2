//! One connection of the chat protocol as its client sees it: what it asked for, what it was told, and whether the
//! two agree. Everything that can be judged at once is judged here; the rest is left to the end of the world.

mod consumed;
mod heard;
mod resumed;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use hubbub::ids::{Epoch, SessionId, UserName};
use hubbub::message::close::{CloseReason, ErrorCode};
use hubbub::message::command::{HistoryFrom, Position};
use hubbub::message::event::{Event, Joined, Reply, Role, Welcome};

use crate::env::Env;
use crate::truth::Author;
use crate::view::{Memory, People, View};

pub use consumed::{Fed, dead_letters};
pub use resumed::{Fate, Lost, Resume};

/// What a connection knows.
#[derive(Debug)]
pub struct Witness {
    pub author: Author,
    pub user: Option<UserName>,
    /// Commands with an `id` that have no reply yet.
    pub asked: BTreeMap<u64, Asked>,
    /// Joins from the URL that have no `ok` yet, in order.
    pub url_joins: Vec<usize>,
    /// Errors without `id` that must still come.
    pub errors_due: usize,
    /// Rooms this connection is in as its client sees it, by the room's place in the plan.
    pub views: BTreeMap<usize, View>,
    /// Whether `connect` was sent, and the rooms it will be in once everything sent is done.
    pub connected: bool,
    pub member_of: BTreeSet<usize>,
    /// Rooms in which it once asked for its own messages not to come back.
    pub no_echo: BTreeSet<usize>,
    pub half_closed: bool,
    pub told_closing: bool,
    /// The last page of rooms: places in the plan, and members.
    pub rooms: Vec<(usize, u64)>,
    /// The last page of history: positions, and whether there is more.
    pub page: Option<(Vec<u64>, bool)>,
    /// Rooms into which it could not come, because the store could not be read.
    pub barred: BTreeSet<usize>,
    /// Rooms that it has left, or has said so.
    pub has_left: BTreeSet<usize>,
    /// Joins after which a `leave` without `id` was sent, before they were answered.
    left_silently: BTreeSet<u64>,
    /// Its session's secret.
    session: Option<SessionId>,
    /// The session it asked for.
    pub resume: Option<Resume>,
    /// Rooms of that session that must come back, and rooms that may.
    resumed_due: BTreeMap<usize, JoinAsked>,
    resumed_maybe: BTreeMap<usize, JoinAsked>,
    /// Rooms in which another connection consumes in its place.
    pub kicked: BTreeSet<usize>,
    next_id: u64,
}

/// A command that waits for its reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Connect,
    Join(JoinAsked),
    Leave {
        room: usize,
    },
    Switch {
        from: usize,
        to: JoinAsked,
    },
    Message {
        room: usize,
        number: usize,
    },
    Signal {
        room: usize,
        number: usize,
    },
    Delete {
        room: usize,
        seq: u64,
        allowed: bool,
    },
    History {
        room: usize,
        from: HistoryFrom,
        limit: usize,
    },
    Presence {
        room: usize,
        membership: u64,
        after: Option<UserName>,
    },
    Rooms {
        after: Option<String>,
        limit: usize,
    },
    Ping,
    Ack {
        room: usize,
        epoch: Epoch,
        seq: u64,
        /// It is a dead letter that is acknowledged, and nothing before it.
        letter: bool,
    },
    /// Refused whatever it asks, with this code.
    Refused(ErrorCode),
}

/// What a join asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JoinAsked {
    pub room: usize,
    pub since: Option<Position>,
    pub history: u64,
    pub tags: Vec<String>,
    pub presence: bool,
    pub ack: bool,
    /// Its user's dead letters when this was asked.
    pub dead: BTreeSet<u64>,
    /// The room's log on the disk when this was asked.
    pub stored: Option<Epoch>,
}

/// What the client should do about an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Reaction {
    None,
    Pong,
    /// Ask for the next page of presence.
    PresencePage {
        room: usize,
        after: Option<UserName>,
    },
}

impl Witness {
    pub fn new(author: Author) -> Self {
        Self {
            author,
            user: None,
            asked: BTreeMap::new(),
            url_joins: Vec::new(),
            errors_due: 0,
            views: BTreeMap::new(),
            connected: false,
            member_of: BTreeSet::new(),
            no_echo: BTreeSet::new(),
            half_closed: false,
            told_closing: false,
            rooms: Vec::new(),
            page: None,
            barred: BTreeSet::new(),
            has_left: BTreeSet::new(),
            left_silently: BTreeSet::new(),
            session: None,
            resume: None,
            resumed_due: BTreeMap::new(),
            resumed_maybe: BTreeMap::new(),
            kicked: BTreeSet::new(),
            next_id: 1,
        }
    }

    /// Numbers a command and remembers what it asks.
    pub fn ask(&mut self, asked: Asked) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.asked.insert(id, asked);
        id
    }

    /// Whether nothing that was sent may still change the membership in a room.
    pub fn is_settled(&self, room: usize) -> bool {
        let moves = |asked: &Asked| match asked {
            Asked::Join(join) => join.room == room,
            Asked::Leave { room: left } => *left == room,
            Asked::Switch { from, to } => *from == room || to.room == room,
            _ => false,
        };
        let comes = self.url_joins.contains(&room) || self.resumed_due.contains_key(&room);
        !comes && !self.asked.values().any(moves)
    }

    /// A `leave` without `id` is being sent: its room's membership ends unseen.
    pub fn leave_silently(&mut self, room: usize) {
        let enters = |asked: &Asked| match asked {
            Asked::Join(to) | Asked::Switch { to, .. } => to.room == room,
            _ => false,
        };
        match self.asked.iter().rev().find(|(_, asked)| enters(asked)) {
            Some((id, _)) => _ = self.left_silently.insert(*id),
            None => self.views.get_mut(&room).expect("it is a member").leaving = true,
        }
    }

    /// Judges one event.
    pub fn observe(&mut self, event: &Event, env: &mut Env) -> Reaction {
        match event {
            Event::Welcome { id, body } => self.on_welcome(*id, body, env),
            Event::Ok { id, body } => return self.on_ok(*id, body, env),
            Event::Error { id, code, message } => self.on_error(*id, *code, message, env),
            Event::Pong { id } => self.on_pong(*id, env),
            Event::Message(message) => self.on_message(message, env),
            Event::Signal(signal) => self.on_signal(signal, env),
            Event::Deleted { room, seq } => self.on_deleted(env.room(room), seq.0, env),
            Event::Presence(presence) => self.on_presence(presence, env),
            Event::Gap { room, from, to } => self.on_gap(env.room(room), from.0, to.0, env),
            Event::Closing { .. } if env.draining && !self.told_closing => self.told_closing = true,
            Event::Closing { .. } => {
                env.fail(|| format!("{:?} was told again, or for nothing, of a close", self.author))
            }
            Event::Ping => return Reaction::Pong,
            Event::Redelivered { message, attempt } => self.on_redelivered(message, *attempt, env),
            Event::Kicked { room, .. } => self.on_kicked(env.room(room), env),
            Event::Receipt { .. } | Event::Closed { .. } => {
                env.fail(|| format!("{:?} was told {event:?}, for which it did not ask", self.author));
            }
            Event::Relay(_) => env.fail(|| "a chat connection got a relayed frame".into()),
        }
        Reaction::None
    }

    fn on_welcome(&mut self, id: Option<u64>, welcome: &Welcome, env: &mut Env) {
        let expected = match id {
            Some(id) => self.asked.remove(&id) == Some(Asked::Connect),
            None => true,
        };
        if !expected || self.user.is_some() {
            env.fail(|| format!("{:?}: unexpected welcome {id:?}", self.author));
        }
        self.user = Some(welcome.user.clone());
        self.on_session(welcome, env);
    }

    fn on_pong(&mut self, id: Option<u64>, env: &mut Env) {
        let asked = id.and_then(|id| self.asked.remove(&id));
        if id.is_some() && asked != Some(Asked::Ping) {
            env.fail(|| format!("{:?}: pong {id:?} answers {asked:?}", self.author));
        }
    }

    fn on_ok(&mut self, id: Option<u64>, body: &Reply, env: &mut Env) -> Reaction {
        let Some(id) = id else {
            return self.on_url_join(body, env);
        };
        let Some(asked) = self.asked.remove(&id) else {
            env.fail(|| format!("{:?}: ok {id} answers nothing: {body:?}", self.author));
            return Reaction::None;
        };
        match (asked, body) {
            (Asked::Join(join), Reply::Joined(joined)) => return self.enter(Some(id), &join, joined, env),
            (Asked::Switch { from, to }, Reply::Joined(joined)) => {
                env.seen.switches += 1;
                if self.views.contains_key(&from) || !self.kicked.contains(&from) {
                    self.exit(from, env);
                }
                return self.enter(Some(id), &to, joined, env);
            }
            (Asked::Leave { room }, Reply::Done) => self.exit(room, env),
            (Asked::Ack { room, epoch, seq, letter: false }, Reply::Done) => self.on_acked(room, epoch, seq, env),
            (Asked::Ack { .. }, Reply::Done) => {}
            (Asked::Message { room, number }, Reply::Sent { room: name, seq, timestamp, durable, duplicate }) => {
                if env.room(name) != Some(room) {
                    env.fail(|| format!("message {number} went to {name:?}"));
                }
                self.on_sent((room, number), (seq.0, *timestamp), (*durable, *duplicate), env);
            }
            (Asked::Signal { number, .. }, Reply::Done) => env.truth.sent[number].accepted = true,
            (Asked::Delete { room, seq, .. }, Reply::Done) => {
                env.seen.deletions += 1;
                if let Some(view) = self.views.get(&room) {
                    env.truth.buried.insert((room, view.epoch.0, seq));
                }
            }
            (Asked::History { room, from, limit }, Reply::History { epoch, messages, more, .. }) => {
                self.on_page_of_history(room, from, limit, (*epoch, messages, *more), env);
            }
            (Asked::Presence { room, membership, after }, Reply::Users { users, next, .. }) => {
                return self.on_page_of_users(room, membership, after.as_ref(), users, next.as_ref(), env);
            }
            (Asked::Rooms { after, limit }, Reply::Rooms { rooms, next }) => {
                let names: Vec<&str> = rooms.iter().map(|room| room.room.as_str()).collect();
                let later = names.first().is_none_or(|first| after.as_deref().is_none_or(|after| *first > after));
                let next_is_last = next.as_ref().is_none_or(|next| names.last() == Some(&next.as_str()));
                if !later || !names.is_sorted_by(|a, b| a < b) || names.len() > limit || !next_is_last {
                    env.fail(|| format!("{limit} rooms after {after:?}: {names:?}, {next:?}"));
                }
                self.rooms = rooms.iter().filter_map(|room| Some((env.room(&room.room)?, room.members))).collect();
            }
            (asked, body) => env.fail(|| format!("{asked:?} was answered by {body:?}")),
        }
        Reaction::None
    }

    fn on_url_join(&mut self, body: &Reply, env: &mut Env) -> Reaction {
        let Reply::Joined(joined) = body else {
            env.fail(|| format!("{:?}: ok without id: {body:?}", self.author));
            return Reaction::None;
        };
        if let Some(asked) = env.room(&joined.room).and_then(|room| self.take_resumed(room, env)) {
            return self.enter(None, &asked, joined, env);
        }
        if self.url_joins.first().copied() != env.room(&joined.room) || self.user.is_none() {
            env.fail(|| format!("{:?}: ok for {:?}, the URL says {:?}", self.author, joined.room, self.url_joins));
            return Reaction::None;
        }
        let room = self.url_joins.remove(0);
        self.enter(None, &JoinAsked { room, ..JoinAsked::default() }, joined, env)
    }

    fn enter(&mut self, id: Option<u64>, asked: &JoinAsked, joined: &Joined, env: &mut Env) -> Reaction {
        let (room, head) = (asked.room, joined.seq.0);
        // Whoever is alone has been here longest.
        let alone = joined.members == 1 && joined.role != Role::Host;
        if env.room(&joined.room) != Some(room) || joined.members == 0 || alone {
            env.fail(|| format!("{asked:?} was answered by {joined:?}"));
        }
        if asked.stored.is_some_and(|epoch| epoch != joined.epoch) {
            env.fail(|| format!("{asked:?} was answered by {joined:?}"));
        }
        self.judge_recovery(asked, joined, env);
        let after = match (asked.since, joined.recovered) {
            (Some(since), Some(true)) => since.seq.0,
            (Some(_), _) => head,
            (None, _) => told::latest(asked, joined, env),
        };
        let replayed = env.truth.alive_from(room, joined.epoch.0, after + 1) <= head;
        env.seen.replays += u64::from(replayed);
        let trimmed = env.store.trimmed(joined.epoch).0;
        let loose = if env.plan.is_durable(room) { after < trimmed } else { env.plan.history_bytes_tight };
        let view = View {
            membership: self.next_id,
            epoch: joined.epoch,
            head,
            members: joined.members,
            next: after + 1,
            loose_start: asked.since.is_none() && asked.history > 0 && loose,
            replayed,
            role: joined.role,
            tags: asked.tags.clone(),
            asked: asked.clone(),
            jumps: Vec::new(),
            readable: BTreeSet::new(),
            told_deleted: BTreeSet::new(),
            signals: BTreeSet::new(),
            last_signal: None,
            since_step: env.step,
            leaving: id.is_some_and(|id| self.left_silently.remove(&id)),
            people: asked.presence.then(People::default),
            fed: asked.ack.then(|| Fed { dead: asked.dead.clone(), ..Fed::default() }),
            last_timestamp: 0,
            last_numbers: BTreeMap::new(),
        };
        self.next_id += 1;
        if self.views.get(&room).is_some_and(|old| !old.leaving) {
            env.fail(|| format!("{:?} joined {room} twice", self.author));
        }
        if let Some(old) = self.views.insert(room, view) {
            env.past.push(self.memory(room, old));
        }
        if asked.presence { Reaction::PresencePage { room, after: None } } else { Reaction::None }
    }

    fn exit(&mut self, room: usize, env: &mut Env) {
        match self.views.remove(&room) {
            Some(view) => env.past.push(self.memory(room, view)),
            None => env.fail(|| format!("{:?} left {room}, where it was not", self.author)),
        }
    }

    /// What is kept of a membership that is over.
    fn memory(&self, room: usize, view: View) -> Memory {
        Memory { author: self.author, no_echo: self.no_echo.contains(&room), room, view }
    }

    /// What is remembered of the memberships that last.
    pub fn memories(&self) -> impl Iterator<Item = Memory> {
        self.views.iter().map(|(room, view)| self.memory(*room, view.clone()))
    }

    /// Judges how the connection ended.
    pub fn end(&self, reason: Option<CloseReason>, env: &mut Env) {
        let author = self.author;
        env.past.extend(self.memories());
        let fair = match reason {
            None | Some(CloseReason::SlowConsumer | CloseReason::HeartbeatTimeout) => true,
            Some(CloseReason::HandshakeTimeout) => self.user.is_none(),
            Some(CloseReason::Restart) => env.draining && self.told_closing,
            Some(CloseReason::Normal) => self.half_closed,
            Some(_) => false,
        };
        if !fair {
            env.fail(|| format!("{author:?} was closed: {reason:?}"));
        }
        if reason == Some(CloseReason::Normal) {
            self.check_answered(env);
            let is_cut = |view: &View| !view.leaving && view.fed.is_none() && !view.loose_start && view.tags.is_empty();
            let misses = |room: usize, view: &View| env.truth.alive_from(room, view.epoch.0, view.next) <= view.head;
            let cut = self.views.iter().find(|(room, view)| misses(**room, view) && is_cut(view));
            if let Some((room, view)) = cut.filter(|(room, _)| !self.no_echo.contains(room)) {
                env.fail(|| {
                    format!("{author:?} in {room}: half-closed, replay ended at {} of {}", view.next, view.head)
                });
            }
        }
    }

    /// Keys of messages that were not answered.
    pub fn unsure_keys(&self, env: &Env) -> Vec<(usize, String)> {
        let key = |asked: &Asked| match asked {
            Asked::Message { room, number } => Some((*room, env.truth.sent[*number].key.clone()?)),
            _ => None,
        };
        self.asked.values().filter_map(key).collect()
    }

    /// Nothing may be unanswered any more.
    pub fn check_answered(&self, env: &mut Env) {
        if let Some((id, asked)) = self.asked.first_key_value() {
            env.fail(|| format!("{:?}: {id} {asked:?} was never answered", self.author));
        }
        let Self { author, url_joins, resumed_due, errors_due, .. } = self;
        if !url_joins.is_empty() || !resumed_due.is_empty() || (*errors_due > 0 && self.kicked.is_empty()) {
            env.fail(|| format!("{author:?}: {url_joins:?}, {resumed_due:?}, {errors_due} errors never came"));
        }
    }
}
