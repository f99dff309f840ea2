//! Signatures of requests: HMAC-SHA256 (RFC 2104) over the time, a dot and the body, so that a request can neither be
//! changed nor be sent again later.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use aws_lc_rs::hmac;

/// What the server and the application share. Never written anywhere.
pub(super) struct Secret(hmac::Key);

impl Secret {
    /// Reads its file; white space around the key does not belong to it. Errors name no content.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read(path)?;
        Self::new(text.trim_ascii())
    }

    fn new(key: &[u8]) -> io::Result<Self> {
        if key.len() < KEY_BYTES_MIN {
            let what = format!("the key has {} bytes, and {KEY_BYTES_MIN} are the fewest", key.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// The value of the header that signs a body at a time in Unix seconds.
    pub(super) fn sign(&self, timestamp: &str, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(timestamp.as_bytes());
        context.update(b".");
        context.update(body);
        let mut value = String::from(VERSION);
        for byte in context.sign().as_ref() {
            write!(value, "{byte:02x}").expect("writing to a string cannot fail");
        }
        value
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Names what is signed and how, so that another way can follow.
const VERSION: &str = "v1=";
/// As long as the digest: a shorter key is the weakest part (RFC 2104, section 3).
const KEY_BYTES_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_other_programs_make_of_it() {
        let secret = Secret::new(b"0123456789abcdef0123456789abcdef").unwrap();
        // From Python: hmac.new(key, b'1790000000.{"event":"join"}', "sha256").hexdigest()
        let expected = "v1=4e6836ad7528d9293ebde2d5eb9a039978373135d3594c6d0db9608690b1041b";
        assert_eq!(secret.sign("1790000000", br#"{"event":"join"}"#), expected);
    }

    #[test]
    fn short_keys_are_refused_without_being_shown() {
        let error = Secret::new(b"0123456789abcdef0123456789abcde").unwrap_err();
        assert_eq!(error.to_string(), "the key has 31 bytes, and 32 are the fewest");
        assert_eq!(format!("{:?}", Secret::new(&[7; 32]).unwrap()), "Secret");
    }
}
