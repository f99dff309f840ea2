//! Where keys come from, as the configuration says: files, read here, and a URL, which is only prepared here.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::config::{Problem, TokenConfig};
use crate::limits::KEY_SET_BYTES_MAX;
use crate::token::fetch::Fetcher;
use crate::token::key::{Key, KeySet, Origin};
use crate::token::keygen::kid_of;
use crate::token::verifier::Rules;

/// Everything that follows from the configuration of tokens.
pub(super) struct Source {
    /// The keys of all files.
    pub(super) keys: Vec<Arc<Key>>,
    pub(super) rules: Rules,
    pub(super) fetcher: Option<Fetcher>,
}

/// Whether all files that tokens need can be used.
pub fn check_files(config: &TokenConfig) -> Result<(), Problem> {
    Source::read(config).map(drop)
}

impl Source {
    /// Reads the files. The first that cannot be used is the problem.
    pub(super) fn read(config: &TokenConfig) -> Result<Self, Problem> {
        let mut keys = Vec::new();
        if let Some(path) = &config.secret_file {
            keys.push(Arc::new(read_secret(path)?));
        }
        for path in &config.key_files {
            keys.extend(read_keys(path)?.into_iter().map(Arc::new));
        }
        let fetcher = config.jwks_url.as_deref().map(|url| Fetcher::new(url, config.jwks_ca_file.as_deref()));
        let rules =
            Rules { issuers: config.issuers.clone(), audiences: config.audiences.clone(), leeway: config.leeway };
        Ok(Self { keys, rules, fetcher: fetcher.transpose()? })
    }
}

fn read_secret(path: &Path) -> Result<Key, Problem> {
    let refuse = |what: String| {
        let what = format!("{} {what}", path.display());
        Problem::new("token.secret_file", what, "make one with: hubbub token keygen --alg HS256")
    };
    let text = read_bounded(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if contains(&text, b"-----BEGIN") {
        return Err(refuse("is a PEM file and no secret: public keys belong to token.key_files".to_owned()));
    }
    Key::secret(None, text.trim_ascii()).map_err(|error| refuse(format!("cannot be used: {error}")))
}

fn read_keys(path: &Path) -> Result<Vec<Key>, Problem> {
    let refuse = |what: String| {
        let what = format!("{} {what}", path.display());
        Problem::new("token.key_files", what, "name files with a PEM public key, a JWK or a JWK Set")
    };
    let text = read_bounded(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if contains(&text, b"-----BEGIN") {
        let text = String::from_utf8_lossy(&text);
        let key = Key::from_pem(Some(&kid_of(path)), &text);
        return key.map(|key| vec![key]).map_err(|error| refuse(format!("cannot be used: {error}")));
    }
    let set = KeySet::from_json(&text, Origin::File).map_err(|error| refuse(format!("cannot be used: {error}")))?;
    if set.keys.is_empty() {
        let why = if set.unusable.is_empty() { "it is empty".to_owned() } else { set.unusable.join("; ") };
        return Err(refuse(format!("has no usable key: {why}")));
    }
    for why in &set.unusable {
        tracing::warn!(file = %path.display(), "{why}");
    }
    Ok(set.keys)
}

/// The whole file, if it is of a size that keys have.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(KEY_SET_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    if text.len() > KEY_SET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {KEY_SET_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Algorithm;
    use crate::token::keygen::generate_files;

    fn refused(config: &TokenConfig) -> String {
        let problem = check_files(config).unwrap_err();
        assert!(problem.key.starts_with("token."), "{problem}");
        problem.to_string()
    }

    #[test]
    fn keys_of_all_files_are_read_and_named_after_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let secret = generate_files(Algorithm::Hs256, &at("hs")).unwrap().private;
        let ed = generate_files(Algorithm::EdDsa, &at("ed-1")).unwrap().public.unwrap();
        let jwks = at("jwks.json");
        let jwk = r#"{"kty":"OKP","crv":"Ed25519","kid":"of-set","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        std::fs::write(&jwks, format!("{{\"keys\":[{jwk},{{\"kty\":\"?\"}}]}}")).unwrap();
        let config = TokenConfig { secret_file: Some(secret), key_files: vec![ed, jwks], ..TokenConfig::default() };
        let source = Source::read(&config).unwrap();
        let kids: Vec<_> = source.keys.iter().map(|key| key.kid()).collect();
        assert_eq!(kids, [None, Some("ed-1"), Some("of-set")]);
    }

    #[test]
    fn files_that_cannot_be_used_are_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let secret = |path| TokenConfig { secret_file: Some(path), ..TokenConfig::default() };
        let keys = |path| TokenConfig { key_files: vec![path], ..TokenConfig::default() };
        let pem = generate_files(Algorithm::EdDsa, &folder.path().join("k")).unwrap();
        assert!(refused(&secret(folder.path().join("none"))).contains("none cannot be read"));
        assert!(refused(&secret(file("short", "0123456789\n\n"))).contains("10 bytes"));
        assert!(refused(&secret(pem.public.unwrap())).contains("token.key_files"));
        assert!(refused(&keys(pem.private)).contains("-pubout"));
        assert!(refused(&keys(file("text", "hello"))).contains("neither PEM nor JSON"));
        assert!(refused(&keys(file("empty", "{\"keys\":[]}"))).contains("it is empty"));
        assert!(refused(&keys(file("other", "{\"keys\":[{\"kty\":\"?\"}]}"))).contains("key 0"));
        assert!(refused(&keys(file("large", &" ".repeat(KEY_SET_BYTES_MAX + 1)))).contains("more than"));
        let ca = TokenConfig {
            jwks_url: Some("https://id.example/jwks".into()),
            jwks_ca_file: Some(file("ca", "hello")),
            ..TokenConfig::default()
        };
        assert!(refused(&ca).contains("no certificate"));
    }
}
