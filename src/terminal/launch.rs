//! From the command line to a running client, and its exit code.

use std::io::{IsTerminal, stderr, stdin, stdout};
use std::net::IpAddr;
use std::process::ExitCode;

use super::network::Dialler;
use super::options::Options;
use super::session::{Session, Setup};
use super::{plain, screen, tls};
use crate::ids::UserName;

/// Runs the client. The exit code is 0 when it ended as asked, 1 when it was refused or something was not sent, 2 when the
/// command line cannot be used.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    let is_plain = options.plain || dumb || !stdin().is_terminal() || !stdout().is_terminal();
    let (session, dialler) = match prepare(options, is_plain) {
        Ok(prepared) => prepared,
        Err(wrong) => {
            complain(&wrong);
            return ExitCode::from(UNUSABLE);
        }
    };
    let done = if is_plain {
        plain::run(session, dialler).map(|all_well| if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    } else {
        screen::run(session, dialler).map(|refused| {
            refused.map_or(ExitCode::SUCCESS, |why| {
                complain(&why);
                ExitCode::FAILURE
            })
        })
    };
    done.unwrap_or_else(|error| {
        complain(&error.to_string());
        ExitCode::FAILURE
    })
}

fn prepare(options: &Options, is_plain: bool) -> Result<(Session, Dialler), String> {
    if !options.target.is_secure() && (options.ca.is_some() || options.insecure) {
        return Err("--ca and --insecure are for wss:// and tls:// addresses".to_owned());
    }
    let tls = options.target.is_secure().then(|| tls::config(options.ca.as_deref(), options.insecure)).transpose()?;
    let token = options.token.read()?;
    if token.is_some() && !options.target.is_secure() && !is_loopback(&options.target.host) {
        complain("warning: the token goes there unencrypted: use a wss:// or tls:// address if the server has one");
    }
    let login = || std::env::var("USER").ok().filter(|name| UserName::new(name).is_ok());
    let name = options.name.clone().or_else(|| login().filter(|_| token.is_none()));
    let default_history = if is_plain { 0 } else { HISTORY };
    let seed = getrandom::u64().map_err(|error| format!("there is no randomness: {error}"))?;
    let mut rooms: Vec<String> = Vec::new();
    for room in &options.rooms {
        if !rooms.contains(room) {
            rooms.push(room.clone());
        }
    }
    let setup = Setup {
        name,
        rooms,
        presence: !is_plain,
        history: options.history.unwrap_or(default_history),
        seed,
        has_token: token.is_some(),
        renews_token: matches!(options.token, super::options::TokenSource::File(_)),
        insists: !is_plain,
    };
    let dialler = Dialler { target: options.target.clone(), token: options.token.clone(), tls };
    Ok((Session::new(setup), dialler))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn complain(what: &str) {
    use std::io::Write as _;
    // Without a standard error there is nobody to complain to.
    let _ = writeln!(stderr(), "hubbub: {what}");
}

const UNUSABLE: u8 = 2;
/// Messages that are read back on a terminal.
const HISTORY: u64 = 50;
