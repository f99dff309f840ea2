//! Keys that tokens are checked with, and how they are read: secrets, PEM, JWK (RFC 7517).
//!
//! Invariant: a key checks only the algorithms of its own kind, decided when it is read and not by a token. So a public key
//! is never taken for a secret.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::limits::KEYS_PER_SET_MAX;
use crate::token::algorithm::Algorithm;

/// A key for checking signatures.
#[derive(Clone)]
pub struct Key {
    kid: Option<Box<str>>,
    /// What it checks, by algorithm; never empty.
    checks: Vec<(Algorithm, Check)>,
}

#[derive(Clone)]
enum Check {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// Why something is no key. Never says what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// Where a JWK comes from: secrets are not taken from a URL, which others can read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    File,
    Url,
}

impl Key {
    /// A shared secret. It checks each HMAC whose hash is not longer than itself (RFC 7518 section 3.2), hence needs 32
    /// bytes or more.
    pub fn secret(kid: Option<&str>, secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < SECRET_BYTES_MIN {
            let what =
                format!("the secret has {} bytes, and fewer than {SECRET_BYTES_MIN} can be guessed", secret.len());
            return Err(KeyError(what));
        }
        let hashes = [
            (Algorithm::Hs256, hmac::HMAC_SHA256),
            (Algorithm::Hs384, hmac::HMAC_SHA384),
            (Algorithm::Hs512, hmac::HMAC_SHA512),
        ];
        let usable = hashes.into_iter().filter(|(_, hash)| secret.len() >= hash.digest_algorithm().output_len());
        let checks = usable.map(|(algorithm, hash)| (algorithm, Check::Secret(Box::new(hmac::Key::new(hash, secret)))));
        Ok(Self { kid: kid.map(Into::into), checks: checks.collect() })
    }

    /// The first public key of a PEM text (`PUBLIC KEY`): RSA of 2,048 to 8,192 bits, P-256 or Ed25519.
    pub fn from_pem(kid: Option<&str>, text: &str) -> Result<Self, KeyError> {
        if text.contains("PRIVATE KEY-----") {
            let what = "this holds a private key, and the server wants only the public one";
            return Err(KeyError(format!("{what}: openssl pkey -in FILE -pubout")));
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes())
            .map_err(|_| KeyError("this has no PEM section `PUBLIC KEY`".to_owned()))?;
        let der = der.as_ref();
        let rsa = || {
            let long_enough = aws_lc_rs::rsa::PublicKey::from_der(der).ok()?.modulus_len() >= RSA_BYTES_MIN;
            let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).ok()?;
            long_enough.then_some((Algorithm::Rs256, key))
        };
        let parsed = ParsedPublicKey::new(&ED25519, der).map(|key| (Algorithm::EdDsa, key));
        let parsed = parsed
            .or_else(|_| ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der).map(|key| (Algorithm::Es256, key)))
            .ok()
            .or_else(rsa);
        let what = "this public key is neither Ed25519, nor P-256, nor RSA of 2048 to 8192 bits";
        let (algorithm, key) = parsed.ok_or_else(|| KeyError(what.to_owned()))?;
        Ok(Self::public(kid, algorithm, key))
    }

    fn public(kid: Option<&str>, algorithm: Algorithm, key: ParsedPublicKey) -> Self {
        Self { kid: kid.map(Into::into), checks: vec![(algorithm, Check::Public(key))] }
    }

    /// A JWK. `alg` narrows what it checks; a `use` other than `sig` is refused.
    fn from_jwk(value: &Value, origin: Origin) -> Result<Self, KeyError> {
        if value.get("d").is_some() {
            return Err(KeyError("it is a private key, and the server wants only the public one".to_owned()));
        }
        let jwk: Jwk = serde::Deserialize::deserialize(value).map_err(|_| KeyError("it is no JWK".to_owned()))?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err(KeyError("it is not for signatures (`use`)".to_owned()));
        }
        let kid = jwk.common.key_id.as_deref();
        let mut key = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => Self::from_rsa(kid, &bytes("n", &rsa.n)?, &bytes("e", &rsa.e)?)?,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                Self::from_p256(kid, &bytes("x", &ec.x)?, &bytes("y", &ec.y)?)?
            }
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                let x = bytes("x", &pair.x)?;
                let key = (x.len() == ED25519_BYTES).then(|| ParsedPublicKey::new(&ED25519, &x).ok()).flatten();
                Self::public(
                    kid,
                    Algorithm::EdDsa,
                    key.ok_or_else(|| KeyError("its `x` is no Ed25519 key".to_owned()))?,
                )
            }
            AlgorithmParameters::OctetKey(_) if origin == Origin::Url => {
                return Err(KeyError("it is a secret, and a URL is no place for one".to_owned()));
            }
            AlgorithmParameters::OctetKey(secret) => Self::secret(kid, &bytes("k", &secret.value)?)?,
            _ => return Err(KeyError("its `kty` or `crv` is not supported".to_owned())),
        };
        if let Some(name) = value.get("alg").and_then(Value::as_str) {
            key.checks.retain(|(algorithm, _)| algorithm.as_str() == name);
        }
        if key.checks.is_empty() { Err(KeyError("its `alg` is not supported".to_owned())) } else { Ok(key) }
    }

    fn from_rsa(kid: Option<&str>, n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        let n = without_leading_zeros(n);
        if !(RSA_BYTES_MIN..=RSA_BYTES_MAX).contains(&n.len()) {
            return Err(KeyError(format!("it is an RSA key of {} bits; use 2048 to 8192", n.len() * 8)));
        }
        let components = RsaPublicKeyComponents { n, e: without_leading_zeros(e) };
        let key = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
        Ok(Self::public(kid, Algorithm::Rs256, key.map_err(|_| KeyError("its `n` and `e` are no RSA key".to_owned()))?))
    }

    fn from_p256(kid: Option<&str>, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        let no_key = || KeyError("its `x` and `y` are no P-256 key".to_owned());
        if x.len() != P256_BYTES || y.len() != P256_BYTES {
            return Err(no_key());
        }
        let point = [&[UNCOMPRESSED], x, y].concat();
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| no_key())?;
        Ok(Self::public(kid, Algorithm::Es256, key))
    }

    /// What tokens call it by.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether it can check signatures of this algorithm.
    #[must_use]
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        self.checks.iter().any(|(of, _)| *of == algorithm)
    }

    /// Whether the signature is by this key, with this algorithm. Compares secrets in constant time.
    pub(super) fn has_signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let Some((_, check)) = self.checks.iter().find(|(of, _)| *of == algorithm) else {
            return false;
        };
        #[cfg(test)]
        SIGNATURES_CHECKED.with(|checked| checked.set(checked.get() + 1));
        match check {
            Check::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Check::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let algorithms: Vec<Algorithm> = self.checks.iter().map(|(algorithm, _)| *algorithm).collect();
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &algorithms).finish_non_exhaustive()
    }
}

/// Keys of one source, and what was passed over.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    pub(super) keys: Vec<Key>,
    /// One line for each key that cannot be used: which one and why.
    pub(super) unusable: Vec<String>,
}

impl KeySet {
    /// Reads a JWK or a JWK Set. Keys of it that are not for us are passed over (RFC 7517 section 5).
    pub(super) fn from_json(text: &[u8], origin: Origin) -> Result<Self, KeyError> {
        let value: Value =
            serde_json::from_slice(text).map_err(|_| KeyError("this is neither PEM nor JSON".to_owned()))?;
        let jwks = match value.get("keys") {
            Some(Value::Array(jwks)) => jwks.as_slice(),
            Some(_) => return Err(KeyError("`keys` is no list".to_owned())),
            None => std::slice::from_ref(&value),
        };
        if jwks.len() > KEYS_PER_SET_MAX {
            return Err(KeyError(format!("{} keys are too many; {KEYS_PER_SET_MAX} at most", jwks.len())));
        }
        let mut set = Self::default();
        for (index, jwk) in jwks.iter().enumerate() {
            match Key::from_jwk(jwk, origin) {
                Ok(key) => set.keys.push(key),
                Err(error) => set.unusable.push(format!("key {index} cannot be used: {error}")),
            }
        }
        Ok(set)
    }
}

/// A number as JWK writes it: big-endian in base64url.
fn bytes(name: &str, text: &str) -> Result<Vec<u8>, KeyError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError(format!("its `{name}` is no base64url")))
}

/// Some write numbers with zeros in front, which are not part of them.
fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// RFC 7518 section 3.2 asks for as much as the hash has.
const SECRET_BYTES_MIN: usize = 32;
const RSA_BYTES_MIN: usize = 256;
const RSA_BYTES_MAX: usize = 1_024;
const P256_BYTES: usize = 32;
const ED25519_BYTES: usize = 32;
/// Begins a point whose both coordinates follow (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
thread_local! {
    /// How often this thread has checked a signature.
    pub(super) static SIGNATURES_CHECKED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::token::keygen::{KeyPair, generate};

    fn algorithms(key: &Key) -> Vec<Algorithm> {
        key.checks.iter().map(|(algorithm, _)| *algorithm).collect()
    }

    fn public(algorithm: Algorithm) -> String {
        match generate(algorithm).unwrap() {
            KeyPair::Pair { public, .. } => public,
            KeyPair::Secret(_) => panic!("{algorithm} has no public key"),
        }
    }

    #[test]
    fn a_secret_serves_the_hashes_that_are_not_longer() {
        let lengths = [(32, 1), (47, 1), (48, 2), (63, 2), (64, 3), (200, 3)];
        for (length, serves) in lengths {
            let key = Key::secret(None, &vec![7; length]).unwrap();
            assert_eq!(algorithms(&key), Algorithm::ALL[..serves], "{length}");
        }
        assert!(Key::secret(None, &[7; 31]).unwrap_err().to_string().contains("31 bytes"));
    }

    #[test]
    fn the_kind_of_a_public_key_is_read_from_it() {
        for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
            let key = Key::from_pem(Some("k"), &public(algorithm)).unwrap();
            assert_eq!((algorithms(&key), key.kid()), (vec![algorithm], Some("k")));
        }
    }

    #[test]
    fn private_keys_and_other_texts_are_refused_with_a_remedy() {
        let KeyPair::Pair { private, .. } = generate(Algorithm::EdDsa).unwrap() else { panic!() };
        assert!(Key::from_pem(None, &private).unwrap_err().to_string().contains("-pubout"));
        assert!(Key::from_pem(None, "hello").unwrap_err().to_string().contains("PUBLIC KEY"));
        let short = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu\nKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==\n-----END PUBLIC KEY-----\n";
        assert!(Key::from_pem(None, short).unwrap_err().to_string().contains("2048"), "an RSA key of 512 bits");
    }

    #[test]
    fn keys_of_a_set_that_are_not_for_us_are_passed_over() {
        let ed =
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let mut private = ed.clone();
        private["d"] = "x".into();
        let mut encryption = ed.clone();
        encryption["use"] = "enc".into();
        let mut other = ed.clone();
        other["alg"] = "ES256".into();
        let secret = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode([1; 64])});
        let rest = [
            json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "new"}),
            json!(5),
        ];
        let all: Vec<Value> = [ed, private, encryption, other, secret].into_iter().chain(rest).collect();
        let text = json!({ "keys": all }).to_string();
        let kids = |origin| {
            let set = KeySet::from_json(text.as_bytes(), origin).unwrap();
            assert_eq!(set.keys.len() + set.unusable.len(), 9);
            set.keys.iter().map(|key| (key.kid().unwrap().to_owned(), algorithms(key))).collect::<Vec<_>>()
        };
        let ed = ("ed".to_owned(), vec![Algorithm::EdDsa]);
        assert_eq!(kids(Origin::File), [ed.clone(), ("s".to_owned(), vec![Algorithm::Hs256])]);
        assert_eq!(kids(Origin::Url), [ed]);
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let key = Key::secret(Some("k"), b"a-very-secret-secret-of-32-bytes").unwrap();
        assert!(!format!("{key:?}").contains("secret"));
    }
}
