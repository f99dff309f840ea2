//! What is kept of rooms and sessions.

use super::*;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "history",
        shape: Shape::Text,
        value_name: "durable|memory|off",
        help: "Where messages are kept of rooms that no [[rooms]] rule of the file fits",
        read: |config, values| {
            word(values, HISTORY_WORDS, HISTORY_REMEDY).map(|value| config.policies.default = RoomPolicy::new(value))
        },
        write: |config| written(config.policies.default.history, HISTORY_WORDS),
    },
    Setting {
        key: "history_ttl",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How long a message of a durable room is kept; `off` for ever",
        read: |config, values| time_or_off(values).map(|value| config.policies.default.ttl = value),
        write: |config| written_time_or_off(config.policies.default.ttl),
    },
    Setting {
        key: "commit",
        shape: Shape::Text,
        value_name: "fsync|interval",
        help: "When `ok` is said in a durable room: once the message is on the disk, or at once",
        read: |config, values| {
            word(values, COMMIT_WORDS, COMMIT_REMEDY).map(|value| config.policies.default.commit = value)
        },
        write: |config| written(config.policies.default.commit, COMMIT_WORDS),
    },
    Setting {
        key: "session_ttl",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How long a session without a connection can be resumed",
        read: |config, values| time(values).map(|value| config.limits.session_ttl = value),
        write: |config| written_time(config.limits.session_ttl),
    },
    Setting {
        key: "limits.history_size",
        shape: Shape::Number,
        value_name: "N",
        help: "Messages kept per room [auto: durable rooms keep all, memory rooms 1,000]",
        read: |config, values| {
            let policy = &mut config.policies.default;
            limit(values, RoomPolicy::new(policy.history).size).map(|value| policy.size = value)
        },
        write: |config| texts_or(config.policies.default.size, AUTO),
    },
    Setting {
        key: "limits.history_bytes",
        shape: Shape::Number,
        value_name: "BYTES",
        help: "Bytes kept per room [auto: durable rooms keep all, memory rooms 1 MiB]",
        read: |config, values| {
            let policy = &mut config.policies.default;
            limit(values, RoomPolicy::new(policy.history).bytes).map(|value| policy.bytes = value)
        },
        write: |config| texts_or(config.policies.default.bytes, AUTO),
    },
];
