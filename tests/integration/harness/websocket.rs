//! WebSocket by tungstenite, which shares no code with the server.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::{HeaderName, HeaderValue, Response};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::client::{Client, Received, Transport};
use super::stream::Stream;
use super::wait::{Deadline, PATIENCE};

/// A request for an upgrade.
#[derive(Clone, Debug)]
pub struct Request {
    address: SocketAddr,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// What a plain client asks for.
    pub fn new(address: SocketAddr, target: &str) -> Self {
        Self { address, target: target.to_owned(), headers: Vec::new() }
    }

    /// Sets a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Connects, or gives the status of the refusal with its body.
pub fn try_connect(request: &Request) -> Result<(Client, Response<()>), (u16, String)> {
    let (socket, response) = handshake(request)?;
    Ok((Client::new(WsTransport { socket, close: None }), response))
}

/// Connects.
pub fn connect(request: &Request) -> (Client, Response<()>) {
    try_connect(request).unwrap_or_else(|refusal| panic!("{request:?} was refused: {refusal:?}"))
}

/// The same over a connection that there is already.
pub fn try_connect_over(request: &Request, stream: Stream) -> Result<(Client, Response<()>), (u16, String)> {
    let (socket, response) = handshake_over(request, stream)?;
    Ok((Client::new(WsTransport { socket, close: None }), response))
}

fn handshake(request: &Request) -> Result<(WebSocket<Stream>, Response<()>), (u16, String)> {
    handshake_over(request, Stream::Plain(TcpStream::connect(request.address).expect("the server listens")))
}

fn handshake_over(request: &Request, stream: Stream) -> Result<(WebSocket<Stream>, Response<()>), (u16, String)> {
    let url = format!("ws://{}{}", request.address, request.target);
    let mut upgrade = url.into_client_request().expect("tests write valid URLs");
    for (name, value) in &request.headers {
        let name: HeaderName = name.parse().expect("tests write valid headers");
        let value: HeaderValue = value.parse().expect("tests write valid headers");
        upgrade.headers_mut().insert(name, value);
    }
    stream.tcp().set_nodelay(true).expect("an option of a socket");
    stream.tcp().set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    match tungstenite::client::client_with_config(upgrade, stream, Some(config)) {
        Ok((socket, response)) => Ok((socket, response.map(|_| ()))),
        Err(HandshakeError::Failure(Error::Http(response))) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            Err((response.status().as_u16(), body))
        }
        Err(error) => panic!("the upgrade failed: {error}"),
    }
}

struct WsTransport {
    socket: WebSocket<Stream>,
    /// The server's close frame.
    close: Option<(u16, String)>,
}

impl Transport for WsTransport {
    fn transmit(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("the server reads");
    }

    fn receive(&mut self, deadline: &Deadline) -> Option<Received> {
        loop {
            match read(&mut self.socket, deadline) {
                Read::Message(Message::Text(text)) => return Some(Received::Text(text.to_string())),
                Read::Message(Message::Close(frame)) => self.close = frame.map(code_and_text),
                Read::Message(Message::Ping(_) | Message::Pong(_)) => {}
                Read::Message(message) => panic!("the chat sends text, not {message:?}"),
                Read::End => return Some(Received::Closed(self.close.take())),
                Read::Timeout => return None,
            }
        }
    }

    fn stream(&self) -> &TcpStream {
        self.socket.get_ref().tcp()
    }

    fn close(&mut self) {
        // The server may have closed first.
        let _ = self.socket.close(None);
    }
}

enum Read {
    Message(Message),
    End,
    Timeout,
}

fn read(socket: &mut WebSocket<Stream>, deadline: &Deadline) -> Read {
    let Some(left) = deadline.left() else { return Read::Timeout };
    socket.get_ref().tcp().set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("an option of a socket");
    match socket.read() {
        Ok(message) => Read::Message(message),
        Err(Error::Io(error)) if is_timeout(&error) => Read::Timeout,
        Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_)) => Read::End,
        Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => Read::End,
        Err(error) => panic!("the server broke the protocol: {error}"),
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn code_and_text(frame: CloseFrame) -> (u16, String) {
    (frame.code.into(), frame.reason.to_string())
}

/// A connection to a room of the relay.
pub struct RelayClient {
    socket: WebSocket<Stream>,
}

impl RelayClient {
    /// Connects to a room, whose name is written as in a URL.
    pub fn connect(address: SocketAddr, room: &str) -> Self {
        let request = Request::new(address, &format!("/relay/{room}"));
        let (socket, _) = handshake(&request).unwrap_or_else(|refusal| panic!("{room} was refused: {refusal:?}"));
        Self { socket }
    }

    /// Sends a message.
    pub fn send(&mut self, message: Message) {
        self.socket.send(message).expect("the server reads");
    }

    /// The next text or binary message.
    pub fn next(&mut self) -> Message {
        match self.next_or_end() {
            Ok(message) => message,
            Err(close) => panic!("closed with {close:?} while waiting for a message"),
        }
    }

    /// The next text or binary message, or the close frame's code and text.
    pub fn next_or_end(&mut self) -> Result<Message, Option<(u16, String)>> {
        let deadline = Deadline::patient();
        let mut close = None;
        loop {
            match read(&mut self.socket, &deadline) {
                Read::Message(message @ (Message::Text(_) | Message::Binary(_))) => return Ok(message),
                Read::Message(Message::Close(frame)) => close = frame.map(code_and_text),
                Read::Message(_) => {}
                Read::End => return Err(close),
                Read::Timeout => panic!("waited {PATIENCE:?} in vain for a message"),
            }
        }
    }

    /// Sends a message and waits until it has come back: from then on this connection is in the room.
    pub fn settle(&mut self, mark: &str) {
        self.send(Message::text(mark));
        while self.next() != Message::text(mark) {}
    }
}

const READ_BUFFER_BYTES: usize = 8 * 1024;
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
