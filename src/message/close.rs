//! Why commands are refused and connections end: one table, from which the documentation is checked.

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The command cannot be understood.
    BadRequest,
    /// `connect` is missing, or its token is no good.
    Unauthorized,
    /// This user may not do that.
    Forbidden,
    /// Join the room first.
    NotMember,
    /// The room, or the connection's list of rooms, is full.
    RoomFull,
    /// The message is too large.
    TooLarge,
    /// Too many commands.
    RateLimited,
    /// The server is busy.
    Overloaded,
    /// No command of that name.
    UnknownType,
    /// There is no such thing.
    NotFound,
    /// The token has expired.
    Expired,
}

impl ErrorCode {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotMember,
        Self::RoomFull,
        Self::TooLarge,
        Self::RateLimited,
        Self::Overloaded,
        Self::UnknownType,
        Self::NotFound,
        Self::Expired,
    ];

    /// The word clients read; also the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotMember => "not_member",
            Self::RoomFull => "room_full",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::UnknownType => "unknown_type",
            Self::NotFound => "not_found",
            Self::Expired => "expired",
        }
    }

    /// Whether the same command may succeed later without being changed.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::RateLimited | Self::Overloaded)
    }
}

/// Why a connection ends. Close codes from 4000 to 4499 say "reconnect", from 4500 to 4999 "do not".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseReason {
    /// The peer closed, or finished sending and was answered in full.
    Normal,
    /// The peer's socket failed or ended without a close.
    PeerGone,
    /// Broken framing.
    ProtocolError,
    /// Text that is not UTF-8.
    InvalidUtf8,
    /// A message beyond `max_message_bytes`.
    MessageTooLarge,
    /// The server restarts or stops.
    Restart,
    /// Nothing was heard for three heartbeat intervals.
    HeartbeatTimeout,
    /// The handshake took too long.
    HandshakeTimeout,
    /// The user has too many connections.
    TooManyConnections,
    /// Messages were not read fast enough.
    SlowConsumer,
    /// The session went on with another connection.
    SessionResumed,
    /// The transport cannot carry this protocol (a TCP peer that does not speak JSON lines).
    NotThisProtocol,
    /// The server cannot take this client now.
    TryAgainLater,
    /// The token has expired.
    TokenExpired,
    /// Far more was sent than is allowed.
    RateLimited,
    /// The user was banned, or its token revoked.
    Revoked,
    /// The credentials are no good.
    Unauthorized,
    /// This user may not be here, or not say anything here.
    Forbidden,
    /// An operator ended the connection.
    Disconnected,
}

impl CloseReason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 19] = [
        Self::Normal,
        Self::PeerGone,
        Self::ProtocolError,
        Self::InvalidUtf8,
        Self::MessageTooLarge,
        Self::Restart,
        Self::HeartbeatTimeout,
        Self::HandshakeTimeout,
        Self::TooManyConnections,
        Self::SlowConsumer,
        Self::SessionResumed,
        Self::NotThisProtocol,
        Self::TryAgainLater,
        Self::TokenExpired,
        Self::RateLimited,
        Self::Revoked,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Disconnected,
    ];

    /// The WebSocket close code (RFC 6455, section 7.4).
    #[must_use]
    pub fn code(self) -> u16 {
        self.row().0
    }

    /// The text in the close frame.
    #[must_use]
    pub fn text(self) -> &'static str {
        self.row().1
    }

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.row().2
    }

    /// What the client does next.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        self.row().3
    }

    /// The table: code, text, label, the client's next step.
    fn row(self) -> (u16, &'static str, &'static str, &'static str) {
        match self {
            Self::Normal => (1000, "", "normal", "nothing"),
            Self::PeerGone => (1006, "", "peer_gone", "reconnect with backoff, recover by since"),
            Self::ProtocolError => (1002, "protocol error", "protocol_error", "fix the client"),
            Self::InvalidUtf8 => (1007, "text is not UTF-8", "invalid_utf8", "fix the client"),
            Self::MessageTooLarge => (1009, "message too large", "message_too_large", "send smaller messages"),
            Self::Restart => (1012, "server restarts", "restart", "reconnect after retry_after_ms"),
            Self::HeartbeatTimeout => {
                (4000, "heartbeat timeout", "heartbeat_timeout", "reconnect with backoff, recover by since")
            }
            Self::HandshakeTimeout => {
                (4001, "handshake timeout", "handshake_timeout", "reconnect and send connect within 10 s")
            }
            Self::TooManyConnections => {
                (4003, "too many connections", "too_many_connections", "reconnect after closing another connection")
            }
            Self::SlowConsumer => (4008, "slow consumer", "slow_consumer", "reconnect, recover by since"),
            Self::SessionResumed => {
                (4501, "session resumed elsewhere", "session_resumed", "nothing: another connection has taken over")
            }
            Self::NotThisProtocol => (4500, "not a hubbub client", "not_this_protocol", "speak JSON lines"),
            Self::TryAgainLater => (1013, "try again later", "try_again_later", "reconnect with backoff"),
            Self::TokenExpired => (4002, "token expired", "token_expired", "reconnect with a fresh token"),
            Self::RateLimited => (4009, "rate limited", "rate_limited", "reconnect with backoff, send more slowly"),
            Self::Revoked => (4502, "access revoked", "revoked", "nothing: ask for access"),
            Self::Unauthorized => (4503, "unauthorized", "unauthorized", "get a valid token"),
            Self::Forbidden => (4505, "forbidden", "forbidden", "nothing: this user may not do that here"),
            Self::Disconnected => {
                (4506, "disconnected by an operator", "disconnected", "nothing: an operator has ended the connection")
            }
        }
    }
}

/// What was left undelivered on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The outbox was full under the `skip` policy, and a `gap` says so.
    Skipped,
    /// The outbox was full of an ephemeral signal's worth, under the `skip` policy.
    SignalSkipped,
    /// The connection was closed with messages still queued.
    Closed,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Skipped, Self::SignalSkipped, Self::Closed];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::SignalSkipped => "signal_skipped",
            Self::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_to_reconnect() {
        for reason in CloseReason::ALL {
            let code = reason.code();
            if (4000..4500).contains(&code) {
                assert!(reason.next_step().starts_with("reconnect"), "{code}");
            }
            if (4500..5000).contains(&code) {
                assert!(!reason.next_step().contains("reconnect"), "{code}");
            }
            assert!((1000..=1015).contains(&code) || (4000..5000).contains(&code));
        }
    }
}
