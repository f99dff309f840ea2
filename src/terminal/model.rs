//! The screen's state: a session, the room that is looked at, what is being written. Keys and events in, effects out. Pure:
//! `view` draws it, `screen` owns the terminal.

use std::collections::VecDeque;

use ahash::HashMap;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::command::{self, HELP, KEYS, Typed};
use super::editor::{Editor, Step};
use super::perform::{After, perform};
use super::rows::{Bottom, Shape};
use super::session::{Heard, Output, Session};
use super::zone::Zone;
use crate::clock::Time;

/// What the shell does for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Open a connection with this number.
    Dial(u64),
    /// Send this text on it.
    Send(String),
    /// Close it.
    HangUp,
}

/// All that is shown.
#[derive(Debug)]
pub struct Model {
    /// The connection and its rooms.
    pub session: Session,
    /// The line being written.
    pub editor: Editor,
    /// Whether messages have their numbers.
    pub numbers: bool,
    /// Whether the program is to end.
    pub ends: bool,
    /// For times.
    pub zone: Zone,
    /// What was said last that belongs to no room, while there is none.
    pub told: String,
    /// The room that is looked at; it may be gone.
    current: String,
    /// Of rooms that are not looked at from their end.
    bottoms: HashMap<String, Bottom>,
    /// Columns and lines of the part that shows messages.
    size: (usize, usize),
    effects: VecDeque<Effect>,
}

impl Model {
    /// Shows the first room.
    pub fn new(session: Session, zone: Zone) -> Self {
        let current = session.rooms().first().map_or(String::new(), |room| room.name.clone());
        Self {
            session,
            editor: Editor::default(),
            numbers: false,
            ends: false,
            zone,
            told: String::new(),
            current,
            bottoms: HashMap::default(),
            size: (80, 20),
            effects: VecDeque::new(),
        }
    }

    /// The room that is looked at.
    pub fn current(&self) -> Option<&str> {
        self.session.room(&self.current).map(|room| room.name.as_str())
    }

    /// From where it is looked at; `None` is the newest.
    pub fn bottom(&self) -> Option<Bottom> {
        self.bottoms.get(&self.current).copied()
    }

    /// How lines are made for a part of the screen of this size.
    pub fn shape(&self, columns: usize, rows: usize) -> Shape<'_> {
        Shape { columns, rows, numbers: self.numbers, me: self.session.me(), zone: &self.zone }
    }

    /// The part that shows messages has this size now.
    pub fn resized(&mut self, columns: usize, rows: usize) {
        self.size = (columns.max(2), rows.max(1));
    }

    /// The next thing to do for it. Call it until there is none, after every other call.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Begins.
    pub fn start(&mut self, now: Time) {
        self.session.start();
        self.settle(now);
    }

    /// Something came from a connection.
    pub fn heard(&mut self, dial: u64, heard: Heard, now: Time) {
        self.session.heard(dial, heard, now);
        self.settle(now);
    }

    /// The session's deadline has passed.
    pub fn due(&mut self, now: Time) {
        self.session.due(now);
        self.settle(now);
    }

    /// Something was pasted.
    pub fn pasted(&mut self, text: &str) {
        self.editor.insert(text);
    }

    /// Ends as politely as there is time for.
    pub fn quit(&mut self, now: Time) {
        self.ends = true;
        self.session.quit();
        self.settle(now);
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent, now: Time) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        let page = self.size.1.saturating_sub(2).max(1);
        match (key.code, control) {
            (KeyCode::Char('c' | 'd'), true) => self.quit(now),
            (KeyCode::Char('n'), true) | (KeyCode::Tab, _) => self.turn(1),
            (KeyCode::Char('p'), true) | (KeyCode::BackTab, _) => self.turn(-1),
            (KeyCode::PageUp, _) => self.scroll_up(page),
            (KeyCode::PageDown, _) => self.scroll_down(page),
            (KeyCode::Up, true) => self.scroll_up(1),
            (KeyCode::Down, true) => self.scroll_down(1),
            (KeyCode::End, true) => self.scroll_down(usize::MAX),
            (KeyCode::Enter, _) => self.enter(now),
            (KeyCode::Char(digit @ '1'..='9'), false) if alt => {
                self.show_at(digit as usize - '1' as usize);
            }
            _ => self.edit(key.code, control, alt),
        }
        self.settle(now);
    }

    fn edit(&mut self, code: KeyCode, control: bool, alt: bool) {
        let editor = &mut self.editor;
        let word = control || alt;
        match code {
            KeyCode::Up => editor.earlier(),
            KeyCode::Down => editor.later(),
            KeyCode::Left => editor.go(if word { Step::WordBack } else { Step::Back }),
            KeyCode::Right => editor.go(if word { Step::WordForward } else { Step::Forward }),
            KeyCode::Home => editor.go(Step::Start),
            KeyCode::End => editor.go(Step::End),
            KeyCode::Backspace => editor.remove(if word { Step::WordBack } else { Step::Back }),
            KeyCode::Delete => editor.remove(if word { Step::WordForward } else { Step::Forward }),
            KeyCode::Char('a') if control => editor.go(Step::Start),
            KeyCode::Char('e') if control => editor.go(Step::End),
            KeyCode::Char('b') if word => editor.go(if alt { Step::WordBack } else { Step::Back }),
            KeyCode::Char('f') if word => editor.go(if alt { Step::WordForward } else { Step::Forward }),
            KeyCode::Char('w' | 'h') if control => editor.remove(Step::WordBack),
            KeyCode::Char('u') if control => editor.remove(Step::Start),
            KeyCode::Char('k') if control => editor.remove(Step::End),
            KeyCode::Char(c) if !control && !alt => editor.insert(c.encode_utf8(&mut [0; 4])),
            _ => {}
        }
    }

    fn enter(&mut self, now: Time) {
        let line = self.editor.take();
        let typed = match command::parse(&line) {
            None => return,
            Some(Err(wrong)) => return self.tell(None, &wrong, now),
            Some(Ok(typed)) => typed,
        };
        if let Typed::Say(_) = &typed {
            self.bottoms.remove(&self.current);
        }
        let current = self.current().map(str::to_owned);
        match perform(&mut self.session, current.as_deref(), typed, now) {
            After::Nothing => {}
            After::Show(name) => self.show(&name),
            After::Numbers => self.numbers = !self.numbers,
            After::Help => {
                for line in HELP.iter().chain(KEYS) {
                    self.tell(None, line, now);
                }
            }
            After::Quit => self.quit(now),
        }
    }

    fn show(&mut self, name: &str) {
        name.clone_into(&mut self.current);
    }

    fn show_at(&mut self, at: usize) {
        if let Some(room) = self.session.rooms().get(at) {
            self.current = room.name.clone();
        }
    }

    /// Shows a room further down in the list, round its end.
    fn turn(&mut self, by: isize) {
        let rooms = self.session.rooms();
        let at = rooms.iter().position(|room| room.name == self.current).unwrap_or(0);
        let count = rooms.len().max(1) as isize;
        self.show_at((at as isize + by).rem_euclid(count) as usize);
    }

    fn scroll_up(&mut self, lines: usize) {
        let Some(room) = self.session.room(&self.current) else { return };
        let (bottom, near_start) = self.shape(self.size.0, self.size.1).up(room, self.bottom(), lines);
        match bottom {
            Some(bottom) => self.bottoms.insert(self.current.clone(), bottom),
            None => self.bottoms.remove(&self.current),
        };
        if near_start {
            let name = self.current.clone();
            self.session.read_older(&name);
        }
    }

    fn scroll_down(&mut self, lines: usize) {
        let Some(room) = self.session.room(&self.current) else { return };
        match self.shape(self.size.0, self.size.1).down(room, self.bottom(), lines) {
            Some(bottom) => self.bottoms.insert(self.current.clone(), bottom),
            None => self.bottoms.remove(&self.current),
        };
    }

    /// Something for a person: in its room, or in the one that is looked at.
    fn tell(&mut self, room: Option<&str>, said: &str, now: Time) {
        let name = room.filter(|name| self.session.room(name).is_some()).unwrap_or(&self.current).to_owned();
        self.session.notice(&name, said, now);
        said.clone_into(&mut self.told);
    }

    /// Does what the session wants, and looks at the room again.
    fn settle(&mut self, now: Time) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Dial(number) => self.effects.push_back(Effect::Dial(number)),
                Output::Send(text) => self.effects.push_back(Effect::Send(text)),
                Output::HangUp => self.effects.push_back(Effect::HangUp),
                Output::Told { room, text } => self.tell(room.as_deref(), &text, now),
                // These are in their rooms, or in the status line.
                Output::Status(_) | Output::Said { .. } | Output::Refused(_) | Output::Unsent(_) | Output::Over => {}
            }
        }
        if self.current().is_none() {
            self.current = self.session.rooms().first().map_or(String::new(), |room| room.name.clone());
        }
        if self.bottom().is_none() {
            let current = self.current.clone();
            self.session.looked_at(&current);
        }
        let session = &self.session;
        self.bottoms.retain(|name, _| session.room(name).is_some());
    }
}
