//! The key that opens `/api` and `/debug`.

use std::fs;
use std::io;
use std::path::Path;

use axum::http::{HeaderMap, header};

/// What a request must show as `Authorization: Bearer …`. Never written anywhere.
#[derive(Clone)]
pub struct AdminKey(Box<[u8]>);

impl AdminKey {
    /// Reads the key's file; white space around the key does not belong to it. Errors name no content.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let key = text.trim().as_bytes();
        if key.len() < KEY_BYTES_MIN {
            let what = format!("the key has {} bytes, and fewer than {KEY_BYTES_MIN} can be guessed", key.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(Self(key.into()))
    }

    /// The value of the header that shows the key.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        [b"Bearer ", &*self.0].concat()
    }

    /// Whether a request shows the key. Takes as long for a wrong key as for the right one.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let Some(shown) = shown.and_then(|value| value.strip_prefix(b"Bearer ")) else {
            return false;
        };
        let differing = self.0.iter().zip(shown).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        shown.len() == self.0.len() && std::hint::black_box(differing) == 0
    }
}

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKey")
    }
}

/// Shorter keys are refused.
const KEY_BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_opens() {
        let key = AdminKey(b"0123456789abcdef".as_slice().into());
        let shows = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            key.is_shown(&headers)
        };
        assert!(shows("Bearer 0123456789abcdef"));
        for wrong in ["Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Bearer ", "x"] {
            assert!(!shows(wrong), "{wrong}");
        }
        assert!(!key.is_shown(&HeaderMap::new()));
        assert_eq!(format!("{key:?}"), "AdminKey");
    }
}
