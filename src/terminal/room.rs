//! A room as this client knows it: what was said, who is here, and the position from which to go on. Pure.
//!
//! Items stand in the order of (life of the log, seq). A notice stands behind the message after which it came. So pages of
//! history, replays and live messages may come in any order and more than once. Memory is bounded by items and bytes.

use std::collections::{BTreeSet, VecDeque};

use super::text;
use super::wire::Event;

/// One room.
#[derive(Clone, Debug)]
pub struct Room {
    pub name: String,
    pub membership: Membership,
    /// Messages of others that came while the room was not looked at.
    pub unread: usize,
    /// Users here, as the server counts them.
    pub members: u64,
    /// Own role.
    pub role: String,
    /// Who is here, if that is known.
    pub users: Option<BTreeSet<String>>,
    /// Whether there is more before the first item.
    pub older: Older,
    /// The replay is over when the stream has come this far.
    pub replays_to: Option<u64>,
    /// Whether the entry that was last asked for has been told; coming back after a lost connection is none.
    pub announced: bool,
    epoch: Option<String>,
    /// How often the log has begun again; the first part of an item's place.
    life: u32,
    /// The last position that came in the stream of messages. A page or an own `ok` does not move it.
    seen: u64,
    items: VecDeque<Item>,
    bytes: usize,
    next_id: u64,
}

/// Whether we are in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// To be entered, when there is a connection.
    Wanted,
    /// The server has been asked.
    Joining,
    /// In.
    In,
    /// Not in, for this reason.
    Out(String),
}

/// What is known of the time before the first item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// There may be more.
    More,
    /// It was asked for.
    Loading,
    /// That was the start, or all that fits.
    No,
}

/// Something in a room's column.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Never given to another item of the room.
    pub id: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    pub what: What,
    place: (u32, u64),
}

/// The kinds of item.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A message. All texts are harmless already.
    Message { seq: u64, sender: String, text: String, deleted: bool, key: Option<String> },
    /// Something that happened.
    Notice(String),
}

impl Item {
    fn bytes(&self) -> usize {
        let text = match &self.what {
            What::Message { sender, text, .. } => sender.len() + text.len(),
            What::Notice(text) => text.len(),
        };
        size_of::<Self>() + text
    }
}

impl Room {
    /// A room to be entered.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            membership: Membership::Wanted,
            unread: 0,
            members: 0,
            role: String::new(),
            users: None,
            older: Older::More,
            replays_to: None,
            announced: false,
            epoch: None,
            life: 0,
            seen: 0,
            items: VecDeque::new(),
            bytes: 0,
            next_id: 0,
        }
    }

    /// What is in it, oldest first.
    pub fn items(&self) -> &VecDeque<Item> {
        &self.items
    }

    /// Whether it is somebody's inbox.
    pub fn is_inbox(&self) -> bool {
        self.name.starts_with('@')
    }

    /// The position to recover from: epoch and the last seq seen.
    pub fn position(&self) -> Option<(&str, u64)> {
        self.epoch.as_deref().map(|epoch| (epoch, self.seen))
    }

    /// The server has let us in. Says whether what was missed is not replayed, so that a page should be read.
    pub fn entered(&mut self, ok: &Event, replays: bool) -> bool {
        self.membership = Membership::In;
        self.members = ok.members.unwrap_or(self.members);
        self.role = ok.role.clone().map_or(String::new(), |role| text::harmless_line(&role, NAME_BYTES_MAX));
        let head = ok.seq.unwrap_or(0);
        let known = self.epoch.is_some();
        if ok.recovered == Some(true) {
            self.replays_to = Some(head).filter(|head| *head > self.seen);
            return false;
        }
        let same_log = self.epoch == ok.epoch;
        self.epoch.clone_from(&ok.epoch);
        if known && (ok.recovered.is_some() || !same_log) {
            if !same_log {
                self.life += 1;
            }
            self.seen = head;
            self.older = Older::More;
            return true;
        }
        if known {
            // Nothing was replayed because nothing was asked for: the stream goes on behind the head.
            let missed = head > self.seen;
            self.seen = self.seen.max(head);
            return missed;
        }
        // The replay, if any, raises it message by message; what is older comes only as pages.
        self.seen = head;
        self.replays_to = Some(head).filter(|head| replays && *head > 0);
        !replays && head > 0
    }

    /// The connection is gone, and with it what was still to come.
    pub fn interrupted(&mut self) {
        self.replays_to = None;
        if self.older == Older::Loading {
            self.older = Older::More;
        }
    }

    /// A message of the stream. Gives the item if it is new.
    pub fn receive(&mut self, event: &Event) -> Option<&Item> {
        let seq = event.seq?;
        self.seen = self.seen.max(seq);
        self.replays_to = self.replays_to.filter(|to| seq < *to);
        self.place(event)
    }

    /// Messages of the past. `more`: whether there are older ones.
    pub fn page(&mut self, messages: &[Event], more: bool) {
        for message in messages {
            self.place(message);
        }
        self.older = if more && self.has_space() { Older::More } else { Older::No };
    }

    /// Puts a message where it belongs, unless it is there.
    pub fn place(&mut self, event: &Event) -> Option<&Item> {
        let seq = event.seq?;
        let place = (self.life, seq);
        let deleted = event.deleted == Some(true);
        let at = self.items.partition_point(|item| item.place <= place);
        let is_it = |item: &Item| item.place == place && matches!(item.what, What::Message { .. });
        let same = (0..at).rev().take_while(|at| self.items[*at].place == place).find(|at| is_it(&self.items[*at]));
        if let Some(at) = same {
            if deleted {
                self.mark_deleted(at);
            }
            return None;
        }
        // A notice of the same place came after the message that is only placed now.
        let at = self.items.partition_point(|item| item.place < place).min(at);
        let said = event.content.as_ref().map(text::content_text).unwrap_or_default();
        let what = What::Message {
            seq,
            sender: text::harmless_line(event.sender.as_deref().unwrap_or("?"), NAME_BYTES_MAX),
            text: if deleted { String::new() } else { text::harmless(&said, TEXT_BYTES_MAX) },
            deleted,
            key: event.key.clone().filter(|key| key.len() <= KEY_BYTES_MAX),
        };
        let id = self.insert(at, place, event.timestamp.unwrap_or(0), what);
        self.items.iter().rev().find(|item| item.id == id)
    }

    /// Something happened, after all that is here. The text is made harmless.
    pub fn notice(&mut self, said: &str, at_ms: u64) {
        let place = self.items.back().map_or((self.life, 0), |item| item.place).max((self.life, 0));
        let what = What::Notice(text::harmless(said, TEXT_BYTES_MAX));
        self.insert(self.items.len(), place, at_ms, what);
    }

    /// A message became a tombstone.
    pub fn deleted(&mut self, seq: u64) {
        let place = (self.life, seq);
        let from = self.items.partition_point(|item| item.place < place);
        let here = self.items.range(from..).take_while(|item| item.place == place);
        if let Some(at) = here.enumerate().find(|(_, item)| matches!(item.what, What::Message { .. })) {
            self.mark_deleted(from + at.0);
        }
    }

    /// Who has come and gone.
    pub fn presence(&mut self, joined: &[String], left: &[String], count: u64) {
        self.members = count;
        let Some(users) = &mut self.users else { return };
        users.extend(joined.iter().map(|user| text::harmless_line(user, NAME_BYTES_MAX)));
        for user in left {
            users.remove(&text::harmless_line(user, NAME_BYTES_MAX));
        }
        if users.len() > USERS_MAX {
            self.users = None;
        }
    }

    /// The seq of the first message of the present log, from which older ones can be asked for.
    pub fn first_seq(&self) -> Option<u64> {
        let first =
            self.items.iter().find(|item| item.place.0 == self.life && matches!(item.what, What::Message { .. }));
        first.map(|item| item.place.1)
    }

    /// The last message of `user` that is not deleted.
    pub fn last_of(&self, user: &str) -> Option<u64> {
        self.items.iter().rev().find_map(|item| match &item.what {
            What::Message { seq, sender, deleted: false, .. } if sender == user && item.place.0 == self.life => {
                Some(*seq)
            }
            _ => None,
        })
    }

    fn has_space(&self) -> bool {
        self.items.len() < ITEMS_MAX * 9 / 10 && self.bytes < BYTES_MAX * 9 / 10
    }

    fn insert(&mut self, at: usize, place: (u32, u64), at_ms: u64, what: What) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let item = Item { id, at_ms, what, place };
        self.bytes += item.bytes();
        self.items.insert(at, item);
        while self.items.len() > ITEMS_MAX || (self.bytes > BYTES_MAX && self.items.len() > 1) {
            let gone = self.items.pop_front().expect("there is more than one");
            self.bytes -= gone.bytes();
            self.older = Older::No;
        }
        id
    }

    fn mark_deleted(&mut self, at: usize) {
        if let What::Message { text, deleted, .. } = &mut self.items[at].what {
            self.bytes -= text.len();
            *text = String::new();
            *deleted = true;
        }
    }
}

/// Items of one room; beyond, the oldest are let go.
pub const ITEMS_MAX: usize = 5_000;
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Of a longer message only the beginning is shown.
const TEXT_BYTES_MAX: usize = 8 * 1024;
const NAME_BYTES_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 128;
/// Names kept of one room; of larger rooms only the count is known.
pub const USERS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(seq: u64, said: &str) -> Event {
        let event = json!({"type": "message", "seq": seq, "sender": "bob", "content": said, "timestamp": seq});
        Event::parse(&event.to_string()).unwrap()
    }

    fn ok(epoch: &str, seq: u64, recovered: Option<bool>) -> Event {
        let event = json!({"type": "ok", "epoch": epoch, "seq": seq, "members": 1, "recovered": recovered});
        Event::parse(&event.to_string()).unwrap()
    }

    fn shown(room: &Room) -> Vec<String> {
        let text = |item: &Item| match &item.what {
            What::Message { deleted: true, .. } => "-".to_owned(),
            What::Message { text, .. } => text.clone(),
            What::Notice(text) => format!("({})", &text[..4]),
        };
        room.items().iter().map(text).collect()
    }

    #[test]
    fn pages_replays_and_live_messages_make_one_sequence() {
        let mut room = Room::new("r");
        room.entered(&ok("e", 4, None), true);
        room.receive(&message(3, "3"));
        assert_eq!(room.replays_to, Some(4));
        for seq in [4, 5, 5, 4] {
            room.receive(&message(seq, &seq.to_string()));
        }
        assert_eq!(room.replays_to, None);
        room.notice("bob left", 0);
        room.receive(&message(6, "6"));
        room.page(&[message(1, "1"), message(2, "2"), message(3, "3")], false);
        assert_eq!(shown(&room), ["1", "2", "3", "4", "5", "(bob )", "6"]);
        assert_eq!((room.position(), room.first_seq(), room.older), (Some(("e", 6)), Some(1), Older::No));
        room.deleted(2);
        room.deleted(99);
        assert_eq!(shown(&room)[..3], ["1", "-", "3"]);
        assert_eq!(room.last_of("bob"), Some(6));
    }

    #[test]
    fn an_own_ok_does_not_move_the_position() {
        let mut room = Room::new("r");
        room.entered(&ok("e", 4, None), false);
        room.place(&message(7, "mine"));
        assert_eq!(room.position(), Some(("e", 4)));
        room.receive(&message(5, "5"));
        assert!(room.receive(&message(7, "mine")).is_none());
        assert_eq!((shown(&room), room.position()), (vec!["5".to_owned(), "mine".to_owned()], Some(("e", 7))));
    }

    #[test]
    fn a_break_is_shown_and_another_log_begins_behind_it() {
        let mut room = Room::new("r");
        room.entered(&ok("e", 0, None), true);
        room.receive(&message(1, "old"));
        assert!(!room.entered(&ok("e", 1, Some(true)), true));
        assert!(room.entered(&ok("f", 1, Some(false)), true));
        room.notice("some are missing", 0);
        room.page(&[message(1, "new")], false);
        assert_eq!(shown(&room), ["old", "(some)", "new"]);
        assert_eq!(room.position(), Some(("f", 1)));
    }

    #[test]
    fn memory_is_bounded_by_items_and_by_bytes() {
        let mut room = Room::new("r");
        for seq in 1..=ITEMS_MAX as u64 + 10 {
            room.receive(&message(seq, "x"));
        }
        assert_eq!((room.items().len(), room.first_seq()), (ITEMS_MAX, Some(11)));
        let long = "x".repeat(100_000);
        for seq in 10_000..12_000 {
            room.receive(&message(seq, &long));
        }
        let held: usize = room.items().iter().map(Item::bytes).sum();
        assert!(held == room.bytes && held <= BYTES_MAX, "{held} {}", room.bytes);
    }

    #[test]
    fn names_and_texts_are_harmless() {
        let mut room = Room::new("r");
        let evil = json!({"type": "message", "seq": 1, "sender": "\u{1b}[2Jbob\n", "content": "\u{9b}31m\u{202e}"});
        room.receive(&Event::parse(&evil.to_string()).unwrap());
        room.notice("\u{7}", 0);
        let debug: String = room.items().iter().map(|item| format!("{:?}", item.what)).collect();
        assert!(!debug.contains("\\u{1b}") && !debug.contains("\\u{9b}") && !debug.contains("\\u{202e}"), "{debug}");
    }
}
