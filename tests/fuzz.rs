//! The bodies of the fuzz targets over the corpus: what was found once stays found, and no body rots where nobody fuzzes.

#[path = "../fuzz/src/lib.rs"]
mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}

#[test]
fn every_input_of_the_corpus_runs() {
    for (target, run) in bodies::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(fuzz().join("corpus").join(target)).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            // The thread's name is in the message when it panics.
            let name = format!("{target} {}", path.file_name().unwrap().display());
            let thread = std::thread::Builder::new().name(name).spawn(move || run(&input));
            thread.unwrap().join().unwrap_or_else(|_| panic!("{} is a finding", path.display()));
            inputs += 1;
        }
        assert!((1..=CORPUS_MAX).contains(&inputs), "{target} has {inputs} inputs: `scripts/fuzz` keeps it small");
    }
}

#[test]
fn every_target_is_listed() {
    let files = fs::read_dir(fuzz().join("fuzz_targets")).unwrap();
    let files: BTreeSet<String> =
        files.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let listed = bodies::TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    assert_eq!(files, listed);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in files {
        assert!(manifest.contains(&format!("name = \"{target}\"\n")), "fuzz/Cargo.toml has no {target}");
    }
}

/// Inputs of one target.
const CORPUS_MAX: usize = 200;
