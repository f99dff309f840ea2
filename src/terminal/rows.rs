//! The rows of a room's column: items broken into lines, and which of them are to be seen. Pure.
//!
//! The end of what is seen is held by an item, not by a number of lines, so that neither new messages nor pages of the past
//! nor another width move what a person is reading.

use super::outbox::{Outbox, State};
use super::room::{Item, Room, What};
use super::text;
use super::zone::Zone;

/// One line with its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(pub Vec<(String, Tone)>);

/// What a part of a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tone {
    /// What was said.
    Text,
    /// Who said it.
    Sender(String),
    /// Times, numbers, days, what is not certain yet.
    Dim,
    /// Something that happened.
    Notice,
    /// Something that went wrong.
    Failed,
    /// What was said to us by name.
    Mention,
}

/// The end of what is seen of a room, when that is not the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bottom {
    /// The last item of which something is seen.
    pub id: u64,
    /// How many of its last lines are not.
    pub hidden: usize,
}

/// How lines are made.
#[derive(Clone, Debug)]
pub struct Shape<'a> {
    /// Columns of a line.
    pub columns: usize,
    /// Lines that fit.
    pub rows: usize,
    /// Whether messages have their numbers.
    pub numbers: bool,
    /// The user that this is shown to.
    pub me: &'a str,
    /// For times.
    pub zone: &'a Zone,
}

impl Shape<'_> {
    /// The lines to be seen, from the top; as many as fit, or as there are.
    pub fn visible(&self, room: &Room, outbox: &Outbox, bottom: Option<Bottom>) -> Vec<Row> {
        let mut upward: Vec<Row> = Vec::new();
        let (last, hidden) = match bottom {
            Some(bottom) => index_of(room, bottom),
            None => {
                upward.extend(self.pending(room, outbox).into_iter().rev());
                (room.items().len().checked_sub(1), 0)
            }
        };
        let waits = |key: &str| outbox.of(&room.name).any(|entry| entry.key == key);
        let mut hidden = hidden;
        for at in (0..last.map_or(0, |last| last + 1)).rev() {
            if upward.len() >= self.rows {
                break;
            }
            let rows = self.item(room, at, &waits);
            upward.extend(rows.into_iter().rev().skip(hidden));
            hidden = 0;
        }
        upward.truncate(self.rows);
        upward.reverse();
        upward
    }

    /// The end after scrolling up by so many lines, `None` where everything fits; and whether the start is near.
    pub fn up(&self, room: &Room, bottom: Option<Bottom>, lines: usize) -> (Option<Bottom>, bool) {
        let newest = room.items().len().checked_sub(1);
        let (last, mut hidden) = bottom.map_or((newest, 0), |bottom| index_of(room, bottom));
        let Some(mut at) = last else { return (None, true) };
        let mut left = lines;
        loop {
            let rest = self.height(room, at).saturating_sub(hidden);
            if left < rest || at == 0 {
                hidden += left.min(rest.saturating_sub(1));
                break;
            }
            left -= rest;
            at -= 1;
            hidden = 0;
        }
        let above = self.lines_up_to(room, at, self.rows * 3).saturating_sub(hidden);
        let bottom = Some(Bottom { id: room.items()[at].id, hidden });
        let bottom = if above < self.rows { self.down(room, bottom, self.rows - above) } else { bottom };
        (bottom, above < self.rows * 2)
    }

    /// The end after scrolling down by so many lines; `None` at the newest.
    pub fn down(&self, room: &Room, bottom: Option<Bottom>, lines: usize) -> Option<Bottom> {
        let (Some(mut at), mut hidden) = index_of(room, bottom?) else { return None };
        let newest = room.items().len() - 1;
        let mut left = lines;
        while left > hidden {
            left -= hidden;
            if at == newest {
                return None;
            }
            at += 1;
            hidden = self.height(room, at);
        }
        hidden -= left;
        (at < newest || hidden > 0).then(|| Bottom { id: room.items()[at].id, hidden })
    }

    fn height(&self, room: &Room, at: usize) -> usize {
        self.item(room, at, &|_| false).len()
    }

    /// Lines of the items up to this one, counted up to about `enough`.
    fn lines_up_to(&self, room: &Room, at: usize, enough: usize) -> usize {
        let mut lines = 0;
        for at in (0..=at).rev() {
            lines += self.height(room, at);
            if lines > enough {
                break;
            }
        }
        lines
    }

    fn item(&self, room: &Room, at: usize, waits: &dyn Fn(&str) -> bool) -> Vec<Row> {
        let item = &room.items()[at];
        let before = at.checked_sub(1).map(|before| &room.items()[before]);
        let mut rows = Vec::new();
        if before.is_none_or(|before| !self.zone.same_day(before.at_ms, item.at_ms)) {
            rows.push(Row(vec![(text::fit(&format!("── {} ──", self.zone.day(item.at_ms)), self.columns), Tone::Dim)]));
        }
        let mut margin = format!("{} ", self.zone.time(item.at_ms));
        if let (What::Message { seq, .. }, true) = (&item.what, self.numbers) {
            margin.push_str(&format!("#{seq} "));
        }
        rows.extend(self.body(item, &margin, waits));
        rows
    }

    fn body(&self, item: &Item, margin: &str, waits: &dyn Fn(&str) -> bool) -> Vec<Row> {
        let margin = if self.columns >= MARGIN_COLUMNS_MIN { margin } else { "" };
        match &item.what {
            What::Notice(said) => self.lines(margin, "", &format!("· {said}"), &Tone::Notice),
            What::Message { sender, deleted: true, .. } => self.lines(margin, sender, "(deleted)", &Tone::Dim),
            What::Message { sender, text, key, .. } => {
                let is_ours = *sender == self.me;
                let tone = if is_ours && key.as_deref().is_some_and(waits) {
                    Tone::Dim
                } else if !is_ours && mentions(text, self.me) {
                    Tone::Mention
                } else {
                    Tone::Text
                };
                match text.strip_prefix("/me ") {
                    Some(done) => self.lines(margin, "", &format!("* {sender} {done}"), &tone),
                    None => self.lines(margin, sender, text, &tone),
                }
            }
        }
    }

    /// What waits to be sent or was given up, and is not among the items.
    fn pending(&self, room: &Room, outbox: &Outbox) -> Vec<Row> {
        let margin = if self.columns >= MARGIN_COLUMNS_MIN { "  …   " } else { "" };
        let recent = || room.items().iter().rev().take(RECENT_ITEMS);
        let is_shown = |wanted: &str| {
            recent().any(|item| match &item.what {
                What::Message { sender, key: Some(key), .. } => sender == self.me && key == wanted,
                _ => false,
            })
        };
        let waiting = outbox.of(&room.name).filter(|entry| !is_shown(&entry.key));
        let rows = waiting.flat_map(|entry| {
            let said = text::harmless(&entry.text, usize::MAX);
            let said = entry.to.as_ref().map_or(said.clone(), |to| format!("→ {to}: {said}"));
            match &entry.state {
                State::Failed(why) => {
                    let why = text::harmless_line(why, 256);
                    self.lines(margin, self.me, &format!("{said} — not sent: {why}"), &Tone::Failed)
                }
                _ => self.lines(margin, self.me, &said, &Tone::Dim),
            }
        });
        rows.collect()
    }

    fn lines(&self, margin: &str, sender: &str, said: &str, tone: &Tone) -> Vec<Row> {
        let indent = text::width(margin);
        let sender = text::fit(sender, SENDER_COLUMNS_MAX);
        let whole = if sender.is_empty() { said.to_owned() } else { format!("{sender}  {said}") };
        let mut lines = text::wrap(&whole, self.columns.saturating_sub(indent));
        if lines.len() > LINES_MAX {
            lines.truncate(LINES_MAX);
            lines.push("…".to_owned());
        }
        let mut rows = Vec::with_capacity(lines.len());
        for (at, line) in lines.into_iter().enumerate() {
            let mut row = vec![(if at == 0 { margin.to_owned() } else { " ".repeat(indent) }, Tone::Dim)];
            match line.strip_prefix(&sender).filter(|_| at == 0 && !sender.is_empty()) {
                Some(rest) => {
                    row.push((sender.clone(), Tone::Sender(sender.clone())));
                    row.push((rest.to_owned(), tone.clone()));
                }
                None => row.push((line, tone.clone())),
            }
            rows.push(Row(row));
        }
        rows
    }
}

/// Where the item is now. One that is gone was among the oldest.
fn index_of(room: &Room, bottom: Bottom) -> (Option<usize>, usize) {
    match room.items().iter().rposition(|item| item.id == bottom.id) {
        Some(at) => (Some(at), bottom.hidden),
        None => ((!room.items().is_empty()).then_some(0), 0),
    }
}

fn mentions(text: &str, me: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut found = text.match_indices(me).filter(|_| !me.is_empty());
    found.any(|(at, _)| !is_word(text[..at].chars().next_back()) && !is_word(text[at + me.len()..].chars().next()))
}

/// In narrower columns there are no times.
const MARGIN_COLUMNS_MIN: usize = 30;
const SENDER_COLUMNS_MAX: usize = 24;
/// Lines of one message.
const LINES_MAX: usize = 100;
/// An echo is among the newest items.
const RECENT_ITEMS: usize = 200;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::wire::Event;
    use super::*;

    fn room(count: u64) -> Room {
        let mut room = Room::new("r");
        for seq in 1..=count {
            say(&mut room, seq, &format!("m{seq}"));
        }
        room
    }

    fn say(room: &mut Room, seq: u64, said: &str) {
        let event = json!({"seq": seq, "type": "message", "sender": "bob", "content": said, "timestamp": 1000});
        room.receive(&Event::parse(&event.to_string()).unwrap());
    }

    fn shape(zone: &Zone, rows: usize) -> Shape<'_> {
        Shape { columns: 40, rows, numbers: false, me: "ann", zone }
    }

    fn texts(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|Row(parts)| parts.iter().map(|(text, _)| &**text).collect()).collect()
    }

    #[test]
    fn the_newest_lines_are_seen_under_their_day() {
        let zone = Zone::utc();
        let rows = shape(&zone, 10).visible(&room(2), &Outbox::default(), None);
        assert_eq!(texts(&rows), ["── Thursday, 1 January 1970 ──", "00:00 bob  m1", "00:00 bob  m2"]);
        let rows = shape(&zone, 2).visible(&room(9), &Outbox::default(), None);
        assert_eq!(texts(&rows), ["00:00 bob  m8", "00:00 bob  m9"]);
    }

    #[test]
    fn what_is_read_stays_where_it_is() {
        let zone = Zone::utc();
        let shape = shape(&zone, 3);
        let mut room = room(10);
        let (bottom, near) = shape.up(&room, None, 3);
        let seen = texts(&shape.visible(&room, &Outbox::default(), bottom));
        assert_eq!((seen[2].as_str(), near), ("00:00 bob  m7", false));
        say(&mut room, 11, &"long ".repeat(50));
        assert_eq!(texts(&shape.visible(&room, &Outbox::default(), bottom)), seen);
        let (top, near) = shape.up(&room, bottom, 100);
        let first = texts(&shape.visible(&room, &Outbox::default(), top));
        assert!(near && first[0].starts_with("──") && first.len() == 3, "{first:?}");
        assert_eq!(shape.down(&room, top, 1_000), None);
    }

    #[test]
    fn up_and_down_by_the_same_come_back() {
        let zone = Zone::utc();
        let shape = shape(&zone, 4);
        let mut room = room(20);
        say(&mut room, 21, &"several words ".repeat(20));
        say(&mut room, 22, "end");
        for lines in 1..20 {
            let (bottom, _) = shape.up(&room, None, lines);
            assert_eq!(shape.down(&room, bottom, lines), None, "{lines}");
            let two = shape.up(&room, bottom, 2).0;
            assert_eq!(
                texts(&shape.visible(&room, &Outbox::default(), shape.down(&room, two, 2))),
                texts(&shape.visible(&room, &Outbox::default(), bottom)),
            );
        }
    }

    #[test]
    fn what_waits_is_dim_and_what_failed_says_why() {
        let zone = Zone::utc();
        let mut outbox = Outbox::default();
        outbox.push("k1".to_owned(), "r", None, "waiting".to_owned());
        outbox.push("k2".to_owned(), "r", None, "refused".to_owned());
        outbox.refused("k2", "too \u{1b}[1m bad", false, 0);
        let rows = shape(&zone, 10).visible(&room(1), &outbox, None);
        assert_eq!(rows[2].0[2].1, Tone::Dim);
        let shown = texts(&rows).join("");
        assert!(shown.contains("refused") && shown.contains("not sent: too") && !shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn what_waits_is_not_hidden_by_a_message_of_others_with_its_key() {
        let zone = Zone::utc();
        let mut outbox = Outbox::default();
        outbox.push("k1".to_owned(), "r", None, "mine".to_owned());
        for (sender, pending) in [("bob", true), ("ann", false)] {
            let mut room = Room::new("r");
            let event = json!({"seq": 1, "type": "message", "sender": sender, "content": "echo", "key": "k1"});
            room.receive(&Event::parse(&event.to_string()).unwrap());
            let shown = texts(&shape(&zone, 10).visible(&room, &outbox, None)).join("\n");
            assert_eq!(shown.contains("mine"), pending, "{shown}");
        }
    }

    #[test]
    fn one_is_mentioned_by_the_whole_name_only() {
        assert!(mentions("hi ann!", "ann") && mentions("ann", "ann"));
        assert!(!mentions("planning", "ann") && !mentions("x", ""));
    }
}
