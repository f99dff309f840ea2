//! UTF-8 validation of text that arrives in parts.
//!
//! An error shows with the first byte that no continuation could save, whichever part that byte is in (RFC 6455,
//! section 8.1, read strictly).

/// The bytes are not UTF-8, whatever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// Follows one text through its parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validator {
    /// The beginning of a code point whose rest has not come; always the prefix of a valid one.
    open: [u8; 4],
    open_len: u8,
}

impl Validator {
    /// Takes the next part of the text.
    pub fn push(&mut self, mut part: &[u8]) -> Result<(), InvalidUtf8> {
        while self.open_len > 0 {
            let Some((&byte, rest)) = part.split_first() else {
                return Ok(());
            };
            part = rest;
            self.push_into_open(byte)?;
        }
        let Err(error) = simdutf8::compat::from_utf8(part) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(InvalidUtf8);
        }
        let tail = &part[error.valid_up_to()..];
        self.open[..tail.len()].copy_from_slice(tail);
        self.open_len = tail.len() as u8;
        Ok(())
    }

    /// Ends the text: an error if it stops within a code point.
    pub fn finish(&self) -> Result<(), InvalidUtf8> {
        if self.open_len == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }

    fn push_into_open(&mut self, byte: u8) -> Result<(), InvalidUtf8> {
        let len = usize::from(self.open_len);
        self.open[len] = byte;
        match std::str::from_utf8(&self.open[..=len]) {
            Ok(_) => self.open_len = 0,
            Err(error) if error.error_len().is_none() => self.open_len += 1,
            Err(_) => return Err(InvalidUtf8),
        }
        Ok(())
    }
}

/// Checks a text that is there as a whole.
pub fn check(text: &[u8]) -> Result<&str, InvalidUtf8> {
    simdutf8::basic::from_utf8(text).map_err(|_| InvalidUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many bytes are taken, one at a time, before the first refusal.
    fn refused_at(bytes: &[u8]) -> Option<usize> {
        let mut validator = Validator::default();
        bytes.iter().position(|byte| validator.push(&[*byte]).is_err())
    }

    #[test]
    fn refuses_at_the_first_byte_that_cannot_be_saved() {
        let table: [(&str, &[u8], Option<usize>); 14] = [
            ("lone continuation", b"a\x80", Some(1)),
            ("overlong slash in two bytes", b"\xc0\xaf", Some(0)),
            ("overlong in three bytes", b"\xe0\x9f\xbf", Some(1)),
            ("overlong in four bytes", b"\xf0\x8f\xbf\xbf", Some(1)),
            ("high surrogate", b"\xed\xa0\x80", Some(1)),
            ("low surrogate", b"\xed\xbf\xbf", Some(1)),
            ("above U+10FFFF", b"\xf4\x90\x80\x80", Some(1)),
            ("five-byte lead", b"\xf8\x88\x80\x80\x80", Some(0)),
            ("byte ff", b"\xff", Some(0)),
            ("third byte missing", b"\xe2\x82a", Some(2)),
            ("last before the surrogates", b"\xed\x9f\xbf", None),
            ("first of four bytes", b"\xf0\x90\x80\x80", None),
            ("the last code point", b"\xf4\x8f\xbf\xbf", None),
            ("an open end", b"\xf0\x9f\x98", None),
        ];
        for (name, bytes, expected) in table {
            assert_eq!(refused_at(bytes), expected, "{name}");
        }
    }

    #[test]
    fn a_text_may_not_end_within_a_code_point() {
        let mut validator = Validator::default();
        validator.push("käse€".as_bytes()).unwrap();
        assert_eq!(validator.finish(), Ok(()));
        validator.push(b"\xe2\x82").unwrap();
        assert_eq!(validator.finish(), Err(InvalidUtf8));
        validator.push(b"\xac").unwrap();
        assert_eq!(validator.finish(), Ok(()));
    }

    /// Bytes among which broken UTF-8, and UTF-8 that is nearly right, is common.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            1 => prop::collection::vec(any::<u8>(), 1..3),
            1 => prop::sample::select(vec![0xc0u8, 0xe0, 0xed, 0xf0, 0xf4, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf])
                .prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_is_judged_as_the_whole(text in nearly_text(), cuts: Vec<prop::sample::Index>) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let mut validator = Validator::default();
            let mut start = 0;
            for end in cuts {
                let taken = validator.push(&text[start..end]);
                // A part is refused exactly when what came so far is beyond saving.
                let beyond_saving = std::str::from_utf8(&text[..end]).is_err_and(|e| e.error_len().is_some());
                prop_assert_eq!(taken.is_err(), beyond_saving);
                if taken.is_err() {
                    return Ok(());
                }
                start = end;
            }
            prop_assert_eq!(validator.finish().is_ok(), std::str::from_utf8(&text).is_ok());
            prop_assert_eq!(check(&text).is_ok(), std::str::from_utf8(&text).is_ok());
        }
    }
}
