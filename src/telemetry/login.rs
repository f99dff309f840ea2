//! What came of the attempts to be let in.

/// How a `connect`, or an upgrade that carries its credentials, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// It was let in.
    Ok,
    /// It showed no token, and the server wants one.
    Missing,
    /// The name is no good.
    Name,
    /// The token is too long to be read.
    TooLong,
    /// It is no token.
    Malformed,
    /// No key is for its algorithm.
    Algorithm,
    /// Nobody knows the key it names.
    UnknownKey,
    /// Its signature is wrong.
    Signature,
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYetValid,
    /// Its issuer is not trusted.
    Issuer,
    /// It is for someone else.
    Audience,
    /// A claim is missing or cannot be used.
    Claim,
    /// The user is banned, or the token revoked.
    Forbidden,
    /// The user has as many connections as it may.
    TooManyConnections,
    /// The application said no, or could not be asked.
    Hook,
}

impl LoginOutcome {
    /// Every outcome.
    pub const ALL: [Self; 16] = [
        Self::Ok,
        Self::Missing,
        Self::Name,
        Self::TooLong,
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Expired,
        Self::NotYetValid,
        Self::Issuer,
        Self::Audience,
        Self::Claim,
        Self::Forbidden,
        Self::TooManyConnections,
        Self::Hook,
    ];

    /// The metric label, and the word in audit records.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Name => "name",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claim => "claim",
            Self::Forbidden => "forbidden",
            Self::TooManyConnections => "too_many_connections",
            Self::Hook => "hook",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_in_their_order() {
        for (place, outcome) in LoginOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
    }
}
