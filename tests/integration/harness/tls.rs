//! Certificates, and clients that trust them.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::client::Client;
use super::data::DataDir;
use super::lines::Lines;
use super::server::{Launch, Server};
use super::stream::Stream;
use super::wait::PATIENCE;
use super::websocket::{self, Request};

/// Both versions that are spoken.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Files with a certificate and its key, and who they are.
pub struct Certificate {
    dir: DataDir,
    authority: CertificateDer<'static>,
}

/// A client that trusts one certificate.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl Certificate {
    /// Makes one for this machine.
    pub fn new() -> Self {
        let dir = DataDir::new();
        let authority = write(&dir);
        Self { dir, authority }
    }

    /// Puts another one, with another key, into the same files.
    pub fn renew(&mut self) {
        self.authority = write(&self.dir);
    }

    /// The file with the certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// The file with the key.
    pub fn key_file(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// Starts a server with it.
    pub fn serve(&self, launch: Launch) -> Server {
        self.launch(launch).start()
    }

    /// A server that would have it.
    pub fn launch(&self, launch: Launch) -> Launch {
        launch.arguments([
            &format!("--tls-certificate-file={}", self.file().display()),
            &format!("--tls-key-file={}", self.key_file().display()),
        ])
    }

    /// A client that trusts it and speaks these versions and protocols.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).expect("a certificate just made");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(32);
        TlsClient(Arc::new(config))
    }

    /// A client of any version.
    pub fn any_client(&self) -> TlsClient {
        self.client(&VERSIONS, &[])
    }
}

impl TlsClient {
    /// A connection of which nothing was said yet.
    pub fn begin(&self, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        let server = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(self.0.clone(), server).expect("a client");
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("an option of a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
        StreamOwned::new(connection, stream)
    }

    /// A connection after its handshake, or why there is none.
    pub fn connect(&self, address: SocketAddr) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut stream = self.begin(address);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// The same client as if it came for the first time.
    pub fn without_tickets(&self) -> Self {
        let mut config = (*self.0).clone();
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    /// A WebSocket of the chat.
    pub fn ws(&self, server: &Server) -> Client {
        let request = Request::new(server.http(), "/ws");
        websocket::try_connect_over(&request, Stream::Tls(Box::new(self.begin(server.http()))))
            .unwrap_or_else(|refusal| panic!("refused: {refusal:?}"))
            .0
    }

    /// JSON lines.
    pub fn tcp(&self, server: &Server) -> Client {
        Client::new(Lines::over(Stream::Tls(Box::new(self.begin(server.lines())))))
    }
}

fn write(dir: &DataDir) -> CertificateDer<'static> {
    let names = ["localhost", "127.0.0.1"].map(String::from);
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be made");
    let pem = made.cert.pem();
    fs::write(dir.path().join("cert.pem"), &pem).expect("the directory is ours");
    fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).expect("the directory is ours");
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM just written")
}
