//! The PROXY protocol: the header by which a proxy says whose connection it passes on. Version 1 is a line of text,
//! version 2 is binary (HAProxy, "The PROXY protocol", versions 1 and 2, sections 2.1 and 2.2).
//!
//! Both are understood, for TCP over IPv4 and IPv6. A header is read whole or not at all, at most
//! [`PROXY_HEADER_BYTES_MAX`] bytes long; the bytes after it are the client's own. Fields that follow the addresses of
//! version 2 (TLVs) are passed over, but for the checksum, which must be right where it stands. Absent on purpose: datagrams
//! and UNIX sockets, which nobody passes on to a chat server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whose connection a header says this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client at this address.
    Client(IpAddr),
    /// The proxy itself, which looks whether the server is well, or a client that it knows nothing of.
    Proxy,
}

/// Why a connection does not begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// It begins with something else.
    #[error("the connection does not begin with a PROXY header")]
    Absent,
    /// It is longer than allowed, or than its version can be.
    #[error("the PROXY header is too long")]
    TooLong,
    /// It breaks the grammar.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// It speaks of something else than TCP over IP, or of a later version.
    #[error("the PROXY header is of a kind that is not spoken here")]
    Unsupported,
    /// Its checksum is wrong.
    #[error("the PROXY header's checksum is wrong")]
    Checksum,
}

/// Reads a header from the front of `bytes`, with its length. `None`: it goes on after `bytes`; call again with all of
/// them and more.
///
/// Never looks past [`PROXY_HEADER_BYTES_MAX`] bytes, and gives `None` for fewer than that alone.
pub fn parse(bytes: &[u8]) -> Result<Option<(Origin, usize)>, ProxyError> {
    if is_front(V2_SIGNATURE, bytes) {
        return parse_v2(bytes);
    }
    if is_front(V1_SIGNATURE, bytes) {
        return parse_v1(bytes);
    }
    Err(ProxyError::Absent)
}

/// Whether `bytes` begin with `signature`, as far as they go.
fn is_front(signature: &[u8], bytes: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443` and CRLF.
fn parse_v1(bytes: &[u8]) -> Result<Option<(Origin, usize)>, ProxyError> {
    let seen = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', seen) else {
        return if seen.len() < V1_BYTES_MAX { Ok(None) } else { Err(ProxyError::TooLong) };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(ProxyError::Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Malformed)?;
    let mut fields = line.split(' ').skip(1);
    let mut next = || fields.next().ok_or(ProxyError::Malformed);
    let origin = match next()? {
        // What follows is to be ignored (section 2.1).
        "UNKNOWN" => return Ok(Some((Origin::Proxy, end + 1))),
        "TCP4" => (address::<Ipv4Addr>(next()?)?, address::<Ipv4Addr>(next()?)?).0.into(),
        "TCP6" => (address::<Ipv6Addr>(next()?)?, address::<Ipv6Addr>(next()?)?).0.to_canonical(),
        _ => return Err(ProxyError::Unsupported),
    };
    for _ in 0..2 {
        port(next()?)?;
    }
    if fields.next().is_some() {
        return Err(ProxyError::Malformed);
    }
    Ok(Some((Origin::Client(origin), end + 1)))
}

fn address<T: std::str::FromStr>(text: &str) -> Result<T, ProxyError> {
    text.parse().map_err(|_| ProxyError::Malformed)
}

fn port(text: &str) -> Result<u16, ProxyError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ProxyError::Malformed);
    }
    address(text)
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(Origin, usize)>, ProxyError> {
    let Some(front) = bytes.first_chunk::<V2_FRONT_BYTES>() else { return Ok(None) };
    let [.., version_and_command, family, high, low] = *front;
    if version_and_command >> 4 != 2 {
        return Err(ProxyError::Unsupported);
    }
    let len = V2_FRONT_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if len > PROXY_HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(header) = bytes.get(..len) else { return Ok(None) };
    let body = &header[V2_FRONT_BYTES..];
    let (origin, fields) = match (version_and_command & 0x0f, family) {
        // What follows is to be ignored, the family too (section 2.2).
        (COMMAND_LOCAL, _) => return Ok(Some((Origin::Proxy, len))),
        // How long an address of no family is, nobody knows, so no fields can be found behind it.
        (COMMAND_PROXY, 0x00) => return Ok(Some((Origin::Proxy, len))),
        (COMMAND_PROXY, TCP_OVER_IPV4) => {
            let (addresses, fields) = body.split_first_chunk::<12>().ok_or(ProxyError::Malformed)?;
            let [a, b, c, d, ..] = *addresses;
            (Origin::Client(Ipv4Addr::new(a, b, c, d).into()), fields)
        }
        (COMMAND_PROXY, TCP_OVER_IPV6) => {
            let (addresses, fields) = body.split_first_chunk::<36>().ok_or(ProxyError::Malformed)?;
            let (source, _) = addresses.split_first_chunk::<16>().ok_or(ProxyError::Malformed)?;
            (Origin::Client(Ipv6Addr::from(*source).to_canonical()), fields)
        }
        _ => return Err(ProxyError::Unsupported),
    };
    check_fields(header, fields)?;
    Ok(Some((origin, len)))
}

/// Passes over the fields after the addresses: a type, a length in two bytes, and so many bytes.
fn check_fields(header: &[u8], mut fields: &[u8]) -> Result<(), ProxyError> {
    while let Some(([kind, high, low], rest)) = fields.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(len).ok_or(ProxyError::Malformed)?;
        if *kind == FIELD_CRC32C {
            let expected: [u8; 4] = value.try_into().map_err(|_| ProxyError::Malformed)?;
            let at = header.len() - rest.len() - 4;
            if crc32c(header, at..at + 4) != u32::from_be_bytes(expected) {
                return Err(ProxyError::Checksum);
            }
        }
        fields = rest;
    }
    if fields.is_empty() { Ok(()) } else { Err(ProxyError::Malformed) }
}

/// The Castagnoli checksum (RFC 3720, appendix B.4) of `bytes`, with those in `zeroed` taken for zero.
fn crc32c(bytes: &[u8], zeroed: std::ops::Range<usize>) -> u32 {
    let mut crc = !0_u32;
    for (index, &byte) in bytes.iter().enumerate() {
        crc ^= if zeroed.contains(&index) { 0 } else { u32::from(byte) };
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// Longest header: what a proxy says of the TLS session that it ended fits well.
pub const PROXY_HEADER_BYTES_MAX: usize = 1_024;
/// Longest line of version 1, its end included (section 2.1).
const V1_BYTES_MAX: usize = 107;
const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FRONT_BYTES: usize = V2_SIGNATURE.len() + 4;
const COMMAND_LOCAL: u8 = 0;
const COMMAND_PROXY: u8 = 1;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// PP2_TYPE_CRC32C.
const FIELD_CRC32C: u8 = 0x03;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(text: &str) -> Origin {
        Origin::Client(text.parse().unwrap())
    }

    fn v2(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_be_bytes();
        [V2_SIGNATURE, &[version_and_command, family], &len, body].concat()
    }

    fn tcp4(fields: &[u8]) -> Vec<u8> {
        v2(0x21, 0x11, &[&[192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb], fields].concat())
    }

    /// A header with a checksum between two other fields.
    fn checked() -> Vec<u8> {
        let mut header = tcp4(b"\x04\x00\x02xx\x03\x00\x04\0\0\0\0\x05\x00\x01y");
        let at = header.len() - 8;
        let crc = crc32c(&header, at..at + 4).to_be_bytes();
        header[at..at + 4].copy_from_slice(&crc);
        header
    }

    #[test]
    fn lines_of_version_1_name_the_client() {
        let table = [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", client("192.0.2.1")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", client("2001:db8::1")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", client("192.0.2.1")),
            ("PROXY UNKNOWN\r\n", Origin::Proxy),
            ("PROXY UNKNOWN ffff::1 whatever\r\n", Origin::Proxy),
        ];
        for (line, origin) in table {
            let bytes = [line.as_bytes(), b"GET /"].concat();
            assert_eq!(parse(&bytes), Ok(Some((origin, line.len()))), "{line}");
        }
    }

    #[test]
    fn headers_of_version_2_name_the_client() {
        let six: Vec<u8> = [[0x20, 0x01, 0x0d, 0xb8].as_slice(), &[0; 11], &[1], &[0; 20]].concat();
        let table = [
            (tcp4(b""), client("192.0.2.1")),
            (tcp4(b"\x01\x00\x02h2"), client("192.0.2.1")),
            (v2(0x21, 0x21, &six), client("2001:db8::1")),
            (v2(0x20, 0x00, b""), Origin::Proxy),
            (v2(0x20, 0x11, b"anything"), Origin::Proxy),
            (v2(0x21, 0x00, b"\x03\x00"), Origin::Proxy),
            (checked(), client("192.0.2.1")),
        ];
        for (header, origin) in table {
            let len = header.len();
            let bytes = [header.as_slice(), b"{\"type\""].concat();
            assert_eq!(parse(&bytes), Ok(Some((origin, len))), "{header:?}");
        }
    }

    #[test]
    fn the_checksum_is_the_castagnoli_polynomial() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32], 0..0), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32], 0..0), 0x62a8_ab43);
        assert_eq!(crc32c(&[0xff; 32], 0..32), 0x8a91_36aa);
    }

    #[test]
    fn every_bit_of_a_header_with_a_checksum_counts() {
        let whole = parse(&checked());
        for bit in V2_FRONT_BYTES * 8..checked().len() * 8 {
            let mut broken = checked();
            broken[bit / 8] ^= 1 << (bit % 8);
            let answer = parse(&broken);
            // The type and length of the fields decide whether there is a checksum at all.
            let in_framing = [28, 29, 30, 33, 34, 35].contains(&(bit / 8));
            assert!(in_framing || answer != whole, "bit {bit}: {answer:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_by_its_fault() {
        let long_line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat();
        let long = v2(0x21, 0x11, &[0; PROXY_HEADER_BYTES_MAX - V2_FRONT_BYTES + 1]);
        let mut wrong = checked();
        wrong[16] ^= 1;
        let table: [(&[u8], ProxyError); 19] = [
            (b"GET / HTTP/1.1\r\n", ProxyError::Absent),
            (b"{\"type\":\"connect\"}\n", ProxyError::Absent),
            (b"PROXIED", ProxyError::Absent),
            (b"\r\n\r\n\0\r\nQUIX", ProxyError::Absent),
            (&long_line, ProxyError::TooLong),
            (&long[..V2_FRONT_BYTES], ProxyError::TooLong),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", ProxyError::Malformed),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", ProxyError::Malformed),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n", ProxyError::Malformed),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", ProxyError::Malformed),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", ProxyError::Malformed),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", ProxyError::Malformed),
            (b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Unsupported),
            (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Unsupported),
            (b"PROXY \r\n", ProxyError::Unsupported),
            (&v2(0x31, 0x11, b""), ProxyError::Unsupported),
            (&v2(0x21, 0x31, &[0; 216]), ProxyError::Unsupported),
            (&v2(0x21, 0x21, &[0; 35]), ProxyError::Malformed),
            (&wrong, ProxyError::Checksum),
        ];
        for (bytes, error) in table {
            assert_eq!(parse(bytes), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(parse(&tcp4(b"\x03\x00\x03abc")), Err(ProxyError::Malformed));
        assert_eq!(parse(&tcp4(b"\x01\x00\x09short")), Err(ProxyError::Malformed));
        assert_eq!(parse(&tcp4(b"\x01\x00")), Err(ProxyError::Malformed));
    }

    proptest! {
        #[test]
        fn any_prefix_answers_as_the_whole(
            front in prop_oneof![
                Just(Vec::new()),
                Just(V1_SIGNATURE.to_vec()),
                Just([V2_SIGNATURE, b"\x21\x11\x00\x1a"].concat()),
                Just([V2_SIGNATURE, b"\x21\x21\x00\x2f"].concat()),
                "PROXY (TCP4|TCP6|UNKNOWN) [0-9.]{0,9} (1.2.3.4|::1) [0-9]{0,6} 1\r?\n".prop_map(String::into_bytes),
            ],
            rest in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let bytes = [front, rest].concat();
            let whole = parse(&bytes);
            for end in 0..bytes.len() {
                match parse(&bytes[..end]) {
                    Ok(None) => prop_assert!(end < PROXY_HEADER_BYTES_MAX),
                    answer => prop_assert_eq!(answer, whole),
                }
            }
        }
    }
}
