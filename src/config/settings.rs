//! The table of settings: for each its key, what it means, how its text is read and how it is written.
//!
//! Every value is text until it is read here, whichever source it came from, so that a flag, a variable and a line of
//! the file follow the same rules and get the same errors. A setting's flag is its key with dashes, its variable
//! `HUBBUB_` and the key in capitals with `_` for the dot.

use std::path::PathBuf;

use tracing::Level;

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
        SETTINGS.iter().find(|setting| setting.key == key)
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
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        shape: Shape::List,
        value_name: "IP:PORT",
        help: "Serve HTTP, WebSocket and the web client here; repeatable",
        read: |config, values| addresses(values).map(|value| config.listen = value),
        write: |config| texts(&config.listen),
    },
    Setting {
        key: "tcp_listen",
        shape: Shape::List,
        value_name: "IP:PORT",
        help: "Serve JSON lines over TCP here; repeatable, `off` for none",
        read: |config, values| addresses(values).map(|value| config.tcp_listen = value),
        write: |config| texts_or(&config.tcp_listen, OFF),
    },
    Setting {
        key: "admin_listen",
        shape: Shape::List,
        value_name: "IP:PORT",
        help: "Serve metrics and health here; repeatable, `off` for none",
        read: |config, values| addresses(values).map(|value| config.admin_listen = value),
        write: |config| texts_or(&config.admin_listen, OFF),
    },
    Setting {
        key: "admin_key_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "The file with the key that opens /api and /debug; `off` keeps them closed",
        read: |config, values| {
            one(values).map(|value| config.admin_key_file = (value != OFF).then(|| PathBuf::from(value)))
        },
        write: |config| texts_or(config.admin_key_file.as_ref().map(|path| path.display()), OFF),
    },
    Setting {
        key: "data_dir",
        shape: Shape::Text,
        value_name: "DIRECTORY",
        help: "Where durable history is kept; one process at a time uses it",
        read: |config, values| one(values).map(|value| config.data_dir = PathBuf::from(value)),
        write: |config| vec![config.data_dir.display().to_string()],
    },
    Setting {
        key: "shards",
        shape: Shape::Number,
        value_name: "N",
        help: "How many shards; may exceed the cores [auto: from cores, max_connections and the descriptor limit]",
        read: |config, values| number_or_auto(values).map(|value| config.shards = value),
        write: |config| texts_or(config.shards, AUTO),
    },
    Setting {
        key: "cpus",
        shape: Shape::List,
        value_name: "CPU,CPU",
        help: "The CPUs that shards are pinned to, in turn [auto: all that the process may use]",
        read: |config, values| cpus(values).map(|value| config.cpus = value),
        write: |config| config.cpus.as_ref().map_or_else(|| vec![AUTO.into()], texts),
    },
    Setting {
        key: "max_connections",
        shape: Shape::Number,
        value_name: "N",
        help: "Connections of all shards together [auto: shards x (open files - 256)]",
        read: |config, values| number_or_auto(values).map(|value| config.max_connections = value),
        write: |config| texts_or(config.max_connections, AUTO),
    },
    Setting {
        key: "max_message_bytes",
        shape: Shape::Number,
        value_name: "BYTES",
        help: "Largest message: a WebSocket message's payload or a TCP line",
        read: |config, values| number(values).map(|value| config.limits.max_message_bytes = value),
        write: |config| texts([config.limits.max_message_bytes]),
    },
    Setting {
        key: "auth",
        shape: Shape::Text,
        value_name: "MODE",
        help: "Who may connect: `open` is anyone, under any free name",
        read: |config, values| {
            word(values, AUTH_WORDS, "this version knows only auth = \"open\"").map(|value| config.auth = value)
        },
        write: |config| written(config.auth, AUTH_WORDS),
    },
    Setting {
        key: "allow_anonymous",
        shape: Shape::Switch,
        value_name: "true|false",
        help: "Allow open mode on addresses that are not loopback",
        read: |config, values| {
            word(values, SWITCH_WORDS, "write true or false").map(|value| config.allow_anonymous = value)
        },
        write: |config| texts([config.allow_anonymous]),
    },
    Setting {
        key: "allowed_origins",
        shape: Shape::List,
        value_name: "ORIGIN",
        help: "Web pages of these origins may connect, beside the server's own; repeatable",
        read: |config, values| {
            config.allowed_origins = list(values);
            Ok(())
        },
        write: |config| config.allowed_origins.clone(),
    },
    Setting {
        key: "history",
        shape: Shape::Text,
        value_name: "durable|memory|off",
        help: "Where messages are kept of rooms that no [[rooms]] rule of the file fits",
        read: |config, values| {
            word(values, HISTORY_WORDS, HISTORY_REMEDY).map(|value| config.policies.default = RoomPolicy::new(value))
        },
        write: |config| written(config.policies.default.history, HISTORY_WORDS),
    },
    Setting {
        key: "history_ttl",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How long a message of a durable room is kept; `off` for ever",
        read: |config, values| time_or_off(values).map(|value| config.policies.default.ttl = value),
        write: |config| written_time_or_off(config.policies.default.ttl),
    },
    Setting {
        key: "commit",
        shape: Shape::Text,
        value_name: "fsync|interval",
        help: "When `ok` is said in a durable room: once the message is on the disk, or at once",
        read: |config, values| {
            word(values, COMMIT_WORDS, COMMIT_REMEDY).map(|value| config.policies.default.commit = value)
        },
        write: |config| written(config.policies.default.commit, COMMIT_WORDS),
    },
    Setting {
        key: "session_ttl",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How long a session without a connection can be resumed",
        read: |config, values| time(values).map(|value| config.limits.session_ttl = value),
        write: |config| written_time(config.limits.session_ttl),
    },
    Setting {
        key: "coalesce_max",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Under load a connection is written at most once per this time; 0s for at once",
        read: |config, values| time(values).map(|value| config.coalesce_max = value),
        write: |config| written_time(config.coalesce_max),
    },
    Setting {
        key: "drain_timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time from the first SIGTERM to the end of the process",
        read: |config, values| time(values).map(|value| config.drain_timeout = value),
        write: |config| written_time(config.drain_timeout),
    },
    Setting {
        key: "node",
        shape: Shape::Text,
        value_name: "NAME",
        help: "Names the server to its clients",
        read: |config, values| one(values).map(|value| config.node = value.to_string()),
        write: |config| vec![config.node.clone()],
    },
    Setting {
        key: "log_format",
        shape: Shape::Text,
        value_name: "text|json",
        help: "How log lines are written",
        read: |config, values| {
            word(values, LOG_FORMAT_WORDS, "write text or json").map(|value| config.log_format = value)
        },
        write: |config| written(config.log_format, LOG_FORMAT_WORDS),
    },
    Setting {
        key: "log_level",
        shape: Shape::Text,
        value_name: "LEVEL",
        help: "Which log lines are written: error, warn, info, debug or trace",
        read: |config, values| {
            word(values, LOG_LEVEL_WORDS, "write error, warn, info, debug or trace")
                .map(|value| config.log_level = value)
        },
        write: |config| written(config.log_level, LOG_LEVEL_WORDS),
    },
    Setting {
        key: "limits.history_size",
        shape: Shape::Number,
        value_name: "N",
        help: "Messages kept per room [auto: durable rooms keep all, memory rooms 1,000]",
        read: |config, values| {
            let policy = &mut config.policies.default;
            limit(values, RoomPolicy::new(policy.history).size).map(|value| policy.size = value)
        },
        write: |config| texts_or(config.policies.default.size, AUTO),
    },
    Setting {
        key: "limits.history_bytes",
        shape: Shape::Number,
        value_name: "BYTES",
        help: "Bytes kept per room [auto: durable rooms keep all, memory rooms 1 MiB]",
        read: |config, values| {
            let policy = &mut config.policies.default;
            limit(values, RoomPolicy::new(policy.history).bytes).map(|value| policy.bytes = value)
        },
        write: |config| texts_or(config.policies.default.bytes, AUTO),
    },
    Setting {
        key: "limits.heartbeat_interval",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Silence after which the server pings; three of these close the connection",
        read: |config, values| time(values).map(|value| config.limits.heartbeat_interval = value),
        write: |config| written_time(config.limits.heartbeat_interval),
    },
    Setting {
        key: "limits.heartbeat_adaptive",
        shape: Shape::Switch,
        value_name: "true|false",
        help: "Halve the interval after a missed heartbeat",
        read: |config, values| {
            word(values, SWITCH_WORDS, "write true or false").map(|value| config.limits.heartbeat_adaptive = value)
        },
        write: |config| texts([config.limits.heartbeat_adaptive]),
    },
    Setting {
        key: "limits.handshake_timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time for the request head and for `connect`",
        read: |config, values| time(values).map(|value| config.limits.handshake_timeout = value),
        write: |config| written_time(config.limits.handshake_timeout),
    },
    Setting {
        key: "limits.presence_grace",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How long a user stays present after the last connection is gone",
        read: |config, values| time(values).map(|value| config.limits.presence_grace = value),
        write: |config| written_time(config.limits.presence_grace),
    },
    Setting {
        key: "limits.outbox_stall",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How long a reader may take nothing before it counts as slow",
        read: |config, values| time(values).map(|value| config.limits.outbox_stall = value),
        write: |config| written_time(config.limits.outbox_stall),
    },
    Setting {
        key: "limits.close_timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time from the close frame to the reset of a connection that does not answer",
        read: |config, values| time(values).map(|value| config.limits.close_timeout = value),
        write: |config| written_time(config.limits.close_timeout),
    },
    Setting {
        key: "limits.slow_consumer",
        shape: Shape::Text,
        value_name: "disconnect|skip",
        help: "What happens to a slow reader: closed with 4008, or messages skipped with a `gap`",
        read: |config, values| {
            word(values, SLOW_WORDS, "write disconnect or skip").map(|value| config.limits.slow_consumer = value)
        },
        write: |config| written(config.limits.slow_consumer, SLOW_WORDS),
    },
    Setting {
        key: "store.commit_interval",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How often what nobody waits for is synced to the disk",
        read: |config, values| time(values).map(|value| config.store.commit_interval = value),
        write: |config| written_time(config.store.commit_interval),
    },
    Setting {
        key: "store.min_free_bytes",
        shape: Shape::Number,
        value_name: "BYTES",
        help: "Free space below which durable rooms take no more messages",
        read: |config, values| number(values).map(|value| config.store.min_free_bytes = value),
        write: |config| texts([config.store.min_free_bytes]),
    },
    Setting {
        key: "store.maintenance_interval",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How often retention looks for messages to remove",
        read: |config, values| time(values).map(|value| config.store.maintenance_interval = value),
        write: |config| written_time(config.store.maintenance_interval),
    },
    Setting {
        key: "ack.timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time until a message that was not acknowledged is sent again; doubles each time",
        read: |config, values| time(values).map(|value| config.limits.ack_timeout = value),
        write: |config| written_time(config.limits.ack_timeout),
    },
    Setting {
        key: "ack.timeout_max",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Longest time between two attempts",
        read: |config, values| time(values).map(|value| config.limits.ack_timeout_max = value),
        write: |config| written_time(config.limits.ack_timeout_max),
    },
    Setting {
        key: "ack.attempts_max",
        shape: Shape::Number,
        value_name: "N",
        help: "How often a message is sent before it is a dead letter",
        read: |config, values| number(values).map(|value| config.limits.ack_attempts_max = value),
        write: |config| texts([config.limits.ack_attempts_max]),
    },
];

const AUTH_WORDS: &[(Auth, &str)] = &[(Auth::Open, "open")];
const SWITCH_WORDS: &[(bool, &str)] =
    &[(true, "true"), (false, "false"), (true, "1"), (false, "0"), (true, "yes"), (false, "no")];
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
        for setting in SETTINGS {
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
        for setting in SETTINGS.iter().filter(|setting| setting.key != "allowed_origins") {
            let unreadable = (setting.read)(&mut Config::default(), &nonsense).unwrap_err();
            assert!(!unreadable.what.is_empty() && !unreadable.remedy.is_empty(), "{}", setting.key);
        }
    }
}
