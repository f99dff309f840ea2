//! Which connections leave, are dropped or stop reading, and when: follows from the scenario and its seed alone, like the
//! plan of messages, so that it does not depend on how many workers there are.

use std::collections::VecDeque;

use crate::clock::{NS_PER_MS, NS_PER_S};
use crate::plan::{Arrivals, Plan};
use crate::scenario::{DropWho, Scenario};

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It prepares to leave: it stops sending, and goes once it has had what was on its way.
    Leave,
    /// It prepares likewise, and is dropped at this time after the start of the load, or as soon after it as it can.
    DropAt(u64),
    /// It stops reading.
    StopReading,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// Nanoseconds after the start of the load.
    pub at_ns: u64,
    /// Which of the scenario's connections.
    pub connection: u32,
    /// What happens to it.
    pub act: Act,
}

/// All of a run, in the order of their times.
#[derive(Debug)]
pub struct Disturbances {
    leaves: Plan,
    others: VecDeque<Disturbance>,
}

impl Disturbances {
    /// What a scenario asks for.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        let load_ns = scenario.warm_up.ns() + scenario.duration.ns();
        let per_s = scenario.churn_per_s * f64::from(scenario.connections);
        let seed = scenario.seed ^ SALT;
        let others = if scenario.drop_share > 0.0 { drops(scenario, seed) } else { slow_readers(scenario, seed) };
        Self { leaves: Plan::new(Arrivals::Constant, per_s, scenario.connections, load_ns, seed), others }
    }
}

impl Iterator for Disturbances {
    type Item = Disturbance;

    fn next(&mut self) -> Option<Disturbance> {
        // A scenario has leaves or others, never both.
        self.others.pop_front().or_else(|| {
            let planned = self.leaves.next()?;
            Some(Disturbance { at_ns: planned.at_ns, connection: planned.sender, act: Act::Leave })
        })
    }
}

fn drops(scenario: &Scenario, seed: u64) -> VecDeque<Disturbance> {
    let drop_ns = scenario.warm_up.ns() + scenario.drop_at.ns();
    let at_ns = drop_ns.saturating_sub(DROP_LEAD_NS);
    let droppable: Vec<u32> = match scenario.drop_who {
        DropWho::All => (0..scenario.connections).collect(),
        DropWho::Listeners => silent(scenario),
    };
    let chosen = choose(droppable.len() as u32, share_of(scenario.drop_share, droppable.len() as u32), seed);
    let dropped = chosen.map(|at| droppable[at as usize]);
    dropped.map(|connection| Disturbance { at_ns, connection, act: Act::DropAt(drop_ns) }).collect()
}

fn slow_readers(scenario: &Scenario, seed: u64) -> VecDeque<Disturbance> {
    let silent = silent(scenario);
    let chosen = choose(silent.len() as u32, share_of(scenario.slow_share, scenario.connections), seed);
    let at_ns = scenario.warm_up.ns();
    chosen.map(|at| Disturbance { at_ns, connection: silent[at as usize], act: Act::StopReading }).collect()
}

fn silent(scenario: &Scenario) -> Vec<u32> {
    (0..scenario.connections).filter(|&index| !scenario.layout.speaks(index)).collect()
}

/// At least one where there is a share at all.
fn share_of(share: f64, connections: u32) -> u32 {
    (share * f64::from(connections)).ceil() as u32
}

/// `count` different numbers below `of`, far apart; all of them when there are not so many.
fn choose(of: u32, count: u32, seed: u64) -> impl Iterator<Item = u32> {
    let order = Plan::new(Arrivals::Constant, NS_PER_S as f64, of, u64::from(of), seed);
    order.take(count as usize).map(|planned| planned.sender)
}

/// How long before the drop a connection stops sending, so that nothing of its own is on its way when it goes.
const DROP_LEAD_NS: u64 = 500 * NS_PER_MS;
/// Keeps it apart from the plan of messages, which has the same seed.
const SALT: u64 = 0x6469_7374;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::Settings;

    fn disturbances(text: &str) -> (Scenario, Vec<Disturbance>) {
        let scenario = Settings::parse(text).unwrap().decide("test".to_owned()).unwrap();
        let all = Disturbances::of(&scenario).collect();
        (scenario, all)
    }

    #[test]
    fn a_share_of_the_connections_leaves_each_second_and_everyone_in_turn() {
        let (_, all) = disturbances("kind = 'churn'\nconnections = 40\nchurn_per_s = 0.1\nwarm_up = '0s'");
        assert_eq!(all.len(), 40, "4 a second for 10 s");
        assert!(all.iter().all(|one| one.act == Act::Leave) && all.is_sorted_by_key(|one| one.at_ns));
        assert_eq!(all.iter().map(|one| one.connection).collect::<BTreeSet<_>>().len(), 40);
    }

    #[test]
    fn a_storm_drops_its_share_at_once() {
        let (_, all) = disturbances("kind = 'reconnect-storm'\nconnections = 50\nroom_size = 5\ndrop_share = 0.3");
        assert_eq!(all.iter().map(|one| one.connection).collect::<BTreeSet<_>>().len(), 15);
        let at = |ns| move |one: &Disturbance| one.at_ns == ns && one.act == Act::DropAt(3 * NS_PER_S);
        assert!(all.iter().all(at(2_500_000_000)), "{all:?}");
    }

    #[test]
    fn a_storm_can_spare_those_who_speak() {
        let keys = "connections = 60\nroom_size = 6\nsenders = 1\ndrop_share = 1.0\ndrop_who = 'listeners'";
        let (scenario, all) = disturbances(&format!("kind = 'reconnect-storm'\n{keys}"));
        assert_eq!(all.iter().map(|one| one.connection).collect::<BTreeSet<_>>().len(), 50);
        assert!(all.iter().all(|one| !scenario.layout.speaks(one.connection)));
    }

    #[test]
    fn slow_readers_do_not_speak() {
        let (scenario, all) = disturbances("kind = 'slow-readers'\nconnections = 100\nroom_size = 20\nsenders = 2");
        assert_eq!(all.iter().map(|one| one.connection).collect::<BTreeSet<_>>().len(), 10);
        assert!(all.iter().all(|one| !scenario.layout.speaks(one.connection) && one.act == Act::StopReading));
    }

    #[test]
    fn other_kinds_are_left_in_peace() {
        assert!(disturbances("kind = 'rooms'").1.is_empty());
    }
}
