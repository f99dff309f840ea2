//! Who may connect.

use super::*;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "admin_key_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "The file with the keys that open /api and /debug; `off` keeps them closed",
        read: |config, values| file_or_off(values).map(|value| config.admin_key_file = value),
        write: |config| written_file_or_off(config.admin_key_file.as_ref()),
    },
    Setting {
        key: "auth",
        shape: Shape::Text,
        value_name: "MODE",
        help: "Who may connect: `open` is anyone, under any free name; `token` whoever shows a good token",
        read: |config, values| word(values, AUTH_WORDS, "write open or token").map(|value| config.auth = value),
        write: |config| written(config.auth, AUTH_WORDS),
    },
    Setting {
        key: "allow_anonymous",
        shape: Shape::Switch,
        value_name: "true|false",
        help: "Allow open mode on addresses that are not loopback",
        read: |config, values| {
            word(values, SWITCH_WORDS, "write true or false").map(|value| config.allow_anonymous = value)
        },
        write: |config| texts([config.allow_anonymous]),
    },
    Setting {
        key: "allowed_origins",
        shape: Shape::List,
        value_name: "ORIGIN",
        help: "Web pages of these origins may connect, beside the server's own; repeatable",
        read: |config, values| {
            config.allowed_origins = list(values);
            Ok(())
        },
        write: |config| config.allowed_origins.clone(),
    },
];
