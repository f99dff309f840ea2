//! One connection to a server: texts out, texts in, over WebSocket or lines, with TLS or without.
//!
//! It is opened with a deadline and does not block from then on. What a server can make it hold is bounded.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tungstenite::error::Error as WsError;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use super::ending::Ending;
use super::options::{Scheme, Target};

/// An open connection.
pub enum Link {
    /// One text per message.
    WebSocket(Box<WebSocket<Stream>>),
    /// One text per line.
    Lines(Box<Lines>),
}

/// What came.
#[derive(Debug)]
pub enum Received {
    /// One text.
    Text(String),
    /// Something else that shows that the server is there.
    Alive,
}

/// Bytes to a server and back.
pub enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection that speaks lines.
pub struct Lines {
    stream: Stream,
    incoming: Vec<u8>,
    /// How much of `incoming` holds no end of a line.
    searched: usize,
    outgoing: Vec<u8>,
}

impl Link {
    /// Connects, and gives up after a while. `tls` is there if the target wants it.
    pub fn open(target: &Target, tls: Option<&Arc<ClientConfig>>) -> Result<Self, Ending> {
        let socket = connect(target)?;
        let mut stream = match tls {
            None => Stream::Plain(socket),
            Some(config) => Stream::Tls(Box::new(encrypt(socket, target, config)?)),
        };
        let link = match target.scheme {
            Scheme::Ws | Scheme::Wss => Self::WebSocket(Box::new(upgrade(stream, target)?)),
            Scheme::Tcp | Scheme::Tls => {
                stream.flush().map_err(|error| lost(&error))?;
                Self::Lines(Box::new(Lines { stream, incoming: Vec::new(), searched: 0, outgoing: Vec::new() }))
            }
        };
        link.socket().set_nonblocking(true).map_err(|error| lost(&error))?;
        Ok(link)
    }

    /// The socket, to be waited for.
    pub fn socket(&self) -> &TcpStream {
        let stream = match self {
            Self::WebSocket(socket) => socket.get_ref(),
            Self::Lines(lines) => &lines.stream,
        };
        match stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    /// Takes a text to be sent by [`Link::flush`].
    pub fn send(&mut self, text: String) -> Result<(), Ending> {
        match self {
            Self::WebSocket(socket) => would_block(socket.write(Message::text(text))).map(drop),
            Self::Lines(lines) => {
                lines.outgoing.extend_from_slice(text.as_bytes());
                lines.outgoing.push(b'\n');
                Ok(())
            }
        }
    }

    /// Sends what waits. Says whether that was all.
    pub fn flush(&mut self) -> Result<bool, Ending> {
        match self {
            Self::WebSocket(socket) => would_block(socket.flush()).map(|done| done.is_some()),
            Self::Lines(lines) => lines.flush(),
        }
    }

    /// The next thing that came; `None` if nothing is there now.
    pub fn receive(&mut self) -> Result<Option<Received>, Ending> {
        match self {
            Self::WebSocket(socket) => match would_block(socket.read())? {
                None => Ok(None),
                Some(Message::Text(text)) => Ok(Some(Received::Text(text.as_str().to_owned()))),
                Some(Message::Close(frame)) => {
                    // The answer to the close frame; whether it gets there makes no difference.
                    let _ = socket.flush();
                    let code = frame.as_ref().map_or(1000, |frame| frame.code.into());
                    let why = frame.map_or(String::new(), |frame| frame.reason.as_str().to_owned());
                    Err(Ending { code: Some(code), why, is_final: false })
                }
                Some(_) => Ok(Some(Received::Alive)),
            },
            Self::Lines(lines) => lines.receive(),
        }
    }

    /// Says goodbye, and waits a moment for it to be heard.
    pub fn close(mut self) {
        let socket = self.socket();
        let ready = socket.set_nonblocking(false).is_ok()
            && socket.set_read_timeout(Some(GOODBYE)).is_ok()
            && socket.set_write_timeout(Some(GOODBYE)).is_ok();
        if !ready {
            return;
        }
        match &mut self {
            Self::WebSocket(socket) => {
                let _ = socket.close(None);
                let _ = socket.flush();
            }
            Self::Lines(lines) => {
                let _ = lines.flush();
                if let Stream::Tls(stream) = &mut lines.stream {
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
                let _ = self.socket().shutdown(std::net::Shutdown::Write);
            }
        }
        // Closing a socket with bytes unread would take back what was just sent.
        for _ in 0..GOODBYE_READS_MAX {
            if !matches!(self.receive(), Ok(Some(_))) {
                break;
            }
        }
    }
}

impl Lines {
    fn flush(&mut self) -> Result<bool, Ending> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(0) => return Err(lost(&ErrorKind::WriteZero.into())),
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(&error)),
            }
        }
        match self.stream.flush() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(lost(&error)),
        }
    }

    fn receive(&mut self) -> Result<Option<Received>, Ending> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.incoming[self.searched..]) {
                let line: Vec<u8> = self.incoming.drain(..=self.searched + at).collect();
                self.searched = 0;
                return Ok(Some(Received::Text(String::from_utf8_lossy(line.trim_ascii()).into_owned())));
            }
            self.searched = self.incoming.len();
            if self.incoming.len() > TEXT_BYTES_MAX {
                let why = "the server sent a line without an end: is this a hubbub server?".to_owned();
                return Err(Ending { code: None, why, is_final: true });
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(lost(&ErrorKind::UnexpectedEof.into())),
                Ok(read) => self.incoming.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(&error)),
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

fn connect(target: &Target) -> Result<TcpStream, Ending> {
    let failed = |what: &dyn std::fmt::Display| Ending {
        code: None,
        why: format!("cannot reach {target}: {what}"),
        is_final: false,
    };
    let addresses = (target.host.as_str(), target.port).to_socket_addrs().map_err(|error| failed(&error))?;
    let mut last = failed(&"the name has no address");
    for address in addresses.take(ADDRESSES_MAX) {
        let opened = TcpStream::connect_timeout(&address, PATIENCE).and_then(|socket| {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(socket)
        });
        match opened {
            Ok(socket) => return Ok(socket),
            Err(error) => last = failed(&words(&error)),
        }
    }
    Err(last)
}

fn encrypt(
    mut socket: TcpStream,
    target: &Target,
    config: &Arc<ClientConfig>,
) -> Result<StreamOwned<ClientConnection, TcpStream>, Ending> {
    let failed = |what: String, is_final| Ending { code: None, why: what, is_final };
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| failed(format!("{} is no name that a certificate could have", target.host), true))?;
    let mut connection = ClientConnection::new(Arc::clone(config), name)
        .map_err(|error| failed(format!("TLS cannot be used: {error}"), true))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|error| {
            let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match cause {
                Some(rustls::Error::InvalidCertificate(why)) => failed(
                    format!("the server's certificate cannot be trusted ({why}): name its authority with --ca"),
                    true,
                ),
                Some(why) => failed(format!("no TLS with {target}: {why}"), false),
                None => lost(&error),
            }
        })?;
    }
    Ok(StreamOwned::new(connection, socket))
}

fn upgrade(stream: Stream, target: &Target) -> Result<WebSocket<Stream>, Ending> {
    let config = WebSocketConfig::default().max_message_size(Some(TEXT_BYTES_MAX)).max_frame_size(Some(TEXT_BYTES_MAX));
    match tungstenite::client::client_with_config(target.to_string(), stream, Some(config)) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Interrupted(_)) => Err(lost(&ErrorKind::TimedOut.into())),
        Err(HandshakeError::Failure(WsError::Http(answer))) => {
            let status = answer.status();
            let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let line = body.lines().next().unwrap_or_default();
            let why = format!("the server at {target} refuses: {status} {line}");
            Err(Ending { code: None, why, is_final: status.is_client_error() && status.as_u16() != 429 })
        }
        Err(HandshakeError::Failure(WsError::Io(error))) => Err(lost(&error)),
        Err(HandshakeError::Failure(error)) => {
            Err(Ending { code: None, why: format!("{target} speaks no WebSocket: {error}"), is_final: false })
        }
    }
}

/// `None` if it could not be done without waiting.
fn would_block<T>(done: Result<T, WsError>) -> Result<Option<T>, Ending> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(WsError::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(WsError::Io(error)) => Err(lost(&error)),
        Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => Err(lost(&ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(Ending { code: None, why: format!("the connection broke: {error}"), is_final: false }),
    }
}

fn lost(error: &io::Error) -> Ending {
    Ending { code: None, why: words(error), is_final: false }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::BrokenPipe
        | ErrorKind::ConnectionAborted => "the connection was lost".to_owned(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "the server does not answer".to_owned(),
        ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
        _ => error.to_string(),
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_millis(300);
const GOODBYE_READS_MAX: usize = 1_000;
const ADDRESSES_MAX: usize = 8;
/// Longest text of a server: what the largest message setting leads to.
const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;
