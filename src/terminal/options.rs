//! What `hubbub chat` is told on its command line, and the address it goes to.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::ids::{RoomName, UserName};

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the server is.
    pub target: Target,
    /// Rooms to enter, the first one shown.
    pub rooms: Vec<String>,
    /// The user's name, for servers in open mode.
    pub name: Option<String>,
    /// Where the token comes from.
    pub token: TokenSource,
    /// Lines in and out, also on a terminal.
    pub plain: bool,
    /// PEM file of the authorities to trust instead of the usual ones.
    pub ca: Option<PathBuf>,
    /// Whether to take any certificate.
    pub insecure: bool,
    /// Messages to read back on entering a room, where that is said.
    pub history: Option<u64>,
}

/// Where a token comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `$HUBBUB_TOKEN` if it is set, otherwise there is none.
    Environment,
    /// The command line.
    Given(String),
    /// A file, read again for each connection.
    File(PathBuf),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::Given(_) => f.write_str("Given"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

impl TokenSource {
    /// The token as it is now. The error says what to do.
    pub fn read(&self) -> Result<Option<String>, String> {
        match self {
            Self::Environment => Ok(std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.trim().is_empty())),
            Self::Given(token) => Ok(Some(token.clone())),
            Self::File(path) => read_token(path).map(Some),
        }
        .map(|token| token.map(|token| token.trim().to_owned()))
    }
}

fn read_token(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the token in {shown}: {error}"))?;
    if text.trim().is_empty() {
        return Err(format!("there is no token in {shown}"));
    }
    Ok(text)
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// JSON lines.
    Tcp,
    /// JSON lines over TLS.
    Tls,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub scheme: Scheme,
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of a WebSocket; otherwise empty.
    pub path: String,
}

impl Target {
    /// Reads a URL. The error says what would be right.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong =
            |what: &str| format!("{what}: write ws://HOST:PORT/ws, wss://…, tcp://HOST:PORT or tls://HOST:PORT");
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("the address has no scheme"))?;
        let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "ws" => (Scheme::Ws, 80),
            "wss" => (Scheme::Wss, 443),
            "tcp" => (Scheme::Tcp, LINES_PORT),
            "tls" => (Scheme::Tls, LINES_PORT),
            _ => return Err(wrong("the scheme is none that this program speaks")),
        };
        if rest.contains(['?', '#', '@']) || rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("the address has parameters: use --room, --name and --token instead".to_owned());
        }
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = split_port(authority).ok_or_else(|| wrong("host or port cannot be read"))?;
        let port = match port {
            None => default_port,
            Some(port) => port.parse().map_err(|_| wrong("the port is no number from 1 to 65535"))?,
        };
        let path = match (scheme, path) {
            (Scheme::Ws | Scheme::Wss, "" | "/") => "/ws",
            (Scheme::Ws | Scheme::Wss, path) => path,
            (Scheme::Tcp | Scheme::Tls, "" | "/") => "",
            (Scheme::Tcp | Scheme::Tls, _) => return Err(wrong("JSON lines have no path")),
        };
        Ok(Self { scheme, host: host.to_owned(), port, path: path.to_owned() })
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Wss | Scheme::Tls)
    }
}

/// Host and port; brackets belong to neither.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = if let Some(inner) = authority.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
    };
    (!host.is_empty()).then_some((host, port))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
        };
        let brackets = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{}{}{}:{}{}", brackets.0, self.host, brackets.1, self.port, self.path)
    }
}

/// The subcommand, for the command line of the whole program.
pub fn subcommand() -> Command {
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("chat")
        .about("Talk from this terminal, or from a script")
        .arg(
            Arg::new("url")
                .value_name("URL")
                .default_value(DEFAULT_URL)
                .value_parser(Target::parse)
                .help("The server: ws:// or wss://HOST:PORT/ws, tcp:// or tls://HOST:PORT"),
        )
        .arg(value("room", "NAME", "Enter this room; repeatable").action(ArgAction::Append).value_parser(room_name))
        .arg(value("name", "NAME", "Your name, on servers without tokens [default: $USER]").value_parser(user_name))
        .arg(value("token", "TOKEN", "Your token; others may see it in the list of processes [env: HUBBUB_TOKEN]"))
        .arg(
            value("token-file", "FILE", "Read the token from this file, again at each reconnect")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with("token"),
        )
        .arg(
            value("history", "N", "Messages to read back on entering a room [default: 50, plain: 0]")
                .value_parser(value_parser!(u64).range(..=1_000)),
        )
        .arg(
            value("ca", "FILE", "Trust the certificates in this PEM file instead of the public authorities")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with("insecure"),
        )
        .arg(
            Arg::new("insecure")
                .long("insecure")
                .action(ArgAction::SetTrue)
                .help("Take any certificate: for trials, for anyone in between can listen and speak"),
        )
        .arg(
            Arg::new("plain")
                .long("plain")
                .action(ArgAction::SetTrue)
                .help("Lines in, lines out; also without being told when input or output is no terminal"),
        )
}

impl Options {
    /// What was said to [`subcommand`].
    pub fn from_matches(matches: &ArgMatches) -> Self {
        let path = |name| matches.get_one::<PathBuf>(name).cloned();
        let token = match (path("token-file"), matches.get_one::<String>("token")) {
            (Some(file), _) => TokenSource::File(file),
            (None, Some(token)) => TokenSource::Given(token.clone()),
            (None, None) => TokenSource::Environment,
        };
        Self {
            target: matches.get_one::<Target>("url").expect("it has a default").clone(),
            rooms: matches.get_many::<String>("room").into_iter().flatten().cloned().collect(),
            name: matches.get_one::<String>("name").cloned(),
            token,
            plain: matches.get_flag("plain"),
            ca: path("ca"),
            insecure: matches.get_flag("insecure"),
            history: matches.get_one::<u64>("history").copied(),
        }
    }
}

fn room_name(text: &str) -> Result<String, String> {
    RoomName::chat(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn user_name(text: &str) -> Result<String, String> {
    UserName::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

const DEFAULT_URL: &str = "ws://127.0.0.1:9000/ws";
const LINES_PORT: u16 = 9001;
const TOKEN_VARIABLE: &str = "HUBBUB_TOKEN";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, clap::Error> {
        let arguments = [&["chat"], arguments].concat();
        subcommand().try_get_matches_from(arguments).map(|matches| Options::from_matches(&matches))
    }

    #[test]
    fn addresses_are_read_and_completed() {
        for (url, full) in [
            ("ws://h:1", "ws://h:1/ws"),
            ("WSS://chat.example/", "wss://chat.example:443/ws"),
            ("ws://h:1/a/b", "ws://h:1/a/b"),
            ("tcp://127.0.0.1", "tcp://127.0.0.1:9001"),
            ("tls://[::1]:9", "tls://[::1]:9"),
        ] {
            assert_eq!(Target::parse(url).unwrap().to_string(), full);
        }
        for url in [
            "h:1",
            "http://h",
            "ws://",
            "ws://h:x",
            "ws://h:0x1",
            "tcp://h/p",
            "ws://h/ws?room=a",
            "ws://[::1",
            "ws://a b",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_command_line_is_read() {
        let options = parse(&["tcp://h:5", "--room", "a", "--room", "b", "--name", "ann", "--plain"]).unwrap();
        assert_eq!((options.target.port, options.rooms.len(), options.plain), (5, 2, true));
        assert_eq!((options.name.as_deref(), options.token), (Some("ann"), TokenSource::Environment));
        assert_eq!(parse(&[]).unwrap().target.to_string(), DEFAULT_URL);
    }

    #[test]
    fn what_cannot_be_right_ends_with_two() {
        for arguments in [
            &["http://h"][..],
            &["--token", "a", "--token-file", "b"],
            &["--room", ""],
            &["--name", "a\nb"],
            &["--ca", "f", "--insecure"],
            &["--history", "1001"],
        ] {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let options = parse(&["--token", "very-secret"]).unwrap();
        assert!(!format!("{options:?}").contains("very-secret"));
    }
}
