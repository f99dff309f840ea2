//! How many shards there are and where they run: a pure decision from the configuration and the machine.
//!
//! Each shard has a table of descriptors of its own, so the limit on open files applies to each shard and not to the
//! process. That makes the shard count follow from the connections wanted as well as from the cores.

use crate::config::Config;
use crate::config::validate::Problem;
use crate::limits::{DESCRIPTORS_RESERVED, SHARDS_MAX};

/// What the machine offers to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// CPUs that the process may run on, ascending.
    pub cpus: Vec<usize>,
    /// Descriptors that one table may hold (`RLIMIT_NOFILE`).
    pub nofile: u64,
}

/// Which shards there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The CPU that each shard is pinned to; one entry per shard.
    pub cpus: Vec<usize>,
    /// Connections of all shards together.
    pub max_connections: u64,
    /// Connections that the table of one shard can hold.
    pub connections_per_shard: u64,
    /// One sentence that says why.
    pub explanation: String,
}

impl Machine {
    /// Looks at the machine, after raising the process's soft limit on open files as far as it may go.
    #[must_use]
    pub fn detect() -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        // Failing to raise it leaves the soft limit in force, which is then the one that counts.
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_ok();
        let nofile = if raised { limit.maximum } else { limit.current };
        let mut cpus: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|cpu| cpu.id).collect();
        cpus.sort_unstable();
        if cpus.is_empty() {
            cpus.push(0);
        }
        Self { cpus, nofile: nofile.unwrap_or(NOFILE_UNLIMITED) }
    }
}

impl Layout {
    /// Decides. Fails if the machine cannot carry what is configured.
    pub fn decide(config: &Config, machine: &Machine) -> Result<Self, Problem> {
        let cpus = usable_cpus(config, machine)?;
        let per_shard = machine.nofile.saturating_sub(DESCRIPTORS_RESERVED);
        if per_shard == 0 {
            return Err(Problem::new(
                "max_connections",
                format!(
                    "the limit on open files is {}, and each shard keeps {DESCRIPTORS_RESERVED} for itself",
                    machine.nofile
                ),
                "raise it with `ulimit -n 20000` or LimitNOFILE= in the service file",
            ));
        }
        let from_connections = config.max_connections.map_or(1, |wanted| shards_for(wanted, per_shard));
        let shards = match config.shards {
            Some(shards) => u64::from(shards),
            None => from_connections.max(cpus.len().min(SHARDS_MAX) as u64),
        };
        check_capacity(config, shards, from_connections, per_shard)?;
        let max_connections = config.max_connections.unwrap_or(shards * per_shard);
        Ok(Self {
            explanation: explain(config, machine, &cpus, shards, max_connections),
            cpus: cpus.iter().copied().cycle().take(shards as usize).collect(),
            max_connections,
            connections_per_shard: per_shard,
        })
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.cpus.len() as u16
    }
}

fn usable_cpus(config: &Config, machine: &Machine) -> Result<Vec<usize>, Problem> {
    let Some(wanted) = &config.cpus else {
        return Ok(machine.cpus.clone());
    };
    match wanted.iter().find(|cpu| !machine.cpus.contains(cpu)) {
        None => Ok(wanted.clone()),
        Some(cpu) => {
            let have: Vec<String> = machine.cpus.iter().map(ToString::to_string).collect();
            Err(Problem::new(
                "cpus",
                format!("CPU {cpu} is not one this process may use"),
                format!("choose from {}", have.join(",")),
            ))
        }
    }
}

fn check_capacity(config: &Config, shards: u64, needed: u64, per_shard: u64) -> Result<(), Problem> {
    let Some(wanted) = config.max_connections else { return Ok(()) };
    if shards > SHARDS_MAX as u64 {
        return Err(Problem::new(
            "max_connections",
            format!(
                "{wanted} connections want {shards} shards of {per_shard} descriptors, and {SHARDS_MAX} is the most"
            ),
            "raise the limit on open files (LimitNOFILE=) or lower max_connections",
        ));
    }
    if wanted > shards * per_shard {
        return Err(Problem::new(
            "shards",
            format!("{shards} × {per_shard} descriptors are too few for max_connections = {wanted}"),
            format!("use shards = {needed}, leave it out, lower max_connections, or raise the limit on open files"),
        ));
    }
    Ok(())
}

/// The fewest shards that hold so many connections. The kernel spreads connections by hash, so shards fill unevenly:
/// with n on average, four standard deviations are 4 √n, and each shard must have room for those too.
fn shards_for(connections: u64, per_shard: u64) -> u64 {
    let fits = |shards: u64| {
        let mean = connections.div_ceil(shards);
        shards == 1 && mean <= per_shard || shards > 1 && mean + 4 * mean.isqrt() <= per_shard
    };
    let mut shards = connections.div_ceil(per_shard).max(1);
    while shards <= SHARDS_MAX as u64 && !fits(shards) {
        shards += 1;
    }
    shards
}

fn explain(config: &Config, machine: &Machine, cpus: &[usize], shards: u64, max_connections: u64) -> String {
    let reason = if config.shards.is_some() {
        "as configured".to_string()
    } else if shards > cpus.len() as u64 {
        format!("because {max_connections} connections need that many tables of {} descriptors", machine.nofile)
    } else {
        "one for each CPU".to_string()
    };
    let plural = if shards == 1 { "" } else { "s" };
    let names: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    format!(
        "{shards} shard{plural} ({reason}) on CPU {}, {max_connections} connections at most, {} descriptors per shard",
        names.join(","),
        machine.nofile
    )
}

/// Taken for "no limit": the kernel's own default ceiling (`fs.nr_open`).
const NOFILE_UNLIMITED: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: usize, nofile: u64) -> Machine {
        Machine { cpus: (0..cpus).collect(), nofile }
    }

    fn config(shards: Option<u16>, max_connections: Option<u64>) -> Config {
        Config { shards, max_connections, ..Config::default() }
    }

    #[test]
    fn one_shard_per_core_when_nothing_is_said() {
        let layout = Layout::decide(&config(None, None), &machine(4, 1024)).unwrap();
        assert_eq!(layout.cpus, [0, 1, 2, 3]);
        assert_eq!(layout.max_connections, 4 * 768);
        assert!(layout.explanation.starts_with("4 shards (one for each CPU) on CPU 0,1,2,3"), "{}", layout.explanation);
    }

    #[test]
    fn connections_beyond_the_descriptors_of_the_cores_get_more_shards() {
        let layout = Layout::decide(&config(None, Some(50_000)), &machine(2, 20_000)).unwrap();
        assert_eq!(layout.cpus, [0, 1, 0]);
        assert_eq!((layout.max_connections, layout.connections_per_shard), (50_000, 19_744));
        assert!(layout.explanation.contains("need that many tables of 20000"), "{}", layout.explanation);
    }

    #[test]
    fn uneven_spread_has_room() {
        // Two full tables would hold these only if the kernel dealt them out evenly.
        assert_eq!(shards_for(39_400, 19_744), 3);
        assert_eq!(shards_for(38_000, 19_744), 2);
        assert_eq!(shards_for(19_744, 19_744), 1);
        assert_eq!(shards_for(1, 19_744), 1);
    }

    #[test]
    fn too_few_shards_for_the_connections_names_the_number_that_does() {
        let problem = Layout::decide(&config(Some(2), Some(50_000)), &machine(2, 20_000)).unwrap_err();
        assert_eq!(problem.key, "shards");
        assert!(problem.remedy.contains("shards = 3"), "{}", problem.remedy);
    }

    #[test]
    fn more_connections_than_any_number_of_shards_holds_is_refused() {
        let problem = Layout::decide(&config(None, Some(1 << 40)), &machine(2, 1024)).unwrap_err();
        assert_eq!(problem.key, "max_connections");
    }

    #[test]
    fn shards_share_the_given_cpus_in_turn() {
        let config = Config { shards: Some(5), cpus: Some(vec![3, 1]), ..Config::default() };
        let layout = Layout::decide(&config, &machine(4, 1024)).unwrap();
        assert_eq!(layout.cpus, [3, 1, 3, 1, 3]);
        assert_eq!(layout.shards(), 5);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let config = Config { cpus: Some(vec![0, 9]), ..Config::default() };
        let problem = Layout::decide(&config, &machine(2, 1024)).unwrap_err();
        assert_eq!((problem.key.as_ref(), problem.remedy.as_str()), ("cpus", "choose from 0,1"));
    }

    #[test]
    fn a_tiny_descriptor_limit_is_refused() {
        let problem = Layout::decide(&config(None, None), &machine(2, 256)).unwrap_err();
        assert!(problem.remedy.contains("ulimit -n"));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let machine = Machine::detect();
        assert!(!machine.cpus.is_empty() && machine.nofile > 0);
    }
}
