//! `hubbub doctor`: whether this machine can run the server as configured, and what to do where it cannot.
//!
//! [`Facts`] are read first and judged afterwards, so that each judgement can be tested without the machine it is
//! about. Nothing is changed, but that the soft limit on open files is raised as the server itself does.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::layout::{Layout, Machine};
use crate::limits::SOCKET_SEND_BUFFER_BYTES;
use crate::net::probe::{self, Finding};

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty if all is well.
    pub remedy: String,
}

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// The server runs, but not as well or not as large as it might.
    Warning,
    /// The server does not run.
    Fatal,
}

/// What was read of the machine. Files that cannot be read leave `None`, and their check is passed over.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// `kernel.io_uring_disabled`; the file exists since Linux 6.6.
    pub io_uring_disabled: Option<u64>,
    /// What became of a ring like a shard's.
    pub ring: Result<(), Finding>,
    /// Bytes that may be locked; `None` is no limit.
    pub memlock: Option<u64>,
    /// CPUs and the limit on open files.
    pub machine: Machine,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.ip_local_port_range`.
    pub port_range: Option<(u64, u64)>,
    /// `net.core.wmem_max`, in bytes.
    pub send_buffer_max: Option<u64>,
    /// The last figure of `net.ipv4.tcp_mem`, in bytes.
    pub tcp_memory_max: Option<u64>,
    /// The least of the machine's memory and the limits of the control groups, in bytes.
    pub memory: Option<u64>,
}

/// Reads the machine.
#[must_use]
pub fn facts() -> Facts {
    let memlock = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let pages = |n: u64| n * rustix::param::page_size() as u64;
    let port_range = numbers("/proc/sys/net/ipv4/ip_local_port_range");
    Facts {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        io_uring_disabled: numbers("/proc/sys/kernel/io_uring_disabled").first().copied(),
        ring: probe::probe(),
        memlock,
        machine: Machine::detect(),
        somaxconn: numbers("/proc/sys/net/core/somaxconn").first().copied(),
        port_range: port_range.first().copied().zip(port_range.last().copied()),
        send_buffer_max: numbers("/proc/sys/net/core/wmem_max").first().copied(),
        tcp_memory_max: numbers("/proc/sys/net/ipv4/tcp_mem").last().copied().map(pages),
        memory: memory(),
    }
}

/// Judges a machine. One entry per check, in the order of the report.
#[must_use]
pub fn examine(facts: &Facts, config: &Config) -> Vec<Check> {
    let layout = Layout::decide(config, &facts.machine);
    let shards = layout.as_ref().map_or(1, |layout| u64::from(layout.shards()));
    // Without a number the descriptor tables alone decide, and asking memory for all of them would frighten.
    let connections = config.max_connections.unwrap_or(CONNECTIONS_EXPECTED);
    let checks = [
        Some(kernel(&facts.kernel)),
        Some(io_uring(facts)),
        Some(locked_memory(facts.memlock, shards)),
        Some(match layout {
            Ok(layout) => good("layout", layout.explanation),
            Err(problem) => bad(Verdict::Fatal, "layout", format!("{}: {}", problem.key, problem.what), problem.remedy),
        }),
        Some(open_files(facts.machine.nofile)),
        facts.memory.map(|bytes| memory_for(bytes, connections)),
        facts.tcp_memory_max.map(|bytes| tcp_memory(bytes, connections)),
        facts.send_buffer_max.map(send_buffers),
        facts.somaxconn.map(backlog),
        facts.port_range.map(ports),
    ];
    checks.into_iter().flatten().collect()
}

/// The report as text: a line per check, and under it the remedy where one is needed.
#[must_use]
pub fn report(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let word = match check.verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warn",
            Verdict::Fatal => "FAIL",
        };
        text += &format!("{word:4}  {:14}  {}\n", check.name, check.found);
        if !check.remedy.is_empty() {
            text += &format!("      {:14}  remedy: {}\n", "", check.remedy);
        }
    }
    text
}

fn kernel(release: &str) -> Check {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u64>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version >= KERNEL_FLOOR {
        good("kernel", found)
    } else {
        bad(Verdict::Fatal, "kernel", found, "use Linux 6.1 or newer")
    }
}

fn io_uring(facts: &Facts) -> Check {
    match &facts.ring {
        Ok(()) if facts.io_uring_disabled == Some(1) => {
            let remedy = "run the server as this same user, or set kernel.io_uring_disabled=0 with sysctl";
            bad(
                Verdict::Warning,
                "io_uring",
                "works here, but kernel.io_uring_disabled=1 keeps others from it".into(),
                remedy,
            )
        }
        Ok(()) => good("io_uring", "a ring like a shard's works".into()),
        Err(Finding { problem, remedy }) => bad(Verdict::Fatal, "io_uring", problem.clone(), remedy.clone()),
    }
}

fn locked_memory(limit: Option<u64>, shards: u64) -> Check {
    let Some(bytes) = limit else { return good("locked memory", "no limit".into()) };
    let found = format!("{} KiB may be locked", bytes / 1024);
    let remedy = "raise it with `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit";
    if bytes < EXECUTOR_MEMLOCK_BYTES_MIN {
        bad(Verdict::Fatal, "locked memory", found, remedy)
    } else if bytes < shards * SHARD_MEMLOCK_BYTES {
        bad(Verdict::Warning, "locked memory", format!("{found}, little for {shards} shards"), remedy)
    } else {
        good("locked memory", found)
    }
}

fn open_files(nofile: u64) -> Check {
    let found = format!("{nofile} descriptors per shard");
    if nofile >= NOFILE_FLOOR {
        return good("open files", found);
    }
    let remedy = "raise the hard limit: `ulimit -Hn 20000` as root, or LimitNOFILE=20000 in the systemd unit";
    bad(Verdict::Warning, "open files", found, remedy)
}

fn memory_for(bytes: u64, connections: u64) -> Check {
    let needed = MEMORY_BYTES_BASE + connections * MEMORY_BYTES_PER_CONNECTION;
    let found = format!("{} MiB, for {connections} idle connections {} MiB", bytes >> 20, needed >> 20);
    if bytes >= needed {
        return good("memory", found);
    }
    bad(
        Verdict::Warning,
        "memory",
        found,
        "lower max_connections, or raise MemoryMax= (memory.max of the control group)",
    )
}

fn tcp_memory(bytes: u64, connections: u64) -> Check {
    let needed = connections * TCP_BYTES_PER_CONNECTION;
    let found = format!("{} MiB for all sockets (tcp_mem)", bytes >> 20);
    if bytes >= needed {
        return good("TCP memory", found);
    }
    let pages = needed / rustix::param::page_size() as u64;
    let remedy = format!("sysctl -w net.ipv4.tcp_mem='{} {} {pages}'", pages / 2, pages / 4 * 3);
    bad(Verdict::Warning, "TCP memory", found, remedy)
}

fn send_buffers(max: u64) -> Check {
    // The kernel doubles what it is asked for, to account for its own structures.
    let wanted = SOCKET_SEND_BUFFER_BYTES as u64 / 2;
    let found = format!("up to {} KiB (wmem_max)", max / 1024);
    if max >= wanted {
        return good("send buffers", found);
    }
    bad(Verdict::Warning, "send buffers", found, format!("sysctl -w net.core.wmem_max={wanted}"))
}

fn backlog(somaxconn: u64) -> Check {
    let found = format!("{somaxconn} connections may wait to be accepted (somaxconn)");
    if somaxconn >= BACKLOG_WANTED {
        return good("backlog", found);
    }
    bad(Verdict::Warning, "backlog", found, format!("sysctl -w net.core.somaxconn={BACKLOG_WANTED}"))
}

fn ports((first, last): (u64, u64)) -> Check {
    let count = (last + 1).saturating_sub(first);
    let found = format!("{count} for each pair of addresses ({first} to {last})");
    if count >= PORTS_WANTED {
        return good("client ports", found);
    }
    let remedy = "only if load comes from this machine: sysctl -w net.ipv4.ip_local_port_range='10240 65535'";
    bad(Verdict::Warning, "client ports", found, remedy)
}

fn good(name: &'static str, found: String) -> Check {
    Check { name, verdict: Verdict::Good, found, remedy: String::new() }
}

fn bad(verdict: Verdict, name: &'static str, found: String, remedy: impl Into<String>) -> Check {
    Check { name, verdict, found, remedy: remedy.into() }
}

fn numbers(path: &str) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map_while(|word| word.parse().ok()).collect()
}

/// Memory that this process may use.
fn memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits =
        group_limit_files(&groups).into_iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.chain([kib * 1024]).min()
}

/// The files that bound this process's memory, given its `/proc/self/cgroup`: for the unified hierarchy and for the
/// older one, those of its group and of every group around it.
fn group_limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (Path::new("/sys/fs/cgroup"), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = root.join(path.trim_start_matches('/'));
        files.extend(group.ancestors().take_while(|group| group.starts_with(root)).map(|group| group.join(file)));
    }
    files
}

/// What the driver uses first came together in this kernel.
const KERNEL_FLOOR: (u64, u64) = (6, 1);
/// glommio starts no executor below this limit.
const EXECUTOR_MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// Buffers that each executor registers, with room.
const SHARD_MEMLOCK_BYTES: u64 = 128 * 1024;
/// Below this, a shard holds fewer connections than a core can serve.
const NOFILE_FLOOR: u64 = 4_096;
/// Taken when no number of connections is configured.
const CONNECTIONS_EXPECTED: u64 = 10_000;
const MEMORY_BYTES_BASE: u64 = 64 << 20;
/// The server's own part and the kernel's: a TCP socket takes about 4 KiB there while it is idle.
const MEMORY_BYTES_PER_CONNECTION: u64 = 6 * 1024;
/// What a socket may need at once when its peers are slow, on average.
const TCP_BYTES_PER_CONNECTION: u64 = 8 * 1024;
/// What the listeners ask for.
const BACKLOG_WANTED: u64 = 4_096;
const PORTS_WANTED: u64 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Facts {
        Facts {
            kernel: "6.1.0-18-amd64".into(),
            io_uring_disabled: Some(0),
            ring: Ok(()),
            memlock: Some(8 << 20),
            machine: Machine { cpus: vec![0, 1], nofile: 20_000 },
            somaxconn: Some(4_096),
            port_range: Some((32_768, 60_999)),
            send_buffer_max: Some(212_992),
            tcp_memory_max: Some(1 << 30),
            memory: Some(8 << 30),
        }
    }

    fn fifty_thousand() -> Config {
        Config { max_connections: Some(50_000), ..Config::default() }
    }

    /// The one check that is not good.
    fn finding(facts: &Facts) -> Check {
        let checks = examine(facts, &fifty_thousand());
        let mut findings = checks.into_iter().filter(|check| check.verdict != Verdict::Good);
        let finding = findings.next().unwrap();
        assert_eq!(findings.next(), None);
        assert!(!finding.remedy.is_empty());
        finding
    }

    #[test]
    fn a_sound_machine_has_no_findings() {
        let checks = examine(&sound(), &fifty_thousand());
        assert!(checks.iter().all(|check| check.verdict == Verdict::Good), "{checks:#?}");
        assert_eq!(checks.len(), 10);
        assert!(report(&checks).lines().all(|line| line.starts_with("ok    ")));
    }

    #[test]
    fn old_kernels_are_fatal() {
        for (release, verdict) in
            [("5.15.0", Verdict::Fatal), ("6.0.19", Verdict::Fatal), ("6.1", Verdict::Good), ("7.0.1", Verdict::Good)]
        {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn a_refused_ring_is_fatal_with_the_drivers_remedy() {
        let refused = Finding { problem: "not permitted".into(), remedy: "allow it".into() };
        let check = finding(&Facts { ring: Err(refused), ..sound() });
        assert_eq!((check.verdict, check.remedy.as_str()), (Verdict::Fatal, "allow it"));
        assert!(report(&[check]).contains("FAIL  io_uring        not permitted\n"));
    }

    #[test]
    fn findings_are_judged_by_what_they_hinder() {
        let few_descriptors = Machine { cpus: vec![0], nofile: 1_024 };
        let table = [
            (Facts { io_uring_disabled: Some(1), ..sound() }, "io_uring", Verdict::Warning),
            (Facts { memlock: Some(64 << 10), ..sound() }, "locked memory", Verdict::Fatal),
            (Facts { memory: Some(100 << 20), ..sound() }, "memory", Verdict::Warning),
            (Facts { tcp_memory_max: Some(1 << 20), ..sound() }, "TCP memory", Verdict::Warning),
            (Facts { send_buffer_max: Some(4_096), ..sound() }, "send buffers", Verdict::Warning),
            (Facts { somaxconn: Some(128), ..sound() }, "backlog", Verdict::Warning),
            (Facts { port_range: Some((60_000, 60_999)), ..sound() }, "client ports", Verdict::Warning),
            (Facts { machine: few_descriptors, memlock: None, ..sound() }, "open files", Verdict::Warning),
        ];
        for (facts, name, verdict) in table {
            let check = finding(&facts);
            assert_eq!((check.name, check.verdict), (name, verdict));
        }
    }

    #[test]
    fn a_layout_that_does_not_fit_is_fatal() {
        let config = Config { shards: Some(1), ..fifty_thousand() };
        let checks = examine(&sound(), &config);
        let layout = checks.iter().find(|check| check.name == "layout").unwrap();
        assert_eq!(layout.verdict, Verdict::Fatal);
    }

    #[test]
    fn memory_is_bounded_by_every_group_around_the_process() {
        let unified = group_limit_files("0::/system.slice/hubbub.service\n");
        let expected = ["/sys/fs/cgroup/system.slice/hubbub.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"];
        assert_eq!(unified, expected.map(|group| Path::new(group).join("memory.max")));
        let older = group_limit_files("5:cpu,cpuacct:/x\n4:memory:/a\n");
        assert_eq!(older[0], Path::new("/sys/fs/cgroup/memory/a/memory.limit_in_bytes"));
        assert_eq!(older.len(), 2);
    }

    #[test]
    fn this_machine_can_be_examined() {
        let facts = facts();
        assert!(facts.memory.is_some_and(|bytes| bytes > 1 << 20));
        let checks = examine(&facts, &Config::default());
        assert!(checks.len() >= 5);
    }
}
