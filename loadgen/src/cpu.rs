//! CPU time and memory of threads and processes, from `/proc`. The kernel accounts both in nanoseconds and without our help, so
//! the figures cost nothing while they grow.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What one thread has used since it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadTime {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Time on a core, in nanoseconds.
    pub cpu_ns: u64,
    /// Time spent ready to run while another thread had the core, in nanoseconds.
    pub waited_ns: u64,
}

/// A look at one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Its threads in the order of their ids.
    pub threads: Vec<ThreadTime>,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// The part of it that belongs to no file, in bytes.
    pub rss_anon_bytes: u64,
}

impl Sample {
    /// Looks at process `pid`; `None` when there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}")))
    }

    /// Looks at this process.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::read(Path::new("/proc/self"))
    }

    /// What each thread used since `earlier`, busiest first.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Vec<ThreadTime> {
        let mut used: Vec<ThreadTime> = self.threads.iter().map(|now| now.since(earlier)).collect();
        used.sort_by_key(|thread| std::cmp::Reverse(thread.cpu_ns));
        used
    }

    fn read(process: &Path) -> Option<Self> {
        let status = fs::read_to_string(process.join("status")).ok()?;
        let mut threads: Vec<ThreadTime> = fs::read_dir(process.join("task"))
            .ok()?
            .filter_map(|entry| ThreadTime::read(&entry.ok()?.path()))
            .collect();
        threads.sort_by_key(|thread| thread.tid);
        Some(Self { threads, rss_bytes: kib_field(&status, "VmRSS:"), rss_anon_bytes: kib_field(&status, "RssAnon:") })
    }
}

impl ThreadTime {
    fn since(&self, earlier: &Sample) -> Self {
        let before = earlier.threads.iter().find(|thread| thread.tid == self.tid);
        let (cpu, waited) = before.map_or((0, 0), |thread| (thread.cpu_ns, thread.waited_ns));
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(cpu),
            waited_ns: self.waited_ns.saturating_sub(waited),
            ..self.clone()
        }
    }

    fn read(task: &Path) -> Option<Self> {
        let tid = task.file_name()?.to_str()?.parse().ok()?;
        let name = fs::read_to_string(task.join("comm")).ok()?.trim_end().to_owned();
        let (cpu_ns, waited_ns) = schedstat(&fs::read_to_string(task.join("schedstat")).ok()?)?;
        Some(Self { tid, name, cpu_ns, waited_ns })
    }
}

/// What machine this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// Name and release of the kernel.
    pub kernel: String,
    /// The processor's name for itself.
    pub cpu_model: String,
    /// Cores this process may run on.
    pub cores: u32,
    /// Descriptors per table.
    pub nofile: u64,
    /// This program's version.
    pub loadgen: &'static str,
}

impl Environment {
    /// Reads what is not known yet.
    #[must_use]
    pub fn read(cores: u32, nofile: u64) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: format!("Linux {}", release.trim_end()),
            cpu_model: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            cores,
            nofile,
            loadgen: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Time on a core and time waited for one: the first two numbers (Documentation/scheduler/sched-stats.rst).
fn schedstat(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn kib_field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_at_work() {
        let before = Sample::own().unwrap();
        let mut spent = 0;
        let mut sum = 0_u64;
        for round in 0..100_000_u64 {
            sum = (0..1_000).fold(sum, |sum, n| std::hint::black_box(sum ^ (n * round)));
            spent = Sample::own().unwrap().since(&before).iter().map(|thread| thread.cpu_ns).sum();
            if spent > 1_000_000 {
                break;
            }
        }
        assert!(spent > 1_000_000, "{spent} ns {sum}");
        assert!(before.rss_bytes >= before.rss_anon_bytes && before.rss_anon_bytes > 0);
    }

    #[test]
    fn a_process_that_is_not_there_is_none() {
        assert_eq!(Sample::of(u32::MAX), None);
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(schedstat("123 45 6\n"), Some((123, 45)));
        assert_eq!(schedstat(""), None);
        assert_eq!(kib_field("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), 2_097_152);
        let environment = Environment::read(2, 9);
        assert!(environment.kernel.starts_with("Linux ") && !environment.cpu_model.is_empty());
    }
}
