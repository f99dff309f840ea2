//! TLS without sockets: certificates become configurations, and a session turns ciphertext into bytes and back.
//!
//! `rustls` does the protocol with the cryptography of `aws-lc`; this decides what is offered and owns every buffer.
//! Absent on purpose: client certificates, early data (it can be replayed), and several certificates by name.

mod certificate;
mod configs;
mod session;
mod validity;

pub use configs::TlsConfigs;
pub use session::{Stage, TlsFailure, TlsSession};
