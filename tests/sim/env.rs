//! What everything in a world shares: time, randomness, the record, and the first thing that went wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hubbub::clock::Time;
use hubbub::ids::{RoomName, UserName};

use crate::faults::Fault;
use crate::letters::Consumed;
use crate::outsiders::Restraints;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::seen::Seen;
use crate::store::Store;
use crate::truth::{Author, Truth};
use crate::view::Memory;
use crate::wire::Wire;

/// The surroundings of shells and clients.
#[derive(Debug)]
pub struct Env {
    pub plan: Plan,
    pub rng: Rng,
    pub now: Time,
    pub step: u64,
    pub wire: Wire,
    pub truth: Truth,
    pub store: Store,
    /// How often the server has started before.
    pub life: u64,
    pub fault: Option<Fault>,
    pub trace: Trace,
    pub seen: Seen,
    /// Memberships that are over.
    pub past: Vec<Memory>,
    /// Who consumes what, by room.
    pub consumed: BTreeMap<(usize, UserName), Consumed>,
    /// Who was welcomed on which connection.
    pub users: BTreeMap<Author, UserName>,
    /// Who must not be heard, or hear.
    pub restraints: Restraints,
    /// The server has begun to stop.
    pub draining: bool,
    violation: Option<String>,
}

/// What happened, in words, when anyone wants to know.
#[derive(Debug, Default)]
pub struct Trace {
    pub on: bool,
    pub text: String,
}

impl Env {
    pub fn new(plan: Plan, rng: Rng, fault: Option<Fault>, traced: bool) -> Self {
        let store = Store::new(plan.store.clone(), plan.seed);
        Self {
            plan,
            rng,
            now: Time { us: 1_000_000, unix_ms: 1_700_000_000_000 },
            step: 0,
            wire: Wire::default(),
            truth: Truth::default(),
            store,
            life: 0,
            fault,
            trace: Trace { on: traced, text: String::new() },
            seen: Seen::default(),
            past: Vec::new(),
            consumed: BTreeMap::new(),
            users: BTreeMap::new(),
            restraints: Restraints::default(),
            draining: false,
            violation: None,
        }
    }

    /// Records what must not be. Only the first counts.
    pub fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.note(|| format!("VIOLATION {what}"));
            self.violation = Some(what);
        }
    }

    /// Records a check that failed.
    pub fn check(&mut self, result: Result<(), String>) {
        if let Err(what) = result {
            self.fail(|| what);
        }
    }

    pub fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if self.trace.on {
            let _ = writeln!(self.trace.text, "{:>6} {:>10}us {}", self.step, self.now.us, what());
        }
    }

    /// Moves time on. The wall clock is unsteady: it may stand still or be set back a little.
    pub fn pass(&mut self, us: u64) {
        self.now.us += us;
        match self.rng.below(200) {
            0 => self.now.unix_ms -= 40,
            1..20 => {}
            _ => self.now.unix_ms += us.div_ceil(1_000),
        }
        let worked = self.store.work(self.now.us, &mut self.fault);
        self.check(worked);
    }

    /// Which of the plan's rooms has this name. Both namespaces use the same names.
    pub fn room(&self, name: &RoomName) -> Option<usize> {
        self.plan.rooms.iter().position(|room| room == name)
    }
}
