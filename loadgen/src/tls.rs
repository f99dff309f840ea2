//! The client's side of TLS on one connection, without its socket; and what all connections of a run share of it.
//!
//! Bytes go in as they came and out as they are to be sent. Nothing is kept of a connection that is idle but its keys.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConnectionData, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    UnbufferedClientConnection,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, NamedGroup, RootCertStore, SignatureScheme};

/// How servers are spoken to, and the tickets that they gave.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl TlsClient {
    /// Speaks to the server named by `authority` (`host:port`). Its certificate must come from `ca` (PEM), or else from
    /// a public authority; with `insecure` it may be any. Keeps so many tickets for those who come later.
    pub fn new(authority: &str, ca: Option<&Path>, insecure: bool, tickets: usize) -> Result<Self, String> {
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(host).map_err(|error| format!("target: {authority}: {error}"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(|error| error.to_string())?;
        let builder = if insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        } else {
            builder.with_root_certificates(roots(ca)?)
        };
        let mut config = builder.with_no_client_auth();
        let (put, take) = flume::bounded(tickets);
        config.resumption =
            if tickets == 0 { Resumption::disabled() } else { Resumption::store(Arc::new(Tickets { put, take })) };
        Ok(Self { config: Arc::new(config), server })
    }

    /// A connection before its handshake, which resumes an earlier one if there is a ticket left.
    pub fn begin(&self) -> Result<TlsLink, String> {
        let connection = UnbufferedClientConnection::new(self.config.clone(), self.server.clone());
        let connection = connection.map_err(|error| error.to_string())?;
        Ok(TlsLink { connection, inbox: Vec::new(), outgoing: Vec::new(), said_goodbye: false, has_failed: false })
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(path) = ca else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let fail = |problem: String| format!("tls_ca = {}: {problem}; give the PEM file of the authority", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))? {
        let certificate = certificate.map_err(|error| fail(error.to_string()))?;
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    if roots.is_empty() { Err(fail("it holds no certificate".to_owned())) } else { Ok(roots) }
}

/// One connection's TLS.
pub struct TlsLink {
    connection: UnbufferedClientConnection,
    /// A part of a record.
    inbox: Vec<u8>,
    /// Messages of the protocol that are to be sent.
    outgoing: Vec<u8>,
    said_goodbye: bool,
    has_failed: bool,
}

impl TlsLink {
    /// Appends to `plain` what the server said. `Err` when nothing more can be understood.
    pub fn read(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<(), String> {
        if self.inbox.is_empty() {
            let used = self.process(bytes, plain)?;
            self.inbox.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.extend_from_slice(bytes);
        let used = self.process(&mut inbox, plain)?;
        inbox.drain(..used);
        if !inbox.is_empty() {
            self.inbox = inbox;
        }
        Ok(())
    }

    /// Appends to `wire` what is to be sent, and empties `plain` if that could go along.
    pub fn write(&mut self, plain: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), String> {
        self.advance(wire, |traffic, wire| {
            if plain.is_empty() {
                return Ok(());
            }
            append(wire, |room| traffic.encrypt(plain, room))?;
            plain.clear();
            Ok(())
        })
    }

    /// Has the server told that nothing more will come, once. False if it was told before, or cannot be.
    pub fn say_goodbye(&mut self) -> bool {
        if std::mem::replace(&mut self.said_goodbye, true) || self.connection.is_handshaking() {
            return false;
        }
        let mut wire = Vec::new();
        let said = self.advance(&mut wire, |traffic, wire| append(wire, |room| traffic.queue_close_notify(room)));
        self.outgoing = wire;
        said.is_ok()
    }

    /// Takes the next steps that need no more from the server, and lets `write` write if the handshake is over.
    fn advance(
        &mut self,
        wire: &mut Vec<u8>,
        mut write: impl FnMut(&mut Traffic<'_>, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<(), String> {
        wire.append(&mut self.outgoing);
        self.outgoing = Vec::new();
        if self.has_failed {
            return Err("TLS has failed".to_owned());
        }
        loop {
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut self.inbox);
            match state.map_err(|error| error.to_string())? {
                ConnectionState::EncodeTlsData(data) => encode(data, wire),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => return write(&mut traffic, wire),
                _ => return Ok(()),
            }
        }
    }

    fn process(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<usize, String> {
        let used = self.try_to_process(bytes, plain);
        self.has_failed |= used.is_err();
        used
    }

    fn try_to_process(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<usize, String> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut bytes[used..]);
            let mut is_through = false;
            match state.map_err(|error| format!("TLS: {error}"))? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        plain.extend_from_slice(record.map_err(|error| error.to_string())?.payload);
                    }
                }
                ConnectionState::EncodeTlsData(data) => encode(data, &mut self.outgoing),
                ConnectionState::TransmitTlsData(data) => data.done(),
                // The end of the stream follows.
                ConnectionState::PeerClosed => {}
                _ => is_through = true,
            }
            used += discard;
            if is_through {
                return Ok(used);
            }
        }
    }
}

impl fmt::Debug for TlsLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLink").finish_non_exhaustive()
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, ClientConnectionData>;

fn encode(mut data: EncodeTlsData<'_, ClientConnectionData>, wire: &mut Vec<u8>) {
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        let start = wire.len();
        wire.resize(start + needed.required_size, 0);
        let encoded = data.encode(&mut wire[start..]);
        debug_assert!(encoded.is_ok(), "there is as much room as was asked for");
    }
}

/// Appends what `write` writes, with as much room as it asks for.
fn append(wire: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>) -> Result<(), String> {
    let start = wire.len();
    let mut written = write(&mut []);
    if let Err(EncryptError::InsufficientSize(needed)) = written {
        wire.resize(start + needed.required_size, 0);
        written = write(&mut wire[start..]);
    }
    wire.truncate(start + written.map_err(|error| error.to_string())?);
    Ok(())
}

/// The tickets of all connections: any may use any, as a client may that was there before. The oldest is used first,
/// and past the bound new ones are let go.
#[derive(Debug)]
struct Tickets {
    put: flume::Sender<Tls13ClientSessionValue>,
    take: flume::Receiver<Tls13ClientSessionValue>,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let _ = self.put.try_send(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.take.try_recv().ok()
    }
}

/// Takes any certificate; the signature of the handshake must be right all the same, as it costs what it costs.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use hubbub::tls::{Stage, TlsSession};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    struct Server {
        config: Arc<ServerConfig>,
        ca: tempfile::NamedTempFile,
    }

    fn server() -> Server {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), made.cert.pem()).unwrap();
        Server { config: Arc::new(config), ca }
    }

    /// Has the client say `said` to a server of its own, and gives what arrived and whether the handshake was short.
    fn talk(server: &Server, client: &TlsClient, said: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let mut session = TlsSession::new(server.config.clone()).unwrap();
        let mut link = client.begin()?;
        let (mut out, mut heard, mut answer) = (said.to_vec(), Vec::new(), Vec::new());
        while heard.len() < said.len() {
            let mut wire = Vec::new();
            link.write(&mut out, &mut wire)?;
            session.hold(&wire);
            session.advance(&mut heard).map_err(|error| error.to_string())?;
            let mut back = Vec::new();
            session.take_outgoing(&mut back);
            if session.stage() == Stage::Open {
                session.seal(b"yes", &mut back).unwrap();
            }
            // In pieces, as a ring gives them.
            for piece in back.chunks_mut(100) {
                link.read(piece, &mut answer)?;
            }
        }
        assert!(out.is_empty(), "what is written is not kept");
        assert!(answer.starts_with(b"yes"));
        assert!(link.say_goodbye() && !link.say_goodbye(), "once");
        let mut wire = Vec::new();
        link.write(&mut Vec::new(), &mut wire).unwrap();
        session.read(&mut wire, &mut heard).unwrap();
        assert!(session.peer_closed());
        Ok((heard, session.was_resumed()))
    }

    #[test]
    fn bytes_arrive_and_whoever_comes_next_resumes() {
        let server = server();
        let said = vec![7; 40_000];
        let client = TlsClient::new("localhost:9000", Some(server.ca.path()), false, 4).unwrap();
        assert_eq!(talk(&server, &client, &said), Ok((said.clone(), false)));
        assert_eq!(talk(&server, &client, &said), Ok((said, true)));
    }

    #[test]
    fn the_certificate_must_come_from_the_authority_unless_any_will_do() {
        let (server, other) = (server(), self::server());
        let stranger = TlsClient::new("localhost:9000", Some(other.ca.path()), false, 4).unwrap();
        let error = talk(&server, &stranger, b"x").unwrap_err();
        assert!(error.contains("invalid peer certificate"), "{error}");
        let anybody = TlsClient::new("[::1]:9000", Some(other.ca.path()), true, 4).unwrap();
        assert_eq!(talk(&server, &anybody, b"x"), Ok((b"x".to_vec(), false)));
    }

    #[test]
    fn a_bad_authority_is_named_with_the_remedy() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        for path in [empty.path(), Path::new("/nowhere/ca.pem")] {
            let error = TlsClient::new("localhost:9000", Some(path), false, 4).unwrap_err();
            assert!(
                error.contains(&path.display().to_string()) && error.contains("PEM file of the authority"),
                "{error}"
            );
        }
    }
}
