//! What is said above framing: the steps from `welcome` to being in a room, and what each text that comes means.

use hubbub::codec::json::{ServerEvent, decode_event};
use hubbub::codec::lines;
use hubbub::codec::websocket::frame::{encode_close_masked, encode_masked};
use hubbub::codec::websocket::{Decoder, Item, Opcode};

use super::{Happening, JOIN_ID, LEAVE_ID, PONG, Stage, write_line};
use crate::dialect::{Dialect, MessageOk};
use crate::payload::Stamp;
use crate::resp;
use crate::target::Protocol;

/// The part above framing.
#[derive(Debug)]
pub(super) struct Talk {
    /// Which of the scenario's connections.
    pub(super) index: u32,
    pub(super) stage: Stage,
    /// When the present stage began.
    pub(super) since_ns: u64,
    /// The room's epoch, where the scenario may need it to come back.
    pub(super) epoch: Option<Box<str>>,
    /// The secret of its session, likewise.
    pub(super) session: Option<Box<str>>,
    /// Whether the `ok` of its room comes unasked.
    pub(super) is_resumed: bool,
    /// What comes before the content of each message, where it publishes.
    pub(super) opening: Option<Box<[u8]>>,
    /// The last message seen before coming back.
    pub(super) seen: Option<u64>,
}

impl Talk {
    pub(super) fn new(index: u32, now_ns: u64) -> Self {
        Self {
            index,
            stage: Stage::Connecting,
            since_ns: now_ns,
            epoch: None,
            session: None,
            is_resumed: false,
            opening: None,
            seen: None,
        }
    }

    pub(super) fn enter(&mut self, stage: Stage, now_ns: u64) {
        self.stage = stage;
        self.since_ns = now_ns;
    }

    /// Returns why the connection ends, if it does.
    pub(super) fn frames(
        &mut self,
        decoder: &mut Decoder,
        mut input: &mut [u8],
        dialect: &mut Dialect,
        now_ns: u64,
        out: &mut Vec<u8>,
        tell: &mut impl FnMut(Happening),
    ) -> Option<String> {
        loop {
            let item = match decoder.decode(&mut input, MESSAGE_BYTES_MAX) {
                Ok(Some(item)) => item,
                Ok(None) => return None,
                Err(error) => return Some(format!("the server broke the protocol: {error}")),
            };
            let ended = match &item {
                Item::Text(text) | Item::Binary(text) => {
                    let mut answer = |text: &[u8], dialect: &mut Dialect| {
                        encode_masked(Opcode::Text, text, dialect.mask_key(), out);
                    };
                    self.text(text, dialect, now_ns, &mut answer, tell)
                }
                Item::Ping(payload) => {
                    encode_masked(Opcode::Pong, payload, dialect.mask_key(), out);
                    tell(Happening::Ping);
                    None
                }
                Item::Pong(_) => None,
                Item::Close { code, reason } => {
                    encode_close_masked(*code, "", dialect.mask_key(), out);
                    Some(format!("close {} {reason}", code.unwrap_or(1005)).trim_end().to_owned())
                }
            };
            if ended.is_some() {
                return ended;
            }
        }
    }

    pub(super) fn lines(
        &mut self,
        decoder: &mut lines::Decoder,
        input: &[u8],
        dialect: &mut Dialect,
        now_ns: u64,
        out: &mut Vec<u8>,
        tell: &mut impl FnMut(Happening),
    ) -> Option<String> {
        let mut input = input;
        loop {
            let line = match decoder.decode(&mut input, MESSAGE_BYTES_MAX) {
                Ok(Some(line)) => line,
                Ok(None) => return None,
                Err(error) => return Some(format!("the server broke the protocol: {error}")),
            };
            let ended = self.text(&line, dialect, now_ns, &mut |text, _| write_line(text, out), tell);
            if ended.is_some() {
                return ended;
            }
        }
    }

    /// One message or event.
    #[inline]
    fn text(
        &mut self,
        text: &[u8],
        dialect: &mut Dialect,
        now_ns: u64,
        answer: &mut impl FnMut(&[u8], &mut Dialect),
        tell: &mut impl FnMut(Happening),
    ) -> Option<String> {
        let is_chat = dialect.target.protocol != Protocol::Relay;
        if is_chat
            && self.stage == Stage::Joined
            && let Some(MessageOk { id, seq, durable }) = dialect.oks.read(text)
        {
            tell(Happening::Acked { id: Some(id), seq: Some(seq), durable });
            return None;
        }
        if let Some(at) = dialect.stamps.find(text) {
            let room_seq = if is_chat { dialect.seqs.read(text) } else { None };
            tell(Stamp::read(&text[at..]).map_or(Happening::Foreign, |stamp| Happening::Message { stamp, room_seq }));
            return None;
        }
        if !is_chat {
            tell(Happening::Foreign);
            return None;
        }
        self.event(text, dialect, now_ns, answer, tell)
    }

    #[cold]
    fn event(
        &mut self,
        text: &[u8],
        dialect: &mut Dialect,
        now_ns: u64,
        answer: &mut impl FnMut(&[u8], &mut Dialect),
        tell: &mut impl FnMut(Happening),
    ) -> Option<String> {
        let Ok(event) = decode_event(text) else {
            tell(Happening::Foreign);
            return None;
        };
        let took_ns = now_ns.saturating_sub(self.since_ns);
        match (event.kind(), self.stage) {
            ("welcome", Stage::Welcoming) => {
                if dialect.target.protocol == Protocol::Lines {
                    tell(Happening::Opened { took_ns });
                }
                if dialect.scenario.resume {
                    self.session = event.text("session").map(|session| session.into());
                }
                self.is_resumed = event.flag("resumed").unwrap_or_default();
                if self.is_resumed {
                    tell(Happening::Resumed);
                } else {
                    let text = self.join(dialect);
                    answer(text.as_bytes(), dialect);
                }
                self.enter(Stage::Joining, now_ns);
            }
            ("ok", Stage::Joining) if event.integer("id") == (!self.is_resumed).then_some(JOIN_ID) => {
                self.enter(Stage::Joined, now_ns);
                if dialect.scenario.drop_share > 0.0 {
                    self.epoch = event.text("epoch").map(|epoch| epoch.into());
                }
                let recovered = event.flag("recovered").unwrap_or_default();
                tell(Happening::Joined { took_ns: Some(took_ns), head: event.integer("seq"), recovered });
            }
            ("ok", Stage::Leaving) if event.integer("id") == Some(LEAVE_ID) => self.enter(Stage::Outside, now_ns),
            ("ok", _) if self.stage >= Stage::Joined => tell(Happening::Acked {
                id: event.integer("id"),
                seq: event.integer("seq"),
                durable: event.flag("durable").unwrap_or_default(),
            }),
            ("error", _) if self.stage >= Stage::Joined => tell(Happening::Error {
                id: event.integer("id"),
                temporary: event.flag("temporary").unwrap_or_default(),
                why: why(&event),
            }),
            ("error", _) => return Some(why(&event)),
            ("ping", _) => {
                answer(PONG, dialect);
                tell(Happening::Ping);
            }
            ("gap", _) => tell(Happening::GapTold),
            ("presence", _) => {
                tell(Happening::Presence { changes: (event.texts("joined").len() + event.texts("left").len()) as u64 });
            }
            ("closing", _) => return Some("the server says that it closes".to_owned()),
            // A message without our stamp; what was never asked for cannot come.
            ("message", _) => tell(Happening::Foreign),
            _ => {}
        }
        None
    }

    /// The command by which it says who it is, and where it left off.
    pub(super) fn connect(&self, dialect: &Dialect) -> String {
        match (&self.session, &self.epoch, self.seen) {
            (Some(session), Some(epoch), Some(seq)) => {
                let rooms = format!("{{\"{}\":{{\"epoch\":\"{epoch}\",\"seq\":{seq}}}}}", dialect.room(self.index));
                dialect.connect(self.index, &format!(",\"resume\":{{\"session\":\"{session}\",\"rooms\":{rooms}}}"))
            }
            _ => dialect.connect(self.index, ""),
        }
    }

    pub(super) fn join(&self, dialect: &Dialect) -> String {
        let room = dialect.room(self.index);
        let presence = if dialect.scenario.presence { ",\"presence\":true" } else { "" };
        let since = match (&self.epoch, self.seen) {
            (Some(epoch), Some(seq)) => format!(",\"since\":{{\"epoch\":\"{epoch}\",\"seq\":{seq}}}"),
            _ => String::new(),
        };
        format!("{{\"type\":\"join\",\"room\":\"{room}\"{presence}{since},\"id\":{JOIN_ID}}}")
    }
}

/// What Redis says. Its answers come in the order of commands, and whether one waited for the disk is its own setting.
pub(super) fn replies(decoder: &mut resp::Decoder, input: &[u8], tell: &mut impl FnMut(Happening)) -> Option<String> {
    let mut input = input;
    loop {
        tell(match decoder.decode(&mut input) {
            Ok(Some(resp::Reply::Done)) => Happening::Acked { id: None, seq: None, durable: false },
            Ok(Some(resp::Reply::Error(why))) => Happening::Error { id: None, temporary: false, why },
            Ok(None) => return None,
            Err(error) => return Some(format!("the server broke the protocol: {error}")),
        });
    }
}

fn why(event: &ServerEvent<'_>) -> String {
    let field = |name| event.text(name).unwrap_or_default();
    format!("error {}: {}", field("code"), field("message"))
}

const MESSAGE_BYTES_MAX: usize = 4 << 20;
