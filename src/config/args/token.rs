//! `hubbub token`: its flags, which are not settings.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::message::event::Role;

/// What to do about tokens. Algorithms are names such as `EdDSA`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenAction {
    /// Make a key.
    Keygen {
        /// What for.
        algorithm: String,
        /// The files, without their endings.
        output: PathBuf,
    },
    /// Make a token.
    Mint(Box<MintRequest>),
    /// Say what a token says, and whether the server would take it.
    Check {
        /// The token, if it is in the command line.
        token: Option<String>,
        /// The file that it is in; if it is in neither, it comes from standard input.
        file: Option<PathBuf>,
        /// Rooms to tell the role in.
        rooms: Vec<String>,
    },
}

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MintRequest {
    /// The file with the private key or the secret.
    pub key: PathBuf,
    /// What to sign with, if the key leaves a choice.
    pub algorithm: Option<String>,
    /// `sub`.
    pub subject: String,
    /// `name`.
    pub name: Option<String>,
    /// `roles`.
    pub roles: Vec<String>,
    /// `rooms`.
    pub rooms: Vec<(String, Role)>,
    /// Time until it ends.
    pub ttl: Duration,
    /// `jti`; `None` makes one.
    pub id: Option<String>,
    /// `iss`; `None` is the first that the configuration asks for.
    pub issuer: Option<String>,
    /// `aud`; `None` is the first that the configuration asks for.
    pub audience: Option<String>,
    /// `kid`; `None` is the name of the key's file, and nothing for a secret.
    pub kid: Option<String>,
}

pub(super) fn command() -> Command {
    Command::new("token")
        .about("Make keys and tokens, and check tokens as the server does")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(keygen())
        .subcommand(mint())
        .subcommand(check())
}

pub(super) fn action(name: &str, matches: &ArgMatches) -> TokenAction {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let file = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    match name {
        "keygen" => {
            TokenAction::Keygen { algorithm: text("alg").unwrap_or_default(), output: file("out").unwrap_or_default() }
        }
        "mint" => TokenAction::Mint(Box::new(MintRequest {
            key: file("key").unwrap_or_default(),
            algorithm: text("alg"),
            subject: text("sub").unwrap_or_default(),
            name: text("name"),
            roles: many(matches, "role"),
            rooms: many(matches, "room"),
            ttl: matches.get_one("ttl").copied().unwrap_or(TTL),
            id: text("jti").filter(|id| id != AUTO),
            issuer: text("iss"),
            audience: text("aud"),
            kid: text("kid"),
        })),
        _ => TokenAction::Check { token: text("token"), file: file("token_file"), rooms: many(matches, "room") },
    }
}

fn many<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Vec<T> {
    matches.get_many(name).into_iter().flatten().cloned().collect()
}

fn keygen() -> Command {
    let algorithm = flag("alg", "ALGORITHM", "What for: EdDSA if nothing speaks against it; HS256 makes a secret")
        .value_parser(["EdDSA", "ES256", "RS256", "HS256"])
        .default_value("EdDSA");
    let output = flag("out", "PATH", "Write PATH.pem and PATH.pub.pem, or PATH.secret")
        .value_parser(value_parser!(PathBuf))
        .default_value("hubbub-key");
    Command::new("keygen")
        .about("Make a key: a private half for whoever makes tokens, a public one for the server")
        .args([algorithm, output])
}

fn mint() -> Command {
    let repeated = |argument: Arg| argument.action(ArgAction::Append);
    let algorithms = ["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"];
    Command::new("mint").about("Make a token and print it").args([
        flag("key", "FILE", "The private key (PEM) or the secret").value_parser(value_parser!(PathBuf)).required(true),
        flag("alg", "ALGORITHM", "Sign with this, for secrets [default: HS256]").value_parser(algorithms),
        flag("sub", "USER", "Whose token it is").required(true),
        flag("name", "NAME", "The user's name for people"),
        repeated(flag("role", "ROLE", "A role that [[permissions]] know as role:ROLE; repeatable")),
        repeated(flag("room", "PATTERN=ROLE", "guest, member or host in these rooms; repeatable").value_parser(grant)),
        flag("ttl", "TIME", "How long it is good [default: 1h]").value_parser(humantime::parse_duration),
        flag("jti", "ID", "What it is revoked by").default_value(AUTO),
        flag("iss", "ISSUER", "Who makes it [default: the first of token.issuer]"),
        flag("aud", "AUDIENCE", "Whom it is for [default: the first of token.audience]"),
        flag("kid", "KID", "The name of the key [default: that of its file; none for secrets]"),
    ])
}

fn check() -> Command {
    let token = Arg::new("token")
        .value_name("TOKEN")
        .help("The token; better from standard input or a file, for others see the command line");
    let file = flag("token_file", "FILE", "Read the token from this file instead of standard input")
        .long("token-file")
        .value_parser(value_parser!(PathBuf))
        .conflicts_with("token");
    let room = flag("room", "ROOM", "Also say what the user may do in this room; repeatable").action(ArgAction::Append);
    Command::new("check")
        .about("Check a token with the server's keys and say what it allows; ends with 1 if it is not good")
        .args([token, file, room])
}

fn flag(name: &'static str, value_name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value_name).help(help)
}

fn grant(text: &str) -> Result<(String, Role), String> {
    let (pattern, role) = text.rsplit_once('=').ok_or("write PATTERN=ROLE, such as 'team-*=member'")?;
    let role = Role::named(role).ok_or_else(|| format!("{role:?} is no role: write guest, member or host"))?;
    Ok((pattern.to_owned(), role))
}

const AUTO: &str = "auto";
const TTL: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<TokenAction, clap::Error> {
        let matches = command().try_get_matches_from(std::iter::once(&"token").chain(arguments))?;
        let (name, inner) = matches.subcommand().unwrap();
        Ok(action(name, inner))
    }

    #[test]
    fn a_token_is_asked_for_with_all_it_says() {
        let arguments = ["mint", "--key", "k.pem", "--sub", "ann", "--role", "a", "--role", "b", "--ttl", "5m"];
        let rooms = ["--room", "team-*=member", "--room", "a=b=host", "--jti", "auto"];
        let Ok(TokenAction::Mint(request)) = parse(&[&arguments[..], &rooms].concat()) else { panic!() };
        assert_eq!((request.subject.as_str(), request.roles.as_slice()), ("ann", &["a".to_owned(), "b".into()][..]));
        assert_eq!(request.rooms, [("team-*".to_owned(), Role::Member), ("a=b".to_owned(), Role::Host)]);
        assert_eq!((request.ttl, request.id), (Duration::from_secs(300), None));
        let Ok(TokenAction::Mint(request)) = parse(&["mint", "--key=k", "--sub=a", "--jti=7"]) else { panic!() };
        assert_eq!((request.ttl, request.id.as_deref()), (TTL, Some("7")));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let error = parse(&["mint", "--key=k", "--sub=a", "--room=lobby"]).unwrap_err().to_string();
        assert!(error.contains("team-*=member"), "{error}");
        let error = parse(&["mint", "--key=k", "--sub=a", "--room=lobby=king"]).unwrap_err().to_string();
        assert!(error.contains("guest, member or host"), "{error}");
        assert!(parse(&["mint", "--sub=a"]).is_err() && parse(&["keygen", "--alg=none"]).is_err());
        assert!(parse(&["check", "x", "--token-file", "y"]).is_err());
    }

    #[test]
    fn keys_are_for_eddsa_unless_said_otherwise() {
        let expected = TokenAction::Keygen { algorithm: "EdDSA".into(), output: "hubbub-key".into() };
        assert_eq!(parse(&["keygen"]).unwrap(), expected);
    }
}
