//! Rules for rooms by the pattern of their names: the `[[rooms]]` tables of the file, which no flag and no variable can
//! say.
//!
//! A rule stands alone: what it leaves out is the default of its mode and not what the settings say, which are for
//! rooms that no rule fits. Whether a rule can work is for [`super::validate`] to say.

use figment::value::{Dict, Value};

use crate::config::load::as_texts;
use crate::config::settings::{COMMIT_REMEDY, COMMIT_WORDS, HISTORY_REMEDY, HISTORY_WORDS};
use crate::config::tables;
use crate::config::validate::Problem;
use crate::config::values::{AUTO, Unreadable, limit, one, texts_or, time_or_off, word, written, written_time_or_off};
use crate::policy::{HistoryMode, Pattern, RoomPolicy};

/// The key of all rules in the file.
pub(super) const KEY: &str = "rooms";

/// Reads the rules, or says all that is wrong with them.
pub(super) fn read(value: &Value) -> Result<Vec<(Pattern, RoomPolicy)>, Vec<Problem>> {
    tables::read(KEY, value, read_rule)
}

/// A rule as lines of the file: each a key and its value.
pub(super) fn write(pattern: &Pattern, policy: &RoomPolicy) -> Vec<(&'static str, String)> {
    let mut lines = vec![("pattern", pattern.as_str().to_string())];
    lines.push(("history", written(policy.history, HISTORY_WORDS).concat()));
    if policy.history != HistoryMode::Off {
        lines.push(("history_size", texts_or(policy.size, AUTO).concat()));
        lines.push(("history_bytes", texts_or(policy.bytes, AUTO).concat()));
    }
    if policy.history == HistoryMode::Durable {
        lines.push(("history_ttl", written_time_or_off(policy.ttl).concat()));
        lines.push(("commit", written(policy.commit, COMMIT_WORDS).concat()));
    }
    lines
}

fn read_rule(table: &Dict, refuse: &mut dyn FnMut(&str, Unreadable)) -> (Pattern, RoomPolicy) {
    for name in table.keys().filter(|name| !KEYS.contains(&name.as_str())) {
        let what = "there is no such key in a rule".to_string();
        refuse(name, Unreadable { what, remedy: KEYS_REMEDY });
    }
    if !table.contains_key("pattern") {
        let what = "the rule does not say which rooms it is for".to_string();
        refuse("pattern", Unreadable { what, remedy: "name a room, with * for any text, such as \"team-*\"" });
    }
    let mut rule = (Pattern::new(""), RoomPolicy::new(HistoryMode::default()));
    // The mode first: the others' defaults follow from it.
    for name in KEYS {
        if let Some(value) = table.get(*name)
            && let Err(unreadable) = read_key(name, &as_texts(value), &mut rule)
        {
            refuse(name, unreadable);
        }
    }
    rule
}

fn read_key(name: &str, values: &[String], (pattern, policy): &mut (Pattern, RoomPolicy)) -> Result<(), Unreadable> {
    let mode = RoomPolicy::new(policy.history);
    match name {
        "pattern" => one(values).map(|value| *pattern = Pattern::new(value)),
        "history" => word(values, HISTORY_WORDS, HISTORY_REMEDY).map(|value| *policy = RoomPolicy::new(value)),
        "history_size" => limit(values, mode.size).map(|value| policy.size = value),
        "history_bytes" => limit(values, mode.bytes).map(|value| policy.bytes = value),
        "history_ttl" => time_or_off(values).map(|value| policy.ttl = value),
        _ => word(values, COMMIT_WORDS, COMMIT_REMEDY).map(|value| policy.commit = value),
    }
}

const KEYS: &[&str] = &["pattern", "history", "history_size", "history_bytes", "history_ttl", "commit"];
const KEYS_REMEDY: &str = "a rule has pattern, history, history_size, history_bytes, history_ttl and commit";
