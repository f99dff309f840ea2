//! A scenario: what load to make. Read from a TOML file, overridden by flags, completed by the defaults of its kind.
//! Invariant: a [`Scenario`] that exists has passed every check that needs no look at the machine.

mod check;
mod kind;
mod settings;
mod span;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::kind::{ChurnBy, DropWho, Kind};
pub use self::settings::Settings;
pub use self::span::Span;
use crate::layout::{Layout, RoomSizes};
use crate::plan::Arrivals;
use crate::thresholds::{Thresholds, Validity};

/// How a chat connection says who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ConnectBy {
    /// By `?name=` in the WebSocket URL. TCP has no URL and always sends the command.
    #[default]
    Url,
    /// By a `connect` command.
    Command,
}

/// A scenario as it is run: every value decided.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scenario {
    /// The file's name without its ending.
    pub name: String,
    /// The shape of the load.
    pub kind: Kind,
    /// URL of the server, or a template with `{room}`.
    pub target: String,
    /// The authority that the server's certificate must come from; the public ones when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// Whether any certificate will do.
    pub tls_insecure: bool,
    /// Whether connections resume TLS sessions of earlier ones.
    pub tls_resume: bool,
    /// The key that signs each user's token; without it, names are enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_key: Option<PathBuf>,
    /// Connections in all; a multiple of `room_size` unless sizes vary.
    pub connections: u32,
    /// Members of each room; their mean where sizes vary.
    pub room_size: u32,
    /// How the sizes of rooms are distributed.
    pub room_sizes: RoomSizes,
    /// How steeply, where they vary.
    pub zipf_exponent: f64,
    /// How many members of each room send, or all of a room that is smaller.
    pub senders: u32,
    /// Messages per second, all senders together.
    pub rate: f64,
    /// Length of a message's content, in bytes.
    pub payload_bytes: u32,
    /// How send times follow each other.
    pub arrivals: Arrivals,
    /// Decides the plan.
    pub seed: u64,
    /// Load before the measured window.
    pub warm_up: Span,
    /// The measured window.
    pub duration: Span,
    /// How long to wait at the end for what is still under way.
    pub drain: Span,
    /// New connections per second while the run starts.
    pub connect_rate: f64,
    /// That rate for the last connection, where it changes evenly.
    pub connect_rate_end: Option<f64>,
    /// Connections that may be in their handshake at once.
    pub connect_in_flight: u32,
    /// How long one connection may take until it has joined.
    pub handshake_timeout: Span,
    /// Rooms are named `PREFIX-0`, `PREFIX-1`, and so on.
    pub room_prefix: String,
    /// How a chat connection says who it is.
    pub connect_by: ConnectBy,
    /// Whether chat messages carry an `id`, so that the server acknowledges each.
    pub ack_ids: bool,
    /// Whether members ask to be told who comes and goes.
    pub presence: bool,
    /// Share of the connections that leaves in a second.
    pub churn_per_s: f64,
    /// What leaves.
    pub churn_by: ChurnBy,
    /// How long they stay away.
    pub away: Span,
    /// Share of the connections, or of the listeners if only they are, that is dropped at once, without a farewell.
    pub drop_share: f64,
    /// When, counted from the start of the measured window.
    pub drop_at: Span,
    /// Which connections those are.
    pub drop_who: DropWho,
    /// How long they stay away before they begin to come back.
    pub drop_for: Span,
    /// Whether they come back by their session, all rooms at once, instead of joining each with `since`.
    pub resume: bool,
    /// Longest wait before the first attempt to come back; each wait is drawn evenly from 0 to its longest.
    pub backoff: Span,
    /// What the longest wait doubles up to with each failed attempt.
    pub backoff_max: Span,
    /// Share of the connections that stops reading when the measured window begins.
    pub slow_share: f64,
    /// For how long; 0 for good.
    pub slow_for: Span,
    /// Messages that a publisher may have sent and not got an answer to.
    pub in_flight: u32,
    /// Whether an `ok` that does not say that the message is on disk is a fault.
    pub require_durable: bool,
    /// Messages after which a publisher stops; until the end of the window when absent.
    pub messages_each: Option<u32>,
    /// What `find-limit` raises.
    pub base: Kind,
    /// Factor between two of its steps while it looks for a rate that is too high.
    pub growth: f64,
    /// How near it comes to the limit, as a share of it.
    pub precision: f64,
    /// Where it stops looking for a rate that is too high.
    pub rate_max: f64,
    /// Threads; decided from the machine when absent.
    pub workers: Option<u32>,
    /// Cores to pin the workers to; all when empty.
    pub cpus: Vec<usize>,
    /// Local addresses to connect from; chosen when empty.
    pub sources: Vec<IpAddr>,
    /// What the result must meet.
    pub thresholds: Thresholds,
    /// What the generator must meet for the result to count.
    pub validity: Validity,
    /// What it was decided from, for the agents that decide it again.
    #[serde(skip)]
    pub settings: Box<Settings>,
    /// Who is where.
    #[serde(skip)]
    pub layout: Arc<Layout>,
}

impl Scenario {
    /// How many rooms there are.
    #[must_use]
    pub fn rooms(&self) -> u32 {
        self.layout.rooms()
    }

    /// Whether connections leave, or stop to listen, while the load runs.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        self.churn_per_s > 0.0 || self.drop_share > 0.0 || self.slow_share > 0.0
    }
}

/// Why a scenario cannot be run. The text names the key, the value and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("{file}: {source}")]
    Unreadable {
        /// Its path.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has keys or types that no scenario has.
    #[error("{file}: {problem}")]
    Malformed {
        /// Its path.
        file: String,
        /// Where and why.
        problem: String,
    },
    /// A value makes no sense.
    #[error("{key} = {value}: {problem}")]
    Value {
        /// Its name in the file; the flag is spelled alike.
        key: &'static str,
        /// What it was.
        value: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl ScenarioError {
    fn value(key: &'static str, value: impl fmt::Display, problem: &str) -> Self {
        Self::Value { key, value: value.to_string(), problem: problem.to_owned() }
    }
}

/// Leaves room for the room's number.
const ROOM_PREFIX_BYTES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn decide(text: &str) -> Result<Scenario, String> {
        let settings = Settings::parse(text)?;
        settings.decide("test".to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_kind_is_all_that_must_be_given() {
        let shape = |text: &str| {
            let scenario = decide(text).unwrap();
            (scenario.rooms(), scenario.room_size, scenario.senders)
        };
        assert_eq!(shape("kind = 'hold'"), (1, 100, 1));
        assert_eq!(shape("kind = 'rooms'"), (20, 5, 5));
        assert_eq!(shape("kind = 'fanout'\nconnections = 1000\nsenders = 3"), (1, 1_000, 3));
        assert_eq!(shape("kind = 'echo'"), (100, 1, 1));
    }

    #[test]
    fn every_key_of_a_file_is_understood() {
        let scenario = decide(
            "kind = 'rooms'\ntarget = 'tcp://127.0.0.1:9001'\nconnections = 40\nroom_size = 4\nsenders = 2\nrate = 12.5\n\
             payload_bytes = 64\narrivals = 'poisson'\nseed = 7\nwarm_up = '500ms'\nduration = '2m'\ndrain = '1.5s'\n\
             connect_rate = 100\nconnect_in_flight = 9\nhandshake_timeout = '4s'\nroom_prefix = 'r'\nconnect_by = 'command'\n\
             ack_ids = true\nworkers = 2\ncpus = [0, 1]\nsources = ['127.0.0.9']\n\
             [thresholds]\nloss = 0\ndeliver.p99_us = 10000\n[validity]\nlag_p99_us = 500",
        )
        .unwrap();
        assert_eq!(scenario.duration, Span::seconds(120));
        assert_eq!(scenario.drain.ns(), 1_500_000_000);
        assert_eq!((scenario.rate, scenario.arrivals), (12.5, Arrivals::Poisson));
        assert_eq!(scenario.thresholds.deliver.p99_us, Some(10_000));
        assert_eq!(scenario.validity.lag_p99_us, 500);
        assert_eq!(scenario.sources, ["127.0.0.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn every_scenario_of_the_project_can_be_run() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../perf/scenarios"));
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 6, "{files:?}");
        for file in files {
            let (name, settings) = Settings::load(&file, Settings::default()).unwrap();
            settings.decide(name).unwrap();
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = Settings::parse("kind = 'fanout'\nconnections = 1000\nrate = 100").unwrap();
        let flags = Settings::parse("rate = 5.0\nconnections = 10").unwrap();
        let scenario = file.overridden_by(flags).decide("x".to_owned()).unwrap();
        assert_eq!((scenario.rate, scenario.connections, scenario.room_size), (5.0, 10, 10));
    }

    #[test]
    fn a_bad_scenario_names_the_key_and_the_remedy() {
        let table = [
            ("", "kind = : give one of hold, ramp, rooms, fanout"),
            ("kind = 'choir'", "unknown variant `choir`"),
            ("kind = 'echo'\nrooom_size = 5", "unknown field `rooom_size`"),
            ("kind = 'echo'\nroom_size = 5", "room_size = 5: echo has rooms of one"),
            ("kind = 'fanout'\nconnections = 10\nroom_size = 5", "one room; use rooms"),
            ("kind = 'rooms'\nconnections = 1001", "room_size = 5: the 1001 connections do not fill"),
            ("kind = 'rooms'\nroom_size = 0", "room_size = 0"),
            ("kind = 'rooms'\nsenders = 6", "senders = 6: give 1 to 5"),
            ("kind = 'rooms'\nsenders = 0", "senders = 0: give 1 to 5"),
            ("kind = 'rooms'\nsenders = 'many'", "`many` senders: give a number of members or \"all\""),
            ("kind = 'fanout'\nconnections = 20000", "use fewer senders"),
            ("kind = 'echo'\nrate = -1", "rate = -1"),
            ("kind = 'echo'\nrate = nan", "rate = NaN"),
            ("kind = 'echo'\npayload_bytes = 10", "payload_bytes = 10: give 52"),
            ("kind = 'echo'\nduration = '10'", "`10` is not a time"),
            ("kind = 'echo'\nduration = '10 s'", "`10 s` is not a time"),
            ("kind = 'echo'\nduration = '0s'", "duration = 0s"),
            ("kind = 'echo'\nduration = '9999h'", "longer than a week"),
            ("kind = 'echo'\nconnections = 0", "connections = 0"),
            ("kind = 'echo'\nroom_prefix = 'a b'", "room_prefix = a b: give 1 to 100 letters"),
            ("kind = 'echo'\nconnect_rate = 0", "connect_rate = 0"),
            ("kind = 'publish'\nrate = 5", "kind = publish: leave rate"),
            ("kind = 'publish'\nin_flight = 65", "in_flight = 65: give 1 to 64"),
            ("kind = 'publish'\nroom_size = 2", "a publisher has a room of its own"),
            ("kind = 'publish'\nmessages_each = 0", "messages_each = 0"),
            ("kind = 'reconnect-storm'\nresume = true\nconnect_by = 'url'", "leave connect_by out"),
            ("kind = 'echo'\ndrop_share = 0.5\ndrop_who = 'listeners'", "who can be dropped"),
            ("kind = 'echo'\n[thresholds]\ndeliver.p98_us = 1", "unknown field `p98_us`"),
        ];
        for (text, expected) in table {
            let error = decide(text).expect_err(text);
            assert!(error.contains(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn members_are_numbered_room_by_room() {
        let layout = decide("kind = 'rooms'\nconnections = 12\nroom_size = 4\nsenders = 2").unwrap().layout;
        assert_eq!(layout.senders(), 6);
        assert_eq!((0..6).map(|sender| layout.connection_of(sender)).collect::<Vec<_>>(), [0, 1, 4, 5, 8, 9]);
        assert_eq!(layout.room_of(11), 2);
    }
}
