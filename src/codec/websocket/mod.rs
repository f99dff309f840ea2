//! The WebSocket protocol, RFC 6455, without extensions.
//!
//! [`Decoder`] turns received bytes into messages and control frames; [`frame`] writes frames; [`handshake`] opens the
//! connection from either side. Replies are left to the caller: the decoder never answers a ping or a close.

pub mod decoder;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod utf8;

use crate::message::close::CloseReason;

pub use decoder::{Decoder, Item};
pub use frame::Opcode;

/// Which side of the connection reads. It decides who must mask (RFC 6455, section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads what a client sends: every frame must be masked.
    Server,
    /// Reads what a server sends: no frame may be masked.
    Client,
}

/// How a peer broke the protocol. Nothing can be read from the connection after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A reserved bit is set although no extension was negotiated.
    #[error("a reserved bit is set")]
    ReservedBit,
    /// Opcodes 3 to 7 and 11 to 15 mean nothing.
    #[error("the opcode is reserved")]
    ReservedOpcode,
    /// A client's frame without a mask.
    #[error("the frame is not masked")]
    MaskMissing,
    /// A server's frame with a mask.
    #[error("the frame is masked")]
    MaskUnexpected,
    /// A length that a shorter form could have carried.
    #[error("the length is not in its shortest form")]
    LengthNotMinimal,
    /// The top bit of a 64-bit length is set.
    #[error("the length has its top bit set")]
    LengthTopBit,
    /// A control frame of more than 125 bytes.
    #[error("the control frame is longer than 125 bytes")]
    ControlTooLong,
    /// A control frame without the FIN bit.
    #[error("the control frame is fragmented")]
    ControlFragmented,
    /// A continuation with nothing to continue.
    #[error("there is no message to continue")]
    ContinuationUnexpected,
    /// A new message before the last one ended.
    #[error("a fragmented message is interrupted by another")]
    MessageInterrupted,
    /// A close frame with a single byte, half a code.
    #[error("the close frame holds half a code")]
    CloseTruncated,
    /// A close code that may not be sent (RFC 6455, section 7.4).
    #[error("the close code {0} may not be sent")]
    CloseCode(u16),
    /// Text, or the reason in a close frame, that is not UTF-8.
    #[error("text is not UTF-8")]
    InvalidUtf8,
    /// A message larger than allowed, or a header that announces one.
    #[error("the message is too large")]
    MessageTooLarge,
}

impl ProtocolError {
    /// How the connection is closed for it: 1002, 1007 or 1009.
    #[must_use]
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::InvalidUtf8 => CloseReason::InvalidUtf8,
            Self::MessageTooLarge => CloseReason::MessageTooLarge,
            _ => CloseReason::ProtocolError,
        }
    }
}
