//! Frames (RFC 6455, section 5.2): headers are read and written here, and whole frames written.
//!
//! Reading a header checks all that a header alone can show. Whether it fits the frames before it is the decoder's
//! business. No extensions: a reserved bit is always an error.

use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;

use super::mask;
use super::{ProtocolError, Role};

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of the message that an earlier frame began.
    Continuation = 0,
    /// The beginning, or all, of a text message.
    Text = 1,
    /// The beginning, or all, of a binary message.
    Binary = 2,
    /// The sender sends nothing more.
    Close = 8,
    /// Asks for a pong.
    Ping = 9,
    /// Answers a ping, or nothing.
    Pong = 10,
}

impl Opcode {
    /// Control frames are short, whole, and allowed between the fragments of a message.
    #[must_use]
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the frame ends its message.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// The masking key; all zero, which changes nothing, when there is none.
    pub key: [u8; 4],
    /// Bytes of payload that follow, below 2^63.
    pub payload_len: u64,
}

impl Header {
    /// Reads a header from the front of `bytes`, with its own length in bytes. `None`: it goes on after `bytes`.
    ///
    /// A fault is found as soon as the byte that shows it is there, so that more bytes never change the answer.
    #[inline]
    pub fn read(bytes: &[u8], role: Role) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        if first & RESERVED_BITS != 0 {
            return Err(ProtocolError::ReservedBit);
        }
        let fin = first & FIN_BIT != 0;
        let opcode = Opcode::from_bits(first & OPCODE_BITS).ok_or(ProtocolError::ReservedOpcode)?;
        if opcode.is_control() && !fin {
            return Err(ProtocolError::ControlFragmented);
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        let masked = second & MASK_BIT != 0;
        match role {
            Role::Server if !masked => return Err(ProtocolError::MaskMissing),
            Role::Client if masked => return Err(ProtocolError::MaskUnexpected),
            _ => {}
        }
        let short = second & LENGTH_BITS;
        if opcode.is_control() && usize::from(short) > CONTROL_PAYLOAD_BYTES_MAX {
            return Err(ProtocolError::ControlTooLong);
        }
        let Some((payload_len, len)) = read_length(short, &bytes[2..])? else {
            return Ok(None);
        };
        let at = 2 + len;
        if !masked {
            return Ok(Some((Self { fin, opcode, key: [0; 4], payload_len }, at)));
        }
        let key = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
        Ok(key.map(|key| (Self { fin, opcode, key: *key, payload_len }, at + 4)))
    }
}

/// The payload's length and how many bytes told it beside the seven bits of `short`.
fn read_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, ProtocolError> {
    match short {
        LENGTH_16 => {
            let Some(length) = bytes.first_chunk().map(|length| u16::from_be_bytes(*length)) else {
                return Ok(None);
            };
            if length < u16::from(LENGTH_16) {
                return Err(ProtocolError::LengthNotMinimal);
            }
            Ok(Some((u64::from(length), 2)))
        }
        LENGTH_64 => {
            let Some(length) = bytes.first_chunk().map(|length| u64::from_be_bytes(*length)) else {
                return Ok(None);
            };
            if length >> 63 != 0 {
                return Err(ProtocolError::LengthTopBit);
            }
            if length <= u64::from(u16::MAX) {
                return Err(ProtocolError::LengthNotMinimal);
            }
            Ok(Some((length, 8)))
        }
        _ => Ok(Some((u64::from(short), 0))),
    }
}

/// Writes the header of a server's whole, unmasked frame to the front of `out`; returns the header's length.
#[inline]
pub fn header(opcode: Opcode, payload_len: usize, out: &mut [u8; SERVER_HEADER_BYTES_MAX]) -> usize {
    out[0] = FIN_BIT | opcode as u8;
    if payload_len < usize::from(LENGTH_16) {
        out[1] = payload_len as u8;
        return 2;
    }
    if let Ok(length) = u16::try_from(payload_len) {
        out[1] = LENGTH_16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        return 4;
    }
    out[1] = LENGTH_64;
    out[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
    10
}

/// Appends a server's whole, unmasked frame.
pub fn encode(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let mut bytes = [0; SERVER_HEADER_BYTES_MAX];
    let len = header(opcode, payload.len(), &mut bytes);
    out.reserve(len + payload.len());
    out.extend_from_slice(&bytes[..len]);
    out.extend_from_slice(payload);
}

/// Appends a client's whole frame, masked with `key`, which must be fresh and unpredictable for each frame of a client
/// that shares its network with others (RFC 6455, section 10.3).
pub fn encode_masked(opcode: Opcode, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    let mut bytes = [0; SERVER_HEADER_BYTES_MAX];
    let len = header(opcode, payload.len(), &mut bytes);
    bytes[1] |= MASK_BIT;
    out.reserve(len + key.len() + payload.len());
    out.extend_from_slice(&bytes[..len]);
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    mask::apply(&mut out[start..], key);
}

/// Appends a server's close frame. `None` is a close without a code; then there is no reason either.
pub fn encode_close(code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
    let mut payload = [0; CONTROL_PAYLOAD_BYTES_MAX];
    let len = close_payload(code, reason, &mut payload);
    encode(Opcode::Close, &payload[..len], out);
}

/// Appends a client's close frame; as [`encode_close`], masked with `key`.
pub fn encode_close_masked(code: Option<u16>, reason: &str, key: [u8; 4], out: &mut Vec<u8>) {
    let mut payload = [0; CONTROL_PAYLOAD_BYTES_MAX];
    let len = close_payload(code, reason, &mut payload);
    encode_masked(Opcode::Close, &payload[..len], key, out);
}

/// The reason is cut, between characters, to what a control frame holds.
fn close_payload(code: Option<u16>, reason: &str, payload: &mut [u8; CONTROL_PAYLOAD_BYTES_MAX]) -> usize {
    let Some(code) = code else {
        return 0;
    };
    payload[..2].copy_from_slice(&code.to_be_bytes());
    let mut reason_len = reason.len().min(CONTROL_PAYLOAD_BYTES_MAX - 2);
    while !reason.is_char_boundary(reason_len) {
        reason_len -= 1;
    }
    let reason = &reason[..reason_len];
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    2 + reason.len()
}

/// Longest header of any frame, in bytes.
pub const HEADER_BYTES_MAX: usize = 14;
/// Longest header of a frame without a mask, in bytes.
pub const SERVER_HEADER_BYTES_MAX: usize = 10;

const FIN_BIT: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE_BITS: u8 = 0x0f;
const MASK_BIT: u8 = 0x80;
const LENGTH_BITS: u8 = 0x7f;
/// Says that the length follows in 16 bits; also the smallest length that needs them.
const LENGTH_16: u8 = 126;
/// Says that the length follows in 64 bits.
const LENGTH_64: u8 = 127;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_faults_are_named() {
        use ProtocolError as E;
        let table: [(&str, Role, &[u8], ProtocolError); 18] = [
            ("first reserved bit", Role::Server, &[0xc1], E::ReservedBit),
            ("second reserved bit", Role::Server, &[0xa1], E::ReservedBit),
            ("third reserved bit", Role::Server, &[0x91], E::ReservedBit),
            ("opcode 3", Role::Server, &[0x83], E::ReservedOpcode),
            ("opcode 7", Role::Server, &[0x87], E::ReservedOpcode),
            ("opcode 11", Role::Server, &[0x8b], E::ReservedOpcode),
            ("opcode 15", Role::Server, &[0x8f], E::ReservedOpcode),
            ("ping without fin", Role::Server, &[0x09], E::ControlFragmented),
            ("close without fin", Role::Server, &[0x08], E::ControlFragmented),
            ("unmasked to the server", Role::Server, &[0x81, 0x05], E::MaskMissing),
            ("masked to the client", Role::Client, &[0x81, 0x85], E::MaskUnexpected),
            ("ping of 126 bytes", Role::Server, &[0x89, 0xfe], E::ControlTooLong),
            ("close of 64-bit length", Role::Client, &[0x88, 0x7f], E::ControlTooLong),
            ("125 in 16 bits", Role::Client, &[0x82, 0x7e, 0, 125], E::LengthNotMinimal),
            ("0 in 16 bits", Role::Server, &[0x82, 0xfe, 0, 0], E::LengthNotMinimal),
            ("65535 in 64 bits", Role::Client, &[0x82, 0x7f, 0, 0, 0, 0, 0, 0, 255, 255], E::LengthNotMinimal),
            ("top bit", Role::Client, &[0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0], E::LengthTopBit),
            ("all ones", Role::Server, &[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255], E::LengthTopBit),
        ];
        for (name, role, bytes, error) in table {
            assert_eq!(Header::read(bytes, role), Err(error), "{name}");
            let before = &bytes[..bytes.len() - 1];
            assert_eq!(Header::read(before, role), Ok(None), "{name}: found before its last byte");
        }
    }

    #[test]
    fn lengths_at_the_edges_of_each_form() {
        for (len, header_len) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut bytes = [0; SERVER_HEADER_BYTES_MAX];
            assert_eq!(header(Opcode::Binary, len, &mut bytes), header_len, "{len}");
            let expected = Header { fin: true, opcode: Opcode::Binary, key: [0; 4], payload_len: len as u64 };
            assert_eq!(Header::read(&bytes[..header_len], Role::Client), Ok(Some((expected, header_len))));
        }
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        encode_close(Some(1002), &"ö".repeat(100), &mut out);
        assert_eq!(&out[..4], [0x88, 124, 0x03, 0xea]);
        assert_eq!(std::str::from_utf8(&out[4..]).unwrap(), "ö".repeat(61));
        out.clear();
        encode_close(None, "not said", &mut out);
        assert_eq!(out, [0x88, 0]);
    }

    proptest! {
        #[test]
        fn any_header_is_read_from_its_whole_and_from_no_less(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            for role in [Role::Server, Role::Client] {
                let whole = Header::read(&bytes, role);
                for end in 0..=bytes.len() {
                    match Header::read(&bytes[..end], role) {
                        Ok(None) => {}
                        answer => prop_assert_eq!(answer, whole),
                    }
                }
            }
        }

        #[test]
        fn masked_frames_read_back(payload: Vec<u8>, key: [u8; 4]) {
            let mut out = Vec::new();
            encode_masked(Opcode::Text, &payload, key, &mut out);
            let (header, len) = Header::read(&out, Role::Server).unwrap().unwrap();
            prop_assert_eq!(header.key, key);
            prop_assert_eq!(header.payload_len, payload.len() as u64);
            mask::apply(&mut out[len..], key);
            prop_assert_eq!(&out[len..], &payload[..]);
        }
    }
}
