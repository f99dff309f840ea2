//! What is kept of a room: rules by the pattern of its name, the first that fits decides.

use std::time::Duration;

use crate::ids::RoomName;

/// What is kept of one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomPolicy {
    /// Where messages are kept.
    pub history: HistoryMode,
    /// Most messages; `None` is no limit.
    pub size: Option<u64>,
    /// Most bytes of content, keys and tags; `None` is no limit.
    pub bytes: Option<u64>,
    /// How long a message is kept; `None` is for ever. Memory rooms know no age.
    pub ttl: Option<Duration>,
    /// When a message counts as stored.
    pub commit: Commit,
}

/// Where messages of a room are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistoryMode {
    /// In the store, whose log survives restarts.
    #[default]
    Durable,
    /// In memory, as long as the room is.
    Memory,
    /// Nowhere.
    Off,
}

/// When a message of a durable room counts as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Commit {
    /// Once an fsync has covered it: `ok` waits for it and says `durable: true`.
    #[default]
    Fsync,
    /// The store syncs every `store.commit_interval`; `ok` does not wait and says `durable: false`.
    Interval,
}

/// The rules of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomPolicies {
    /// Rules by pattern, in order.
    pub rules: Vec<(Pattern, RoomPolicy)>,
    /// For rooms that no rule fits.
    pub default: RoomPolicy,
}

/// A room name in which each `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl RoomPolicies {
    /// Whether any room may be durable.
    #[must_use]
    pub fn has_durable(&self) -> bool {
        let mut all = self.rules.iter().map(|(_, policy)| policy).chain([&self.default]);
        all.any(|policy| policy.history == HistoryMode::Durable)
    }

    /// What is kept of a room.
    #[must_use]
    pub fn of(&self, room: &RoomName) -> RoomPolicy {
        let rule = self.rules.iter().find(|(pattern, _)| pattern.fits(room.as_str()));
        rule.map_or(self.default, |(_, policy)| *policy)
    }
}

impl RoomPolicies {
    /// Every room in memory alone, with that many messages and bytes.
    #[must_use]
    pub fn memory(messages: usize, bytes: usize) -> Self {
        let limit = |limit: usize| Some(limit as u64);
        let default = RoomPolicy { size: limit(messages), bytes: limit(bytes), ..RoomPolicy::new(HistoryMode::Memory) };
        Self { rules: Vec::new(), default }
    }
}

impl Default for RoomPolicies {
    fn default() -> Self {
        Self { rules: Vec::new(), default: RoomPolicy::new(HistoryMode::Durable) }
    }
}

impl RoomPolicy {
    /// The mode with its default limits: none for durable rooms, 1,000 messages and 1 MiB in memory.
    #[must_use]
    pub fn new(history: HistoryMode) -> Self {
        let (size, bytes) = match history {
            HistoryMode::Durable => (None, None),
            HistoryMode::Memory => (Some(MEMORY_MESSAGES), Some(MEMORY_BYTES)),
            HistoryMode::Off => (Some(0), Some(0)),
        };
        Self { history, size, bytes, ttl: None, commit: Commit::Fsync }
    }

    /// Whether the store has anything to remove.
    #[must_use]
    pub fn has_retention(&self) -> bool {
        self.history == HistoryMode::Durable && (self.size.is_some() || self.bytes.is_some() || self.ttl.is_some())
    }
}

impl Pattern {
    /// Reads a pattern; any text is one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a name fits: what stands between the stars is found in order, greedily, the ends at the ends.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else {
            return self.0 == name;
        };
        let Some(mut left) = name.strip_prefix(head) else {
            return false;
        };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*').filter(|part| !part.is_empty()) {
            let Some(at) = left.find(part) else {
                return false;
            };
            left = &left[at + part.len()..];
        }
        left.ends_with(tail)
    }

    /// Whether every name that fits the other pattern fits this one too: then what stands between the stars is found
    /// in the other's text, and its stars fall to ours.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.fits(&other.0)
    }
}

/// Messages kept of a memory room by default.
const MEMORY_MESSAGES: u64 = 1_000;
/// Bytes kept of a memory room by default.
const MEMORY_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        let fits = |pattern: &str, name: &str| Pattern::new(pattern).fits(name);
        assert!(fits("*", "") && fits("*", "lobby") && fits("lobby", "lobby"));
        assert!(!fits("lobby", "lobby-1") && !fits("", "lobby"));
        assert!(fits("team-*", "team-") && fits("team-*", "team-a") && !fits("team-*", "steam-a"));
        assert!(fits("*-log", "a-log") && !fits("*-log", "a-logs"));
        assert!(fits("a*b*c", "a-b-c") && fits("a*b*c", "abc") && !fits("a*b*c", "acb"));
        assert!(!fits("ab*ba", "aba"), "the ends do not overlap");
        assert!(fits("*é*", "café au lait"));
    }

    #[test]
    fn a_pattern_covers_what_it_leaves_nothing_of() {
        let covers = |pattern: &str, other: &str| Pattern::new(pattern).covers(&Pattern::new(other));
        assert!(covers("*", "") && covers("team-*", "team-*") && covers("team-*", "team-*-x") && covers("a*", "a"));
        assert!(!covers("team-*-x", "team-*") && !covers("a", "*") && !covers("*-x", "x-*"));
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let memory = RoomPolicy::new(HistoryMode::Memory);
        let off = RoomPolicy::new(HistoryMode::Off);
        let rules = vec![(Pattern::new("game-*"), memory), (Pattern::new("*-1"), off)];
        let policies = RoomPolicies { rules, ..RoomPolicies::default() };
        let of = |name: &str| policies.of(&RoomName::chat(name).unwrap()).history;
        assert_eq!(
            (of("game-1"), of("lobby-1"), of("lobby")),
            (HistoryMode::Memory, HistoryMode::Off, HistoryMode::Durable)
        );
    }
}
