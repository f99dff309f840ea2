//! The operations of `benches/` still do what they did: a few runs of each, compared with what they gave when that was
//! written down. `HUBBUB_BLESS=1 cargo test --test operations` writes it down anew.

#[path = "../benches/operations/mod.rs"]
#[allow(dead_code, reason = "the timing uses the rest")]
mod operations;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use operations::{Operation, fold};

/// One line for each operation.
fn outcomes() -> String {
    operations::all().iter().fold(String::new(), |mut text, operation| {
        let outcome = outcome(operation);
        writeln!(text, "{outcome:016x} {}: {}", operation.module, operation.what).expect("a text takes everything");
        text
    })
}

fn outcome(operation: &Operation) -> u64 {
    let mut run = (operation.prepare)();
    (0..RUNS).fold(0, |sum, _| fold(sum, run()))
}

#[test]
fn every_operation_comes_to_what_was_written_down() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/operations/outcomes.txt");
    let now = outcomes();
    if std::env::var_os("HUBBUB_BLESS").is_some() {
        fs::write(&path, &now).expect("the folder is there");
    }
    let before = fs::read_to_string(&path).expect("the file is there");
    for (before, now) in before.lines().zip(now.lines()) {
        assert_eq!(before, now, "if that was meant: HUBBUB_BLESS=1 cargo test --test operations");
    }
    assert_eq!(before.lines().count(), now.lines().count());
}

#[test]
fn operations_begin_afresh_each_time() {
    assert_eq!(outcomes(), outcomes());
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = operations::all().iter().map(|o| format!("{}: {}", o.module, o.what)).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

/// So many that a run which spoils the next one shows.
const RUNS: usize = 5;
