//! How a connection ended, and what comes of it.

use super::wire::Event;

/// How a connection ended or failed.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// The code of a close frame.
    pub code: Option<u16>,
    /// For people.
    pub why: String,
    /// Whether it would be no better another time.
    pub is_final: bool,
}

/// Time until the next attempt: anywhere below a bound that doubles with each (full jitter).
pub(super) fn backoff_ms(attempt: u32, random: u64) -> u64 {
    random % (BACKOFF_MS << attempt.min(10)).min(BACKOFF_MS_MAX)
}

/// Whether a close code says that there is no use in coming back.
pub(super) fn is_final_code(code: u16) -> bool {
    matches!(code, 4500..=4999 | 1002 | 1003 | 1007 | 1008 | 1010)
}

/// A close code in plain words.
pub(super) fn close_text(code: u16) -> Option<&'static str> {
    Some(match code {
        1000 | 1001 => "the server closed the connection",
        1006 => "the connection was lost",
        1009 => "a message was too large for the server",
        1012 => "the server restarts",
        1013 => "the server is busy",
        4000 => "the server had not heard from here for a while",
        4001 => "the server did not hear who this is in time",
        4002 => "the token has expired",
        4008 => "this terminal could not keep up with the room",
        4501 => "this session went on in another place",
        _ => return None,
    })
}

/// Why the server lets nobody in who connects like this, and what to do here.
pub(super) fn refusal_text(error: &Event, has_token: bool) -> String {
    let why = error.why();
    if has_token || error.code.as_deref() != Some("unauthorized") {
        return why;
    }
    format!("{why}: name the file with your token by --token-file FILE, or put the token into $HUBBUB_TOKEN")
}

const BACKOFF_MS: u64 = 1_000;
const BACKOFF_MS_MAX: u64 = 20_000;
