//! What a generated message carries so that whoever receives it can audit it: run, sender, seq and planned time.
//!
//! The text is plain ASCII without characters that JSON escapes, so that it reads the same inside a `content` string
//! and as a message of its own. Its layout is fixed, so that a receiver finds it by its mark and reads it without
//! parsing what is around it: `~lg2`, then hexadecimal digits, 8 of run, 8 of sender, 8 of seq, 16 of planned time in
//! monotonic nanoseconds, 8 of the generator's lag in microseconds, then filler. Planned time and lag together tell when
//! the message was really handed over.

use memchr::memmem;

/// The audited fields of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Tells messages of this run from those of another.
    pub run: u32,
    /// Which of the scenario's senders.
    pub sender: u32,
    /// Counts the sender's messages from 1.
    pub seq: u32,
    /// When the message was to be sent, in monotonic nanoseconds.
    pub planned_ns: u64,
    /// How long after that it was handed over, in microseconds, rounded down; 71 minutes at most.
    pub lag_us: u32,
}

impl Stamp {
    /// When the message was handed over, in monotonic nanoseconds, to the microsecond.
    #[must_use]
    pub fn sent_ns(&self) -> u64 {
        self.planned_ns.saturating_add(u64::from(self.lag_us) * 1_000)
    }

    /// Appends the message's text, `bytes` long (at least [`STAMP_BYTES`]).
    pub fn write(&self, bytes: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(MARK);
        out.extend_from_slice(&hex_of(self.run));
        out.extend_from_slice(&hex_of(self.sender));
        out.extend_from_slice(&hex_of(self.seq));
        out.extend_from_slice(&hex_of((self.planned_ns >> 32) as u32));
        out.extend_from_slice(&hex_of(self.planned_ns as u32));
        out.extend_from_slice(&hex_of(self.lag_us));
        out.resize(out.len() + bytes.saturating_sub(STAMP_BYTES), FILLER);
    }

    /// Reads the stamp at the head of `text`.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let fields = text.strip_prefix(MARK)?.first_chunk::<48>()?;
        let field = |at: usize| number_of(*fields[at..].first_chunk::<8>()?);
        Some(Self {
            run: field(0)?,
            sender: field(8)?,
            seq: field(16)?,
            planned_ns: u64::from(field(24)?) << 32 | u64::from(field(32)?),
            lag_us: field(40)?,
        })
    }
}

/// Finds stamps in messages whose surroundings differ little from one to the next: it looks first where the last one
/// was.
#[derive(Debug)]
pub struct StampFinder {
    last_at: usize,
    mark: memmem::Finder<'static>,
}

impl StampFinder {
    /// A finder that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { last_at: 0, mark: memmem::Finder::new(MARK) }
    }

    /// Where in `message` the stamp begins, if there is one.
    #[must_use]
    pub fn find(&mut self, message: &[u8]) -> Option<usize> {
        if message.get(self.last_at..).is_some_and(|rest| rest.starts_with(MARK)) {
            return Some(self.last_at);
        }
        self.last_at = self.mark.find(message)?;
        Some(self.last_at)
    }
}

/// Bytes of a message without filler: the smallest payload.
pub const STAMP_BYTES: usize = MARK.len() + 48;
const MARK: &[u8] = b"~lg2";
const FILLER: u8 = b'.';

/// Eight lower-case hexadecimal digits, computed on all digits at once.
fn hex_of(value: u32) -> [u8; 8] {
    let mut spread = u64::from(value);
    spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let above_nine = ((spread + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (spread + 0x3030_3030_3030_3030 + above_nine * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// Reads eight lower-case hexadecimal digits, on all digits at once; anything else is `None`.
fn number_of(digits: [u8; 8]) -> Option<u32> {
    let text = u64::from_be_bytes(digits);
    let is_letter = (text >> 6) & 0x0101_0101_0101_0101;
    let mut value = (text & 0x0f0f_0f0f_0f0f_0f0f) + is_letter * 9;
    if value & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
        return None;
    }
    value = (value | value >> 4) & 0x00ff_00ff_00ff_00ff;
    value = (value | value >> 8) & 0x0000_ffff_0000_ffff;
    value |= value >> 16;
    // Writing the number again refuses every other character that the arithmetic would have taken.
    (hex_of(value as u32) == digits).then_some(value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp =
        Stamp { run: 0xdead_beef, sender: 49_999, seq: 1, planned_ns: 0x0123_4567_89ab_cdef, lag_us: 1_500 };

    fn text(bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        STAMP.write(bytes, &mut out);
        out
    }

    #[test]
    fn a_stamp_reads_back_and_the_text_has_the_length_asked_for() {
        for bytes in [STAMP_BYTES, 53, 128, 4_096] {
            assert_eq!(text(bytes).len(), bytes);
            assert_eq!(Stamp::read(&text(bytes)), Some(STAMP));
        }
        assert_eq!(STAMP.sent_ns() - STAMP.planned_ns, 1_500_000);
    }

    #[test]
    fn digits_are_those_of_the_standard_formatter() {
        let mut random = crate::plan::Random::new(7);
        for value in (0..1_000).map(|_| random.next_u64() as u32).chain([0, 9, 10, 15, 16, u32::MAX]) {
            let expected = format!("{value:08x}");
            assert_eq!(hex_of(value), expected.as_bytes());
            assert_eq!(number_of(hex_of(value)), Some(value));
        }
    }

    #[test]
    fn no_byte_but_a_digit_is_taken_for_one() {
        for byte in 0..=u8::MAX {
            let mut digits = *b"00000000";
            digits[3] = byte;
            let is_digit = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            assert_eq!(number_of(digits).is_some(), is_digit, "{byte:#x}");
        }
    }

    #[test]
    fn damaged_text_is_not_a_stamp() {
        let whole = text(STAMP_BYTES);
        assert_eq!(Stamp::read(&whole[..STAMP_BYTES - 1]), None);
        assert_eq!(Stamp::read(&whole[1..]), None);
        let mut damaged = whole;
        damaged[20] = b'"';
        assert_eq!(Stamp::read(&damaged), None);
    }

    #[test]
    fn the_finder_follows_a_stamp_that_moves() {
        let mut finder = StampFinder::new();
        for prefix in [
            "",
            "{\"type\":\"message\",\"seq\":9,\"content\":\"",
            "{\"type\":\"message\",\"seq\":10,\"content\":\"",
            "x",
        ] {
            let mut message = prefix.as_bytes().to_vec();
            message.extend(text(64));
            assert_eq!(finder.find(&message), Some(prefix.len()));
        }
        assert_eq!(finder.find(b"{\"type\":\"ping\"}"), None);
        assert_eq!(finder.find(b""), None);
    }
}
