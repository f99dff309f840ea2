//! What clients do: come, ask, talk, read slowly, go, and come back where they left off.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hubbub::chat::ConnKind;
use hubbub::ids::{Epoch, Seq};
use hubbub::message::close::{CloseReason, ErrorCode};
use hubbub::message::command::{Command, CommandBody, Connect, Position, Resume as ResumeField};
use hubbub::message::event::Event;

use crate::env::Env;
use crate::outsiders::{Outsider, is_outsider};
use crate::talk::{Labels, Talk, body_of, plain};
use crate::truth::{Author, What};
use crate::wire::{Item, Reader};
use crate::witness::{Asked, Fate, Lost, Reaction, Resume, Witness, dead_letters};

/// What a connection sent and its shell has not read.
#[derive(Clone, Debug)]
pub enum Inbound {
    Command(Command<'static>),
    /// The URL named this room.
    JoinFromUrl(String),
    /// Something that is no command.
    Bad {
        id: Option<u64>,
        code: ErrorCode,
    },
    Relay(Bytes),
    /// The transport's own pong.
    Pong,
    HalfClose,
}

/// What a client decides to do.
#[derive(Debug)]
pub enum Act {
    Nothing,
    Connect(ConnKind, Vec<Inbound>),
    Send(Vec<Inbound>),
    /// Vanish without a word.
    Abort,
}

/// Somebody with at most one connection at a time.
#[derive(Debug)]
pub struct Client {
    pub index: usize,
    /// Several clients may be the same user.
    pub user: String,
    /// The room of the relay it uses; otherwise it chats.
    pub relay: Option<usize>,
    pub slow: bool,
    /// Answers no pings.
    pub mute: bool,
    /// Its connection: the shard and the slot there.
    pub link: Option<(usize, u32)>,
    pub session: Session,
    life: u32,
    reader: Reader,
    /// Where it left off, by room.
    positions: BTreeMap<usize, (Epoch, u64)>,
    /// Keys it has used.
    keys: Keys,
    /// Its last session, and one before that it has already got back.
    lost: Option<Lost>,
    used: Option<Lost>,
    /// A connection of its own that must be closed by now.
    pub replaced: Option<Author>,
}

/// Keys that a client has used, by room.
#[derive(Debug, Default)]
pub struct Keys {
    pub used: Vec<(usize, String)>,
    /// Of messages whose `ok` never came.
    pub unsure: Vec<(usize, String)>,
}

/// What the client knows of its connection.
#[derive(Debug)]
pub enum Session {
    None,
    Chat(Box<Witness>),
    Relay(RelayWitness),
    Outsider(Outsider),
}

/// One connection to the relay as its client sees it.
#[derive(Debug)]
pub struct RelayWitness {
    pub author: Author,
    pub room: usize,
    pub last: Option<usize>,
    /// Its own frames that have not come back.
    pub awaited: BTreeSet<usize>,
}

impl Client {
    pub fn new(index: usize, env: &mut Env) -> Self {
        let user = format!("user-{}", env.rng.below(env.plan.users));
        let relay = env.rng.chance(1, 5).then(|| env.rng.below(env.plan.relay_rooms.len()));
        let slow = env.rng.below(8) < env.plan.slow_of_eight;
        let mute = env.rng.chance(1, 16);
        Self::named(index, user, relay, slow, mute)
    }

    pub fn named(index: usize, user: String, relay: Option<usize>, slow: bool, mute: bool) -> Self {
        Self {
            index,
            user,
            relay,
            slow,
            mute,
            link: None,
            session: Session::None,
            life: 0,
            reader: Reader::default(),
            positions: BTreeMap::new(),
            keys: Keys::default(),
            lost: None,
            used: None,
            replaced: None,
        }
    }

    pub fn chat(&self) -> Option<&Witness> {
        match &self.session {
            Session::Chat(witness) => Some(witness),
            Session::None | Session::Relay(_) | Session::Outsider(_) => None,
        }
    }

    pub fn chat_mut(&mut self) -> Option<&mut Witness> {
        match &mut self.session {
            Session::Chat(witness) => Some(witness),
            Session::None | Session::Relay(_) | Session::Outsider(_) => None,
        }
    }

    pub fn author(&self) -> Author {
        Author { client: self.index, life: self.life }
    }

    /// Decides what to do next.
    pub fn act(&mut self, env: &mut Env) -> Act {
        match &mut self.session {
            Session::None => self.connect(env),
            Session::Relay(_) => self.act_in_relay(env),
            Session::Outsider(_) if env.rng.chance(1, 60) => Act::Abort,
            Session::Outsider(outsider) => Act::Send(outsider.act(&self.user, env)),
            Session::Chat(witness) if witness.half_closed => Act::Nothing,
            Session::Chat(witness) if witness.is_imposter() => Act::Abort,
            Session::Chat(_) if self.mute && !env.rng.chance(1, 20) => Act::Nothing,
            Session::Chat(witness) => {
                let ends = env.rng.chance(1, env.plan.restlessness);
                if ends && env.rng.chance(1, 2) {
                    return Act::Abort;
                }
                if ends {
                    witness.half_closed = true;
                    env.seen.half_closes += 1;
                    return Act::Send(vec![Inbound::HalfClose]);
                }
                let (positions, keys) = (&self.positions, &mut self.keys);
                let mut talk = Talk { witness, positions, keys, user: &self.user, out: Vec::new() };
                talk.decide(env);
                Act::Send(talk.out)
            }
        }
    }

    /// Opens a connection in one of the ways there are.
    pub fn connect(&mut self, env: &mut Env) -> Act {
        self.life += 1;
        self.reader = Reader::default();
        let author = self.author();
        if is_outsider(&self.user) {
            self.session = Session::Outsider(Outsider::new(author));
            let connect = Some(Connect { token: Some(Cow::Owned(self.user.clone())), ..Connect::default() });
            return Act::Connect(ConnKind::Chat { connect, ping_as_event: false }, Vec::new());
        }
        if let Some(room) = self.relay {
            self.session = Session::Relay(RelayWitness { author, room, last: None, awaited: BTreeSet::new() });
            let name = env.plan.relay_rooms[room].as_str().to_owned();
            return Act::Connect(ConnKind::Relay { room: name, token: None }, Vec::new());
        }
        let mut witness = Witness::new(author);
        let ping_as_event = env.rng.chance(1, 2);
        if let Some(resume) = self.session_to_ask_for(env) {
            let connect = self.resume(&mut witness, resume, env);
            self.session = Session::Chat(Box::new(witness));
            return Act::Connect(ConnKind::Chat { connect: None, ping_as_event }, vec![connect]);
        }
        let mut inbound = Vec::new();
        let mut connect = None;
        if env.rng.chance(1, 3) {
            connect = Some(Connect { name: Some(Cow::Owned(self.user.clone())), ..Connect::default() });
            witness.connected = true;
            for room in 0..env.plan.rooms.len() {
                // An error there has no `id`, and so the witness could not tell for which room.
                if env.plan.store.unreadable == 0 && env.rng.chance(1, 3) {
                    witness.url_joins.push(room);
                    witness.member_of.insert(room);
                    inbound.push(Inbound::JoinFromUrl(env.plan.rooms[room].as_str().to_owned()));
                }
            }
        }
        self.session = Session::Chat(Box::new(witness));
        Act::Connect(ConnKind::Chat { connect, ping_as_event }, inbound)
    }

    /// Half of the time the client wants its session back; at times it does what it must not.
    fn session_to_ask_for(&mut self, env: &mut Env) -> Option<Resume> {
        if let Some(lost) = self.used.take().filter(|_| env.rng.chance(1, 4)) {
            env.seen.secrets_used_twice += 1;
            return Some(Resume { lost, wrong_name: false, resumed: None });
        }
        if let Some(lost) = self.lost.clone().filter(|_| env.rng.chance(1, 16)) {
            env.seen.imposters += 1;
            return Some(Resume { lost, wrong_name: true, resumed: None });
        }
        let lost = self.lost.take().filter(|_| env.rng.chance(1, 2))?;
        // Should the answer not arrive, nobody knows what has become of it.
        self.lost =
            Some(Lost { fate: if lost.fate == Fate::Gone { Fate::Gone } else { Fate::Unknown }, ..lost.clone() });
        Some(Resume { lost, wrong_name: false, resumed: None })
    }

    /// The `connect` that asks for a session, with positions of most of its rooms.
    fn resume(&mut self, witness: &mut Witness, mut resume: Resume, env: &mut Env) -> Inbound {
        let mut rooms = Vec::new();
        for (room, asked) in &mut resume.lost.rooms {
            let known = self.positions.get(room).filter(|_| env.rng.chance(7, 8));
            let name = env.plan.rooms[*room].clone();
            asked.stored = env.store.log_of(&name).map(|(epoch, _)| epoch);
            asked.since = known.map(|(epoch, seq)| Position { epoch: *epoch, seq: Seq(*seq) });
            rooms.extend(asked.since.map(|since| (Cow::Owned(name.as_str().to_owned()), since)));
        }
        for (room, asked) in resume.lost.rooms.iter_mut().chain(&mut resume.lost.maybe) {
            asked.dead = if asked.ack { dead_letters(*room, &self.user, env) } else { BTreeSet::new() };
            asked.note_consumer(&self.user, env);
        }
        let name = if resume.wrong_name { IMPOSTER } else { &self.user };
        let name = Some(Cow::Owned(name.to_owned()));
        let session = resume.lost.session;
        witness.resume = Some(resume);
        witness.connected = true;
        let body =
            CommandBody::Connect(Connect { name, resume: Some(ResumeField { session, rooms }), ..Connect::default() });
        Inbound::Command(Command { id: Some(witness.ask(Asked::Connect)), body })
    }

    /// The server has died, or stopped and started again.
    pub fn restarted(&mut self, crash: bool, env: &mut Env) {
        self.ended(None, false, env);
        self.used = None;
        if let Some(lost) = &mut self.lost {
            let record = env.store.session(lost.session);
            lost.restarted(crash, record, env);
        }
    }

    /// Prepares for a connection on which `connect` is sent as a command.
    pub fn connect_plainly(&mut self) {
        self.life += 1;
        self.session = Session::Chat(Box::new(Witness::new(self.author())));
    }

    fn act_in_relay(&mut self, env: &mut Env) -> Act {
        if env.rng.chance(1, env.plan.restlessness) { Act::Abort } else { Act::Send(vec![self.say_in_relay(env)]) }
    }

    /// Sends a frame into the relay.
    pub fn say_in_relay(&mut self, env: &mut Env) -> Inbound {
        let author = self.author();
        let Session::Relay(witness) = &mut self.session else { unreachable!("a relay connection") };
        let room = witness.room;
        let sent = plain(author, What::Relayed, room, env);
        let number = env.truth.sent.len();
        let padding = env.rng.below(100);
        witness.awaited.insert(number);
        Inbound::Relay(Bytes::from(env.truth.write(sent, padding)))
    }

    /// Publishes one message in a room, as the last roll-call does.
    pub fn say(&mut self, room: usize, env: &mut Env) -> Inbound {
        let Session::Chat(witness) = &mut self.session else { unreachable!("a chat connection") };
        let (positions, keys) = (&self.positions, &mut self.keys);
        let mut talk = Talk { witness, positions, keys, user: &self.user, out: Vec::new() };
        talk.message(room, Labels { tag: None, key: None, echo: true }, true, env);
        talk.out.remove(0)
    }

    /// Asks for something that is answered for certain.
    pub fn request(&mut self, asked: Asked, env: &mut Env) -> Inbound {
        let Session::Chat(witness) = &mut self.session else { unreachable!("a chat connection") };
        let body = body_of(&asked, &self.user, env);
        match &asked {
            Asked::Connect => witness.connected = true,
            Asked::Join(join) => _ = witness.member_of.insert(join.room),
            _ => {}
        }
        Inbound::Command(Command { id: Some(witness.ask(asked)), body })
    }

    /// Reads what has come and judges it. Returns what the client answers, and the goodbye if it came.
    pub fn receive(&mut self, bytes: &[u8], env: &mut Env) -> (Vec<Inbound>, Option<CloseReason>) {
        self.reader.feed(bytes);
        let mut out = Vec::new();
        while let Some(item) = self.reader.next(&env.wire) {
            let client = self.index;
            env.note(|| format!("client {client} reads {item:?}"));
            match (item, &mut self.session) {
                (Item::Goodbye(reason), _) => return (out, Some(reason)),
                (Item::Ping, _) => {
                    if !self.mute {
                        out.push(Inbound::Pong);
                    }
                }
                (Item::Event(event), Session::Chat(witness)) => {
                    let reaction = witness.observe(&event, env);
                    self.note_resumed(&event);
                    self.react(reaction, &mut out, env);
                    self.remember_positions();
                }
                (Item::Event(event), Session::Outsider(outsider)) => outsider.observe(&event, env),
                (Item::Event(Event::Relay(frame)), Session::Relay(witness)) => {
                    let judged = witness.observe(&frame, env);
                    env.check(judged);
                }
                (item, _) => env.fail(|| format!("client {client} got {item:?}")),
            }
        }
        (out, None)
    }

    fn note_resumed(&mut self, event: &Event) {
        let (Event::Welcome { .. }, Session::Chat(witness)) = (event, &self.session) else { return };
        let Some(resume) = witness.resume.as_ref().filter(|resume| !resume.wrong_name) else { return };
        if self.lost.as_ref().is_some_and(|lost| lost.session == resume.lost.session) {
            self.lost = None;
        }
        if resume.resumed == Some(true) {
            self.replaced = Some(resume.lost.author);
            self.used = Some(Lost { fate: Fate::Gone, ..resume.lost.clone() });
        }
    }

    fn react(&mut self, reaction: Reaction, out: &mut Vec<Inbound>, env: &mut Env) {
        let Session::Chat(witness) = &mut self.session else { return };
        if witness.half_closed {
            return;
        }
        match reaction {
            Reaction::None => {}
            Reaction::Pong if self.mute => {}
            Reaction::Pong => out.push(Inbound::Command(Command { id: None, body: CommandBody::Pong })),
            Reaction::PresencePage { room, after } => {
                if !witness.member_of.contains(&room) {
                    return;
                }
                let Some(membership) = witness.views.get(&room).map(|view| view.membership) else { return };
                let asked = Asked::Presence { room, membership, after };
                let body = body_of(&asked, &self.user, env);
                out.push(Inbound::Command(Command { id: Some(witness.ask(asked)), body }));
            }
        }
    }

    fn remember_positions(&mut self) {
        if let Session::Chat(witness) = &self.session {
            for (&room, view) in &witness.views {
                self.positions.insert(room, (view.epoch, view.next - 1));
            }
        }
    }

    /// The connection is over; `reason` is the server's goodbye if there was one. `vanished`: the client left.
    pub fn ended(&mut self, reason: Option<CloseReason>, vanished: bool, env: &mut Env) {
        match std::mem::replace(&mut self.session, Session::None) {
            Session::Chat(witness) => {
                if witness.has_session() && !witness.is_imposter() {
                    self.lost = witness.lost(vanished, env);
                }
                self.keys.unsure.extend(witness.unsure_keys(env));
                witness.end(reason, env)
            }
            Session::Relay(witness) => witness.end(reason, env),
            Session::None | Session::Outsider(_) => {}
        }
        self.link = None;
    }
}

impl RelayWitness {
    fn observe(&mut self, frame: &Bytes, env: &mut Env) -> Result<(), String> {
        env.seen.relayed += 1;
        let number = env.truth.number(frame)?;
        let sent = &env.truth.sent[number];
        if sent.room != self.room {
            return Err(format!("{:?} got frame {number} of another room", self.author));
        }
        if sent.author == self.author && self.awaited.pop_first() != Some(number) {
            return Err(format!("{:?} did not get its frame {number} back in order", self.author));
        }
        match self.last.replace(number) {
            Some(last) => env.truth.follow(last, number),
            None => Ok(()),
        }
    }

    fn end(&self, reason: Option<CloseReason>, env: &mut Env) {
        let fair = match reason {
            None | Some(CloseReason::SlowConsumer | CloseReason::HeartbeatTimeout) => true,
            Some(CloseReason::Restart) => env.draining,
            Some(_) => false,
        };
        if !fair {
            env.fail(|| format!("relay {:?} was closed: {reason:?}", self.author));
        }
    }
}

/// Not the name of any user.
const IMPOSTER: &str = "imposter";
