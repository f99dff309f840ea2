//! JSON lines over TCP.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::client::{Received, Transport};
use super::stream::Stream;
use super::wait::Deadline;

/// A TCP connection, maybe with TLS, that is read line by line.
pub struct Lines {
    stream: Stream,
    received: Vec<u8>,
}

impl Lines {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(Stream::Plain(TcpStream::connect(address).expect("the server listens")))
    }

    /// Over a connection that there is already.
    pub fn over(stream: Stream) -> Self {
        stream.tcp().set_nodelay(true).expect("an option of a socket");
        Self { stream, received: Vec::new() }
    }
}

impl Transport for Lines {
    fn transmit(&mut self, text: &str) {
        self.stream.write_all(format!("{text}\n").as_bytes()).expect("the server reads");
    }

    fn receive(&mut self, deadline: &Deadline) -> Option<Received> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let text = String::from_utf8(line).expect("lines are UTF-8");
                return Some(Received::Text(text.trim_end_matches('\n').to_owned()));
            }
            self.stream.tcp().set_read_timeout(Some(deadline.left()?)).expect("an option of a socket");
            let mut piece = [0; 64 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => {
                    assert!(self.received.is_empty(), "a line was cut short: {:?}", self.received);
                    return Some(Received::Closed(None));
                }
                Ok(len) => self.received.extend_from_slice(&piece[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(_) => return Some(Received::Closed(None)),
            }
        }
    }

    fn stream(&self) -> &TcpStream {
        self.stream.tcp()
    }

    fn close(&mut self) {
        self.stream.finish();
    }
}
