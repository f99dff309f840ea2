//! Tells the program which commit it is built from, so that a result can name it. Without git it says `unknown`.

use std::path::Path;
use std::process::Command;

fn main() {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).map_or_else(
        || "unknown".to_owned(),
        |commit| {
            let changed = git(&[&["status", "--porcelain", "--untracked-files=no", "--"], &SOURCES[..]].concat());
            format!("{commit}{}", if changed.is_none_or(|files| files.is_empty()) { "" } else { "-dirty" })
        },
    );
    println!("cargo::rustc-env=LOADGEN_COMMIT={commit}");
    // The log of HEAD grows with every commit; the sources decide whether they differ from it. A path that does not
    // exist would make every build run this again.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    let watched = SOURCES.iter().map(|path| (*path).to_owned()).chain(log);
    for path in watched.filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// What the generator and the library under it are made from, relative to this package.
const SOURCES: [&str; 6] = ["src", "build.rs", "Cargo.toml", "../src", "../Cargo.toml", "../Cargo.lock"];
