//! A scenario: what load to make. Read from a TOML file, overridden by flags, completed by the defaults of its kind.
//! Invariant: a [`Scenario`] that exists has passed every check that needs no look at the machine.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::payload::STAMP_BYTES;
use crate::plan::Arrivals;
use crate::thresholds::{Thresholds, Validity};

/// The shape of the load. It decides defaults and what may be set; everything else follows from the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Many connections that stay, with little traffic: what it costs to be connected.
    Hold,
    /// Many rooms of one size.
    Rooms,
    /// One room.
    Fanout,
    /// Rooms of one: every member hears only itself.
    Echo,
}

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
    /// Connections in all; a multiple of `room_size`.
    pub connections: u32,
    /// Members of each room.
    pub room_size: u32,
    /// How many members of each room send.
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
}

impl Scenario {
    /// Reads the file at `path`; what `flags` set wins over it.
    pub fn load(path: &Path, flags: Settings) -> Result<Self, ScenarioError> {
        let file = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Unreadable { file: file.clone(), source })?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let settings = Settings::parse(&text).map_err(|problem| ScenarioError::Malformed { file, problem })?;
        settings.overridden_by(flags).decide(name)
    }

    /// How many rooms there are.
    #[must_use]
    pub fn rooms(&self) -> u32 {
        self.connections / self.room_size
    }

    /// How many senders there are in all. Sender `s` is member `s % senders` of room `s / senders`.
    #[must_use]
    pub fn senders_in_all(&self) -> u32 {
        self.rooms() * self.senders
    }

    /// The room of connection `index`: its members are numbered one after the other.
    #[must_use]
    pub fn room_of(&self, index: u32) -> u32 {
        index / self.room_size
    }

    /// Which connection sender `sender` speaks on.
    #[must_use]
    pub fn connection_of(&self, sender: u32) -> u32 {
        sender / self.senders * self.room_size + sender % self.senders
    }
}

/// What a file or the flags set: everything may be left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[arg(skip)]
    kind: Option<Kind>,
    /// URL of the server: ws://HOST:PORT/PATH (`/ws` when it has no path), tcp://HOST:PORT, or a template with {room}
    /// for a server that relays whatever is sent to that path
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Connections in all
    #[arg(long, value_name = "N")]
    connections: Option<u32>,
    /// Members of each room
    #[arg(long, value_name = "N")]
    room_size: Option<u32>,
    /// How many members of each room send: a number or `all`
    #[arg(long, value_name = "N|all")]
    senders: Option<Senders>,
    /// Messages per second, all senders together
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Length of a message's content, in bytes
    #[arg(long, value_name = "N")]
    payload_bytes: Option<u32>,
    /// How send times follow each other
    #[arg(long)]
    arrivals: Option<Arrivals>,
    /// Decides the plan
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Load before the measured window, such as 2s
    #[arg(long, value_name = "TIME")]
    warm_up: Option<Span>,
    /// The measured window, such as 60s
    #[arg(long, value_name = "TIME")]
    duration: Option<Span>,
    /// How long to wait at the end for what is still under way
    #[arg(long, value_name = "TIME")]
    drain: Option<Span>,
    /// New connections per second while the run starts
    #[arg(long, value_name = "N")]
    connect_rate: Option<f64>,
    /// Connections that may be in their handshake at once
    #[arg(long, value_name = "N")]
    connect_in_flight: Option<u32>,
    /// How long one connection may take until it has joined
    #[arg(long, value_name = "TIME")]
    handshake_timeout: Option<Span>,
    /// Rooms are named PREFIX-0, PREFIX-1, and so on
    #[arg(long, value_name = "PREFIX")]
    room_prefix: Option<String>,
    /// How a chat connection says who it is
    #[arg(long)]
    connect_by: Option<ConnectBy>,
    /// Whether chat messages carry an `id`, so that the server acknowledges each
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    ack_ids: Option<bool>,
    /// Threads
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Cores to pin the workers to, such as 0,1
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cpus: Option<Vec<usize>>,
    /// Local addresses to connect from, such as 127.0.0.2,127.0.0.3
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    sources: Option<Vec<IpAddr>>,
    #[arg(skip)]
    thresholds: Option<Thresholds>,
    #[arg(skip)]
    validity: Option<Validity>,
}

impl Settings {
    /// Reads TOML. The error shows the line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    fn overridden_by(self, flags: Self) -> Self {
        Self {
            kind: flags.kind.or(self.kind),
            target: flags.target.or(self.target),
            connections: flags.connections.or(self.connections),
            room_size: flags.room_size.or(self.room_size),
            senders: flags.senders.or(self.senders),
            rate: flags.rate.or(self.rate),
            payload_bytes: flags.payload_bytes.or(self.payload_bytes),
            arrivals: flags.arrivals.or(self.arrivals),
            seed: flags.seed.or(self.seed),
            warm_up: flags.warm_up.or(self.warm_up),
            duration: flags.duration.or(self.duration),
            drain: flags.drain.or(self.drain),
            connect_rate: flags.connect_rate.or(self.connect_rate),
            connect_in_flight: flags.connect_in_flight.or(self.connect_in_flight),
            handshake_timeout: flags.handshake_timeout.or(self.handshake_timeout),
            room_prefix: flags.room_prefix.or(self.room_prefix),
            connect_by: flags.connect_by.or(self.connect_by),
            ack_ids: flags.ack_ids.or(self.ack_ids),
            workers: flags.workers.or(self.workers),
            cpus: flags.cpus.or(self.cpus),
            sources: flags.sources.or(self.sources),
            thresholds: flags.thresholds.or(self.thresholds),
            validity: flags.validity.or(self.validity),
        }
    }

    /// Fills in the defaults and checks everything.
    pub fn decide(self, name: String) -> Result<Scenario, ScenarioError> {
        let kind =
            self.kind.ok_or_else(|| ScenarioError::value("kind", "", "give one of hold, rooms, fanout, echo"))?;
        let connections = self.connections.unwrap_or(CONNECTIONS_DEFAULT);
        let room_size = kind.room_size(connections, self.room_size)?;
        let senders = match self.senders.unwrap_or_else(|| kind.senders()) {
            Senders::All => room_size,
            Senders::Count(n) => n,
        };
        let scenario = Scenario {
            room_prefix: self.room_prefix.unwrap_or_else(|| room_prefix(&name)),
            name,
            kind,
            target: self.target.unwrap_or_else(|| TARGET_DEFAULT.to_owned()),
            connections,
            room_size,
            senders,
            rate: self.rate.unwrap_or(0.0),
            payload_bytes: self.payload_bytes.unwrap_or(PAYLOAD_BYTES_DEFAULT),
            arrivals: self.arrivals.unwrap_or_default(),
            seed: self.seed.unwrap_or(1),
            warm_up: self.warm_up.unwrap_or(Span::seconds(2)),
            duration: self.duration.unwrap_or(Span::seconds(10)),
            drain: self.drain.unwrap_or(Span::seconds(5)),
            connect_rate: self.connect_rate.unwrap_or(CONNECT_RATE_DEFAULT),
            connect_in_flight: self.connect_in_flight.unwrap_or(CONNECT_IN_FLIGHT_DEFAULT),
            handshake_timeout: self.handshake_timeout.unwrap_or(Span::seconds(30)),
            connect_by: self.connect_by.unwrap_or_default(),
            ack_ids: self.ack_ids.unwrap_or(false),
            workers: self.workers,
            cpus: self.cpus.unwrap_or_default(),
            sources: self.sources.unwrap_or_default(),
            thresholds: self.thresholds.unwrap_or_default(),
            validity: self.validity.unwrap_or_default(),
        };
        scenario.check()?;
        Ok(scenario)
    }
}

impl Kind {
    fn room_size(self, connections: u32, asked: Option<u32>) -> Result<u32, ScenarioError> {
        let (fixed, why) = match self {
            Self::Hold => return Ok(asked.unwrap_or(100.min(connections))),
            Self::Rooms => return Ok(asked.unwrap_or(5.min(connections))),
            Self::Fanout => (connections, "fanout has all connections in one room; use rooms for several"),
            Self::Echo => (1, "echo has rooms of one; use rooms for larger ones"),
        };
        match asked {
            Some(size) if size != fixed => Err(ScenarioError::value("room_size", size, why)),
            _ => Ok(fixed),
        }
    }

    fn senders(self) -> Senders {
        if self == Self::Hold { Senders::Count(1) } else { Senders::All }
    }
}

impl Scenario {
    fn check(&self) -> Result<(), ScenarioError> {
        let refuse = |key, value: &dyn fmt::Display, problem: &str| ScenarioError::value(key, value, problem);
        if self.connections == 0 {
            return Err(refuse("connections", &0, "give at least 1"));
        }
        if self.room_size == 0 || !self.connections.is_multiple_of(self.room_size) {
            let problem = format!("the {} connections do not fill rooms of this size", self.connections);
            return Err(refuse("room_size", &self.room_size, &problem));
        }
        if self.senders == 0 || self.senders > self.room_size {
            let problem = format!("give 1 to {} (the members of a room), or \"all\"", self.room_size);
            return Err(refuse("senders", &self.senders, &problem));
        }
        let cells = u64::from(self.connections) * u64::from(self.senders);
        if cells > AUDIT_CELLS_MAX {
            let problem =
                format!("auditing {cells} pairs of subscriber and sender takes too much memory: use fewer senders");
            return Err(refuse("senders", &self.senders, &problem));
        }
        if !(0.0..=RATE_MAX).contains(&self.rate) {
            return Err(refuse("rate", &self.rate, "give 0 to 10,000,000 messages per second"));
        }
        if !(STAMP_BYTES as u32..=PAYLOAD_BYTES_MAX).contains(&self.payload_bytes) {
            let problem = format!("give {STAMP_BYTES} (what the audit needs) to {PAYLOAD_BYTES_MAX} bytes");
            return Err(refuse("payload_bytes", &self.payload_bytes, &problem));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=ROOM_PREFIX_BYTES_MAX).contains(&self.room_prefix.len()) || !self.room_prefix.chars().all(plain) {
            return Err(refuse("room_prefix", &self.room_prefix, "give 1 to 100 letters, digits, dots, dashes or _"));
        }
        if !(self.connect_rate > 0.0 && self.connect_rate.is_finite()) {
            return Err(refuse("connect_rate", &self.connect_rate, "give more than 0 connections per second"));
        }
        if self.connect_in_flight == 0 {
            return Err(refuse("connect_in_flight", &0, "give at least 1"));
        }
        if self.duration.0.is_zero() {
            return Err(refuse("duration", &self.duration, "give more than 0"));
        }
        if self.workers == Some(0) {
            return Err(refuse("workers", &0, "give at least 1"));
        }
        Ok(())
    }
}

fn room_prefix(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    "load-".chars().chain(plain).take(ROOM_PREFIX_BYTES_MAX).collect()
}

/// How many members of a room send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "CountOrWord")]
enum Senders {
    Count(u32),
    All,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CountOrWord {
    Count(u32),
    Word(String),
}

impl TryFrom<CountOrWord> for Senders {
    type Error = String;

    fn try_from(value: CountOrWord) -> Result<Self, String> {
        match value {
            CountOrWord::Count(n) => Ok(Self::Count(n)),
            CountOrWord::Word(word) => word.parse(),
        }
    }
}

impl FromStr for Senders {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        text.parse().map(Self::Count).map_err(|_| format!("`{text}` senders: give a number of members or \"all\""))
    }
}

/// A length of time, written with its unit: `500ms`, `60s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// In nanoseconds; a span is at most [`SPAN_MAX`], which fits.
    #[must_use]
    pub fn ns(self) -> u64 {
        self.0.as_nanos() as u64
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("`{text}` is not a time: write a number with its unit, such as 500ms, 60s, 2m or 1h");
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(problem)?;
        let (number, unit) = text.split_at(digits);
        let number: f64 = number.parse().map_err(|_| problem())?;
        let seconds = match unit {
            "ms" => number / 1_000.0,
            "s" => number,
            "m" => number * 60.0,
            "h" => number * 3_600.0,
            _ => return Err(problem()),
        };
        if seconds > SPAN_MAX.as_secs_f64() {
            return Err(format!("`{text}` is longer than a week"));
        }
        Ok(Self(Duration::from_secs_f64(seconds)))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_nanos() == 0 {
            return write!(f, "{}s", self.0.as_secs());
        }
        write!(f, "{}ms", self.0.as_secs_f64() * 1_000.0)
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

const TARGET_DEFAULT: &str = "ws://127.0.0.1:9000/ws";
const CONNECTIONS_DEFAULT: u32 = 100;
const PAYLOAD_BYTES_DEFAULT: u32 = 128;
const CONNECT_RATE_DEFAULT: f64 = 5_000.0;
const CONNECT_IN_FLIGHT_DEFAULT: u32 = 512;
/// Leaves room for the room's number.
const ROOM_PREFIX_BYTES_MAX: usize = 100;
const RATE_MAX: f64 = 10_000_000.0;
const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
/// Four bytes each.
const AUDIT_CELLS_MAX: u64 = 100_000_000;
/// Longest span that can be written.
const SPAN_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

#[cfg(test)]
mod tests {
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
            Scenario::load(&file, Settings::default()).unwrap();
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = Settings::parse("kind = 'fanout'\nconnections = 1000\nrate = 100").unwrap();
        let flags = Settings { rate: Some(5.0), connections: Some(10), ..Settings::default() };
        let scenario = file.overridden_by(flags).decide("x".to_owned()).unwrap();
        assert_eq!((scenario.rate, scenario.connections, scenario.room_size), (5.0, 10, 10));
    }

    #[test]
    fn a_bad_scenario_names_the_key_and_the_remedy() {
        let table = [
            ("", "kind = : give one of hold, rooms, fanout, echo"),
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
            ("kind = 'echo'\n[thresholds]\ndeliver.p98_us = 1", "unknown field `p98_us`"),
        ];
        for (text, expected) in table {
            let error = decide(text).expect_err(text);
            assert!(error.contains(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn members_are_numbered_room_by_room() {
        let scenario = decide("kind = 'rooms'\nconnections = 12\nroom_size = 4\nsenders = 2").unwrap();
        assert_eq!(scenario.senders_in_all(), 6);
        assert_eq!((0..6).map(|sender| scenario.connection_of(sender)).collect::<Vec<_>>(), [0, 1, 4, 5, 8, 9]);
        assert_eq!(scenario.room_of(11), 2);
    }

    #[test]
    fn a_time_reads_back_as_it_is_shown() {
        for text in ["60s", "500ms", "1500ms", "7200s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("2h".parse::<Span>().unwrap(), Span::seconds(7_200));
    }
}
