//! The connection as this client lives through it: dial, greet, be online, be lost, wait, dial again. Pure.
//!
//! The shell hands in what it hears and the time; it takes [`Output`]s and a deadline, after which it calls [`Session::due`].
//! Every dial has a number, and what comes from an earlier one is passed over. What happens in rooms is in `talk`.
//!
//! Close codes from 4500 to 4999, and those that say that this client is wrong, end it for good (`docs/protocol.md`); after
//! anything else it comes back, with a backoff that doubles and has full jitter, or when the server said.

use std::collections::VecDeque;

use ahash::HashMap;
use serde_json::{Value, json};

use super::ending::{Ending, backoff_ms, close_text, is_final_code, refusal_text};
use super::outbox::Outbox;
use super::room::{Membership, Room};
use super::text;
use super::wire::Event;
use crate::clock::Time;

/// What stays the same while the program runs.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The user's name; with a token that names the user, none is needed.
    pub name: Option<String>,
    /// Rooms to enter at the start.
    pub rooms: Vec<String>,
    /// Whether to follow who comes and goes, and to enter the inbox.
    pub presence: bool,
    /// Messages to read back on entering a room.
    pub history: u64,
    /// Random: begins the key of each message, and spreads attempts to come back.
    pub seed: u64,
    /// Whether there is a token to show.
    pub has_token: bool,
    /// Whether a token that has expired may be replaced by a fresh one.
    pub renews_token: bool,
    /// Whether to dial again although the server was never reached.
    pub insists: bool,
}

/// What the session wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a connection with this number.
    Dial(u64),
    /// Send this text on it.
    Send(String),
    /// Close it.
    HangUp,
    /// This was said: room, sender and text, harmless, in the order of the room.
    Said { room: String, sender: String, text: String },
    /// How the connection and the rooms are, for those who do not see it.
    Status(String),
    /// A person should know this; of one room, or of all.
    Told { room: Option<String>, text: String },
    /// That room cannot be entered, or that cannot be done or said.
    Refused(String),
    /// A message was given up: which, and why.
    Unsent(String),
    /// There will be no other connection.
    Over,
}

/// What came from the connection.
#[derive(Clone, Debug)]
pub enum Heard {
    /// It is open. With the token as it is now.
    Opened(Option<String>),
    /// A text came.
    Text(String),
    /// A sign of life came that is no text.
    Alive,
    /// It is gone.
    Lost(Ending),
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun.
    Idle,
    /// A connection is being opened.
    Dialling,
    /// `connect` was sent.
    Greeting,
    /// `welcome` has come.
    Online,
    /// Waiting until then, monotonic milliseconds.
    Pausing(u64),
    /// Ended.
    Over,
}

/// A question to the server that is not answered yet.
#[derive(Clone, Debug)]
pub(super) enum Question {
    Connect,
    Join(String),
    Leave,
    Message(String),
    Page(String),
    Users { room: String, found: Vec<String>, aloud: bool },
    Rooms(Vec<String>),
    Act(String),
    Ping,
}

/// One user's connections, rooms and messages on their way.
#[derive(Debug)]
pub struct Session {
    pub(super) setup: Setup,
    pub(super) rooms: Vec<Room>,
    pub(super) outbox: Outbox,
    pub(super) outputs: VecDeque<Output>,
    /// When rooms that were refused for now are asked for again.
    pub(super) join_again_ms: Option<u64>,
    pub(super) phase: Phase,
    /// The user that the server knows us as.
    pub(super) me: String,
    /// Why it is not online, for people.
    why: String,
    /// The server has announced the end of this connection.
    closing: bool,
    retry_after_ms: Option<u64>,
    secret: Option<String>,
    /// Rooms that the server's session has.
    held: Vec<String>,
    asked: HashMap<u64, Question>,
    next_id: u64,
    next_key: u64,
    dial: u64,
    attempt: u32,
    was_online: bool,
    online_since_ms: u64,
    heard_ms: u64,
    heartbeat_ms: u64,
    probe_ms: Option<u64>,
    /// Longest command that the server takes; a longer one would cost the connection.
    message_bytes_max: usize,
    random: u64,
}

impl Session {
    /// Nothing happens before [`Session::start`].
    pub fn new(setup: Setup) -> Self {
        let rooms = setup.rooms.iter().map(|name| Room::new(name)).collect();
        let random = setup.seed;
        Self {
            setup,
            rooms,
            outbox: Outbox::default(),
            outputs: VecDeque::new(),
            join_again_ms: None,
            phase: Phase::Idle,
            me: String::new(),
            why: String::new(),
            closing: false,
            retry_after_ms: None,
            secret: None,
            held: Vec::new(),
            asked: HashMap::default(),
            next_id: 1,
            next_key: 1,
            dial: 0,
            attempt: 0,
            was_online: false,
            online_since_ms: 0,
            heard_ms: 0,
            heartbeat_ms: HEARTBEAT_MS,
            probe_ms: None,
            message_bytes_max: MESSAGE_BYTES_MAX,
            random,
        }
    }

    /// Where the connection stands, and why it is not online.
    pub fn phase(&self) -> (Phase, &str) {
        (self.phase, &self.why)
    }

    /// The user that the server knows us as; empty before the first welcome.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// The rooms, in the order in which they were entered.
    pub fn rooms(&self) -> &[Room] {
        &self.rooms
    }

    /// Messages on their way.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The next thing to do. Call it until there is none, after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Session::due`] wants to be called, monotonic milliseconds.
    pub fn deadline_ms(&self) -> Option<u64> {
        let waits = match self.phase {
            Phase::Pausing(until_ms) => Some(until_ms),
            Phase::Online => Some(match self.probe_ms {
                Some(asked_ms) => asked_ms + PROBE_MS,
                None => self.heard_ms + self.heartbeat_ms * 5 / 4,
            }),
            _ => None,
        };
        let online = matches!(self.phase, Phase::Online).then_some(());
        let others = online.into_iter().flat_map(|()| [self.join_again_ms, self.outbox.deadline_ms()]).flatten();
        waits.into_iter().chain(others).min()
    }

    /// Dials for the first time.
    pub fn start(&mut self) {
        self.dial();
    }

    /// Says goodbye, and does not come back.
    pub fn quit(&mut self) {
        if self.phase != Phase::Over {
            self.outputs.push_back(Output::HangUp);
            self.end(String::new());
        }
    }

    /// Something came from the connection with that number.
    pub fn heard(&mut self, dial: u64, heard: Heard, now: Time) {
        let is_live = matches!(self.phase, Phase::Dialling | Phase::Greeting | Phase::Online);
        if dial != self.dial || !is_live {
            return;
        }
        self.heard_ms = now.ms();
        self.probe_ms = None;
        match heard {
            Heard::Opened(token) => self.greet(token),
            Heard::Text(text) => {
                if let Some(event) = Event::parse(&text) {
                    self.event(event, now);
                }
            }
            Heard::Alive => {}
            Heard::Lost(ending) => self.lost(&ending, now),
        }
        self.send_waiting(now);
    }

    /// The time has come.
    pub fn due(&mut self, now: Time) {
        match (self.phase, self.probe_ms) {
            (Phase::Pausing(until_ms), _) if until_ms <= now.ms() => self.dial(),
            (Phase::Online, Some(asked_ms)) if asked_ms + PROBE_MS <= now.ms() => {
                self.outputs.push_back(Output::HangUp);
                self.lost(&Ending { why: "the connection went silent".to_owned(), ..Ending::default() }, now);
            }
            (Phase::Online, None) if self.heard_ms + self.heartbeat_ms * 5 / 4 <= now.ms() => {
                self.probe_ms = Some(now.ms());
                self.ask(Question::Ping, json!({"type": "ping"}));
            }
            _ => {}
        }
        if self.join_again_ms.is_some_and(|at_ms| at_ms <= now.ms()) {
            self.join_again_ms = None;
            self.join_wanted();
        }
        self.send_waiting(now);
    }

    /// Whether commands may be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Online && !self.closing
    }

    /// Sends a command and remembers what it was about.
    pub(super) fn ask(&mut self, question: Question, mut command: Value) {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = json!(id);
        self.asked.insert(id, question);
        self.outputs.push_back(Output::Send(command.to_string()));
    }

    pub(super) fn tell(&mut self, room: Option<&str>, said: &str) {
        let text = text::harmless_line(said, TOLD_BYTES_MAX);
        self.outputs.push_back(Output::Told { room: room.map(str::to_owned), text });
    }

    pub(super) fn status(&mut self, said: String) {
        self.outputs.push_back(Output::Status(said));
    }

    /// Whether everything that was asked has been answered, every room entered or refused and every message accepted or
    /// given up.
    pub fn is_settled(&self) -> bool {
        let is_settled = |room: &Room| matches!(room.membership, Membership::In | Membership::Out(_));
        self.phase == Phase::Online
            && self.asked.values().all(|question| matches!(question, Question::Ping))
            && self.outbox.owed() == 0
            && self.rooms.iter().all(is_settled)
    }

    /// Whether something of the past is still to come.
    pub fn is_replaying(&self) -> bool {
        self.rooms.iter().any(|room| room.replays_to.is_some())
    }

    /// A key that no other message of ours has.
    pub(super) fn fresh_key(&mut self) -> String {
        let key = format!("{}{}", self.key_prefix(), self.next_key);
        self.next_key += 1;
        key
    }

    /// How the keys of this program begin.
    pub(super) fn key_prefix(&self) -> String {
        format!("{:016x}-", self.setup.seed)
    }

    /// Sends what waits, as far as it may.
    pub(super) fn send_waiting(&mut self, now: Time) {
        while self.is_ready() {
            let rooms = &self.rooms;
            let is_in = |name: &str| rooms.iter().any(|room| room.name == name && room.membership == Membership::In);
            match self.outbox.next(now.ms(), |entry| entry.to.is_some() || is_in(&entry.room)) {
                None => break,
                Some(Ok((key, command))) if command.to_string().len() + ID_BYTES_MAX > self.message_bytes_max => {
                    let why = format!("it is longer than the {} bytes that this server takes", self.message_bytes_max);
                    if let Some(entry) = self.outbox.refused(&key, &why, false, now.ms()) {
                        self.unsent(&entry);
                    }
                }
                Some(Ok((key, command))) => self.ask(Question::Message(key), command),
                Some(Err(entry)) => self.unsent(&entry),
            }
        }
    }

    fn dial(&mut self) {
        self.dial += 1;
        self.phase = Phase::Dialling;
        self.outputs.push_back(Output::Dial(self.dial));
    }

    fn greet(&mut self, token: Option<String>) {
        self.phase = Phase::Greeting;
        let mut connect = json!({"type": "connect"});
        // A guest keeps the name that the server made up.
        let guest = Some(&self.me).filter(|me| token.is_none() && !me.is_empty());
        if let Some(name) = self.setup.name.as_ref().or(guest) {
            connect["name"] = json!(name);
        }
        if let Some(token) = token {
            connect["token"] = json!(token);
        }
        if let Some(secret) = &self.secret {
            let position = |room: &Room| {
                let (epoch, seq) = room.position().filter(|_| self.held.contains(&room.name))?;
                Some((room.name.clone(), json!({"epoch": epoch, "seq": seq})))
            };
            let positions: serde_json::Map<_, _> = self.rooms.iter().filter_map(position).collect();
            connect["resume"] = json!({"session": secret, "rooms": positions});
        }
        self.ask(Question::Connect, connect);
    }

    fn event(&mut self, event: Event, now: Time) {
        if let Some(question) = event.id.and_then(|id| self.asked.remove(&id)) {
            match question {
                Question::Connect => self.greeted(&event, now),
                question => self.answered(question, &event, now),
            }
            return;
        }
        match event.kind.as_str() {
            "ping" => self.outputs.push_back(Output::Send(json!({"type": "pong"}).to_string())),
            "closing" => {
                self.closing = true;
                self.retry_after_ms = event.retry_after_ms;
                let reason = text::harmless_line(event.reason.as_deref().unwrap_or("?"), TOLD_BYTES_MAX);
                self.why = format!("the server is closing ({reason})");
            }
            // Without a welcome there are no rooms: a refusal of the connection itself.
            "error" if self.phase != Phase::Online => self.greeted(&event, now),
            _ => self.push(&event, now),
        }
    }

    fn greeted(&mut self, event: &Event, now: Time) {
        if event.kind != "welcome" {
            let expired =
                event.code.as_deref() == Some("expired") && self.setup.renews_token && self.attempt < RENEWALS_MAX;
            let is_final = event.temporary != Some(true) && !expired;
            self.outputs.push_back(Output::HangUp);
            self.lost(&Ending { code: None, why: refusal_text(event, self.setup.has_token), is_final }, now);
            return;
        }
        self.me = text::harmless_line(event.user.as_deref().unwrap_or_default(), TOLD_BYTES_MAX);
        self.secret.clone_from(&event.session);
        self.heartbeat_ms = event.heartbeat_ms.unwrap_or(HEARTBEAT_MS).clamp(1_000, 3_600_000);
        let limit = event.limits.as_ref().and_then(|limits| limits.get("message_bytes")?.as_u64());
        self.message_bytes_max = limit.map_or(MESSAGE_BYTES_MAX, |bytes| bytes as usize);
        self.phase = Phase::Online;
        self.online_since_ms = now.ms();
        self.why.clear();
        let said = if self.was_online { "connected again as" } else { "connected as" };
        self.was_online = true;
        self.status(format!("{said} {}", self.me));
        self.begin_rooms(event.resumed == Some(true));
    }

    /// Enters all rooms, but for those that come back by themselves.
    fn begin_rooms(&mut self, resumed: bool) {
        let inbox = format!("@{}", self.me);
        if self.setup.presence && !self.rooms.iter().any(|room| room.name == inbox) {
            self.rooms.push(Room::new(&inbox));
        }
        if resumed {
            for room in &mut self.rooms {
                if self.held.contains(&room.name) && room.membership == Membership::Wanted {
                    room.membership = Membership::Joining;
                }
            }
        }
        self.held.clear();
        self.join_wanted();
    }

    fn lost(&mut self, ending: &Ending, now: Time) {
        let lasted = self.phase == Phase::Online && now.ms().saturating_sub(self.online_since_ms) >= STABLE_MS;
        if lasted || self.closing {
            self.attempt = 0;
        }
        for room in &mut self.rooms {
            if room.membership == Membership::In {
                self.held.push(room.name.clone());
            }
            if matches!(room.membership, Membership::In | Membership::Joining) {
                room.membership = Membership::Wanted;
            }
            room.interrupted();
        }
        self.asked.clear();
        self.outbox.lost();
        self.probe_ms = None;
        self.join_again_ms = None;
        let announced = std::mem::take(&mut self.closing);
        let retry_after_ms = self.retry_after_ms.take();
        let reason = text::harmless_line(&ending.why, TOLD_BYTES_MAX);
        let why = ending.code.and_then(close_text).map_or(reason.clone(), str::to_owned);
        let gives_up = !self.was_online && !self.setup.insists && !announced;
        if ending.is_final || gives_up || ending.code.is_some_and(is_final_code) {
            let shown = if ending.code.is_some_and(|code| close_text(code).is_none()) && reason.is_empty() {
                format!("the server closed the connection with code {}", ending.code.unwrap_or_default())
            } else {
                why
            };
            self.status(shown.clone());
            self.end(shown);
            return;
        }
        let first = retry_after_ms.filter(|_| self.attempt == 0).map(|ms| ms.min(RETRY_AFTER_MS_MAX));
        let random = self.random();
        let delay_ms = first.unwrap_or_else(|| backoff_ms(self.attempt, random));
        if self.attempt == 0 || self.why != why {
            self.status(format!("{why}: trying again"));
        }
        self.why = why;
        self.attempt += 1;
        self.phase = Phase::Pausing(now.ms() + delay_ms);
    }

    /// Numbers that look random enough to spread clients: the generator of MMIX (D. Knuth, TAOCP 2, 3.3.4).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 20
    }

    fn end(&mut self, why: String) {
        self.why = why;
        self.phase = Phase::Over;
        self.outputs.push_back(Output::Over);
    }
}

/// Longest time that a server may name.
const RETRY_AFTER_MS_MAX: u64 = 5 * 60 * 1_000;
/// A connection that lasted this long was a good one: the next attempt begins without a history of failures.
const STABLE_MS: u64 = 5_000;
const HEARTBEAT_MS: u64 = 30_000;
/// The default of servers.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// What an `id` adds to a command.
const ID_BYTES_MAX: usize = 32;
const PROBE_MS: u64 = 10_000;
/// How often a token file that holds an expired token is looked at again.
const RENEWALS_MAX: u32 = 6;
const TOLD_BYTES_MAX: usize = 4 * 1024;
