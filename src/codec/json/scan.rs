//! Checks JSON against its grammar (RFC 8259) and tells where things lie, in one pass and without recursion.
//!
//! Invariants: time is linear in the input whatever its shape; nesting is followed in one word, so depth costs nothing;
//! values and names are cut next to ASCII, so a character is never split. Escapes are checked for their
//! form only: whether `\ud800` stands alone matters to those who read the string.

use std::borrow::Cow;

use crate::limits::JSON_DEPTH_MAX;

/// Where the text is wrong, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Byte offset.
    pub at: usize,
    /// What is wrong.
    pub kind: FaultKind,
}

/// How a text is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Something else should stand there.
    Expected(&'static str),
    /// A raw control character within a string.
    ControlCharacter,
    /// A backslash before something that is no escape.
    Escape,
}

/// Reads one text from front to back.
#[derive(Clone, Copy, Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// One member of an object or element of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// The value as it was written.
    pub raw: &'a str,
    /// Whether it nests deeper than [`JSON_DEPTH_MAX`] allows; then its grammar was not checked.
    pub too_deep: bool,
}

impl<'a> Scanner<'a> {
    /// At the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Reads a text that is one object, and gives each member's name, as written between its quotes, and value.
    ///
    /// `f` is called as members are met, also before a fault that comes later.
    pub fn object(mut self, mut f: impl FnMut(&'a str, Value<'a>)) -> Result<(), Fault> {
        self.space();
        self.expect(b'{', "`{`")?;
        self.space();
        if self.peek() != Some(b'}') {
            loop {
                let name = self.name()?;
                let value = self.value()?;
                f(name, value);
                self.space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return Err(self.expected("`,` or `}`")),
                }
                self.space();
            }
        }
        self.at += 1;
        self.space();
        if self.at < self.text.len() { Err(self.expected("nothing after the object")) } else { Ok(()) }
    }

    /// Reads a text that is one array, and gives each element.
    pub fn array(mut self, mut f: impl FnMut(Value<'a>)) -> Result<(), Fault> {
        self.space();
        self.expect(b'[', "`[`")?;
        self.space();
        if self.peek() != Some(b']') {
            loop {
                let value = self.value()?;
                f(value);
                self.space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b']') => break,
                    _ => return Err(self.expected("`,` or `]`")),
                }
                self.space();
            }
        }
        Ok(())
    }

    /// A member's name and the colon, up to its value.
    #[inline]
    fn name(&mut self) -> Result<&'a str, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a name in double quotes"));
        }
        let start = self.at + 1;
        self.string()?;
        let name = &self.text[start..self.at - 1];
        self.space();
        self.expect(b':', "`:`")?;
        self.space();
        Ok(name)
    }

    /// A value at the first level of an object or array.
    #[inline]
    fn value(&mut self) -> Result<Value<'a>, Fault> {
        let start = self.at;
        let too_deep = match self.peek() {
            Some(b'"') => self.string().map(|()| false)?,
            Some(b'{' | b'[') => self.nested()?,
            _ => self.scalar().map(|()| false)?,
        };
        Ok(Value { raw: &self.text[start..self.at], too_deep })
    }

    /// An object or an array with all that is in it. True if it nests too deeply.
    fn nested(&mut self) -> Result<bool, Fault> {
        let start = self.at;
        // One bit per open level, the innermost lowest: 1 is an object, 0 an array.
        let mut kinds: u64 = 0;
        // The object or array around this one counts as a level.
        let mut depth = 1;
        loop {
            // Here a value begins.
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == JSON_DEPTH_MAX {
                        self.at = start;
                        self.skip_deep();
                        return Ok(true);
                    }
                    depth += 1;
                    kinds = kinds << 1 | u64::from(open == b'{');
                    self.at += 1;
                    self.space();
                    if open == b'{' && self.peek() != Some(b'}') {
                        self.name()?;
                        continue;
                    }
                    if open == b'[' && self.peek() != Some(b']') {
                        continue;
                    }
                }
                Some(b'"') => self.string()?,
                _ => self.scalar()?,
            }
            // Here a value has ended, or an empty object or array is about to.
            loop {
                self.space();
                match (self.peek(), kinds & 1) {
                    (Some(b','), 1) => {
                        self.at += 1;
                        self.space();
                        self.name()?;
                        break;
                    }
                    (Some(b','), _) => {
                        self.at += 1;
                        self.space();
                        break;
                    }
                    (Some(b'}'), 1) | (Some(b']'), 0) => {
                        self.at += 1;
                        kinds >>= 1;
                        depth -= 1;
                        if depth == 1 {
                            return Ok(false);
                        }
                    }
                    (_, 1) => return Err(self.expected("`,` or `}`")),
                    _ => return Err(self.expected("`,` or `]`")),
                }
            }
        }
    }

    /// Passes a value that nests too deeply by counting brackets, so that what comes after it can still be read.
    #[cold]
    fn skip_deep(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    if self.string().is_err() {
                        return;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    /// A string with both its quotes; stands at the first.
    #[inline]
    fn string(&mut self) -> Result<(), Fault> {
        self.at += 1;
        loop {
            self.at += plain_len(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(Fault { at: self.at, kind: FaultKind::ControlCharacter }),
                None => return Err(self.expected("the end of the string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at + 1..];
        let len = match rest {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => 6,
            _ => return Err(Fault { at: self.at, kind: FaultKind::Escape }),
        };
        self.at += len;
        Ok(())
    }

    /// A number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at..];
        let len = match rest.first() {
            Some(b't') if rest.starts_with(b"true") => 4,
            Some(b'f') if rest.starts_with(b"false") => 5,
            Some(b'n') if rest.starts_with(b"null") => 4,
            Some(b'-' | b'0'..=b'9') => number_len(rest).ok_or_else(|| self.expected("a number"))?,
            _ => return Err(self.expected("a value")),
        };
        self.at += len;
        Ok(())
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), Fault> {
        if self.peek() != Some(byte) {
            return Err(self.expected(name));
        }
        self.at += 1;
        Ok(())
    }

    fn expected(&self, what: &'static str) -> Fault {
        Fault { at: self.at, kind: FaultKind::Expected(what) }
    }
}

/// Length of the number that `bytes` begin with; the caller sees to it that something may follow there.
fn number_len(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut len = usize::from(bytes.first() == Some(&b'-'));
    match bytes.get(len)? {
        b'0' => len += 1,
        b'1'..=b'9' => len += digits(len),
        _ => return None,
    }
    if bytes.get(len) == Some(&b'.') {
        let fraction = digits(len + 1);
        if fraction == 0 {
            return None;
        }
        len += 1 + fraction;
    }
    if matches!(bytes.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(len + 1), Some(b'+' | b'-')));
        let exponent = digits(len + 1 + sign);
        if exponent == 0 {
            return None;
        }
        len += 1 + sign + exponent;
    }
    Some(len)
}

/// How many bytes at the front may stand in a JSON string as they are: no quote, no backslash, no control character.
#[inline]
pub fn plain_len(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte that is wanted; a borrow can only spoil bytes after the first such byte.
        let quote = word ^ (EACH * 0x22);
        let backslash = word ^ (EACH * 0x5c);
        let found = (quote.wrapping_sub(EACH) & !quote)
            | (backslash.wrapping_sub(EACH) & !backslash)
            | (word.wrapping_sub(EACH * 0x20) & !word);
        let found = found & HIGH_BITS;
        if found != 0 {
            return i * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let plain = rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)).count();
    words.len() * 8 + plain
}

/// The text of a string, given as it is written between its quotes. `None`: it has half a surrogate pair.
pub fn unescape(written: &str) -> Option<Cow<'_, str>> {
    let Some(first) = memchr::memchr(b'\\', written.as_bytes()) else {
        return Some(Cow::Borrowed(written));
    };
    let mut text = String::with_capacity(written.len());
    text.push_str(&written[..first]);
    let mut rest = &written[first..];
    while let Some(escaped) = rest.strip_prefix('\\') {
        let kind = *escaped.as_bytes().first()?;
        rest = escaped.get(1..)?;
        match kind {
            b'b' => text.push('\u{8}'),
            b'f' => text.push('\u{c}'),
            b'n' => text.push('\n'),
            b'r' => text.push('\r'),
            b't' => text.push('\t'),
            b'u' => text.push(unescape_unit(&mut rest)?),
            _ => text.push(char::from(kind)),
        }
        let plain = memchr::memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
        text.push_str(&rest[..plain]);
        rest = &rest[plain..];
    }
    Some(Cow::Owned(text))
}

/// The character of one `\uXXXX`, or of two that make a surrogate pair; `rest` begins with the digits.
fn unescape_unit(rest: &mut &str) -> Option<char> {
    let first = take_unit(rest)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(u32::from(first));
    }
    *rest = rest.strip_prefix("\\u")?;
    let second = take_unit(rest)?;
    char::decode_utf16([first, second]).next()?.ok()
}

fn take_unit(rest: &mut &str) -> Option<u16> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u16::from_str_radix(digits, 16).ok()
}

const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const _: () = assert!(JSON_DEPTH_MAX <= 64, "each level takes a bit of a word");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(text: &str) -> Result<Vec<(&str, Value<'_>)>, Fault> {
        let mut found = Vec::new();
        Scanner::new(text).object(|name, value| found.push((name, value)))?;
        Ok(found)
    }

    fn nested(depth: usize) -> String {
        format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
    }

    #[test]
    fn members_are_given_as_written() {
        let found = members(" {\"a\" : [1, {\"b\":\"]\"}] ,\n\"\\u0062\":-1.5e+3, \"\":\"\\\"\"} ").unwrap();
        let raw: Vec<_> = found.iter().map(|(name, value)| (*name, value.raw)).collect();
        assert_eq!(raw, [("a", "[1, {\"b\":\"]\"}]"), ("\\u0062", "-1.5e+3"), ("", "\"\\\"\"")]);
        let mut elements = Vec::new();
        Scanner::new("[1,\"a\" , [] ]").array(|value| elements.push(value.raw)).unwrap();
        assert_eq!(elements, ["1", "\"a\"", "[]"]);
    }

    #[test]
    fn depth_is_bounded_and_the_rest_is_still_read() {
        assert!(!members(&nested(JSON_DEPTH_MAX)).unwrap()[0].1.too_deep);
        assert!(members(&nested(JSON_DEPTH_MAX + 1)).unwrap()[0].1.too_deep);
        let text = format!("{},\"id\":7}}", nested(30_000).strip_suffix('}').unwrap());
        let found = members(&text).unwrap();
        assert!(found[0].1.too_deep);
        assert_eq!(found[1], ("id", Value { raw: "7", too_deep: false }));
        assert!(members(&"[{\"a\":".repeat(30_000)).is_err());
        assert!(members(&format!("{{\"a\":{}", "[".repeat(30_000))).is_err());
    }

    #[test]
    fn plain_len_stops_at_each_byte_that_needs_care() {
        for len in 0..40 {
            let plain = "aé\u{7f}~!#[]".repeat(9).into_bytes();
            assert_eq!(plain_len(&plain[..len]), len);
            for byte in (0..0x20).chain([b'"', b'\\']) {
                let mut bytes = plain.clone();
                bytes[len] = byte;
                bytes[len + 1] = b'"';
                assert_eq!(plain_len(&bytes), len, "{byte:#x}");
            }
        }
    }

    #[test]
    fn halves_of_surrogate_pairs_are_no_text() {
        assert_eq!(unescape("\\ud83d\\ude00\\u00e9").unwrap(), "😀é");
        for half in ["\\ud83d", "\\ude00", "\\ud83d\\n", "\\ud83dx", "\\ud83d\\ud83d", "\\ud83d\\u0041"] {
            assert_eq!(unescape(half), None, "{half}");
        }
    }

    /// Texts that are JSON, or nearly.
    fn nearly_json() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"\\u00e9\\n\"",
            "\"\\x\"",
            "\"\n\"",
            "1",
            "-0.5e+1",
            "01",
            "1.",
            "-",
            "true",
            "false",
            "null",
            "nul",
            " ",
            "\t\r\n",
            "{\"b\":",
            "[1,",
            "\"é",
            "\\",
            "{}",
            "[]",
            "\"c\":2",
        ]);
        prop::collection::vec(token, 0..12).prop_map(|tokens| format!("{{\"a\":{}}}", tokens.concat()))
    }

    /// Any JSON value, written in one of the ways it can be.
    fn json() -> impl Strategy<Value = String> {
        let string = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
        let number = prop_oneof![
            any::<f64>().prop_map(|n| serde_json::to_string(&n).unwrap()),
            any::<i64>().prop_map(|n| n.to_string())
        ];
        let leaf = prop_oneof![string.clone(), number, Just("true".to_owned()), Just("null".to_owned())];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            let member = (string.clone(), inner.clone()).prop_map(|(name, value)| format!("{name} :\t{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(|elements| format!("[{}]", elements.join(" ,\n"))),
                prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_grammar_is_that_of_serde_json(text in nearly_json()) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(members(&text).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn valid_json_is_taken(value in json()) {
            let text = format!("{{\"a\":{value}}}");
            prop_assert_eq!(members(&text).unwrap(), [("a", Value { raw: &value, too_deep: false })]);
        }

        #[test]
        fn any_text_is_judged_without_panic(text: String) {
            let _ = members(&text);
            let _ = Scanner::new(&text).array(|_| ());
            let _ = unescape(&text);
        }

        #[test]
        fn strings_read_as_serde_json_reads_them(text: String) {
            let written = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(unescape(&written[1..written.len() - 1]).unwrap(), text);
        }
    }
}
