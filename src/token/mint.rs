//! Making tokens: for operators, for tests, and as an example for applications, which have libraries of their own for it.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Map, Value, json};

use crate::message::event::Role;
use crate::token::claims;
use crate::token::keygen::hexadecimal;
use crate::token::{Algorithm, Rules, TokenError};

/// A key that signs.
pub struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// `sub`: the user.
    pub subject: String,
    /// `name`, for people.
    pub name: Option<String>,
    /// `roles`, in order.
    pub roles: Vec<String>,
    /// `rooms`: a role for rooms by pattern.
    pub rooms: Vec<(String, Role)>,
    /// Time from `iat` to `exp`.
    pub ttl: Duration,
    /// `jti`.
    pub id: Option<String>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`.
    pub audience: Option<String>,
    /// `kid` of the header.
    pub kid: Option<String>,
}

/// Why there is no token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The file holds no key that signs.
    #[error("{0}")]
    Key(&'static str),
    /// The key is for other algorithms.
    #[error("a key of this kind does not sign {0}")]
    Algorithm(Algorithm),
    /// No server would take the token.
    #[error("no server would take this token: {0}")]
    Unusable(#[from] TokenError),
    /// It cannot be signed.
    #[error("the key cannot be used: {0}")]
    Signing(String),
}

impl Signer {
    /// Reads a private key as PEM (PKCS #8, for RSA also PKCS #1); any other text is a secret, without the white space
    /// around it. Without `algorithm`, the key's own one, for secrets HS256.
    pub fn read(text: &str, algorithm: Option<Algorithm>) -> Result<Self, MintError> {
        let (key, own) = if text.contains("-----BEGIN") {
            private_key(text.as_bytes())?
        } else if text.trim_start().starts_with('{') {
            return Err(MintError::Key("this is a JWK, and private keys are read as PEM (PKCS #8)"));
        } else {
            let secret = text.trim().as_bytes();
            if secret.len() < SECRET_BYTES_MIN {
                return Err(MintError::Key("a secret has 32 bytes or more: hubbub token keygen --alg HS256"));
            }
            let own = algorithm.filter(|algorithm| SECRET_ALGORITHMS.contains(algorithm));
            (EncodingKey::from_secret(secret), own.unwrap_or(Algorithm::Hs256))
        };
        match algorithm {
            Some(other) if other != own => Err(MintError::Algorithm(other)),
            _ => Ok(Self { key, algorithm: own }),
        }
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Signs a statement. What the server would refuse is refused here.
    pub fn mint(&self, statement: &Statement, now_unix_ms: u64) -> Result<String, MintError> {
        let claims = statement.claims(now_unix_ms / 1_000);
        let text = Value::Object(claims.clone()).to_string();
        let rules = Rules {
            issuers: statement.issuer.iter().cloned().collect(),
            audiences: statement.audience.iter().cloned().collect(),
            ..Rules::default()
        };
        claims::read(text.as_bytes(), &rules, now_unix_ms)?;
        self.sign(statement.kid.as_deref(), &claims)
    }

    /// Signs any claims, also such as no server takes.
    pub fn sign(&self, kid: Option<&str>, claims: &Map<String, Value>) -> Result<String, MintError> {
        let header = Header { kid: kid.map(Into::into), ..Header::new(library_name(self.algorithm)) };
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|error| MintError::Signing(error.to_string()))
    }
}

/// A `jti` that no other token has: 32 hexadecimal digits.
pub fn new_id() -> Result<String, MintError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| MintError::Key("this machine has no randomness"))?;
    Ok(hexadecimal(&bytes))
}

impl Statement {
    fn claims(&self, now_unix_s: u64) -> Map<String, Value> {
        let mut claims = Map::new();
        let mut say = |name: &str, value: Option<Value>| {
            claims.extend(value.map(|value| (name.to_owned(), value)));
        };
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        say("sub", Some(self.subject.as_str().into()));
        say("iat", Some(now_unix_s.into()));
        say("exp", Some(now_unix_s.saturating_add(self.ttl.as_secs()).into()));
        say("jti", text(&self.id));
        say("iss", text(&self.issuer));
        say("aud", text(&self.audience));
        say("name", text(&self.name));
        say("roles", (!self.roles.is_empty()).then(|| json!(self.roles)));
        let rooms: Map<_, _> = self.rooms.iter().map(|(rooms, role)| (rooms.clone(), role.as_str().into())).collect();
        say("rooms", (!rooms.is_empty()).then_some(Value::Object(rooms)));
        claims
    }
}

fn private_key(pem: &[u8]) -> Result<(EncodingKey, Algorithm), MintError> {
    EncodingKey::from_ed_pem(pem)
        .map(|key| (key, Algorithm::EdDsa))
        .or_else(|_| EncodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::Es256)))
        .ok()
        .or_else(|| {
            let is_private = String::from_utf8_lossy(pem).contains("PRIVATE KEY-----");
            let key = EncodingKey::from_rsa_pem(pem).ok().filter(|_| is_private)?;
            Some((key, Algorithm::Rs256))
        })
        .ok_or(MintError::Key(
            "this is no private key (PEM, PKCS #8: openssl pkcs8 -topk8 -nocrypt -in FILE); make one with hubbub token keygen",
        ))
}

/// The algorithm as the library that signs knows it.
fn library_name(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        Algorithm::Hs384 => jsonwebtoken::Algorithm::HS384,
        Algorithm::Hs512 => jsonwebtoken::Algorithm::HS512,
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}

const SECRET_BYTES_MIN: usize = 32;
const SECRET_ALGORITHMS: [Algorithm; 3] = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::keygen::{KeyPair, generate};
    use crate::token::{Key, Verifier};

    const NOW: u64 = 1_800_000_000_000;

    fn ann() -> Statement {
        Statement {
            subject: "ann".into(),
            name: Some("Ann A.".into()),
            roles: vec!["staff".into()],
            rooms: vec![("team-*".into(), Role::Member), ("lobby".into(), Role::Host)],
            ttl: Duration::from_secs(3600),
            id: Some("t-1".into()),
            issuer: Some("https://app.example".into()),
            audience: Some("hubbub".into()),
            kid: Some("k".into()),
        }
    }

    #[test]
    fn the_server_takes_what_every_algorithm_signs() {
        let rules =
            Rules { issuers: vec!["https://app.example".into()], audiences: vec!["hubbub".into()], ..Rules::default() };
        for algorithm in Algorithm::ALL {
            let (private, key) = match generate(algorithm).unwrap() {
                KeyPair::Secret(secret) => {
                    let key = Key::secret(None, secret.trim().as_bytes()).unwrap();
                    (secret, key)
                }
                KeyPair::Pair { private, public } => (private, Key::from_pem(Some("k"), &public).unwrap()),
            };
            let signer = Signer::read(&private, Some(algorithm)).unwrap();
            let token = signer.mint(&ann(), NOW).unwrap();
            let identity = Verifier::new(vec![key], rules.clone()).verify(&token, NOW).unwrap();
            assert_eq!((identity.user.as_str(), identity.name.as_deref()), ("ann", Some("Ann A.")), "{algorithm}");
            assert_eq!((identity.token_id.as_deref(), identity.rooms.unwrap().iter().count()), (Some("t-1"), 2));
            assert_eq!(identity.issued_unix_ms, Some(NOW));
        }
    }

    #[test]
    fn what_no_server_takes_is_not_signed() {
        let signer = Signer::read(&"s".repeat(32), None).unwrap();
        let refused = |statement: Statement| match signer.mint(&statement, NOW) {
            Err(MintError::Unusable(TokenError::Claim { claim, .. })) => claim,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(Statement { subject: String::new(), ..ann() }), "sub");
        assert_eq!(refused(Statement { name: Some("a\nb".into()), ..ann() }), "name");
        assert_eq!(refused(Statement { roles: vec!["r".into(); 33], ..ann() }), "roles");
        assert_eq!(refused(Statement { rooms: vec![(String::new(), Role::Host)], ..ann() }), "rooms");
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused() {
        let KeyPair::Pair { private, public } = generate(Algorithm::EdDsa).unwrap() else { panic!() };
        assert!(matches!(Signer::read("short", None), Err(MintError::Key(_))));
        assert!(matches!(Signer::read(&public, None), Err(MintError::Key(_))));
        let jwk = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#;
        assert!(matches!(Signer::read(jwk, None), Err(MintError::Key(_))), "not a secret by accident");
        let wrong = Signer::read(&private, Some(Algorithm::Hs256));
        assert_eq!(wrong.err(), Some(MintError::Algorithm(Algorithm::Hs256)));
    }
}
