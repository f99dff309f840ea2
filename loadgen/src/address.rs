//! Checks, before the first connection, that the machine can carry the run: local addresses and ports, descriptors.
//!
//! A TCP connection is named by both its ends, so one local address reaches one server port at most once per local
//! port. The loopback network has sixteen million addresses; using a few of them lifts the limit. Descriptors are
//! counted per table, and each worker has a table of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// What the machine allows, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// First and last local port, from `net.ipv4.ip_local_port_range`.
    pub ports: (u16, u16),
    /// Descriptors per table: the soft limit after it was raised to the hard one.
    pub nofile: u64,
    /// Cores this process may run on.
    pub cores: u32,
}

impl Machine {
    /// Reads the limits of this machine and raises the soft descriptor limit to the hard one.
    #[must_use]
    pub fn read() -> Self {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        Self { ports: port_range(&range).unwrap_or(PORTS_DEFAULT), nofile: raise_nofile(), cores: cores() }
    }

    /// How many connections the descriptors of one worker carry.
    #[must_use]
    pub fn connections_per_worker(self) -> u32 {
        self.nofile.saturating_sub(NOFILE_RESERVED).min(u64::from(u32::MAX)) as u32
    }

    fn ports_of_one_address(self) -> u32 {
        u32::from(self.ports.1.saturating_sub(self.ports.0)) + 1
    }
}

/// Chooses the local addresses of `connections` connections to `target`. `asked` wins where it is not empty.
pub fn plan_sources(
    target: IpAddr,
    connections: u32,
    asked: &[IpAddr],
    machine: Machine,
) -> Result<Vec<IpAddr>, AddressError> {
    let ports = machine.ports_of_one_address();
    if !asked.is_empty() {
        if let Some(&source) = asked.iter().find(|source| source.is_ipv4() != target.is_ipv4()) {
            return Err(AddressError::OtherFamily { source_ip: source, target });
        }
        return enough(asked.len() as u32, ports, connections).map(|()| asked.to_vec());
    }
    match target {
        IpAddr::V4(ip) if ip.is_loopback() => {
            // Half of the range: the kernel's search for a free port slows down as the range fills.
            let addresses = connections.div_ceil((ports / 2).max(1));
            let first = u32::from(Ipv4Addr::LOCALHOST);
            Ok((0..addresses).map(|n| IpAddr::V4(Ipv4Addr::from(first + n))).collect())
        }
        IpAddr::V6(ip) if ip.is_loopback() => enough(1, ports, connections).map(|()| vec![target]),
        // The kernel picks the address that routes to the target.
        IpAddr::V4(_) => enough(1, ports, connections).map(|()| vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)]),
        IpAddr::V6(_) => enough(1, ports, connections).map(|()| vec![IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)]),
    }
}

/// Tries each address once.
pub fn check_sources(sources: &[IpAddr]) -> Result<(), AddressError> {
    for &source in sources {
        TcpListener::bind(SocketAddr::new(source, 0))
            .map_err(|error| AddressError::Unbindable { source_ip: source, error })?;
    }
    Ok(())
}

/// How many workers to run: as `asked`, else one per usable core, and never fewer than the descriptors want.
pub fn plan_workers(connections: u32, asked: Option<u32>, cpus: usize, machine: Machine) -> Result<u32, AddressError> {
    let per_worker = machine.connections_per_worker();
    if per_worker == 0 {
        return Err(AddressError::FewDescriptors {
            connections,
            workers: 1,
            fits: 0,
            nofile: machine.nofile,
            remedy: 0,
        });
    }
    let needed = connections.div_ceil(per_worker);
    let Some(workers) = asked else {
        let wanted = if cpus > 0 { cpus as u32 } else { machine.cores };
        return Ok(needed.max(wanted).min(connections));
    };
    if workers < needed {
        let fits = u64::from(workers) * u64::from(per_worker);
        return Err(AddressError::FewDescriptors {
            connections,
            workers,
            fits,
            nofile: machine.nofile,
            remedy: needed,
        });
    }
    Ok(workers.min(connections))
}

/// Why the machine cannot carry the run. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// A local address of the other family.
    #[error("sources: {source_ip} cannot reach {target}: give addresses of the same family")]
    OtherFamily {
        /// What was given.
        source_ip: IpAddr,
        /// The server.
        target: IpAddr,
    },
    /// Too few local ports.
    #[error(
        "connections = {connections}: {addresses} local address(es) with {ports} ports each carry {fits} connections to \
         one server port; give --sources with more addresses, or widen net.ipv4.ip_local_port_range (sysctl -w \
         net.ipv4.ip_local_port_range=\"1024 65535\")"
    )]
    FewPorts {
        /// What was asked for.
        connections: u32,
        /// How many local addresses there are.
        addresses: u32,
        /// Ports of each.
        ports: u32,
        /// What they carry.
        fits: u64,
    },
    /// An address that is not of this machine.
    #[error("sources: {source_ip} cannot be bound ({error}); give addresses of this machine")]
    Unbindable {
        /// What was given.
        source_ip: IpAddr,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// Too few descriptors.
    #[error(
        "connections = {connections}: {workers} worker(s) carry {fits} connections under a limit of {nofile} descriptors \
         each; use --workers {remedy} or raise the limit (ulimit -n)"
    )]
    FewDescriptors {
        /// What was asked for.
        connections: u32,
        /// How many workers.
        workers: u32,
        /// What they carry.
        fits: u64,
        /// The limit.
        nofile: u64,
        /// How many workers would do.
        remedy: u32,
    },
}

fn enough(addresses: u32, ports: u32, connections: u32) -> Result<(), AddressError> {
    // A tenth stays free for everyone else on the machine.
    let fits = u64::from(addresses) * u64::from(ports) * 9 / 10;
    if u64::from(connections) > fits {
        return Err(AddressError::FewPorts { connections, addresses, ports, fits });
    }
    Ok(())
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(first), Ok(last)) if first <= last => Some((first, last)),
        _ => None,
    }
}

fn raise_nofile() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

const PORTS_DEFAULT: (u16, u16) = (32_768, 60_999);
/// Descriptors of each table kept for everything but connections.
const NOFILE_RESERVED: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { ports: (32_768, 60_999), nofile: 20_000, cores: 2 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_addresses_are_added_as_ports_run_out() {
        let sources = |connections| plan_sources(ip("127.0.0.1"), connections, &[], MACHINE).unwrap();
        assert_eq!(sources(1), [ip("127.0.0.1")]);
        assert_eq!(sources(14_116), [ip("127.0.0.1")]);
        assert_eq!(sources(14_117), [ip("127.0.0.1"), ip("127.0.0.2")]);
        assert_eq!(sources(50_000).len(), 4);
        assert_eq!(sources(10_000_000).last(), Some(&ip("127.0.2.197")));
    }

    #[test]
    fn one_address_must_suffice_where_there_is_no_other() {
        assert_eq!(plan_sources(ip("::1"), 20_000, &[], MACHINE).unwrap(), [ip("::1")]);
        assert_eq!(plan_sources(ip("192.0.2.1"), 9, &[], MACHINE).unwrap(), [ip("0.0.0.0")]);
        let error = plan_sources(ip("::1"), 50_000, &[], MACHINE).unwrap_err().to_string();
        assert!(error.contains("carry 25408 connections") && error.contains("ip_local_port_range"), "{error}");
    }

    #[test]
    fn addresses_asked_for_are_used_or_refused() {
        let asked = [ip("127.0.0.7"), ip("127.0.0.8")];
        assert_eq!(plan_sources(ip("127.0.0.1"), 50_000, &asked, MACHINE).unwrap(), asked);
        let error = plan_sources(ip("127.0.0.1"), 60_000, &asked, MACHINE).unwrap_err();
        assert!(matches!(error, AddressError::FewPorts { fits: 50_817, .. }), "{error}");
        let error = plan_sources(ip("::1"), 1, &asked, MACHINE).unwrap_err();
        assert!(matches!(error, AddressError::OtherFamily { .. }), "{error}");
    }

    #[test]
    fn addresses_are_tried_beforehand() {
        check_sources(&[ip("127.0.0.1"), ip("127.1.2.3")]).unwrap();
        let error = check_sources(&[ip("192.0.2.1")]).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1 cannot be bound"), "{error}");
    }

    #[test]
    fn workers_follow_from_cores_and_descriptors() {
        let workers = |connections, asked, cpus| plan_workers(connections, asked, cpus, MACHINE);
        assert_eq!(workers(50_000, None, 0).unwrap(), 3);
        assert_eq!(workers(1_000, None, 0).unwrap(), 2);
        assert_eq!(workers(1_000, None, 1).unwrap(), 1);
        assert_eq!(workers(1_000, Some(4), 1).unwrap(), 4);
        assert_eq!(workers(1, None, 0).unwrap(), 1, "a worker without a connection has nothing to do");
        let error = workers(50_000, Some(2), 0).unwrap_err().to_string();
        assert!(error.contains("carry 39488") && error.contains("--workers 3"), "{error}");
    }

    #[test]
    fn the_port_range_is_read_as_the_kernel_writes_it() {
        assert_eq!(port_range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(port_range("9 8"), None);
        assert_eq!(port_range(""), None);
    }
}
