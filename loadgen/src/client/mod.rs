//! One connection's side of the protocol: bytes in, happenings and bytes out. No socket and no clock.
//!
//! Messages of the run are recognised by their stamp and read without parsing JSON; everything else, which is rare, is
//! parsed in full.

mod talk;

use std::io::Write;

use hubbub::codec::lines;
use hubbub::codec::websocket::frame::{encode_close_masked, encode_masked};
use hubbub::codec::websocket::handshake::{read_response, write_request};
use hubbub::codec::websocket::{Decoder, Opcode, Role};

use self::talk::{Talk, replies};
use crate::dialect::Dialect;
use crate::payload::Stamp;
use crate::resp;
use crate::scenario::ConnectBy;
use crate::target::Protocol;

/// What a connection has received, or come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The WebSocket upgrade was answered; over TCP, the `welcome` came.
    Opened {
        /// Since it was asked for.
        took_ns: u64,
    },
    /// It is in its room now.
    Joined {
        /// Since `join` was sent; `None` where there is no `join`.
        took_ns: Option<u64>,
        /// The room's head, where the server numbers messages.
        head: Option<u64>,
        /// Whether all that was missed is replayed, where that was asked for.
        recovered: bool,
    },
    /// A message with a stamp.
    Message {
        /// Its stamp.
        stamp: Stamp,
        /// The room's number for it.
        room_seq: Option<u64>,
    },
    /// Members came or went.
    Presence {
        /// How many.
        changes: u64,
    },
    /// Something else that should not come.
    Foreign,
    /// Its session goes on: its room's `ok` follows unasked.
    Resumed,
    /// The server has taken a message.
    Acked {
        /// The `id` that the message carried; `None` where answers come in the order of messages.
        id: Option<u64>,
        /// The room's number for it.
        seq: Option<u64>,
        /// Whether the server says that the message is on disk.
        durable: bool,
    },
    /// A sign of life was asked for, and is given.
    Ping,
    /// The server refused something after the join.
    Error {
        /// The `id` that it carried; `None` where answers come in the order of messages.
        id: Option<u64>,
        /// Whether the same may be taken later.
        temporary: bool,
        /// What it said.
        why: String,
    },
    /// The server says that it leaves messages out.
    GapTold,
    /// The end, and why. Nothing comes after it.
    Ended(String),
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    talk: Talk,
}

#[derive(Debug)]
enum Wire {
    /// The response to the upgrade, as far as it has come, and what was random in the request.
    Head {
        bytes: Vec<u8>,
        entropy: [u8; 16],
    },
    Frames(Decoder),
    Lines(lines::Decoder),
    Resp(resp::Decoder),
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Stage {
    /// TCP does not stand yet.
    Connecting,
    /// The upgrade is not answered yet.
    Upgrading,
    /// The `welcome` has not come yet.
    Welcoming,
    /// The `ok` for the join has not come yet.
    Joining,
    /// In its room.
    Joined,
    /// The `ok` for the leave has not come yet.
    Leaving,
    /// Connected, and in no room.
    Outside,
    /// Over.
    Ended,
}

impl Client {
    /// Connection `index` of the scenario, before TCP stands.
    #[must_use]
    pub fn new(index: u32, now_ns: u64) -> Self {
        Self { wire: Wire::Lines(lines::Decoder::new()), talk: Talk::new(index, now_ns) }
    }

    /// The same connection's next attempt. With `seen`, the room's number for the last message that it has had, it asks
    /// for what it has missed.
    #[must_use]
    pub fn again(&mut self, seen: Option<u64>, now_ns: u64) -> Self {
        let (epoch, session) = (self.talk.epoch.take(), self.talk.session.take());
        let talk = Talk { epoch, session, seen, ..Talk::new(self.talk.index, now_ns) };
        Self { wire: Wire::Lines(lines::Decoder::new()), talk }
    }

    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.talk.stage
    }

    /// TCP stands: begins the handshake, which is over at once where there is none. Returns how long TCP took.
    pub fn connected(&mut self, dialect: &mut Dialect, now_ns: u64, out: &mut Vec<u8>) -> u64 {
        let took_ns = now_ns.saturating_sub(self.talk.since_ns);
        match dialect.target.protocol {
            Protocol::Lines => {
                self.talk.enter(Stage::Welcoming, now_ns);
                self.wire.text(self.talk.connect(dialect).as_bytes(), dialect, out);
                return took_ns;
            }
            Protocol::Resp => {
                self.wire = Wire::Resp(resp::Decoder::default());
                self.talk.enter(Stage::Joined, now_ns);
                return took_ns;
            }
            Protocol::Chat | Protocol::Relay => {}
        }
        let entropy = dialect.entropy();
        let path = dialect.path(self.talk.index);
        write_request(&dialect.target.authority, &path, dialect.subprotocol(), entropy, out);
        self.wire = Wire::Head { bytes: Vec::new(), entropy };
        self.talk.enter(Stage::Upgrading, now_ns);
        took_ns
    }

    /// Takes what was received; `tell` hears of everything that it means, and answers go to `out`.
    pub fn received(
        &mut self,
        bytes: &mut [u8],
        dialect: &mut Dialect,
        now_ns: u64,
        out: &mut Vec<u8>,
        tell: &mut impl FnMut(Happening),
    ) {
        if self.talk.stage == Stage::Ended {
            return;
        }
        if let Wire::Head { .. } = self.wire {
            return self.response(bytes, dialect, now_ns, out, tell);
        }
        let Self { wire, talk } = self;
        let ended = match wire {
            Wire::Frames(decoder) => talk.frames(decoder, bytes, dialect, now_ns, out, tell),
            Wire::Lines(decoder) => talk.lines(decoder, bytes, dialect, now_ns, out, tell),
            Wire::Resp(decoder) => replies(decoder, bytes, tell),
            Wire::Head { .. } => None,
        };
        if let Some(why) = ended {
            self.end();
            tell(Happening::Ended(why));
        }
    }

    /// Appends a message.
    pub fn message(&self, stamp: Stamp, dialect: &mut Dialect, out: &mut Vec<u8>) {
        let mut text = std::mem::take(&mut dialect.text);
        text.clear();
        let bytes = dialect.scenario.payload_bytes as usize;
        if dialect.target.protocol == Protocol::Relay {
            stamp.write(bytes, &mut text);
        } else {
            text.extend_from_slice(b"{\"type\":\"message\",\"room\":\"");
            text.extend_from_slice(dialect.room(self.talk.index).as_bytes());
            text.extend_from_slice(b"\",\"content\":\"");
            stamp.write(bytes, &mut text);
            text.push(b'"');
            if dialect.scenario.ack_ids {
                text.extend_from_slice(format!(",\"id\":{}", stamp.planned_ns).as_bytes());
            }
            text.push(b'}');
        }
        self.wire.text(&text, dialect, out);
        dialect.text = text;
    }

    /// Appends a message that comes back to nobody, and whose answer carries `id`.
    pub fn publish(&mut self, stamp: Stamp, id: u64, dialect: &mut Dialect, out: &mut Vec<u8>) {
        let bytes = dialect.scenario.payload_bytes as usize;
        let index = self.talk.index;
        let opening = self.talk.opening.get_or_insert_with(|| match self.wire {
            Wire::Resp(_) => resp::xadd_opening(&dialect.room(index), bytes).into(),
            _ => publish_opening(&dialect.room(index)).into(),
        });
        match self.wire {
            Wire::Resp(_) => {
                out.extend_from_slice(opening);
                stamp.write(bytes, out);
                out.extend_from_slice(resp::XADD_END);
            }
            Wire::Lines(_) => {
                write_publish(opening, stamp, bytes, id, out);
                out.push(b'\n');
            }
            Wire::Frames(_) | Wire::Head { .. } => {
                let mut text = std::mem::take(&mut dialect.text);
                text.clear();
                write_publish(opening, stamp, bytes, id, &mut text);
                self.wire.text(&text, dialect, out);
                dialect.text = text;
            }
        }
    }

    /// Appends a `leave`. Its answer brings the connection to [`Stage::Outside`].
    pub fn leave(&mut self, dialect: &mut Dialect, now_ns: u64, out: &mut Vec<u8>) {
        let room = dialect.room(self.talk.index);
        let text = format!("{{\"type\":\"leave\",\"room\":\"{room}\",\"id\":{LEAVE_ID}}}");
        self.talk.enter(Stage::Leaving, now_ns);
        self.wire.text(text.as_bytes(), dialect, out);
    }

    /// Appends a `join`, of a connection that is in no room.
    pub fn join(&mut self, dialect: &mut Dialect, now_ns: u64, out: &mut Vec<u8>) {
        let text = self.talk.join(dialect);
        self.talk.enter(Stage::Joining, now_ns);
        self.wire.text(text.as_bytes(), dialect, out);
    }

    /// Appends a sign of life that asks for nothing: a server that is gone answers it with a reset.
    pub fn show_life(&self, dialect: &mut Dialect, out: &mut Vec<u8>) {
        match self.wire {
            Wire::Lines(_) => write_line(PONG, out),
            Wire::Frames(_) => encode_masked(Opcode::Pong, b"", dialect.mask_key(), out),
            Wire::Head { .. } | Wire::Resp(_) => {}
        }
    }

    /// Appends a proper farewell.
    pub fn goodbye(&mut self, dialect: &mut Dialect, out: &mut Vec<u8>) {
        if matches!(self.wire, Wire::Frames(_)) && self.talk.stage < Stage::Ended {
            encode_close_masked(Some(1000), "", dialect.mask_key(), out);
        }
        self.end();
    }

    /// Nothing that comes is listened to any more.
    pub fn end(&mut self) {
        self.talk.stage = Stage::Ended;
    }

    /// Takes a part of the response to the upgrade; frames may follow it at once.
    fn response(
        &mut self,
        part: &[u8],
        dialect: &mut Dialect,
        now_ns: u64,
        out: &mut Vec<u8>,
        tell: &mut impl FnMut(Happening),
    ) {
        let Wire::Head { bytes, entropy } = &mut self.wire else { return };
        bytes.extend_from_slice(part);
        let head = match read_response(bytes, *entropy, dialect.subprotocol()) {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(error) => {
                self.end();
                return tell(Happening::Ended(error.to_string()));
            }
        };
        let mut rest = bytes.split_off(head);
        self.wire = Wire::Frames(Decoder::new(Role::Client));
        tell(Happening::Opened { took_ns: now_ns.saturating_sub(self.talk.since_ns) });
        if dialect.target.protocol == Protocol::Relay {
            self.talk.enter(Stage::Joined, now_ns);
            tell(Happening::Joined { took_ns: None, head: None, recovered: false });
        } else {
            self.talk.enter(Stage::Welcoming, now_ns);
            if dialect.scenario.connect_by == ConnectBy::Command {
                self.wire.text(self.talk.connect(dialect).as_bytes(), dialect, out);
            }
        }
        self.received(&mut rest, dialect, now_ns, out, tell);
    }
}

impl Wire {
    fn text(&self, text: &[u8], dialect: &mut Dialect, out: &mut Vec<u8>) {
        match self {
            Self::Lines(_) => write_line(text, out),
            // Redis is told nothing but messages.
            Self::Resp(_) => {}
            Self::Frames(_) | Self::Head { .. } => encode_masked(Opcode::Text, text, dialect.mask_key(), out),
        }
    }
}

fn publish_opening(room: &str) -> Vec<u8> {
    format!("{{\"type\":\"message\",\"room\":\"{room}\",\"echo\":false,\"content\":\"").into_bytes()
}

fn write_publish(opening: &[u8], stamp: Stamp, bytes: usize, id: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(opening);
    stamp.write(bytes, out);
    out.extend_from_slice(b"\",\"id\":");
    // Writing to memory cannot fail.
    let _ = write!(out, "{id}");
    out.push(b'}');
}

fn write_line(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(text);
    out.push(b'\n');
}

const PONG: &[u8] = b"{\"type\":\"pong\"}";
const JOIN_ID: u64 = 1;
const LEAVE_ID: u64 = 2;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hubbub::codec::http;
    use hubbub::codec::websocket::Item;
    use hubbub::codec::websocket::frame::encode;
    use hubbub::codec::websocket::handshake::{SUBPROTOCOL_JSON, Upgrade};

    use super::*;
    use crate::scenario::Settings;
    use crate::target::Target;
    use crate::users::Users;

    /// A client, and what it says and tells.
    struct Talking {
        client: Client,
        dialect: Dialect,
        out: Vec<u8>,
        told: Vec<Happening>,
    }

    impl Talking {
        fn to(url: &str, keys: &str) -> Self {
            let scenario = Settings::parse(&format!("kind = 'rooms'\nroom_prefix = 'r'\n{keys}")).unwrap();
            let scenario = Arc::new(scenario.decide("test".to_owned()).unwrap());
            let dialect = Dialect::new(scenario, Arc::new(Target::parse(url).unwrap()), Users::default(), 1);
            Self { client: Client::new(7, 1_000), dialect, out: Vec::new(), told: Vec::new() }
        }

        fn connected(&mut self) -> String {
            assert_eq!(self.client.connected(&mut self.dialect, 3_000, &mut self.out), 2_000);
            self.said()
        }

        /// Takes bytes at time `now`, in one piece or one at a time.
        fn take(&mut self, bytes: &[u8], now: u64, in_pieces: bool) {
            let told = &mut self.told;
            for part in bytes.to_vec().chunks_mut(if in_pieces { 1 } else { usize::MAX }) {
                self.client
                    .received(part, &mut self.dialect, now, &mut self.out, &mut |happening| told.push(happening));
            }
        }

        fn said(&mut self) -> String {
            String::from_utf8(std::mem::take(&mut self.out)).unwrap()
        }

        /// The frames said, unmasked.
        fn frames(&mut self) -> Vec<String> {
            let mut bytes = std::mem::take(&mut self.out);
            let (mut decoder, mut input, mut said) = (Decoder::new(Role::Server), &mut bytes[..], Vec::new());
            while let Some(item) = decoder.decode(&mut input, 4_096).unwrap() {
                said.push(match item {
                    Item::Text(text) => String::from_utf8(text.into_owned()).unwrap(),
                    other => format!("{other:?}"),
                });
            }
            said
        }

        fn told(&mut self) -> Vec<Happening> {
            std::mem::take(&mut self.told)
        }

        /// The server's answer to the upgrade that was just said.
        fn upgrade(&mut self, subprotocol: Option<&'static str>) -> Vec<u8> {
            let request = self.said().into_bytes();
            let (parsed, _) = http::parse(&request).unwrap().unwrap();
            let mut response = Vec::new();
            Upgrade::negotiate(&parsed, subprotocol).unwrap().write(&mut response);
            response
        }
    }

    fn frame(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(Opcode::Text, text.as_bytes(), &mut bytes);
        bytes
    }

    fn stamped(stamp: Stamp, seq: u64) -> String {
        let mut content = Vec::new();
        stamp.write(64, &mut content);
        let content = String::from_utf8(content).unwrap();
        format!(
            "{{\"type\":\"message\",\"room\":\"r-1\",\"seq\":{seq},\"sender\":\"load-6\",\"content\":\"{content}\"}}"
        )
    }

    const STAMP: Stamp = Stamp { run: 5, sender: 6, seq: 1, planned_ns: 77, lag_us: 0 };
    const WELCOME: &str = r#"{"type":"welcome","connection":"c","user":"load-7","heartbeat_ms":30000}"#;
    const JOINED: &str = r#"{"type":"ok","id":1,"room":"r-1","epoch":"0","seq":41,"members":2,"role":"member"}"#;

    #[test]
    fn a_chat_is_joined_by_url() {
        for in_pieces in [false, true] {
            let mut talking = Talking::to("ws://127.0.0.1:9000/ws", "");
            talking.client.connected(&mut talking.dialect, 3_000, &mut talking.out);
            assert!(talking.out.starts_with(b"GET /ws?name=load-7 HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n"));
            let mut answer = talking.upgrade(Some(SUBPROTOCOL_JSON));
            answer.extend(frame(WELCOME));
            talking.take(&answer, 4_000, in_pieces);
            assert_eq!(talking.told(), [Happening::Opened { took_ns: 1_000 }]);
            assert_eq!(talking.frames(), [r#"{"type":"join","room":"r-1","id":1}"#]);
            talking.take(&frame(JOINED), 9_000, in_pieces);
            assert_eq!(talking.told(), [Happening::Joined { took_ns: Some(5_000), head: Some(41), recovered: false }]);
            talking.take(&frame(&stamped(STAMP, 42)), 9_100, in_pieces);
            assert_eq!(talking.told(), [Happening::Message { stamp: STAMP, room_seq: Some(42) }]);
        }
    }

    #[test]
    fn a_chat_is_joined_by_command() {
        let mut talking = Talking::to("ws://127.0.0.1:9000", "connect_by = 'command'");
        talking.client.connected(&mut talking.dialect, 3_000, &mut talking.out);
        assert!(talking.out.starts_with(b"GET /ws HTTP/1.1\r\n"));
        let answer = talking.upgrade(None);
        talking.take(&answer, 4_000, false);
        assert_eq!(talking.frames(), [r#"{"type":"connect","name":"load-7"}"#]);
        talking.take(&frame(WELCOME), 4_500, false);
        assert_eq!(talking.frames(), [r#"{"type":"join","room":"r-1","id":1}"#]);
    }

    #[test]
    fn a_chat_over_lines() {
        let mut talking = Talking::to("tcp://127.0.0.1:9001", "ack_ids = true\npayload_bytes = 52");
        assert_eq!(talking.connected(), "{\"type\":\"connect\",\"name\":\"load-7\"}\n");
        talking.take(format!("{WELCOME}\n{JOINED}\n").as_bytes(), 4_000, true);
        let opened = Happening::Opened { took_ns: 1_000 };
        assert_eq!(talking.told(), [opened, Happening::Joined { took_ns: Some(0), head: Some(41), recovered: false }]);
        assert_eq!(talking.said(), "{\"type\":\"join\",\"room\":\"r-1\",\"id\":1}\n");
        let lines =
            format!("{}\n{{\"type\":\"ping\"}}\n{{\"type\":\"ok\",\"id\":77,\"durable\":true}}\n", stamped(STAMP, 42));
        talking.take(lines.as_bytes(), 5_000, true);
        let message = Happening::Message { stamp: STAMP, room_seq: Some(42) };
        let acked = Happening::Acked { id: Some(77), seq: None, durable: true };
        assert_eq!(talking.told(), [message, Happening::Ping, acked]);
        assert_eq!(talking.said(), "{\"type\":\"pong\"}\n");
        talking.client.message(STAMP, &mut talking.dialect, &mut talking.out);
        let sent = talking.said();
        assert!(sent.starts_with("{\"type\":\"message\",\"room\":\"r-1\",\"content\":\"~lg2"), "{sent}");
        assert!(sent.ends_with("\",\"id\":77}\n"), "{sent}");
    }

    #[test]
    fn a_relay_is_joined_by_its_path() {
        let mut talking = Talking::to("ws://127.0.0.1:9000/relay/{room}", "payload_bytes = 52");
        talking.client.connected(&mut talking.dialect, 3_000, &mut talking.out);
        assert!(talking.out.starts_with(b"GET /relay/r-1 HTTP/1.1\r\n"));
        let answer = talking.upgrade(None);
        talking.take(&answer, 4_000, false);
        let joined = Happening::Joined { took_ns: None, head: None, recovered: false };
        assert_eq!(talking.told(), [Happening::Opened { took_ns: 1_000 }, joined]);
        talking.client.message(STAMP, &mut talking.dialect, &mut talking.out);
        let sent = talking.frames();
        talking.take(&frame(&sent[0]), 5_000, true);
        talking.take(&frame("hello"), 5_000, true);
        assert_eq!(talking.told(), [Happening::Message { stamp: STAMP, room_seq: None }, Happening::Foreign]);
    }

    #[test]
    fn control_frames_are_answered() {
        let mut talking = Talking::to("ws://127.0.0.1:9000/relay/{room}", "");
        talking.client.connected(&mut talking.dialect, 3_000, &mut talking.out);
        let mut answer = talking.upgrade(None);
        answer.extend([0x89, 2, b'h', b'i', 0x88, 2, 0x0f, 0xa8]);
        talking.take(&answer, 4_000, true);
        assert_eq!(talking.told()[2..], [Happening::Ping, Happening::Ended("close 4008".to_owned())]);
        let said = talking.frames();
        assert!(said[0].starts_with("Pong(") && said[1].starts_with("Close { code: Some(4008)"), "{said:?}");
        talking.take(&frame("x"), 5_000, false);
        assert!(talking.told().is_empty(), "nothing is listened to after the end");
    }

    #[test]
    fn a_member_leaves_and_comes_again() {
        let mut talking = Talking::to("tcp://127.0.0.1:9001", "presence = true");
        talking.connected();
        talking.take(format!("{WELCOME}\n{JOINED}\n").as_bytes(), 4_000, false);
        assert!(talking.said().ends_with("\"room\":\"r-1\",\"presence\":true,\"id\":1}\n"));
        talking.told();
        talking.client.leave(&mut talking.dialect, 5_000, &mut talking.out);
        assert_eq!(talking.said(), "{\"type\":\"leave\",\"room\":\"r-1\",\"id\":2}\n");
        let pushed = r#"{"type":"presence","room":"r-1","joined":["a","b"],"left":["c"],"count":9}"#;
        talking.take(format!("{pushed}\n{}\n", r#"{"type":"ok","id":2}"#).as_bytes(), 6_000, true);
        assert_eq!(talking.told(), [Happening::Presence { changes: 3 }]);
        assert_eq!(talking.client.stage(), Stage::Outside);
        talking.client.join(&mut talking.dialect, 7_000, &mut talking.out);
        talking.take(format!("{JOINED}\n").as_bytes(), 7_500, false);
        assert_eq!(talking.told(), [Happening::Joined { took_ns: Some(500), head: Some(41), recovered: false }]);
    }

    #[test]
    fn a_dropped_connection_asks_for_what_it_missed() {
        let mut talking = Talking::to("tcp://127.0.0.1:9001", "drop_share = 0.5");
        talking.connected();
        talking.take(format!("{WELCOME}\n{JOINED}\n").as_bytes(), 4_000, false);
        talking.client = talking.client.again(Some(44), 8_000);
        talking.told();
        talking.said();
        talking.client.connected(&mut talking.dialect, 9_000, &mut talking.out);
        let joined = JOINED.replace("\"role\"", "\"recovered\":true,\"role\"");
        talking.take(format!("{WELCOME}\n{joined}\n").as_bytes(), 9_000, false);
        assert!(talking.said().contains(r#""since":{"epoch":"0","seq":44}"#));
        assert_eq!(talking.told()[1], Happening::Joined { took_ns: Some(0), head: Some(41), recovered: true });
    }

    /// A client that was dropped after message 44, and has said that it is back.
    fn back_with_its_session() -> Talking {
        let mut talking = Talking::to("tcp://127.0.0.1:9001", "drop_share = 0.5\nresume = true");
        talking.connected();
        let welcome = WELCOME.replace("\"user\"", "\"session\":\"5e55\",\"user\"");
        talking.take(format!("{welcome}\n{JOINED}\n").as_bytes(), 4_000, false);
        // The first attempt fails before the server says anything.
        talking.client = talking.client.again(Some(44), 7_000);
        talking.client = talking.client.again(Some(44), 8_000);
        talking.told();
        talking.said();
        talking.client.connected(&mut talking.dialect, 9_000, &mut talking.out);
        let rooms = r#"{"r-1":{"epoch":"0","seq":44}}"#;
        let resume = format!(r#""resume":{{"session":"5e55","rooms":{rooms}}}"#);
        assert_eq!(talking.said(), format!("{{\"type\":\"connect\",\"name\":\"load-7\",{resume}}}\n"));
        talking
    }

    #[test]
    fn a_session_goes_on_with_an_ok_that_nobody_asked_for() {
        let mut talking = back_with_its_session();
        let welcome = WELCOME.replace("\"user\"", "\"resumed\":true,\"user\"");
        let joined = JOINED.replace("\"id\":1,", "").replace("\"seq\":41", "\"seq\":94,\"recovered\":true");
        talking.take(format!("{welcome}\n{joined}\n{}\n", stamped(STAMP, 45)).as_bytes(), 9_000, true);
        let back = Happening::Joined { took_ns: Some(0), head: Some(94), recovered: true };
        let message = Happening::Message { stamp: STAMP, room_seq: Some(45) };
        assert_eq!(talking.told()[1..], [Happening::Resumed, back, message]);
        assert_eq!(talking.said(), "", "it joins nothing itself");
    }

    #[test]
    fn a_session_that_is_gone_is_joined_anew_from_where_it_left_off() {
        let mut talking = back_with_its_session();
        let welcome = WELCOME.replace("\"user\"", "\"resumed\":false,\"user\"");
        talking.take(format!("{welcome}\n").as_bytes(), 9_000, true);
        assert!(talking.said().contains(r#""since":{"epoch":"0","seq":44}"#));
        let unasked = JOINED.replace("\"id\":1,", "");
        talking.take(format!("{unasked}\n").as_bytes(), 9_100, true);
        assert_eq!(talking.client.stage(), Stage::Joining, "it is not the answer");
        talking.take(format!("{JOINED}\n").as_bytes(), 9_200, true);
        assert_eq!(talking.client.stage(), Stage::Joined);
    }

    #[test]
    fn a_publisher_asks_for_no_echo_and_hears_each_ok() {
        let mut talking = Talking::to("tcp://127.0.0.1:9001", "payload_bytes = 60");
        talking.connected();
        talking.take(format!("{WELCOME}\n{JOINED}\n").as_bytes(), 4_000, false);
        talking.said();
        talking.told();
        talking.client.publish(STAMP, 7, &mut talking.dialect, &mut talking.out);
        talking.client.publish(STAMP, 8, &mut talking.dialect, &mut talking.out);
        let said = talking.said();
        let lines: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines[0]["type"].as_str(), lines[0]["room"].as_str()), (Some("message"), Some("r-1")));
        assert_eq!((lines[0]["echo"].as_bool(), lines[0]["id"].as_u64()), (Some(false), Some(7)));
        assert_eq!((lines[0]["content"].as_str().unwrap().len(), lines[1]["id"].as_u64()), (60, Some(8)));
        let ok = r#"{"type":"ok","id":7,"room":"r-1","seq":42,"timestamp":1,"durable":true}"#;
        let spelt_otherwise = r#"{"type":"ok","room":"r-1","seq":43,"durable":false,"id":8}"#;
        talking.take(format!("{ok}\n{spelt_otherwise}\n").as_bytes(), 5_000, true);
        let acked = |id, seq, durable| Happening::Acked { id: Some(id), seq: Some(seq), durable };
        assert_eq!(talking.told(), [acked(7, 42, true), acked(8, 43, false)]);
    }

    #[test]
    fn a_publisher_to_redis_appends_to_a_stream_and_hears_each_answer() {
        let mut talking = Talking::to("redis://127.0.0.1:6379", "payload_bytes = 52");
        assert_eq!(talking.connected(), "", "there is no handshake");
        assert_eq!(talking.client.stage(), Stage::Joined);
        talking.client.publish(STAMP, 1, &mut talking.dialect, &mut talking.out);
        let said = talking.said();
        assert!(said.starts_with("*5\r\n$4\r\nXADD\r\n$3\r\nr-1\r\n$1\r\n*\r\n$1\r\nc\r\n$52\r\n~lg2"), "{said}");
        talking.take(b"$15\r\n1700000000000-0\r\n-MISCONF full\r\n", 5_000, true);
        let acked = Happening::Acked { id: None, seq: None, durable: false };
        let error = Happening::Error { id: None, temporary: false, why: "MISCONF full".to_owned() };
        assert_eq!(talking.told(), [acked, error]);
        talking.take(b"HTTP/1.1 400\r\n", 6_000, false);
        assert!(matches!(&talking.told()[..], [Happening::Ended(why)] if why.contains("Redis's protocol")));
    }

    #[test]
    fn refusals_end_the_handshake_and_later_errors_do_not() {
        let refusal = r#"{"type":"error","id":1,"code":"room_full","message":"the room is full","temporary":true}"#;
        let why = "error room_full: the room is full".to_owned();
        let mut talking = Talking::to("tcp://127.0.0.1:9001", "");
        talking.connected();
        talking.take(format!("{WELCOME}\n{refusal}\n").as_bytes(), 4_000, false);
        assert_eq!(talking.told()[1..], [Happening::Ended(why.clone())]);
        let mut talking = Talking::to("tcp://127.0.0.1:9001", "");
        talking.connected();
        talking.take(format!("{WELCOME}\n{JOINED}\n{refusal}\n").as_bytes(), 4_000, false);
        assert_eq!(talking.told()[2..], [Happening::Error { id: Some(1), temporary: true, why }]);
        assert_eq!(talking.client.stage(), Stage::Joined);
    }

    #[test]
    fn an_upgrade_that_is_refused_ends_the_connection() {
        let mut talking = Talking::to("ws://127.0.0.1:9000/ws", "");
        talking.connected();
        talking.take(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 4_000, true);
        assert_eq!(talking.told(), [Happening::Ended("the server answered 503".to_owned())]);
    }
}
