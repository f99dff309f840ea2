//! What a configuration that was read anew changes in a running server.
//!
//! Whatever is not in [`NEEDS_RESTART`] holds at once. The rest stays as it is until the server is started again, and
//! the report names it.

use crate::config::settings::{self, Setting};
use crate::config::{Config, permissions, rooms};

/// What became of each setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changed, and in force.
    pub applied: Vec<&'static str>,
    /// As before.
    pub unchanged: Vec<&'static str>,
    /// Changed, and in force after the next start.
    pub needs_restart: Vec<&'static str>,
}

/// What a server that runs with one configuration makes of another: the configuration in force from now on, and what
/// was changed.
#[must_use]
pub fn take_over(running: &Config, read: &Config) -> (Config, Changes) {
    let mut taken = read.clone();
    let mut changes = Changes::default();
    // The store is opened at the start or not at all.
    let lacks_store = !running.needs_store() && read.needs_store();
    for setting in settings::all() {
        let (before, after) = ((setting.write)(running), (setting.write)(read));
        let waits = NEEDS_RESTART.contains(&setting.key) || lacks_store && NEEDS_STORE.contains(&setting.key);
        if before == after {
            changes.unchanged.push(setting.key);
        } else if waits {
            keep(setting, &mut taken, &before);
            changes.needs_restart.push(setting.key);
        } else {
            changes.applied.push(setting.key);
        }
    }
    let permissions =
        if running.permissions == read.permissions { &mut changes.unchanged } else { &mut changes.applied };
    permissions.push(permissions::KEY);
    if running.policies.rules == read.policies.rules {
        changes.unchanged.push(rooms::KEY);
    } else if lacks_store {
        taken.policies.rules = running.policies.rules.clone();
        changes.needs_restart.push(rooms::KEY);
    } else {
        changes.applied.push(rooms::KEY);
    }
    (taken, changes)
}

fn keep(setting: &Setting, config: &mut Config, values: &[String]) {
    let kept = (setting.read)(config, values);
    debug_assert!(kept.is_ok(), "a setting reads what it has written");
}

/// Settings that decide what is opened, made or pinned at the start.
const NEEDS_RESTART: &[&str] = &[
    "listen",
    "tcp_listen",
    "admin_listen",
    "data_dir",
    "shards",
    "cpus",
    "max_connections",
    "auth",
    "allow_anonymous",
    "hooks.url",
    "hooks.events",
    "hooks.secret_file",
    "hooks.ca_file",
    "hooks.timeout",
    "hooks.attempts",
    "hooks.concurrency",
    "hooks.queue",
    "hooks.on_failure",
    "node",
    "log_format",
    "audit_file",
    "coalesce_max",
    "drain_timeout",
    "store.commit_interval",
    "store.min_free_bytes",
    "store.maintenance_interval",
    "hooks.url",
    "hooks.events",
    "hooks.secret_file",
    "hooks.ca_file",
    "hooks.timeout",
    "hooks.attempts",
    "hooks.concurrency",
    "hooks.queue",
    "hooks.on_failure",
];
/// Settings that may ask for durable rooms.
const NEEDS_STORE: &[&str] = &["history"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{HistoryMode, Pattern, RoomPolicy};

    #[test]
    fn every_key_that_needs_a_restart_is_a_setting() {
        for key in NEEDS_RESTART.iter().chain(NEEDS_STORE) {
            assert!(Setting::find(key).is_some(), "{key}");
        }
    }

    #[test]
    fn what_can_change_does_and_what_cannot_stays() {
        let running = Config::default();
        let mut read = running.clone();
        read.node = "other".into();
        read.limits.max_message_bytes = 1_000;
        read.policies.rules = vec![(Pattern::new("a"), RoomPolicy::new(HistoryMode::Off))];
        let (taken, changes) = take_over(&running, &read);
        assert_eq!(taken.node, running.node);
        assert_eq!((taken.limits.max_message_bytes, taken.policies.rules.len()), (1_000, 1));
        assert_eq!(changes.needs_restart, ["node"]);
        assert_eq!(changes.applied, ["max_message_bytes", "rooms"]);
        assert_eq!(changes.unchanged.len() + 3, settings::all().count() + 2);
    }

    #[test]
    fn nothing_changes_when_the_same_is_read() {
        let (taken, changes) = take_over(&Config::default(), &Config::default());
        assert_eq!(taken, Config::default());
        assert!(changes.applied.is_empty() && changes.needs_restart.is_empty());
    }

    #[test]
    fn durable_rooms_wait_for_a_store() {
        let mut running = Config::default();
        running.policies.default = RoomPolicy::new(HistoryMode::Memory);
        let mut read = Config::default();
        read.policies.rules = vec![(Pattern::new("a"), RoomPolicy::new(HistoryMode::Durable))];
        let (taken, changes) = take_over(&running, &read);
        assert_eq!(taken.policies.rules, []);
        assert_eq!(taken.policies.default.history, HistoryMode::Memory);
        assert!(changes.needs_restart.contains(&"rooms") && changes.needs_restart.contains(&"history"));
    }
}
