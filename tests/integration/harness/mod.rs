//! What the tests stand on: a real server process, clients that share no code with it, and waiting for conditions.
//!
//! Nothing here sleeps to let something happen: a test waits for what it wants to see, with a deadline, and shows that
//! something does not happen by a fence, an answer that could only come after it.

mod api;
mod client;
mod data;
mod hooks;
mod http;
mod lines;
mod metrics;
mod raw;
mod server;
mod stream;
mod tls;
mod tokens;
mod wait;
mod websocket;

pub use api::{Api, KEY, READING_KEY, keys_file};
pub use client::{Client, Event};
pub use data::DataDir;
pub use hooks::{HookCall, HookServer};
pub use http::{http, http_raw, upgrade_head};
pub use raw::{Frame, RawWs, masked_frame};
pub use server::{Launch, Server, TRANSPORTS, run_to_end};
pub use tls::{Certificate, TlsClient, VERSIONS};
pub use tokens::{Issuer, foreign_token, now_seconds};
pub use wait::{Deadline, PATIENCE, until};
pub use websocket::{RelayClient, Request, connect as connect_ws, try_connect as try_connect_ws};
