//! TLS on both ports.

use super::*;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "tls.certificate_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "Serve TLS with this certificate and its chain (PEM), the server's own first; `off` for none",
        read: |config, values| file_or_off(values).map(|value| config.tls.certificate_file = value),
        write: |config| texts_or(config.tls.certificate_file.as_ref().map(|path| path.display()), OFF),
    },
    Setting {
        key: "tls.key_file",
        shape: Shape::Text,
        value_name: "FILE",
        help: "The private key of the certificate (PEM); `off` for none",
        read: |config, values| file_or_off(values).map(|value| config.tls.key_file = value),
        write: |config| texts_or(config.tls.key_file.as_ref().map(|path| path.display()), OFF),
    },
    Setting {
        key: "tls.handshake_budget",
        shape: Shape::Text,
        value_name: "TIME",
        help: "Time that a shard gives to handshakes before it looks after live connections again",
        read: |config, values| time(values).map(|value| config.tls.handshake_budget = value),
        write: |config| written_time(config.tls.handshake_budget),
    },
];

fn file_or_off(values: &[String]) -> Result<Option<PathBuf>, Unreadable> {
    one(values).map(|value| (value != OFF).then(|| PathBuf::from(value)))
}
