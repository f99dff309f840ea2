//! The tables of settings: for each its key, what it means, how its text is read and how it is written.
//!
//! Every value is text until it is read here, whichever source it came from, so that a flag, a variable and a line of
//! the file follow the same rules and get the same errors. A setting's flag is its key with dashes, its variable
//! `HUBBUB_` and the key in capitals with `_` for the dot.

mod access;
mod hooks;
mod limits;
mod rooms;
mod server;
mod store;
mod tls;
mod token;

use std::path::PathBuf;

use tracing::Level;

use crate::codec::forwarded::ProxyHeader;
use crate::config::values::*;
use crate::config::{Auth, Config};
use crate::limits::SlowConsumerPolicy;
use crate::policy::{Commit, HistoryMode, RoomPolicy};
use crate::telemetry::log::LogFormat;

/// One setting.
pub(super) struct Setting {
    /// Its name in the file.
    pub(super) key: &'static str,
    /// How many values it has and how they are written.
    pub(super) shape: Shape,
    /// What stands for the value in help texts.
    pub(super) value_name: &'static str,
    /// One line for help texts.
    pub(super) help: &'static str,
    /// Reads the values.
    pub(super) read: fn(&mut Config, &[String]) -> Result<(), Unreadable>,
    /// Writes the values as they would be read.
    pub(super) write: fn(&Config) -> Vec<String>,
}

/// How a setting is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One text.
    Text,
    /// One number, or a word in its place.
    Number,
    /// Yes or no; the flag alone says yes.
    Switch,
    /// Any number of values, in one text with commas between them if need be.
    List,
}

impl Setting {
    /// The setting with this key.
    pub(super) fn find(key: &str) -> Option<&'static Self> {
        all().find(|setting| setting.key == key)
    }

    /// The flag, with its dashes.
    pub(super) fn flag(&self) -> String {
        format!("--{}", self.key.replace(['.', '_'], "-"))
    }

    /// The environment variable.
    pub(super) fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.replace('.', "_").to_uppercase())
    }
}

/// What all environment variables of the server begin with.
pub(super) const VARIABLE_PREFIX: &str = "HUBBUB_";

/// Every setting, in the order of the documentation.
pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    TABLES.iter().copied().flatten()
}

const TABLES: &[&[Setting]] = &[
    server::SETTINGS,
    access::SETTINGS,
    token::SETTINGS,
    tls::SETTINGS,
    rooms::SETTINGS,
    limits::SETTINGS,
    store::SETTINGS,
    hooks::SETTINGS,
];

const AUTH_WORDS: &[(Auth, &str)] = &[(Auth::Open, "open"), (Auth::Token, "token")];
const SWITCH_WORDS: &[(bool, &str)] =
    &[(true, "true"), (false, "false"), (true, "1"), (false, "0"), (true, "yes"), (false, "no")];
const PROXY_HEADER_WORDS: &[(ProxyHeader, &str)] =
    &[(ProxyHeader::XForwardedFor, "x-forwarded-for"), (ProxyHeader::Forwarded, "forwarded")];
const LOG_FORMAT_WORDS: &[(LogFormat, &str)] = &[(LogFormat::Text, "text"), (LogFormat::Json, "json")];
const LOG_LEVEL_WORDS: &[(Level, &str)] = &[
    (Level::ERROR, "error"),
    (Level::WARN, "warn"),
    (Level::INFO, "info"),
    (Level::DEBUG, "debug"),
    (Level::TRACE, "trace"),
];
pub(super) const HISTORY_WORDS: &[(HistoryMode, &str)] =
    &[(HistoryMode::Durable, "durable"), (HistoryMode::Memory, "memory"), (HistoryMode::Off, "off")];
pub(super) const HISTORY_REMEDY: &str = "write durable, memory or off";
pub(super) const COMMIT_WORDS: &[(Commit, &str)] = &[(Commit::Fsync, "fsync"), (Commit::Interval, "interval")];
pub(super) const COMMIT_REMEDY: &str = "write fsync or interval";
const SLOW_WORDS: &[(SlowConsumerPolicy, &str)] =
    &[(SlowConsumerPolicy::Disconnect, "disconnect"), (SlowConsumerPolicy::Skip, "skip")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_read_as_they_are_written() {
        let mut config = Config { listen: Vec::new(), node: "other".into(), ..Config::default() };
        for setting in all() {
            (setting.read)(&mut config, &(setting.write)(&Config::default())).unwrap();
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn names_of_flags_and_variables_follow_from_the_key() {
        let setting = Setting::find("limits.history_size").unwrap();
        assert_eq!(setting.flag(), "--limits-history-size");
        assert_eq!(setting.variable(), "HUBBUB_LIMITS_HISTORY_SIZE");
    }

    #[test]
    fn lists_come_in_one_text_or_in_many() {
        let mut config = Config::default();
        let listen = Setting::find("listen").unwrap();
        (listen.read)(&mut config, &["127.0.0.1:1, [::1]:2".into(), "127.0.0.1:3".into()]).unwrap();
        assert_eq!(texts(&config.listen), ["127.0.0.1:1", "[::1]:2", "127.0.0.1:3"]);
        let tcp = Setting::find("tcp_listen").unwrap();
        (tcp.read)(&mut config, &["off".into()]).unwrap();
        assert_eq!(config.tcp_listen, []);
    }

    #[test]
    fn every_setting_refuses_nonsense_with_a_remedy() {
        let nonsense = ["\u{1}".to_string(), "x y z".to_string()];
        for setting in all().filter(|setting| setting.key != "allowed_origins") {
            let unreadable = (setting.read)(&mut Config::default(), &nonsense).unwrap_err();
            assert!(!unreadable.what.is_empty() && !unreadable.remedy.is_empty(), "{}", setting.key);
        }
    }
}
