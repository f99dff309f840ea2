//! One request to the application, and what its answer means.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::sign::Secret;
use crate::ids::is_forbidden;
use crate::telemetry::hooks::HookEvent;

/// Calls the application. Clones share connections.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    url: Uri,
    secret: Arc<Secret>,
}

/// What came of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Go on.
    Allowed,
    /// Do not, with the application's reason made harmless.
    Refused(Option<String>),
    /// No usable answer.
    Failed {
        /// What went wrong.
        why: Cow<'static, str>,
        /// Whether another attempt may do better.
        again: bool,
    },
}

/// The body of an answer to a question.
#[derive(Deserialize)]
struct Answer {
    allow: bool,
    reason: Option<String>,
}

/// The body of a 403, if it has one of ours.
#[derive(Deserialize)]
struct Reason {
    reason: Option<String>,
}

impl Client {
    /// A client of this URL that keeps so many connections.
    pub(super) fn new(url: Uri, secret: Secret, roots: RootCerts, connections: usize) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(roots)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            // Whoever is redirected to was not chosen by the operator.
            .max_redirects(0)
            // Nor was a proxy that some variable of the environment names.
            .proxy(None)
            .user_agent(concat!("hubbub/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .max_response_header_size(HEAD_BYTES_MAX)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .build();
        Self { agent: config.new_agent(), url, secret: Arc::new(secret) }
    }

    /// Sends one request, signed at `unix_ms`, and reads its answer, all within `timeout`.
    pub(super) fn post(&self, event: HookEvent, body: &[u8], unix_ms: u64, timeout: Duration) -> Reply {
        let timestamp = (unix_ms / 1_000).to_string();
        let signature = self.secret.sign(&timestamp, body);
        let request = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header("Hubbub-Event", event.as_str())
            .header("Hubbub-Timestamp", timestamp)
            .header("Hubbub-Signature", signature)
            .config()
            .timeout_global(Some(timeout))
            .build();
        match request.send(body) {
            Ok(response) => read(event, response),
            Err(error) => failed(&error),
        }
    }

    /// Ends all connections, and with them the requests on them. No request succeeds from now on.
    pub(super) fn shutdown(&self) {
        self.agent.clone().shutdown();
    }
}

/// What an answer means.
fn read(event: HookEvent, mut response: Response<ureq::Body>) -> Reply {
    let status = response.status();
    if !status.is_success() && status != StatusCode::FORBIDDEN {
        let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        return Reply::Failed { why: format!("it answered {}", status.as_u16()).into(), again };
    }
    let body = match response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec() {
        Ok(body) => body,
        Err(error) => return failed(&error),
    };
    if status == StatusCode::FORBIDDEN {
        // Whatever else the body is, the status says enough.
        let reason = serde_json::from_slice(&body).ok().and_then(|Reason { reason }| reason);
        return Reply::Refused(reason.and_then(harmless));
    }
    if event == HookEvent::Close || body.trim_ascii().is_empty() {
        return Reply::Allowed;
    }
    match serde_json::from_slice(&body) {
        Ok(Answer { allow: true, .. }) => Reply::Allowed,
        Ok(Answer { allow: false, reason }) => Reply::Refused(reason.and_then(harmless)),
        Err(_) => Reply::Failed { why: "its answer is neither empty nor JSON with `allow`".into(), again: false },
    }
}

fn failed(error: &ureq::Error) -> Reply {
    use ureq::Error as E;
    let again = matches!(error, E::Io(_) | E::Timeout(_) | E::HostNotFound | E::ConnectionFailed);
    let why = match error {
        E::Timeout(_) => "it took too long".into(),
        E::BodyExceedsLimit(_) => format!("its answer is larger than {ANSWER_BYTES_MAX} bytes").into(),
        error => error.to_string().into(),
    };
    Reply::Failed { why, again }
}

/// A text for clients without what could harm a terminal, and not too long. `None` if nothing is left.
fn harmless(mut reason: String) -> Option<String> {
    reason.retain(|c| !is_forbidden(c));
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|&at| reason.is_char_boundary(at));
    let trimmed = reason[..end.unwrap_or(0)].trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// The certificates of a PEM file, one at least.
pub(super) fn read_roots(pem: &[u8]) -> Result<RootCerts, String> {
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| error.to_string())? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(RootCerts::from(certificates))
}

/// Largest body of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
/// Longest reason that a client is told.
const REASON_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_made_harmless() {
        let cleaned = |reason: &str| harmless(reason.to_owned());
        assert_eq!(cleaned(" not\u{1b}[31m here\r\n\u{202e} "), Some("not[31m here".to_owned()));
        assert_eq!(cleaned("\u{0}\u{7}  "), None);
        let long = "ü".repeat(200);
        assert_eq!(cleaned(&long).unwrap().len(), 256);
        assert_eq!(cleaned(&format!("x{long}")).unwrap().len(), 255, "no character is cut in two");
    }

    #[test]
    fn files_without_certificates_are_refused() {
        assert!(read_roots(b"").is_err());
        assert!(read_roots(b"-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n").is_err());
    }
}
