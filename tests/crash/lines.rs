//! JSON lines over TCP, to a server that may go at any moment.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};

use std::time::Duration;

use serde_json::Value;

/// A connection.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<TcpStream>,
    line: Vec<u8>,
}

/// Why nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The server has gone.
    Gone,
    /// It is there and says nothing.
    Stuck,
}

impl Lines {
    /// Connects, unless the server has gone.
    pub fn connect(address: SocketAddr) -> Result<Self, Silence> {
        let stream = TcpStream::connect(address).map_err(|_| Silence::Gone)?;
        stream.set_nodelay(true).expect("an option of a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option of a socket");
        Ok(Self { reader: BufReader::with_capacity(64 * 1024, stream), line: Vec::new() })
    }

    /// Sends a command.
    pub fn send(&mut self, command: &Value) -> Result<(), Silence> {
        let line = format!("{command}\n");
        self.reader.get_mut().write_all(line.as_bytes()).map_err(|_| Silence::Gone)
    }

    /// The next event. What was cut short by the server's end is none.
    pub fn receive(&mut self) -> Result<Value, Silence> {
        self.line.clear();
        match self.reader.read_until(b'\n', &mut self.line) {
            Ok(_) if self.line.ends_with(b"\n") => {
                let text = String::from_utf8_lossy(&self.line);
                Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?} is no JSON: {error}")))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(Silence::Stuck),
            Ok(_) | Err(_) => Err(Silence::Gone),
        }
    }
}

/// How long a server may say nothing. Far longer than it does, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(20);
