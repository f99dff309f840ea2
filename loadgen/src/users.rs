//! Who the connections are: names, and where the server wants proof, tokens for them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hubbub::token::mint::{Signer, Statement};

/// How connections say who they are.
#[derive(Clone, Default)]
pub struct Users {
    seal: Option<Arc<Seal>>,
}

/// What tokens are signed with. All are from the same instant: whoever comes back shows the token of before, as an
/// application's clients do.
struct Seal {
    signer: Signer,
    issued_unix_ms: u64,
}

impl Users {
    /// Users with names alone, or with tokens that the key in a file signs: a secret, or a private key as PEM.
    pub fn new(key: Option<&Path>) -> Result<Self, String> {
        let Some(path) = key else { return Ok(Self::default()) };
        let fail = |problem: String| format!("token_key: {}: {problem}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let signer = Signer::read(&text, None).map_err(|error| fail(error.to_string()))?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seal = Seal { signer, issued_unix_ms: since_epoch.as_millis() as u64 };
        // A key that signs once signs always.
        seal.token("load-0").map_err(fail)?;
        Ok(Self { seal: Some(Arc::new(seal)) })
    }

    /// What connection `index` says of itself: `name` or `token`, and what that is. Neither has a character that JSON
    /// or URLs would escape.
    #[must_use]
    pub fn credential(&self, index: u32) -> (&'static str, String) {
        let name = format!("load-{index}");
        match self.seal.as_ref().map(|seal| seal.token(&name)) {
            Some(Ok(token)) => ("token", token),
            _ => ("name", name),
        }
    }
}

impl Seal {
    fn token(&self, user: &str) -> Result<String, String> {
        let statement = Statement { subject: user.to_owned(), ttl: TOKEN_TTL, ..Statement::default() };
        self.signer.mint(&statement, self.issued_unix_ms).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.seal.is_some() { "Users(with tokens)" } else { "Users(with names)" })
    }
}

/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn with_a_key_each_user_has_one_token_for_the_whole_run() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'k'; 32]).unwrap();
        let users = Users::new(Some(file.path())).unwrap();
        let (field, token) = users.credential(7);
        assert_eq!((field, token.split('.').count()), ("token", 3));
        assert_eq!(users.credential(7).1, token);
        assert_ne!(users.credential(8).1, token);
        assert_eq!(Users::default().credential(7), ("name", "load-7".into()));
    }

    #[test]
    fn a_file_that_signs_nothing_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"short").unwrap();
        for path in [file.path(), Path::new("/nowhere/key")] {
            let error = Users::new(Some(path)).unwrap_err();
            assert!(error.starts_with(&format!("token_key: {}: ", path.display())), "{error}");
        }
    }
}
