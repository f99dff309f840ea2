//! The opening handshake (RFC 6455, section 4.2), no more of HTTP than it needs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Answers the upgrade and returns the room's path; `None` for any other request, which is answered with 404.
pub async fn answer(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let head = read_head(stream).await?;
    let Some((path, key)) = understand(&head) else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
        return Ok(None);
    };
    let accept = STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize());
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(response.as_bytes()).await?;
    Ok(Some(path))
}

/// Reads the head and not a byte more, so that what follows is left to the frame reader.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut seen = vec![0; HEAD_BYTES_MAX];
    loop {
        let len = stream.peek(&mut seen).await?;
        if let Some(end) = seen[..len].windows(4).position(|window| window == b"\r\n\r\n") {
            let mut head = vec![0; end + 4];
            stream.read_exact(&mut head).await?;
            return Ok(head);
        }
        if len == 0 || len == HEAD_BYTES_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        // A head in pieces is rare enough for a busy wait.
        tokio::task::yield_now().await;
    }
}

fn understand(head: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    if !request.parse(head).ok()?.is_complete() {
        return None;
    }
    let path = request.path.filter(|path| path.starts_with("/relay/"))?;
    let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("Sec-WebSocket-Key"))?;
    Some((path.to_owned(), key.value.to_vec()))
}

const HEAD_BYTES_MAX: usize = 8 * 1024;
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
