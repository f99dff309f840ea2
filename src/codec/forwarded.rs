//! Whose request a proxy passes on, from the headers that it adds: `X-Forwarded-For`, and `Forwarded` (RFC 7239).
//!
//! Each proxy appends the address that it was reached from, so the list is true from the right as far as proxies are
//! trusted: what stands left of the first address that is not a trusted proxy's may be made up by the client.

use std::net::{IpAddr, SocketAddr};

use crate::codec::http::Request;

/// The header that a proxy writes. Only one of them is believed: the other passes through proxies as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy`.
    Forwarded,
}

/// The address of the client whose request came from the trusted proxy at `peer`: the rightmost in the header that is
/// not of a trusted proxy. Where the list ends, or cannot be read any further, it is the last one known.
pub fn client(request: &Request<'_>, header: ProxyHeader, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let name = match header {
        ProxyHeader::XForwardedFor => "X-Forwarded-For",
        ProxyHeader::Forwarded => "Forwarded",
    };
    // A head has at most 8 KiB, which bounds the list.
    let hops: Vec<&[u8]> = request.tokens(name).collect();
    let mut client = peer;
    for hop in hops.into_iter().rev() {
        let Some(address) = read(hop, header) else { break };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    client
}

fn read(hop: &[u8], header: ProxyHeader) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    match header {
        ProxyHeader::XForwardedFor => address(hop),
        ProxyHeader::Forwarded => {
            let mut pairs = hop.split(';').filter_map(|pair| pair.trim().split_once('='));
            let (_, node) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
            address(node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node))
        }
    }
}

/// An address, alone or with a port; IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::http;

    fn found(header: ProxyHeader, lines: &str) -> String {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let (request, _) = http::parse(head.as_bytes()).unwrap().unwrap();
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.");
        client(&request, header, "10.0.0.1".parse().unwrap(), is_trusted).to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_not_a_proxys_is_the_client() {
        let table = [
            ("", "10.0.0.1"),
            ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 192.0.2.1, 10.0.0.2\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 203.0.113.9\r\nx-forwarded-for: 192.0.2.1,10.0.0.3\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 10.0.0.4, 10.0.0.2\r\n", "10.0.0.4"),
            ("X-Forwarded-For: 192.0.2.1:5555\r\n", "192.0.2.1"),
            ("X-Forwarded-For: [2001:db8::1]:5555\r\n", "2001:db8::1"),
            ("X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1"),
            ("X-Forwarded-For: ::ffff:192.0.2.1\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 203.0.113.9, nonsense, 10.0.0.2\r\n", "10.0.0.2"),
            ("X-Forwarded-For: \r\n", "10.0.0.1"),
            ("Forwarded: for=192.0.2.1\r\n", "10.0.0.1"),
        ];
        for (lines, expected) in table {
            assert_eq!(found(ProxyHeader::XForwardedFor, lines), expected, "{lines}");
        }
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_wanted() {
        let table = [
            ("Forwarded: for=192.0.2.1;proto=https, for=10.0.0.2\r\n", "192.0.2.1"),
            ("Forwarded: proto=https;For=\"[2001:db8::1]:4711\"\r\n", "2001:db8::1"),
            ("Forwarded: for=203.0.113.9, for=_hidden, for=10.0.0.2\r\n", "10.0.0.2"),
            ("Forwarded: for=\"x, for=192.0.2.1\r\n", "192.0.2.1"),
            ("Forwarded: for=unknown\r\n", "10.0.0.1"),
            ("X-Forwarded-For: 192.0.2.1\r\n", "10.0.0.1"),
        ];
        for (lines, expected) in table {
            assert_eq!(found(ProxyHeader::Forwarded, lines), expected, "{lines}");
        }
    }
}
