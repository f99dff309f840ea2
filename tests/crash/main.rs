//! The whole server killed: a real process under load, `kill -9` at random moments and at every named step of a commit,
//! started again on what it left behind; an oracle that holds all that any client was ever told.
//!
//! `HUBBUB_CRASH_ROUNDS=n` says how often the first test kills (`scripts/crash` does it a hundred times),
//! `HUBBUB_CRASH_SEED=n` chooses everything that is chosen at random but the threads' timing.

mod client;
#[path = "../integration/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the integration tests use the rest")]
mod harness;
mod lines;
mod observation;
mod oracle;
mod publisher;
mod reader;
#[path = "../sim/rng.rs"]
#[allow(dead_code, reason = "the simulation uses the rest")]
mod rng;
mod subscriber;
mod trial;

use trial::{Kill, Trial};

/// Kills when nothing else is asked for.
const ROUNDS: u64 = 10;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn seed() -> u64 {
    number("HUBBUB_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()))
}

#[test]
fn what_was_promised_survives_kills_at_random_moments() {
    let mut trial = Trial::new(seed());
    for _ in 0..number("HUBBUB_CRASH_ROUNDS").unwrap_or(ROUNDS) {
        trial.round(Kill::AtRandom);
    }
    let tally = trial.finish();
    println!("{tally:?}");
    assert!(tally.durable > 0 && tally.recovered > 0, "nothing was put to the test: {tally:?}");
    assert!(tally.resumed > 0, "no session was resumed: {tally:?}");
}
