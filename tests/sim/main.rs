//! The simulation: whole servers of one to five shards in one thread, on a clock of their own, each from one seed. They
//! crash, stop and start again on a model of the store.
//!
//! `HUBBUB_SIM_SEEDS=n` says how many seeds are tried, `HUBBUB_SIM_SEED=n` tries just that one and prints what
//! happened in it.

mod client;
mod env;
mod faults;
mod letters;
mod link;
mod mailbox;
mod oracle;
mod outsiders;
mod plan;
mod restart;
mod rng;
mod seen;
mod shell;
mod store;
mod talk;
mod truth;
mod view;
mod wire;
mod witness;
mod world;

use faults::{Fault, FaultKind};
use seen::Seen;
use world::run;

/// Seeds tried when nothing else is asked for.
const SEEDS: u64 = 2_000;

/// Says how to see the failure again, also when the core itself panics.
struct Guard {
    seed: u64,
}

impl Drop for Guard {
    #[expect(clippy::print_stderr, reason = "a panic of the core has no other way to name its seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}; {RERUN}", self.seed);
        }
    }
}

/// Told with every failure.
const RERUN: &str = "to see one again: HUBBUB_SIM_SEED=n cargo test --test sim every_seed -- --nocapture";
/// More would say no more.
const FAILURES_MAX: usize = 20;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number of seeds or a seed"))
}

#[test]
fn every_seed_keeps_the_promises() {
    if let Some(seed) = number("HUBBUB_SIM_SEED") {
        return show(seed);
    }
    let mut failures = Vec::new();
    let mut total = Seen::default();
    let seeds = number("HUBBUB_SIM_SEEDS").unwrap_or(SEEDS);
    for seed in 0..seeds {
        let _guard = Guard { seed };
        let outcome = run(seed, None, false);
        total.add(&outcome.seen);
        failures.extend(outcome.violation.map(|violation| format!("seed {seed}: {violation}")));
        assert!(failures.len() < FAILURES_MAX, "{}", failures.join("\n"));
    }
    assert!(failures.is_empty(), "{}\n{RERUN}", failures.join("\n"));
    if seeds >= SEEDS {
        total.check();
    }
}

#[expect(clippy::print_stdout, reason = "a person asked for it")]
fn show(seed: u64) {
    let _guard = Guard { seed };
    let outcome = run(seed, None, true);
    println!("{}\n{:#?}\n{:#?}", outcome.trace, outcome.plan, outcome.seen);
    assert_eq!(outcome.violation, None, "seed {seed}");
}

#[test]
fn same_seed_same_world() {
    for seed in 0..20 {
        let _guard = Guard { seed };
        let (first, second) = (run(seed, None, true), run(seed, None, true));
        let differs = first.trace.lines().zip(second.trace.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.trace.len(), second.trace.len());
        assert!(first.trace.len() > 1_000, "a world without events shows nothing");
    }
}

#[test]
fn oracle_sees_what_the_server_must_not_do() {
    let mut weak = Vec::new();
    for kind in FaultKind::ALL {
        let (mut done, mut caught) = (0, 0);
        for seed in 0..400 {
            let outcome = run(seed, Some(Fault::new(kind, seed as usize % 7 * 4)), false);
            if outcome.fault_done {
                done += 1;
                caught += usize::from(outcome.violation.is_some());
            }
            if done == 20 {
                break;
            }
        }
        if done < 5 || 3 * caught < done {
            weak.push(format!("{kind:?} was committed {done} times and caught {caught} times"));
        }
    }
    assert!(weak.is_empty(), "{weak:#?}");
}
