//! What `hubbub token` does: texts in, texts out. Keys and tokens are printed nowhere but where they are asked for.

use std::fmt::Write;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::access::{Action, Identity};
use crate::clock::Clock;
use crate::config::{Config, MintRequest, Problem, TokenAction};
use crate::ids::RoomName;
use crate::limits::TOKEN_BYTES_MAX;
use crate::token::keygen::{generate_files, kid_of};
use crate::token::keyring::usable_keys;
use crate::token::mint::{MintError, Signer, Statement, new_id};
use crate::token::source::{Source, read_bounded};
use crate::token::verifier::Verifier;
use crate::token::{Algorithm, TokenError};

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A file.
    #[error("{what}: {error}")]
    File {
        /// Which one.
        what: String,
        /// What the system says.
        error: io::Error,
    },
    /// A key could not be made.
    #[error("{0}")]
    Keygen(io::Error),
    /// A token could not be made.
    #[error("{0}")]
    Mint(#[from] MintError),
    /// The keys of the configuration.
    #[error("{0}")]
    Config(#[from] Problem),
    /// There are none.
    #[error("there are no keys to check with: name a configuration with --config, or a key with --token-key-files")]
    NoKeys,
    /// Keys that are not in a file.
    #[error("{url} gives no keys: {why}")]
    Fetch {
        /// From where.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// A room's name.
    #[error("{room:?} is no room: {why}")]
    Room {
        /// What was given.
        room: String,
        /// What is wrong with it.
        why: crate::ids::NameError,
    },
    /// The token is not good.
    #[error("refused: {0}")]
    Refused(#[from] TokenError),
}

/// Does it, and gives what is to be printed, with the end of its last line.
pub fn run(action: &TokenAction, config: &Config) -> Result<String, CliError> {
    let now_unix_ms = Clock::start().now().unix_ms;
    match action {
        TokenAction::Keygen { algorithm, output } => keygen(algorithm, output),
        TokenAction::Mint(request) => mint(request, config, now_unix_ms),
        TokenAction::Check { token, file, rooms } => {
            let token = match token {
                Some(token) => token.clone(),
                None => read_token(file.as_deref())?,
            };
            check(token.trim(), rooms, config, now_unix_ms)
        }
    }
}

fn keygen(algorithm: &str, path: &Path) -> Result<String, CliError> {
    let algorithm = named(algorithm)?;
    let files = generate_files(algorithm, path).map_err(CliError::Keygen)?;
    let private = files.private.display();
    let mut text = match &files.public {
        Some(public) => format!(
            "# {private} makes tokens: keep it to yourself, and away from the server if you can.\n\
             # {} checks them. In the server's file, where what has no [section] stands above those that have:\nauth = \"token\"\n\n[token]\nkey_files = [{:?}]\n",
            public.display(),
            absolute(public)
        ),
        None => format!(
            "# {private} makes and checks tokens: keep it to yourself. In the server's file, where what has no [section] stands \
             above those that have:\n\
             auth = \"token\"\n\n[token]\nsecret_file = {:?}\n",
            absolute(&files.private)
        ),
    };
    let _ = writeln!(text, "\n# A token: hubbub token mint --key {private} --sub ann");
    Ok(text)
}

/// The server may run in another directory.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn mint(request: &MintRequest, config: &Config, now_unix_ms: u64) -> Result<String, CliError> {
    let key = read_file(&request.key)?;
    let algorithm = request.algorithm.as_deref().map(named).transpose()?;
    let signer = Signer::read(&key, algorithm)?;
    let is_secret = matches!(signer.algorithm(), Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512);
    let statement = Statement {
        subject: request.subject.clone(),
        name: request.name.clone(),
        roles: request.roles.clone(),
        rooms: request.rooms.clone(),
        ttl: request.ttl,
        id: Some(request.id.clone().map_or_else(new_id, Ok)?),
        issuer: request.issuer.clone().or_else(|| config.token.issuers.first().cloned()),
        audience: request.audience.clone().or_else(|| config.token.audiences.first().cloned()),
        kid: request.kid.clone().or_else(|| (!is_secret).then(|| kid_of(&request.key))),
    };
    Ok(signer.mint(&statement, now_unix_ms)? + "\n")
}

fn check(token: &str, rooms: &[String], config: &Config, now_unix_ms: u64) -> Result<String, CliError> {
    let rooms = rooms.iter().map(|room| RoomName::chat(room).map_err(|why| CliError::Room { room: room.clone(), why }));
    let rooms: Vec<RoomName> = rooms.collect::<Result<_, _>>()?;
    let verifier = verifier(config)?;
    let identity = verifier.verify(token, now_unix_ms)?;
    let claims: Value = serde_json::from_slice(&verifier.signed_payload(token)?).unwrap_or_default();
    let mut text = format!("{claims:#}\n\nThe token is good.\n");
    tell(&mut text, &identity, &rooms, config, now_unix_ms).expect("a text takes everything");
    Ok(text)
}

fn tell(
    text: &mut String,
    identity: &Identity,
    rooms: &[RoomName],
    config: &Config,
    now_unix_ms: u64,
) -> std::fmt::Result {
    writeln!(text, "user     {}", identity.user.as_str())?;
    let left_s = identity.expires_unix_ms.unwrap_or(now_unix_ms).saturating_sub(now_unix_ms) / 1_000;
    writeln!(text, "ends in  {}, leeway included", humantime::format_duration(Duration::from_secs(left_s)))?;
    for (pattern, role) in identity.rooms.iter().flat_map(|grants| grants.iter()) {
        writeln!(text, "rooms    {}: {}", pattern.as_str(), role.as_str())?;
    }
    for room in rooms {
        let (role, rights) = config.permissions.standing(identity, room).settle(false);
        let may: Vec<&str> = Action::ALL.into_iter().filter(|action| rights.has(*action)).map(Action::as_str).collect();
        let may = if may.is_empty() { "nothing".to_owned() } else { may.join(", ") };
        writeln!(text, "in {}: {}, may {may}", room.as_str(), role.as_str())?;
    }
    Ok(())
}

/// What the server checks with, with the keys of its URL as they are now.
fn verifier(config: &Config) -> Result<Verifier, CliError> {
    if !config.token.has_keys() {
        return Err(CliError::NoKeys);
    }
    let Source { mut keys, rules, fetcher } = Source::read(&config.token)?;
    if let Some(fetcher) = fetcher {
        let fetched = fetcher.fetch().and_then(|body| usable_keys(&body));
        let fetched = fetched.map_err(|why| CliError::Fetch { url: fetcher.url().to_owned(), why })?;
        keys.extend(fetched.into_iter().map(Arc::new));
    }
    Ok(Verifier::shared(keys, rules))
}

fn named(algorithm: &str) -> Result<Algorithm, CliError> {
    let unknown = MintError::Key("this algorithm is not known: HS256, HS384, HS512, RS256, ES256 or EdDSA");
    Algorithm::named(algorithm).ok_or(CliError::Mint(unknown))
}

fn read_token(file: Option<&Path>) -> Result<String, CliError> {
    let Some(path) = file else {
        let mut text = String::new();
        // More than that is refused anyway.
        let read = io::stdin().take(2 * TOKEN_BYTES_MAX as u64).read_to_string(&mut text);
        return read.map(|_| text).map_err(|error| CliError::File { what: "standard input".to_owned(), error });
    };
    read_file(path)
}

fn read_file(path: &Path) -> Result<String, CliError> {
    let text = read_bounded(path)
        .and_then(|text| String::from_utf8(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is no text")));
    text.map_err(|error| CliError::File { what: path.display().to_string(), error })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::access::{PermissionRule, Who};
    use crate::message::event::Role;
    use crate::policy::Pattern;

    const NOW: u64 = 1_800_000_000_000;

    fn request(key: PathBuf) -> MintRequest {
        MintRequest {
            key,
            algorithm: None,
            subject: "ann".into(),
            name: None,
            roles: vec!["staff".into()],
            rooms: vec![("team-*".into(), Role::Member)],
            ttl: Duration::from_secs(3600),
            id: None,
            issuer: None,
            audience: None,
            kid: None,
        }
    }

    #[test]
    fn what_keygen_prints_is_a_file_with_which_what_mint_makes_is_good() {
        let folder = tempfile::tempdir().unwrap();
        for (algorithm, private) in [("EdDSA", "k.pem"), ("ES256", "k.pem"), ("RS256", "k.pem"), ("HS256", "k.secret")]
        {
            let folder = folder.path().join(algorithm);
            std::fs::create_dir(&folder).unwrap();
            let file = folder.join("hubbub.toml");
            std::fs::write(&file, keygen(algorithm, &folder.join("k")).unwrap()).unwrap();
            let arguments = ["hubbub".into(), "--config".into(), file.into_os_string()];
            let invocation = crate::config::parse_arguments(arguments).unwrap();
            let mut config = crate::config::load(&invocation, []).unwrap().config;
            config.token.audiences = vec!["chat".into()];
            config.token.issuers = vec!["app".into()];
            let token = mint(&request(folder.join(private)), &config, NOW).unwrap();
            let said = check(token.trim(), &["team-1".into(), "lobby".into()], &config, NOW).unwrap();
            for part in ["\"sub\": \"ann\"", "\"aud\": \"chat\"", "\"jti\": \"", "ends in  1h 30s", "team-*: member"] {
                assert!(said.contains(part), "{part}: {said}");
            }
            assert!(said.contains("in team-1: member, may join, send, presence, history\n"), "{said}");
            assert!(said.contains("in lobby: guest, may nothing\n"), "{said}");
        }
    }

    #[test]
    fn rules_of_the_configuration_count() {
        let folder = tempfile::tempdir().unwrap();
        let files = generate_files(Algorithm::EdDsa, &folder.path().join("k")).unwrap();
        let mut config = Config::default();
        config.token.key_files = vec![files.public.unwrap()];
        let allowed = vec![(Action::Send, vec![Who::Claimed("staff".into())])];
        config.permissions.rules = vec![PermissionRule { rooms: Pattern::new("lobby"), role: None, allowed }];
        let token = mint(&request(files.private), &config, NOW).unwrap();
        let said = check(token.trim(), &["lobby".into()], &config, NOW).unwrap();
        assert!(said.contains("in lobby: guest, may send\n"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let files = generate_files(Algorithm::EdDsa, &folder.path().join("k")).unwrap();
        let mut config = Config::default();
        assert!(matches!(check("x", &[], &config, NOW), Err(CliError::NoKeys)));
        config.token.key_files = vec![files.public.clone().unwrap()];
        let token = mint(&request(files.private.clone()), &config, NOW).unwrap();
        let later = check(token.trim(), &[], &config, NOW + 3_630_000).unwrap_err();
        assert_eq!(later.to_string(), "refused: the token has expired: get a new one");
        assert!(matches!(check(token.trim(), &["a\nb".into()], &config, NOW), Err(CliError::Room { .. })));
        let error = mint(&request(files.public.unwrap()), &config, NOW).unwrap_err().to_string();
        assert!(error.contains("no private key"), "{error}");
        let error = mint(&request(folder.path().join("none")), &config, NOW).unwrap_err().to_string();
        assert!(error.contains("none: "), "{error}");
        let error = keygen("EdDSA", &folder.path().join("k")).unwrap_err().to_string();
        assert!(error.contains("not overwritten"), "{error}");
    }
}
