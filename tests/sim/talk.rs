//! What clients say: the commands of the protocol, chosen at random, with what the witness must know to judge the
//! replies.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hubbub::ids::{Epoch, Seq};
use hubbub::message::close::ErrorCode;
use hubbub::message::command::{Command, CommandBody, Connect, HistoryFrom, Join, Position, Publish};
use hubbub::message::event::Role;

use crate::client::{Inbound, Keys};
use crate::env::Env;
use crate::truth::{Author, Sent, What};
use crate::witness::{Asked, JoinAsked, Witness, dead_letters};

/// One client's turn to speak.
pub struct Talk<'a> {
    pub witness: &'a mut Witness,
    pub positions: &'a BTreeMap<usize, (Epoch, u64)>,
    pub keys: &'a mut Keys,
    pub user: &'a str,
    pub out: Vec<Inbound>,
}

/// What a message carries beside its content.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    pub tag: Option<String>,
    pub key: Option<String>,
    pub echo: bool,
}

impl Talk<'_> {
    pub fn decide(&mut self, env: &mut Env) {
        if !self.witness.connected {
            if env.rng.chance(1, 6) {
                self.refused(CommandBody::Ping, ErrorCode::Unauthorized, env);
            }
            if env.rng.chance(1, 30) {
                return;
            }
            self.ask(Asked::Connect, env);
            self.witness.connected = true;
        }
        if let Some(resume) = self.witness.resume.as_ref().filter(|resume| resume.resumed.is_none()) {
            let rooms = resume.lost.rooms.keys().copied().collect();
            return self.pipeline(rooms, env);
        }
        if env.plan.store.unreadable > 0 && (0..env.plan.rooms.len()).any(|room| !self.witness.is_settled(room)) {
            // What is said before a join is refused is refused as well; that would hide too much.
            return;
        }
        let (here, uncertain) = (self.witness.member_of.clone(), self.witness.uncertain());
        let here: Vec<usize> = here.into_iter().filter(|room| !uncertain.contains(room)).collect();
        let is_elsewhere = |room: &usize| !here.contains(room) && !uncertain.contains(room);
        let elsewhere: Vec<usize> = (0..env.plan.rooms.len()).filter(is_elsewhere).collect();
        if here.is_empty() && elsewhere.is_empty() {
            return;
        }
        if here.is_empty() || (!elsewhere.is_empty() && env.rng.chance(1, 8)) {
            let room = *env.rng.pick(&elsewhere);
            return self.join(room, env);
        }
        let room = *env.rng.pick(&here);
        if self.consumes(room) && env.rng.chance(2, 5) {
            return self.acknowledge(room, env);
        }
        if env.rng.chance(4, env.plan.restlessness) {
            match env.rng.below(3) {
                0 => return self.leave(room, env),
                _ if !elsewhere.is_empty() => return self.switch(room, *env.rng.pick(&elsewhere), env),
                _ => {}
            }
        }
        match env.rng.below(100) {
            0..62 => self.message_at_random(room, env),
            62..72 => self.signal(room, env),
            72..79 => self.delete(room, env),
            79..83 => self.history(room, env),
            83..87 => self.users(room, env),
            87..89 => self.rooms(env),
            89..91 => self.ask(Asked::Ping, env),
            91..93 if !elsewhere.is_empty() => self.trespass(*env.rng.pick(&elsewhere), env),
            93 => self.nonsense(&here, env),
            act if act + env.plan.bursts >= 100 => {
                let count = env.rng.range(20, 90);
                for _ in 0..count {
                    self.message_at_random(room, env);
                }
            }
            _ => {}
        }
    }

    /// Asks what waits until the session has come.
    fn pipeline(&mut self, rooms: Vec<usize>, env: &mut Env) {
        if rooms.is_empty() || env.rng.chance(1, 2) {
            return self.ask(Asked::Ping, env);
        }
        let room = *env.rng.pick(&rooms);
        self.message(room, Labels { tag: None, key: None, echo: true }, true, env);
    }

    fn ask(&mut self, asked: Asked, env: &mut Env) {
        let body = body_of(&asked, self.user, env);
        let id = self.witness.ask(asked);
        self.out.push(Inbound::Command(Command { id: Some(id), body }));
    }

    /// A command whose refusal is certain, with or without `id`.
    fn refused(&mut self, body: CommandBody<'static>, code: ErrorCode, env: &mut Env) {
        let id = if env.rng.chance(1, 2) {
            Some(self.witness.ask(Asked::Refused(code)))
        } else {
            self.witness.errors_due += 1;
            None
        };
        self.out.push(Inbound::Command(Command { id, body }));
    }

    fn join_asked(&self, room: usize, env: &mut Env) -> JoinAsked {
        let stored = env.store.log_of(&env.plan.rooms[room]).map(|(epoch, _)| epoch);
        let mut asked = JoinAsked { room, presence: env.rng.chance(1, 2), stored, ..JoinAsked::default() };
        match (env.rng.below(8), self.positions.get(&room)) {
            (0, _) => asked.since = Some(Position { epoch: Epoch(env.rng.next_u64()), seq: Seq(env.rng.range(0, 9)) }),
            (1, Some((epoch, seq))) => {
                asked.since = Some(Position { epoch: *epoch, seq: Seq(seq + env.rng.range(0, 50)) });
            }
            (2..5, Some((epoch, seq))) => asked.since = Some(Position { epoch: *epoch, seq: Seq(*seq) }),
            (5, Some((epoch, seq))) => {
                // Somebody who was away for long.
                asked.since = Some(Position { epoch: *epoch, seq: Seq(seq.saturating_sub(env.rng.range(0, 120))) });
            }
            (6, _) => asked.history = env.rng.range(1, 150),
            _ => {}
        }
        if env.plan.is_durable(room) && env.rng.chance(1, 3) {
            asked.ack = true;
            asked.dead = dead_letters(room, self.user, env);
            asked.note_consumer(self.user, env);
        } else if env.rng.chance(1, 6) {
            asked.tags = vec![format!("t{}", env.rng.below(2))];
        }
        asked
    }

    fn join(&mut self, room: usize, env: &mut Env) {
        let asked = self.join_asked(room, env);
        self.witness.member_of.insert(room);
        self.ask(Asked::Join(asked), env);
    }

    fn leave(&mut self, room: usize, env: &mut Env) {
        self.witness.member_of.remove(&room);
        self.witness.has_left.insert(room);
        let is_coming = self.witness.url_joins.contains(&room) || self.witness.is_coming_back(room);
        if is_coming || self.consumes(room) || env.rng.chance(3, 4) {
            return self.ask(Asked::Leave { room }, env);
        }
        // Without `id` there is no `ok`, so the client sees the end of it only when it joins again.
        self.witness.leave_silently(room);
        let body = CommandBody::Leave { room: name(room, env) };
        self.out.push(Inbound::Command(Command { id: None, body }));
    }

    /// Whether it acknowledges what it gets there, or will.
    fn consumes(&self, room: usize) -> bool {
        let asked = self
            .witness
            .asked
            .values()
            .any(|asked| matches!(asked, Asked::Join(to) | Asked::Switch { to, .. } if to.room == room && to.ack));
        asked || self.witness.views.get(&room).is_some_and(|view| view.fed.is_some())
    }

    /// Some clients acknowledge often, some seldom, some never.
    fn acknowledge(&mut self, room: usize, env: &mut Env) {
        let Some(view) = self.witness.views.get(&room).filter(|view| !view.leaving) else { return };
        let Some(fed) = view.fed.as_ref().filter(|fed| !fed.delivered.is_empty()) else { return };
        if !env.rng.chance(self.witness.author.client % 3, 3) || !self.witness.is_settled(room) {
            return;
        }
        let delivered: Vec<u64> = fed.delivered.keys().copied().collect();
        let epoch = view.epoch;
        let seq = if env.rng.chance(1, 2) { delivered[delivered.len() - 1] } else { *env.rng.pick(&delivered) };
        let letter = fed.letters.contains(&seq);
        let Some(user) = self.witness.user.clone() else { return };
        let consumed = env.consumed.entry((room, user)).or_default();
        consumed.ack_sent = consumed.ack_sent.max(seq);
        if env.rng.chance(1, 4) {
            let body = CommandBody::Ack { room: name(room, env), seq: Seq(seq) };
            return self.out.push(Inbound::Command(Command { id: None, body }));
        }
        self.ask(Asked::Ack { room, epoch, seq, letter }, env);
    }

    fn switch(&mut self, from: usize, to: usize, env: &mut Env) {
        let to = self.join_asked(to, env);
        self.witness.member_of.remove(&from);
        self.witness.has_left.insert(from);
        self.witness.member_of.insert(to.room);
        self.ask(Asked::Switch { from, to }, env);
    }

    fn message_at_random(&mut self, room: usize, env: &mut Env) {
        let tag = env.rng.chance(1, 4).then(|| format!("t{}", env.rng.below(3)));
        let echo = !env.rng.chance(1, 12);
        let with_id = env.rng.chance(2, 3);
        let key = self.key(room, env);
        self.message(room, Labels { tag, key, echo }, with_id, env);
    }

    /// No key, a new one, one whose fate is unknown, or one that was used before.
    fn key(&mut self, room: usize, env: &mut Env) -> Option<String> {
        let unsure = self.keys.unsure.iter().position(|(of, _)| *of == room);
        if let Some(at) = unsure.filter(|_| env.rng.chance(1, 2)) {
            env.seen.sent_again += 1;
            return Some(self.keys.unsure.swap_remove(at).1);
        }
        if !env.rng.chance(1, 5) {
            return None;
        }
        let used: Vec<&String> = self.keys.used.iter().filter(|(of, _)| *of == room).map(|(_, key)| key).collect();
        if !used.is_empty() && env.rng.chance(1, 3) {
            return Some((*env.rng.pick(&used)).clone());
        }
        let key = format!("k{}", env.truth.sent.len());
        self.keys.used.push((room, key.clone()));
        Some(key)
    }

    pub fn message(&mut self, room: usize, labels: Labels, with_id: bool, env: &mut Env) {
        let Labels { tag, key, echo } = labels;
        if !echo {
            self.witness.no_echo.insert(room);
        }
        let number = env.truth.sent.len();
        let author = self.witness.author;
        let again = key.as_ref().is_some_and(|key| *key != format!("k{number}"));
        let plain = plain(author, What::Message, room, env);
        let sent = Sent { tag: tag.clone(), key: key.clone(), echo, again, ..plain };
        let padding = env.rng.below(120);
        let content = Cow::Owned(env.truth.write(sent, padding));
        let id = with_id.then(|| self.witness.ask(Asked::Message { room, number }));
        let (key, tag) = (key.map(Cow::Owned), tag.map(Cow::Owned));
        let body = CommandBody::Message(Publish { room: name(room, env), content, key, tag, receipt: false, echo });
        self.out.push(Inbound::Command(Command { id, body }));
    }

    fn signal(&mut self, room: usize, env: &mut Env) {
        let number = env.truth.sent.len();
        let author = self.witness.author;
        let sent = plain(author, What::Signal, room, env);
        let content = Cow::Owned(env.truth.write(sent, 8));
        let id = env.rng.chance(3, 4).then(|| self.witness.ask(Asked::Signal { room, number }));
        self.out.push(Inbound::Command(Command { id, body: CommandBody::Signal { room: name(room, env), content } }));
    }

    /// Deletes a message that this membership has read: its own, or anyone's.
    fn delete(&mut self, room: usize, env: &mut Env) {
        // The role counts when the command arrives, so nothing may be on its way that could change it.
        if !self.witness.is_settled(room) {
            return;
        }
        let Some(view) = self.witness.views.get(&room).filter(|view| !view.leaving) else { return };
        let readable: Vec<u64> = view.readable.iter().copied().collect();
        if readable.is_empty() {
            return;
        }
        let seq = *env.rng.pick(&readable);
        let place = env.truth.places.get(&(room, view.epoch.0, seq));
        let own = place.is_some_and(|place| Some(&place.sender) == self.witness.user.as_ref());
        let allowed = own || view.role == Role::Host;
        self.ask(Asked::Delete { room, seq, allowed }, env);
    }

    fn history(&mut self, room: usize, env: &mut Env) {
        let seq = Seq(env.rng.range(0, 60));
        let from = *env.rng.pick(&[HistoryFrom::Latest, HistoryFrom::Before(seq), HistoryFrom::After(seq)]);
        let limit = env.rng.range(1, 40) as usize;
        self.ask(Asked::History { room, from, limit }, env);
    }

    fn users(&mut self, room: usize, env: &mut Env) {
        let membership = self.witness.views.get(&room).map_or(0, |view| view.membership);
        self.ask(Asked::Presence { room, membership, after: None }, env);
    }

    /// Acts where it is not a member.
    fn trespass(&mut self, room: usize, env: &mut Env) {
        let room = name(room, env);
        let content = Cow::Borrowed(&b"\"0 never\""[..]);
        let body = match env.rng.below(7) {
            0 => CommandBody::Leave { room },
            1 => CommandBody::Signal { room, content },
            2 => CommandBody::Delete { room, seq: Seq(1) },
            3 => CommandBody::History { room, from: HistoryFrom::Latest, limit: None },
            4 => CommandBody::Presence { room, after: None, limit: None },
            5 => CommandBody::Switch { from: room, to: Join { room: Cow::Borrowed("nowhere"), ..Join::default() } },
            _ => {
                let publish = Publish { room, content, key: None, tag: None, receipt: false, echo: true };
                CommandBody::Message(publish)
            }
        };
        self.refused(body, ErrorCode::NotMember, env);
    }

    /// Asks for what makes no sense: it is told so, and stays where it is.
    fn nonsense(&mut self, here: &[usize], env: &mut Env) {
        // Out of a room that it consumes it may be put any time, and could join it again.
        let here: Vec<usize> = here.iter().copied().filter(|room| !self.consumes(*room)).collect();
        if here.is_empty() {
            return;
        }
        let again = Join { room: name(*env.rng.pick(&here), env), ..Join::default() };
        let body = match env.rng.below(5) {
            0 => CommandBody::Join(Join { room: Cow::Borrowed("no\tname"), ..Join::default() }),
            1 => CommandBody::Join(again),
            2 => CommandBody::Switch { from: name(*env.rng.pick(&here), env), to: again },
            3 => CommandBody::Connect(Connect { name: Some(Cow::Borrowed("somebody else")), ..Connect::default() }),
            _ => {
                let id = self.witness.ask(Asked::Refused(ErrorCode::UnknownType));
                return self.out.push(Inbound::Bad { id: Some(id), code: ErrorCode::UnknownType });
            }
        };
        self.refused(body, ErrorCode::BadRequest, env);
    }

    /// Asks for a page of the rooms, from the beginning or from anywhere.
    fn rooms(&mut self, env: &mut Env) {
        let after = env.rng.chance(1, 2).then(|| format!("room-{}", env.rng.below(3)));
        let limit = env.rng.range(1, 5) as usize;
        self.ask(Asked::Rooms { after, limit }, env);
    }
}

/// Something sent with nothing special about it.
pub fn plain(author: Author, what: What, room: usize, env: &Env) -> Sent {
    let (tag, key, echo, step) = (None, None, true, env.step);
    Sent { author, what, room, tag, key, echo, step, accepted: false, again: false, duplicate: false }
}

fn name(room: usize, env: &Env) -> Cow<'static, str> {
    Cow::Owned(env.plan.rooms[room].as_str().to_owned())
}

/// The command that asks this.
pub fn body_of(asked: &Asked, user: &str, env: &Env) -> CommandBody<'static> {
    match asked {
        Asked::Connect => {
            CommandBody::Connect(Connect { name: Some(Cow::Owned(user.to_owned())), ..Connect::default() })
        }
        Asked::Join(join) => CommandBody::Join(join_body(join, env)),
        Asked::Leave { room } => CommandBody::Leave { room: name(*room, env) },
        Asked::Switch { from, to } => CommandBody::Switch { from: name(*from, env), to: join_body(to, env) },
        Asked::Delete { room, seq, .. } => CommandBody::Delete { room: name(*room, env), seq: Seq(*seq) },
        Asked::History { room, from, limit } => {
            CommandBody::History { room: name(*room, env), from: *from, limit: Some(*limit as u64) }
        }
        Asked::Presence { room, after, .. } => {
            let after = after.as_ref().map(|after| Cow::Owned(after.as_str().to_owned()));
            CommandBody::Presence { room: name(*room, env), after, limit: Some(PRESENCE_PAGE) }
        }
        Asked::Rooms { after, limit } => {
            CommandBody::Rooms { after: after.clone().map(Cow::Owned), limit: Some(*limit as u64) }
        }
        Asked::Ping => CommandBody::Ping,
        Asked::Ack { room, seq, .. } => CommandBody::Ack { room: name(*room, env), seq: Seq(*seq) },
        Asked::Message { .. } | Asked::Signal { .. } | Asked::Refused(_) => {
            unreachable!("these are made where their content is")
        }
    }
}

fn join_body(join: &JoinAsked, env: &Env) -> Join<'static> {
    Join {
        room: name(join.room, env),
        since: join.since,
        history: join.history,
        ack: join.ack,
        tags: join.tags.iter().cloned().map(Cow::Owned).collect(),
        presence: join.presence,
    }
}

/// Small, so that most rooms need several.
const PRESENCE_PAGE: u64 = 3;
