//! Reads the input as a script: choices, names, and commands that are nearly right.

use std::collections::VecDeque;

/// What is left of the input; after its end all bytes are 0.
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Up to 255 bytes as they are.
    pub fn text(&mut self) -> &[u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        text
    }

    pub fn room(&mut self) -> &'static str {
        ROOMS[usize::from(self.byte()) % ROOMS.len()]
    }

    pub fn user(&mut self) -> &'static str {
        USERS[usize::from(self.byte()) % USERS.len()]
    }

    /// A command that is nearly right: what it names exists, as often as not.
    pub fn command(&mut self, sessions: &VecDeque<String>, epochs: &VecDeque<String>) -> Vec<u8> {
        let (kind, fields) = (self.byte(), self.byte());
        let mut text = String::from("{");
        if fields & 1 == 0 {
            text += &format!("\"id\":{},", self.byte());
        }
        let (room, user, seq) = (self.room(), self.user(), self.byte() % 16);
        let flag = |bit: u8, field: &'static str| if fields & 1 << bit == 0 { "" } else { field };
        let remembered = |list: &VecDeque<String>| list.get(usize::from(seq) % list.len().max(1)).cloned();
        let epoch = remembered(epochs).unwrap_or_default();
        let since = format!(",\"since\":{{\"epoch\":\"{epoch}\",\"seq\":{seq}}}");
        let join = [
            flag(1, ",\"presence\":true"),
            flag(2, ",\"ack\":true"),
            flag(3, ",\"tags\":[\"a\"]"),
            flag(4, ",\"history\":3"),
            if fields & 32 == 0 { "" } else { &since },
        ];
        let join = join.concat();
        text += &match kind % 20 {
            0 | 1 => format!("\"type\":\"join\",\"room\":\"{room}\"{join}"),
            2 => format!("\"type\":\"leave\",\"room\":\"{room}\""),
            3 => format!("\"type\":\"switch\",\"from\":\"{room}\",\"to\":\"{}\"{join}", self.room()),
            4..=6 => {
                let extras = [
                    flag(1, ",\"receipt\":true"),
                    flag(2, ",\"echo\":false"),
                    flag(3, ",\"tag\":\"a\""),
                    flag(4, ",\"key\":\"k\""),
                ];
                format!("\"type\":\"message\",\"room\":\"{room}\",\"content\":{seq}{}", extras.concat())
            }
            7 => format!("\"type\":\"signal\",\"room\":\"{room}\",\"content\":[]"),
            8 => format!("\"type\":\"delete\",\"room\":\"{room}\",\"seq\":{seq}"),
            9 => format!("\"type\":\"direct\",\"to\":\"{user}\",\"content\":{{}}{}", flag(1, ",\"key\":\"k\"")),
            10 => format!("\"type\":\"ack\",\"room\":\"{room}\",\"seq\":{seq}"),
            11 => format!("\"type\":\"read\",\"room\":\"{room}\",\"seq\":{seq}"),
            12 => format!("\"type\":\"history\",\"room\":\"{room}\",\"before\":{seq}{}", flag(1, ",\"limit\":2")),
            13 => format!("\"type\":\"presence\",\"room\":\"{room}\",\"after\":\"{user}\",\"limit\":1"),
            14 => "\"type\":\"rooms\",\"limit\":1".to_owned(),
            15 => {
                let session = remembered(sessions).unwrap_or_default();
                let rooms = format!("{{\"{room}\":{{\"epoch\":\"{epoch}\",\"seq\":{seq}}}}}");
                let resume = format!(",\"resume\":{{\"session\":\"{session}\",\"rooms\":{rooms}}}");
                format!("\"type\":\"connect\",\"name\":\"{user}\"{}", if fields & 2 == 0 { "" } else { &resume })
            }
            16 => format!("\"type\":\"connect\",\"token\":\"t{seq}\""),
            17 => {
                let word = ["kick", "ban", "mute", "unban", "unmute", "close"][usize::from(fields >> 1) % 6];
                format!("\"type\":\"{word}\",\"room\":\"{room}\",\"user\":\"{user}\"{}", flag(3, ",\"for_ms\":500"))
            }
            18 => "\"type\":\"ping\"".to_owned(),
            _ => "\"type\":\"pong\"".to_owned(),
        };
        text.push('}');
        text.into_bytes()
    }
}

const ROOMS: &[&str] = &["a", "b", "durable", "d2", "other", "@x", ""];
const USERS: &[&str] = &["ada", "bob", "cyd"];
