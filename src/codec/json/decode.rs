//! Reads commands.
//!
//! A command is scanned once as a whole before any field is judged, so that an error can carry the command's `id`
//! wherever it stands. Fields that no command knows are skipped; fields that this command does not use are not judged.
//! An optional field that is `null` is as good as absent. Names of rooms and users are checked by the core.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::ids::{Epoch, Seq};
use crate::limits::{JSON_DEPTH_MAX, LABEL_BYTES_MAX, ROOMS_PER_CONNECTION_MAX, TAGS_MAX};
use crate::message::close::ErrorCode;
use crate::message::command::{Command, CommandBody, Connect, HistoryFrom, Join, Measure, Position, Publish, Resume};

use super::scan::{Fault, FaultKind, Scanner, Value, unescape};

/// Why nothing could be made of a command. The connection stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The command's tag, where it could be read.
    pub id: Option<u64>,
    /// `bad_request` or `unknown_type`.
    pub code: ErrorCode,
    /// What was wrong, for people.
    pub message: Cow<'static, str>,
}

/// Reads one command: one JSON object. Borrows from `bytes` what need not be changed.
pub fn decode(bytes: &[u8]) -> Result<Command<'_>, DecodeError> {
    let bad = |id, message| DecodeError { id, code: ErrorCode::BadRequest, message };
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| bad(None, "the command is not UTF-8".into()))?;
    let mut fields = Fields::default();
    let scanned = Scanner::new(text).object(|name, value| fields.note(name, value));
    let id = fields.integer("id");
    let id_read = id.as_ref().copied().unwrap_or_default();
    let whole = scanned.map_err(|fault| describe(text, fault));
    let sound = whole.and(fields.fault.take().map_or(Ok(()), Err)).and(id.map(|_| ()));
    sound.map_err(|message| bad(id_read, message))?;
    let kind = fields.required_string("type").map_err(|message| bad(id_read, message))?;
    match fields.body(&kind) {
        Ok(Some(body)) => Ok(Command { id: id_read, body }),
        Ok(None) => Err(DecodeError { id: id_read, code: ErrorCode::UnknownType, message: name_unknown(&kind) }),
        Err(message) => Err(bad(id_read, message)),
    }
}

/// What is wrong, for people.
type Complaint = Cow<'static, str>;

fn describe(text: &str, fault: Fault) -> Complaint {
    let Fault { at, kind } = fault;
    match kind {
        FaultKind::Expected(_) if !text.trim_ascii_start().starts_with('{') => "a command is one JSON object".into(),
        FaultKind::Expected(what) => format!("not valid JSON: expected {what} at byte {at}").into(),
        FaultKind::ControlCharacter => {
            format!("not valid JSON: the control character at byte {at} must be escaped").into()
        }
        FaultKind::Escape => format!("not valid JSON: unknown escape at byte {at}").into(),
    }
}

fn name_unknown(kind: &str) -> Complaint {
    let mut end = kind.len().min(TYPE_ECHO_BYTES_MAX);
    while !kind.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < kind.len() { "…" } else { "" };
    format!("there is no command `{}{more}`", &kind[..end]).into()
}

/// What a command says, field by field, each as it was written.
#[derive(Default)]
struct Fields<'a> {
    /// Names and values. No name twice, and none but those of [`KNOWN`].
    found: SmallVec<[(&'static str, &'a str); 8]>,
    /// The first thing that is wrong with a member.
    fault: Option<Complaint>,
}

impl<'a> Fields<'a> {
    /// Takes up one member.
    #[inline]
    fn note(&mut self, written: &'a str, value: Value<'a>) {
        let known = |name: &str| KNOWN.iter().copied().find(|known| *known == name);
        // A name may be written with escapes, as any string may.
        let name = match known(written) {
            None if written.contains('\\') => unescape(written).and_then(|name| known(&name)),
            name => name,
        };
        if value.too_deep && self.fault.is_none() {
            let which = name.map_or("the command".into(), |name| format!("`{name}`"));
            self.fault = Some(format!("{which} nests deeper than {JSON_DEPTH_MAX} levels").into());
        }
        let Some(name) = name else {
            return;
        };
        if self.raw(name).is_none() {
            self.found.push((name, value.raw));
        } else if self.fault.is_none() {
            self.fault = Some(format!("`{name}` is there twice").into());
        }
    }

    /// What the command asks for; `None` if no command is called `kind`.
    fn body(&self, kind: &str) -> Result<Option<CommandBody<'a>>, Complaint> {
        let body = match kind {
            "message" => CommandBody::Message(self.publish()?),
            "connect" => CommandBody::Connect(self.connect()?),
            "join" => CommandBody::Join(self.join("room")?),
            "leave" => CommandBody::Leave { room: self.required_string("room")? },
            "switch" => CommandBody::Switch { from: self.required_string("from")?, to: self.join("to")? },
            "signal" => CommandBody::Signal { room: self.required_string("room")?, content: self.content()? },
            "delete" => {
                let seq = self.integer("seq")?.ok_or_else(|| missing("seq"))?;
                CommandBody::Delete { room: self.required_string("room")?, seq: Seq(seq) }
            }
            "direct" => CommandBody::Direct {
                to: self.required_string("to")?,
                content: self.content()?,
                key: self.label("key")?,
            },
            "ack" => {
                let seq = self.integer("seq")?.ok_or_else(|| missing("seq"))?;
                CommandBody::Ack { room: self.required_string("room")?, seq: Seq(seq) }
            }
            "read" => {
                let seq = self.integer("seq")?.ok_or_else(|| missing("seq"))?;
                CommandBody::Read { room: self.required_string("room")?, seq: Seq(seq) }
            }
            "history" => {
                let room = self.required_string("room")?;
                CommandBody::History { room, from: self.history_from()?, limit: self.integer("limit")? }
            }
            "presence" => {
                let room = self.required_string("room")?;
                CommandBody::Presence { room, after: self.string("after")?, limit: self.integer("limit")? }
            }
            "rooms" => CommandBody::Rooms { after: self.string("after")?, limit: self.integer("limit")? },
            "kick" => self.moderate(Measure::Kick)?,
            "ban" => self.moderate(Measure::Ban)?,
            "mute" => self.moderate(Measure::Mute)?,
            "unban" => self.moderate(Measure::Unban)?,
            "unmute" => self.moderate(Measure::Unmute)?,
            "close" => CommandBody::Close { room: self.required_string("room")? },
            "ping" => CommandBody::Ping,
            "pong" => CommandBody::Pong,
            _ => return Ok(None),
        };
        Ok(Some(body))
    }

    fn moderate(&self, measure: Measure) -> Result<CommandBody<'a>, Complaint> {
        let (room, user) = (self.required_string("room")?, self.required_string("user")?);
        Ok(CommandBody::Moderate { room, user, measure, for_ms: self.integer("for_ms")? })
    }

    fn publish(&self) -> Result<Publish<'a>, Complaint> {
        Ok(Publish {
            room: self.required_string("room")?,
            content: self.content()?,
            key: self.label("key")?,
            tag: self.label("tag")?,
            receipt: self.boolean("receipt")?.unwrap_or(false),
            echo: self.boolean("echo")?.unwrap_or(true),
        })
    }

    fn connect(&self) -> Result<Connect<'a>, Complaint> {
        Ok(Connect { token: self.string("token")?, name: self.string("name")?, resume: self.resume()? })
    }

    fn join(&self, room: &'static str) -> Result<Join<'a>, Complaint> {
        Ok(Join {
            room: self.required_string(room)?,
            since: self.since()?,
            history: self.integer("history")?.unwrap_or(0),
            ack: self.boolean("ack")?.unwrap_or(false),
            tags: self.tags()?,
            presence: self.boolean("presence")?.unwrap_or(false),
        })
    }

    fn since(&self) -> Result<Option<Position>, Complaint> {
        let Some(raw) = self.present("since") else {
            return Ok(None);
        };
        position(raw).map(Some).ok_or("`since` must be {\"epoch\": 16 hexadecimal digits, \"seq\": an integer}".into())
    }

    fn resume(&self) -> Result<Option<Resume<'a>>, Complaint> {
        let Some(raw) = self.present("resume") else {
            return Ok(None);
        };
        let (mut session, mut rooms, mut twice) = (None, None, false);
        let read = Scanner::new(raw).object(|name, value| match name {
            "session" => twice |= session.replace(value.raw).is_some(),
            "rooms" => twice |= rooms.replace(value.raw).is_some(),
            _ => {}
        });
        let session = session.and_then(quoted).and_then(|text| text.parse().ok());
        let (Some(session), Ok(()), false) = (session, read, twice) else {
            return Err(RESUME_SHAPE.into());
        };
        let mut positions = Vec::new();
        let mut fault = None;
        let read =
            Scanner::new(rooms.unwrap_or("{}")).object(|name, value| match (unescape(name), position(value.raw)) {
                (Some(_), Some(_)) if positions.len() == ROOMS_PER_CONNECTION_MAX => {
                    fault = Some(format!("`resume` has more than {ROOMS_PER_CONNECTION_MAX} rooms"));
                }
                (Some(room), Some(position)) => positions.push((room, position)),
                _ => fault = Some(RESUME_SHAPE.to_owned()),
            });
        match (read, fault) {
            (Ok(()), None) => Ok(Some(Resume { session, rooms: positions })),
            (_, Some(fault)) => Err(fault.into()),
            (Err(_), None) => Err(RESUME_SHAPE.into()),
        }
    }

    fn tags(&self) -> Result<Vec<Cow<'a, str>>, Complaint> {
        let Some(raw) = self.present("tags") else {
            return Ok(Vec::new());
        };
        let mut tags = Vec::new();
        let mut fault = None;
        let read = Scanner::new(raw).array(|element| match quoted(element.raw) {
            _ if fault.is_some() => {}
            Some(_) if tags.len() == TAGS_MAX => fault = Some(format!("`tags` has more than {TAGS_MAX} entries")),
            Some(tag) if tag.len() > LABEL_BYTES_MAX => {
                fault = Some(format!("an entry of `tags` is longer than {LABEL_BYTES_MAX} bytes"));
            }
            Some(tag) => tags.push(tag),
            None => fault = Some("`tags` must be an array of strings".to_owned()),
        });
        match (read, fault) {
            (_, Some(fault)) => Err(fault.into()),
            (Err(_), None) => Err("`tags` must be an array of strings".into()),
            (Ok(()), None) => Ok(tags),
        }
    }

    fn history_from(&self) -> Result<HistoryFrom, Complaint> {
        match (self.integer("before")?, self.integer("after")?) {
            (None, None) => Ok(HistoryFrom::Latest),
            (Some(seq), None) => Ok(HistoryFrom::Before(Seq(seq))),
            (None, Some(seq)) => Ok(HistoryFrom::After(Seq(seq))),
            (Some(_), Some(_)) => Err("give `before` or `after`, not both".into()),
        }
    }

    /// The content as it was written, but for line ends, which stand between tokens only and become spaces.
    fn content(&self) -> Result<Cow<'a, [u8]>, Complaint> {
        let content = self.raw("content").ok_or_else(|| missing("content"))?.as_bytes();
        if memchr::memchr2(b'\r', b'\n', content).is_none() {
            return Ok(Cow::Borrowed(content));
        }
        let in_one_line = content.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte });
        Ok(Cow::Owned(in_one_line.collect()))
    }

    fn label(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, Complaint> {
        let label = self.string(name)?;
        if label.as_ref().is_some_and(|label| label.len() > LABEL_BYTES_MAX) {
            return Err(format!("`{name}` is longer than {LABEL_BYTES_MAX} bytes").into());
        }
        Ok(label)
    }

    fn required_string(&self, name: &'static str) -> Result<Cow<'a, str>, Complaint> {
        self.string(name)?.ok_or_else(|| missing(name))
    }

    fn string(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, Complaint> {
        let Some(raw) = self.present(name) else {
            return Ok(None);
        };
        quoted(raw).map(Some).ok_or_else(|| format!("`{name}` must be a string of whole characters").into())
    }

    fn integer(&self, name: &'static str) -> Result<Option<u64>, Complaint> {
        let number = self.present(name).map(str::parse).transpose();
        number.map_err(|_| format!("`{name}` must be an integer from 0 to {}", u64::MAX).into())
    }

    fn boolean(&self, name: &'static str) -> Result<Option<bool>, Complaint> {
        let flag = self.present(name).map(str::parse).transpose();
        flag.map_err(|_| format!("`{name}` must be true or false").into())
    }

    /// The value of a field that is there and not `null`.
    fn present(&self, name: &str) -> Option<&'a str> {
        self.raw(name).filter(|raw| *raw != "null")
    }

    #[inline]
    fn raw(&self, name: &str) -> Option<&'a str> {
        self.found.iter().find(|(found, _)| *found == name).map(|(_, raw)| *raw)
    }
}

/// The text of a value that is a string.
fn quoted(raw: &str) -> Option<Cow<'_, str>> {
    unescape(raw.strip_prefix('"')?.strip_suffix('"')?)
}

/// Reads `{"epoch": .., "seq": ..}`.
fn position(raw: &str) -> Option<Position> {
    let (mut epoch, mut seq, mut twice) = (None, None, false);
    let read = Scanner::new(raw).object(|name, value| match name {
        "epoch" => twice |= epoch.replace(value.raw).is_some(),
        "seq" => twice |= seq.replace(value.raw).is_some(),
        _ => {}
    });
    if read.is_err() || twice {
        return None;
    }
    let epoch: Epoch = epoch?.strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
    Some(Position { epoch, seq: Seq(seq?.parse().ok()?) })
}

fn missing(name: &str) -> Complaint {
    format!("`{name}` is missing").into()
}

/// The fields that any command has, the most frequent first.
static KNOWN: [&str; 24] = [
    "type", "room", "content", "id", "key", "tag", "echo", "receipt", "name", "token", "resume", "since", "history",
    "ack", "tags", "presence", "from", "to", "seq", "before", "after", "limit", "user", "for_ms",
];
/// What `resume` must be.
const RESUME_SHAPE: &str =
    "`resume` must be {\"session\": 32 hexadecimal digits, \"rooms\": {name: {\"epoch\", \"seq\"}}}";
/// How much of an unknown type an error repeats.
const TYPE_ECHO_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::SessionId;

    fn body(text: &str) -> CommandBody<'_> {
        decode(text.as_bytes()).expect(text).body
    }

    fn complaint(text: &str) -> (Option<u64>, String) {
        let error = decode(text.as_bytes()).expect_err(text);
        assert_eq!(error.code, ErrorCode::BadRequest, "{text}");
        (error.id, error.message.into_owned())
    }

    #[test]
    fn a_message_is_read_without_copies() {
        let text = r#"{"type":"message","room":"lobby","content":{"b": [1, "\\n"]},"id":18446744073709551615,"key":"k","x":1}"#;
        let command = decode(text.as_bytes()).unwrap();
        assert_eq!(command.id, Some(u64::MAX));
        let CommandBody::Message(publish) = command.body else { panic!("{command:?}") };
        assert!(matches!(publish.room, Cow::Borrowed("lobby")));
        assert!(matches!(publish.content, Cow::Borrowed(br#"{"b": [1, "\\n"]}"#)));
        assert!(matches!(publish.key, Some(Cow::Borrowed("k"))));
        assert!((publish.tag.is_none(), publish.receipt, publish.echo) == (true, false, true));
    }

    #[test]
    fn commands_about_what_is_kept_are_read() {
        let table = [
            (
                r#"{"type":"connect","resume":{"rooms":{"\u0061":{"epoch":"00000000000000ab","seq":3}},"session":"0000000000000000000000000000000f"}}"#,
                CommandBody::Connect(Connect {
                    resume: Some(Resume {
                        session: SessionId(15),
                        rooms: vec![("a".into(), Position { epoch: Epoch(0xab), seq: Seq(3) })],
                    }),
                    ..Connect::default()
                }),
            ),
            (
                r#"{"type":"direct","to":"bob","content":[1],"key":"k"}"#,
                CommandBody::Direct { to: "bob".into(), content: b"[1]"[..].into(), key: Some("k".into()) },
            ),
            (r#"{"type":"ack","room":"a","seq":7}"#, CommandBody::Ack { room: "a".into(), seq: Seq(7) }),
            (r#"{"type":"read","room":"a","seq":7}"#, CommandBody::Read { room: "a".into(), seq: Seq(7) }),
        ];
        for (text, expected) in table {
            assert_eq!(body(text), expected, "{text}");
        }
    }

    #[test]
    fn every_command_is_read() {
        let join = |room| Join { room, ..Join::default() };
        let moderate = |measure, for_ms| CommandBody::Moderate { room: "a".into(), user: "b".into(), measure, for_ms };
        let table = [
            (r#"{"type":"connect"}"#, CommandBody::Connect(Connect::default())),
            (
                r#"{"type":"connect","token":"t","name":"Ann","resume":null}"#,
                CommandBody::Connect(Connect { token: Some("t".into()), name: Some("Ann".into()), resume: None }),
            ),
            (r#"{"type":"join","room":"a"}"#, CommandBody::Join(join("a".into()))),
            (
                r#"{"type":"join","room":"a","since":{"seq":3,"epoch":"00000000000000aB"},"history":9,"ack":true,"tags":["x","\u0079"],"presence":true}"#,
                CommandBody::Join(Join {
                    room: "a".into(),
                    since: Some(Position { epoch: Epoch(0xab), seq: Seq(3) }),
                    history: 9,
                    ack: true,
                    tags: vec!["x".into(), "y".into()],
                    presence: true,
                }),
            ),
            (r#"{"type":"leave","room":"a"}"#, CommandBody::Leave { room: "a".into() }),
            (r#"{"type":"close","room":"a"}"#, CommandBody::Close { room: "a".into() }),
            (r#"{"type":"kick","room":"a","user":"b"}"#, moderate(Measure::Kick, None)),
            (r#"{"type":"ban","room":"a","user":"b","for_ms":7}"#, moderate(Measure::Ban, Some(7))),
            (r#"{"type":"mute","room":"a","user":"b","for_ms":null}"#, moderate(Measure::Mute, None)),
            (r#"{"type":"unban","room":"a","user":"b"}"#, moderate(Measure::Unban, None)),
            (r#"{"type":"unmute","room":"a","user":"b"}"#, moderate(Measure::Unmute, None)),
            (
                r#"{"type":"switch","from":"a","to":"b"}"#,
                CommandBody::Switch { from: "a".into(), to: join("b".into()) },
            ),
            (
                r#"{"type":"message","room":"a","content":null,"tag":"t","receipt":true,"echo":false}"#,
                CommandBody::Message(Publish {
                    room: "a".into(),
                    content: Cow::Borrowed(b"null"),
                    key: None,
                    tag: Some("t".into()),
                    receipt: true,
                    echo: false,
                }),
            ),
            (
                r#"{"type":"signal","room":"a","content":"typing"}"#,
                CommandBody::Signal { room: "a".into(), content: Cow::Borrowed(br#""typing""#) },
            ),
            (r#"{"type":"delete","room":"a","seq":5}"#, CommandBody::Delete { room: "a".into(), seq: Seq(5) }),
            (
                r#"{"type":"history","room":"a"}"#,
                CommandBody::History { room: "a".into(), from: HistoryFrom::Latest, limit: None },
            ),
            (
                r#"{"type":"history","room":"a","before":7,"limit":2}"#,
                CommandBody::History { room: "a".into(), from: HistoryFrom::Before(Seq(7)), limit: Some(2) },
            ),
            (
                r#"{"type":"history","room":"a","after":0}"#,
                CommandBody::History { room: "a".into(), from: HistoryFrom::After(Seq(0)), limit: None },
            ),
            (
                r#"{"type":"presence","room":"a","after":"u","limit":1}"#,
                CommandBody::Presence { room: "a".into(), after: Some("u".into()), limit: Some(1) },
            ),
            (r#"{"type":"rooms"}"#, CommandBody::Rooms { after: None, limit: None }),
            (r#"{"type":"ping"}"#, CommandBody::Ping),
            (r#"{"\u0074ype":"p\u006fng","id":null}"#, CommandBody::Pong),
        ];
        for (text, expected) in table {
            assert_eq!(body(text), expected, "{text}");
        }
    }

    #[test]
    fn malformed_commands_are_told_what_is_wrong() {
        let table = [
            ("", "a command is one JSON object"),
            ("[]", "a command is one JSON object"),
            ("\"x\"", "a command is one JSON object"),
            ("{", "not valid JSON: expected a name in double quotes at byte 1"),
            (r#"{"type":"ping"} x"#, "not valid JSON: expected nothing after the object at byte 16"),
            (r#"{"type":"ping",}"#, "not valid JSON: expected a name in double quotes at byte 15"),
            (r#"{"type":"ping" "id":1}"#, "not valid JSON: expected `,` or `}` at byte 15"),
            (r#"{"type" "ping"}"#, "not valid JSON: expected `:` at byte 8"),
            (r#"{"type":ping}"#, "not valid JSON: expected a value at byte 8"),
            (r#"{"a":01}"#, "not valid JSON: expected `,` or `}` at byte 6"),
            (r#"{"a":1.}"#, "not valid JSON: expected a number at byte 5"),
            ("{\"a\":\"b\nc\"}", "not valid JSON: the control character at byte 7 must be escaped"),
            (r#"{"a":"\x"}"#, "not valid JSON: unknown escape at byte 6"),
            (r#"{"a":"b"#, "not valid JSON: expected the end of the string at byte 7"),
            ("{}", "`type` is missing"),
            (r#"{"type":1}"#, "`type` must be a string of whole characters"),
            (r#"{"type":"ping","type":"ping"}"#, "`type` is there twice"),
            (r#"{"type":"ping","\u0074ype":"ping"}"#, "`type` is there twice"),
            (r#"{"type":"ping","id":-1}"#, "`id` must be an integer from 0 to 18446744073709551615"),
            (r#"{"type":"ping","id":1.0}"#, "`id` must be an integer from 0 to 18446744073709551615"),
            (r#"{"type":"ping","id":"1"}"#, "`id` must be an integer from 0 to 18446744073709551615"),
            (r#"{"type":"ping","id":18446744073709551616}"#, "`id` must be an integer from 0 to 18446744073709551615"),
            (r#"{"type":"join"}"#, "`room` is missing"),
            (r#"{"type":"join","room":null}"#, "`room` is missing"),
            (r#"{"type":"join","room":"\ud800"}"#, "`room` must be a string of whole characters"),
            (r#"{"type":"join","room":"a","presence":1}"#, "`presence` must be true or false"),
            (r#"{"type":"join","room":"a","tags":"x"}"#, "`tags` must be an array of strings"),
            (r#"{"type":"join","room":"a","tags":[1]}"#, "`tags` must be an array of strings"),
            (r#"{"type":"connect","resume":"s"}"#, RESUME_SHAPE),
            (r#"{"type":"connect","resume":{"rooms":{}}}"#, RESUME_SHAPE),
            (r#"{"type":"connect","resume":{"session":"0"}}"#, RESUME_SHAPE),
            (
                r#"{"type":"connect","resume":{"session":"0000000000000000000000000000000f","rooms":{"a":1}}}"#,
                RESUME_SHAPE,
            ),
            (r#"{"type":"connect","resume":{"session":"0000000000000000000000000000000f","rooms":[]}}"#, RESUME_SHAPE),
            (r#"{"type":"direct","content":1}"#, "`to` is missing"),
            (r#"{"type":"ack","room":"a"}"#, "`seq` is missing"),
            (r#"{"type":"message","room":"a"}"#, "`content` is missing"),
            (r#"{"type":"switch","from":"a","room":"b"}"#, "`to` is missing"),
            (r#"{"type":"delete","room":"a"}"#, "`seq` is missing"),
            (r#"{"type":"history","room":"a","before":1,"after":1}"#, "give `before` or `after`, not both"),
        ];
        for (text, expected) in table {
            assert_eq!(complaint(text).1, expected, "{text}");
        }
        let error = decode(b"{\"type\":\"ping\xff\"}").unwrap_err();
        assert_eq!((error.code, &*error.message), (ErrorCode::BadRequest, "the command is not UTF-8"));
    }

    #[test]
    fn a_broken_since_is_told_its_form() {
        for since in [
            "3",
            "{}",
            r#"{"epoch":"00000000000000ab"}"#,
            r#"{"epoch":"ab","seq":1}"#,
            r#"{"epoch":171,"seq":1}"#,
            r#"{"epoch":"00000000000000ab","seq":-1}"#,
            r#"{"epoch":"00000000000000ab","seq":1,"seq":2}"#,
        ] {
            let (_, message) = complaint(&format!(r#"{{"type":"join","room":"a","since":{since}}}"#));
            assert!(message.starts_with("`since` must be"), "{since}: {message}");
        }
    }

    #[test]
    fn labels_and_tags_are_bounded() {
        let fits = "x".repeat(LABEL_BYTES_MAX);
        let message =
            |field: &str, label: &str| format!(r#"{{"type":"message","room":"a","content":1,"{field}":"{label}"}}"#);
        let join = |tags: &[&str]| format!(r#"{{"type":"join","room":"a","tags":{tags:?}}}"#);
        for field in ["key", "tag"] {
            body(&message(field, &fits));
            assert_eq!(
                complaint(&message(field, &format!("{fits}x"))).1,
                format!("`{field}` is longer than 128 bytes")
            );
        }
        body(&join(&[&*fits; TAGS_MAX]));
        assert_eq!(complaint(&join(&["x"; TAGS_MAX + 1])).1, "`tags` has more than 16 entries");
        assert_eq!(complaint(&join(&[&format!("{fits}x")])).1, "an entry of `tags` is longer than 128 bytes");
    }

    #[test]
    fn an_error_carries_the_id_wherever_it_stands() {
        let deep = "[".repeat(30_000) + &"]".repeat(30_000);
        for text in [
            r#"{"id":7,"type":"join","room":1}"#,
            r#"{"type":"join","room":1,"id":7}"#,
            r#"{"type":"join","type":"join","id":7}"#,
            r#"{"id":7,"type":"join","room":nothing}"#,
            &format!(r#"{{"type":"ping","x":{deep},"id":7}}"#),
        ] {
            assert_eq!(complaint(text).0, Some(7), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_wherever_it_is() {
        let nested =
            |levels: usize| format!("{}{}", r#"{"a":"#.repeat(levels - 1), "[]".to_owned() + &"}".repeat(levels - 1));
        let in_content = |levels| format!(r#"{{"type":"signal","room":"a","content":{}}}"#, nested(levels));
        let ignored = |levels| format!(r#"{{"type":"ping","x":{}}}"#, nested(levels));
        body(&in_content(JSON_DEPTH_MAX - 1));
        body(&ignored(JSON_DEPTH_MAX - 1));
        for levels in [JSON_DEPTH_MAX, 1_000, 30_000] {
            assert_eq!(complaint(&in_content(levels)).1, "`content` nests deeper than 64 levels");
            assert_eq!(complaint(&ignored(levels)).1, "the command nests deeper than 64 levels");
        }
    }

    #[test]
    fn unknown_types_are_named() {
        for kind in ["promote", "Kick", "Ping", ""] {
            let error = decode(format!(r#"{{"type":"{kind}","id":1}}"#).as_bytes()).unwrap_err();
            assert_eq!((error.id, error.code), (Some(1), ErrorCode::UnknownType));
            assert_eq!(error.message, format!("there is no command `{kind}`"));
        }
        let error = decode(format!(r#"{{"type":"{}"}}"#, "é".repeat(99)).as_bytes()).unwrap_err();
        assert_eq!(error.message, format!("there is no command `{}…`", "é".repeat(32)));
    }

    #[test]
    fn line_ends_in_content_become_spaces() {
        let text = "{\"type\":\"signal\",\"room\":\"a\",\n\"content\":[1,\r\n2,\"\\n\"]}";
        let CommandBody::Signal { content, .. } = body(text) else { panic!("no signal") };
        assert_eq!(content, Cow::Borrowed(b"[1,  2,\"\\n\"]"));
    }

    /// Text made of the pieces that matter to the reader of commands.
    fn nearly_a_command() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "\"type\":\"message\"",
            "\"type\":\"join\"",
            "\"room\":\"a\"",
            "\"content\":",
            "\"id\":1",
            "\"since\":",
            "\"tags\":",
            "[",
            "]",
            "{",
            "}",
            ",",
            ",",
            ":",
            "\"",
            "\\",
            "\n",
            "\r\n",
            "null",
            "1",
            "\"é\"",
            "\"\\ud800\"",
            "true",
        ]);
        prop::collection::vec(piece, 0..20).prop_map(|pieces| format!("{{{}}}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn nothing_read_can_break_a_line_or_the_grammar(text in nearly_a_command()) {
            let Ok(command) = decode(text.as_bytes()) else {
                return Ok(());
            };
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
            if let CommandBody::Message(Publish { content, .. }) | CommandBody::Signal { content, .. } = command.body {
                prop_assert!(!content.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&content).is_ok());
            }
        }

        #[test]
        fn content_with_newlines_means_the_same_in_one_line(value in "[ \n\r]{0,3}(\\[1,[ \n\r]{0,4}2\\]|\"a\")[ \n\r]{0,3}") {
            let text = format!("{{\"type\":\"message\",\"room\":\"a\",\"content\":{value}}}");
            let CommandBody::Message(publish) = body(&text) else { panic!("no message") };
            prop_assert!(!publish.content.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
            let meant: serde_json::Value = serde_json::from_str(&value).unwrap();
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&publish.content).unwrap(), meant);
        }

        #[test]
        fn any_bytes_are_judged_without_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }

        #[test]
        fn what_a_client_writes_is_read(room: String, key in "[^\\x00]{0,20}", id: u64, said: String) {
            let text = serde_json::json!({"type": "message", "id": id, "room": room, "key": key, "content": said});
            let text = text.to_string();
            let command = decode(text.as_bytes()).unwrap();
            let CommandBody::Message(publish) = command.body else { panic!("no message") };
            prop_assert_eq!((command.id, &*publish.room, publish.key.as_deref()), (Some(id), &*room, Some(&*key)));
            prop_assert_eq!(serde_json::from_slice::<String>(&publish.content).unwrap(), said);
        }
    }
}
