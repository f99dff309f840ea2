//! How tokens are checked.

use super::*;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "token.secret_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "The secret that tokens are signed with (HS256, HS384, HS512), 32 bytes or more; `off` for none",
        read: |config, values| file_or_off(values).map(|value| config.token.secret_file = value),
        write: |config| written_file_or_off(config.token.secret_file.as_ref()),
    },
    Setting {
        key: "token.key_files",
        shape: Shape::List,
        value_name: "FILE",
        help: "Public keys that tokens are signed with (RS256, ES256, EdDSA): PEM, JWK or JWK Set; repeatable",
        read: |config, values| {
            printable(values).map(|files| config.token.key_files = files.into_iter().map(PathBuf::from).collect())
        },
        write: |config| texts(config.token.key_files.iter().map(|path| path.display())),
    },
    Setting {
        key: "token.jwks_url",
        shape: Shape::Text,
        value_name: "URL",
        help: "Where more public keys are fetched, as a JWK Set: http:// or https://; `off` for nowhere",
        read: |config, values| {
            one_printable(values).map(|value| config.token.jwks_url = (value != OFF).then(|| value.to_owned()))
        },
        write: |config| texts_or(config.token.jwks_url.as_ref(), OFF),
    },
    Setting {
        key: "token.jwks_ca_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "The certificates that the server of jwks_url is trusted by; `off` for those that browsers trust",
        read: |config, values| file_or_off(values).map(|value| config.token.jwks_ca_file = value),
        write: |config| written_file_or_off(config.token.jwks_ca_file.as_ref()),
    },
    Setting {
        key: "token.jwks_refresh",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How often keys are fetched again",
        read: |config, values| time(values).map(|value| config.token.jwks_refresh = value),
        write: |config| written_time(config.token.jwks_refresh),
    },
    Setting {
        key: "token.jwks_cooldown",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Shortest time between two fetches because a token names an unknown key",
        read: |config, values| time(values).map(|value| config.token.jwks_cooldown = value),
        write: |config| written_time(config.token.jwks_cooldown),
    },
    Setting {
        key: "token.issuer",
        shape: Shape::List,
        value_name: "ISSUER",
        help: "A token's `iss` must be one of these; without any it is not looked at; repeatable",
        read: |config, values| printable(values).map(|value| config.token.issuers = value),
        write: |config| config.token.issuers.clone(),
    },
    Setting {
        key: "token.audience",
        shape: Shape::List,
        value_name: "AUDIENCE",
        help: "A token's `aud` must name one of these; without any it must have none; repeatable",
        read: |config, values| printable(values).map(|value| config.token.audiences = value),
        write: |config| config.token.audiences.clone(),
    },
    Setting {
        key: "token.leeway",
        shape: Shape::Text,
        value_name: "TIME",
        help: "How far the clock of whoever makes tokens may differ from ours",
        read: |config, values| time(values).map(|value| config.token.leeway = value),
        write: |config| written_time(config.token.leeway),
    },
];
