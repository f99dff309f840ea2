//! The certificate and its key, read from their files. What is wrong with them is said with the setting that names the
//! file.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::validity::Validity;
use crate::config::Problem;

/// Reads a certificate chain and its key, and checks that they belong together. A certificate out of its time is used
/// all the same, with a warning: clients that do not look are served, and the others say what is wrong.
pub(super) fn read(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Problem> {
    let chain = read_chain(certificate)?;
    let private = read_key(key)?;
    warn_of_time(certificate, &chain[0]);
    CertifiedKey::from_der(chain, private, provider).map(Arc::new).map_err(|error| mismatch(&error, certificate, key))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(Problem::new(
            CERTIFICATE_KEY,
            format!("{} holds no certificate", path.display()),
            "give the PEM file with the whole chain, often named fullchain.pem",
        )),
        Err(error) => Err(unreadable(CERTIFICATE_KEY, path, &error)),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        PemError::NoItemsFound => Problem::new(
            PRIVATE_KEY,
            format!("{} holds no private key", path.display()),
            "give the PEM file with the key, unencrypted, often named privkey.pem",
        ),
        error => unreadable(PRIVATE_KEY, path, &error),
    })
}

fn unreadable(key: &'static str, path: &Path, error: &PemError) -> Problem {
    let (what, remedy) = match error {
        PemError::Io(error) => (error.to_string(), "name a file that the server's user may read"),
        // What follows may be quoted from the file, and one of them is secret.
        _ => ("it is not PEM".to_string(), "give a file with -----BEGIN …----- lines"),
    };
    Problem::new(key, format!("{} cannot be used: {what}", path.display()), remedy)
}

fn mismatch(error: &Error, certificate: &Path, key: &Path) -> Problem {
    let (what, remedy) = match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => (
            format!("the key in {} is not that of the certificate in {}", key.display(), certificate.display()),
            "give the key that the certificate was made for; the server's own certificate comes first in its file",
        ),
        error => (
            format!("the key in {} cannot be used: {error}", key.display()),
            "use an RSA key of 2,048 to 8,192 bits, an ECDSA key on P-256, P-384 or P-521, or an Ed25519 key",
        ),
    };
    Problem::new(PRIVATE_KEY, what, remedy)
}

fn warn_of_time(path: &Path, certificate: &[u8]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let Some(what) = Validity::of(certificate).and_then(|validity| validity.complaint(now)) else { return };
    tracing::warn!(
        file = %path.display(),
        "the certificate {what}, and clients will refuse it; renew it and reload with SIGHUP"
    );
}

pub(super) const CERTIFICATE_KEY: &str = "tls.certificate_file";
const PRIVATE_KEY: &str = "tls.key_file";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn with(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn problem(certificate: &Path, key: &Path) -> String {
        read(certificate, key, &rustls::crypto::aws_lc_rs::default_provider()).unwrap_err().to_string()
    }

    #[test]
    fn a_certificate_and_its_key_are_taken() {
        let files = Files::new();
        let (certificate, key) = pair();
        let (certificate, key) = (files.with("cert.pem", &certificate), files.with("key.pem", &key));
        assert_eq!(read(&certificate, &key, &rustls::crypto::aws_lc_rs::default_provider()).unwrap().cert.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file_the_setting_and_the_remedy() {
        let files = Files::new();
        let (certificate, key) = pair();
        let (_, other) = pair();
        let [certificate, key, other] =
            [("cert.pem", &certificate), ("key.pem", &key), ("other.pem", &other)].map(|(n, text)| files.with(n, text));
        let empty = files.with("empty.pem", "");
        let broken = files.with("broken.pem", "-----BEGIN PRIVATE KEY-----\nsecret!\n-----END PRIVATE KEY-----\n");
        let absent = files.dir.path().join("absent.pem");
        let cases = [
            (&empty, &key, "tls.certificate_file", "empty.pem holds no certificate", "fullchain.pem"),
            (&absent, &key, "tls.certificate_file", "No such file", "may read"),
            (&certificate, &empty, "tls.key_file", "empty.pem holds no private key", "privkey.pem"),
            (&certificate, &certificate, "tls.key_file", "holds no private key", "privkey.pem"),
            (&certificate, &broken, "tls.key_file", "it is not PEM", "BEGIN"),
            (&certificate, &other, "tls.key_file", "is not that of the certificate", "was made for"),
        ];
        for (certificate, key, setting, what, remedy) in cases {
            let problem = problem(certificate, key);
            assert!(problem.starts_with(setting), "{problem}");
            assert!(problem.contains(what) && problem.contains(remedy), "{problem}");
            assert!(!problem.contains("secret!"), "{problem}");
        }
    }
}
