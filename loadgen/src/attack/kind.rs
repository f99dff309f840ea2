//! The attacks: what each sends when a connection stands, and what after that.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hubbub::codec::json::encode_string;
use hubbub::codec::websocket::Opcode;
use hubbub::codec::websocket::frame::encode_masked;

/// Which attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Request heads that come byte by byte and never end
    Slowloris,
    /// Members who send a command byte by byte
    SlowCommands,
    /// Connections as fast as they can be opened
    ConnectFlood,
    /// A frame that claims to have 1 GiB
    HugeFrame,
    /// Made-up tokens, each another
    BadTokens,
    /// Members of one room who leave and join all the time
    JoinStorm,
    /// One member who publishes far more than is allowed
    Publisher,
    /// Messages of JSON nested 30,000 deep
    DeepJson,
    /// Rooms with names of every odd kind
    OddNames,
    /// Members who never read what is said in their room
    NeverRead,
}

/// How big an attack is unless it is told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Connections at a time.
    pub connections: u32,
    /// Pieces per second, all connections together.
    pub rate: u32,
    /// Connections to try before it is enough.
    pub tries_max: u64,
}

/// When a connection has served its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It is held; one that the server ends is opened anew.
    Held,
    /// The first answer is its end, and another is opened.
    FirstAnswer,
}

impl Kind {
    /// Its usual size.
    #[must_use]
    pub fn size(self) -> Size {
        let size = |connections, rate| Size { connections, rate, tries_max: u64::MAX };
        match self {
            Self::Slowloris | Self::SlowCommands => size(5_000, 5_000),
            Self::ConnectFlood => size(64, 0),
            Self::HugeFrame => size(16, 1_000),
            Self::BadTokens => Size { tries_max: 100_000, ..size(64, 0) },
            Self::JoinStorm => size(5_000, 5_000),
            Self::Publisher => size(1, 20_000),
            Self::DeepJson => size(4, 200),
            Self::OddNames => size(16, 2_000),
            Self::NeverRead => size(51, 400),
        }
    }

    /// When its connections end.
    #[must_use]
    pub fn renewal(self) -> Renewal {
        match self {
            Self::ConnectFlood | Self::BadTokens => Renewal::FirstAnswer,
            _ => Renewal::Held,
        }
    }

    /// Whether connection `slot` reads what it is sent.
    #[must_use]
    pub fn reads(self, slot: u32) -> bool {
        self != Self::NeverRead || slot == 0
    }

    /// Whether pieces wait for the upgrade.
    #[must_use]
    pub fn waits_for_upgrade(self) -> bool {
        self != Self::Slowloris
    }

    /// What connection `slot` sends first. `serial` counts all connections of the attack.
    #[must_use]
    pub fn opening(self, slot: u32, serial: u64, target: SocketAddr, token: Option<&str>) -> Vec<u8> {
        let who = |slot: u32| match token {
            Some(token) => format!("token={token}"),
            None => format!("name=attacker-{slot}"),
        };
        let path = match self {
            Self::Slowloris => return format!("GET /ws HTTP/1.1\r\nHost: {target}\r\n").into_bytes(),
            Self::ConnectFlood => return format!("GET /healthz HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes(),
            Self::BadTokens => format!("/ws?token={}", made_up_token(serial)),
            Self::JoinStorm => format!("/ws?{}&room=storm", who(slot)),
            Self::NeverRead => format!("/ws?{}&room=unread", who(slot)),
            Self::SlowCommands | Self::Publisher | Self::DeepJson => format!("/ws?{}&room=attack", who(slot)),
            Self::HugeFrame | Self::OddNames => format!("/ws?{}", who(slot)),
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {target}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes()
    }

    /// The piece that connection `slot` sends after so many others. `None` if it sends none.
    #[must_use]
    pub fn piece(self, slot: u32, nth: u64) -> Option<Vec<u8>> {
        let piece = match self {
            Self::ConnectFlood | Self::BadTokens => return None,
            Self::Slowloris => byte_of(b"X-Slow: a\r\n", nth),
            Self::SlowCommands => byte_of(&text(br#"{"type":"ping"}"#), nth),
            // FIN and binary, masked, a length of eight bytes; then the key and the first of the payload.
            Self::HugeFrame => [&[0x82, 0xff][..], &(1_u64 << 30).to_be_bytes(), &[0; 4], &[0; 1_000]].concat(),
            Self::JoinStorm => {
                let command = if nth.is_multiple_of(2) { "leave" } else { "join" };
                text(format!(r#"{{"type":"{command}","room":"storm"}}"#).as_bytes())
            }
            Self::Publisher => text(&message("attack", format!("\"{}\"", "x".repeat(256)).as_bytes())),
            Self::DeepJson => text(&message("attack", &[vec![b'['; 30_000], vec![b']'; 30_000]].concat())),
            Self::OddNames => text(&join(&odd_name(u64::from(slot) + nth))),
            Self::NeverRead if slot == 0 => text(&message("unread", format!("\"{}\"", "x".repeat(2_048)).as_bytes())),
            Self::NeverRead => return None,
        };
        Some(piece)
    }
}

fn byte_of(bytes: &[u8], nth: u64) -> Vec<u8> {
    vec![bytes[(nth % bytes.len() as u64) as usize]]
}

fn text(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_masked(Opcode::Text, payload, [7, 11, 13, 17], &mut frame);
    frame
}

fn message(room: &str, content: &[u8]) -> Vec<u8> {
    let front = format!(r#"{{"type":"message","room":"{room}","content":"#);
    [front.as_bytes(), content, b"}"].concat()
}

fn join(room: &str) -> Vec<u8> {
    let mut command = br#"{"type":"join","room":"#.to_vec();
    encode_string(room, &mut command);
    command.push(b'}');
    command
}

/// A token with the right shape, whose signature nobody made.
fn made_up_token(serial: u64) -> String {
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"user-{serial}","exp":4102444800}}"#));
    let signature: Vec<u8> = (0..4_u64).flat_map(|part| (serial ^ part).wrapping_mul(SCATTER).to_be_bytes()).collect();
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Names that have broken programs: empty, endless, with line ends, terminal codes, path steps, text that runs backwards;
/// in between as many fair ones, each another.
fn odd_name(nth: u64) -> String {
    let odd = [
        String::new(),
        "x".repeat(60_000),
        "a\r\n{\"type\":\"kick\"}".into(),
        "\u{1b}[2J\u{7}".into(),
        "../../etc/passwd".into(),
        "\u{202e}moor\u{200b}".into(),
        "@attacker-0".into(),
        " outer ".into(),
        "\0".into(),
        "é".repeat(63),
        "e\u{301}".repeat(40),
        "😀".repeat(32),
        "*".into(),
        "%2e%2e%2f".into(),
        "a".repeat(128),
        "a".repeat(129),
    ];
    if nth.is_multiple_of(2) { format!("fair-{nth}") } else { odd[(nth / 2) as usize % odd.len()].clone() }
}

const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use hubbub::codec::http;
    use hubbub::codec::websocket::{Decoder, Item, Role};

    use super::*;

    fn target() -> SocketAddr {
        "127.0.0.1:9000".parse().unwrap()
    }

    #[test]
    fn openings_are_sound_requests_but_for_the_one_that_never_ends() {
        for kind in Kind::value_variants() {
            let opening = kind.opening(3, 4, target(), None);
            let parsed = http::parse(&opening).unwrap();
            assert_eq!(parsed.is_some(), *kind != Kind::Slowloris, "{kind:?}");
        }
        let mut head = Kind::Slowloris.opening(0, 0, target(), None);
        for nth in 0..200 {
            head.extend(Kind::Slowloris.piece(0, nth).unwrap());
        }
        assert_eq!(http::parse(&head), Ok(None));
    }

    #[test]
    fn slow_commands_are_whole_frames_in_the_end() {
        let mut bytes: Vec<u8> = (0..2 * text(br#"{"type":"ping"}"#).len() as u64)
            .flat_map(|nth| Kind::SlowCommands.piece(0, nth).unwrap())
            .collect();
        let mut decoder = Decoder::new(Role::Server);
        let mut input = bytes.as_mut_slice();
        for _ in 0..2 {
            assert!(matches!(decoder.decode(&mut input, 1_000), Ok(Some(Item::Text(_)))));
        }
    }

    #[test]
    fn the_huge_frame_claims_a_gibibyte() {
        let mut piece = Kind::HugeFrame.piece(0, 0).unwrap();
        let mut input = piece.as_mut_slice();
        assert!(Decoder::new(Role::Server).decode(&mut input, 65_536).is_err());
        let mut piece = Kind::HugeFrame.piece(0, 0).unwrap();
        let mut input = piece.as_mut_slice();
        assert_eq!(Decoder::new(Role::Server).decode(&mut input, 2 << 30), Ok(None));
    }

    #[test]
    fn deep_json_fits_a_message() {
        let piece = Kind::DeepJson.piece(0, 0).unwrap();
        assert!(piece.len() < 65_536, "{}", piece.len());
    }

    #[test]
    fn no_two_tokens_are_the_same() {
        let tokens: std::collections::BTreeSet<String> = (0..1_000).map(made_up_token).collect();
        assert_eq!(tokens.len(), 1_000);
        assert!(tokens.iter().all(|token| token.split('.').count() == 3));
    }
}
