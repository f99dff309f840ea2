//! The whole server killed: a real process under load, `kill -9` at random moments and at every named step of a commit,
//! started again on what it left behind; an oracle that holds all that any client was ever told.
//!
//! `HUBBUB_CRASH_ROUNDS=n` says how often the first test kills (`scripts/crash` does it a hundred times),
//! `HUBBUB_CRASH_SEED=n` chooses everything that is chosen at random but the threads' timing.

mod client;
mod damage;
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

use damage::Damage;
use harness::run_to_end;
use hubbub::store::FAULT_POINTS;
use rng::Rng;
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
        assert!(trial.round(Kill::AtRandom), "the server ended before it was killed");
    }
    let tally = trial.finish();
    println!("{tally:?}");
    assert!(tally.durable > 0 && tally.recovered > 0, "nothing was put to the test: {tally:?}");
    assert!(tally.resumed > 0, "no session was resumed: {tally:?}");
}

#[test]
fn what_was_promised_survives_a_kill_at_every_step() {
    let mut trial = Trial::new(seed());
    for step in FAULT_POINTS {
        assert!(trial.round(Kill::AtStep(step, 1)), "the server never came to {step}");
        // Later passes have more behind them; not every step has so many.
        for pass in [2, 17] {
            trial.round(Kill::AtStep(step, pass));
        }
    }
    let tally = trial.finish();
    assert!(tally.durable > 0, "nothing was put to the test: {tally:?}");
}

#[test]
fn a_journal_cut_short_is_read_as_far_as_it_goes() {
    damaged(Damage::Cut);
}

#[test]
fn what_follows_the_end_of_a_journal_is_no_message() {
    damaged(Damage::Garbage);
}

#[test]
fn a_hole_at_the_end_of_a_journal_invents_nothing() {
    damaged(Damage::Hole);
}

/// Kills a server and damages what it left. It starts with what is left, and nothing is invented; or it refuses, and says
/// what to do. `store check` knows which.
fn damaged(damage: Damage) {
    let mut trial = Trial::new(seed());
    for _ in 0..2 {
        assert!(trial.round(Kill::AtRandom), "the server ended before it was killed");
    }
    let mut rng = Rng::new(seed());
    damage::inflict(trial.data_dir(), damage, &mut rng);
    let dir = trial.data_dir().display().to_string();
    let check = run_to_end(&["store", "check", &format!("--data-dir={dir}")]);
    match trial.launch().try_start() {
        Ok(server) => {
            assert_eq!(check.status.code(), Some(0), "the server starts, but: {check:?}");
            server.stop();
            if damage != Damage::Garbage {
                trial.forgive_losses();
            }
            trial.round(Kill::AtRandom);
            trial.finish();
        }
        Err((status, said)) => {
            assert_eq!((status.code(), check.status.code()), (Some(1), Some(1)), "{said}; {check:?}");
            assert!(said.contains(&dir) && said.contains("damaged") && said.contains("backup"), "{said}");
        }
    }
}
