//! What the server offers on its ports: versions, protocols, resumption.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};

use super::certificate::{self, CERTIFICATE_KEY};
use crate::config::{Config, Problem};

/// The configurations of both ports. Handshakes keep the one that they began with, so that replacing it harms none.
pub struct TlsConfigs {
    http: Arc<ServerConfig>,
    lines: Arc<ServerConfig>,
    /// Makes and opens session tickets. It outlives the certificate, so that clients resume after a renewal.
    ticketer: Arc<dyn ProducesTickets>,
}

impl TlsConfigs {
    /// What the configuration asks for; `None` without TLS. An expired certificate is only warned of.
    ///
    /// # Errors
    /// Names the setting, the file, and what to do.
    pub fn load(config: &Config) -> Result<Option<Self>, Problem> {
        Self::load_with(config, aws_lc_rs::Ticketer::new)
    }

    /// The same, read anew. Sessions that began under `self` can be resumed.
    ///
    /// # Errors
    /// As [`TlsConfigs::load`]; `self` goes on then.
    pub fn reload(&self, config: &Config) -> Result<Option<Self>, Problem> {
        Self::load_with(config, || Ok(self.ticketer.clone()))
    }

    /// For the HTTP port.
    #[must_use]
    pub fn http(&self) -> &Arc<ServerConfig> {
        &self.http
    }

    /// For the port of JSON lines.
    #[must_use]
    pub fn lines(&self) -> &Arc<ServerConfig> {
        &self.lines
    }

    fn load_with(
        config: &Config,
        ticketer: impl FnOnce() -> Result<Arc<dyn ProducesTickets>, rustls::Error>,
    ) -> Result<Option<Self>, Problem> {
        let (Some(certificate), Some(key)) = (&config.tls.certificate_file, &config.tls.key_file) else {
            return Ok(None);
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certified = certificate::read(certificate, key, &provider)?;
        Self::make(&certified, &provider, ticketer).map(Some).map_err(|error| {
            let what = format!("{} cannot be served: {error}", certificate.display());
            Problem::new(CERTIFICATE_KEY, what, "use a certificate for servers with an RSA, ECDSA or Ed25519 key")
        })
    }

    fn make(
        certified: &Arc<CertifiedKey>,
        provider: &Arc<CryptoProvider>,
        ticketer: impl FnOnce() -> Result<Arc<dyn ProducesTickets>, rustls::Error>,
    ) -> Result<Self, rustls::Error> {
        let ticketer = ticketer()?;
        let port = |protocol: &[u8]| -> Result<Arc<ServerConfig>, rustls::Error> {
            let resolver = Arc::new(SingleCertAndKey::from((**certified).clone()));
            let mut config = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&TLS13, &TLS12])?
                .with_no_client_auth()
                .with_cert_resolver(resolver);
            config.alpn_protocols = vec![protocol.to_vec()];
            config.ticketer = ticketer.clone();
            // Tickets hold all there is to a session; a store of sessions would be shared by the shards, and locked.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = TICKETS;
            config.max_early_data_size = 0;
            Ok(Arc::new(config))
        };
        Ok(Self { http: port(HTTP_PROTOCOL)?, lines: port(LINES_PROTOCOL)?, ticketer })
    }
}

impl fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfigs").finish_non_exhaustive()
    }
}

/// What ALPN calls HTTP/1.1 (RFC 7301, section 6).
const HTTP_PROTOCOL: &[u8] = b"http/1.1";
/// The name of the JSON protocol, as on WebSocket.
const LINES_PROTOCOL: &[u8] = b"hubbub.v1.json";
/// Tickets per full handshake of TLS 1.3: every resumption brings the next one.
const TICKETS: usize = 1;
