//! `codec/lines`: the framing of the TCP transport.

use std::hint::black_box;

use hubbub::codec::lines::Decoder;

use super::super::{Operation, Work};
use super::COMMAND;

pub(super) fn operations() -> Vec<Operation> {
    vec![lines("one line", 1, 1), lines("eight lines", 8, 1), lines("a line in two parts", 1, 2)]
}

fn lines(what: &'static str, lines: usize, parts: usize) -> Operation {
    let prepare = move || {
        let chunk = [COMMAND, b"\n"].concat().repeat(lines);
        let mut decoder = Decoder::new();
        move || {
            let mut bytes = 0;
            for mut part in chunk.chunks(chunk.len().div_ceil(parts)) {
                while let Ok(Some(line)) = decoder.decode(black_box(&mut part), 65_536) {
                    bytes += line.len() as u64;
                }
            }
            bytes
        }
    };
    Operation::new("codec/lines", what, Work::Elements(lines as u64), prepare)
}
