//! Those who may not do everything: guests, strangers to most rooms, and rogues, whom a warden bans and mutes. What they
//! get and say is judged where the server lets it out.
//!
//! A ban or mute is held against the server once it is confirmed and a later message of the warden has been given its
//! place: whatever comes after that place came after the ban. Orders that were never answered may take effect at any
//! time, so nothing is expected any more of whom they are about.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hubbub::access::{Grants, Identity};
use hubbub::chat::auth;
use hubbub::ids::UserName;
use hubbub::message::command::{Command, CommandBody, HistoryFrom, Join, Measure, Publish};
use hubbub::message::event::{Event, Message, Reply, Role};
use hubbub::policy::Pattern;

use crate::client::Inbound;
use crate::env::Env;
use crate::talk::plain;
use crate::truth::{Author, What};

/// The users that are no ordinary ones, in a world that asks who everybody is.
pub const OUTSIDERS: [&str; 5] = ["guest", "stranger", "rogue-0", "rogue-1", "warden"];

/// Whom something is held against: the room, the user, and whether it is a ban or a mute.
pub type Against = (usize, &'static str, bool);

/// What must not happen from some place in a room on.
#[derive(Clone, Copy, Debug)]
pub struct Restraint {
    head: u64,
    life: u64,
    /// Until then it lasts for certain.
    until_unix_ms: u64,
}

/// What the outside of the server knows of restraints.
#[derive(Debug, Default)]
pub struct Restraints {
    held: BTreeMap<Against, Restraint>,
    /// Orders that were not answered.
    unsure: BTreeMap<Against, usize>,
}

/// One connection of an outsider.
#[derive(Debug)]
pub struct Outsider {
    pub author: Author,
    next_id: u64,
    /// What the warden has asked for.
    orders: BTreeMap<u64, Order>,
}

#[derive(Clone, Copy, Debug)]
struct Order {
    against: Against,
    imposes: bool,
    until_unix_ms: u64,
    done: bool,
    head: Option<u64>,
}

/// Who somebody with this token or name is.
pub fn identity(token: Option<&str>, name: Option<&str>, entropy: u128) -> Identity {
    let Some(user) = token else {
        return auth::identify(None, name, entropy).expect("clients have fair names");
    };
    let grant = match user {
        "guest" => ("*", Role::Guest),
        "stranger" => ("room-0", Role::Member),
        "warden" => ("*", Role::Host),
        _ => ("*", Role::Member),
    };
    let rooms = Some(Grants::new([(Pattern::new(grant.0), grant.1)]));
    Identity { proven: true, rooms, ..Identity::named(UserName::new(user).expect("a fair name")) }
}

pub fn is_outsider(user: &str) -> bool {
    OUTSIDERS.contains(&user)
}

impl Outsider {
    pub fn new(author: Author) -> Self {
        Self { author, next_id: 1, orders: BTreeMap::new() }
    }

    /// Does something, whether it may or not.
    pub fn act(&mut self, user: &str, env: &mut Env) -> Vec<Inbound> {
        let room = env.rng.below(env.plan.rooms.len());
        let name = || Cow::Owned(env.plan.rooms[room].as_str().to_owned());
        if user == "warden" {
            // One order after the other, so that most of them are answered before anything happens to the server.
            return if self.orders.is_empty() { self.rule(room, env) } else { Vec::new() };
        }
        let body = match env.rng.below(10) {
            0..4 => CommandBody::Join(Join { room: name(), history: 20, presence: true, ..Join::default() }),
            4..8 => self.message(room, env),
            8 => CommandBody::History { room: name(), from: HistoryFrom::Latest, limit: Some(20) },
            _ => {
                let room_name = name();
                let content = Cow::Owned(env.truth.write(plain(self.author, What::Signal, room, env), 8));
                CommandBody::Signal { room: room_name, content }
            }
        };
        vec![self.command(body)]
    }

    /// The warden bans or mutes somebody, or puts an end to it.
    fn rule(&mut self, room: usize, env: &mut Env) -> Vec<Inbound> {
        let name: Cow<'static, str> = Cow::Owned(env.plan.rooms[room].as_str().to_owned());
        let user = *env.rng.pick(&["rogue-0", "rogue-1"]);
        let against = (room, user, env.rng.chance(1, 2));
        let join = self.command(CommandBody::Join(Join { room: name.clone(), ..Join::default() }));
        if env.rng.chance(1, 6) {
            let user = Cow::Borrowed(user);
            let kick = CommandBody::Moderate { room: name, user, measure: Measure::Kick, for_ms: None };
            return vec![join, self.command(kick)];
        }
        if env.restraints.held.contains_key(&against) && env.rng.chance(3, 4) {
            let message = self.message(room, env);
            return vec![join, self.command(message)];
        }
        let lifts = env.restraints.held.contains_key(&against) && env.rng.chance(1, 2);
        let for_ms = env.rng.chance(1, 3).then(|| env.rng.range(2_000, 60_000));
        let until_unix_ms = for_ms.map_or(u64::MAX, |for_ms| (env.now.unix_ms + for_ms).saturating_sub(CLOCK_SLACK_MS));
        let measure = match (lifts, against.2) {
            (false, true) => Measure::Ban,
            (false, false) => Measure::Mute,
            (true, true) => Measure::Unban,
            (true, false) => Measure::Unmute,
        };
        // Whatever was known is open until this is answered.
        env.restraints.held.remove(&against);
        *env.restraints.unsure.entry(against).or_default() += 1;
        self.orders.retain(|_, order| order.against != against || !order.done);
        self.orders.values_mut().filter(|order| order.against == against).for_each(|order| order.imposes = false);
        let id = self.next_id;
        self.orders.insert(id, Order { against, imposes: !lifts, until_unix_ms, done: false, head: None });
        let order = CommandBody::Moderate { room: name, user: Cow::Borrowed(user), measure, for_ms };
        let (order, message) = (self.command(order), self.message(room, env));
        vec![join, order, self.command(message)]
    }

    /// Reads what has come.
    pub fn observe(&mut self, event: &Event, env: &mut Env) {
        let (id, head) = match event {
            Event::Ok { id: Some(id), body: Reply::Sent { seq, .. } } => (*id - 1, Some(seq.0)),
            Event::Ok { id: Some(id), .. } | Event::Error { id: Some(id), .. } => (*id, None),
            _ => return,
        };
        if let (Event::Error { .. }, Some(order)) = (event, self.orders.get_mut(&(id - 1))) {
            // The message behind the order was refused: nothing tells from where on the order holds.
            (order.imposes, order.head) = (false, Some(0));
            if order.done {
                self.orders.remove(&(id - 1));
            }
            return;
        }
        // The join before has an id that is nobody's order.
        let Some(order) = self.orders.get_mut(&id) else { return };
        match (event, head) {
            (_, Some(seq)) => order.head = Some(seq),
            (Event::Ok { .. }, None) => {
                order.done = true;
                env.restraints.answered(order.against);
            }
            _ => {
                env.restraints.answered(order.against);
                self.orders.remove(&id);
                return;
            }
        }
        let order = *order;
        if let (true, Some(head)) = (order.done, order.head) {
            self.orders.remove(&id);
            let (life, until_unix_ms) = (env.life, order.until_unix_ms);
            if order.imposes && !env.restraints.unsure.contains_key(&order.against) {
                env.seen.restraints += 1;
                env.restraints.held.insert(order.against, Restraint { head, life, until_unix_ms });
            }
        }
    }

    fn message(&mut self, room: usize, env: &mut Env) -> CommandBody<'static> {
        let content = Cow::Owned(env.truth.write(plain(self.author, What::Message, room, env), 20));
        let room = Cow::Owned(env.plan.rooms[room].as_str().to_owned());
        CommandBody::Message(Publish { room, content, key: None, tag: None, receipt: false, echo: true })
    }

    fn command(&mut self, body: CommandBody<'static>) -> Inbound {
        // The order's number comes right before its message's.
        let id = self.next_id;
        self.next_id += 1;
        Inbound::Command(Command { id: Some(id), body })
    }
}

impl Restraints {
    /// The server has started again: what it had not answered it will not do any more.
    pub fn restarted(&mut self) {
        self.unsure.clear();
    }

    fn answered(&mut self, against: Against) {
        if let Some(count) = self.unsure.get_mut(&against) {
            *count -= 1;
            if *count == 0 {
                self.unsure.remove(&against);
            }
        }
    }

    /// Whether a user is kept from what is at this place, by a ban or by a mute.
    fn holds(&self, room: usize, user: &str, ban: bool, seq: u64, env: &Env) -> bool {
        let mut held = self.held.iter().filter(|((of, whom, is_ban), _)| (*of, *whom, *is_ban) == (room, user, ban));
        held.any(|(_, restraint)| {
            // Rooms in memory begin anew with the server.
            let is_new = restraint.life != env.life && !env.plan.is_durable(room);
            env.now.unix_ms < restraint.until_unix_ms && (is_new || seq > restraint.head)
        })
    }
}

/// Judges a message that the server lets out: by who said it.
pub fn judge_sender(message: &Message, env: &mut Env) {
    let (Some(room), sender) = (env.room(&message.room), message.sender.as_str()) else { return };
    let restrained = [true, false].into_iter().any(|ban| env.restraints.holds(room, sender, ban, message.seq.0, env));
    let lacks = sender == "guest" || (sender == "stranger" && room != 0);
    if restrained || lacks {
        env.fail(|| format!("{sender} was heard in {room} at {}", message.seq.0));
    }
}

/// Judges an event on its way to somebody: by who gets it.
pub fn judge_receiver(author: Author, event: &Event, env: &mut Env) {
    let Some(user) = env.users.get(&author).map(|user| user.as_str().to_owned()).filter(|user| is_outsider(user))
    else {
        return;
    };
    let messages: Vec<(usize, u64)> = match event {
        Event::Message(message) | Event::Redelivered { message, .. } => {
            env.room(&message.room).map(|room| (room, message.seq.0)).into_iter().collect()
        }
        Event::Ok { body: Reply::History { room, messages, .. }, .. } => {
            let room = env.room(room);
            messages.iter().filter_map(|message| Some((room?, message.seq.0))).collect()
        }
        Event::Signal(signal) => {
            if signal.sender.as_str() == "guest" {
                env.fail(|| "a guest's signal was heard".into());
            }
            env.room(&signal.room).map(|room| (room, 0)).into_iter().collect()
        }
        Event::Presence(presence) => env.room(&presence.room).map(|room| (room, 0)).into_iter().collect(),
        Event::Kicked { .. } => {
            env.seen.put_out += 1;
            return;
        }
        _ => return,
    };
    for (room, seq) in messages {
        let is_banned = seq > 0 && env.restraints.holds(room, &user, true, seq, env);
        if is_banned || (user == "stranger" && room != 0) {
            env.fail(|| format!("{user} hears of {room} at {seq}"));
        }
    }
}

/// The wall clock may be set back so far.
const CLOCK_SLACK_MS: u64 = 1_500;
