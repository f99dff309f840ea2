//! Configuration: what an operator may decide, from where it was read, and what follows from it for this machine.
//!
//! Flags win over `HUBBUB_*` variables, those over the file, that over the defaults. `settings` is the one table of
//! keys: flags, variables, `check-config --explain` and `docs/operations.md` all follow it. Rules for rooms by pattern
//! are tables of the file alone (`rooms`, `permissions`). A [`Config`] made in code is checked by [`Config::validate`] as one that was
//! read is. What may change while the server runs,
//! and what may not, is in `reload`.

mod admin_args;
mod args;
mod explain;
mod gate;
mod hooks;
pub mod layout;
mod load;
mod permissions;
mod reload;
mod rooms;
mod settings;
mod tables;
mod validate;
mod values;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::access::Permissions;
use crate::hooks::HookConfig;
use crate::limits::Limits;
use crate::policy::RoomPolicies;
use crate::telemetry::log::LogFormat;

pub use admin_args::{AdminBody, AdminCall};
pub use args::{Invocation, MintRequest, StoreAction, Subcommand, TokenAction, parse_arguments};
pub use explain::{Explained, explain, explained};
pub use gate::{GateConfig, Network, prefix_of};
pub use load::{ConfigError, Finding, Loaded, load};
pub use reload::{Changes, take_over};
pub use validate::Problem;

/// Everything that the server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where HTTP, WebSocket and the web client are served. At least one.
    pub listen: Vec<SocketAddr>,
    /// Where JSON lines are served. May be empty.
    pub tcp_listen: Vec<SocketAddr>,
    /// Where metrics and health are served. May be empty.
    pub admin_listen: Vec<SocketAddr>,
    /// The file with the key that opens `/api` and `/debug`; without one they are closed.
    pub admin_key_file: Option<PathBuf>,
    /// Where the store keeps durable history, sessions and cursors. Made when it is not there; one process at a time
    /// uses it.
    pub data_dir: PathBuf,
    /// How many shards; `None` lets [`layout`] decide.
    pub shards: Option<u16>,
    /// The CPUs that shards are pinned to, in turn; `None` is every CPU that the process may use.
    pub cpus: Option<Vec<usize>>,
    /// Connections of all shards together; `None` is what the descriptor tables allow.
    pub max_connections: Option<u64>,
    /// Who may connect.
    pub auth: Auth,
    /// How tokens are checked.
    pub token: TokenConfig,
    /// Who may do what in which rooms.
    pub permissions: Permissions,
    /// Whether open mode is allowed beyond loopback.
    pub allow_anonymous: bool,
    /// Origins of web pages that may connect, beside the server's own: `scheme://host` or `scheme://host:port`.
    pub allowed_origins: Vec<String>,
    /// Under load a connection is written at most once per this time. Zero writes at the end of each turn.
    pub coalesce_max: Duration,
    /// Time from the first signal to the end of the process.
    pub drain_timeout: Duration,
    /// Names the server in `welcome`.
    pub node: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_level: tracing::Level,
    /// Where audit records go; among the log lines without one.
    pub audit_file: Option<PathBuf>,
    /// What is kept of which room.
    pub policies: RoomPolicies,
    /// How the store works.
    pub store: StoreConfig,
    /// How the application is called.
    pub hooks: HookConfig,
    /// Caps and times of rooms and connections.
    pub limits: Limits,
    /// Who is let in, how often and how many at a time.
    pub gate: GateConfig,
    /// TLS on the ports for clients.
    pub tls: TlsConfig,
}

/// TLS on the ports for clients: on when both files are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM with the server's certificate, followed by those that lead to a root.
    pub certificate_file: Option<PathBuf>,
    /// PEM with the certificate's private key.
    pub key_file: Option<PathBuf>,
    /// Time per turn of a shard that handshakes may take; at least one step is always taken.
    pub handshake_budget: Duration,
}

/// How the store works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// How often what nobody waits for is synced: rooms with [`crate::policy::Commit::Interval`], cursors, sessions.
    pub commit_interval: Duration,
    /// Free bytes of the file system below which the store takes no more messages.
    pub min_free_bytes: u64,
    /// How often retention looks for what is to be removed.
    pub maintenance_interval: Duration,
}

/// How tokens are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// The file with the secret for HMAC.
    pub secret_file: Option<PathBuf>,
    /// Files with public keys: PEM, JWK or JWK Set.
    pub key_files: Vec<PathBuf>,
    /// Where more public keys are fetched, as a JWK Set.
    pub jwks_url: Option<String>,
    /// The certificates that the server of that URL is trusted by; `None` is those that browsers trust.
    pub jwks_ca_file: Option<PathBuf>,
    /// How often keys are fetched again.
    pub jwks_refresh: Duration,
    /// Shortest time between two fetches because a token names an unknown key.
    pub jwks_cooldown: Duration,
    /// A token's `iss` must be one of these, unless there are none.
    pub issuers: Vec<String>,
    /// A token's `aud` must name one of these; if there are none it must have none.
    pub audiences: Vec<String>,
    /// How far clocks may differ.
    pub leeway: Duration,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Anyone, under any free name.
    #[default]
    Open,
    /// Whoever shows a token, as the user that it names.
    Token,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            secret_file: None,
            key_files: Vec::new(),
            jwks_url: None,
            jwks_ca_file: None,
            jwks_refresh: Duration::from_secs(5 * 60),
            jwks_cooldown: Duration::from_secs(10),
            issuers: Vec::new(),
            audiences: Vec::new(),
            leeway: Duration::from_secs(30),
        }
    }
}

impl TokenConfig {
    /// Whether there is anything that tokens could be checked with.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.secret_file.is_some() || !self.key_files.is_empty() || self.jwks_url.is_some()
    }
}

impl Config {
    /// Whether the server keeps anything on the disk.
    #[must_use]
    pub fn needs_store(&self) -> bool {
        // Bans, mutes and revocations are kept wherever users are more than names.
        self.policies.has_durable() || self.auth == Auth::Token
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            commit_interval: Duration::from_secs(1),
            min_free_bytes: 64 * 1024 * 1024,
            maintenance_interval: Duration::from_secs(10),
        }
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self { certificate_file: None, key_file: None, handshake_budget: Duration::from_millis(1) }
    }
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        Self {
            listen: loopback(9000),
            tcp_listen: loopback(9001),
            admin_listen: loopback(9002),
            admin_key_file: None,
            data_dir: "./hubbub-data".into(),
            shards: None,
            cpus: None,
            max_connections: None,
            auth: Auth::Open,
            token: TokenConfig::default(),
            permissions: Permissions::default(),
            allow_anonymous: false,
            allowed_origins: Vec::new(),
            coalesce_max: Duration::from_millis(2),
            drain_timeout: Duration::from_secs(8),
            node: "hubbub".into(),
            log_format: LogFormat::Text,
            log_level: tracing::Level::INFO,
            audit_file: None,
            policies: RoomPolicies::default(),
            store: StoreConfig::default(),
            hooks: HookConfig::default(),
            limits: Limits::default(),
            gate: GateConfig::default(),
            tls: TlsConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests;
