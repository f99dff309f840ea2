//! Tokens: JSON Web Tokens (RFC 7519) that say who a client is, and the keys that they are checked with.
//!
//! - [`Verifier`] decides about one token: keys, algorithms, claims. It reads no clock and opens no socket.
//! - [`Cache`] remembers what it decided, one per shard, so that a storm of reconnects costs no signatures.
//! - [`KeyRing`] owns the thread that publishes verifiers: keys from files, and from a JWKS URL that it fetches. A shard
//!   follows it with [`Keys`], without a lock.
//! - [`mint`] and [`keygen`] are the other side, for `hubbub token` ([`cli`]).
//!
//! A shard asks `cache.verify(keys.current(), token, now)`. On [`TokenError::UnknownKey`] it may ask
//! [`Keys::refresh_for`] once and try again when told; otherwise the error stands. What was revoked is not known here.
//!
//! Absent on purpose: encrypted tokens (JWE), nested tokens, detached payloads, `none`, and keys that a token brings along
//! (`jku`, `jwk`, `x5u`, `x5c`).

mod algorithm;
mod cache;
mod claims;
pub mod cli;
mod error;
mod fetch;
mod key;
pub mod keygen;
mod keyring;
pub mod mint;
mod schedule;
mod source;
mod verifier;

pub use algorithm::Algorithm;
pub use cache::Cache;
pub use error::TokenError;
pub use key::{Key, KeyError};
pub use keyring::{Generation, KeyRing, KeyRingError, Keys};
pub use source::check_files;
pub use verifier::{Rules, Verifier};
