//! Tokens: any text is refused or is someone's, without a panic. If the first byte is odd, the rest is put into a token
//! as its claims and signed, so that the claims are reached; then what is taken must obey the rules, and the same again.

use std::sync::LazyLock;

use hubbub::limits::{TOKEN_ROLES_MAX, TOKEN_ROOMS_MAX, USER_NAME_BYTES_MAX};
use hubbub::token::mint::Signer;
use hubbub::token::{Cache, Generation, Key, Rules, TokenError, Verifier};

const SECRET: &str = "a fixed secret of 64 bytes, for there is nothing to keep secret.";
const ED25519: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
const NOW_UNIX_MS: u64 = 1_800_000_000_000;

static KEYS: LazyLock<Generation> = LazyLock::new(|| {
    let keys = [Key::secret(None, SECRET.as_bytes()), Key::from_pem(Some("ed"), ED25519)];
    let rules = Rules { audiences: vec!["chat".into()], ..Rules::default() };
    let keys = keys.into_iter().map(|key| key.expect("a key")).collect();
    Generation { number: 1, verifier: Verifier::new(keys, rules) }
});
static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::read(SECRET, None).expect("a key"));

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if kind % 2 == 0 {
        // Nobody has signed it, unless the fuzzer has broken HMAC.
        assert!(KEYS.verifier.verify(text, NOW_UNIX_MS).is_err());
        return;
    }
    let Ok(serde_json::Value::Object(claims)) = serde_json::from_str(text) else { return };
    let token = SIGNER.sign(None, &claims).expect("any claims can be signed");
    let verdict = KEYS.verifier.verify(&token, NOW_UNIX_MS);
    match &verdict {
        Ok(identity) => {
            assert!(identity.proven && identity.expires_unix_ms.is_some_and(|end| end > NOW_UNIX_MS));
            assert!((1..=USER_NAME_BYTES_MAX).contains(&identity.user.as_str().len()));
            assert!(identity.roles.len() <= TOKEN_ROLES_MAX);
            assert!(identity.rooms.as_ref().is_none_or(|rooms| rooms.iter().count() <= TOKEN_ROOMS_MAX));
        }
        Err(error) => assert!(*error != TokenError::Signature && !error.to_string().is_empty()),
    }
    let mut cache = Cache::new();
    for _ in 0..2 {
        assert_eq!(cache.verify(&KEYS, &token, NOW_UNIX_MS).map(|identity| (*identity).clone()), verdict);
    }
}
