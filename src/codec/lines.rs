//! Lines: the framing of the TCP transport. A line ends with LF; a CR before it belongs to the end. Empty lines say
//! nothing.
//!
//! The first byte of a connection must be `{`, so that a page of some web site that makes a browser post here gets
//! nothing carried out. A line that lies whole in one piece of input is handed out without a copy; memory follows the
//! bytes that arrived.

use std::borrow::Cow;

use crate::message::close::CloseReason;

/// The reading half of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The front of a line whose end has not come.
    partial: Vec<u8>,
    /// Whether the first byte has come and was right.
    started: bool,
}

/// How a peer broke the framing. Nothing can be read from the connection after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The connection does not begin with `{`.
    #[error("the first line does not begin with {{")]
    NotJson,
    /// A line, without its end, longer than allowed.
    #[error("the line is too long")]
    TooLong,
}

impl LineError {
    /// How the connection is closed for it.
    #[must_use]
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::NotJson => CloseReason::NotThisProtocol,
            Self::TooLong => CloseReason::MessageTooLarge,
        }
    }
}

impl Decoder {
    /// A decoder at the beginning of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on to the next line that is not empty, without its end, and moves `input` past it. `None`: all input was
    /// taken and more is needed. After an error nothing more can be read.
    pub fn decode<'i>(
        &mut self,
        input: &mut &'i [u8],
        line_bytes_max: usize,
    ) -> Result<Option<Cow<'i, [u8]>>, LineError> {
        if !self.started {
            match input.first() {
                None => return Ok(None),
                Some(b'{') => self.started = true,
                Some(_) => return Err(LineError::NotJson),
            }
        }
        while let Some(end) = memchr::memchr(b'\n', input) {
            let part = &input[..end];
            *input = &input[end + 1..];
            let line = if self.partial.is_empty() {
                Cow::Borrowed(part.strip_suffix(b"\r").unwrap_or(part))
            } else {
                self.keep(part, line_bytes_max)?;
                Cow::Owned(self.take_partial())
            };
            if line.len() > line_bytes_max {
                return Err(LineError::TooLong);
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
        let part = std::mem::take(input);
        self.keep(part, line_bytes_max)?;
        Ok(None)
    }

    /// Whether nothing is incomplete: the peer is between two lines.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.partial.is_empty()
    }

    /// The last line of a peer that finished sending without ending it. A command cut short is no valid JSON, so nothing
    /// is carried out that was not meant.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        Some(self.take_partial()).filter(|line| !line.is_empty())
    }

    /// Adds to the line that is incomplete.
    fn keep(&mut self, part: &[u8], line_bytes_max: usize) -> Result<(), LineError> {
        let len = self.partial.len() + part.len();
        // The last byte may be the CR of the line's end.
        let last = part.last().or(self.partial.last());
        if len - usize::from(last == Some(&b'\r')) > line_bytes_max {
            return Err(LineError::TooLong);
        }
        self.partial.extend_from_slice(part);
        Ok(())
    }

    fn take_partial(&mut self) -> Vec<u8> {
        let mut line = std::mem::take(&mut self.partial);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        line
    }
}

const _: () = assert!(size_of::<Decoder>() <= 32, "an idle connection pays for its decoder");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_parts<'p>(parts: impl IntoIterator<Item = &'p [u8]>, max: usize) -> (Vec<Vec<u8>>, Option<LineError>) {
        let mut decoder = Decoder::new();
        let mut lines = Vec::new();
        for mut part in parts {
            loop {
                match decoder.decode(&mut part, max) {
                    Ok(Some(line)) => lines.push(line.into_owned()),
                    Ok(None) => break,
                    Err(error) => return (lines, Some(error)),
                }
            }
            assert!(part.is_empty(), "input was left although more was asked for");
        }
        lines.extend(decoder.finish());
        (lines, None)
    }

    fn read(bytes: &[u8], max: usize) -> (Vec<String>, Option<LineError>) {
        let whole = read_parts([bytes], max);
        assert_eq!(read_parts(bytes.chunks(1), max), whole, "byte by byte");
        (whole.0.into_iter().map(|line| String::from_utf8(line).unwrap()).collect(), whole.1)
    }

    #[test]
    fn a_whole_line_is_borrowed() {
        let mut input = b"{1}\r\n{2}\n{3".as_slice();
        let mut decoder = Decoder::new();
        assert!(matches!(decoder.decode(&mut input, 9), Ok(Some(Cow::Borrowed(b"{1}")))));
        assert!(matches!(decoder.decode(&mut input, 9), Ok(Some(Cow::Borrowed(b"{2}")))));
        assert!(matches!(decoder.decode(&mut input, 9), Ok(None)));
        assert!(!decoder.is_idle());
        assert_eq!(decoder.finish(), Some(b"{3".to_vec()));
        assert!(decoder.is_idle());
    }

    #[test]
    fn ends_of_either_kind_and_empty_lines() {
        let (lines, error) = read(b"{a\r\n\r\n\n\n{b\rc\n \n\r\r\n{d", 9);
        assert_eq!((lines, error), (["{a", "{b\rc", " ", "\r", "{d"].map(String::from).to_vec(), None));
    }

    #[test]
    fn the_first_byte_decides() {
        for first in ["POST / HTTP/1.1\r\n", " {}", "\n{}", "[", "\u{feff}{}"] {
            assert_eq!(read(first.as_bytes(), 99), (vec![], Some(LineError::NotJson)), "{first}");
        }
        assert_eq!(LineError::NotJson.close_reason(), CloseReason::NotThisProtocol);
        // Later lines may begin as they like: they get an answer.
        assert_eq!(read(b"{}\nPOST\n", 99), (vec!["{}".into(), "POST".into()], None));
    }

    #[test]
    fn the_length_is_counted_without_the_end() {
        let exactly = (vec!["{234".to_owned()], None);
        assert_eq!(read(b"{234\n", 4), exactly);
        assert_eq!(read(b"{234\r\n", 4), exactly);
        assert_eq!(read(b"{234\r", 4), exactly);
        let too_long = (vec![], Some(LineError::TooLong));
        for line in ["{2345\n", "{2345", "{234\r\r\n", "{234\r5"] {
            assert_eq!(read(line.as_bytes(), 4), too_long, "{line:?}");
        }
    }

    #[test]
    fn too_long_shows_before_the_end() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.decode(&mut b"{234".as_slice(), 4), Ok(None));
        assert_eq!(decoder.decode(&mut b"5".as_slice(), 4), Err(LineError::TooLong));
    }

    proptest! {
        #[test]
        fn any_split_decodes_as_the_whole(
            text in "(\\{)?[a-c\r\n]{0,60}",
            cuts: Vec<prop::sample::Index>,
            max in 0usize..12,
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let parts: Vec<&[u8]> = starts.zip(&cuts).map(|(start, end)| &bytes[start..*end]).collect();
            prop_assert_eq!(read_parts(parts, max), read_parts([bytes], max));
        }

        #[test]
        fn lines_read_back(lines in prop::collection::vec("[^\r\n]{1,20}", 0..9)) {
            let mut bytes = b"{}\n".to_vec();
            for line in &lines {
                bytes.extend_from_slice(line.as_bytes());
                bytes.push(b'\n');
            }
            let (read, error) = read(&bytes, 100);
            prop_assert_eq!(error, None);
            prop_assert_eq!(&read[1..], &lines[..]);
        }
    }
}
