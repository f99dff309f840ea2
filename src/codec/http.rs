//! HTTP/1.1, as much as a chat server needs: request heads without bodies, and small complete responses.
//!
//! Every response ends its connection, so there is no pipelining to get wrong. Absent on purpose: request bodies,
//! methods other than GET and HEAD, absolute-form targets, keep-alive.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::limits::HTTP_HEAD_BYTES_MAX;

/// The methods that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Asks for a resource, or for an upgrade.
    Get,
    /// Asks for the head of the response alone.
    Head,
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'b> {
    /// What is asked.
    pub method: Method,
    /// The path as it came, percent-encoded; begins with `/`.
    pub path: &'b str,
    /// What follows the first `?`, as it came.
    pub query: Option<&'b str>,
    /// Whether the client speaks HTTP/1.1 rather than 1.0.
    pub is_http11: bool,
    /// The `Host` header; empty only in HTTP/1.0.
    pub host: &'b str,
    headers: Vec<httparse::Header<'b>>,
}

/// A request that is refused, with the status that says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {text}", status.code())]
pub struct HttpError {
    /// The status of the response.
    pub status: Status,
    /// What was wrong and what to do, for people; the body of the response.
    pub text: &'static str,
}

/// The statuses that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// The resource follows.
    Ok = 200,
    /// What the client has is still right.
    NotModified = 304,
    /// The request cannot be understood.
    BadRequest = 400,
    /// An origin or a host that is not let in.
    Forbidden = 403,
    /// Nothing is there.
    NotFound = 404,
    /// Neither GET nor HEAD.
    MethodNotAllowed = 405,
    /// The request line alone fills all that is read.
    UriTooLong = 414,
    /// Only a WebSocket is served there.
    UpgradeRequired = 426,
    /// The headers are too many or too long.
    HeadTooLarge = 431,
    /// Too much was asked for in too short a time.
    TooManyRequests = 429,
    /// Come back later.
    ServiceUnavailable = 503,
}

impl Status {
    /// The number in the status line.
    #[must_use]
    pub fn code(self) -> u16 {
        self as u16
    }

    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::NotModified => "304 Not Modified",
            Self::BadRequest => "400 Bad Request",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::UriTooLong => "414 URI Too Long",
            Self::UpgradeRequired => "426 Upgrade Required",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::TooManyRequests => "429 Too Many Requests",
            Self::ServiceUnavailable => "503 Service Unavailable",
        }
    }

    /// Header lines that the status never comes without.
    fn header_lines(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "Allow: GET, HEAD\r\nConnection: close\r\n",
            Self::UpgradeRequired => {
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: upgrade, close\r\n"
            }
            Self::TooManyRequests => "Retry-After: 1\r\nConnection: close\r\n",
            Self::ServiceUnavailable => "Retry-After: 5\r\nConnection: close\r\n",
            _ => "Connection: close\r\n",
        }
    }
}

impl HttpError {
    /// An error with a text of its own.
    #[must_use]
    pub const fn new(status: Status, text: &'static str) -> Self {
        Self { status, text }
    }

    /// Appends the whole response. `head_only` is right for a HEAD request.
    pub fn write(&self, head_only: bool, out: &mut Vec<u8>) {
        let plain = [("Content-Type", "text/plain; charset=utf-8")];
        let body = format!("{}\n", self.text);
        write_response(self.status, &plain, body.as_bytes(), head_only, out);
    }
}

/// Appends a whole response that ends the connection. `head_only` leaves the body out, but not its length.
///
/// `headers` are written as they are: the caller vouches that no name and no value has a line end.
pub fn write_response(status: Status, headers: &[(&str, &str)], body: &[u8], head_only: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.line().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(status.header_lines().as_bytes());
    for (name, value) in headers {
        debug_assert!(!name.contains(['\r', '\n']) && !value.contains(['\r', '\n']), "a header would break out");
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    let length =
        if status == Status::NotModified { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    out.extend_from_slice(length.as_bytes());
    out.extend_from_slice(b"\r\n");
    if !head_only && status != Status::NotModified {
        out.extend_from_slice(body);
    }
}

/// Reads a request's head from the front of `bytes`, with its length in bytes. `None`: it goes on after `bytes`; call
/// again with all of them and more.
///
/// A head is at most [`HTTP_HEAD_BYTES_MAX`] bytes and [`HEADERS_MAX`] headers. HTTP/1.1 needs exactly one `Host`.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut raw = httparse::Request::new(&mut headers);
    // Never looks past the limit, so that the answer does not depend on how much came at once.
    let seen = &bytes[..bytes.len().min(HTTP_HEAD_BYTES_MAX)];
    match raw.parse(seen).map_err(refuse)? {
        httparse::Status::Complete(len) => check(&raw).map(|request| Some((request, len))),
        httparse::Status::Partial if seen.len() < HTTP_HEAD_BYTES_MAX => Ok(None),
        httparse::Status::Partial if raw.version.is_none() => {
            Err(HttpError::new(Status::UriTooLong, "the request line is too long"))
        }
        httparse::Status::Partial => Err(HttpError::new(Status::HeadTooLarge, "the request head is longer than 8 KiB")),
    }
}

fn refuse(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::new(Status::HeadTooLarge, "the request has too many headers"),
        httparse::Error::Version => HttpError::new(Status::BadRequest, "only HTTP/1.1 is spoken here"),
        _ => HttpError::new(Status::BadRequest, "this is not an HTTP/1.1 request"),
    }
}

/// What a head must have beside its grammar.
fn check<'b>(raw: &httparse::Request<'_, 'b>) -> Result<Request<'b>, HttpError> {
    let bad = |text| HttpError::new(Status::BadRequest, text);
    let (Some(method), Some(target), Some(version)) = (raw.method, raw.path, raw.version) else {
        return Err(bad("this is not an HTTP/1.1 request"));
    };
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => return Err(HttpError::new(Status::MethodNotAllowed, "only GET and HEAD are served here")),
    };
    if !target.starts_with('/') {
        return Err(bad("the request target must begin with a slash"));
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut request = Request { method, path, query, is_http11: version == 1, host: "", headers: raw.headers.to_vec() };
    if request.values("Transfer-Encoding").next().is_some()
        || request.values("Content-Length").any(|length| length != b"0")
    {
        return Err(bad("a request here may not have a body"));
    }
    let mut hosts = request.values("Host");
    let host = hosts.next();
    if hosts.next().is_some() || (host.is_none() && request.is_http11) {
        return Err(bad("the request must have exactly one Host header"));
    }
    let host = std::str::from_utf8(host.unwrap_or_default()).map_err(|_| bad("the Host header is not text"))?;
    drop(hosts);
    request.host = host;
    Ok(request)
}

impl<'b> Request<'b> {
    /// Every value of a header, in order; `name` in any case.
    pub fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'b [u8]> + use<'s, 'b> {
        self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    /// The first value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'b str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether a header that is a comma-separated list has `token`, in any case, in any of its lines.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The elements of a header that is a comma-separated list, over all its lines.
    pub fn tokens<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'b [u8]> + use<'s, 'b> {
        self.values(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// The query's `name=value` pairs, decoded: `%XX` is a byte of UTF-8 and `+` a space. Empty pairs are skipped.
    pub fn query_pairs(&self) -> impl Iterator<Item = Result<(Cow<'b, str>, Cow<'b, str>), HttpError>> + use<'b> {
        let pairs = self.query.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((percent_decode(name, true)?, percent_decode(value, true)?))
        })
    }
}

/// Decodes one segment of a path. `/` in it must be written `%2F`; that is the caller's to check before.
pub fn decode_segment(segment: &str) -> Result<Cow<'_, str>, HttpError> {
    percent_decode(segment, false)
}

fn percent_decode(text: &str, plus_is_space: bool) -> Result<Cow<'_, str>, HttpError> {
    if !text.bytes().any(|byte| byte == b'%' || (plus_is_space && byte == b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let bad = HttpError::new(Status::BadRequest, "the URL has a broken percent-encoding");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let Some(([high, low], after)) = rest.split_first_chunk() else {
                    return Err(bad);
                };
                rest = after;
                match (hex_digit(*high), hex_digit(*low)) {
                    (Some(high), Some(low)) => bytes.push(high << 4 | low),
                    _ => return Err(bad),
                }
            }
            b'+' if plus_is_space => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| bad)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Whether an `Origin` is the page's own server: its authority equals `Host`, default ports left out. The scheme may be
/// `http` or `https`, since a proxy may have ended TLS. The origin `null` matches nothing.
#[must_use]
pub fn origin_matches_host(origin: &str, host: &str) -> bool {
    let (authority, default_port) = if let Some(authority) = strip_prefix_ignore_case(origin, "http://") {
        (authority, ":80")
    } else if let Some(authority) = strip_prefix_ignore_case(origin, "https://") {
        (authority, ":443")
    } else {
        return false;
    };
    let authority = authority.strip_suffix(default_port).unwrap_or(authority);
    let host = host.strip_suffix(default_port).unwrap_or(host);
    !authority.is_empty() && authority.eq_ignore_ascii_case(host)
}

fn strip_prefix_ignore_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let front = text.get(..prefix.len())?;
    front.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// Whether a `Host` names this machine to itself: `localhost`, `127.0.0.0/8` or `[::1]`, with or without a port.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()) {
                ("localhost", port)
            } else {
                return false;
            }
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port_is_right = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    let is_loopback =
        name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    port_is_right && is_loopback
}

/// Most headers of one request.
pub const HEADERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Result<Request<'_>, HttpError> {
        let (request, len) = parse(text.as_bytes())?.expect("the head is complete");
        assert_eq!(len, text.len());
        Ok(request)
    }

    fn status(text: &str) -> u16 {
        whole(text).expect_err(text).status.code()
    }

    #[test]
    fn reads_what_a_browser_sends() {
        let text = "GET /ws?room=lobby&name=Ann+%C3%96 HTTP/1.1\r\nHost: localhost:9000\r\n\
                    Connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n";
        let request = whole(text).unwrap();
        assert_eq!((request.method, request.path, request.is_http11), (Method::Get, "/ws", true));
        assert_eq!(request.host, "localhost:9000");
        assert_eq!(request.header("UPGRADE"), Some("websocket"));
        assert!(request.has_token("connection", "upgrade"));
        assert!(!request.has_token("connection", "close"));
        let pairs: Vec<_> = request.query_pairs().map(Result::unwrap).collect();
        assert_eq!(pairs, [("room".into(), "lobby".into()), ("name".into(), "Ann Ö".into())]);
    }

    #[test]
    fn malformed_requests_get_the_status_that_fits() {
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX));
        let table = [
            ("no host", "GET / HTTP/1.1\r\n\r\n", 400),
            ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("post", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", 405),
            ("connect", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", 400),
            ("chunked", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("two lengths", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n", 400),
            ("absolute target", "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("HTTP/2", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
            ("JSON", "{\"type\":\"connect\"}\r\n\r\n", 400),
            ("TLS", "\x16\x03\x01\x02\r\n\r\n", 400),
            ("folded header", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
            ("space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("too many headers", &many, 431),
        ];
        for (name, text, expected) in table {
            assert_eq!(status(text), expected, "{name}");
        }
    }

    #[test]
    fn length_is_bounded_before_the_end_is_seen() {
        let line = format!("GET /{}", "x".repeat(HTTP_HEAD_BYTES_MAX));
        assert_eq!(parse(line.as_bytes()).unwrap_err().status, Status::UriTooLong);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(HTTP_HEAD_BYTES_MAX));
        assert_eq!(parse(head.as_bytes()).unwrap_err().status, Status::HeadTooLarge);
        // One byte decides, though all of it came at once.
        let fill = |len: usize| {
            let front = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
            format!("{front}{}\r\n\r\n", "x".repeat(len - front.len() - 4))
        };
        assert!(whole(&fill(HTTP_HEAD_BYTES_MAX)).is_ok());
        assert_eq!(parse(fill(HTTP_HEAD_BYTES_MAX + 1).as_bytes()).unwrap_err().status, Status::HeadTooLarge);
    }

    #[test]
    fn percent_encoding_is_strict() {
        assert_eq!(decode_segment("a+b%2Fc%e2%82%ac").unwrap(), "a+b/c€");
        assert!(matches!(decode_segment("plain"), Ok(Cow::Borrowed("plain"))));
        for broken in ["%", "%4", "%zz", "%+1", "%ff", "%e2%82", "a%c0%af"] {
            assert_eq!(decode_segment(broken).unwrap_err().status, Status::BadRequest, "{broken}");
        }
        let request = whole("GET /?&a&=b&c=%zz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let pairs: Vec<_> = request.query_pairs().collect();
        assert_eq!(pairs[0], Ok(("a".into(), "".into())));
        assert_eq!(pairs[1], Ok(("".into(), "b".into())));
        assert!(pairs[2].is_err() && pairs.len() == 3);
    }

    #[test]
    fn origins_match_their_own_host_alone() {
        let table = [
            ("http://localhost:9000", "localhost:9000", true),
            ("https://chat.example", "chat.example", true),
            ("https://chat.example", "Chat.Example:443", true),
            ("http://chat.example:80", "chat.example", true),
            ("http://[::1]:9000", "[::1]:9000", true),
            ("http://localhost:9001", "localhost:9000", false),
            ("http://chat.example", "chat.example:443", false),
            ("http://evil.example", "chat.example", false),
            ("http://chat.example.evil", "chat.example", false),
            ("null", "null", false),
            ("http://", "", false),
            ("file://chat.example", "chat.example", false),
        ];
        for (origin, host, expected) in table {
            assert_eq!(origin_matches_host(origin, host), expected, "{origin} {host}");
        }
    }

    #[test]
    fn loopback_hosts_are_known_by_their_address() {
        for host in ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.8.9.10:1", "[::1]", "[::1]:9000"] {
            assert!(is_loopback_host(host), "{host}");
        }
        let others = [
            "",
            "localhost.evil",
            "localhost:",
            "localhost:+1",
            "localhost:99999",
            "127.0.0.1.evil:80",
            "128.0.0.1",
            "[::2]",
            "[::1]x",
            "[::1",
            "::1",
            "127.1",
            "user@localhost",
            "0.0.0.0",
        ];
        for host in others {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn responses_are_complete() {
        let mut out = Vec::new();
        write_response(Status::Ok, &[("ETag", "\"1\"")], b"hi", false, &mut out);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"1\"\r\nContent-Length: 2\r\n\r\nhi");
        out.clear();
        HttpError::new(Status::ServiceUnavailable, "full").write(true, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("Retry-After: 5\r\n") && text.ends_with("Content-Length: 5\r\n\r\n"), "{text}");
        let mut out = Vec::new();
        HttpError::new(Status::UpgradeRequired, "speak WebSocket").write(false, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 426 ") && text.contains("Sec-WebSocket-Version: 13\r\n"), "{text}");
    }

    proptest! {
        #[test]
        fn any_prefix_answers_as_the_whole(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..100),
                "(GET|HEAD|PUT) /[a-z%?&=]{0,9} HTTP/1.[01]\r\n(Host|Content-Length|X)( ){0,1}: [a-z0]{0,4}\r\n(Host: b\r\n)?\r\n[a-z]{0,5}"
                    .prop_map(String::into_bytes),
            ],
        ) {
            let whole = parse(&bytes);
            for end in 0..bytes.len() {
                match parse(&bytes[..end]) {
                    Ok(None) => {}
                    answer => prop_assert_eq!(&answer, &whole),
                }
            }
        }
    }
}
