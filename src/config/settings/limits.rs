//! Caps and times.

use super::*;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "max_connections",
        shape: Shape::Number,
        value_name: "N",
        help: "Connections of all shards together [auto: shards x (open files - 256)]",
        read: |config, values| number_or_auto(values).map(|value| config.max_connections = value),
        write: |config| texts_or(config.max_connections, AUTO),
    },
    Setting {
        key: "max_message_bytes",
        shape: Shape::Number,
        value_name: "BYTES",
        help: "Largest message: a WebSocket message's payload or a TCP line",
        read: |config, values| number(values).map(|value| config.limits.max_message_bytes = value),
        write: |config| texts([config.limits.max_message_bytes]),
    },
    Setting {
        key: "limits.heartbeat_interval",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Silence after which the server pings; three of these close the connection",
        read: |config, values| time(values).map(|value| config.limits.heartbeat_interval = value),
        write: |config| written_time(config.limits.heartbeat_interval),
    },
    Setting {
        key: "limits.heartbeat_adaptive",
        shape: Shape::Switch,
        value_name: "true|false",
        help: "Halve the interval after a missed heartbeat",
        read: |config, values| {
            word(values, SWITCH_WORDS, "write true or false").map(|value| config.limits.heartbeat_adaptive = value)
        },
        write: |config| texts([config.limits.heartbeat_adaptive]),
    },
    Setting {
        key: "limits.handshake_timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time for the request head and for `connect`",
        read: |config, values| time(values).map(|value| config.limits.handshake_timeout = value),
        write: |config| written_time(config.limits.handshake_timeout),
    },
    Setting {
        key: "limits.presence_grace",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How long a user stays present after the last connection is gone",
        read: |config, values| time(values).map(|value| config.limits.presence_grace = value),
        write: |config| written_time(config.limits.presence_grace),
    },
    Setting {
        key: "limits.outbox_stall",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How long a reader may take nothing before it counts as slow",
        read: |config, values| time(values).map(|value| config.limits.outbox_stall = value),
        write: |config| written_time(config.limits.outbox_stall),
    },
    Setting {
        key: "limits.close_timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time from the close frame to the reset of a connection that does not answer",
        read: |config, values| time(values).map(|value| config.limits.close_timeout = value),
        write: |config| written_time(config.limits.close_timeout),
    },
    Setting {
        key: "limits.slow_consumer",
        shape: Shape::Text,
        value_name: "disconnect|skip",
        help: "What happens to a slow reader: closed with 4008, or messages skipped with a `gap`",
        read: |config, values| {
            word(values, SLOW_WORDS, "write disconnect or skip").map(|value| config.limits.slow_consumer = value)
        },
        write: |config| written(config.limits.slow_consumer, SLOW_WORDS),
    },
    Setting {
        key: "ack.timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time until a message that was not acknowledged is sent again; doubles each time",
        read: |config, values| time(values).map(|value| config.limits.ack_timeout = value),
        write: |config| written_time(config.limits.ack_timeout),
    },
    Setting {
        key: "ack.timeout_max",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Longest time between two attempts",
        read: |config, values| time(values).map(|value| config.limits.ack_timeout_max = value),
        write: |config| written_time(config.limits.ack_timeout_max),
    },
    Setting {
        key: "ack.attempts_max",
        shape: Shape::Number,
        value_name: "N",
        help: "How often a message is sent before it is a dead letter",
        read: |config, values| number(values).map(|value| config.limits.ack_attempts_max = value),
        write: |config| texts([config.limits.ack_attempts_max]),
    },
];
