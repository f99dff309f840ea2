//! What a configuration must fulfil, whoever made it. What depends on the machine is checked by [`super::layout`].

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use ahash::HashSet;

use crate::config::{Auth, Config, hooks};
use crate::limits::{MESSAGE_BYTES_CEILING, PAGE_MAX, SHARDS_MAX};
use crate::policy::{Commit, HistoryMode, Pattern, RoomPolicy};

/// What is wrong with one setting, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting, or a key of a rule for rooms such as `rooms[0].history`.
    pub key: Cow<'static, str>,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    pub(crate) fn new(key: impl Into<Cow<'static, str>>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.what, self.remedy)
    }
}

impl std::error::Error for Problem {}

impl Config {
    /// Everything that is wrong with these settings, taken together. Empty is good.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_listeners(&mut problems);
        self.check_open_mode(&mut problems);
        self.check_tokens(&mut problems);
        self.check_permissions(&mut problems);
        self.check_placement(&mut problems);
        self.check_names(&mut problems);
        self.check_sizes(&mut problems);
        self.check_times(&mut problems);
        self.check_policies(&mut problems);
        self.gate.check(&mut problems);
        hooks::check(&self.hooks, &mut problems);
        self.check_tls(&mut problems);
        problems
    }

    fn check_listeners(&self, problems: &mut Vec<Problem>) {
        if self.listen.is_empty() {
            problems.push(Problem::new("listen", "no address is given", "give one, such as 127.0.0.1:9000"));
        }
        let all = self.listeners();
        for (index, (key, address)) in all.iter().enumerate() {
            if let Some((other, with)) = all[..index].iter().find(|(_, earlier)| overlap(*earlier, *address)) {
                let what = if with == address {
                    format!("{address} is already listened on ({other})")
                } else {
                    format!("{address} overlaps {with} ({other})")
                };
                problems.push(Problem::new(*key, what, "give each listener an address of its own"));
            }
        }
    }

    fn check_open_mode(&self, problems: &mut Vec<Problem>) {
        if self.auth != Auth::Open || self.allow_anonymous {
            return;
        }
        for (key, address) in self.listeners() {
            if key != "admin_listen" && !address.ip().to_canonical().is_loopback() {
                let what = format!("{address} is not loopback, and in open mode anyone who reaches it may connect");
                problems.push(Problem::new(
                    key,
                    what,
                    "set auth = \"token\", or listen on 127.0.0.1 or [::1], or say --allow-anonymous (allow_anonymous = true) if \
                     that is meant",
                ));
            }
        }
    }

    fn check_tokens(&self, problems: &mut Vec<Problem>) {
        let token = &self.token;
        if self.auth == Auth::Token && !token.has_keys() {
            let what = "there is no key to check tokens with";
            let remedy = "set token.secret_file, token.key_files or token.jwks_url; hubbub token keygen makes keys";
            problems.push(Problem::new("auth", what, remedy));
        }
        if let Some(url) = token.jwks_url.as_deref().filter(|url| !is_fetchable(url)) {
            let what = format!("{url:?} cannot be fetched");
            let remedy = "write http://HOST/PATH or https://HOST/PATH, without a user or password";
            problems.push(Problem::new("token.jwks_url", what, remedy));
        }
        if token.jwks_ca_file.is_some() && token.jwks_url.is_none() {
            let what = "without token.jwks_url there is nobody to trust";
            problems.push(Problem::new("token.jwks_ca_file", what, "set token.jwks_url, or leave it out"));
        }
        let rows = [
            ("token.jwks_refresh", token.jwks_refresh, JWKS_REFRESH_FLOOR, JWKS_REFRESH_CEILING),
            ("token.jwks_cooldown", token.jwks_cooldown, Duration::from_secs(1), TIME_CEILING),
            ("token.leeway", token.leeway, Duration::ZERO, LEEWAY_CEILING),
        ];
        check_ranges(&rows, problems);
    }

    fn check_permissions(&self, problems: &mut Vec<Problem>) {
        let rules = &self.permissions.rules;
        for (index, rule) in rules.iter().enumerate() {
            let earlier = rules[..index].iter().position(|earlier| earlier.rooms.covers(&rule.rooms));
            check_pattern("permissions", "rooms", (index, &rule.rooms), earlier, problems);
        }
    }

    fn check_placement(&self, problems: &mut Vec<Problem>) {
        if let Some(shards) = self.shards
            && !(1..=SHARDS_MAX).contains(&usize::from(shards))
        {
            problems.push(out_of_range("shards", shards, 1, SHARDS_MAX));
        }
        if self.max_connections == Some(0) {
            problems.push(Problem::new("max_connections", "0 lets nobody in", "leave it out or give at least 1"));
        }
        if let Some(cpus) = &self.cpus {
            let distinct: HashSet<usize> = cpus.iter().copied().collect();
            if cpus.is_empty() || distinct.len() != cpus.len() {
                let remedy = "name each CPU once, such as 0,1; more shards than CPUs are asked for by `shards`";
                problems.push(Problem::new("cpus", "the list is empty or names a CPU twice", remedy));
            }
        }
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        if crate::ids::UserName::new(&self.node).is_err() {
            let remedy = "use 1 to 64 bytes without control characters or outer spaces";
            problems.push(Problem::new("node", "this cannot name a server", remedy));
        }
        for origin in self.allowed_origins.iter().filter(|origin| !is_origin(origin)) {
            problems.push(Problem::new(
                "allowed_origins",
                format!("{origin:?} is not an origin"),
                "write what browsers send: scheme://host or scheme://host:port, in lower case, without a path",
            ));
        }
    }

    fn check_sizes(&self, problems: &mut Vec<Problem>) {
        let limits = &self.limits;
        if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_CEILING).contains(&limits.max_message_bytes) {
            let (value, max) = (limits.max_message_bytes, MESSAGE_BYTES_CEILING);
            problems.push(out_of_range("max_message_bytes", value, MESSAGE_BYTES_MIN, max));
        }
        if !(1..=ATTEMPTS_CEILING).contains(&limits.ack_attempts_max) {
            problems.push(out_of_range("ack.attempts_max", limits.ack_attempts_max, 1, ATTEMPTS_CEILING));
        }
        if !(1..=PAGE_MAX).contains(&limits.unacknowledged_max) {
            problems.push(out_of_range("ack.window", limits.unacknowledged_max, 1, PAGE_MAX));
        }
        let rates = [
            ("limits.messages_per_second", limits.messages_per_second),
            ("limits.bytes_per_second", limits.bytes_per_second),
            ("limits.joins_per_second", limits.joins_per_second),
            ("limits.room_members", limits.room_members_max),
        ];
        for (key, _) in rates.into_iter().filter(|(_, value)| *value == Some(0)) {
            problems.push(out_of_range(key, 0, 1, u32::MAX));
        }
    }

    fn check_times(&self, problems: &mut Vec<Problem>) {
        let limits = &self.limits;
        let rows = [
            ("coalesce_max", self.coalesce_max, Duration::ZERO, Duration::from_millis(100)),
            ("drain_timeout", self.drain_timeout, Duration::from_millis(100), TIME_CEILING),
            ("limits.heartbeat_interval", limits.heartbeat_interval, TIME_FLOOR, TIME_CEILING),
            ("limits.handshake_timeout", limits.handshake_timeout, TIME_FLOOR, TIME_CEILING),
            ("limits.presence_grace", limits.presence_grace, Duration::ZERO, TIME_CEILING),
            ("limits.outbox_stall", limits.outbox_stall, TIME_FLOOR, TIME_CEILING),
            ("limits.close_timeout", limits.close_timeout, TIME_FLOOR, TIME_CEILING),
            ("session_ttl", limits.session_ttl, TIME_FLOOR, TIME_CEILING),
            ("ack.timeout", limits.ack_timeout, TIME_FLOOR, TIME_CEILING),
            ("ack.timeout_max", limits.ack_timeout_max, limits.ack_timeout, TIME_CEILING),
            ("store.commit_interval", self.store.commit_interval, STORE_INTERVAL_FLOOR, TIME_CEILING),
            ("tls.handshake_budget", self.tls.handshake_budget, Duration::ZERO, Duration::from_millis(100)),
            ("store.maintenance_interval", self.store.maintenance_interval, STORE_INTERVAL_FLOOR, TIME_CEILING),
        ];
        check_ranges(&rows, problems);
    }

    fn check_tls(&self, problems: &mut Vec<Problem>) {
        let [certificate, key] = ["tls.certificate_file", "tls.key_file"];
        let (missing, given) = match (&self.tls.certificate_file, &self.tls.key_file) {
            (Some(_), None) => (key, certificate),
            (None, Some(_)) => (certificate, key),
            _ => return,
        };
        let what = format!("no file is given, but there is one in {given}, and TLS needs both");
        problems.push(Problem::new(missing, what, format!("give {missing} too, or leave out both")));
    }

    fn check_policies(&self, problems: &mut Vec<Problem>) {
        let default = &self.policies.default;
        check_policy(default, ["limits.history_size", "limits.history_bytes", "history_ttl"], problems);
        let rules = &self.policies.rules;
        for (index, (pattern, policy)) in rules.iter().enumerate() {
            let key = |name: &str| format!("rooms[{index}].{name}");
            check_policy(policy, ["history_size", "history_bytes", "history_ttl"].map(key), problems);
            let earlier = rules[..index].iter().position(|(earlier, _)| earlier.covers(pattern));
            check_pattern("rooms", "pattern", (index, pattern), earlier, problems);
            for name in meaningless(policy) {
                let what = "rooms of this mode know no such thing";
                problems.push(Problem::new(key(name), what, "leave it out, or write history = \"durable\""));
            }
        }
    }

    /// Every listener with the key it comes from.
    fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let with_key = |key, addresses: &[SocketAddr]| addresses.iter().map(move |address| (key, *address)).collect();
        let lists: [Vec<_>; 3] = [
            with_key("listen", &self.listen),
            with_key("tcp_listen", &self.tcp_listen),
            with_key("admin_listen", &self.admin_listen),
        ];
        lists.concat()
    }
}

/// Checks times: each with its key, shortest and longest.
fn check_ranges(rows: &[(&'static str, Duration, Duration, Duration)], problems: &mut Vec<Problem>) {
    for (key, value, min, max) in rows {
        if !(min..=max).contains(&value) {
            let [value, min, max] = [value, min, max].map(|time| humantime::format_duration(*time));
            problems.push(out_of_range(*key, value, min, max));
        }
    }
}

/// Checks the pattern of the rule at this place of a list; `earlier` is a rule before it that leaves it nothing.
fn check_pattern(
    list: &str,
    name: &str,
    (index, pattern): (usize, &Pattern),
    earlier: Option<usize>,
    problems: &mut Vec<Problem>,
) {
    let key = || format!("{list}[{index}].{name}");
    if pattern.as_str().is_empty() {
        problems.push(Problem::new(key(), "this fits no room", "name a room, with * for any text"));
    }
    if let Some(earlier) = earlier {
        let what = format!("{list}[{earlier}] fits all of these, and the first that fits decides");
        problems.push(Problem::new(key(), what, format!("put it before {list}[{earlier}]")));
    }
}

/// Checks the limits of a policy; the keys are those of its size, bytes and ttl.
fn check_policy<K: Into<Cow<'static, str>>>(policy: &RoomPolicy, keys: [K; 3], problems: &mut Vec<Problem>) {
    let [size_key, bytes_key, ttl_key] = keys;
    let (size_max, bytes_max) = match policy.history {
        HistoryMode::Durable => (u64::MAX, u64::MAX),
        HistoryMode::Memory => (MEMORY_SIZE_CEILING, MEMORY_BYTES_CEILING),
        HistoryMode::Off => return,
    };
    for (key, value, max) in [(size_key.into(), policy.size, size_max), (bytes_key.into(), policy.bytes, bytes_max)] {
        match value {
            Some(0) => problems.push(Problem::new(key, "0 keeps nothing", "write history = \"off\" if that is meant")),
            Some(value) if value > max => problems.push(out_of_range(key, value, 1, max)),
            _ => {}
        }
    }
    if let Some(ttl) = policy.ttl.filter(|ttl| !(TTL_FLOOR..=TTL_CEILING).contains(ttl)) {
        let [value, min, max] = [ttl, TTL_FLOOR, TTL_CEILING].map(humantime::format_duration);
        problems.push(out_of_range(ttl_key, value, min, max));
    }
}

/// What a rule says that its mode has no use for.
fn meaningless(policy: &RoomPolicy) -> Vec<&'static str> {
    let (lasts, kept) = (policy.history == HistoryMode::Durable, policy.history != HistoryMode::Off);
    let rows = [
        ("history_size", !kept && policy.size != Some(0)),
        ("history_bytes", !kept && policy.bytes != Some(0)),
        ("history_ttl", !lasts && policy.ttl.is_some()),
        ("commit", !lasts && policy.commit == Commit::Interval),
    ];
    rows.into_iter().filter(|(_, useless)| *useless).map(|(name, _)| name).collect()
}

pub(super) fn out_of_range(
    key: impl Into<Cow<'static, str>>,
    value: impl std::fmt::Display,
    min: impl std::fmt::Display,
    max: impl std::fmt::Display,
) -> Problem {
    Problem::new(key, format!("{value} is out of range"), format!("use {min} to {max}"))
}

/// Whether a connection to one could reach the other. Port 0 is a fresh port each time. IPv6 listeners take no IPv4.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let one_takes_all = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (one_takes_all || a.ip() == b.ip())
}

/// Whether the text is an origin as browsers write it (RFC 6454, section 6.2).
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]_".contains(&b);
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    !scheme.is_empty() && scheme.bytes().all(is_word) && !host.is_empty() && host.bytes().all(allowed)
}

/// Whether the text is a URL of something on a server. Passwords would end up in logs.
fn is_fetchable(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty() && !host.contains('@')) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A `connect` with a token must fit.
const MESSAGE_BYTES_MIN: usize = 1024;
const MEMORY_SIZE_CEILING: u64 = 10_000_000;
const MEMORY_BYTES_CEILING: u64 = 16 * 1024 * 1024 * 1024;
/// Retention looks at the age of messages no more often than this.
const TTL_FLOOR: Duration = Duration::from_secs(1);
/// A hundred years.
const TTL_CEILING: Duration = Duration::from_secs(36_525 * 24 * 60 * 60);
const ATTEMPTS_CEILING: u32 = 1_000;
/// More often would be a sync per message, or a look at all rooms without an end.
const STORE_INTERVAL_FLOOR: Duration = Duration::from_millis(10);
/// Shorter times would be shorter than the timing wheel and the network can keep.
const TIME_FLOOR: Duration = Duration::from_millis(50);
const JWKS_REFRESH_FLOOR: Duration = Duration::from_secs(10);
const JWKS_REFRESH_CEILING: Duration = Duration::from_secs(24 * 60 * 60);
/// A token's life is often a few minutes.
const LEEWAY_CEILING: Duration = Duration::from_secs(10 * 60);
const TIME_CEILING: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &Config) -> Vec<Cow<'static, str>> {
        config.validate().iter().map(|problem| problem.key.clone()).collect()
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), []);
    }

    #[test]
    fn open_mode_beyond_loopback_needs_a_word() {
        let listen = addresses(&["127.0.0.2:9000", "[::1]:9000", "[::ffff:127.0.0.1]:9010", "0.0.0.0:80", "[::]:80"]);
        let mut config = Config { listen, tcp_listen: addresses(&["10.0.0.1:9001"]), ..Config::default() };
        assert_eq!(keys(&config), ["listen", "listen", "tcp_listen"]);
        assert!(config.validate()[0].remedy.contains("--allow-anonymous"));
        config.allow_anonymous = true;
        assert_eq!(config.validate(), []);
    }

    #[test]
    fn the_admin_port_may_face_the_network() {
        let config = Config { admin_listen: addresses(&["0.0.0.0:9002"]), ..Config::default() };
        assert_eq!(config.validate(), []);
    }

    #[test]
    fn listeners_that_overlap_are_refused() {
        let overlaps = |listen: &[&str], tcp: &[&str]| {
            let mut config = Config { listen: addresses(listen), tcp_listen: addresses(tcp), ..Config::default() };
            config.allow_anonymous = true;
            keys(&config)
        };
        assert_eq!(overlaps(&["127.0.0.1:1", "127.0.0.1:1"], &[]), ["listen"]);
        assert_eq!(overlaps(&["127.0.0.1:1"], &["127.0.0.1:1"]), ["tcp_listen"]);
        assert_eq!(overlaps(&["127.0.0.1:1"], &["0.0.0.0:1"]), ["tcp_listen"]);
        assert_eq!(overlaps(&["127.0.0.1:1"], &["127.0.0.1:9002"]), ["admin_listen"]);
        assert_eq!(overlaps(&["127.0.0.1:0", "127.0.0.1:0"], &["127.0.0.2:1", "[::]:1"]), Vec::<&str>::new());
    }

    #[test]
    fn origins_are_as_browsers_write_them() {
        for origin in ["https://chat.example", "http://localhost:8080", "http://[::1]:9000", "app://hubbub"] {
            assert!(is_origin(origin), "{origin}");
        }
        for text in
            ["*", "chat.example", "https://chat.example/", "https://Chat.example", "https://", "://x", "https://a b"]
        {
            assert!(!is_origin(text), "{text}");
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        let limits = crate::limits::Limits {
            max_message_bytes: MESSAGE_BYTES_CEILING + 1,
            heartbeat_interval: Duration::ZERO,
            close_timeout: Duration::from_secs(7200),
            ..Default::default()
        };
        let config = Config {
            shards: Some(0),
            cpus: Some(vec![1, 1]),
            max_connections: Some(0),
            node: String::new(),
            coalesce_max: Duration::from_secs(1),
            limits,
            ..Config::default()
        };
        let expected = [
            "shards",
            "max_connections",
            "cpus",
            "node",
            "max_message_bytes",
            "coalesce_max",
            "limits.heartbeat_interval",
            "limits.close_timeout",
        ];
        assert_eq!(keys(&config), expected);
    }

    #[test]
    fn rules_that_cannot_work_are_named_by_their_place() {
        let policy = RoomPolicy::new;
        let memory = RoomPolicy { ttl: Some(TTL_FLOOR), commit: Commit::Interval, ..policy(HistoryMode::Memory) };
        let empty = RoomPolicy { size: Some(0), bytes: Some(u64::MAX), ..policy(HistoryMode::Memory) };
        let brief = RoomPolicy { ttl: Some(Duration::ZERO), ..policy(HistoryMode::Durable) };
        let off = RoomPolicy { size: Some(5), ..policy(HistoryMode::Off) };
        let rules = [("game-*", memory), ("a", empty), ("game-*-x", brief), ("", off)];
        let mut config = Config::default();
        config.policies.rules = rules.map(|(text, policy)| (Pattern::new(text), policy)).to_vec();
        let expected = [
            "rooms[0].history_ttl",
            "rooms[0].commit",
            "rooms[1].history_size",
            "rooms[1].history_bytes",
            "rooms[2].history_ttl",
            "rooms[2].pattern",
            "rooms[3].pattern",
            "rooms[3].history_size",
        ];
        assert_eq!(keys(&config), expected);
        config.policies.rules.clear();
        config.policies.default = empty;
        assert_eq!(keys(&config), ["limits.history_size", "limits.history_bytes"]);
        // What the mode has no use for may come from another source, as that of the mode.
        config.policies.default = memory;
        assert_eq!(config.validate(), []);
    }

    #[test]
    fn attempts_may_not_come_closer_together() {
        let mut config = Config::default();
        config.limits.ack_timeout_max = config.limits.ack_timeout - Duration::from_millis(1);
        config.limits.ack_attempts_max = 0;
        config.limits.unacknowledged_max = 0;
        config.limits.joins_per_second = Some(0);
        config.store.commit_interval = Duration::ZERO;
        let expected = ["ack.attempts_max", "ack.window", "limits.joins_per_second", "ack.timeout_max"];
        assert_eq!(keys(&config), [&expected[..], &["store.commit_interval"]].concat());
    }

    #[test]
    fn a_certificate_without_a_key_is_refused_and_so_is_a_key_alone() {
        let mut config = Config::default();
        config.tls.certificate_file = Some("cert.pem".into());
        assert_eq!(keys(&config), ["tls.key_file"]);
        config.tls.key_file = Some("key.pem".into());
        assert_eq!(config.validate(), []);
        config.tls.certificate_file = None;
        assert_eq!(keys(&config), ["tls.certificate_file"]);
        assert!(config.validate()[0].to_string().contains("or leave out both"));
    }

    #[test]
    fn a_problem_says_the_range() {
        let config = Config { coalesce_max: Duration::from_secs(1), ..Config::default() };
        assert_eq!(config.validate()[0].to_string(), "coalesce_max: 1s is out of range; use 0s to 100ms");
    }
}
