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
    // A head has at most 8 KiB, which bounds the lists.
    let hops: Vec<Option<IpAddr>> = match header {
        ProxyHeader::XForwardedFor => {
            let hops: Vec<&[u8]> = request.tokens("X-Forwarded-For").collect();
            hops.into_iter().rev().map(|hop| address(std::str::from_utf8(hop).ok()?)).collect()
        }
        ProxyHeader::Forwarded => {
            let lines: Vec<&[u8]> = request.values("Forwarded").collect();
            lines.into_iter().rev().flat_map(|line| rsplit_unquoted(line, b',')).map(element_address).collect()
        }
    };
    let mut client = peer;
    for hop in hops {
        let Some(address) = hop else { break };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// The address that an element of `Forwarded` names with `for`. `None`: it names none, more than one, or something else, or
/// is not of the form of the standard, so that it cannot be said where its quotes begin.
fn element_address(element: &[u8]) -> Option<IpAddr> {
    let element = std::str::from_utf8(element).ok()?;
    let mut node = None;
    for pair in rsplit_unquoted(element.as_bytes(), b';') {
        let pair = std::str::from_utf8(pair).ok()?.trim();
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        let value = unquote(value).filter(|_| !name.contains('"'))?;
        if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
            return None;
        }
    }
    address(node?)
}

/// What is between the quotes of a value, escapes as they are, or all of it where there are none. `None`: a quote is at a
/// place where none may be.
fn unquote(value: &str) -> Option<&str> {
    let Some(quoted) = value.strip_prefix('"') else {
        return (!value.contains('"')).then_some(value);
    };
    let inner = quoted.strip_suffix('"')?;
    let mut is_escaped = false;
    for byte in inner.bytes() {
        if byte == b'"' && !is_escaped {
            return None;
        }
        is_escaped = byte == b'\\' && !is_escaped;
    }
    (!is_escaped).then_some(inner)
}

/// The pieces of `text` between the separators that are not in quotes, from the right. A quote is read from its end, so a piece
/// does not depend on what stands left of it: only the last one given may have a quote that nothing opens.
fn rsplit_unquoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut is_quoted = false;
        let at = text.iter().enumerate().rposition(|(at, byte)| {
            if *byte == b'"' {
                let escapes = text[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
                is_quoted = !is_quoted || escapes % 2 == 1;
            }
            *byte == separator && !is_quoted
        });
        rest = at.map(|at| &text[..at]);
        Some(&text[at.map_or(0, |at| at + 1)..])
    })
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
    use proptest::prelude::*;

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
            // A client's Host, in quotes as the standard wants it.
            ("Forwarded: host=\"a,for=203.0.113.9;x=y\";for=192.0.2.1\r\n", "192.0.2.1"),
            ("Forwarded: for=192.0.2.1;host=\"a,for=203.0.113.9;x=y\"\r\n", "192.0.2.1"),
            ("Forwarded: for=192.0.2.1;host=\"a;for=203.0.113.9\", for=10.0.0.2\r\n", "192.0.2.1"),
            ("Forwarded: for=192.0.2.1;host=\"a\\\",for=203.0.113.9;x=\\\"\"\r\n", "192.0.2.1"),
            ("Forwarded: for=192.0.2.1;host=\"a\\\\\";, for=10.0.0.2;\r\n", "192.0.2.1"),
            // What a client has left open reaches no further than to what a proxy appended.
            ("Forwarded: for=203.0.113.9;x=\", for=\"192.0.2.1:80\"\r\n", "192.0.2.1"),
            ("Forwarded: for=203.0.113.9;x=\"\r\nForwarded: for=\"192.0.2.1:80\"\r\n", "192.0.2.1"),
            ("Forwarded: for=203.0.113.9;x=\", for=\"10.0.0.2\"\r\n", "10.0.0.2"),
            ("Forwarded: for=\"203.0.113.9, for=10.0.0.2\r\n", "10.0.0.2"),
            // Nothing is taken from an element that cannot be read as one.
            ("Forwarded: for=203.0.113.9;host=a\"\r\n", "10.0.0.1"),
            ("Forwarded: for=203.0.113.9;host=\"a\"b\"\r\n", "10.0.0.1"),
            ("Forwarded: for=203.0.113.9;host=\"a\\\"\r\n", "10.0.0.1"),
            ("Forwarded: for=203.0.113.9;\"a=b\"\r\n", "10.0.0.1"),
            ("Forwarded: for=203.0.113.9;\"a\"\r\n", "10.0.0.1"),
            ("Forwarded: for=203.0.113.9;for=192.0.2.1\r\n", "10.0.0.1"),
            ("Forwarded: for=\"203.0.113.\\9\"\r\n", "10.0.0.1"),
            ("X-Forwarded-For: 192.0.2.1\r\n", "10.0.0.1"),
        ];
        for (lines, expected) in table {
            assert_eq!(found(ProxyHeader::Forwarded, lines), expected, "{lines}");
        }
    }

    proptest! {
        #[test]
        fn what_a_client_writes_does_not_move_what_proxies_appended(
            before in "[\",;=\\\\ for6.]{0,24}",
            host in "[\",;=\\\\ for6.]{0,24}",
            is_new_line: bool,
        ) {
            let quoted = host.replace('\\', "\\\\").replace('"', "\\\"");
            let join = if is_new_line { "\r\nForwarded: " } else { ", " };
            let appended = format!("host=\"{quoted}\";for=192.0.2.1;by=\"{quoted}\", for=\"10.0.0.2\";host=\"{quoted}\"");
            let lines = format!("Forwarded: {before}{join}{appended}\r\n");
            prop_assert_eq!(found(ProxyHeader::Forwarded, &lines), "192.0.2.1", "{}", lines);
        }
    }
}
