//! A configuration read anew, taken over by a server that runs.
//!
//! The main thread reads it, and only if all of it can be used, tells every shard. A bad file changes nothing.

use std::sync::Arc;

use flume::Sender;
use tokio::sync::watch;

use super::hub::{Admission, Hub};
use super::mailbox::Post;
use crate::admin::{AdminKeys, Facts};
use crate::chat::outbox::OutboxLimits;
use crate::config::{Changes, Config, ConfigError, Loaded, Problem, explained, take_over};
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
    /// What the admin port is told of it.
    facts: watch::Sender<Facts>,
}

impl Running {
    pub(super) fn new(loaded: &Loaded, surroundings: Surroundings) -> Result<Self, Problem> {
        Ok(Self { config: loaded.config.clone(), surroundings, facts: watch::Sender::new(facts(loaded)?) })
    }

    /// What the admin port is told, now and later.
    pub(super) fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.subscribe()
    }

    /// Reads the configuration and has everyone take over what has changed.
    pub(super) fn reload(&mut self, post: &Post, store: Option<&Store>) -> Result<Changes, ConfigError> {
        let (config, changes, facts) = self.read().inspect_err(|error| {
            tracing::error!(%error, "the configuration was not reloaded: nothing has changed");
            Record::new(Security::Reload, "refused").write();
        })?;
        self.facts.send_replace(facts);
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

    /// What holds from now on, if all of it can be used.
    fn read(&self) -> Result<(Config, Changes, Facts), ConfigError> {
        let mut read = (self.surroundings.read)()?;
        let (config, changes) = take_over(&self.config, &read.config);
        read.config = config.clone();
        let facts = facts(&read).map_err(|problem| read.blame(problem))?;
        Ok((config, changes, facts))
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

/// What the admin port needs of a configuration.
fn facts(loaded: &Loaded) -> Result<Facts, Problem> {
    let keys = loaded.config.admin_key_file.as_deref().map(|path| {
        AdminKeys::read(path).map_err(|error| {
            let what = format!("{} cannot be used: {error}", path.display());
            Problem::new("admin_key_file", what, "write a key into it: openssl rand -hex 32")
        })
    });
    Ok(Facts {
        keys: keys.transpose()?,
        message_bytes_max: loaded.config.limits.max_message_bytes,
        settings: explained(loaded),
    })
}

impl Hub {
    /// Goes on with other settings.
    pub(super) fn take_over(&mut self, settings: &Settings) {
        self.limits = settings.limits.clone();
        self.outbox_limits = OutboxLimits::from(&settings.limits);
        self.admission = settings.admission.clone();
    }
}
