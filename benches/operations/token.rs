//! `token`: whose token it is, by each algorithm, and from memory.
//!
//! Keys are made anew each time, unlike all other inputs; what comes out does not depend on them.

use std::hint::black_box;
use std::time::Duration;

use hubbub::message::event::Role;
use hubbub::token::keygen::{KeyPair, generate};
use hubbub::token::mint::{Signer, Statement};
use hubbub::token::{Algorithm, Cache, Generation, Key, Rules, Verifier};

use super::{Operation, Work, fold_bytes};

const NOW_UNIX_MS: u64 = 1_800_000_000_000;

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = Vec::from(Algorithm::ALL.map(verify));
    operations.extend([cached(), refused()]);
    operations
}

/// Keys, and a token of a usual kind that one of them has signed.
fn signed(algorithm: Algorithm) -> (Generation, String) {
    let (private, key) = match generate(algorithm).expect("there is randomness") {
        KeyPair::Secret(secret) => {
            let key = Key::secret(None, secret.trim().as_bytes());
            (secret, key)
        }
        KeyPair::Pair { private, public } => (private, Key::from_pem(Some("k"), &public)),
    };
    let statement = Statement {
        subject: "ann".into(),
        roles: vec!["staff".into()],
        rooms: vec![("team-*".into(), Role::Member), ("lobby".into(), Role::Host)],
        ttl: Duration::from_secs(3600),
        id: Some("0123456789abcdef".into()),
        kid: Some("k".into()),
        ..Statement::default()
    };
    let signer = Signer::read(&private, Some(algorithm)).expect("a key of ours");
    let token = signer.mint(&statement, NOW_UNIX_MS).expect("a good token");
    let verifier = Verifier::new(vec![key.expect("a key of ours")], Rules::default());
    (Generation { number: 1, verifier }, token)
}

fn verify(algorithm: Algorithm) -> Operation {
    Operation::new("token/verifier", format!("verify {algorithm}"), Work::Elements(1), move || {
        let (keys, token) = signed(algorithm);
        move || {
            let identity = keys.verifier.verify(black_box(&token), NOW_UNIX_MS);
            identity.map_or(0, |identity| fold_bytes(identity.user.as_str().as_bytes()))
        }
    })
}

fn cached() -> Operation {
    Operation::new("token/cache", "a token seen before", Work::Elements(1), || {
        let (keys, token) = signed(Algorithm::EdDsa);
        let mut cache = Cache::new();
        move || {
            let identity = cache.verify(&keys, black_box(&token), NOW_UNIX_MS);
            identity.map_or(0, |identity| fold_bytes(identity.user.as_str().as_bytes()))
        }
    })
}

fn refused() -> Operation {
    Operation::new("token/cache", "a bad token seen before", Work::Elements(1), || {
        let (_, token) = signed(Algorithm::EdDsa);
        let (keys, _) = signed(Algorithm::EdDsa);
        let mut cache = Cache::new();
        move || {
            let refusal = cache.verify(&keys, black_box(&token), NOW_UNIX_MS);
            refusal.map_or_else(|error| fold_bytes(error.label().as_bytes()), |_| 0)
        }
    })
}
