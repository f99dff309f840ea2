//! Tokens that were looked at before: a reconnect storm checks no signature twice.
//!
//! One per shard. A token is known by the SHA-256 of all of it, so only the very same text finds its entry. A verified one
//! is kept until it ends or makes room, a refused one for [`TOKEN_REFUSED_KEEP_MS`]; new keys forget both. What costs no
//! signature to refuse is not kept, for it would only drive out the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::HashMap;
use aws_lc_rs::digest;

use crate::access::Identity;
use crate::limits::{
    TOKEN_BYTES_MAX, TOKEN_REFUSED_KEEP_MS, TOKENS_CACHED_BYTES_MAX, TOKENS_CACHED_MAX, TOKENS_REFUSED_MAX,
};
use crate::token::{Generation, TokenError};

/// Verified and refused tokens of one shard.
#[derive(Debug)]
pub struct Cache {
    generation: u64,
    verified: Remembered<Arc<Identity>>,
    refused: Remembered<Refused>,
    hits: u64,
}

#[derive(Debug)]
struct Refused {
    error: TokenError,
    until_unix_ms: u64,
}

impl Cache {
    /// An empty cache of [`TOKENS_CACHED_MAX`] verified and [`TOKENS_REFUSED_MAX`] refused tokens, the verified of at most
    /// [`TOKENS_CACHED_BYTES_MAX`]. Takes memory as they come.
    #[must_use]
    pub fn new() -> Self {
        Self::bounded(TOKENS_CACHED_MAX, TOKENS_REFUSED_MAX, TOKENS_CACHED_BYTES_MAX)
    }

    fn bounded(verified_max: usize, refused_max: usize, bytes_max: usize) -> Self {
        let verified = Remembered::new(verified_max, bytes_max);
        // A refusal takes the same room whatever the token.
        let refused = Remembered::new(refused_max, usize::MAX);
        Self { generation: 0, verified, refused, hits: 0 }
    }

    /// What is known about a token without a look at its signature. Time: Unix milliseconds.
    pub fn recall(
        &mut self,
        keys: &Generation,
        token: &str,
        now_unix_ms: u64,
    ) -> Option<Result<Arc<Identity>, TokenError>> {
        self.look_up(keys, token, now_unix_ms).ok()
    }

    /// What [`crate::token::Verifier::verify`] says, from memory if possible. Time: Unix milliseconds.
    pub fn verify(&mut self, keys: &Generation, token: &str, now_unix_ms: u64) -> Result<Arc<Identity>, TokenError> {
        let fingerprint = match self.look_up(keys, token, now_unix_ms) {
            Ok(known) => return known,
            Err(fingerprint) => fingerprint,
        };
        match keys.verifier.verify(token, now_unix_ms) {
            Ok(identity) => {
                let identity = Arc::new(identity);
                self.verified.insert(fingerprint, token.len(), identity.clone());
                Ok(identity)
            }
            Err(error) => {
                if let Some(until_unix_ms) = keep_until(&error, now_unix_ms) {
                    let refused = Refused { error: error.clone(), until_unix_ms };
                    self.refused.insert(fingerprint, token.len(), refused);
                }
                Err(error)
            }
        }
    }

    /// What is known about a token, or else what it is known by from now on.
    fn look_up(
        &mut self,
        keys: &Generation,
        token: &str,
        now_unix_ms: u64,
    ) -> Result<Result<Arc<Identity>, TokenError>, Fingerprint> {
        if self.generation != keys.number {
            self.generation = keys.number;
            self.verified.clear();
            self.refused.clear();
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Ok(Err(TokenError::TooLong));
        }
        let fingerprint = fingerprint(token);
        if let Some(identity) = self.verified.get(&fingerprint) {
            self.hits += 1;
            let has_ended = identity.expires_unix_ms.is_some_and(|end| end <= now_unix_ms);
            return Ok(if has_ended { Err(TokenError::Expired) } else { Ok(identity.clone()) });
        }
        if let Some(refused) = self.refused.get(&fingerprint).filter(|refused| now_unix_ms < refused.until_unix_ms) {
            self.hits += 1;
            return Ok(Err(refused.error.clone()));
        }
        Err(fingerprint)
    }

    /// How often a token was found in it since the start.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

/// How long to remember a refusal; `None` for one that took no signature.
fn keep_until(error: &TokenError, now_unix_ms: u64) -> Option<u64> {
    let longest = now_unix_ms + TOKEN_REFUSED_KEEP_MS;
    match error {
        TokenError::TooLong | TokenError::Malformed(_) | TokenError::Algorithm(_) | TokenError::UnknownKey { .. } => {
            None
        }
        TokenError::NotYetValid { from_unix_ms, .. } => Some(longest.min(*from_unix_ms)),
        TokenError::Signature
        | TokenError::Expired
        | TokenError::Issuer
        | TokenError::Audience
        | TokenError::Claim { .. } => Some(longest),
    }
}

type Fingerprint = [u8; digest::SHA256_OUTPUT_LEN];

fn fingerprint(token: &str) -> Fingerprint {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A bounded map that forgets the oldest.
///
/// Invariant: `order` has each key of `values` once, with the length of its token, and `bytes` is the sum of these.
#[derive(Debug)]
struct Remembered<V> {
    values: HashMap<Fingerprint, V>,
    order: VecDeque<(Fingerprint, usize)>,
    bytes: usize,
    max: usize,
    bytes_max: usize,
}

impl<V> Remembered<V> {
    fn new(max: usize, bytes_max: usize) -> Self {
        Self { values: HashMap::default(), order: VecDeque::new(), bytes: 0, max, bytes_max }
    }

    fn get(&self, key: &Fingerprint) -> Option<&V> {
        self.values.get(key)
    }

    fn insert(&mut self, key: Fingerprint, token_bytes: usize, value: V) {
        if self.values.insert(key, value).is_some() {
            return;
        }
        self.order.push_back((key, token_bytes));
        self.bytes += token_bytes;
        while self.order.len() > self.max || self.bytes > self.bytes_max {
            let Some((oldest, bytes)) = self.order.pop_front() else { return };
            self.values.remove(&oldest);
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.values.clear();
        self.order.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::token::key::SIGNATURES_CHECKED;
    use crate::token::mint::{Signer, Statement};
    use crate::token::{Key, Rules, Verifier};

    const NOW: u64 = 1_800_000_000_000;
    const SECRET: &str = "a secret for tests, of 32 bytes or more";

    fn keys(number: u64, secret: &str) -> Generation {
        let key = Key::secret(None, secret.as_bytes()).unwrap();
        Generation { number, verifier: Verifier::new(vec![key], Rules::default()) }
    }

    fn token(user: &str, ttl_s: u64) -> String {
        let ttl = Duration::from_secs(ttl_s);
        let statement = Statement { subject: user.into(), ttl, ..Statement::default() };
        Signer::read(SECRET, None).unwrap().mint(&statement, NOW).unwrap()
    }

    /// How many signatures this thread has checked until now.
    fn checked() -> usize {
        SIGNATURES_CHECKED.with(std::cell::Cell::get)
    }

    #[test]
    fn a_token_that_comes_again_costs_no_signature() {
        let (mut cache, keys, token) = (Cache::new(), keys(1, SECRET), token("ann", 60));
        let before = checked();
        let first = cache.verify(&keys, &token, NOW).unwrap();
        assert_eq!(checked(), before + 1);
        for _ in 0..100 {
            assert!(Arc::ptr_eq(&first, &cache.verify(&keys, &token, NOW + 59_999).unwrap()));
        }
        assert_eq!((checked(), cache.hits()), (before + 1, 100));
        assert_eq!(cache.verify(&keys, &token, NOW + 60_000), Err(TokenError::Expired));
        assert_eq!(checked(), before + 1, "also when it has ended");
    }

    #[test]
    fn what_is_known_of_a_token_is_told_without_a_signature() {
        let (mut cache, keys, good) = (Cache::new(), keys(1, SECRET), token("ann", 60));
        let statement = Statement { subject: "eve".into(), ttl: Duration::from_secs(60), ..Statement::default() };
        let other = Signer::read("another secret, of 32 bytes or more", None).unwrap();
        let bad = other.mint(&statement, NOW).unwrap();
        let before = checked();
        assert!(cache.recall(&keys, &good, NOW).is_none());
        let too_long = "x".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!((cache.recall(&keys, &too_long, NOW), checked()), (Some(Err(TokenError::TooLong)), before));
        let identity = cache.verify(&keys, &good, NOW).unwrap();
        assert_eq!(cache.recall(&keys, &bad, NOW), None);
        assert_eq!(cache.verify(&keys, &bad, NOW), Err(TokenError::Signature));
        let after = checked();
        assert_eq!(cache.recall(&keys, &good, NOW), Some(Ok(identity)));
        assert_eq!(cache.recall(&keys, &bad, NOW), Some(Err(TokenError::Signature)));
        assert_eq!(checked(), after);
    }

    #[test]
    fn a_bad_token_that_comes_again_costs_no_signature_for_a_while() {
        let (mut cache, keys, token) = (Cache::new(), keys(1, "another secret, of 32 bytes or more"), token("ann", 60));
        let before = checked();
        for later in [0, 1, TOKEN_REFUSED_KEEP_MS - 1] {
            assert_eq!(cache.verify(&keys, &token, NOW + later), Err(TokenError::Signature));
        }
        assert_eq!(checked(), before + 1);
        assert_eq!(cache.verify(&keys, &token, NOW + TOKEN_REFUSED_KEEP_MS), Err(TokenError::Signature));
        assert_eq!(checked(), before + 2);
    }

    #[test]
    fn a_token_that_came_too_early_is_taken_when_it_begins() {
        let (mut cache, keys, token) = (Cache::new(), keys(1, SECRET), token("ann", 60));
        assert_eq!(cache.verify(&keys, &token, NOW - 500).unwrap_err().label(), "not_yet_valid");
        assert!(cache.verify(&keys, &token, NOW).is_ok());
    }

    #[test]
    fn new_keys_forget_what_old_ones_said() {
        let (mut cache, token) = (Cache::new(), token("ann", 60));
        assert!(cache.verify(&keys(1, SECRET), &token, NOW).is_ok());
        let other = keys(2, "another secret, of 32 bytes or more");
        assert_eq!(cache.verify(&other, &token, NOW), Err(TokenError::Signature));
        assert!(cache.verify(&keys(3, SECRET), &token, NOW).is_ok(), "also what was refused");
    }

    #[test]
    fn a_full_cache_forgets_the_oldest() {
        let (mut cache, keys) = (Cache::bounded(2, 1, usize::MAX), keys(1, SECRET));
        let tokens: Vec<String> = ["a", "b", "c"].iter().map(|user| token(user, 60)).collect();
        for token in &tokens {
            cache.verify(&keys, token, NOW).unwrap();
        }
        let before = checked();
        cache.verify(&keys, &tokens[1], NOW).unwrap();
        cache.verify(&keys, &tokens[2], NOW).unwrap();
        assert_eq!(checked(), before);
        cache.verify(&keys, &tokens[0], NOW).unwrap();
        assert_eq!(checked(), before + 1);
        for round in 0..10 {
            let bad = format!("{}x", token(&format!("u{round}"), 60));
            let _ = cache.verify(&keys, &bad, NOW);
        }
        assert!(cache.refused.values.len() <= 1 && cache.refused.order.len() <= 1);
    }

    #[test]
    fn long_tokens_make_room_sooner() {
        let (mut cache, keys, tokens) =
            (Cache::bounded(10, 1, 500), keys(1, SECRET), ["a", "b", "c"].map(|u| token(u, 60)));
        assert!((126..250).contains(&tokens[0].len()), "two or three fit, and not four");
        for token in tokens.iter().chain([&token("d", 60)]) {
            cache.verify(&keys, token, NOW).unwrap();
        }
        let kept = cache.verified.order.len();
        assert!((2..=3).contains(&kept) && cache.verified.values.len() == kept && cache.verified.bytes <= 500);
    }

    #[test]
    fn what_costs_nothing_to_refuse_is_not_kept() {
        let (mut cache, keys) = (Cache::new(), keys(1, SECRET));
        for bad in ["", "a.b.c", "eyJhbGciOiJub25lIn0..", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(cache.verify(&keys, bad, NOW).is_err());
        }
        assert!(cache.refused.values.is_empty());
    }
}
