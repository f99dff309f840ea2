//! The command line of `hubbub admin`: each of its commands is one request to the API of a running server.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Map, Value, json};

/// What is asked of a server, and how its answer is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminCall {
    /// The admin port, as `http://host:port`; `None`: the first one of `admin_listen`.
    pub url: Option<String>,
    /// The file with the key; `None`: that of `admin_key_file`.
    pub key_file: Option<PathBuf>,
    /// Show the answer as it came.
    pub json: bool,
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// Below `/api/v1`, with its query.
    pub path: String,
    /// What goes with it.
    pub body: AdminBody,
}

/// What goes with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminBody {
    /// Nothing.
    Empty,
    /// This JSON.
    Json(String),
    /// What is in a file; `-` is standard input.
    File(PathBuf),
}

/// The command.
pub(super) fn command() -> Command {
    let url = Arg::new("url")
        .long("url")
        .value_name("URL")
        .global(true)
        .help("The server's admin port [default: http:// and the first of admin_listen]");
    let key_file = Arg::new("key_file")
        .long("key-file")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .global(true)
        .help("The file whose first key opens it [default: admin_key_file]");
    let json =
        switch("json", "Print the answer as it came; so it is too where nobody reads it on a terminal").global(true);
    Command::new("admin")
        .about("Ask a running server something, or have it do something, over its admin port")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args([url, key_file, json])
        .subcommands(about_rooms())
        .subcommands(about_people())
        .subcommands(about_server())
}

fn about_rooms() -> Vec<Command> {
    let room = || name("room", "ROOM");
    let page = [option("after", "Begin after this one"), number("limit", "Most entries of the page")];
    let said = || {
        [
            option("key", "The same key within five minutes is the same message"),
            option("sender", "Under whose name [default: operator]"),
            option("tag", "For members that filter"),
            switch("raw", "TEXT is JSON as it is, not a text"),
        ]
    };
    vec![
        Command::new("rooms").about("List rooms").args(page.clone()).arg(option("prefix", "Only names that begin so")),
        Command::new("room").about("Show what there is of a room").arg(room()),
        Command::new("history")
            .about("Read what was said in a room, the latest if nothing is said")
            .arg(room())
            .args([number("before", "Before this seq"), number("after", "After this seq; 0: from the start")])
            .arg(number("limit", "Most messages")),
        Command::new("close").about("Put everyone out of a room").arg(room()),
        Command::new("presence").about("Show who is in a room").arg(room()).args(page.clone()),
        Command::new("publish").about("Say something in a room").args([room(), name("text", "TEXT")]).args(said()),
        Command::new("broadcast")
            .about("Say the same in many rooms")
            .args([
                name("text", "TEXT"),
                option("to", "One of the rooms; repeatable").action(ArgAction::Append),
                option("pattern", "All rooms in memory that fit, such as team-*"),
                option("after", "With --pattern: begin after this room"),
            ])
            .args(said()),
        Command::new("letters")
            .about("List a room's dead letters, send them again, or forget them")
            .arg(room())
            .args([option("user", "Only this user's"), number("seq", "Only this message's")])
            .args([number("after", "With --user: begin after this seq"), number("limit", "Most letters")])
            .args([switch("replay", "Send them again"), switch("purge", "Forget them").conflicts_with("replay")]),
    ]
}

fn about_people() -> Vec<Command> {
    let user = || name("user", "USER");
    let term = [
        option("for", "For how long, such as 10m; without it there is no end").value_parser(humantime::parse_duration),
        option("reason", "Why; the user is told"),
    ];
    let measure = |name: &'static str, about: &'static str| {
        let room = option("room", "Only in this room; otherwise on the whole server");
        Command::new(name).about(about).arg(user()).arg(room)
    };
    vec![
        measure("ban", "Keep a user out").args(term.clone()),
        measure("unban", "Let a user in again"),
        measure("mute", "Let a user be there, but not speak").args(term.clone()),
        measure("unmute", "Let a user speak again"),
        Command::new("kick").about("Put a user out of a room, who may come back").args([name("room", "ROOM"), user()]),
        Command::new("revoke")
            .about("Make a user's tokens of until now worthless, or one token")
            .arg(user().required(false).required_unless_present("token"))
            .arg(option("token", "Only the one with this jti").conflicts_with("user"))
            .args(term),
        Command::new("sanctions")
            .about("List bans, mutes and revocations of the whole server; `room` shows those of a room")
            .arg(option("after", "Begin after this one: `next` of the page before"))
            .arg(number("limit", "Most users and tokens")),
        Command::new("user").about("Show a user's connections").arg(user()),
        Command::new("connections")
            .about("List connections")
            .args([option("user", "Only this user's"), option("after", "Begin after this one")])
            .arg(number("limit", "Most connections")),
        Command::new("disconnect")
            .about("Close a user's connections, or one")
            .arg(user().required(false).required_unless_present("connection"))
            .arg(option("connection", "Only this one, such as s0-12-3").conflicts_with("user")),
    ]
}

fn about_server() -> Vec<Command> {
    let file = Arg::new("file").value_name("FILE").value_parser(value_parser!(PathBuf)).required(true);
    vec![
        Command::new("shards").about("Show how busy the shards are"),
        Command::new("config").about("Show every setting with where it was given"),
        Command::new("reload").about("Have the configuration read again"),
        Command::new("drain").about("Stop the server; clients are told to come back"),
        Command::new("batch")
            .about("Make many requests in one")
            .arg(file.help("{\"requests\": [{\"method\": …, \"path\": …, \"body\": …}]}; - is standard input")),
    ]
}

/// Reads what was said.
pub(super) fn call(matches: &ArgMatches) -> AdminCall {
    let Some((command, inner)) = matches.subcommand() else { unreachable!("clap asks for one") };
    let (method, path, body) = request(command, inner);
    AdminCall {
        url: inner.get_one("url").cloned(),
        key_file: inner.get_one("key_file").cloned(),
        json: inner.get_flag("json"),
        method,
        path,
        body,
    }
}

fn request(command: &str, said: &ArgMatches) -> (&'static str, String, AdminBody) {
    let room = |rest: &str| format!("/rooms/{}{rest}", segment(said, "room"));
    let get = |path: String, keys: &[&str]| ("GET", path + &query(said, keys), AdminBody::Empty);
    let post = |path: &str| ("POST", path.to_owned(), AdminBody::Empty);
    match command {
        "rooms" => get("/rooms".into(), &["prefix", "after", "limit"]),
        "room" => get(room(""), &[]),
        "history" => get(room("/history"), &["before", "after", "limit"]),
        "presence" => get(room("/presence"), &["after", "limit"]),
        "publish" => ("POST", "/publish".into(), message(said, &["room", "key", "sender", "tag"])),
        "broadcast" => {
            ("POST", "/broadcast".into(), message(said, &["to", "pattern", "after", "key", "sender", "tag"]))
        }
        "letters" => letters(said, &room("/dead-letters")),
        "close" => post(&room("/close")),
        "kick" => ("POST", room("/kick"), AdminBody::Json(json!({"user": said.get_one::<String>("user")}).to_string())),
        "ban" | "unban" | "mute" | "unmute" => measure(said, command),
        "revoke" => {
            let whose = match said.contains_id("token") {
                true => format!("/tokens/{}", segment(said, "token")),
                false => format!("/users/{}", segment(said, "user")),
            };
            ("POST", format!("{whose}/revoke"), AdminBody::Json(term(said).to_string()))
        }
        "user" => get(format!("/users/{}", segment(said, "user")), &[]),
        "sanctions" => get("/sanctions".into(), &["after", "limit"]),
        "connections" => get("/connections".into(), &["user", "after", "limit"]),
        "disconnect" if said.contains_id("connection") => {
            ("DELETE", format!("/connections/{}", segment(said, "connection")), AdminBody::Empty)
        }
        "disconnect" => post(&format!("/users/{}/disconnect", segment(said, "user"))),
        "shards" | "config" => get(format!("/{command}"), &[]),
        "batch" => {
            let file = said.get_one::<PathBuf>("file").cloned().unwrap_or_default();
            ("POST", "/batch".into(), AdminBody::File(file))
        }
        // `reload` and `drain`.
        _ => post(&format!("/{command}")),
    }
}

/// Something against a user, in a room or everywhere, or its end.
fn measure(said: &ArgMatches, command: &str) -> (&'static str, String, AdminBody) {
    let mut body = if command.starts_with("un") { json!({}) } else { term(said) };
    let path = if said.contains_id("room") {
        body["user"] = Value::from(said.get_one::<String>("user").map_or("", String::as_str));
        format!("/rooms/{}/{command}", segment(said, "room"))
    } else {
        format!("/users/{}/{command}", segment(said, "user"))
    };
    ("POST", path, AdminBody::Json(body.to_string()))
}

/// For how long, and why.
fn term(said: &ArgMatches) -> Value {
    let mut term = json!({});
    if let Some(time) = said.get_one::<Duration>("for") {
        term["for_ms"] = Value::from(time.as_millis() as u64);
    }
    if let Some(reason) = said.get_one::<String>("reason") {
        term["reason"] = Value::from(reason.as_str());
    }
    term
}

fn letters(said: &ArgMatches, path: &str) -> (&'static str, String, AdminBody) {
    let query = query(said, &["user", "seq", "after", "limit"]);
    match (said.get_flag("replay"), said.get_flag("purge")) {
        (true, _) => ("POST", format!("{path}/replay{query}"), AdminBody::Empty),
        (_, true) => ("DELETE", format!("{path}{query}"), AdminBody::Empty),
        _ => ("GET", format!("{path}{query}"), AdminBody::Empty),
    }
}

/// A message with these of its fields that were given.
fn message(said: &ArgMatches, keys: &[&str]) -> AdminBody {
    let mut body = Map::new();
    for key in keys {
        match *key {
            "to" => {
                if let Some(rooms) = said.get_many::<String>("to") {
                    body.insert("rooms".into(), rooms.cloned().collect());
                }
            }
            key => {
                if let Some(value) = said.get_one::<String>(key) {
                    body.insert(key.into(), Value::from(value.as_str()));
                }
            }
        }
    }
    let text = said.get_one::<String>("text").cloned().unwrap_or_default();
    if !said.get_flag("raw") {
        body.insert("content".into(), Value::from(text));
        return AdminBody::Json(Value::Object(body).to_string());
    }
    // As it is: the server says where it is no JSON.
    let rest = json!(body).to_string();
    let comma = if body.is_empty() { "" } else { "," };
    AdminBody::Json(format!("{{\"content\":{text}{comma}{}", &rest[1..]))
}

/// The options that were given, as the query of a URL.
fn query(said: &ArgMatches, keys: &[&str]) -> String {
    let mut text = String::new();
    for key in keys {
        let value = match said.try_get_one::<u64>(key) {
            Ok(number) => number.map(ToString::to_string),
            Err(_) => said.get_one::<String>(key).cloned(),
        };
        if let Some(value) = value {
            let mark = if text.is_empty() { '?' } else { '&' };
            text += &format!("{mark}{key}={}", encoded(&value));
        }
    }
    text
}

fn segment(said: &ArgMatches, key: &str) -> String {
    encoded(said.get_one::<String>(key).map_or("", String::as_str))
}

/// Percent-encoded but for what is never special (RFC 3986, section 2.3).
fn encoded(text: &str) -> String {
    let of_byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(of_byte).collect()
}

fn name(id: &'static str, value_name: &'static str) -> Arg {
    Arg::new(id).value_name(value_name).required(true)
}

fn option(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).help(help)
}

fn number(id: &'static str, help: &'static str) -> Arg {
    option(id, help).value_parser(value_parser!(u64))
}

fn switch(id: &'static str, help: &'static str) -> Arg {
    option(id, help).action(ArgAction::SetTrue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Subcommand, parse_arguments};

    fn parse(arguments: &[&str]) -> Result<AdminCall, clap::Error> {
        let all = ["hubbub", "admin"].iter().chain(arguments).map(|argument| (*argument).into());
        match parse_arguments(all)?.subcommand {
            Subcommand::Admin(call) => Ok(call),
            other => panic!("{other:?}"),
        }
    }

    fn asked(arguments: &[&str]) -> String {
        let AdminCall { method, path, body, .. } = parse(arguments).unwrap();
        let body = match body {
            AdminBody::Empty => String::new(),
            AdminBody::Json(text) => format!(" {text}"),
            AdminBody::File(file) => format!(" <{}", file.display()),
        };
        format!("{method} {path}{body}")
    }

    #[test]
    fn each_command_is_one_request() {
        assert_eq!(asked(&["rooms", "--prefix", "a b", "--limit", "5"]), "GET /rooms?prefix=a%20b&limit=5");
        assert_eq!(asked(&["room", "größe/1"]), "GET /rooms/gr%C3%B6%C3%9Fe%2F1");
        assert_eq!(asked(&["history", "a", "--after", "0"]), "GET /rooms/a/history?after=0");
        assert_eq!(asked(&["presence", "a", "--after", "x"]), "GET /rooms/a/presence?after=x");
        assert_eq!(
            asked(&["publish", "a", "say \"x\"", "--key", "k"]),
            r#"POST /publish {"content":"say \"x\"","key":"k","room":"a"}"#
        );
        assert_eq!(asked(&["publish", "a", "{\"x\":1}", "--raw"]), r#"POST /publish {"content":{"x":1},"room":"a"}"#);
        assert_eq!(
            asked(&["broadcast", "hi", "--to", "a", "--to", "b"]),
            r#"POST /broadcast {"content":"hi","rooms":["a","b"]}"#
        );
        assert_eq!(asked(&["broadcast", "1", "--raw"]), r#"POST /broadcast {"content":1}"#);
        assert_eq!(asked(&["letters", "a", "--user", "u", "--seq", "3"]), "GET /rooms/a/dead-letters?user=u&seq=3");
        assert_eq!(asked(&["letters", "a", "--replay"]), "POST /rooms/a/dead-letters/replay");
        assert_eq!(asked(&["letters", "a", "--purge"]), "DELETE /rooms/a/dead-letters");
        assert_eq!(asked(&["user", "ann"]), "GET /users/ann");
        assert_eq!(asked(&["disconnect", "ann"]), "POST /users/ann/disconnect");
        assert_eq!(asked(&["disconnect", "--connection", "s0-1-2"]), "DELETE /connections/s0-1-2");
        assert_eq!(asked(&["connections", "--user", "ann"]), "GET /connections?user=ann");
        assert_eq!(asked(&["sanctions", "--after", "user:a&b"]), "GET /sanctions?after=user%3Aa%26b");
        assert_eq!(asked(&["close", "a"]), "POST /rooms/a/close");
        assert_eq!(asked(&["kick", "a", "u"]), r#"POST /rooms/a/kick {"user":"u"}"#);
        assert_eq!(
            asked(&["ban", "u", "--room", "a", "--for", "10m", "--reason", "spam"]),
            r#"POST /rooms/a/ban {"for_ms":600000,"reason":"spam","user":"u"}"#
        );
        assert_eq!(asked(&["mute", "u"]), "POST /users/u/mute {}");
        assert_eq!(asked(&["unban", "u", "--room", "a"]), r#"POST /rooms/a/unban {"user":"u"}"#);
        assert_eq!(asked(&["unmute", "u"]), "POST /users/u/unmute {}");
        assert_eq!(asked(&["revoke", "u"]), "POST /users/u/revoke {}");
        assert_eq!(asked(&["revoke", "--token", "j", "--for", "1h"]), r#"POST /tokens/j/revoke {"for_ms":3600000}"#);
        assert_eq!(asked(&["batch", "-"]), "POST /batch <-");
        for command in ["shards", "config"] {
            assert_eq!(asked(&[command]), format!("GET /{command}"));
        }
        for command in ["reload", "drain"] {
            assert_eq!(asked(&[command]), format!("POST /{command}"));
        }
    }

    #[test]
    fn where_and_how_stand_anywhere() {
        let before = parse(&["--url", "http://h:1", "--key-file", "k", "--json", "shards"]).unwrap();
        let after = parse(&["shards", "--json", "--key-file", "k", "--url", "http://h:1"]).unwrap();
        assert_eq!(before, after);
        assert_eq!((before.url.as_deref(), before.json), (Some("http://h:1"), true));
    }

    #[test]
    fn what_is_missing_or_unknown_ends_with_two() {
        for wrong in [&["room"][..], &[], &["disconnect"], &["history", "a", "--after", "x"], &["levitate"]] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }
}
