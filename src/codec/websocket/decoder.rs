//! Reads frames and puts messages together.
//!
//! Invariants: a frame that lies whole in one piece of input is unmasked where it lies and handed out without a
//! copy. What must wait is kept in one box that exists only while something waits, so that an idle decoder is 16
//! bytes. Memory follows the bytes that arrived, never what a header claims. What the decoder hands out was checked:
//! text is UTF-8, close codes may be sent. Answering pings and closes, and ignoring what follows a close, is the
//! caller's part.

use std::borrow::Cow;

use super::frame::{HEADER_BYTES_MAX, Header};
use super::utf8::{self, InvalidUtf8, Validator};
use super::{Opcode, ProtocolError, Role, mask};

/// What a peer sent. Payloads borrow from the input where they lay there in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'i> {
    /// A text message; the bytes are UTF-8.
    Text(Cow<'i, [u8]>),
    /// A binary message.
    Binary(Cow<'i, [u8]>),
    /// A ping: answer with a pong of the same payload, at most 125 bytes.
    Ping(Cow<'i, [u8]>),
    /// A pong.
    Pong(Cow<'i, [u8]>),
    /// The peer sends nothing more: answer with a close and ignore what follows.
    Close {
        /// Why, if it says so.
        code: Option<u16>,
        /// Why, for people.
        reason: Cow<'i, str>,
    },
}

/// The reading half of one connection.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    /// Present exactly while a header, a frame or a message is incomplete.
    partial: Option<Box<Partial>>,
}

#[derive(Debug, Default)]
struct Partial {
    /// The front of a header whose rest has not come.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// The frame whose payload is arriving.
    frame: Option<OpenFrame>,
    /// The payload so far of the control frame that is arriving.
    control: Vec<u8>,
    /// The message to which fragments are being added.
    message: Option<Assembly>,
}

#[derive(Debug)]
struct OpenFrame {
    opcode: Opcode,
    fin: bool,
    /// Rotated so that it fits the next byte of the payload.
    key: [u8; 4],
    bytes_left: usize,
}

#[derive(Debug)]
struct Assembly {
    is_text: bool,
    bytes: Vec<u8>,
    /// Has seen all of `bytes`, if this is text.
    utf8: Validator,
}

impl Decoder {
    /// A decoder at the beginning of a stream of frames.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { role, partial: None }
    }

    /// Whether nothing is incomplete: the peer is between two messages.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Reads on to the next item and moves `input` past what was read. `None`: all input was taken and more is needed.
    ///
    /// A message may have `message_bytes_max` bytes; a header that announces more is refused at once. After an
    /// error nothing more can be read.
    #[inline]
    pub fn decode<'i>(
        &mut self,
        input: &mut &'i mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<Item<'i>>, ProtocolError> {
        loop {
            if self.partial.as_ref().is_some_and(|partial| partial.frame.is_some()) {
                let Some(frame) = self.take_payload(input, message_bytes_max)? else {
                    return Ok(None);
                };
                if let Some(item) = self.end_frame(&frame)? {
                    return Ok(Some(item));
                }
            }
            let Some(header) = self.take_header(input)? else {
                return Ok(None);
            };
            let len = self.admit(&header, message_bytes_max)?;
            let stands_alone = header.fin && header.opcode != Opcode::Continuation;
            if stands_alone && input.len() >= len {
                let payload = take_front(input, len);
                if header.key != [0; 4] {
                    mask::apply(payload, header.key);
                }
                return whole_item(header.opcode, payload).map(Some);
            }
            self.begin_frame(&header, len);
        }
    }

    /// The next header, if all of it is there; otherwise its front is kept.
    #[inline]
    fn take_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Header>, ProtocolError> {
        if self.partial.as_ref().is_some_and(|partial| partial.header_len > 0) {
            return self.take_split_header(input);
        }
        if let Some((header, len)) = Header::read(input, self.role)? {
            take_front(input, len);
            return Ok(Some(header));
        }
        if !input.is_empty() {
            let front = take_front(input, input.len());
            let partial = self.partial.get_or_insert_default();
            partial.header[..front.len()].copy_from_slice(front);
            partial.header_len = front.len() as u8;
        }
        Ok(None)
    }

    #[cold]
    fn take_split_header(&mut self, input: &mut &mut [u8]) -> Result<Option<Header>, ProtocolError> {
        let partial = self.partial.get_or_insert_default();
        let kept = usize::from(partial.header_len);
        let added = input.len().min(HEADER_BYTES_MAX - kept);
        partial.header[kept..kept + added].copy_from_slice(&input[..added]);
        let Some((header, len)) = Header::read(&partial.header[..kept + added], self.role)? else {
            // An incomplete header is shorter than the longest one, so all input was taken.
            take_front(input, added);
            partial.header_len += added as u8;
            return Ok(None);
        };
        take_front(input, len - kept);
        partial.header_len = 0;
        self.release();
        Ok(Some(header))
    }

    /// Whether the frame may come now, and its payload's length.
    fn admit(&self, header: &Header, message_bytes_max: usize) -> Result<usize, ProtocolError> {
        let message = self.partial.as_ref().and_then(|partial| partial.message.as_ref());
        let bytes_before = match (header.opcode, message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(header.payload_len as usize),
            (Opcode::Continuation, None) => return Err(ProtocolError::ContinuationUnexpected),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(ProtocolError::MessageInterrupted),
            (Opcode::Continuation, Some(message)) => message.bytes.len(),
            (Opcode::Text | Opcode::Binary, None) => 0,
        };
        // Below 2^63 and below 2^63: the sum cannot overflow.
        if bytes_before as u64 + header.payload_len > message_bytes_max as u64 {
            return Err(ProtocolError::MessageTooLarge);
        }
        Ok(header.payload_len as usize)
    }

    /// Makes room to keep a frame that must wait for its rest or for other fragments.
    #[cold]
    fn begin_frame(&mut self, header: &Header, len: usize) {
        let partial = self.partial.get_or_insert_default();
        partial.frame = Some(OpenFrame { opcode: header.opcode, fin: header.fin, key: header.key, bytes_left: len });
        if matches!(header.opcode, Opcode::Text | Opcode::Binary) {
            let is_text = header.opcode == Opcode::Text;
            partial.message = Some(Assembly { is_text, bytes: Vec::new(), utf8: Validator::default() });
        }
    }

    /// Keeps what input has of the open frame's payload; gives the frame once it is complete.
    fn take_payload(
        &mut self,
        input: &mut &mut [u8],
        message_bytes_max: usize,
    ) -> Result<Option<OpenFrame>, ProtocolError> {
        let Some(Partial { frame: Some(frame), control, message, .. }) = self.partial.as_deref_mut() else {
            return Ok(None);
        };
        let part = take_front(input, frame.bytes_left.min(input.len()));
        frame.key = mask::apply(part, frame.key);
        frame.bytes_left -= part.len();
        match message {
            Some(message) if !frame.opcode.is_control() => {
                let bytes_max =
                    if frame.fin { message.bytes.len() + part.len() + frame.bytes_left } else { message_bytes_max };
                message.push(part, bytes_max)?;
            }
            _ => control.extend_from_slice(part),
        }
        let complete = frame.bytes_left == 0;
        Ok(self.partial.as_mut().and_then(|partial| partial.frame.take_if(|_| complete)))
    }

    /// What a kept frame completes: a control frame, a message, or neither.
    fn end_frame(&mut self, frame: &OpenFrame) -> Result<Option<Item<'static>>, ProtocolError> {
        let Some(partial) = self.partial.as_deref_mut() else {
            return Ok(None);
        };
        let item = if frame.opcode.is_control() {
            let payload = std::mem::take(&mut partial.control);
            Some(kept_control(frame.opcode, payload)?)
        } else if frame.fin {
            partial.message.take().map(Assembly::finish).transpose()?
        } else {
            None
        };
        self.release();
        Ok(item)
    }

    /// Gives the box back when nothing waits in it.
    fn release(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| partial.frame.is_none() && partial.message.is_none()) {
            self.partial = None;
        }
    }
}

impl Assembly {
    /// Adds `part` of a message that will have at most `bytes_max` bytes.
    fn push(&mut self, part: &[u8], bytes_max: usize) -> Result<(), ProtocolError> {
        if self.is_text {
            self.utf8.push(part)?;
        }
        if self.bytes.capacity() - self.bytes.len() < part.len() {
            // Doubling, but not past the end of the message.
            let ahead = bytes_max.saturating_sub(self.bytes.len() + part.len()).min(self.bytes.len());
            self.bytes.reserve_exact(part.len() + ahead);
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    fn finish(self) -> Result<Item<'static>, ProtocolError> {
        if !self.is_text {
            return Ok(Item::Binary(Cow::Owned(self.bytes)));
        }
        self.utf8.finish()?;
        Ok(Item::Text(Cow::Owned(self.bytes)))
    }
}

/// Splits `len` bytes off the front.
#[inline]
fn take_front<'i>(input: &mut &'i mut [u8], len: usize) -> &'i mut [u8] {
    let (front, rest) = std::mem::take(input).split_at_mut(len);
    *input = rest;
    front
}

/// The item that a whole, unmasked frame is.
#[inline]
fn whole_item(opcode: Opcode, payload: &[u8]) -> Result<Item<'_>, ProtocolError> {
    match opcode {
        Opcode::Text => {
            utf8::check(payload)?;
            Ok(Item::Text(Cow::Borrowed(payload)))
        }
        Opcode::Ping => Ok(Item::Ping(Cow::Borrowed(payload))),
        Opcode::Pong => Ok(Item::Pong(Cow::Borrowed(payload))),
        Opcode::Close => {
            let (code, reason) = read_close(payload)?;
            Ok(Item::Close { code, reason: Cow::Borrowed(reason) })
        }
        Opcode::Binary | Opcode::Continuation => Ok(Item::Binary(Cow::Borrowed(payload))),
    }
}

/// The item that a control frame is whose payload came in parts.
fn kept_control(opcode: Opcode, payload: Vec<u8>) -> Result<Item<'static>, ProtocolError> {
    match opcode {
        Opcode::Close => {
            let (code, reason) = read_close(&payload)?;
            Ok(Item::Close { code, reason: Cow::Owned(reason.to_owned()) })
        }
        Opcode::Pong => Ok(Item::Pong(Cow::Owned(payload))),
        _ => Ok(Item::Ping(Cow::Owned(payload))),
    }
}

fn read_close(payload: &[u8]) -> Result<(Option<u16>, &str), ProtocolError> {
    if payload.is_empty() {
        return Ok((None, ""));
    }
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(ProtocolError::CloseTruncated);
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(ProtocolError::CloseCode(code));
    }
    Ok((Some(code), utf8::check(reason)?))
}

/// Close codes that RFC 6455, section 7.4, and the IANA registry let an endpoint send.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

impl From<InvalidUtf8> for ProtocolError {
    fn from(_: InvalidUtf8) -> Self {
        Self::InvalidUtf8
    }
}

const _: () = assert!(size_of::<Decoder>() <= 16, "an idle connection pays for its decoder");

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;
    use crate::message::close::CloseReason;
    use proptest::prelude::*;

    const MAX: usize = 100_000;
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// One frame from a client, with any first byte.
    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode_masked(Opcode::Binary, payload, KEY, &mut out);
        out[0] = first;
        out
    }

    /// One frame from a server, with any first byte.
    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(Opcode::Binary, payload, &mut out);
        out[0] = first;
        out
    }

    fn owned(item: Item<'_>) -> Item<'static> {
        let keep = |payload: Cow<'_, [u8]>| Cow::Owned(payload.into_owned());
        match item {
            Item::Text(payload) => Item::Text(keep(payload)),
            Item::Binary(payload) => Item::Binary(keep(payload)),
            Item::Ping(payload) => Item::Ping(keep(payload)),
            Item::Pong(payload) => Item::Pong(keep(payload)),
            Item::Close { code, reason } => Item::Close { code, reason: Cow::Owned(reason.into_owned()) },
        }
    }

    /// All items of `parts`, and the error that ended them.
    fn read_parts<'p>(
        role: Role,
        parts: impl IntoIterator<Item = &'p [u8]>,
    ) -> (Vec<Item<'static>>, Option<ProtocolError>) {
        let mut decoder = Decoder::new(role);
        let mut items = Vec::new();
        for part in parts {
            let mut part = part.to_vec();
            let mut input = &mut part[..];
            loop {
                match decoder.decode(&mut input, MAX) {
                    Ok(Some(item)) => items.push(owned(item)),
                    Ok(None) => break,
                    Err(error) => return (items, Some(error)),
                }
            }
            assert!(input.is_empty(), "input was left although more was asked for");
        }
        (items, None)
    }

    fn read(bytes: &[u8]) -> (Vec<Item<'static>>, Option<ProtocolError>) {
        let whole = read_parts(Role::Server, [bytes]);
        assert_eq!(read_parts(Role::Server, bytes.chunks(1)), whole, "byte by byte");
        whole
    }

    fn text(text: &str) -> Item<'static> {
        Item::Text(Cow::Owned(text.as_bytes().to_vec()))
    }

    #[test]
    fn a_whole_frame_is_borrowed_and_leaves_nothing_behind() {
        let mut bytes = client_frame(0x81, "grüße".as_bytes());
        bytes.extend(client_frame(0x89, b"?"));
        let mut decoder = Decoder::new(Role::Server);
        let mut input = &mut bytes[..];
        let item = decoder.decode(&mut input, MAX).unwrap().unwrap();
        assert!(matches!(&item, Item::Text(Cow::Borrowed(text)) if *text == "grüße".as_bytes()), "{item:?}");
        let item = decoder.decode(&mut input, MAX).unwrap().unwrap();
        assert!(matches!(item, Item::Ping(Cow::Borrowed(b"?"))), "{item:?}");
        assert_eq!(decoder.decode(&mut input, MAX), Ok(None));
        assert!(decoder.is_idle());
    }

    #[test]
    fn fragments_are_joined_around_control_frames() {
        let mut bytes = client_frame(0x01, b"gr\xc3");
        bytes.extend(client_frame(0x89, b"ping"));
        bytes.extend(client_frame(0x00, b""));
        bytes.extend(client_frame(0x8a, b""));
        bytes.extend(client_frame(0x00, b"\xbc\xc3\x9f"));
        bytes.extend(client_frame(0x80, b"e"));
        bytes.extend(client_frame(0x82, b""));
        let expected = [
            Item::Ping(Cow::Borrowed(b"ping".as_slice())),
            Item::Pong(Cow::Borrowed(b"".as_slice())),
            text("grüße"),
            Item::Binary(Cow::Borrowed(b"".as_slice())),
        ];
        assert_eq!(read(&bytes), (expected.to_vec(), None));
    }

    #[test]
    fn sequence_faults_are_named() {
        let frames = |frames: &[(u8, &[u8])]| frames.iter().flat_map(|(b, p)| client_frame(*b, p)).collect::<Vec<u8>>();
        use ProtocolError as E;
        let table: [(&str, Vec<u8>, ProtocolError); 14] = [
            ("continuation of nothing", frames(&[(0x80, b"a")]), E::ContinuationUnexpected),
            (
                "continuation after the end",
                frames(&[(0x01, b"a"), (0x80, b"b"), (0x80, b"c")]),
                E::ContinuationUnexpected,
            ),
            ("text within text", frames(&[(0x01, b"a"), (0x81, b"b")]), E::MessageInterrupted),
            ("binary within text", frames(&[(0x01, b"a"), (0x02, b"b")]), E::MessageInterrupted),
            ("reserved bit on a continuation", frames(&[(0x01, b"a"), (0xc0, b"b")]), E::ReservedBit),
            ("close of one byte", frames(&[(0x88, b"\x03")]), E::CloseTruncated),
            ("close code 0", frames(&[(0x88, &[0, 0])]), E::CloseCode(0)),
            ("close code 1004", frames(&[(0x88, &1004u16.to_be_bytes())]), E::CloseCode(1004)),
            ("close code 1006", frames(&[(0x88, &1006u16.to_be_bytes())]), E::CloseCode(1006)),
            ("close code 5000", frames(&[(0x88, &5000u16.to_be_bytes())]), E::CloseCode(5000)),
            ("close reason that is not UTF-8", frames(&[(0x88, b"\x03\xe8\xff")]), E::InvalidUtf8),
            ("text that is not UTF-8", frames(&[(0x81, b"a\xff")]), E::InvalidUtf8),
            ("text that ends within a character", frames(&[(0x81, b"\xe2\x82")]), E::InvalidUtf8),
            ("fragments that end within a character", frames(&[(0x01, b"\xe2"), (0x80, b"\x82")]), E::InvalidUtf8),
        ];
        for (name, bytes, error) in table {
            assert_eq!(read(&bytes).1, Some(error), "{name}");
        }
    }

    #[test]
    fn every_close_code_is_judged() {
        for code in 0..=u16::MAX {
            let expected = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            let (items, error) = read_parts(Role::Server, [&client_frame(0x88, &code.to_be_bytes())[..]]);
            assert_eq!(error.is_none(), expected, "{code}");
            assert_eq!(items.len(), usize::from(expected), "{code}");
        }
        let (items, _) = read(&client_frame(0x88, b"\x0f\xa8bye"));
        assert_eq!(items, [Item::Close { code: Some(4008), reason: "bye".into() }]);
        let (items, _) = read(&client_frame(0x88, b""));
        assert_eq!(items, [Item::Close { code: None, reason: "".into() }]);
    }

    #[test]
    fn bad_text_is_refused_in_the_part_that_shows_it() {
        // A frame that claims 60,000 bytes; its 12th byte cannot follow its 11th.
        let frame = client_frame(0x01, &[b"hello \xce\xba\xe1\xbd\xed\xa0".as_slice(), &[b'x'; 60_000]].concat());
        let mut decoder = Decoder::new(Role::Server);
        let header = frame.len() - 60_012;
        let mut before = frame[..header + 10].to_vec();
        assert_eq!(decoder.decode(&mut &mut before[..], MAX), Ok(None));
        let mut shows = [frame[header + 10]];
        assert_eq!(decoder.decode(&mut &mut shows[..], MAX), Err(ProtocolError::InvalidUtf8));
    }

    #[test]
    fn too_large_is_refused_by_the_header_alone() {
        let header = |first: u8, len: u64| {
            let mut bytes = vec![first, 0xff];
            bytes.extend(len.to_be_bytes());
            bytes.extend(KEY);
            bytes
        };
        let error = |bytes: &[u8]| read(bytes).1;
        assert_eq!(error(&header(0x82, MAX as u64 + 1)), Some(ProtocolError::MessageTooLarge));
        assert_eq!(error(&header(0x02, (1 << 63) - 1)), Some(ProtocolError::MessageTooLarge));
        let mut sum = client_frame(0x02, &[0; 20]);
        sum.extend(header(0x80, MAX as u64 - 20));
        assert_eq!(error(&sum), None);
        let mut sum = client_frame(0x02, &[0; 21]);
        sum.extend(header(0x80, MAX as u64 - 20));
        assert_eq!(error(&sum), Some(ProtocolError::MessageTooLarge));
        // The last of the sums that 64 bits could not hold.
        let mut sum = client_frame(0x02, &[0; 21]);
        sum.extend(header(0x80, (1 << 63) - 1));
        assert_eq!(error(&sum), Some(ProtocolError::MessageTooLarge));
    }

    #[test]
    fn a_claimed_length_costs_nothing() {
        let mut decoder = Decoder::new(Role::Server);
        let mut bytes = vec![0x82, 0xff];
        bytes.extend((1u64 << 30).to_be_bytes());
        bytes.extend(KEY);
        bytes.extend([1, 2, 3]);
        assert_eq!(decoder.decode(&mut &mut bytes[..], usize::MAX), Ok(None));
        let kept = decoder.partial.unwrap().message.unwrap().bytes.capacity();
        assert!(kept <= 64, "{kept} bytes for 3");
    }

    #[test]
    fn many_fragments_are_copied_a_few_times_and_take_no_more_than_a_message_may() {
        const FRAGMENTS: usize = 10_000;
        let mut decoder = Decoder::new(Role::Server);
        let mut capacities = vec![0];
        for at in 0..FRAGMENTS {
            let mut frame = client_frame(if at == 0 { 0x02 } else { 0x00 }, b"x");
            assert_eq!(decoder.decode(&mut &mut frame[..], FRAGMENTS), Ok(None));
            let partial = decoder.partial.as_ref().unwrap();
            let capacity = partial.message.as_ref().unwrap().bytes.capacity();
            assert!(capacity <= FRAGMENTS, "{capacity} bytes after {at} fragments");
            if capacities.last() != Some(&capacity) {
                capacities.push(capacity);
            }
        }
        assert!(capacities.len() < 20, "{} reallocations", capacities.len());
        let mut last = client_frame(0x80, b"");
        let whole = Item::Binary(Cow::Owned(vec![b'x'; FRAGMENTS]));
        assert_eq!(decoder.decode(&mut &mut last[..], FRAGMENTS), Ok(Some(whole)));
    }

    #[test]
    fn faults_close_with_the_code_that_fits() {
        assert_eq!(ProtocolError::ReservedBit.close_reason(), CloseReason::ProtocolError);
        assert_eq!(ProtocolError::CloseCode(0).close_reason(), CloseReason::ProtocolError);
        assert_eq!(ProtocolError::InvalidUtf8.close_reason(), CloseReason::InvalidUtf8);
        assert_eq!(ProtocolError::MessageTooLarge.close_reason(), CloseReason::MessageTooLarge);
    }

    /// Frames of which most fit each other, as `(first byte, payload)`.
    fn frames() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        let first = prop::sample::select(vec![0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a, 0x88, 0x09, 0xc1, 0x83]);
        let text = ".{0,40}".prop_map(String::into_bytes);
        let payload = prop_oneof![8 => text, 1 => prop::collection::vec(any::<u8>(), 0..300)];
        prop::collection::vec((first, payload), 0..12)
    }

    fn parts<'b>(bytes: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        starts.zip(&cuts).map(|(start, end)| &bytes[start..*end]).collect()
    }

    proptest! {
        #[test]
        fn any_split_decodes_as_the_whole(frames in frames(), cuts: Vec<prop::sample::Index>) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| client_frame(*first, payload)).collect();
            let whole = read_parts(Role::Server, [&bytes[..]]);
            prop_assert_eq!(read_parts(Role::Server, parts(&bytes, &cuts)), whole.clone());
            // The same frames from a server say the same.
            let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| server_frame(*first, payload)).collect();
            prop_assert_eq!(read_parts(Role::Client, parts(&bytes, &cuts)), whole);
        }

        #[test]
        fn any_bytes_decode_alike_however_split(bytes: Vec<u8>, cuts: Vec<prop::sample::Index>) {
            for role in [Role::Server, Role::Client] {
                prop_assert_eq!(read_parts(role, parts(&bytes, &cuts)), read_parts(role, [&bytes[..]]));
            }
        }

        #[test]
        fn tungstenite_reads_the_same(frames in frames()) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| client_frame(*first, payload)).collect();
            let (mut ours, our_error) = read_parts(Role::Server, [&bytes[..]]);
            let (mut theirs, their_error) = read_with_tungstenite(&bytes);
            if let Some(at) = ours.iter().position(|item| matches!(item, Item::Close { .. })) {
                // It stops at a close; here the caller does.
                ours.truncate(at + 1);
            } else if matches!(our_error, Some(ProtocolError::CloseCode(_))) && !their_error {
                // Of a bad code it hands out the close that it would answer with.
                let answer = Item::Close { code: Some(1002), reason: "Protocol violation".into() };
                prop_assert_eq!(theirs.pop(), Some(answer));
            } else {
                prop_assert_eq!(our_error.is_some(), their_error, "{:?}", our_error);
            }
            prop_assert_eq!(ours, theirs);
        }
    }

    /// What an independent implementation reads, up to a close, and whether it found a fault.
    fn read_with_tungstenite(bytes: &[u8]) -> (Vec<Item<'static>>, bool) {
        use tungstenite::protocol::{Role, WebSocketConfig};
        use tungstenite::{Error, Message, WebSocket};

        struct Pipe<'b>(&'b [u8]);
        impl std::io::Read for Pipe<'_> {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(buf)
            }
        }
        impl std::io::Write for Pipe<'_> {
            fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
                Ok(buf.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let config = WebSocketConfig::default().max_message_size(Some(MAX)).max_frame_size(Some(MAX));
        let mut socket = WebSocket::from_raw_socket(Pipe(bytes), Role::Server, Some(config));
        let mut items = Vec::new();
        loop {
            let keep = |payload: &[u8]| Cow::Owned(payload.to_vec());
            match socket.read() {
                Ok(Message::Text(text)) => items.push(Item::Text(keep(text.as_bytes()))),
                Ok(Message::Binary(payload)) => items.push(Item::Binary(keep(&payload))),
                Ok(Message::Ping(payload)) => items.push(Item::Ping(keep(&payload))),
                Ok(Message::Pong(payload)) => items.push(Item::Pong(keep(&payload))),
                Ok(Message::Close(frame)) => {
                    let code = frame.as_ref().map(|frame| u16::from(frame.code));
                    let reason = frame.map(|frame| frame.reason.as_str().to_owned()).unwrap_or_default();
                    items.push(Item::Close { code, reason: Cow::Owned(reason) });
                    return (items, false);
                }
                Ok(Message::Frame(_)) => panic!("raw frames are not read"),
                Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                    return (items, false);
                }
                Err(_) => return (items, true),
            }
        }
    }
}
