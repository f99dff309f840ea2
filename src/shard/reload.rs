//! A configuration read anew, taken over by a server that runs.
//!
//! The main thread reads it, and only if all of it can be used, tells every shard. A bad file changes nothing.

use std::sync::Arc;

use flume::Sender;

use super::hub::{Admission, Hub};
use super::mailbox::Post;
use crate::chat::outbox::OutboxLimits;
use crate::config::{Changes, Config, ConfigError, Loaded, take_over};
use crate::limits::Limits;
use crate::policy::RoomPolicies;
use crate::store::Store;
use crate::telemetry::audit::{Record, Security};
use crate::telemetry::log::LogControl;

/// What of the process around it the server needs in order to change while it runs.
pub struct Surroundings {
    /// Reads the configuration again, from the sources it was first read from.
    pub read: Box<dyn Fn() -> Result<Loaded, ConfigError> + Send>,
    /// What is written of the log, and where.
    pub log: LogControl,
}

/// Who wants to know what became of a reload.
pub(super) type ReloadAnswer = Sender<Result<Changes, ConfigError>>;

/// What a shard is told when the configuration has changed.
#[derive(Debug)]
pub(super) struct Settings {
    limits: Limits,
    policies: Arc<RoomPolicies>,
    admission: Arc<Admission>,
}

/// The configuration in force.
pub(super) struct Running {
    config: Config,
    surroundings: Surroundings,
}

impl Running {
    pub(super) fn new(config: Config, surroundings: Surroundings) -> Self {
        Self { config, surroundings }
    }

    /// Reads the configuration and has everyone take over what has changed.
    pub(super) fn reload(&mut self, post: &Post, store: Option<&Store>) -> Result<Changes, ConfigError> {
        let (config, changes) =
            (self.surroundings.read)().map(|read| take_over(&self.config, &read.config)).inspect_err(|error| {
                tracing::error!(%error, "the configuration was not reloaded: nothing has changed");
                Record::new(Security::Reload, "refused").write();
            })?;
        let settings = Arc::new(Settings::of(&config));
        if let Some(store) = store {
            store.set_policies(settings.policies.clone());
        }
        post.tell_all(&settings);
        self.surroundings.log.renew(config.log_level);
        self.config = config;
        tracing::info!(
            applied = changes.applied.join(","),
            needs_restart = changes.needs_restart.join(","),
            "the configuration was reloaded"
        );
        Record::new(Security::Reload, "done").write();
        Ok(changes)
    }
}

impl Settings {
    /// What of a configuration shards need to know.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            limits: config.limits.clone(),
            policies: Arc::new(config.policies.clone()),
            admission: Arc::new(Admission::of(config)),
        }
    }
}

impl Hub {
    /// Goes on with other settings.
    pub(super) fn take_over(&mut self, settings: &Settings) {
        self.limits = settings.limits.clone();
        self.outbox_limits = OutboxLimits::from(&settings.limits);
        self.admission = settings.admission.clone();
    }
}
