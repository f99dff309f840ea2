//! The opening handshake (RFC 6455, section 4), from either side. No extension is ever agreed on.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha1::{Digest, Sha1};

use crate::codec::http::{HEADERS_MAX, HttpError, Method, Request, Status};
use crate::limits::HTTP_HEAD_BYTES_MAX;

/// What a server agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Goes back to the client, which knows by it that its key was understood.
    accept: [u8; ACCEPT_BYTES],
    /// The subprotocol to name in the response: present only if the client asked for it.
    subprotocol: Option<&'static str>,
}

impl Upgrade {
    /// Judges a client's request. `subprotocol` is the one spoken here, also with clients that ask for none; a client
    /// that asks for others alone is refused. `None` means that the payload is the clients' own business.
    ///
    /// Errors are 405, 400, or 426 for a request that is no WebSocket upgrade or is of another version. Origin and
    /// Host are the caller's to judge.
    pub fn negotiate(request: &Request<'_>, subprotocol: Option<&'static str>) -> Result<Self, HttpError> {
        let bad = |text| HttpError::new(Status::BadRequest, text);
        if request.method != Method::Get {
            return Err(HttpError::new(Status::MethodNotAllowed, "a WebSocket begins with GET"));
        }
        if !request.is_http11 {
            return Err(bad("a WebSocket begins with HTTP/1.1"));
        }
        if !request.has_token("Upgrade", "websocket") || !request.has_token("Connection", "Upgrade") {
            return Err(HttpError::new(Status::UpgradeRequired, "this address speaks WebSocket"));
        }
        if request.header("Sec-WebSocket-Version") != Some("13") {
            return Err(HttpError::new(Status::UpgradeRequired, "only version 13 of WebSocket is spoken here"));
        }
        let mut keys = request.values("Sec-WebSocket-Key");
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(bad("there must be exactly one Sec-WebSocket-Key"));
        };
        if !is_key(key) {
            return Err(bad("Sec-WebSocket-Key must be 16 bytes in base64"));
        }
        let agreed = choose(request, subprotocol)?;
        Ok(Self { accept: accept_for(key), subprotocol: agreed })
    }

    /// Appends the 101 response, after which frames may follow.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        );
        out.extend_from_slice(&self.accept);
        if let Some(subprotocol) = self.subprotocol {
            out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            out.extend_from_slice(subprotocol.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

fn choose(request: &Request<'_>, spoken: Option<&'static str>) -> Result<Option<&'static str>, HttpError> {
    let mut asked = request.tokens("Sec-WebSocket-Protocol").filter(|token| !token.is_empty()).peekable();
    let Some(spoken) = spoken else {
        // A browser that asks for some wants one of them in the answer.
        return Ok(asked.any(|token| token == RELAY_SUBPROTOCOL.as_bytes()).then_some(RELAY_SUBPROTOCOL));
    };
    if asked.peek().is_none() {
        return Ok(None);
    }
    if asked.any(|token| token == spoken.as_bytes()) {
        return Ok(Some(spoken));
    }
    Err(HttpError::new(Status::BadRequest, "the only subprotocol spoken here is hubbub.v1.json"))
}

/// Says nothing of the payload.
const RELAY_SUBPROTOCOL: &str = "hubbub.v1.relay";

fn is_key(key: &[u8]) -> bool {
    let mut bytes = [0; 18];
    key.len() == KEY_BYTES && BASE64.decode_slice(key, &mut bytes) == Ok(16)
}

/// The answer to a key, as it came (RFC 6455, section 4.2.2).
fn accept_for(key: &[u8]) -> [u8; ACCEPT_BYTES] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; ACCEPT_BYTES];
    let written = BASE64.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(ACCEPT_BYTES), "20 bytes fill the answer");
    accept
}

/// Appends a client's request. `target` is the path with its query; `entropy` must be fresh and is needed again for
/// [`read_response`].
pub fn write_request(host: &str, target: &str, subprotocol: Option<&str>, entropy: [u8; 16], out: &mut Vec<u8>) {
    let key = key_of(entropy);
    for part in ["GET ", target, " HTTP/1.1\r\nHost: ", host, "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ");
    out.extend_from_slice(&key);
    if let Some(subprotocol) = subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

fn key_of(entropy: [u8; 16]) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let written = BASE64.encode_slice(entropy, &mut key);
    debug_assert_eq!(written, Ok(KEY_BYTES), "16 bytes fill a key");
    key
}

/// Why a client does not take a response for a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not HTTP, or more than [`HTTP_HEAD_BYTES_MAX`] bytes of it.
    #[error("the response is not HTTP")]
    Malformed,
    /// Some other status than 101.
    #[error("the server answered {0}")]
    Refused(u16),
    /// A 101 that does not answer this request.
    #[error("the response does not answer the WebSocket request")]
    Mismatch,
}

/// Reads the server's response to [`write_request`]; gives the length of its head, after which frames follow. `None`: it
/// goes on after `bytes`.
pub fn read_response(
    bytes: &[u8],
    entropy: [u8; 16],
    subprotocol: Option<&str>,
) -> Result<Option<usize>, ResponseError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let seen = &bytes[..bytes.len().min(HTTP_HEAD_BYTES_MAX)];
    let len = match response.parse(seen) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if seen.len() < HTTP_HEAD_BYTES_MAX => return Ok(None),
        _ => return Err(ResponseError::Malformed),
    };
    if response.code != Some(101) {
        return Err(ResponseError::Refused(response.code.unwrap_or_default()));
    }
    let value = |name: &str| {
        let mut found = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        found.next().map(|header| header.value)
    };
    let accept = accept_for(&key_of(entropy));
    // The server need not name a subprotocol, but may not name one that was not asked for.
    let named = value("Sec-WebSocket-Protocol");
    let is_ours = value("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
        && value("Sec-WebSocket-Accept") == Some(&accept[..])
        && value("Sec-WebSocket-Extensions").is_none()
        && (named.is_none() || named == subprotocol.map(str::as_bytes));
    if is_ours { Ok(Some(len)) } else { Err(ResponseError::Mismatch) }
}

/// The subprotocol of the chat: one JSON object per text message.
pub const SUBPROTOCOL_JSON: &str = "hubbub.v1.json";

/// 16 bytes in base64.
const KEY_BYTES: usize = 24;
/// A SHA-1 digest in base64.
const ACCEPT_BYTES: usize = 28;
/// RFC 6455, section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Padded base64. Keys that clients made up by hand may have odd bits in their last digit; they do no harm.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http;

    fn request_with(change: impl Fn(&str) -> String) -> String {
        change(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
    }

    fn negotiate(text: &str) -> Result<String, HttpError> {
        let (request, _) = http::parse(text.as_bytes())?.expect("the head is complete");
        let mut out = Vec::new();
        Upgrade::negotiate(&request, Some(SUBPROTOCOL_JSON))?.write(&mut out);
        Ok(String::from_utf8(out).unwrap())
    }

    fn asking_for(protocols: &str) -> String {
        request_with(|text| text.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Protocol: {protocols}\r\n\r\n")))
    }

    #[test]
    fn answers_the_example_of_the_rfc() {
        let response = negotiate(&request_with(str::to_owned)).unwrap();
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{response}");
        assert!(!response.contains("Sec-WebSocket-Protocol"), "named a subprotocol that nobody asked for");
    }

    #[test]
    fn the_subprotocol_is_picked_from_what_is_asked() {
        let named = "Sec-WebSocket-Protocol: hubbub.v1.json\r\n";
        assert!(negotiate(&asking_for("hubbub.v1.json")).unwrap().contains(named));
        assert!(negotiate(&asking_for("hubbub.v1.protobuf, hubbub.v1.json")).unwrap().contains(named));
        let two_lines = asking_for("x\r\nSec-WebSocket-Protocol: hubbub.v1.json");
        assert!(negotiate(&two_lines).unwrap().contains(named));
        for other in ["hubbub.v1.protobuf", "HUBBUB.V1.JSON", "hubbub.v1.jsonx, mqtt"] {
            assert_eq!(negotiate(&asking_for(other)).unwrap_err().status, Status::BadRequest, "{other}");
        }
    }

    #[test]
    fn a_relay_takes_any_subprotocol_and_names_none() {
        let text = asking_for("mqtt");
        let (request, _) = http::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(Upgrade::negotiate(&request, None).unwrap().subprotocol, None);
    }

    #[test]
    fn broken_upgrades_get_the_status_that_fits() {
        let table = [
            ("HEAD", "GET /ws", "HEAD /ws", 405),
            ("HTTP/1.0", "HTTP/1.1", "HTTP/1.0", 400),
            ("no upgrade", "Upgrade: WebSocket", "X: y", 426),
            ("other upgrade", "Upgrade: WebSocket", "Upgrade: h2c", 426),
            ("no connection token", "keep-alive, upgrade", "keep-alive", 426),
            ("version 8", "Version: 13", "Version: 8", 426),
            ("no version", "Sec-WebSocket-Version: 13", "X: y", 426),
            ("no key", "Sec-WebSocket-Key", "X", 400),
            ("short key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub24=", 400),
            ("long key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZWVl", 400),
            ("key without padding", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", 400),
            ("key that is not base64", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBs*SBub25jZQ==", 400),
            ("two keys", "\r\n\r\n", "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400),
            ("body", "\r\n\r\n", "\r\nContent-Length: 1\r\n\r\n", 400),
        ];
        for (name, from, to, status) in table {
            let text = request_with(|text| text.replace(from, to));
            assert_eq!(negotiate(&text).expect_err(name).status.code(), status, "{name}");
        }
    }

    #[test]
    fn client_and_server_agree() {
        let entropy = *b"0123456789abcdef";
        let mut request = Vec::new();
        write_request("localhost:9000", "/ws?room=a", Some(SUBPROTOCOL_JSON), entropy, &mut request);
        let (parsed, len) = http::parse(&request).unwrap().unwrap();
        assert_eq!((len, parsed.path, parsed.host), (request.len(), "/ws", "localhost:9000"));
        let mut response = Vec::new();
        Upgrade::negotiate(&parsed, Some(SUBPROTOCOL_JSON)).unwrap().write(&mut response);
        for end in 0..response.len() {
            assert_eq!(read_response(&response[..end], entropy, Some(SUBPROTOCOL_JSON)), Ok(None));
        }
        let head = response.len();
        response.extend_from_slice(b"\x81\x00");
        assert_eq!(read_response(&response, entropy, Some(SUBPROTOCOL_JSON)), Ok(Some(head)));
        assert_eq!(read_response(&response, entropy, None), Err(ResponseError::Mismatch), "not asked for");
        assert_eq!(read_response(&response, *b"another entropy!", None), Err(ResponseError::Mismatch));
        let refused = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
        assert_eq!(read_response(refused, entropy, None), Err(ResponseError::Refused(503)));
        assert_eq!(read_response(b"SSH-2.0-x\r\n", entropy, None), Err(ResponseError::Malformed));
    }
}
