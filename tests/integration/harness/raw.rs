//! A WebSocket whose frames the test writes byte by byte, to break the rules.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::http::upgrade_head;
use super::server::connect_with_small_buffer;
use super::wait::Deadline;

/// A WebSocket after its handshake.
#[derive(Debug)]
pub struct RawWs {
    stream: TcpStream,
    received: Vec<u8>,
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first byte: FIN, reserved bits and opcode.
    pub first: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame; `None` for an empty one.
    pub fn close_code(&self) -> Option<u16> {
        assert_eq!(self.first, 0x88, "not a close frame: {self:?}");
        self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }

    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("text is UTF-8")
    }
}

impl RawWs {
    /// Shakes hands.
    pub fn connect(address: SocketAddr, target: &str) -> Self {
        Self::over(TcpStream::connect(address).expect("the server listens"), target)
    }

    /// Shakes hands on a connection of which the kernel holds little, so that not reading soon shows.
    pub fn connect_slow(address: SocketAddr, target: &str) -> Self {
        Self::over(connect_with_small_buffer(address), target)
    }

    fn over(mut stream: TcpStream, target: &str) -> Self {
        stream.set_nodelay(true).expect("an option of a socket");
        let host = stream.peer_addr().expect("it is connected").to_string();
        stream.write_all(upgrade_head(&host, target).as_bytes()).expect("the server reads");
        let mut raw = Self { stream, received: Vec::new() };
        raw.read_head();
        raw
    }

    /// A connection of which the head was not sent yet.
    pub fn before_handshake(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("an option of a socket");
        Self { stream, received: Vec::new() }
    }

    /// Reads the head of the server's answer, which must accept.
    pub fn read_head(&mut self) {
        let deadline = Deadline::patient();
        let end = loop {
            if let Some(at) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.read_more(&deadline), "closed before the head's end");
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        let head = String::from_utf8(head).expect("a head is text");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes bytes as they are. The server may have closed already.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Writes a masked frame; `first` holds FIN, reserved bits and opcode.
    pub fn frame(&mut self, first: u8, payload: &[u8]) {
        let bytes = masked_frame(first, payload);
        self.write(&bytes);
    }

    /// The next frame but for pings and pongs; `None` at the end.
    pub fn next_data(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if !matches!(frame.first & 0x0f, 0x9 | 0xa) {
                return Some(frame);
            }
        }
    }

    /// The next frame; `None` at the end.
    pub fn next(&mut self) -> Option<Frame> {
        let deadline = Deadline::patient();
        loop {
            if let Some((frame, len)) = parse(&self.received) {
                self.received.drain(..len);
                return Some(frame);
            }
            if !self.read_more(&deadline) {
                assert!(self.received.len() < 2, "a frame was cut short after {} bytes", self.received.len());
                return None;
            }
        }
    }

    /// The code of the close frame that must come, after any number of other frames; the end must follow.
    pub fn closed_with(&mut self) -> Option<u16> {
        let close = loop {
            let frame = self.next().expect("a close frame comes before the end");
            if frame.first == 0x88 {
                break frame;
            }
        };
        self.frame(0x88, &close.payload);
        assert_eq!(self.next(), None, "nothing follows a close frame");
        close.close_code()
    }

    /// Reads what comes. False at the end.
    fn read_more(&mut self, deadline: &Deadline) -> bool {
        let left = deadline.left().expect("something comes in time");
        self.stream.set_read_timeout(Some(left)).expect("an option of a socket");
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(len) => {
                self.received.extend_from_slice(&piece[..len]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("nothing came in time: {error}; so far {:?}", self.received),
        }
    }
}

/// The bytes of a masked frame.
pub fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A whole frame at the front of `bytes`, with its length.
fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (len, rest) = match second {
        126 => rest.split_first_chunk().map(|(len, rest)| (u16::from_be_bytes(*len) as usize, rest))?,
        127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len) as usize, rest))?,
        len => (usize::from(len), rest),
    };
    let payload = rest.get(..len)?.to_vec();
    let whole = bytes.len() - rest.len() + len;
    Some((Frame { first, payload }, whole))
}
