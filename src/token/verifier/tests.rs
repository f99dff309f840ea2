//! One token after the other: the examples of the RFCs, and everything that is refused.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::*;
use crate::token::key::{KeySet, Origin, SIGNATURES_CHECKED};
use crate::token::keygen::{KeyPair, generate};
use crate::token::mint::Signer;

const NOW: u64 = 1_800_000_000_000;
/// The payload of RFC 7515, appendices A.1 to A.3.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const SECRET: &str = "a secret for tests, of 32 bytes or more";

fn jwk(value: &Value) -> Key {
    KeySet::from_json(value.to_string().as_bytes(), Origin::File).unwrap().keys.remove(0)
}

fn verifier(keys: Vec<Key>) -> Verifier {
    Verifier::new(keys, Rules { leeway: Duration::from_secs(30), ..Rules::default() })
}

/// A key of its own kind, and who signs with it.
fn pair(algorithm: Algorithm, kid: Option<&str>) -> (Key, Signer) {
    match generate(algorithm).unwrap() {
        KeyPair::Secret(secret) => {
            let key = Key::secret(kid, secret.trim().as_bytes()).unwrap();
            (key, Signer::read(&secret, Some(algorithm)).unwrap())
        }
        KeyPair::Pair { private, public } => {
            (Key::from_pem(kid, &public).unwrap(), Signer::read(&private, Some(algorithm)).unwrap())
        }
    }
}

fn ann() -> Map<String, Value> {
    let claims = json!({"sub": "ann", "exp": NOW / 1_000 + 60});
    claims.as_object().unwrap().clone()
}

/// A token with this header and these claims, signed with HS256 and the secret, whatever the header says.
fn forged(header: &Value, claims: &Value) -> String {
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

#[test]
fn examples_of_the_rfcs_are_signed_as_they_say() {
    let secret = json!({
        "kty": "oct",
        "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
    });
    let rsa = json!({
        "kty": "RSA",
        "n": concat!(
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SF",
            "d2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7",
            "WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs",
            "91kzk2PAcDTW9gb54h4FRWyuXpoQ"
        ),
        "e": "AQAB",
    });
    let rsa_signature = concat!(
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CU",
        "Ar7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO",
        "--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN",
        "_IoypGlUPQGe77Rw"
    );
    let p256 = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let ed25519 = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let examples = [
        (
            "RFC 7515 A.1",
            secret,
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            JOE,
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        ("RFC 7515 A.2", rsa, "eyJhbGciOiJSUzI1NiJ9", JOE, rsa_signature),
        (
            "RFC 7515 A.3",
            p256,
            "eyJhbGciOiJFUzI1NiJ9",
            JOE,
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            "RFC 8037 A.4",
            ed25519,
            "eyJhbGciOiJFZERTQSJ9",
            "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    for (name, key, header, payload, signature) in examples {
        let verifier = verifier(vec![jwk(&key)]);
        let token = format!("{header}.{payload}.{signature}");
        assert_eq!(verifier.signed_payload(&token), Ok(URL_SAFE_NO_PAD.decode(payload).unwrap()), "{name}");
        // Another first character of the payload, and nothing else.
        let changed =
            format!("{header}.{}{}.{signature}", if payload.starts_with('e') { 'f' } else { 'e' }, &payload[1..]);
        assert_eq!(verifier.signed_payload(&changed), Err(TokenError::Signature), "{name}");
    }
    let old = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
    let key = json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"});
    let token = format!("{old}.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    assert_eq!(verifier(vec![jwk(&key)]).verify(&token, NOW), Err(TokenError::Expired), "of the year 2011");
}

#[test]
fn a_token_that_is_too_long_is_not_read() {
    let token = "!".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(verifier(Vec::new()).verify(&token, NOW), Err(TokenError::TooLong));
    assert!(matches!(verifier(Vec::new()).verify(&token[1..], NOW), Err(TokenError::Malformed(_))));
}

#[test]
fn what_is_no_token_is_malformed() {
    let verifier = verifier(vec![Key::secret(None, SECRET.as_bytes()).unwrap()]);
    let good = forged(&json!({"alg": "HS256"}), &Value::Object(ann()));
    assert!(verifier.verify(&good, NOW).is_ok());
    let header = |header: &str| good.replacen(good.split('.').next().unwrap(), &URL_SAFE_NO_PAD.encode(header), 1);
    let mut bad: Vec<String> = ["", ".", "..", "...", "a.b", "a.b.c.d"].map(String::from).to_vec();
    bad.extend(
        ["", "{}", "[]", "{\"alg\":5}", "{\"alg\":\"HS256\",\"alg\":\"HS256\"}", "{\"alg\":\"HS256\",\"kid\":5}"]
            .map(header),
    );
    bad.push(header("{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}"));
    bad.push(header(&format!("{{\"alg\":\"HS256\",\"kid\":\"{}\"}}", "k".repeat(129))));
    bad.extend([
        format!("{good}="),
        format!("{good}!"),
        good.replace('.', " ."),
        format!(" {good}"),
        format!("{good}\n"),
    ]);
    for token in bad {
        let error = verifier.verify(&token, NOW).unwrap_err();
        assert!(matches!(error, TokenError::Malformed(_)), "{token:?}: {error:?}");
    }
}

#[test]
fn algorithms_that_are_not_ours_are_refused_without_a_signature() {
    let verifier = verifier(vec![Key::secret(None, SECRET.as_bytes()).unwrap()]);
    let before = SIGNATURES_CHECKED.with(std::cell::Cell::get);
    for name in ["none", "None", "hs256", "HS1", "RS384", "PS256", "ES384", "ES512", "ES256K", "", "dir"] {
        let token = forged(&json!({"alg": name}), &Value::Object(ann()));
        assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Algorithm(name.into())));
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert_eq!(verifier.verify(&unsigned, NOW), Err(TokenError::Algorithm(name.into())));
    }
    assert_eq!(SIGNATURES_CHECKED.with(std::cell::Cell::get), before);
    let long = forged(&json!({"alg": "x".repeat(500)}), &json!({}));
    assert!(verifier.verify(&long, NOW).unwrap_err().to_string().len() < 200);
}

#[test]
fn a_public_key_is_no_secret() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let KeyPair::Pair { public, .. } = generate(algorithm).unwrap() else { panic!() };
        // What a careless server would take: an HMAC whose secret is the text of the public key.
        let token =
            Signer::read(&public.replace("-----BEGIN", "----BEGIN"), None).unwrap().sign(Some("k"), &ann()).unwrap();
        let verifier = verifier(vec![Key::from_pem(Some("k"), &public).unwrap()]);
        assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Algorithm("HS256".into())));
    }
}

#[test]
fn an_algorithm_without_a_key_is_refused() {
    let (key, _) = pair(Algorithm::EdDsa, None);
    let (_, other) = pair(Algorithm::Es256, None);
    let token = other.sign(None, &ann()).unwrap();
    assert_eq!(verifier(vec![key]).verify(&token, NOW), Err(TokenError::Algorithm("ES256".into())));
    // A secret of 39 bytes is too short for HS512.
    let key = Key::secret(None, SECRET.as_bytes()).unwrap();
    let token = Signer::read(SECRET, Some(Algorithm::Hs512)).unwrap().sign(None, &ann()).unwrap();
    assert_eq!(verifier(vec![key]).verify(&token, NOW), Err(TokenError::Algorithm("HS512".into())));
}

#[test]
fn a_wrong_signature_is_refused_for_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let (key, signer) = pair(algorithm, Some("k"));
        let (_, stranger) = pair(algorithm, Some("k"));
        let verifier = verifier(vec![key]);
        assert!(verifier.verify(&signer.sign(Some("k"), &ann()).unwrap(), NOW).is_ok(), "{algorithm}");
        let token = stranger.sign(Some("k"), &ann()).unwrap();
        assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Signature), "{algorithm}");
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert_eq!(verifier.verify(&unsigned, NOW), Err(TokenError::Signature), "{algorithm}");
    }
}

#[test]
fn the_name_of_a_key_decides_which_is_tried() {
    let (first, signs_first) = pair(Algorithm::EdDsa, Some("a"));
    let (second, signs_second) = pair(Algorithm::EdDsa, Some("b"));
    let verifier = verifier(vec![first, second]);
    let verify = |signer: &Signer, kid| verifier.verify(&signer.sign(kid, &ann()).unwrap(), NOW).map(drop);
    for (signer, kid) in [(&signs_first, "a"), (&signs_second, "b")] {
        assert_eq!((verify(signer, Some(kid)), verify(signer, None)), (Ok(()), Ok(())));
    }
    assert_eq!(verify(&signs_first, Some("b")), Err(TokenError::Signature));
    let unknown = TokenError::UnknownKey { kid: Some("c".into()) };
    assert_eq!(verify(&signs_first, Some("c")), Err(unknown.clone()));
    assert!(unknown.to_string().contains("\"c\""));
}

#[test]
fn a_key_without_a_name_stands_in_for_one_that_is_not_known() {
    let (key, signer) = pair(Algorithm::Hs256, None);
    let (_, stranger) = pair(Algorithm::Hs256, None);
    let verifier = verifier(vec![key]);
    assert!(verifier.verify(&signer.sign(Some("any"), &ann()).unwrap(), NOW).is_ok());
    // Its key may be still to come.
    let unknown = Err(TokenError::UnknownKey { kid: Some("any".into()) });
    assert_eq!(verifier.verify(&stranger.sign(Some("any"), &ann()).unwrap(), NOW).map(drop), unknown);
    assert_eq!(verifier.verify(&stranger.sign(None, &ann()).unwrap(), NOW), Err(TokenError::Signature));
}

#[test]
fn without_any_key_every_key_is_unknown() {
    let (_, signer) = pair(Algorithm::EdDsa, None);
    for kid in [None, Some("k")] {
        let token = signer.sign(kid, &ann()).unwrap();
        let unknown = TokenError::UnknownKey { kid: kid.map(Into::into) };
        assert_eq!(verifier(Vec::new()).verify(&token, NOW), Err(unknown));
    }
}

#[test]
fn only_so_many_keys_are_tried() {
    let (key, signer) = pair(Algorithm::EdDsa, None);
    let (other, _) = pair(Algorithm::EdDsa, None);
    let token = signer.sign(None, &ann()).unwrap();
    let after = |others: usize| {
        let mut keys = vec![other.clone(); others];
        keys.push(key.clone());
        verifier(keys).verify(&token, NOW).map(drop)
    };
    assert_eq!(after(TOKEN_KEYS_TRIED_MAX - 1), Ok(()));
    let before = SIGNATURES_CHECKED.with(std::cell::Cell::get);
    assert_eq!(after(TOKEN_KEYS_TRIED_MAX), Err(TokenError::Signature));
    assert_eq!(SIGNATURES_CHECKED.with(std::cell::Cell::get), before + TOKEN_KEYS_TRIED_MAX);
}

#[test]
fn claims_are_read_only_of_what_is_signed() {
    let verifier = verifier(vec![Key::secret(None, SECRET.as_bytes()).unwrap()]);
    let token = forged(&json!({"alg": "HS256"}), &json!({"sub": "ann"}));
    assert_eq!(verifier.verify(&token, NOW), Err(TokenError::claim("exp", "is missing")));
    let changed = format!("{}A", &token[..token.len() - 1]);
    assert!(matches!(verifier.verify(&changed, NOW), Err(TokenError::Signature | TokenError::Malformed(_))));
    let text = URL_SAFE_NO_PAD.encode("no JSON");
    let message = format!("{}.{text}", token.split('.').next().unwrap());
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()));
    assert!(matches!(verifier.verify(&format!("{message}.{signature}"), NOW), Err(TokenError::Malformed(_))));
}

#[test]
fn every_refusal_has_a_text_and_a_word_of_its_own() {
    let all = [
        TokenError::TooLong,
        TokenError::Malformed("x"),
        TokenError::Algorithm("none".into()),
        TokenError::UnknownKey { kid: None },
        TokenError::Signature,
        TokenError::Expired,
        TokenError::NotYetValid { claim: "nbf", from_unix_ms: 0 },
        TokenError::Issuer,
        TokenError::Audience,
        TokenError::claim("sub", "is missing"),
    ];
    let mut labels: Vec<&str> = all.iter().map(TokenError::label).collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), all.len());
    assert!(all.iter().all(|error| error.to_string().contains("token") || error.to_string().contains("key")));
}
