//! Who makes tokens for a server under test.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use hubbub::token::Algorithm;
use hubbub::token::mint::Signer;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::server::Launch;

/// A secret, the file it is in, and the server's configuration.
pub struct Issuer {
    dir: TempDir,
    signer: Signer,
}

impl Issuer {
    /// A secret of its own.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a new directory can be made");
        std::fs::write(dir.path().join("secret"), SECRET).expect("a new file can be written");
        Self { dir, signer: Signer::read(SECRET, None).expect("the secret is long enough") }
    }

    /// A server that takes its tokens, with more of a configuration file.
    pub fn launch(&self, file: &str) -> Launch {
        self.configure(file);
        let secret = format!("--token-secret-file={}", self.dir.path().join("secret").display());
        let config = format!("--config={}", self.config_path().display());
        Launch::new().arguments(["--auth=token", &secret, &config])
    }

    /// Writes the configuration file anew.
    pub fn configure(&self, file: &str) {
        std::fs::write(self.config_path(), file).expect("a new file can be written");
    }

    /// A token with these claims, and `sub` and `exp` where they are not given.
    pub fn token(&self, user: &str, claims: Value) -> String {
        let mut all: Map<String, Value> = Map::new();
        all.insert("sub".into(), json!(user));
        all.insert("exp".into(), json!(now_seconds() + 600));
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        all.extend(claims);
        all.retain(|_, value| !value.is_null());
        self.signer.sign(None, &all).expect("any claims can be signed")
    }

    /// Where that is.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("hubbub.toml")
    }
}

/// A token that someone else has signed.
pub fn foreign_token(user: &str) -> String {
    let other = Signer::read(&SECRET.replace('s', "t"), Some(Algorithm::Hs256)).expect("the secret is long enough");
    let Value::Object(claims) = json!({"sub": user, "exp": now_seconds() + 600}) else { unreachable!() };
    other.sign(None, &claims).expect("any claims can be signed")
}

/// The time now, in Unix seconds.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs()
}

const SECRET: &str = "a secret of a test that is long enough";
