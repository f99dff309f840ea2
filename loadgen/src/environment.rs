//! What machine a run was made on, by which build, and how it was started: what a reader needs to make it again.
//!
//! Secrets that stand in a command line or a URL are left out, since reports are passed on.

use std::fs;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// What machine this is, and what runs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// When the run began, in UTC, as RFC 3339 has it.
    pub started: String,
    /// Name and release of the kernel.
    pub kernel: String,
    /// The processor's name for itself.
    pub cpu_model: String,
    /// Cores this process may run on.
    pub cores: u32,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Descriptors per table.
    pub nofile: u64,
    /// This program's version.
    pub loadgen: String,
    /// The commit it was built from, with `-dirty` behind it when the sources differed; `unknown` without git.
    pub commit: String,
    /// How it was called.
    pub command: Vec<String>,
    /// How the server was called, when its process is known.
    pub server_command: Option<Vec<String>>,
    /// What the server's metrics say of its version.
    pub server_version: Option<String>,
}

impl Environment {
    /// Reads what is not known yet.
    #[must_use]
    pub fn read(cores: u32, nofile: u64, server_pid: Option<u32>) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            kernel: format!("Linux {}", release.trim_end()),
            cpu_model: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            cores,
            memory_bytes: memory_bytes(&meminfo),
            nofile,
            loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("LOADGEN_COMMIT").to_owned(),
            command: shown(std::env::args()),
            server_command: server_pid.and_then(command_of),
            server_version: None,
        }
    }
}

/// `text` with the values of what looks like a secret replaced: `token=…` and its like, and the user of a URL.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for part in text.split_inclusive(['?', '&', ' ']) {
        let (body, end) = match part.strip_suffix(['?', '&', ' ']) {
            Some(body) => (body, &part[body.len()..]),
            None => (part, ""),
        };
        let key = body.split_once('=').map(|(key, _)| key);
        match key.filter(|key| is_secret_key(key)) {
            Some(key) => kept.extend([key, "=…", end]),
            None => kept.extend([&without_user(body), end]),
        }
    }
    kept
}

/// A URL without its user and password.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.find('/').unwrap_or(rest.len());
    rest[..authority].rfind('@').map_or_else(|| url.to_owned(), |at| format!("{scheme}://…{}", &rest[at..]))
}

fn command_of(pid: u32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(shown(text.split_terminator('\0').map(str::to_owned)))
}

/// A command line as it may be shown; `--token VALUE` loses its value as `--token=VALUE` does.
fn shown(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    let show = |argument: String| {
        let shown = if is_secret { "…".to_owned() } else { without_secrets(&argument) };
        is_secret = !argument.contains('=') && argument.starts_with("--") && is_secret_key(&argument);
        shown
    };
    arguments.map(show).collect()
}

fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_KEYS.iter().any(|secret| key.ends_with(secret))
}

fn memory_bytes(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    total.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

const SECRET_KEYS: [&str; 4] = ["token", "secret", "password", "key"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let environment = Environment::read(2, 9, Some(std::process::id()));
        assert!(environment.kernel.starts_with("Linux ") && !environment.cpu_model.is_empty());
        assert!(environment.memory_bytes > 1 << 20);
        assert!(environment.started.ends_with('Z') && environment.started.starts_with("20"), "{}", environment.started);
        assert!(!environment.commit.is_empty());
        assert_eq!(environment.server_command, Some(environment.command));
    }

    #[test]
    fn secrets_are_left_out() {
        let table = [
            ("ws://h:9/ws?token=abc&room=x", "ws://h:9/ws?token=…&room=x"),
            ("--admin-key=abc", "--admin-key=…"),
            ("redis://me:pass@h:1/0", "redis://…@h:1/0"),
            ("ws://h:9/a@b?name=x", "ws://h:9/a@b?name=x"),
            ("--rate=5", "--rate=5"),
            ("/relay/{room}", "/relay/{room}"),
        ];
        for (text, expected) in table {
            assert_eq!(without_secrets(text), expected);
        }
        let command = ["server", "--token", "abc", "--port", "9", "--token=x"].map(str::to_owned);
        assert_eq!(shown(command.into_iter()), ["server", "--token", "…", "--port", "9", "--token=…"]);
        assert_eq!(Environment::read(1, 1, None).server_command, None);
    }
}
