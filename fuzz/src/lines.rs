//! The first byte is the longest line allowed, the second the size of the parts. In parts the rest must decode as in
//! one piece.

use hubbub::codec::lines::{Decoder, LineError};

fn read(bytes: &[u8], part_bytes: usize, line_bytes_max: usize) -> (Vec<Vec<u8>>, Option<LineError>) {
    let mut decoder = Decoder::new();
    let mut lines = Vec::new();
    for mut part in bytes.chunks(part_bytes) {
        loop {
            match decoder.decode(&mut part, line_bytes_max) {
                Ok(Some(line)) => lines.push(line.into_owned()),
                Ok(None) => break,
                Err(error) => return (lines, Some(error)),
            }
        }
        assert!(part.is_empty());
    }
    lines.extend(decoder.finish());
    (lines, None)
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let [max, part_bytes, bytes @ ..] = data else {
        return;
    };
    let max = usize::from(*max);
    let whole = read(bytes, bytes.len().max(1), max);
    assert_eq!(read(bytes, usize::from(*part_bytes).max(1), max), whole);
    assert_eq!(read(bytes, 1, max), whole);
    for line in whole.0 {
        assert!(!line.is_empty() && line.len() <= max && !line.contains(&b'\n'));
    }
}
