//! Who a client is in open mode: the name that it gives.

use xxhash_rust::xxh3::xxh3_64;

use crate::access::Identity;
use crate::chat::exchange::Refusal;
use crate::ids::UserName;
use crate::message::close::ErrorCode;

/// Decides who a client is that shows this token and gives this name. `entropy` gives a name to a guest; of a secret
/// made from the same bits, the name tells at most 32 bits.
///
/// # Errors
/// Any token is `unauthorized`, and a name that is against the rules a `bad_request`.
pub fn identify(token: Option<&str>, name: Option<&str>, entropy: u128) -> Result<Identity, Refusal> {
    if token.is_some() {
        return Err(Refusal::new(
            ErrorCode::Unauthorized,
            "this server runs in open mode and checks no tokens: connect with `name` and without `token`",
        ));
    }
    let Some(name) = name else {
        return Ok(Identity::named(guest(entropy)));
    };
    UserName::new(name)
        .map(Identity::named)
        .map_err(|error| Refusal { code: ErrorCode::BadRequest, message: format!("`name` is no good: {error}").into() })
}

/// The name of a guest.
pub(super) fn guest(entropy: u128) -> UserName {
    let name = format!("guest-{:08x}", xxh3_64(&entropy.to_le_bytes()) >> 32);
    UserName::new(&name).expect("hexadecimal digits are a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identified(name: Option<&str>, token: Option<&str>, entropy: u128) -> Result<String, ErrorCode> {
        let identity = identify(token, name, entropy);
        identity.map(|identity| identity.user.as_str().to_owned()).map_err(|refusal| refusal.code)
    }

    #[test]
    fn in_open_mode_a_name_is_a_user_and_a_token_is_refused() {
        assert_eq!(identified(Some("ann"), None, 0), Ok("ann".into()));
        assert_eq!(identified(Some("a\nb"), None, 0), Err(ErrorCode::BadRequest));
        assert_eq!(identified(Some("ann"), Some("ey.."), 0), Err(ErrorCode::Unauthorized));
    }

    #[test]
    fn guests_get_names_that_differ_and_do_not_show_the_entropy() {
        let name = identified(None, None, 0x1122_3344_5566_7788).unwrap();
        assert!(name.starts_with("guest-") && name.len() == 14, "{name}");
        assert_ne!(name, identified(None, None, 0x1122_3344_5566_7789).unwrap());
        assert!(!name.contains("55667788") && !name.contains("11223344"));
    }
}
