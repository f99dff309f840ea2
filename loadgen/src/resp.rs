//! As much of Redis's protocol (RESP 2, redis.io/docs/latest/develop/reference/protocol-spec) as appending to streams
//! takes: the command, and whether its reply is an error. For comparison with hubbub, so that both have one generator.
//!
//! Absent: everything nested. Redis answers `XADD` by a bulk string or an error.

/// The reading half of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The front of a line whose end has not come.
    partial: Vec<u8>,
    /// Bytes of a bulk string, with its end, that are still to come; 0 between two replies.
    bulk_left: usize,
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was done.
    Done,
    /// It was not, and why.
    Error(String),
}

/// The server speaks something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not in Redis's protocol")]
pub struct NotResp;

impl Decoder {
    /// Reads on to the end of the next reply and moves `input` past it. `None`: all input was taken and more is needed.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, NotResp> {
        loop {
            if self.bulk_left > 0 {
                let taken = self.bulk_left.min(input.len());
                *input = &input[taken..];
                self.bulk_left -= taken;
                return Ok((self.bulk_left == 0).then_some(Reply::Done));
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                if self.partial.len() + input.len() > LINE_BYTES_MAX {
                    return Err(NotResp);
                }
                self.partial.extend_from_slice(std::mem::take(input));
                return Ok(None);
            };
            let rest = &input[..end];
            *input = &input[end + 1..];
            let reply = if self.partial.is_empty() {
                self.line(rest)?
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(rest);
                self.line(&line)?
            };
            if reply.is_some() {
                return Ok(reply);
            }
        }
    }

    /// `None` for one that announces a bulk string.
    fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, NotResp> {
        let (kind, text) = line.strip_suffix(b"\r").and_then(<[u8]>::split_first).ok_or(NotResp)?;
        match kind {
            b'+' | b':' => Ok(Some(Reply::Done)),
            b'-' => Ok(Some(Reply::Error(String::from_utf8_lossy(text).into_owned()))),
            b'$' if text == b"-1" => Ok(Some(Reply::Done)),
            b'$' => {
                let text = std::str::from_utf8(text).map_err(|_| NotResp)?;
                let bytes: usize = text.parse().ok().filter(|&bytes| bytes <= BULK_BYTES_MAX).ok_or(NotResp)?;
                self.bulk_left = bytes + 2;
                Ok(None)
            }
            _ => Err(NotResp),
        }
    }
}

/// What comes before a value of `bytes` bytes that is appended to a stream; [`XADD_END`] comes after it.
#[must_use]
pub fn xadd_opening(stream: &str, bytes: usize) -> Vec<u8> {
    format!("*5\r\n$4\r\nXADD\r\n${}\r\n{stream}\r\n$1\r\n*\r\n$1\r\nc\r\n${bytes}\r\n", stream.len()).into_bytes()
}

/// What ends a command.
pub const XADD_END: &[u8] = b"\r\n";
/// Far above every line that a Redis sends.
const LINE_BYTES_MAX: usize = 64 << 10;
const BULK_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server says, read in one piece or byte by byte.
    fn read(text: &[u8], in_pieces: bool) -> Result<Vec<Reply>, NotResp> {
        let (mut decoder, mut replies) = (Decoder::default(), Vec::new());
        for part in text.chunks(if in_pieces { 1 } else { usize::MAX }) {
            let mut input = part;
            while let Some(reply) = decoder.decode(&mut input)? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    #[test]
    fn replies_are_read_however_they_come() {
        let text = b"$15\r\n1700000000000-0\r\n-MISCONF no disk\r\n$0\r\n\r\n+OK\r\n:7\r\n$-1\r\n$5\r\nab\r\nc\r\n";
        let error = Reply::Error("MISCONF no disk".to_owned());
        let expected = [Reply::Done, error, Reply::Done, Reply::Done, Reply::Done, Reply::Done, Reply::Done];
        assert_eq!(read(text, false).unwrap(), expected);
        assert_eq!(read(text, true).unwrap(), expected);
        assert_eq!(read(&text[..21], true).unwrap(), [], "the end is still to come");
    }

    #[test]
    fn what_is_not_resp_is_refused() {
        for text in [&b"{\"type\":\"welcome\"}\n"[..], b"$x\r\n", b"$99999999999\r\n", b"\r\n", b"+OK\n", b"*1\r\n"] {
            assert_eq!(read(text, true), Err(NotResp), "{text:?}");
        }
        assert_eq!(read(&[b'+'; LINE_BYTES_MAX + 1], false), Err(NotResp));
    }

    #[test]
    fn the_command_names_every_length() {
        let mut command = xadd_opening("r-10", 3);
        command.extend_from_slice(b"abc");
        command.extend_from_slice(XADD_END);
        assert_eq!(command, b"*5\r\n$4\r\nXADD\r\n$4\r\nr-10\r\n$1\r\n*\r\n$1\r\nc\r\n$3\r\nabc\r\n");
    }
}
