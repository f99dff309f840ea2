//! The application's say.

use super::*;
use crate::hooks::{HookEvent, OnFailure};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "hooks.url",
        shape: Shape::Text,
        value_name: "URL",
        help: "Where the application is asked and told, over http or https; `off` for nowhere",
        read: |config, values| one(values).map(|value| config.hooks.url = (value != OFF).then(|| value.to_owned())),
        write: |config| texts_or(&config.hooks.url, OFF),
    },
    Setting {
        key: "hooks.events",
        shape: Shape::List,
        value_name: "EVENT",
        help: "What the application hears of: open, join, message, close; repeatable",
        read: |config, values| events(values).map(|value| config.hooks.events = value),
        write: |config| config.hooks.events.iter().map(|event| event.as_str().to_owned()).collect(),
    },
    Setting {
        key: "hooks.secret_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "The file with the key that signs requests to the application",
        read: |config, values| file(values).map(|value| config.hooks.secret_file = value),
        write: |config| texts_or(config.hooks.secret_file.as_ref().map(|path| path.display()), OFF),
    },
    Setting {
        key: "hooks.ca_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "The certificates, in PEM, that vouch for an https application; `off` for those that browsers trust",
        read: |config, values| file(values).map(|value| config.hooks.ca_file = value),
        write: |config| texts_or(config.hooks.ca_file.as_ref().map(|path| path.display()), OFF),
    },
    Setting {
        key: "hooks.timeout",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time for one attempt to reach the application",
        read: |config, values| time(values).map(|value| config.hooks.timeout = value),
        write: |config| written_time(config.hooks.timeout),
    },
    Setting {
        key: "hooks.attempts",
        shape: Shape::Number,
        value_name: "N",
        help: "How often a call of the application is tried",
        read: |config, values| number(values).map(|value| config.hooks.attempts = value),
        write: |config| texts([config.hooks.attempts]),
    },
    Setting {
        key: "hooks.concurrency",
        shape: Shape::Number,
        value_name: "N",
        help: "Requests to the application at once",
        read: |config, values| number(values).map(|value| config.hooks.concurrency = value),
        write: |config| texts([config.hooks.concurrency]),
    },
    Setting {
        key: "hooks.queue",
        shape: Shape::Number,
        value_name: "N",
        help: "Questions to the application that may wait, and as many notices",
        read: |config, values| number(values).map(|value| config.hooks.queue = value),
        write: |config| texts([config.hooks.queue]),
    },
    Setting {
        key: "hooks.on_failure",
        shape: Shape::Text,
        value_name: "refuse|allow",
        help: "What holds when the application does not answer",
        read: |config, values| {
            word(values, FAILURE_WORDS, "write refuse or allow").map(|value| config.hooks.on_failure = value)
        },
        write: |config| written(config.hooks.on_failure, FAILURE_WORDS),
    },
];

/// A file, or `off` for none.
fn file(values: &[String]) -> Result<Option<PathBuf>, Unreadable> {
    one(values).map(|value| (value != OFF).then(|| PathBuf::from(value)))
}

fn events(values: &[String]) -> Result<Vec<HookEvent>, Unreadable> {
    let words = list(values);
    let event = |word: &String| {
        let found = HookEvent::ALL.into_iter().find(|event| event.as_str() == word);
        found.ok_or_else(|| Unreadable {
            what: format!("{word:?} is not an event"),
            remedy: "name some of open, join, message and close",
        })
    };
    let named: Vec<HookEvent> = words.iter().map(event).collect::<Result<_, _>>()?;
    // In their own order, and once each.
    Ok(HookEvent::ALL.into_iter().filter(|event| named.contains(event)).collect())
}

const FAILURE_WORDS: &[(OnFailure, &str)] = &[(OnFailure::Refuse, "refuse"), (OnFailure::Allow, "allow")];
