//! The claims of a token whose signature is known to be good, read into an [`Identity`].
//!
//! `sub` and `exp` are required. Claims that are not ours are passed over; one of ours that cannot be used refuses the
//! token, for what was meant by it would be a guess. A claim that is `null` is absent, one that comes twice is refused.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::access::{Grants, Identity};
use crate::ids::UserName;
use crate::limits::{LABEL_BYTES_MAX, ROOM_NAME_BYTES_MAX, TOKEN_ROLES_MAX, TOKEN_ROOMS_MAX};
use crate::message::event::Role;
use crate::policy::Pattern;
use crate::token::error::{TokenError, shortened};
use crate::token::verifier::Rules;

/// As they stand in the token.
#[derive(Deserialize)]
struct Claims {
    sub: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
    jti: Option<Value>,
    name: Option<Value>,
    roles: Option<Value>,
    rooms: Option<Value>,
}

/// Reads the claims and holds them against the rules, at this time.
pub(super) fn read(payload: &[u8], rules: &Rules, now_unix_ms: u64) -> Result<Identity, TokenError> {
    let claims: Claims = serde_json::from_slice(payload)
        .map_err(|_| TokenError::Malformed("its payload is not a JSON object with each claim once"))?;
    let (expires, issued) = check_times(&claims, rules, now_unix_ms)?;
    check_parties(&claims, rules)?;
    let subject = text("sub", claims.sub.as_ref())?.ok_or_else(|| TokenError::claim("sub", "is missing"))?;
    let user = UserName::new(subject).map_err(|error| TokenError::claim("sub", format!("is no user: {error}")))?;
    let name = text("name", claims.name.as_ref())?.map(|name| check_name("name", name)).transpose()?;
    let token_id = text("jti", claims.jti.as_ref())?.map(check_id).transpose()?;
    Ok(Identity {
        user,
        name: name.map(Arc::from),
        proven: true,
        expires_unix_ms: Some(expires),
        issued_unix_ms: issued,
        token_id: token_id.map(Arc::from),
        roles: claims.roles.as_ref().map(roles).transpose()?.unwrap_or_default(),
        rooms: claims.rooms.as_ref().map(rooms).transpose()?,
    })
}

/// When the token ends, and when it was issued.
fn check_times(claims: &Claims, rules: &Rules, now_unix_ms: u64) -> Result<(u64, Option<u64>), TokenError> {
    let leeway = rules.leeway.as_millis() as u64;
    let expires = time("exp", claims.exp.as_ref())?.ok_or_else(|| TokenError::claim("exp", "is missing"))?;
    let ends = expires.saturating_add(leeway);
    if ends <= now_unix_ms {
        return Err(TokenError::Expired);
    }
    let issued = time("iat", claims.iat.as_ref())?;
    for (claim, begins) in [("nbf", time("nbf", claims.nbf.as_ref())?), ("iat", issued)] {
        let from_unix_ms = begins.unwrap_or(0).saturating_sub(leeway);
        if from_unix_ms > now_unix_ms {
            return Err(TokenError::NotYetValid { claim, from_unix_ms });
        }
    }
    Ok((ends, issued))
}

fn check_parties(claims: &Claims, rules: &Rules) -> Result<(), TokenError> {
    let issuer = text("iss", claims.iss.as_ref())?;
    if !rules.issuers.is_empty() && !issuer.is_some_and(|issuer| rules.issuers.iter().any(|ours| ours == issuer)) {
        return Err(TokenError::Issuer);
    }
    let is_ours = |value: &Value| value.as_str().is_some_and(|text| rules.audiences.iter().any(|ours| ours == text));
    let is_for_us = match &claims.aud {
        // Who names nobody means everybody, unless the server insists.
        None => rules.audiences.is_empty(),
        Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
        Some(audience) => is_ours(audience),
    };
    if is_for_us { Ok(()) } else { Err(TokenError::Audience) }
}

fn text<'a>(claim: &'static str, value: Option<&'a Value>) -> Result<Option<&'a str>, TokenError> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::claim(claim, "is no text")),
    }
}

/// A `NumericDate` (RFC 7519 section 2: seconds since 1970, perhaps with a fraction) in milliseconds.
fn time(claim: &'static str, value: Option<&Value>) -> Result<Option<u64>, TokenError> {
    let Some(value) = value else { return Ok(None) };
    let seconds = value.as_f64().ok_or_else(|| TokenError::claim(claim, "is no number of seconds since 1970"))?;
    if !(0.0..=LATEST_UNIX_S).contains(&seconds) {
        return Err(TokenError::claim(claim, "is out of range: give seconds since 1970, not milliseconds"));
    }
    Ok(Some((seconds * 1_000.0) as u64))
}

fn check_name<'a>(claim: &'static str, name: &'a str) -> Result<&'a str, TokenError> {
    match UserName::new(name) {
        Ok(_) => Ok(name),
        Err(error) => Err(TokenError::claim(claim, format!("cannot be shown: {error}"))),
    }
}

fn check_id(id: &str) -> Result<&str, TokenError> {
    if id.is_empty() || id.len() > LABEL_BYTES_MAX || id.chars().any(char::is_control) {
        let what = format!("has to have 1 to {LABEL_BYTES_MAX} bytes without control characters");
        return Err(TokenError::claim("jti", what));
    }
    Ok(id)
}

fn roles(value: &Value) -> Result<Box<[Arc<str>]>, TokenError> {
    let refuse = |what: String| TokenError::claim("roles", what);
    let Value::Array(names) = value else { return Err(refuse("is no list of names".to_owned())) };
    if names.len() > TOKEN_ROLES_MAX {
        return Err(refuse(format!("has {} names; {TOKEN_ROLES_MAX} at most", names.len())));
    }
    let name = |name: &Value| {
        let name = name.as_str().ok_or_else(|| refuse("is no list of names".to_owned()))?;
        check_name("roles", name).map(Arc::from)
    };
    names.iter().map(name).collect()
}

fn rooms(value: &Value) -> Result<Grants, TokenError> {
    let refuse = |what: String| TokenError::claim("rooms", what);
    let Value::Object(rooms) = value else {
        return Err(refuse("is no object of patterns and roles, such as {\"team-*\": \"member\"}".to_owned()));
    };
    if rooms.len() > TOKEN_ROOMS_MAX {
        return Err(refuse(format!("has {} patterns; {TOKEN_ROOMS_MAX} at most", rooms.len())));
    }
    let grant = |(pattern, role): (&String, &Value)| {
        if pattern.is_empty() || pattern.len() > ROOM_NAME_BYTES_MAX {
            return Err(refuse(format!("has a pattern that is empty or longer than {ROOM_NAME_BYTES_MAX} bytes")));
        }
        let role = role.as_str().and_then(Role::named).ok_or_else(|| {
            refuse(format!("gives {:?} no role: write \"guest\", \"member\" or \"host\"", shortened(pattern)))
        })?;
        Ok((Pattern::new(pattern), role))
    };
    rooms.iter().map(grant).collect::<Result<Vec<_>, _>>().map(Grants::new)
}

/// The end of the year 9999. Later times are most likely milliseconds.
const LATEST_UNIX_S: f64 = 253_402_300_799.0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;
    const NOW: u64 = NOW_S * 1_000;

    fn rules() -> Rules {
        Rules { leeway: Duration::from_secs(30), ..Rules::default() }
    }

    fn with(claim: &str, value: Value) -> Value {
        let mut claims = json!({"sub": "ann", "exp": NOW_S + 60});
        claims[claim] = value;
        claims
    }

    fn read_with(claim: &str, value: Value) -> Result<Identity, TokenError> {
        read(with(claim, value).to_string().as_bytes(), &rules(), NOW)
    }

    /// The refused claim and what is said of it.
    fn refused(claim: &str, value: Value) -> String {
        match read_with(claim, value.clone()) {
            Err(error @ TokenError::Claim { claim: blamed, .. }) if blamed == claim => error.to_string(),
            other => panic!("{claim} = {value}: {other:?}"),
        }
    }

    #[test]
    fn claims_become_an_identity() {
        let claims = json!({
            "sub": "ann", "exp": NOW_S + 60, "nbf": NOW_S, "iat": NOW_S as f64 - 5.5, "jti": "t1", "name": "Ann A.",
            "roles": ["staff", "on-call"], "rooms": {"*": "guest", "lobby": "host"}, "email": "ann@example.com",
        });
        let identity = read(claims.to_string().as_bytes(), &rules(), NOW).unwrap();
        assert_eq!(identity.user.as_str(), "ann");
        assert_eq!(identity.name.as_deref(), Some("Ann A."));
        assert!(identity.proven);
        assert_eq!(identity.expires_unix_ms, Some(NOW + 90_000), "the leeway counts");
        assert_eq!(identity.issued_unix_ms, Some(NOW - 5_500));
        assert_eq!(identity.token_id.as_deref(), Some("t1"));
        assert_eq!(identity.roles.iter().map(|role| &**role).collect::<Vec<_>>(), ["staff", "on-call"]);
        let rooms: Vec<_> = identity.rooms.as_ref().unwrap().iter().map(|(p, role)| (p.as_str(), *role)).collect();
        assert_eq!(rooms, [("lobby", Role::Host), ("*", Role::Guest)]);
        let plain = read_with("rooms", Value::Null).unwrap();
        assert!(plain.rooms.is_none() && plain.roles.is_empty() && plain.name.is_none());
        assert_eq!(read_with("rooms", json!({})).unwrap().rooms, Some(Grants::default()), "no room at all");
    }

    #[test]
    fn times_have_a_leeway_and_an_end() {
        assert!(read_with("exp", json!(NOW_S - 29)).is_ok());
        assert_eq!(read_with("exp", json!(NOW_S - 30)), Err(TokenError::Expired));
        for claim in ["nbf", "iat"] {
            assert!(read_with(claim, json!(NOW_S + 30)).is_ok());
            let early = TokenError::NotYetValid { claim, from_unix_ms: NOW + 1_000 };
            assert_eq!(read_with(claim, json!(NOW_S + 31)), Err(early));
        }
        for claim in ["exp", "nbf", "iat"] {
            assert!(refused(claim, json!("1800000000")).contains("seconds"));
            assert!(refused(claim, json!(NOW)).contains("milliseconds"));
            refused(claim, json!(-1));
        }
    }

    #[test]
    fn a_claim_that_cannot_be_used_is_named() {
        assert!(refused("sub", Value::Null).contains("missing"));
        assert!(refused("exp", Value::Null).contains("missing"));
        assert!(refused("sub", json!(7)).contains("text"));
        assert!(refused("sub", json!(" ann")).contains("white space"));
        assert!(refused("sub", json!("x".repeat(65))).contains("64"));
        assert!(refused("name", json!("a\u{202e}b")).contains("control"));
        assert!(refused("jti", json!("")).contains("128"));
        assert!(refused("roles", json!("staff")).contains("list"));
        assert!(refused("roles", json!(["a", 5])).contains("list"));
        assert!(refused("roles", json!(vec!["r"; 33])).contains("32"));
        assert!(read_with("roles", json!(vec!["r"; 32])).is_ok());
        assert!(refused("rooms", json!(["lobby"])).contains("object"));
        assert!(refused("rooms", json!({"lobby": "owner"})).contains("\"lobby\""));
        assert!(refused("rooms", json!({"": "host"})).contains("empty"));
        assert!(refused("rooms", json!({"x".repeat(129): "host"})).contains("128"));
        let many = |n: usize| Value::Object((0..n).map(|n| (format!("r{n}"), "guest".into())).collect());
        assert!(refused("rooms", many(129)).contains("128"));
        assert!(read_with("rooms", many(128)).is_ok());
    }

    #[test]
    fn a_claim_that_comes_twice_is_refused() {
        let twice = format!("{{\"sub\":\"ann\",\"sub\":\"bob\",\"exp\":{}}}", NOW_S + 60);
        assert!(matches!(read(twice.as_bytes(), &rules(), NOW), Err(TokenError::Malformed(_))));
        for payload in ["[]", "5", "", "{", "{\"sub\":\"ann\"} x"] {
            assert!(matches!(read(payload.as_bytes(), &rules(), NOW), Err(TokenError::Malformed(_))), "{payload}");
        }
    }

    #[test]
    fn issuer_and_audience_are_held_against_the_rules() {
        let ours = Rules { issuers: vec!["a".into(), "b".into()], audiences: vec!["chat".into()], ..rules() };
        let read = |iss: Value, aud: Value, rules: &Rules| {
            let mut claims = with("iss", iss);
            claims["aud"] = aud;
            read(claims.to_string().as_bytes(), rules, NOW).map(drop)
        };
        assert_eq!(read(json!("b"), json!("chat"), &ours), Ok(()));
        assert_eq!(read(json!("a"), json!(["other", "chat"]), &ours), Ok(()));
        assert_eq!(read(json!("c"), json!("chat"), &ours), Err(TokenError::Issuer));
        assert_eq!(read(Value::Null, json!("chat"), &ours), Err(TokenError::Issuer));
        for aud in [json!("other"), json!([]), json!([5]), json!({"chat": 1}), Value::Null] {
            assert_eq!(read(json!("a"), aud, &ours), Err(TokenError::Audience));
        }
        // RFC 7519 section 4.1.3: who is not told its own name is not meant by any.
        assert_eq!(read(json!("any"), json!("chat"), &rules()), Err(TokenError::Audience));
        assert_eq!(read(json!("any"), Value::Null, &rules()), Ok(()));
    }
}
