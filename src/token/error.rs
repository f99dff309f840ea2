//! Why a token was refused, in words that its user or the one who made it can act on.
//!
//! Nothing here quotes more of a token than its header and single claims, shortened; never the signature.

use crate::limits::TOKEN_BYTES_MAX;

/// Why a token was refused. The text goes to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`TOKEN_BYTES_MAX`]; nothing of it was read.
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes: give it fewer claims")]
    TooLong,
    /// Not a JWT in its compact form.
    #[error("this is no token: {0}")]
    Malformed(&'static str),
    /// The algorithm is none of ours, or none of the server's keys is for it.
    #[error("the token's algorithm {0:?} is not allowed: sign with one that the server has a key for")]
    Algorithm(Box<str>),
    /// No key has the token's `kid`. More keys may come: see [`super::Keys::refresh_for`].
    #[error("{}", unknown_key(.kid.as_deref()))]
    UnknownKey {
        /// The `kid` of the token, if it has one.
        kid: Option<Box<str>>,
    },
    /// The signature is not by the key that the token names.
    #[error("the token's signature is wrong: it was signed with another key, or changed since")]
    Signature,
    /// Its `exp` has passed.
    #[error("the token has expired: get a new one")]
    Expired,
    /// Its `nbf` or `iat` is still to come.
    #[error("the token is not valid yet (`{claim}` is in the future): wait, or set the clocks right")]
    NotYetValid {
        /// `nbf` or `iat`.
        claim: &'static str,
        /// From when on it is valid, Unix milliseconds.
        from_unix_ms: u64,
    },
    /// Its `iss` is none that the server takes.
    #[error("the token's issuer (`iss`) is not one that this server trusts")]
    Issuer,
    /// Its `aud` does not name this server.
    #[error("the token is for someone else: its `aud` does not name this server")]
    Audience,
    /// A claim is missing or cannot be used.
    #[error("the token's claim `{claim}` {what}")]
    Claim {
        /// Which one.
        claim: &'static str,
        /// What is wrong with it.
        what: Box<str>,
    },
}

impl TokenError {
    /// One word for metrics and audit lines.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::Algorithm(_) => "algorithm",
            Self::UnknownKey { .. } => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claim { .. } => "claim",
        }
    }

    pub(super) fn claim(claim: &'static str, what: impl Into<Box<str>>) -> Self {
        Self::Claim { claim, what: what.into() }
    }
}

fn unknown_key(kid: Option<&str>) -> String {
    match kid {
        Some(kid) => format!("the server has no key {:?}: sign with a key that it knows", shortened(kid)),
        None => "the server has no keys yet: try again later".to_owned(),
    }
}

/// The beginning of what a peer wrote, for a message.
pub(super) fn shortened(text: &str) -> &str {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

const QUOTED_CHARS_MAX: usize = 64;
