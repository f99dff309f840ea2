//! `hubbub token`: from a new key to a token that is good, as people and scripts do it.

use std::path::PathBuf;
use std::process::Output;

use crate::harness::{DataDir, run_to_end};

/// Runs it; gives its exit code and what it prints to each.
fn token(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = run_to_end(&[&["token"], arguments].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

struct Folder(DataDir);

impl Folder {
    fn new() -> Self {
        let folder = DataDir::new();
        std::fs::create_dir_all(folder.path()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        path.display().to_string()
    }
}

#[test]
fn a_new_key_makes_tokens_that_are_good() {
    let folder = Folder::new();
    let (code, config, _) = token(&["keygen", "--out", &folder.path("k")]);
    assert_eq!(code, Some(0));
    std::fs::write(folder.path("hubbub.toml"), config).unwrap();
    let mint = ["mint", "--key", &folder.path("k.pem"), "--sub", "ann", "--room", "team-*=member", "--ttl", "5m"];
    let (code, minted, _) = token(&mint);
    assert_eq!((code, minted.lines().count(), minted.matches('.').count()), (Some(0), 1, 2), "the token alone");
    std::fs::write(folder.path("token"), &minted).unwrap();
    let (config, file) = (folder.path("hubbub.toml"), folder.path("token"));
    let check = ["check", "--config", &config, "--room", "team-1", "--room", "lobby", "--token-file", &file];
    let (code, said, _) = token(&check);
    assert_eq!(code, Some(0));
    assert!(
        said.contains("in team-1: member, may join, send") && said.contains("in lobby: guest, may nothing"),
        "{said}"
    );
    let (message, signature) = minted.trim().rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let changed = format!("{message}.{first}{}", &signature[1..]);
    let (code, said, error) = token(&["check", "--config", &config, &changed]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(error.contains("refused: the token's signature is wrong"), "{error}");
}

#[test]
fn a_key_is_not_overwritten_and_a_configuration_without_its_keys_is_refused() {
    let folder = Folder::new();
    let (_, config, _) = token(&["keygen", "--alg", "HS256", "--out", &folder.path("k")]);
    let (code, _, error) = token(&["keygen", "--alg", "HS256", "--out", &folder.path("k")]);
    assert_eq!(code, Some(1));
    assert!(error.contains("k.secret is there already"), "{error}");
    let file = folder.path("hubbub.toml");
    std::fs::write(&file, config).unwrap();
    let checked = |file: &str| {
        let Output { status, stderr, .. } = run_to_end(&["check-config", "--config", file]);
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    assert_eq!(checked(&file).0, Some(0));
    std::fs::remove_file(folder.path("k.secret")).unwrap();
    let (code, error) = checked(&file);
    assert_eq!(code, Some(2));
    for part in ["token.secret_file", "k.secret", &file, "keygen --alg HS256"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}
