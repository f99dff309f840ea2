//! The decision about one token: is it well-formed, signed by a key of ours, and what does it say.
//!
//! Order of work, cheapest first: length, shape, header, key, signature, claims. Nothing is decoded of a token that is too
//! long, and no claim is read before the signature is known to be good. RFC 8725 lists the mistakes that this avoids.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::access::Identity;
use crate::limits::{LABEL_BYTES_MAX, TOKEN_BYTES_MAX, TOKEN_KEYS_TRIED_MAX};
use crate::token::error::shortened;
use crate::token::key::Key;
use crate::token::{Algorithm, TokenError, claims};

/// Keys and rules at one time. Immutable, so that all shards may share one.
#[derive(Debug, Default)]
pub struct Verifier {
    keys: Vec<Arc<Key>>,
    rules: Rules,
}

/// What is asked of claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The token's `iss` is one of these; without any it is not looked at.
    pub issuers: Vec<String>,
    /// The token's `aud` names one of these; without any it may have none.
    pub audiences: Vec<String>,
    /// How far clocks may differ.
    pub leeway: Duration,
}

/// The part of a token's header that matters.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11). None is.
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// A verifier with these keys.
    #[must_use]
    pub fn new(keys: Vec<Key>, rules: Rules) -> Self {
        Self::shared(keys.into_iter().map(Arc::new).collect(), rules)
    }

    pub(super) fn shared(keys: Vec<Arc<Key>>, rules: Rules) -> Self {
        Self { keys, rules }
    }

    /// How many keys it has.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Whose token this is, or why it is none. Time: Unix milliseconds. Costs a signature check, of at most
    /// [`TOKEN_KEYS_TRIED_MAX`] keys.
    pub fn verify(&self, token: &str, now_unix_ms: u64) -> Result<Identity, TokenError> {
        let payload = self.signed_payload(token)?;
        claims::read(&payload, &self.rules, now_unix_ms)
    }

    /// The payload of a token that one of our keys has signed.
    pub(super) fn signed_payload(&self, token: &str) -> Result<Vec<u8>, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(THREE_PARTS)?;
        let (header, payload) =
            message.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or(THREE_PARTS)?;
        let header = Header::read(header)?;
        let Some(algorithm) = Algorithm::named(&header.alg) else {
            return Err(TokenError::Algorithm(shortened(&header.alg).into()));
        };
        let signature = decode(signature, "its signature is no base64url")?;
        let keys = self.candidates(header.kid.as_deref(), algorithm)?;
        let has_signed = |key: &Arc<Key>| key.has_signed(algorithm, message.as_bytes(), &signature);
        match keys.iter().take(TOKEN_KEYS_TRIED_MAX).any(|key| has_signed(key)) {
            true => decode(payload, "its payload is no base64url"),
            // Keys without a name were only guessed at: the right one may be still to come.
            false if header.kid.is_some() && keys.iter().all(|key| key.kid().is_none()) => {
                Err(TokenError::UnknownKey { kid: header.kid.map(Into::into) })
            }
            false => Err(TokenError::Signature),
        }
    }

    /// The keys that may have signed: those that the token names; if there are none, those without a name; if the token
    /// names none, all. Only keys for the algorithm.
    fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<&Arc<Key>>, TokenError> {
        let fitting = |is_meant: &dyn Fn(&Key) -> bool| -> Vec<&Arc<Key>> {
            self.keys.iter().filter(|key| is_meant(key) && key.is_for(algorithm)).collect()
        };
        let keys = match kid {
            None => fitting(&|_| true),
            Some(kid) if self.keys.iter().any(|key| key.kid() == Some(kid)) => fitting(&|key| key.kid() == Some(kid)),
            Some(_) => fitting(&|key| key.kid().is_none()),
        };
        if !keys.is_empty() {
            return Ok(keys);
        }
        let is_known = match kid {
            None => !self.keys.is_empty(),
            Some(kid) => self.keys.iter().any(|key| key.kid() == Some(kid)),
        };
        if is_known {
            Err(TokenError::Algorithm(algorithm.as_str().into()))
        } else {
            Err(TokenError::UnknownKey { kid: kid.map(Into::into) })
        }
    }
}

impl Header {
    fn read(text: &str) -> Result<Self, TokenError> {
        let json = decode(text, "its header is no base64url")?;
        let header: Self = serde_json::from_slice(&json)
            .map_err(|_| TokenError::Malformed("its header is not a JSON object with `alg`"))?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed("its header asks for extensions (`crit`) that are not supported"));
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > LABEL_BYTES_MAX) {
            return Err(TokenError::Malformed("its `kid` is longer than 128 bytes"));
        }
        Ok(header)
    }
}

fn decode(text: &str, what: &'static str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed(what))
}

const THREE_PARTS: TokenError = TokenError::Malformed("a token has three parts with dots between them");

#[cfg(test)]
mod tests;
