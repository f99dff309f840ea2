//! The audit log: who was refused, who was sent away, and what operators did.
//!
//! Records are tracing events of a target of their own, [`TARGET`]. Without `audit_file` they are lines among the log's
//! own, whatever `log_level` is; with it they go there instead, one JSON object per line, and nowhere else. The file is
//! only appended to, and opened anew at each reload, so that it can be rotated. Secrets are never in a record.

use crate::ids::{RoomName, UserName};

/// What audit records are called among log lines.
pub const TARGET: &str = "hubbub::audit";

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// A `connect` was refused.
    LoginRefused,
    /// A user was removed from a room.
    Kick,
    /// A user may not enter a room, or the server, any more.
    Ban,
    /// A user may not speak in a room any more.
    Mute,
    /// A ban or a mute has ended by someone's will.
    Lift,
    /// Tokens are worth nothing any more.
    Revoke,
    /// A room was closed.
    Close,
    /// A connection was ended by an operator.
    Disconnect,
    /// The configuration was read anew.
    Reload,
    /// A call of the admin API.
    Admin,
}

/// One record. What does not apply is left out.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What happened.
    pub event: Security,
    /// Whether it came to pass, or why not, in a word.
    pub outcome: &'a str,
    /// Whom it was done to.
    pub user: Option<&'a UserName>,
    /// Where.
    pub room: Option<&'a RoomName>,
    /// Who did it: a user, or the name of an operator's key.
    pub by: Option<&'a str>,
    /// The peer's address.
    pub address: Option<&'a str>,
    /// The connection, as `welcome` names it.
    pub connection: Option<&'a str>,
    /// More, for people.
    pub detail: Option<&'a str>,
    /// Records of this kind that were left out since the last one, because there were too many.
    pub suppressed: u64,
}

impl Security {
    /// The word in the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoginRefused => "login_refused",
            Self::Kick => "kick",
            Self::Ban => "ban",
            Self::Mute => "mute",
            Self::Lift => "lift",
            Self::Revoke => "revoke",
            Self::Close => "close",
            Self::Disconnect => "disconnect",
            Self::Reload => "reload",
            Self::Admin => "admin",
        }
    }
}

impl Record<'_> {
    /// A record of which only this is known.
    #[must_use]
    pub fn new(event: Security, outcome: &str) -> Record<'_> {
        Record {
            event,
            outcome,
            user: None,
            room: None,
            by: None,
            address: None,
            connection: None,
            detail: None,
            suppressed: 0,
        }
    }

    /// Writes it.
    pub fn write(&self) {
        tracing::info!(
            target: TARGET,
            event = self.event.as_str(),
            outcome = self.outcome,
            user = self.user.map(UserName::as_str),
            room = self.room.map(RoomName::as_str),
            by = self.by,
            address = self.address,
            connection = self.connection,
            detail = self.detail,
            suppressed = (self.suppressed > 0).then_some(self.suppressed),
            "security"
        );
    }
}
