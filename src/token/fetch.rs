//! Fetching a JWK Set over HTTP, within bounds of time and size. Blocks; only the thread of the key ring calls it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::config::Problem;
use crate::limits::KEY_SET_BYTES_MAX;

/// A URL and how to get it.
pub(super) struct Fetcher {
    agent: Agent,
    url: String,
}

impl Fetcher {
    /// Servers are trusted by the certificates of `ca_file` alone, or without one by those that browsers trust.
    pub(super) fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, Problem> {
        let roots = ca_file.map_or(Ok(RootCerts::WebPki), read_roots)?;
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            // Who is asked for keys over TLS may not send us elsewhere without it.
            .https_only(url.starts_with(HTTPS))
            .max_redirects(REDIRECTS_MAX)
            .timeout_global(Some(TIMEOUT))
            .proxy(None)
            // Shards take copies of the descriptors that are open when they start.
            .max_idle_connections(0)
            .user_agent(concat!("hubbub/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.new_agent(), url: url.to_owned() })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The body of the answer, or why there is none.
    pub(super) fn fetch(&self) -> Result<Vec<u8>, String> {
        let request = self.agent.get(&self.url).header("accept", "application/jwk-set+json, application/json");
        let mut response = request.call().map_err(|error| error.to_string())?;
        let body = response.body_mut().with_config().limit(KEY_SET_BYTES_MAX as u64);
        body.read_to_vec().map_err(|error| error.to_string())
    }
}

fn read_roots(path: &Path) -> Result<RootCerts, Problem> {
    let refuse = |what: String| {
        let what = format!("{} {what}", path.display());
        Problem::new("token.jwks_ca_file", what, "name a file with PEM certificates that this user may read")
    };
    let pem = std::fs::read(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<Certificate<'static>> = certificates.collect();
    if certificates.is_empty() {
        return Err(refuse("has no certificate in it".to_owned()));
    }
    Ok(RootCerts::from(certificates))
}

const HTTPS: &str = "https://";
const REDIRECTS_MAX: u32 = 3;
const TIMEOUT: Duration = Duration::from_secs(5);
