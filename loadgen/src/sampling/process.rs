//! CPU time, context switches and memory of threads and processes, from `/proc`. The kernel accounts them without our
//! help, so the figures cost nothing while they grow.
//!
//! A thread that ends takes its figures with it: what it used since the last look is not seen.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What one thread has used since it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadTime {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Time on a core, in nanoseconds.
    pub cpu_ns: u64,
    /// Time spent ready to run while another thread had the core, in nanoseconds.
    pub waited_ns: u64,
    /// Times it gave its core up, to wait for something.
    pub voluntary_switches: u64,
    /// Times its core was taken from it.
    pub involuntary_switches: u64,
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
        // A thread that is new began at nothing.
        let grown = |of: fn(&Self) -> u64| of(self).saturating_sub(before.map_or(0, of));
        Self {
            tid: self.tid,
            name: self.name.clone(),
            cpu_ns: grown(|thread| thread.cpu_ns),
            waited_ns: grown(|thread| thread.waited_ns),
            voluntary_switches: grown(|thread| thread.voluntary_switches),
            involuntary_switches: grown(|thread| thread.involuntary_switches),
        }
    }

    fn read(task: &Path) -> Option<Self> {
        let tid = task.file_name()?.to_str()?.parse().ok()?;
        let name = fs::read_to_string(task.join("comm")).ok()?.trim_end().to_owned();
        let (cpu_ns, waited_ns) = schedstat(&fs::read_to_string(task.join("schedstat")).ok()?)?;
        let status = fs::read_to_string(task.join("status")).ok()?;
        Some(Self {
            tid,
            name,
            cpu_ns,
            waited_ns,
            voluntary_switches: field(&status, "voluntary_ctxt_switches:"),
            involuntary_switches: field(&status, "nonvoluntary_ctxt_switches:"),
        })
    }
}

/// Time on a core and time waited for one: the first two numbers (Documentation/scheduler/sched-stats.rst).
fn schedstat(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// One number of a `status` file; 0 when it is not there, as memory is not for a process that has ended.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn kib_field(status: &str, name: &str) -> u64 {
    field(status, name) * 1_024
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
        let status = "voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), 7);
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), 3);
    }
}
