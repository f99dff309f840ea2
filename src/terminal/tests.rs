//! Sessions, models and drawn screens without a socket or a terminal: a server is what the test says.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::ending::Ending;
use super::model::{Effect, Model};
use super::palette::Palette;
use super::room::Membership;
use super::session::{Heard, Output, Phase, Session, Setup};
use super::view::{Parts, draw};
use super::zone::Zone;
use crate::clock::Time;

/// A session with a server that the test plays.
struct Talk {
    session: Session,
    ms: u64,
    dial: u64,
    outputs: Vec<Output>,
    sent: Vec<Value>,
}

impl Talk {
    fn new(setup: Setup) -> Self {
        let mut talk = Self { session: Session::new(setup), ms: 1_000, dial: 0, outputs: Vec::new(), sent: Vec::new() };
        talk.session.start();
        talk.drain();
        talk
    }

    fn plain(rooms: &[&str]) -> Self {
        let rooms = rooms.iter().map(ToString::to_string).collect();
        Self::new(Setup { name: Some("ann".to_owned()), rooms, seed: 7, ..Setup::default() })
    }

    fn now(&self) -> Time {
        Time { us: self.ms * 1_000, unix_ms: self.ms }
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Dial(number) => self.dial = number,
                Output::Send(text) => self.sent.push(serde_json::from_str(&text).unwrap()),
                other => self.outputs.push(other),
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        self.session.heard(self.dial, heard, self.now());
        self.drain();
    }

    fn event(&mut self, event: &Value) {
        self.heard(Heard::Text(event.to_string()));
    }

    /// The first command of that type that was not looked at.
    fn take(&mut self, kind: &str) -> Value {
        let at = self.sent.iter().position(|command| command["type"] == kind);
        self.sent.remove(at.unwrap_or_else(|| panic!("no {kind} in {:?}", self.sent)))
    }

    fn welcome(&mut self, resumed: bool) {
        self.heard(Heard::Opened(None));
        let id = self.take("connect")["id"].clone();
        self.event(&json!({"type": "welcome", "id": id, "user": "ann", "session": "s", "resumed": resumed}));
    }

    fn join_ok(&mut self, fields: Value) {
        let join = self.take("join");
        let mut ok =
            json!({"type": "ok", "id": join["id"], "room": join["room"], "epoch": "e", "seq": 0, "members": 1});
        ok.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.event(&ok);
    }

    fn message(&mut self, seq: u64, sender: &str, content: &str) {
        self.event(&json!({"type": "message", "room": "lobby", "seq": seq, "sender": sender, "content": content}));
    }

    fn lose(&mut self, code: Option<u16>) {
        self.heard(Heard::Lost(Ending { code, why: "gone".to_owned(), is_final: false }));
    }

    /// Lets the session wait until it wants something.
    fn wait(&mut self) {
        self.ms = self.session.deadline_ms().expect("it waits for something");
        self.session.due(self.now());
        self.drain();
    }

    fn phase(&self) -> Phase {
        self.session.phase().0
    }

    fn said(&self) -> Vec<String> {
        let said = |output: &Output| match output {
            Output::Said { sender, text, .. } => Some(format!("{sender}: {text}")),
            _ => None,
        };
        self.outputs.iter().filter_map(said).collect()
    }
}

#[test]
fn a_lost_connection_is_resumed_from_the_last_message_and_nothing_is_said_twice() {
    let mut talk = Talk::plain(&["lobby"]);
    talk.welcome(false);
    talk.join_ok(json!({}));
    talk.message(1, "bob", "one");
    talk.session.say("lobby", "mine", talk.now());
    talk.drain();
    let first = talk.take("message");
    talk.lose(None);
    assert!(matches!(talk.phase(), Phase::Pausing(_)));
    talk.wait();
    talk.heard(Heard::Opened(None));
    let connect = talk.take("connect");
    assert_eq!(connect["resume"], json!({"session": "s", "rooms": {"lobby": {"epoch": "e", "seq": 1}}}));
    talk.event(&json!({"type": "welcome", "id": connect["id"], "user": "ann", "session": "t", "resumed": true}));
    assert!(talk.sent.is_empty(), "the room comes back by itself: {:?}", talk.sent);
    talk.event(&json!({"type": "ok", "room": "lobby", "epoch": "e", "seq": 2, "members": 1, "recovered": true}));
    talk.message(2, "bob", "two");
    talk.message(2, "bob", "two");
    let again = talk.take("message");
    assert_eq!((&again["key"], &again["content"]), (&first["key"], &json!("mine")));
    talk.event(&json!({"type": "ok", "id": again["id"], "room": "lobby", "seq": 3, "duplicate": true}));
    assert_eq!((talk.said(), talk.session.is_settled()), (vec!["bob: one".to_owned(), "bob: two".to_owned()], true));
}

#[test]
fn others_with_a_key_like_ours_are_heard() {
    let mut talk = Talk::plain(&["lobby"]);
    talk.welcome(false);
    talk.join_ok(json!({}));
    talk.session.say("lobby", "mine", talk.now());
    talk.drain();
    let key = talk.take("message")["key"].clone();
    for (seq, sender) in [(1, "ann"), (2, "bob")] {
        talk.event(
            &json!({"type": "message", "room": "lobby", "seq": seq, "sender": sender, "content": "hi", "key": key}),
        );
    }
    assert_eq!(talk.said(), ["bob: hi"]);
}

#[test]
fn without_its_session_it_joins_since_the_last_message() {
    let mut talk = Talk::plain(&["lobby"]);
    talk.welcome(false);
    talk.join_ok(json!({"seq": 5}));
    talk.message(6, "bob", "six");
    talk.lose(Some(1012));
    talk.wait();
    talk.welcome(false);
    let join = talk.sent[0].clone();
    assert_eq!(join["since"], json!({"epoch": "e", "seq": 6}));
    talk.join_ok(json!({"seq": 9, "recovered": false}));
    let told = |output: &Output| matches!(output, Output::Told { text, .. } if text.contains("missing"));
    assert!(talk.outputs.iter().any(told), "{:?}", talk.outputs);
}

#[test]
fn close_codes_say_whether_to_come_back() {
    for (code, comes_back) in [
        (None, true),
        (Some(1006), true),
        (Some(1012), true),
        (Some(4000), true),
        (Some(4002), true),
        (Some(4008), true),
        (Some(4500), false),
        (Some(4501), false),
        (Some(4999), false),
        (Some(1002), false),
    ] {
        let mut talk = Talk::plain(&["lobby"]);
        talk.welcome(false);
        talk.lose(code);
        assert_eq!(matches!(talk.phase(), Phase::Pausing(_)), comes_back, "{code:?}");
        assert_eq!(talk.outputs.contains(&Output::Over), !comes_back, "{code:?}");
        assert!(!talk.session.phase().1.is_empty());
    }
}

#[test]
fn the_time_that_the_server_names_is_kept_and_later_ones_grow() {
    let mut talk = Talk::plain(&[]);
    talk.welcome(false);
    talk.event(&json!({"type": "closing", "reason": "restart", "retry_after_ms": 1_234}));
    talk.lose(Some(1012));
    assert_eq!(talk.phase(), Phase::Pausing(talk.ms + 1_234));
    let mut longest = 0;
    for _ in 0..20 {
        talk.wait();
        talk.lose(None);
        let Phase::Pausing(until_ms) = talk.phase() else { panic!("{:?}", talk.phase()) };
        longest = longest.max(until_ms - talk.ms);
    }
    assert!((2_000..=20_000).contains(&longest), "{longest}");
}

#[test]
fn a_silent_connection_is_probed_and_then_given_up() {
    let mut talk = Talk::plain(&[]);
    talk.welcome(false);
    talk.wait();
    talk.take("ping");
    talk.heard(Heard::Alive);
    assert_eq!(talk.phase(), Phase::Online);
    talk.wait();
    talk.take("ping");
    talk.wait();
    assert!(talk.outputs.contains(&Output::HangUp) && matches!(talk.phase(), Phase::Pausing(_)));
    // What the old connection still says is not listened to.
    talk.message(1, "bob", "ghost");
    assert!(talk.said().is_empty());
}

#[test]
fn pings_over_lines_are_answered() {
    let mut talk = Talk::plain(&[]);
    talk.welcome(false);
    talk.event(&json!({"type": "ping"}));
    talk.take("pong");
}

#[test]
fn a_refused_token_ends_it_and_an_expired_one_may_be_renewed() {
    for (renews_token, code, ends) in [(false, "expired", true), (true, "expired", false), (true, "unauthorized", true)]
    {
        let mut talk = Talk::new(Setup { renews_token, insists: true, ..Setup::default() });
        talk.heard(Heard::Opened(Some("old".to_owned())));
        let connect = talk.take("connect");
        assert_eq!(connect["token"], "old");
        talk.event(&json!({"type": "error", "id": connect["id"], "code": code, "message": "no", "temporary": false}));
        assert_eq!(talk.phase() == Phase::Over, ends, "{code}");
        if !ends {
            talk.wait();
            talk.heard(Heard::Opened(Some("fresh".to_owned())));
            assert_eq!(talk.take("connect")["token"], "fresh");
        }
    }
}

#[test]
fn who_was_never_let_in_insists_only_if_told() {
    for insists in [true, false] {
        let mut talk = Talk::new(Setup { insists, ..Setup::default() });
        talk.lose(None);
        assert_eq!(talk.phase() == Phase::Over, !insists);
    }
}

#[test]
fn a_refused_room_gives_up_what_was_for_it() {
    let mut talk = Talk::plain(&["lobby"]);
    talk.session.say("lobby", "hi", talk.now());
    talk.welcome(false);
    let join = talk.take("join");
    talk.event(&json!({"type": "error", "id": join["id"], "code": "forbidden", "message": "no", "temporary": false}));
    assert!(talk.outputs.contains(&Output::Refused("lobby".to_owned())));
    assert!(talk.outputs.iter().any(|output| matches!(output, Output::Unsent(_))), "{:?}", talk.outputs);
    assert!(talk.session.is_settled());
    // Being removed is told the same way.
    talk.session.join("lobby");
    talk.drain();
    talk.join_ok(json!({}));
    talk.event(&json!({"type": "kicked", "room": "lobby", "reason": "banned", "by": "bob"}));
    assert!(matches!(&talk.session.rooms()[0].membership, Membership::Out(why) if why.contains("banned by bob")));
}

#[test]
fn a_message_that_would_cost_the_connection_is_not_sent() {
    let mut talk = Talk::plain(&["lobby"]);
    talk.welcome(false);
    talk.join_ok(json!({}));
    talk.session.say("lobby", &"\u{1}".repeat(20_000), talk.now());
    talk.drain();
    assert!(talk.sent.is_empty());
    assert!(matches!(talk.outputs.last(), Some(Output::Unsent(why)) if why.contains("65536 bytes")));
}

#[test]
fn hosts_commands_are_spelled_as_the_protocol_says() {
    let mut talk = Talk::plain(&["lobby"]);
    talk.welcome(false);
    talk.join_ok(json!({}));
    talk.session.moderate("lobby", "ban", "bob", Some(60_000));
    talk.session.close("lobby");
    talk.session.delete("lobby", Some(3));
    talk.drain();
    let ban = talk.take("ban");
    assert_eq!((&ban["room"], &ban["user"], &ban["for_ms"]), (&json!("lobby"), &json!("bob"), &json!(60_000)));
    talk.take("close");
    assert_eq!(talk.take("delete")["seq"], 3);
    talk.event(
        &json!({"type": "error", "id": ban["id"], "code": "forbidden", "message": "not you", "temporary": false}),
    );
    assert!(talk.outputs.iter().any(|output| matches!(output, Output::Told { text, .. } if text.contains("not you"))));
}

#[test]
fn nothing_that_a_server_may_say_breaks_it() {
    let mut talk = Talk::plain(&["lobby"]);
    talk.welcome(false);
    talk.join_ok(json!({}));
    for text in [
        "",
        "{",
        "null",
        "[]",
        "7",
        r#"{"type":"message"}"#,
        r#"{"type":"message","room":"lobby"}"#,
        r#"{"type":"ok","id":99}"#,
        r#"{"type":"ok","room":"elsewhere","epoch":"e"}"#,
        r#"{"type":"gap","room":"lobby"}"#,
        r#"{"type":"gap","room":"lobby","from":18446744073709551615,"to":0}"#,
        r#"{"type":"presence","room":"lobby"}"#,
        r#"{"type":"deleted","room":"lobby"}"#,
        r#"{"type":"error"}"#,
        r#"{"type":"message","room":"lobby","seq":18446744073709551615,"timestamp":18446744073709551615}"#,
        r#"{"type":"welcome"}"#,
        r#"{"type":"kicked"}"#,
        r#"{"type":"closing"}"#,
    ] {
        talk.heard(Heard::Text(text.to_owned()));
    }
    assert_eq!(talk.phase(), Phase::Online);
}

/// A model with a server that the test plays, and what its screen shows.
struct Shown {
    model: Model,
    dial: u64,
    sent: Vec<Value>,
}

impl Shown {
    fn new() -> Self {
        let (name, rooms) = (Some("ann".to_owned()), vec!["lobby".to_owned(), "ops".to_owned()]);
        let setup = Setup { name, rooms, presence: true, history: 50, seed: 7, insists: true, ..Setup::default() };
        let mut shown = Self { model: Model::new(Session::new(setup), Zone::utc()), dial: 0, sent: Vec::new() };
        shown.model.start(NOW);
        shown.drain();
        shown.heard(Heard::Opened(None));
        shown.reply("connect", json!({"type": "welcome", "user": "ann", "session": "s"}));
        for room in ["lobby", "ops", "@ann"] {
            shown.reply("join", json!({"room": room, "epoch": "e", "seq": 0, "members": 2, "role": "host"}));
        }
        for _ in 0..2 {
            let users = json!([{"user": "ann"}, {"user": "bob"}]);
            shown.reply("presence", json!({"users": users, "count": 2}));
        }
        shown
    }

    fn drain(&mut self) {
        while let Some(effect) = self.model.poll_effect() {
            match effect {
                Effect::Dial(number) => self.dial = number,
                Effect::Send(text) => self.sent.push(serde_json::from_str(&text).unwrap()),
                Effect::HangUp => {}
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        self.model.heard(self.dial, heard, NOW);
        self.drain();
    }

    fn event(&mut self, event: &Value) {
        self.heard(Heard::Text(event.to_string()));
    }

    fn reply(&mut self, kind: &str, mut reply: Value) {
        let at = self.sent.iter().position(|command| command["type"] == kind);
        let command = self.sent.remove(at.unwrap_or_else(|| panic!("no {kind} in {:?}", self.sent)));
        reply["id"] = command["id"].clone();
        if reply["type"].is_null() {
            reply["type"] = json!("ok");
        }
        self.event(&reply);
    }

    fn message(&mut self, room: &str, seq: u64, sender: &str, content: &str) {
        let at = 1_790_000_000_000_u64;
        self.event(
            &json!({"type": "message", "room": room, "seq": seq, "sender": sender, "content": content, "timestamp": at}),
        );
    }

    fn press(&mut self, code: KeyCode) {
        self.model.key(KeyEvent::new(code, KeyModifiers::NONE), NOW);
        self.drain();
    }

    fn line(&mut self, text: &str) {
        self.model.pasted(text);
        self.press(KeyCode::Enter);
    }

    fn screen(&mut self, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let model = &mut self.model;
        terminal
            .draw(|frame| {
                let messages = Parts::of(frame.area()).messages;
                model.resized(messages.width.into(), messages.height.into());
                draw(frame, model, "ws://h:1/ws", Palette::Many, 0);
            })
            .unwrap();
        terminal.backend().to_string()
    }
}

const NOW: Time = Time { us: 0, unix_ms: 1_790_000_000_000 };

#[test]
fn the_screen_shows_rooms_messages_people_and_status() {
    let mut shown = Shown::new();
    shown.message("lobby", 1, "bob", "hello there");
    shown.message("ops", 1, "bob", "over here");
    let screen = shown.screen(110, 12);
    for part in [
        "lobby",
        "ops              1 │",
        "14:13 bob  hello there",
        "│ 2 people",
        "│ bob",
        "● ann at ws://h:1/ws",
        "host",
    ] {
        assert!(screen.contains(part), "{part} in\n{screen}");
    }
    shown.press(KeyCode::Tab);
    let screen = shown.screen(110, 12);
    assert!(screen.contains("over here") && !screen.contains("1 │"), "{screen}");
    // A narrow one has the messages alone, and a tiny one breaks nothing.
    assert!(!shown.screen(50, 10).contains("lobby"));
    for (width, height) in [(1, 1), (2, 2), (5, 3), (61, 1), (101, 2)] {
        shown.screen(width, height);
    }
}

#[test]
fn what_is_written_is_dim_until_it_is_accepted_and_then_there_once() {
    let mut shown = Shown::new();
    shown.line("hi all");
    assert!(shown.screen(80, 10).contains("…   ann  hi all"));
    let key = shown.sent.iter().find(|command| command["type"] == "message").unwrap()["key"].clone();
    let at = 1_790_000_000_000_u64;
    let echo = json!({"type": "message", "room": "lobby", "seq": 1, "sender": "ann", "content": "hi all", "key": key, "timestamp": at});
    shown.event(&echo);
    shown.reply("message", json!({"room": "lobby", "seq": 1, "timestamp": at, "durable": true}));
    let screen = shown.screen(80, 10);
    assert_eq!(screen.matches("hi all").count(), 1, "{screen}");
    assert!(screen.contains("14:13 ann  hi all"));
    shown.line("no");
    shown.reply(
        "message",
        json!({"type": "error", "code": "forbidden", "message": "you are muted", "temporary": false}),
    );
    assert!(shown.screen(80, 10).contains("no — not sent: you are muted (forbidden)"));
}

#[test]
fn scrolling_up_reads_what_was_before_and_keeps_its_place() {
    let mut shown = Shown::new();
    for seq in 101..=140 {
        shown.message("lobby", seq, "bob", &format!("message {seq}"));
    }
    shown.screen(80, 12);
    for _ in 0..5 {
        shown.press(KeyCode::PageUp);
    }
    let older: Vec<Value> = (1..=100)
        .map(|seq| json!({"type": "message", "seq": seq, "sender": "bob", "content": format!("message {seq}"), "timestamp": 1_790_000_000_000_u64}))
        .collect();
    let before = shown.screen(80, 12);
    assert!(before.contains("message 101") && before.contains("scrolled back"), "{before}");
    let history = shown.sent.iter().find(|command| command["type"] == "history").unwrap();
    assert_eq!(history["before"], 101);
    shown.reply("history", json!({"messages": older, "more": false}));
    assert!(shown.screen(80, 12).contains("message 105"));
    shown.press(KeyCode::PageUp);
    assert!(shown.screen(80, 12).contains("message 98"));
    shown.message("lobby", 141, "bob", "new one");
    let screen = shown.screen(80, 12);
    assert!(screen.contains("1 new") && !screen.contains("new one"), "{screen}");
    shown.line("back");
    assert!(shown.screen(80, 12).contains("new one"));
}

#[test]
fn control_characters_never_reach_the_terminal() {
    let mut shown = Shown::new();
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}txt\u{85}";
    shown.message("lobby", 1, evil, evil);
    let why = json!({"type": "kicked", "room": "lobby", "reason": evil});
    shown.event(&json!({"type": "presence", "room": "lobby", "joined": [evil], "left": [], "count": 3}));
    shown.event(&why);
    shown.line(&format!("/join {evil}"));
    shown.press(KeyCode::BackTab);
    shown.line(evil);
    shown.heard(Heard::Lost(Ending { code: Some(4600), why: evil.to_owned(), is_final: false }));
    let screen = shown.screen(120, 20);
    assert!(screen.contains("owned"), "{screen}");
    assert!(!screen.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'), "{screen:?}");
}

#[test]
fn deletions_gaps_and_departures_are_shown() {
    let mut shown = Shown::new();
    shown.message("lobby", 1, "bob", "regretted");
    shown.event(&json!({"type": "deleted", "room": "lobby", "seq": 1}));
    shown.event(&json!({"type": "gap", "room": "lobby", "from": 2, "to": 4}));
    shown.event(&json!({"type": "presence", "room": "lobby", "joined": ["eve"], "left": ["bob"], "count": 2}));
    let screen = shown.screen(110, 12);
    for part in ["bob  (deleted)", "3 messages were skipped", "eve came in", "bob went", "│ eve"] {
        assert!(screen.contains(part), "{part} in\n{screen}");
    }
    assert!(!screen.contains("regretted") && !screen.contains("│ bob"));
}

#[test]
fn direct_messages_are_in_the_inbox() {
    let mut shown = Shown::new();
    shown.line("/msg bob lunch?");
    let direct = shown.sent.iter().find(|command| command["type"] == "direct").unwrap();
    assert_eq!((&direct["to"], &direct["content"]), (&json!("bob"), &json!("lunch?")));
    shown.reply("direct", json!({"room": "@bob", "seq": 1, "timestamp": 1_790_000_000_000_u64}));
    shown.message("@ann", 1, "bob", "yes!");
    assert!(shown.screen(80, 10).contains("@ann"));
    shown.press(KeyCode::BackTab);
    let screen = shown.screen(80, 10);
    assert!(screen.contains("→ bob: lunch?") && screen.contains("bob  yes!"), "{screen}");
}
