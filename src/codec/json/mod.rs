//! Commands and events in JSON (`docs/protocol.md`): the `hubbub.v1.json` subprotocol and the lines of TCP.
//!
//! [`decode`] reads what clients send and [`encode`] writes what they get; [`decode_event`] is the client's side. No
//! tree is built: a scanner checks the grammar once and notes where each field lies. `content` is never looked into
//! beyond its grammar.

mod decode;
mod encode;
mod event;
pub mod scan;

pub use decode::{DecodeError, decode};
pub use encode::{encode, encode_string};
pub use event::{EventError, ServerEvent, decode_event};
