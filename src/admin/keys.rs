//! The keys that open `/api` and `/debug`.
//!
//! A file has one key per line. `name:key` names the key in the audit log, ` ro` after it has it read only. Empty lines
//! and those that begin with `#` say nothing.

use std::fs;
use std::io;
use std::path::Path;

use axum::http::{HeaderMap, header};

use crate::config::{Config, Problem};

/// Keys, one of which a request must show as `Authorization: Bearer …`. Never written anywhere.
#[derive(Clone)]
pub struct AdminKeys(Vec<AdminKey>);

/// One key.
#[derive(Clone)]
struct AdminKey {
    key: Box<[u8]>,
    holder: Holder,
}

/// Who has shown a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The key's name.
    pub(super) name: String,
    /// Whether nothing may be changed with it.
    pub(super) reads_only: bool,
}

impl AdminKeys {
    /// Reads the keys' file. Errors name lines, never what is in them.
    pub fn read(path: &Path) -> io::Result<Self> {
        Self::parse(&fs::read_to_string(path)?).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// Reads the file that a configuration names, if it names one.
    pub fn of(config: &Config) -> Result<Option<Self>, Problem> {
        let Some(path) = &config.admin_key_file else { return Ok(None) };
        Self::read(path).map(Some).map_err(|error| {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let what = format!("{} cannot be used: {error}", whole.display());
            let remedy = "write a key into it (openssl rand -hex 32), or name the file by its whole path";
            Problem::new("admin_key_file", what, remedy)
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<AdminKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = AdminKey::parse(line, keys.len() + 1).map_err(|what| format!("line {}: {what}", index + 1))?;
            if keys.iter().any(|other| other.key == key.key || other.holder.name == key.holder.name) {
                return Err(format!("line {}: this key or its name is there twice", index + 1));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err("no key is in it".into());
        }
        Ok(Self(keys))
    }

    /// The value of the header that shows the first key.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        [b"Bearer ", &*self.0[0].key].concat()
    }

    /// Whose key a request shows. Takes as long for a wrong key as for a right one, whichever it is.
    pub(super) fn holder(&self, headers: &HeaderMap) -> Option<&Holder> {
        let shown = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let shown = shown.and_then(|value| value.strip_prefix(b"Bearer "))?;
        let mut found = None;
        for key in &self.0 {
            if key.is(shown) {
                found = Some(&key.holder);
            }
        }
        found
    }
}

impl AdminKey {
    /// Reads one line. The `number`th key that has no name is called so.
    fn parse(line: &str, number: usize) -> Result<Self, String> {
        let (line, reads_only) = match line.strip_suffix(" ro") {
            Some(line) => (line.trim_end(), true),
            None => (line, false),
        };
        let (name, key) = match line.split_once(':') {
            Some((name, key)) => (name.trim().to_owned(), key.trim()),
            None => (format!("key-{number}"), line),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
            let wanted = "letters, digits, '-', '_', '.' or '@'";
            return Err(format!("what stands before the ':' is a name of 1 to {NAME_BYTES_MAX} {wanted}"));
        }
        if key.len() < KEY_BYTES_MIN {
            return Err(format!("the key has {} bytes, and fewer than {KEY_BYTES_MIN} can be guessed", key.len()));
        }
        Ok(Self { key: key.as_bytes().into(), holder: Holder { name, reads_only } })
    }

    fn is(&self, shown: &[u8]) -> bool {
        let differing = self.key.iter().zip(shown).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        (shown.len() == self.key.len()) & (std::hint::black_box(differing) == 0)
    }
}

impl std::fmt::Debug for AdminKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKeys")
    }
}

/// Shorter keys are refused.
const KEY_BYTES_MIN: usize = 16;
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<'a>(keys: &'a AdminKeys, value: &str) -> Option<&'a Holder> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        keys.holder(&headers)
    }

    #[test]
    fn only_the_whole_key_opens() {
        let keys = AdminKeys::parse("0123456789abcdef\n").unwrap();
        assert_eq!(shown(&keys, "Bearer 0123456789abcdef").unwrap().name, "key-1");
        for wrong in ["Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Bearer ", "x"] {
            assert!(shown(&keys, wrong).is_none(), "{wrong}");
        }
        assert!(keys.holder(&HeaderMap::new()).is_none());
        assert_eq!(format!("{keys:?}"), "AdminKeys");
    }

    #[test]
    fn keys_have_names_and_may_only_read() {
        let text = "# who may what\n\nops:0123456789abcdef\n grafana:fedcba9876543210  ro \naaaaaaaaaaaaaaaa\n";
        let keys = AdminKeys::parse(text).unwrap();
        let holder = |key: &str| shown(&keys, &format!("Bearer {key}")).map(|h| (h.name.clone(), h.reads_only));
        assert_eq!(holder("0123456789abcdef"), Some(("ops".into(), false)));
        assert_eq!(holder("fedcba9876543210"), Some(("grafana".into(), true)));
        assert_eq!(holder("aaaaaaaaaaaaaaaa"), Some(("key-3".into(), false)));
        assert_eq!(holder("ops:0123456789abcdef"), None, "the name is no part of the key");
        assert_eq!(keys.header(), b"Bearer 0123456789abcdef");
    }

    #[test]
    fn a_bad_line_is_named_but_not_shown() {
        for (text, line) in
            [("\nshort\n", "line 2"), ("a b:0123456789abcdef", "line 1"), (":0123456789abcdef", "line 1")]
        {
            let error = AdminKeys::parse(text).unwrap_err();
            assert!(error.starts_with(line) && !error.contains("short") && !error.contains("0123"), "{error}");
        }
        assert!(AdminKeys::parse("a:0123456789abcdef\nb:0123456789abcdef").unwrap_err().contains("twice"));
        assert!(AdminKeys::parse("# nothing\n").is_err());
    }
}
