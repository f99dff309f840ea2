//! How the store works.

use super::*;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "store.commit_interval",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How often what nobody waits for is synced to the disk",
        read: |config, values| time(values).map(|value| config.store.commit_interval = value),
        write: |config| written_time(config.store.commit_interval),
    },
    Setting {
        key: "store.min_free_bytes",
        shape: Shape::Number,
        value_name: "BYTES",
        help: "Free space below which durable rooms take no more messages",
        read: |config, values| number(values).map(|value| config.store.min_free_bytes = value),
        write: |config| texts([config.store.min_free_bytes]),
    },
    Setting {
        key: "store.maintenance_interval",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How often retention looks for messages to remove",
        read: |config, values| time(values).map(|value| config.store.maintenance_interval = value),
        write: |config| written_time(config.store.maintenance_interval),
    },
];
