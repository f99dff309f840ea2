//! Profiles as text, and as the protobuf that pprof reads.
//!
//! Source: `proto/profile.proto` of github.com/google/pprof; the numbers below are its field numbers.

use std::hash::Hash;
use std::io::{self, Write};

use ahash::{HashMap, HashMapExt};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::Profile;
use super::symbols::{Line, Symbols};

/// One line per stack: names from the root to the innermost with `;` between them, then how often.
pub(super) fn folded(profile: &Profile, symbols: &Symbols) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut names: HashMap<u64, Vec<Line>> = HashMap::new();
    for ((thread, addresses), count) in &profile.stacks {
        let mut stack = vec![thread.to_string()];
        for address in addresses.iter().rev() {
            let found = names.entry(*address).or_insert_with(|| symbols.lines(*address));
            stack.extend(found.iter().rev().map(|line| line.function.replace(';', ":")));
        }
        lines.push(format!("{} {count}\n", stack.join(";")));
    }
    if profile.lost > 0 {
        lines.push(format!("[lost] {}\n", profile.lost));
    }
    lines.sort_unstable();
    lines.concat()
}

/// Gzipped protobuf: samples and CPU time by stack, each labelled with its thread.
pub(super) fn pprof(profile: &Profile, symbols: &Symbols) -> io::Result<Vec<u8>> {
    let period = 1_000_000_000 / profile.wanted.hz;
    let mut writer = Writer::default();
    // The first text must be the empty one.
    let _ = writer.text("");
    let (count, cpu) = (writer.value_type("samples", "count"), writer.value_type("cpu", "nanoseconds"));
    writer.out.message(1, &count);
    writer.out.message(1, &cpu);
    let thread_key = writer.text("thread");
    for ((thread, addresses), count) in &profile.stacks {
        let locations: Vec<u64> = addresses.iter().map(|address| writer.location(*address, symbols)).collect();
        let label = Message::default().with(1, thread_key).with(2, writer.text(thread));
        let mut sample = Message::default();
        sample.packed(1, &locations);
        sample.packed(2, &[*count, count * period]);
        sample.message(3, &label);
        writer.out.message(2, &sample);
    }
    let out = writer.finish();
    let out = out.with(9, profile.began_unix_ms * 1_000_000).with(10, profile.took_us * 1_000);
    let mut out = out.with(12, period);
    out.message(11, &cpu);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&out.0)?;
    gzip.finish()
}

/// A message with its tables: texts, functions and locations are written once and numbered.
#[derive(Default)]
struct Writer {
    out: Message,
    texts: Numbers<String>,
    functions: Numbers<(String, String)>,
    locations: Numbers<u64>,
}

impl Writer {
    fn text(&mut self, text: &str) -> u64 {
        // Numbered from 0, unlike all else.
        self.texts.number(text.to_string()).0 - 1
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> Message {
        Message::default().with(1, self.text(kind)).with(2, self.text(unit))
    }

    fn location(&mut self, address: u64, symbols: &Symbols) -> u64 {
        let (number, is_new) = self.locations.number(address);
        if is_new {
            let mut location = Message::default().with(1, number).with(3, address);
            for line in symbols.lines(address) {
                let number = u64::from(line.line);
                let line = Message::default().with(1, self.function(line)).with(2, number);
                location.message(4, &line);
            }
            self.out.message(4, &location);
        }
        number
    }

    fn function(&mut self, line: Line) -> u64 {
        let (name, file) = (self.text(&line.function), self.text(&line.file));
        let (number, is_new) = self.functions.number((line.function, line.file));
        if is_new {
            let function = Message::default().with(1, number).with(2, name).with(3, name).with(4, file);
            self.out.message(5, &function);
        }
        number
    }

    fn finish(mut self) -> Message {
        let mut texts: Vec<(u64, String)> = self.texts.0.into_iter().map(|(text, number)| (number, text)).collect();
        texts.sort_unstable();
        for (_, text) in texts {
            self.out.bytes(6, text.as_bytes());
        }
        self.out
    }
}

/// Numbers from 1 in the order of first use.
struct Numbers<K>(HashMap<K, u64>);

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Numbers<K> {
    /// The number, and whether it is new.
    fn number(&mut self, key: K) -> (u64, bool) {
        let next = self.0.len() as u64 + 1;
        let number = *self.0.entry(key).or_insert(next);
        (number, number == next)
    }
}

/// The fields of one protobuf message.
#[derive(Clone, Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn with(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn packed(&mut self, field: u64, values: &[u64]) {
        let mut all = Self::default();
        values.iter().for_each(|value| all.varint(*value));
        self.message(field, &all);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_written_as_protobuf_says() {
        let mut message = Message::default().with(1, 150);
        message.bytes(2, b"testing");
        message.packed(4, &[3, 270, 86_942]);
        let expected = [0x08, 0x96, 0x01, 0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67];
        assert_eq!(message.0[..12], expected);
        assert_eq!(message.0[12..], [0x22, 0x06, 0x03, 0x8e, 0x02, 0x9e, 0xa7, 0x05]);
    }

    #[test]
    fn numbers_are_given_once() {
        let mut numbers = Numbers::default();
        assert_eq!([numbers.number("a"), numbers.number("b"), numbers.number("a")], [(1, true), (2, true), (1, false)]);
    }
}
