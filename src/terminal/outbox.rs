//! Messages on their way: from Enter until the server's `ok`. Pure.
//!
//! Each has a key of its own, so that sending it again after a reconnect makes no second message; those whose key the
//! server may have forgotten are given up instead. Messages go out in the order in which they were written, and a refusal
//! for now holds back those behind it in the same room.

use std::collections::VecDeque;

use serde_json::{Value, json};

/// A message that the server has not answered for good.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// The room it is shown in.
    pub room: String,
    /// The user it is for, if it is a direct message.
    pub to: Option<String>,
    /// What it says.
    pub text: String,
    pub state: State,
    /// When it was first sent, monotonic milliseconds.
    first_sent_ms: Option<u64>,
    refusals: u32,
}

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// To be sent, not before this time.
    Waiting(u64),
    /// Sent, not answered.
    Sent,
    /// Given up, and why.
    Failed(String),
}

/// All of them, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Outbox(VecDeque<Entry>);

impl Outbox {
    /// Takes a message; false if too many wait already.
    pub fn push(&mut self, key: String, room: &str, to: Option<String>, text: String) -> bool {
        let failed = |entry: &Entry| matches!(entry.state, State::Failed(_));
        if self.0.len() >= ENTRIES_MAX {
            // What failed was shown; what waits is still owed.
            let Some(at) = self.0.iter().position(failed) else { return false };
            self.0.remove(at);
        }
        let state = State::Waiting(0);
        self.0.push_back(Entry { key, room: room.to_owned(), to, text, state, first_sent_ms: None, refusals: 0 });
        true
    }

    /// Those of a room.
    pub fn of<'a>(&'a self, room: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.0.iter().filter(move |entry| entry.room == room)
    }

    /// How many have not been answered or given up.
    pub fn owed(&self) -> usize {
        self.0.iter().filter(|entry| !matches!(entry.state, State::Failed(_))).count()
    }

    /// The next command to send, if there is one for a room that `may` takes messages. Call it again until it gives none.
    /// A message that is too old to be sent again is given back as failed.
    pub fn next(&mut self, now_ms: u64, may: impl Fn(&Entry) -> bool) -> Option<Result<(String, Value), Entry>> {
        let sent = self.0.iter().filter(|entry| entry.state == State::Sent).count();
        if sent >= WINDOW {
            return None;
        }
        let mut held: Vec<&str> = Vec::new();
        let mut found = None;
        for (at, entry) in self.0.iter().enumerate() {
            let State::Waiting(until_ms) = entry.state else { continue };
            if until_ms > now_ms || held.contains(&&*entry.room) {
                held.push(&entry.room);
            } else if may(entry) {
                found = Some(at);
                break;
            }
        }
        let entry = &mut self.0[found?];
        if entry.first_sent_ms.is_some_and(|first| now_ms.saturating_sub(first) > REPEAT_MS_MAX) {
            entry.state = State::Failed("it is not known whether it arrived".to_owned());
            return Some(Err(entry.clone()));
        }
        entry.state = State::Sent;
        entry.first_sent_ms.get_or_insert(now_ms);
        let (key, text) = (&entry.key, &entry.text);
        let command = match &entry.to {
            Some(to) => json!({"type": "direct", "to": to, "content": text, "key": key}),
            None => json!({"type": "message", "room": entry.room, "content": text, "key": key}),
        };
        Some(Ok((entry.key.clone(), command)))
    }

    /// It has been accepted.
    pub fn accepted(&mut self, key: &str) -> Option<Entry> {
        let at = self.0.iter().position(|entry| entry.key == key)?;
        self.0.remove(at)
    }

    /// It has been refused. Gives it if that is for good; otherwise it is sent again later.
    pub fn refused(&mut self, key: &str, why: &str, temporary: bool, now_ms: u64) -> Option<Entry> {
        let entry = self.0.iter_mut().find(|entry| entry.key == key)?;
        entry.refusals += 1;
        if temporary && entry.refusals < REFUSALS_MAX {
            let pause_ms = (AGAIN_MS << (entry.refusals - 1)).min(AGAIN_MS_MAX);
            entry.state = State::Waiting(now_ms + pause_ms);
            return None;
        }
        entry.state = State::Failed(why.to_owned());
        Some(entry.clone())
    }

    /// The connection is gone: what was sent is to be sent again.
    pub fn lost(&mut self) {
        for entry in &mut self.0 {
            if !matches!(entry.state, State::Failed(_)) {
                entry.state = State::Waiting(0);
            }
        }
    }

    /// Gives up what is for a room, and gives it.
    pub fn give_up(&mut self, room: &str, why: &str) -> Vec<Entry> {
        let mut given = Vec::new();
        for entry in &mut self.0 {
            if entry.room == room && entry.to.is_none() && !matches!(entry.state, State::Failed(_)) {
                entry.state = State::Failed(why.to_owned());
                given.push(entry.clone());
            }
        }
        given
    }

    /// Forgets what failed in a room: the person has seen it.
    pub fn forget_failed(&mut self, room: &str) {
        self.0.retain(|entry| entry.room != room || !matches!(entry.state, State::Failed(_)));
    }

    /// When the next one may be sent that waits for its time.
    pub fn deadline_ms(&self) -> Option<u64> {
        let times = self.0.iter().filter_map(|entry| match entry.state {
            State::Waiting(until_ms) if until_ms > 0 => Some(until_ms),
            _ => None,
        });
        times.min()
    }
}

/// Messages that are sent and not answered: half of what servers allow.
pub const WINDOW: usize = 32;
const ENTRIES_MAX: usize = 1_000;
const REFUSALS_MAX: u32 = 10;
const AGAIN_MS: u64 = 500;
const AGAIN_MS_MAX: u64 = 10_000;
/// Servers remember keys for five minutes.
const REPEAT_MS_MAX: u64 = 4 * 60 * 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(texts: &[(&str, &str)]) -> Outbox {
        let mut outbox = Outbox::default();
        for (at, (room, text)) in texts.iter().enumerate() {
            assert!(outbox.push(format!("k{at}"), room, None, (*text).to_owned()));
        }
        outbox
    }

    fn sends(outbox: &mut Outbox, now_ms: u64) -> Vec<String> {
        std::iter::from_fn(|| outbox.next(now_ms, |_| true)).map(|next| next.unwrap().0).collect()
    }

    #[test]
    fn what_was_lost_is_sent_again_under_its_key_and_in_order() {
        let mut outbox = with(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(sends(&mut outbox, 0), ["k0", "k1", "k2"]);
        assert_eq!(outbox.accepted("k1").unwrap().text, "2");
        outbox.lost();
        assert_eq!(sends(&mut outbox, 10), ["k0", "k2"]);
        outbox.accepted("k0");
        outbox.accepted("k2");
        assert_eq!(outbox.owed(), 0);
    }

    #[test]
    fn a_refusal_for_now_holds_its_room_back_and_no_other() {
        let mut outbox = with(&[("a", "1"), ("a", "2"), ("b", "3")]);
        let next = |outbox: &mut Outbox, at| outbox.next(at, |_| true).map(|next| next.unwrap().0);
        assert_eq!(next(&mut outbox, 0).unwrap(), "k0");
        assert_eq!(outbox.refused("k0", "busy", true, 100), None);
        assert_eq!(sends(&mut outbox, 100), ["k2"]);
        assert_eq!(outbox.deadline_ms(), Some(100 + AGAIN_MS));
        assert_eq!(sends(&mut outbox, 100 + AGAIN_MS), ["k0", "k1"]);
    }

    #[test]
    fn refused_for_good_or_too_often_or_too_old_is_given_up() {
        let mut outbox = with(&[("a", "1"), ("a", "2"), ("a", "3")]);
        assert_eq!(outbox.refused("k0", "no", false, 0).unwrap().state, State::Failed("no".to_owned()));
        for n in 1..=REFUSALS_MAX {
            assert_eq!(outbox.refused("k1", "busy", true, 0).is_some(), n == REFUSALS_MAX);
        }
        assert_eq!(sends(&mut outbox, 0), ["k2"]);
        outbox.lost();
        assert!(outbox.next(REPEAT_MS_MAX + 1, |_| true).unwrap().is_err());
        assert_eq!(outbox.owed(), 0);
        outbox.forget_failed("a");
        assert_eq!(outbox.of("a").count(), 0);
    }

    #[test]
    fn only_a_window_is_sent_and_only_so_many_kept() {
        let mut outbox = with(&[("a", "x"); ENTRIES_MAX]);
        assert!(!outbox.push("more".to_owned(), "a", None, String::new()));
        assert_eq!(sends(&mut outbox, 0).len(), WINDOW);
        outbox.give_up("a", "left");
        assert!(outbox.push("more".to_owned(), "a", None, String::new()));
    }
}
