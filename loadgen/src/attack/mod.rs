//! `loadgen attack`: clients that mean harm, to see what they cost the others. What is told is what the server answered, not
//! how fast it was; the well-behaved clients beside them measure that.
//!
//! `kind` has what each attack sends; `swarm` is the one thread that sends it. Attacks go to loopback only, and end with
//! their time.

mod kind;
mod swarm;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use kind::Kind;

/// What to do to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which attack.
    pub kind: Kind,
    /// The server's HTTP port.
    pub target: SocketAddr,
    /// Where connections come from.
    pub source: IpAddr,
    /// Connections at a time.
    pub connections: u32,
    /// Pieces per second, all connections together.
    pub rate: u32,
    /// Connections to try before it is enough.
    pub tries_max: u64,
    /// How long.
    pub duration: Duration,
    /// A token with which its connections get in, where names alone are not enough.
    pub token: Option<String>,
}

/// What came of an attack.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Which attack.
    pub kind: String,
    /// Connections that were tried at a time.
    pub connections: u32,
    /// How long it lasted.
    pub seconds: f64,
    /// Connections that were begun.
    pub tried: u64,
    /// Those of them that TCP took.
    pub connected: u64,
    /// Those whose upgrade to WebSocket was granted.
    pub upgraded: u64,
    /// Connections open at the same time, at most.
    pub open_max: u64,
    /// Those open at the end.
    pub open_at_end: u64,
    /// Pieces that were sent: bytes of a slow sender, or whole messages.
    pub pieces_sent: u64,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Bytes that came back.
    pub bytes_received: u64,
    /// What the server answered: HTTP statuses, codes of errors and of closes, and ends without a word.
    pub answers: BTreeMap<String, u64>,
}

/// Carries an attack out.
pub fn run(plan: &Plan) -> Result<Report, String> {
    if !plan.target.ip().to_canonical().is_loopback() {
        return Err(format!("{} is not loopback: attacks go to this machine alone", plan.target));
    }
    if plan.connections == 0 || plan.duration.is_zero() {
        return Err("an attack needs at least one connection and some time".to_owned());
    }
    swarm::run(plan).map_err(|error| format!("{}: {error}", plan.target))
}
