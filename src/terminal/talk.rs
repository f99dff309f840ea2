//! What happens in rooms: entering and leaving, messages, pages of the past, who is here, and what hosts do. Pure.

use serde_json::{Value, json};

use super::outbox::Entry;
use super::room::{Membership, Older, Room, USERS_MAX, What};
use super::session::{Output, Question, Session};
use super::text;
use super::wire::Event;
use crate::clock::Time;

impl Session {
    /// A room by its name.
    pub fn room(&self, name: &str) -> Option<&Room> {
        self.rooms.iter().find(|room| room.name == name)
    }

    /// A room that is looked at: nothing in it is unread any more.
    pub fn looked_at(&mut self, name: &str) {
        if let Some(room) = self.room_mut(name) {
            room.unread = 0;
        }
    }

    /// Puts a notice into a room.
    pub fn notice(&mut self, name: &str, said: &str, now: Time) {
        if let Some(room) = self.room_mut(name) {
            room.notice(said, now.unix_ms);
        }
    }

    /// Enters a room; again, if it was refused before.
    pub fn join(&mut self, name: &str) {
        let is_full = self.rooms.len() >= ROOMS_MAX;
        match self.room_mut(name) {
            None if is_full => self.tell(None, "you are in too many rooms: /leave one first"),
            None => self.rooms.push(Room::new(name)),
            Some(room) if matches!(room.membership, Membership::Out(_)) => {
                room.membership = Membership::Wanted;
                room.announced = false;
            }
            Some(_) => {}
        }
        self.join_wanted();
    }

    /// Leaves a room and forgets what was in it.
    pub fn leave(&mut self, name: &str) {
        let Some(at) = self.rooms.iter().position(|room| room.name == name) else {
            self.tell(None, &format!("you are not in {name}"));
            return;
        };
        for entry in self.outbox.give_up(name, "you left the room") {
            self.unsent(&entry);
        }
        self.outbox.forget_failed(name);
        let room = self.rooms.remove(at);
        if self.is_ready() && matches!(room.membership, Membership::In | Membership::Joining) {
            self.ask(Question::Leave, json!({"type": "leave", "room": name}));
        }
    }

    /// Says something in a room; it is sent when that is possible. Says whether it was taken.
    pub fn say(&mut self, room: &str, said: &str, now: Time) -> bool {
        match self.room(room).map(|room| &room.membership) {
            None => self.cannot_say(said, &format!("you are not in {room}: /join it first")),
            Some(Membership::Out(why)) => {
                let why = why.clone();
                self.cannot_say(said, &why);
            }
            Some(_) if room.starts_with('@') => {
                self.cannot_say(said, "this is what others say to you alone: answer with /msg USER TEXT");
            }
            Some(_) => return self.put(room, None, said, now),
        }
        false
    }

    /// Says something to one user, whether here or not.
    pub fn direct(&mut self, to: &str, said: &str, now: Time) -> bool {
        self.put(&format!("@{}", self.me), Some(to.to_owned()), said, now)
    }

    /// Removes a message: this one, or one's own last.
    pub fn delete(&mut self, room: &str, seq: Option<u64>) {
        let Some(seq) = seq.or_else(|| self.room(room)?.last_of(&self.me)) else {
            self.tell(Some(room), "nothing of yours is here");
            return;
        };
        let what = format!("deleted message {seq}");
        self.act(room, what, json!({"type": "delete", "room": room, "seq": seq}));
    }

    /// Does something as a host: `kick`, `ban`, `unban`, `mute`, `unmute`.
    pub fn moderate(&mut self, room: &str, action: &str, user: &str, for_ms: Option<u64>) {
        let mut command = json!({"type": action, "room": room, "user": user});
        if let Some(for_ms) = for_ms {
            command["for_ms"] = json!(for_ms);
        }
        self.act(room, format!("{action} {user}"), command);
    }

    /// Closes a room as its host.
    pub fn close(&mut self, room: &str) {
        self.act(room, format!("close {room}"), json!({"type": "close", "room": room}));
    }

    /// Asks who is in a room, in order to tell.
    pub fn who(&mut self, room: &str) {
        self.read_users(room, None, Vec::new(), true);
    }

    /// Asks which rooms there are, in order to tell.
    pub fn list_rooms(&mut self) {
        self.read_rooms(None, Vec::new());
    }

    /// Reads what was before the first item of a room, if there is more.
    pub fn read_older(&mut self, name: &str) {
        let is_ready = self.is_ready();
        let Some(room) = self.room_mut(name) else { return };
        if !is_ready || room.membership != Membership::In || room.older != Older::More {
            return;
        }
        room.older = Older::Loading;
        let mut command = json!({"type": "history", "room": name, "limit": PAGE});
        if let Some(first) = room.first_seq() {
            command["before"] = json!(first);
        }
        self.ask(Question::Page(name.to_owned()), command);
    }

    /// Asks to be let into all rooms that are wanted.
    pub(super) fn join_wanted(&mut self) {
        if !self.is_ready() {
            return;
        }
        let wanted: Vec<usize> =
            (0..self.rooms.len()).filter(|at| self.rooms[*at].membership == Membership::Wanted).collect();
        for at in wanted {
            let room = &mut self.rooms[at];
            room.membership = Membership::Joining;
            let mut command = json!({"type": "join", "room": room.name});
            match room.position() {
                Some((epoch, seq)) => command["since"] = json!({"epoch": epoch, "seq": seq}),
                None if self.setup.history > 0 => command["history"] = json!(self.setup.history),
                None => {}
            }
            if self.setup.presence && !room.is_inbox() {
                command["presence"] = json!(true);
            }
            let name = room.name.clone();
            self.ask(Question::Join(name), command);
        }
    }

    pub(super) fn answered(&mut self, question: Question, event: &Event, now: Time) {
        let is_ok = event.kind == "ok";
        match question {
            Question::Join(name) if is_ok => self.entered(&name, event),
            Question::Join(name) => self.not_entered(&name, event, now),
            Question::Message(key) if is_ok => self.accepted(&key, event, now),
            Question::Message(key) => {
                let temporary = event.temporary == Some(true);
                if let Some(entry) = self.outbox.refused(&key, &event.why(), temporary, now.ms()) {
                    self.unsent(&entry);
                }
            }
            Question::Page(name) => {
                let Some(room) = self.room_mut(&name) else { return };
                let messages = event.messages.as_deref().unwrap_or_default();
                room.page(messages, is_ok && event.more == Some(true));
            }
            Question::Users { room, found, aloud } if is_ok => self.users(&room, found, aloud, event),
            Question::Users { room, aloud: true, .. } => {
                let said = format!("cannot tell who is here: {}", event.why());
                self.tell(Some(&room), &said);
            }
            Question::Rooms(found) if is_ok => self.listed(found, event),
            Question::Rooms(_) => self.tell(None, &format!("cannot list the rooms: {}", event.why())),
            Question::Act(what) if is_ok => self.tell(None, &format!("done: {what}")),
            Question::Act(what) => {
                self.tell(None, &format!("refused: {what}: {}", event.why()));
                self.outputs.push_back(Output::Refused(what));
            }
            _ => {}
        }
    }

    /// What the server says by itself.
    pub(super) fn push(&mut self, event: &Event, now: Time) {
        if event.kind == "error" {
            self.tell(None, &event.why());
            // One of the session's rooms was refused, and it is not said which.
            for room in self.rooms.iter_mut().filter(|room| room.membership == Membership::Joining) {
                room.membership = Membership::Wanted;
            }
            self.join_wanted();
            return;
        }
        let Some(name) = event.room.clone() else { return };
        if self.room(&name).is_none() {
            // Left while there was no connection, and the session did not know.
            if event.kind == "ok" && self.is_ready() {
                self.ask(Question::Leave, json!({"type": "leave", "room": name}));
            }
            return;
        }
        match event.kind.as_str() {
            "ok" => self.entered(&name, event),
            "message" => self.said(&name, event),
            "deleted" => self.with(&name, |room| event.seq.map_or((), |seq| room.deleted(seq))),
            "presence" => self.presence(&name, event, now),
            "gap" => {
                let (from, to) = (event.from.unwrap_or(0), event.to.unwrap_or(0));
                let said = format!("{} messages were skipped here", to.saturating_sub(from).saturating_add(1));
                self.tell(Some(&name), &said);
            }
            "kicked" => self.put_out(&name, &format!("you were removed from {name}{}", because(event))),
            "closed" => self.put_out(&name, &format!("{name} was closed{}", because(event))),
            _ => {}
        }
    }

    /// A message was given up.
    pub(super) fn unsent(&mut self, entry: &Entry) {
        if let super::outbox::State::Failed(why) = &entry.state {
            self.outputs.push_back(Output::Unsent(unsent_text(&entry.text, why)));
        }
    }

    /// A message was not taken, so it is in no room to be seen there.
    pub(super) fn cannot_say(&mut self, said: &str, why: &str) {
        let text = unsent_text(said, why);
        self.tell(None, &text);
        self.outputs.push_back(Output::Refused(text));
    }

    fn put(&mut self, room: &str, to: Option<String>, said: &str, now: Time) -> bool {
        self.outbox.forget_failed(room);
        let key = self.fresh_key();
        if !self.outbox.push(key, room, to, said.to_owned()) {
            self.cannot_say(said, "too many messages wait to be sent");
            return false;
        }
        self.send_waiting(now);
        true
    }

    fn act(&mut self, room: &str, what: String, command: Value) {
        if self.is_ready() {
            self.ask(Question::Act(what), command);
        } else {
            self.no_connection(Some(room));
        }
    }

    fn entered(&mut self, name: &str, ok: &Event) {
        let replays = self.setup.history > 0;
        let (presence, wants_page) = (self.setup.presence, self.setup.presence || self.setup.history > 0);
        let Some(room) = self.room_mut(name) else { return };
        let was_announced = std::mem::replace(&mut room.announced, true);
        let missed = room.entered(ok, replays);
        let members = room.members;
        if ok.recovered == Some(false) {
            self.tell(Some(name), "some messages may be missing here: the server could not replay all of them");
        } else if !was_announced {
            self.status(format!("in {}, {} here", text::harmless_line(name, WHY_BYTES_MAX), people(members)));
        }
        if missed && wants_page {
            self.with(name, |room| room.older = Older::Loading);
            self.ask(Question::Page(name.to_owned()), json!({"type": "history", "room": name, "limit": PAGE}));
        }
        if presence && !name.starts_with('@') {
            self.read_users(name, None, Vec::new(), false);
        }
    }

    fn not_entered(&mut self, name: &str, event: &Event, now: Time) {
        let why = text::harmless_line(&event.why(), WHY_BYTES_MAX);
        if event.temporary == Some(true) {
            self.with(name, |room| room.membership = Membership::Wanted);
            self.join_again_ms = Some(now.ms() + JOIN_AGAIN_MS);
            self.tell(Some(name), &format!("cannot enter {name} yet: {why}"));
            return;
        }
        self.put_out(name, &format!("cannot enter {name}: {why}"));
        self.outputs.push_back(Output::Refused(name.to_owned()));
    }

    fn put_out(&mut self, name: &str, why: &str) {
        self.with(name, |room| room.membership = Membership::Out(text::harmless_line(why, WHY_BYTES_MAX)));
        self.tell(Some(name), why);
        for entry in self.outbox.give_up(name, "you are not in the room") {
            self.unsent(&entry);
        }
    }

    /// Our message has its place; its echo may still be on the way.
    fn accepted(&mut self, key: &str, ok: &Event, now: Time) {
        let Some(entry) = self.outbox.accepted(key) else { return };
        let (content, sender) = match &entry.to {
            None => (entry.text.clone(), self.me.clone()),
            Some(to) => (format!("→ {to}: {}", entry.text), self.me.clone()),
        };
        let direct = entry.to.is_some();
        self.with(&entry.room, |room| {
            if direct {
                room.notice(&content, ok.timestamp.unwrap_or(now.unix_ms));
                return;
            }
            let (timestamp, content) = (ok.timestamp, Some(Value::String(content.clone())));
            let event = Event {
                seq: ok.seq,
                sender: Some(sender),
                content,
                timestamp,
                key: Some(key.to_owned()),
                ..Event::default()
            };
            room.place(&event);
        });
    }

    fn said(&mut self, name: &str, event: &Event) {
        let (me, ours) = (self.me.clone(), self.key_prefix());
        let Some(room) = self.room_mut(name) else { return };
        let was_known = event.seq.is_some_and(|seq| room.position().is_some_and(|(_, seen)| seq <= seen));
        let Some(item) = room.receive(event) else { return };
        let What::Message { sender, deleted, .. } = &item.what else { return };
        let (sender, deleted) = (sender.clone(), *deleted);
        // All members see our keys, and may use them.
        let is_ours = sender == me && event.key.as_ref().is_some_and(|key| key.starts_with(&ours));
        if sender != me && !was_known && !deleted {
            room.unread += 1;
        }
        // Who wrote it here knows it, and the ok may have come first.
        if !deleted && !is_ours {
            let said = event.content.as_ref().map(text::content_text).unwrap_or_default();
            let text = text::harmless_line(&said, usize::MAX);
            let room = text::harmless_line(name, WHY_BYTES_MAX);
            self.outputs.push_back(Output::Said { room, sender, text });
        }
    }

    fn presence(&mut self, name: &str, event: &Event, now: Time) {
        let (joined, left) = (event.joined.clone().unwrap_or_default(), event.left.clone().unwrap_or_default());
        let me = self.me.clone();
        let Some(room) = self.room_mut(name) else { return };
        room.presence(&joined, &left, event.count.unwrap_or(room.members));
        if room.members <= TOLD_MEMBERS_MAX {
            for (users, what) in [(joined, "came in"), (left, "went")] {
                let others: Vec<String> = users.into_iter().filter(|user| *user != me).take(TOLD_USERS_MAX).collect();
                if !others.is_empty() {
                    room.notice(&format!("{} {what}", others.join(", ").replace('\n', " ")), now.unix_ms);
                }
            }
        }
        if room.users.is_none() && room.members <= USERS_MAX as u64 {
            self.read_users(name, None, Vec::new(), false);
        }
    }

    fn read_users(&mut self, room: &str, after: Option<&str>, found: Vec<String>, aloud: bool) {
        if !self.is_ready() {
            self.no_connection(Some(room));
            return;
        }
        let mut command = json!({"type": "presence", "room": room, "limit": USERS_PAGE});
        if let Some(after) = after {
            command["after"] = json!(after);
        }
        self.ask(Question::Users { room: room.to_owned(), found, aloud }, command);
    }

    fn users(&mut self, name: &str, mut found: Vec<String>, aloud: bool, event: &Event) {
        found.extend(event.users.iter().flatten().map(|here| text::harmless_line(&here.user, WHY_BYTES_MAX)));
        let count = event.count.unwrap_or(found.len() as u64);
        if let Some(next) = event.next.as_deref().filter(|_| found.len() < USERS_MAX && count <= USERS_MAX as u64) {
            self.read_users(name, Some(next), found, aloud);
            return;
        }
        if aloud {
            let more = count.saturating_sub(found.len() as u64);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            self.tell(Some(name), &format!("{}: {}{rest}", people(count), found.join(", ")));
        }
        self.with(name, |room| {
            room.members = count;
            room.users = (found.len() as u64 >= count).then(|| found.into_iter().collect());
        });
    }

    fn read_rooms(&mut self, after: Option<&str>, found: Vec<String>) {
        if !self.is_ready() {
            self.no_connection(None);
            return;
        }
        let mut command = json!({"type": "rooms", "limit": ROOMS_PAGE});
        if let Some(after) = after {
            command["after"] = json!(after);
        }
        self.ask(Question::Rooms(found), command);
    }

    fn listed(&mut self, mut found: Vec<String>, event: &Event) {
        found.extend(event.rooms.iter().flatten().map(|room| format!("{} ({})", room.room, room.members)));
        match event.next.as_deref() {
            Some(next) if found.len() < ROOMS_TOLD_MAX => self.read_rooms(Some(next), found),
            Some(_) => self.tell(None, &format!("rooms: {} and more", found.join(", "))),
            None if found.is_empty() => self.tell(None, "nobody is in any room"),
            None => self.tell(None, &format!("rooms: {}", found.join(", "))),
        }
    }

    fn no_connection(&mut self, room: Option<&str>) {
        self.tell(room, "there is no connection now: try again when there is");
    }

    fn with(&mut self, name: &str, change: impl FnOnce(&mut Room)) {
        if let Some(room) = self.room_mut(name) {
            change(room);
        }
    }

    fn room_mut(&mut self, name: &str) -> Option<&mut Room> {
        self.rooms.iter_mut().find(|room| room.name == name)
    }
}

fn because(event: &Event) -> String {
    let by = event.by.as_deref().map_or(String::new(), |by| format!(" by {by}"));
    event.reason.as_deref().map_or(String::new(), |reason| format!(" ({reason}{by})"))
}

fn unsent_text(said: &str, why: &str) -> String {
    let start = text::fit(&text::harmless_line(said, WHY_BYTES_MAX), 40);
    format!("not sent: “{start}”: {}", text::harmless_line(why, WHY_BYTES_MAX))
}

/// "1 person", "2 people".
pub fn people(count: u64) -> String {
    if count == 1 { "1 person".to_owned() } else { format!("{count} people") }
}

/// Rooms of one connection: what servers allow.
const ROOMS_MAX: usize = 128;
/// Messages in one page of the past.
const PAGE: u64 = 100;
const USERS_PAGE: u64 = 500;
const ROOMS_PAGE: u64 = 100;
const ROOMS_TOLD_MAX: usize = 100;
/// In larger rooms nobody is told who comes and goes.
const TOLD_MEMBERS_MAX: u64 = 50;
const TOLD_USERS_MAX: usize = 10;
const JOIN_AGAIN_MS: u64 = 2_000;
const WHY_BYTES_MAX: usize = 256;
