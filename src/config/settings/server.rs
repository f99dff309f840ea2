//! Where the server listens and runs, and what it says.

use super::*;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        shape: Shape::List,
        value_name: "IP:PORT",
        help: "Serve HTTP, WebSocket and the web client here; repeatable",
        read: |config, values| addresses(values).map(|value| config.listen = value),
        write: |config| texts(&config.listen),
    },
    Setting {
        key: "tcp_listen",
        shape: Shape::List,
        value_name: "IP:PORT",
        help: "Serve JSON lines over TCP here; repeatable, `off` for none",
        read: |config, values| addresses(values).map(|value| config.tcp_listen = value),
        write: |config| texts_or(&config.tcp_listen, OFF),
    },
    Setting {
        key: "admin_listen",
        shape: Shape::List,
        value_name: "IP:PORT",
        help: "Serve metrics and health here; repeatable, `off` for none",
        read: |config, values| addresses(values).map(|value| config.admin_listen = value),
        write: |config| texts_or(&config.admin_listen, OFF),
    },
    Setting {
        key: "data_dir",
        shape: Shape::Text,
        value_name: "DIRECTORY",
        help: "Where durable history is kept; one process at a time uses it",
        read: |config, values| one(values).map(|value| config.data_dir = PathBuf::from(value)),
        write: |config| vec![config.data_dir.display().to_string()],
    },
    Setting {
        key: "shards",
        shape: Shape::Number,
        value_name: "N",
        help: "How many shards; may exceed the cores [auto: from cores, max_connections and the descriptor limit]",
        read: |config, values| number_or_auto(values).map(|value| config.shards = value),
        write: |config| texts_or(config.shards, AUTO),
    },
    Setting {
        key: "cpus",
        shape: Shape::List,
        value_name: "CPU,CPU",
        help: "The CPUs that shards are pinned to, in turn [auto: all that the process may use]",
        read: |config, values| cpus(values).map(|value| config.cpus = value),
        write: |config| config.cpus.as_ref().map_or_else(|| vec![AUTO.into()], texts),
    },
    Setting {
        key: "coalesce_max",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Under load a connection is written at most once per this time; 0s for at once",
        read: |config, values| time(values).map(|value| config.coalesce_max = value),
        write: |config| written_time(config.coalesce_max),
    },
    Setting {
        key: "drain_timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time from the first SIGTERM to the end of the process",
        read: |config, values| time(values).map(|value| config.drain_timeout = value),
        write: |config| written_time(config.drain_timeout),
    },
    Setting {
        key: "node",
        shape: Shape::Text,
        value_name: "NAME",
        help: "Names the server to its clients",
        read: |config, values| one(values).map(|value| config.node = value.to_string()),
        write: |config| vec![config.node.clone()],
    },
    Setting {
        key: "log_format",
        shape: Shape::Text,
        value_name: "text|json",
        help: "How log lines are written",
        read: |config, values| {
            word(values, LOG_FORMAT_WORDS, "write text or json").map(|value| config.log_format = value)
        },
        write: |config| written(config.log_format, LOG_FORMAT_WORDS),
    },
    Setting {
        key: "log_level",
        shape: Shape::Text,
        value_name: "LEVEL",
        help: "Which log lines are written: error, warn, info, debug or trace",
        read: |config, values| {
            word(values, LOG_LEVEL_WORDS, "write error, warn, info, debug or trace")
                .map(|value| config.log_level = value)
        },
        write: |config| written(config.log_level, LOG_LEVEL_WORDS),
    },
    Setting {
        key: "audit_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "Where audit records are appended, as JSON lines; `off` puts them among the log lines",
        read: |config, values| {
            one(values).map(|value| config.audit_file = (value != OFF).then(|| PathBuf::from(value)))
        },
        write: |config| texts_or(config.audit_file.as_ref().map(|path| path.display()), OFF),
    },
    Setting {
        key: "trusted_proxies",
        shape: Shape::List,
        value_name: "IP[/BITS]",
        help: "Proxies that are believed when they say whose connection they pass on; repeatable, `off` for none",
        read: |config, values| networks(values).map(|value| config.gate.trusted_proxies = value),
        write: |config| texts_or(&config.gate.trusted_proxies, OFF),
    },
    Setting {
        key: "proxy_protocol",
        shape: Shape::Switch,
        value_name: "true|false",
        help: "Trusted proxies begin each connection with a PROXY header, and nobody else may connect",
        read: |config, values| {
            word(values, SWITCH_WORDS, "write true or false").map(|value| config.gate.proxy_protocol = value)
        },
        write: |config| texts([config.gate.proxy_protocol]),
    },
    Setting {
        key: "proxy_header",
        shape: Shape::Text,
        value_name: "x-forwarded-for|forwarded",
        help: "The request header in which a trusted proxy names its client",
        read: |config, values| {
            word(values, PROXY_HEADER_WORDS, "write x-forwarded-for or forwarded")
                .map(|value| config.gate.proxy_header = value)
        },
        write: |config| written(config.gate.proxy_header, PROXY_HEADER_WORDS),
    },
];
