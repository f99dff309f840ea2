//! New keys: as texts (PEM, or hexadecimal for secrets), and as files that nobody else may read.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::token::Algorithm;

/// A new key.
pub enum KeyPair {
    /// A secret for both sides: 64 hexadecimal digits, of 256 random bits.
    Secret(String),
    /// Two halves, as PEM.
    Pair {
        /// PKCS #8, for whoever makes tokens.
        private: String,
        /// SubjectPublicKeyInfo, for the server.
        public: String,
    },
}

/// The files of a new key.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyFiles {
    /// With the secret or the private key; only its owner may read it.
    pub private: PathBuf,
    /// With the public key, if there is one.
    pub public: Option<PathBuf>,
}

/// Makes a key. RSA keys have 2,048 bits and take a moment. Fails if the machine has no randomness.
pub fn generate(algorithm: Algorithm) -> io::Result<KeyPair> {
    let made = match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => secret().map(KeyPair::Secret),
        Algorithm::EdDsa => ed25519(),
        Algorithm::Es256 => p256(),
        Algorithm::Rs256 => rsa(),
    };
    made.map_err(|Unspecified| io::Error::other("no key could be made"))
}

/// Makes a key in `DIR/NAME.pem` and `DIR/NAME.pub.pem`, or `DIR/NAME.secret`, for a path `DIR/NAME`. Replaces no file.
pub fn generate_files(algorithm: Algorithm, path: &Path) -> io::Result<KeyFiles> {
    let with = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    match generate(algorithm)? {
        KeyPair::Secret(secret) => {
            let private = with(".secret");
            write_new(&private, &secret, OWNER_ONLY)?;
            Ok(KeyFiles { private, public: None })
        }
        KeyPair::Pair { private: private_text, public: public_text } => {
            let (private, public) = (with(".pem"), with(".pub.pem"));
            write_new(&public, &public_text, EVERYONE)?;
            if let Err(error) = write_new(&private, &private_text, OWNER_ONLY) {
                // Half a pair is of no use to anyone.
                let _ = std::fs::remove_file(&public);
                return Err(error);
            }
            Ok(KeyFiles { private, public: Some(public) })
        }
    }
}

/// What tokens call the key in this file by: its name without `.pem`, `.pub`, `.json` and `.secret`, so that both halves
/// have the same.
#[must_use]
pub fn kid_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut kid = name.as_ref();
    while let Some(shorter) = ENDINGS.iter().find_map(|ending| kid.strip_suffix(ending)) {
        kid = shorter;
    }
    kid.to_owned()
}

fn secret() -> Result<String, Unspecified> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(hexadecimal(&bytes) + "\n")
}

/// Two digits per byte.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ed25519() -> Result<KeyPair, Unspecified> {
    let pair = Ed25519KeyPair::generate()?;
    Ok(in_pem(pair.to_pkcs8v1()?.as_ref(), &pair.public_key().as_der()?))
}

fn p256() -> Result<KeyPair, Unspecified> {
    let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref())?;
    Ok(in_pem(private.as_ref(), &pair.public_key().as_der()?))
}

fn rsa() -> Result<KeyPair, Unspecified> {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let private: Pkcs8V1Der<'_> = pair.as_der()?;
    Ok(in_pem(private.as_ref(), &pair.public_key().as_der()?))
}

fn in_pem(private: &[u8], public: &PublicKeyX509Der<'_>) -> KeyPair {
    KeyPair::Pair { private: pem("PRIVATE KEY", private), public: pem("PUBLIC KEY", public.as_ref()) }
}

/// RFC 7468: 64 characters a line.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: String =
        text.as_bytes().chunks(PEM_LINE).map(|line| String::from_utf8_lossy(line).into_owned() + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let named = |error: io::Error| {
        let what = match error.kind() {
            io::ErrorKind::AlreadyExists => "is there already, and keys are not overwritten".to_owned(),
            _ => format!("cannot be written: {error}"),
        };
        io::Error::new(error.kind(), format!("{} {what}", path.display()))
    };
    let mut file = file.map_err(named)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(named)
}

const ENDINGS: [&str; 4] = [".pem", ".pub", ".json", ".secret"];
const PEM_LINE: usize = 64;
const OWNER_ONLY: u32 = 0o600;
const EVERYONE: u32 = 0o644;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_for_their_owner_and_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for (algorithm, name) in [(Algorithm::EdDsa, "ed"), (Algorithm::Hs256, "hs")] {
            let files = generate_files(algorithm, &folder.path().join(name)).unwrap();
            assert_eq!(mode(&files.private), OWNER_ONLY);
            let before = std::fs::read(&files.private).unwrap();
            let error = generate_files(algorithm, &folder.path().join(name)).unwrap_err();
            assert!(error.to_string().contains("overwritten"), "{error}");
            assert_eq!(std::fs::read(&files.private).unwrap(), before);
        }
        // A private half that is there already leaves no new public half beside it.
        std::fs::write(folder.path().join("old.pem"), "key").unwrap();
        generate_files(Algorithm::Es256, &folder.path().join("old")).unwrap_err();
        assert!(!folder.path().join("old.pub.pem").exists());
    }

    #[test]
    fn both_halves_have_the_same_name() {
        for path in ["/etc/hubbub/k-1.pem", "k-1.pub.pem", "k-1.secret", "k-1.pub", "k-1"] {
            assert_eq!(kid_of(Path::new(path)), "k-1", "{path}");
        }
        assert_eq!(kid_of(Path::new("a.b.pem")), "a.b");
    }
}
