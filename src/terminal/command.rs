//! What a person types: a message, or a command that begins with a slash. Pure.

use std::time::Duration;

/// What a typed line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Say this in the current room.
    Say(String),
    /// Enter a room, or show it.
    Join(String),
    /// Leave this room, or the current one.
    Leave(Option<String>),
    /// Who is here.
    Who,
    /// Which rooms there are.
    Rooms,
    /// Say something to one user.
    Direct {
        /// To whom.
        to: String,
        /// What.
        text: String,
    },
    /// Do something to a user of the current room, as a host.
    Moderate {
        /// The command's type: `kick`, `ban`, `unban`, `mute` or `unmute`.
        action: &'static str,
        /// Whom.
        user: String,
        /// For how long; without it, as long as the server thinks right.
        time: Option<Duration>,
    },
    /// Close the current room, as a host.
    Close,
    /// Remove a message of the current room: this one, or one's own last.
    Delete(Option<u64>),
    /// Show the numbers of messages, or no longer.
    Numbers,
    /// Which commands there are.
    Help,
    /// End.
    Quit,
}

/// Reads a line; `None` if there is nothing in it. The error says what would be right.
pub fn parse(line: &str) -> Option<Result<Typed, String>> {
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    let Some(rest) = line.strip_prefix('/') else { return Some(Ok(Typed::Say(line.to_owned()))) };
    // A second slash says that the first one is meant.
    if rest.starts_with('/') {
        return Some(Ok(Typed::Say(rest.to_owned())));
    }
    let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    Some(command(&name.to_lowercase(), rest.trim()))
}

fn command(name: &str, rest: &str) -> Result<Typed, String> {
    let optional = || (!rest.is_empty()).then(|| rest.to_owned());
    match name {
        "join" | "j" => optional().map(Typed::Join).ok_or_else(|| usage("join NAME")),
        "leave" | "part" => Ok(Typed::Leave(optional())),
        "who" | "names" => Ok(Typed::Who),
        "rooms" | "list" => Ok(Typed::Rooms),
        "msg" | "m" => direct(rest),
        // As in XEP-0245: clients that know nothing of it show the text as it is.
        "me" => optional().map(|text| Typed::Say(format!("/me {text}"))).ok_or_else(|| usage("me TEXT")),
        "kick" => moderate("kick", rest),
        "ban" => moderate("ban", rest),
        "unban" => moderate("unban", rest),
        "mute" => moderate("mute", rest),
        "unmute" => moderate("unmute", rest),
        "close" => Ok(Typed::Close),
        "delete" | "del" if rest.is_empty() => Ok(Typed::Delete(None)),
        "delete" | "del" => {
            let seq = rest.trim_start_matches('#').parse();
            seq.map(|seq| Typed::Delete(Some(seq))).map_err(|_| usage("delete NUMBER (/numbers shows them)"))
        }
        "numbers" => Ok(Typed::Numbers),
        "help" | "h" | "?" => Ok(Typed::Help),
        "quit" | "q" | "exit" => Ok(Typed::Quit),
        other => Err(format!("there is no /{other}: /help lists the commands, // begins a message with a slash")),
    }
}

fn direct(rest: &str) -> Result<Typed, String> {
    let (to, text) = word(rest).ok_or_else(|| usage(MSG))?;
    let to = to.trim_start_matches('@');
    if to.is_empty() || text.is_empty() {
        return Err(usage(MSG));
    }
    Ok(Typed::Direct { to: to.to_owned(), text: text.to_owned() })
}

fn moderate(action: &'static str, rest: &str) -> Result<Typed, String> {
    let timed = matches!(action, "kick" | "ban" | "mute");
    let shape = if timed { format!("{action} USER [TIME, such as 10m or 2h]") } else { format!("{action} USER") };
    let (user, time) = word(rest).ok_or_else(|| usage(&shape))?;
    let time = match time {
        "" => None,
        time if timed => Some(humantime::parse_duration(time).map_err(|_| usage(&shape))?),
        _ => return Err(usage(&shape)),
    };
    Ok(Typed::Moderate { action, user: user.to_owned(), time })
}

/// The first word, or what the first quotes hold, and the rest.
fn word(text: &str) -> Option<(&str, &str)> {
    if let Some((name, rest)) = text.strip_prefix('"').and_then(|text| text.split_once('"')) {
        return Some((name, rest.trim()));
    }
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (!first.is_empty()).then_some((first, rest.trim()))
}

fn usage(shape: &str) -> String {
    format!("usage: /{shape}")
}

const MSG: &str = "msg USER TEXT (\"quotes\" round a name of several words)";

/// All commands, for people.
pub const HELP: &[&str] = &[
    "/join NAME  /leave [NAME]  /rooms  /who  /quit",
    "/msg USER TEXT  says something to one user    /me TEXT  says what you do",
    "/delete [NUMBER]  removes a message, without a number your last one    /numbers  shows the numbers",
    "/kick USER [TIME]  /ban USER [TIME]  /unban USER  /mute USER [TIME]  /unmute USER  /close  for hosts",
];

/// What the keys do, for people.
pub const KEYS: &[&str] = &[
    "Tab, Ctrl-N next room    Shift-Tab, Ctrl-P last room    PgUp, PgDn scroll    Ctrl-End to the newest",
    "Up, Down what you wrote before    Ctrl-W, Ctrl-U remove a word, the line    Ctrl-C, Ctrl-D quit",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Typed {
        parse(line).unwrap().unwrap()
    }

    #[test]
    fn what_has_no_slash_is_a_message() {
        assert_eq!(typed(" hello / there "), Typed::Say("hello / there".to_owned()));
        assert_eq!(typed("//usr/bin"), Typed::Say("/usr/bin".to_owned()));
        assert_eq!(typed("/me waves"), Typed::Say("/me waves".to_owned()));
        assert!(parse("  ").is_none());
    }

    #[test]
    fn commands_are_read_with_their_arguments() {
        assert_eq!(typed("/JOIN the lobby"), Typed::Join("the lobby".to_owned()));
        assert_eq!(typed("/leave"), Typed::Leave(None));
        assert_eq!(typed("/delete #12"), Typed::Delete(Some(12)));
        let direct = |to: &str| Typed::Direct { to: to.to_owned(), text: "hi you".to_owned() };
        assert_eq!(typed("/msg @bob hi you"), direct("bob"));
        assert_eq!(typed("/msg \"bob b\" hi you"), direct("bob b"));
        let ban = |time| Typed::Moderate { action: "ban", user: "bob".to_owned(), time };
        assert_eq!(typed("/ban bob"), ban(None));
        assert_eq!(typed("/ban bob 1h 30m"), ban(Some(Duration::from_secs(5_400))));
    }

    #[test]
    fn what_is_wrong_is_answered_by_what_would_be_right() {
        for line in ["/join", "/msg bob", "/msg", "/ban", "/ban bob soon", "/unban bob 5m", "/delete x", "/me", "/nope"]
        {
            let said = parse(line).unwrap().unwrap_err();
            assert!(said.contains("usage: /") || said.contains("/help"), "{said}");
        }
    }
}
