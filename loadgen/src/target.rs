//! Where the load goes: a URL, taken apart and resolved.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The chat protocol in JSON over WebSocket.
    Chat,
    /// The chat protocol in JSON lines over TCP.
    Lines,
    /// Redis's own protocol (RESP), for comparison: a message is an `XADD` to the stream of the room's name.
    Resp,
    /// WebSocket messages relayed as they are to everyone on the same path.
    Relay,
}

/// A server, and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether it is spoken over TLS.
    pub has_tls: bool,
    /// Its address.
    pub address: SocketAddr,
    /// `host:port` as it was written, for the `Host` header.
    pub authority: String,
    /// Path and query of the WebSocket URL; may hold `{room}`.
    pub path: String,
}

impl Target {
    /// Takes a URL apart and resolves its host to the first address it has.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let fail = |problem: &str| TargetError { url: url.to_owned(), problem: problem.to_owned() };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| fail("write ws://HOST:PORT/PATH or tcp://HOST:PORT, or wss:// or tls://"))?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let protocol = match (scheme, path.contains(ROOM)) {
            ("ws" | "wss", false) => Protocol::Chat,
            ("ws" | "wss", true) => Protocol::Relay,
            ("tcp" | "tls", _) if path.is_empty() || path == "/" => Protocol::Lines,
            ("redis", _) if path.is_empty() || path == "/" => Protocol::Resp,
            ("tcp" | "tls", _) => return Err(fail("a tcp:// or tls:// URL has no path")),
            ("redis", _) => return Err(fail("a redis:// URL has no path here: streams are named after rooms")),
            _ => return Err(fail("its scheme is neither ws nor tcp (nor wss, tls or redis)")),
        };
        if path.bytes().any(|byte| byte <= b' ' || byte == b'#') {
            return Err(fail("the path has white space or a fragment"));
        }
        let address = resolve(authority).ok_or_else(|| fail("the host and port do not resolve; write HOST:PORT"))?;
        let path = if path.is_empty() { PATH_DEFAULT } else { path };
        let has_tls = matches!(scheme, "wss" | "tls");
        Ok(Self { protocol, has_tls, address, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// The path for a member of `room`.
    #[must_use]
    pub fn path_of(&self, room: &str) -> String {
        self.path.replace(ROOM, room)
    }

    /// Load goes to this machine alone unless someone asked for more.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.to_canonical().is_loopback(),
        }
    }
}

/// Why a target cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("target = {url}: {problem}")]
pub struct TargetError {
    url: String,
    problem: String,
}

fn resolve(authority: &str) -> Option<SocketAddr> {
    authority.to_socket_addrs().ok()?.next()
}

const ROOM: &str = "{room}";
const PATH_DEFAULT: &str = "/ws";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_what_is_spoken_and_where() {
        let table = [
            ("ws://127.0.0.1:9000", Protocol::Chat, "/ws"),
            ("ws://127.0.0.1:9000/chat?x=1", Protocol::Chat, "/chat?x=1"),
            ("ws://[::1]:9000/relay/{room}", Protocol::Relay, "/relay/{room}"),
            ("tcp://127.0.0.1:9001", Protocol::Lines, "/ws"),
            ("redis://127.0.0.1:6379", Protocol::Resp, "/ws"),
        ];
        for (url, protocol, path) in table {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.protocol, target.path.as_str()), (protocol, path), "{url}");
            assert!(target.is_loopback(), "{url}");
        }
        for (url, protocol) in [("wss://127.0.0.1:9000", Protocol::Chat), ("tls://127.0.0.1:9001", Protocol::Lines)] {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.protocol, target.has_tls), (protocol, true), "{url}");
        }
        let target = Target::parse("ws://[::1]:9000/relay/{room}").unwrap();
        assert!(!target.has_tls);
        assert_eq!(target.path_of("a-1"), "/relay/a-1");
        assert_eq!((target.authority.as_str(), target.address), ("[::1]:9000", "[::1]:9000".parse().unwrap()));
    }

    #[test]
    fn other_machines_are_told_apart() {
        assert!(!Target::parse("ws://192.0.2.1:80").unwrap().is_loopback());
        assert!(Target::parse("ws://[::ffff:127.0.0.1]:80").unwrap().is_loopback());
    }

    #[test]
    fn a_bad_url_is_refused_with_the_remedy() {
        let table = [
            ("127.0.0.1:9000", "write ws://"),
            ("http://127.0.0.1:9000", "neither ws nor tcp"),
            ("https://127.0.0.1:9000", "neither ws nor tcp"),
            ("tcp://127.0.0.1:9001/x", "has no path"),
            ("redis://127.0.0.1:6379/0", "has no path here"),
            ("ws://127.0.0.1", "write HOST:PORT"),
            ("ws://127.0.0.1:9000/a b", "white space"),
        ];
        for (url, expected) in table {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{url} gave {error}");
        }
    }
}
