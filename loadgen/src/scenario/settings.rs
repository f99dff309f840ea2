//! What a file or the flags set, and how the rest is decided.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::kind::Senders;
use super::{ChurnBy, ConnectBy, DropWho, Kind, ROOM_PREFIX_BYTES_MAX, Scenario, ScenarioError, Span};
use crate::layout::{Layout, RoomSizes, zipf_sizes};
use crate::plan::Arrivals;
use crate::thresholds::{Thresholds, Validity};

/// What a file or the flags set: everything may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[arg(skip)]
    kind: Option<Kind>,
    /// URL of the server: ws://HOST:PORT/PATH (`/ws` when it has no path), tcp://HOST:PORT, wss:// or tls:// for the
    /// same over TLS, or a template with {room} for a server that relays whatever is sent to that path
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// The authority that the server's certificate must come from (PEM), for wss:// and tls://; the public ones without it
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Whether any certificate will do
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    tls_insecure: Option<bool>,
    /// Whether connections resume TLS sessions of earlier ones, by their tickets
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    tls_resume: Option<bool>,
    /// The key that signs each user's token, where the server asks for tokens: a secret, or a private key as PEM. Agents
    /// read it at the same path
    #[arg(long, value_name = "FILE")]
    token_key: Option<PathBuf>,
    /// Connections in all
    #[arg(long, value_name = "N")]
    connections: Option<u32>,
    /// Members of each room
    #[arg(long, value_name = "N")]
    room_size: Option<u32>,
    /// How the sizes of rooms are distributed; room_size is their mean
    #[arg(long)]
    room_sizes: Option<RoomSizes>,
    /// How steeply, where they vary
    #[arg(long, value_name = "N")]
    zipf_exponent: Option<f64>,
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
    /// That rate for the last connection, where it changes evenly
    #[arg(long, value_name = "N")]
    connect_rate_end: Option<f64>,
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
    /// Whether members ask to be told who comes and goes
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    presence: Option<bool>,
    /// Share of the connections that leaves in a second
    #[arg(long, value_name = "SHARE")]
    churn_per_s: Option<f64>,
    /// What leaves: the connection, or its member of the room alone
    #[arg(long)]
    churn_by: Option<ChurnBy>,
    /// How long they stay away
    #[arg(long, value_name = "TIME")]
    away: Option<Span>,
    /// Share of the connections (with drop_who = listeners, of those) that is dropped at once, without a farewell
    #[arg(long, value_name = "SHARE")]
    drop_share: Option<f64>,
    /// When, counted from the start of the measured window
    #[arg(long, value_name = "TIME")]
    drop_at: Option<Span>,
    /// Which connections those are
    #[arg(long)]
    drop_who: Option<DropWho>,
    /// How long they stay away before they begin to come back
    #[arg(long, value_name = "TIME")]
    drop_for: Option<Span>,
    /// Whether they come back by their session, instead of joining with `since`
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    resume: Option<bool>,
    /// Longest wait before the first attempt to come back
    #[arg(long, value_name = "TIME")]
    backoff: Option<Span>,
    /// What the longest wait doubles up to with each failed attempt
    #[arg(long, value_name = "TIME")]
    backoff_max: Option<Span>,
    /// Share of the connections that stops reading when the measured window begins
    #[arg(long, value_name = "SHARE")]
    slow_share: Option<f64>,
    /// For how long; 0s for good
    #[arg(long, value_name = "TIME")]
    slow_for: Option<Span>,
    /// Messages that a publisher may have sent and not got an answer to
    #[arg(long, value_name = "N")]
    in_flight: Option<u32>,
    /// Whether an `ok` that does not say that the message is on disk is a fault
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    require_durable: Option<bool>,
    /// Messages after which a publisher stops; without it, it goes on until the end of the window
    #[arg(long, value_name = "N")]
    messages_each: Option<u32>,
    #[arg(skip)]
    base: Option<Kind>,
    /// find-limit: factor between two steps while it looks for a rate that is too high
    #[arg(long, value_name = "FACTOR")]
    growth: Option<f64>,
    /// find-limit: how near it comes to the limit, as a share of it
    #[arg(long, value_name = "SHARE")]
    precision: Option<f64>,
    /// find-limit: where it stops looking for a rate that is too high
    #[arg(long, value_name = "N")]
    rate_max: Option<f64>,
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
    /// Reads the file at `path`; what `flags` set wins over it. Gives its name too, without its ending.
    pub fn load(path: &Path, flags: Self) -> Result<(String, Self), ScenarioError> {
        let file = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Unreadable { file: file.clone(), source })?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let settings = Self::parse(&text).map_err(|problem| ScenarioError::Malformed { file, problem })?;
        Ok((name, settings.overridden_by(flags)))
    }

    /// Reads TOML. The error shows the line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// These settings, but for what `flags` set.
    #[must_use]
    pub fn overridden_by(self, flags: Self) -> Self {
        Self {
            kind: flags.kind.or(self.kind),
            target: flags.target.or(self.target),
            tls_ca: flags.tls_ca.or(self.tls_ca),
            tls_insecure: flags.tls_insecure.or(self.tls_insecure),
            tls_resume: flags.tls_resume.or(self.tls_resume),
            token_key: flags.token_key.or(self.token_key),
            connections: flags.connections.or(self.connections),
            room_size: flags.room_size.or(self.room_size),
            room_sizes: flags.room_sizes.or(self.room_sizes),
            zipf_exponent: flags.zipf_exponent.or(self.zipf_exponent),
            senders: flags.senders.or(self.senders),
            rate: flags.rate.or(self.rate),
            payload_bytes: flags.payload_bytes.or(self.payload_bytes),
            arrivals: flags.arrivals.or(self.arrivals),
            seed: flags.seed.or(self.seed),
            warm_up: flags.warm_up.or(self.warm_up),
            duration: flags.duration.or(self.duration),
            drain: flags.drain.or(self.drain),
            connect_rate: flags.connect_rate.or(self.connect_rate),
            connect_rate_end: flags.connect_rate_end.or(self.connect_rate_end),
            connect_in_flight: flags.connect_in_flight.or(self.connect_in_flight),
            handshake_timeout: flags.handshake_timeout.or(self.handshake_timeout),
            room_prefix: flags.room_prefix.or(self.room_prefix),
            connect_by: flags.connect_by.or(self.connect_by),
            ack_ids: flags.ack_ids.or(self.ack_ids),
            presence: flags.presence.or(self.presence),
            churn_per_s: flags.churn_per_s.or(self.churn_per_s),
            churn_by: flags.churn_by.or(self.churn_by),
            away: flags.away.or(self.away),
            drop_share: flags.drop_share.or(self.drop_share),
            drop_at: flags.drop_at.or(self.drop_at),
            drop_who: flags.drop_who.or(self.drop_who),
            drop_for: flags.drop_for.or(self.drop_for),
            resume: flags.resume.or(self.resume),
            backoff: flags.backoff.or(self.backoff),
            backoff_max: flags.backoff_max.or(self.backoff_max),
            slow_share: flags.slow_share.or(self.slow_share),
            slow_for: flags.slow_for.or(self.slow_for),
            in_flight: flags.in_flight.or(self.in_flight),
            require_durable: flags.require_durable.or(self.require_durable),
            messages_each: flags.messages_each.or(self.messages_each),
            base: flags.base.or(self.base),
            growth: flags.growth.or(self.growth),
            precision: flags.precision.or(self.precision),
            rate_max: flags.rate_max.or(self.rate_max),
            workers: flags.workers.or(self.workers),
            cpus: flags.cpus.or(self.cpus),
            sources: flags.sources.or(self.sources),
            thresholds: flags.thresholds.or(self.thresholds),
            validity: flags.validity.or(self.validity),
        }
    }

    /// The same at another rate, and as another kind.
    #[must_use]
    pub fn at(self, kind: Kind, rate: f64) -> Self {
        Self { kind: Some(kind), rate: Some(rate), ..self }
    }

    /// Fills in the defaults and checks everything.
    pub fn decide(self, name: String) -> Result<Scenario, ScenarioError> {
        let kind = self.kind.ok_or_else(|| ScenarioError::value("kind", "", KINDS))?;
        let base = self.base()?;
        let shape = if kind == Kind::FindLimit { base } else { kind };
        let defaults = kind.defaults();
        let connections = self.connections.unwrap_or(CONNECTIONS_DEFAULT);
        let room_size = shape.room_size(connections, self.room_size)?;
        let sizes = self.sizes(connections, room_size)?;
        let largest = sizes.iter().copied().max().unwrap_or(room_size);
        let senders = self.senders.unwrap_or(defaults.senders).among(largest)?;
        let in_flight_default = if kind == Kind::Ramp { connections } else { CONNECT_IN_FLIGHT_DEFAULT };
        let resume = self.resume.unwrap_or(false);
        let settings = Box::new(self.clone());
        let scenario = Scenario {
            settings,
            layout: Arc::new(Layout::new(&sizes, senders)),
            room_prefix: self.room_prefix.unwrap_or_else(|| room_prefix(&name)),
            name,
            kind,
            target: self.target.unwrap_or_else(|| TARGET_DEFAULT.to_owned()),
            tls_ca: self.tls_ca,
            tls_insecure: self.tls_insecure.unwrap_or(false),
            tls_resume: self.tls_resume.unwrap_or(true),
            token_key: self.token_key,
            connections,
            room_size,
            room_sizes: self.room_sizes.unwrap_or_default(),
            zipf_exponent: self.zipf_exponent.unwrap_or(ZIPF_EXPONENT_DEFAULT),
            senders,
            rate: self.rate.unwrap_or(0.0),
            payload_bytes: self.payload_bytes.unwrap_or(PAYLOAD_BYTES_DEFAULT),
            arrivals: self.arrivals.unwrap_or_default(),
            seed: self.seed.unwrap_or(1),
            warm_up: self.warm_up.unwrap_or(defaults.warm_up),
            duration: self.duration.unwrap_or(defaults.duration),
            drain: self.drain.unwrap_or(defaults.drain),
            connect_rate: self.connect_rate.unwrap_or(CONNECT_RATE_DEFAULT),
            connect_rate_end: self.connect_rate_end,
            connect_in_flight: self.connect_in_flight.unwrap_or(in_flight_default),
            handshake_timeout: self.handshake_timeout.unwrap_or(Span::seconds(30)),
            connect_by: self.connect_by.unwrap_or(if resume { ConnectBy::Command } else { ConnectBy::Url }),
            ack_ids: self.ack_ids.unwrap_or(false),
            presence: self.presence.unwrap_or(defaults.presence),
            churn_per_s: self.churn_per_s.unwrap_or(defaults.churn_per_s),
            churn_by: self.churn_by.unwrap_or(defaults.churn_by),
            away: self.away.unwrap_or(Span::seconds(1)),
            drop_share: self.drop_share.unwrap_or(defaults.drop_share),
            drop_at: self.drop_at.unwrap_or(Span::seconds(1)),
            drop_who: self.drop_who.unwrap_or_default(),
            drop_for: self.drop_for.unwrap_or_default(),
            resume,
            backoff: self.backoff.unwrap_or(Span::seconds(1)),
            backoff_max: self.backoff_max.unwrap_or(Span::seconds(30)),
            slow_share: self.slow_share.unwrap_or(defaults.slow_share),
            slow_for: self.slow_for.unwrap_or_default(),
            in_flight: self.in_flight.unwrap_or(1),
            require_durable: self.require_durable.unwrap_or(false),
            messages_each: self.messages_each,
            base,
            growth: self.growth.unwrap_or(GROWTH_DEFAULT),
            precision: self.precision.unwrap_or(PRECISION_DEFAULT),
            rate_max: self.rate_max.unwrap_or(RATE_MAX_DEFAULT),
            workers: self.workers,
            cpus: self.cpus.unwrap_or_default(),
            sources: self.sources.unwrap_or_default(),
            thresholds: self.thresholds.unwrap_or_default(),
            validity: self.validity.unwrap_or_default(),
        };
        scenario.check()?;
        Ok(scenario)
    }

    fn base(&self) -> Result<Kind, ScenarioError> {
        let base = self.base.unwrap_or(Kind::HotRoom);
        if !base.has_limit() {
            return Err(ScenarioError::value("base", format!("{base:?}"), "give rooms, fanout, hot-room or echo"));
        }
        Ok(base)
    }

    fn sizes(&self, connections: u32, room_size: u32) -> Result<Vec<u32>, ScenarioError> {
        if !(1..=CONNECTIONS_MAX).contains(&connections) {
            return Err(ScenarioError::value("connections", connections, "give at least 1, and at most 16,000,000"));
        }
        if room_size == 0 || room_size > connections {
            let problem = format!("the {connections} connections do not fill rooms of this size");
            return Err(ScenarioError::value("room_size", room_size, &problem));
        }
        let rooms = connections / room_size;
        let exponent = self.zipf_exponent.unwrap_or(ZIPF_EXPONENT_DEFAULT);
        if !(0.0..=4.0).contains(&exponent) {
            return Err(ScenarioError::value("zipf_exponent", exponent, "give 0 to 4"));
        }
        if self.room_sizes == Some(RoomSizes::Zipf) {
            return Ok(zipf_sizes(connections, rooms, exponent, self.seed.unwrap_or(1)));
        }
        if !connections.is_multiple_of(room_size) {
            let problem = format!("the {connections} connections do not fill rooms of this size");
            return Err(ScenarioError::value("room_size", room_size, &problem));
        }
        Ok(vec![room_size; rooms as usize])
    }
}

fn room_prefix(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    "load-".chars().chain(plain).take(ROOM_PREFIX_BYTES_MAX).collect()
}

const KINDS: &str = "give one of hold, ramp, rooms, fanout, hot-room, echo, churn, reconnect-storm, slow-readers, \
                     presence-storm, soak, publish, find-limit";
const TARGET_DEFAULT: &str = "ws://127.0.0.1:9000/ws";
const CONNECTIONS_DEFAULT: u32 = 100;
/// As many as loopback has addresses; far more than any machine carries.
const CONNECTIONS_MAX: u32 = 16_000_000;
const PAYLOAD_BYTES_DEFAULT: u32 = 128;
const CONNECT_RATE_DEFAULT: f64 = 5_000.0;
const CONNECT_IN_FLIGHT_DEFAULT: u32 = 512;
const ZIPF_EXPONENT_DEFAULT: f64 = 1.0;
const GROWTH_DEFAULT: f64 = 1.5;
const PRECISION_DEFAULT: f64 = 0.05;
const RATE_MAX_DEFAULT: f64 = 1_000_000.0;
