//! HTTP as plain bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wait::Deadline;

/// A response that ended its connection.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status; 0 when nobody listened or the connection ended without a response.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// What follows.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Makes a request with `Host` and `Connection: close`, unless `headers` say otherwise.
pub fn http(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    let host = address.to_string();
    for (name, value) in [("Host", host.as_str()), ("Connection", "close")] {
        if !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
            head += &format!("{name}: {value}\r\n");
        }
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    http_raw(address, format!("{head}\r\n").as_bytes())
}

/// Sends bytes and reads until the server closes.
pub fn http_raw(address: SocketAddr, request: &[u8]) -> Response {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return Response { status: 0, head: String::new(), body: Vec::new() };
    };
    // A server that refuses need not read all of it.
    let _ = stream.write_all(request);
    let bytes = read_to_end(&mut stream);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Response { status, head, body: bytes[end..].to_vec() }
}

/// All that comes until the server closes.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let deadline = Deadline::patient();
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let left = deadline.left().expect("the server ends a connection after its response");
        stream.set_read_timeout(Some(left)).expect("an option of a socket");
        match stream.read(&mut piece) {
            Ok(0) => return bytes,
            Ok(len) => bytes.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("the response did not end ({error}): {}", String::from_utf8_lossy(&bytes)),
        }
    }
}

/// The head of an upgrade by the book, for `target` of a host.
pub fn upgrade_head(host: &str, target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}
