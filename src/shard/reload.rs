//! A configuration read anew, taken over by a server that runs.
//!
//! The main thread reads it, and only if all of it can be used, tells every shard. A bad file changes nothing.

use std::sync::Arc;

use flume::Sender;
use tokio::sync::watch;

use super::hub::{Admission, Hub};
use super::mailbox::Post;
use crate::admin::{AdminKeys, Facts, ReloadReport};
use crate::chat::outbox::OutboxLimits;
use crate::chat::{Consults, Input, Rules};
use crate::config::{Auth, Changes, Config, ConfigError, GateConfig, Loaded, Problem, explained, take_over};
use crate::hooks::HookEvent;
use crate::store::Store;
use crate::telemetry::audit::{Record, Security};
use crate::telemetry::log::LogControl;
use crate::tls::TlsConfigs;
use crate::token::KeyRing;

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
    rules: Rules,
    admission: Arc<Admission>,
    gate: Arc<GateConfig>,
    tls: Option<Arc<TlsConfigs>>,
    handshake_budget_us: u64,
}

/// The configuration in force.
pub(super) struct Running {
    config: Config,
    tls: Option<Arc<TlsConfigs>>,
    surroundings: Surroundings,
    /// What the admin port is told of it.
    facts: watch::Sender<Facts>,
}

/// What holds from now on.
struct Taken {
    config: Config,
    changes: Changes,
    tls: Option<Arc<TlsConfigs>>,
    facts: Facts,
}

impl Running {
    pub(super) fn new(
        loaded: &Loaded,
        tls: Option<Arc<TlsConfigs>>,
        surroundings: Surroundings,
    ) -> Result<Self, Problem> {
        Ok(Self { config: loaded.config.clone(), tls, surroundings, facts: watch::Sender::new(facts(loaded)?) })
    }

    /// What the admin port is told, now and later.
    pub(super) fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.subscribe()
    }

    /// Reads the configuration and has everyone take over what has changed.
    pub(super) fn reload(
        &mut self,
        post: &Post,
        store: Option<&Store>,
        keys: Option<&KeyRing>,
    ) -> Result<Changes, ConfigError> {
        let Taken { config, changes, tls, facts } = self.read(keys).inspect_err(|error| {
            tracing::error!(%error, "the configuration was not reloaded: nothing has changed");
            Record::new(Security::Reload, "refused").write();
        })?;
        self.facts.send_replace(facts);
        let settings = Arc::new(Settings::of(&config, tls.clone()));
        if let Some(store) = store {
            store.set_policies(settings.rules.policies.clone());
        }
        post.tell_all(&settings);
        self.surroundings.log.renew(config.log_level);
        (self.config, self.tls) = (config, tls);
        tracing::info!(
            applied = changes.applied.join(","),
            needs_restart = changes.needs_restart.join(","),
            "the configuration was reloaded"
        );
        Record::new(Security::Reload, "done").write();
        Ok(changes)
    }

    /// Reads the configuration, and the files that it names: a certificate may have been renewed in its place.
    fn read(&self, keys: Option<&KeyRing>) -> Result<Taken, ConfigError> {
        let mut read = (self.surroundings.read)()?;
        let (config, changes) = take_over(&self.config, &read.config);
        let tls = match &self.tls {
            Some(tls) => tls.reload(&config),
            None => TlsConfigs::load(&config),
        };
        let tls = tls.map_err(|problem| read.blame(problem))?.map(Arc::new);
        read.config = config.clone();
        let facts = facts(&read).map_err(|problem| read.blame(problem))?;
        // The last that may fail, for it takes effect at once.
        if let Some(keys) = keys {
            keys.reload(&config.token).map_err(|problem| read.blame(problem))?;
        }
        Ok(Taken { config, changes, tls, facts })
    }
}

/// What of a configuration the core needs to know.
pub(super) fn rules(config: &Config) -> Rules {
    let asks = |event| config.hooks.url.is_some() && config.hooks.events.contains(&event);
    let is_asked = HookEvent::ALL.into_iter().any(asks);
    let consults = Consults {
        connect: config.auth == Auth::Token || config.gate.connections_per_user.is_some() || is_asked,
        join: asks(HookEvent::Join),
        message: asks(HookEvent::Message),
    };
    Rules {
        limits: config.limits.clone(),
        policies: Arc::new(config.policies.clone()),
        permissions: Arc::new(config.permissions.clone()),
        consults,
    }
}

impl Settings {
    /// What of a configuration shards need to know.
    pub(super) fn of(config: &Config, tls: Option<Arc<TlsConfigs>>) -> Self {
        Self {
            rules: rules(config),
            admission: Arc::new(Admission::of(config)),
            gate: Arc::new(config.gate.clone()),
            tls,
            handshake_budget_us: config.tls.handshake_budget.as_micros() as u64,
        }
    }
}

/// What an operator is told of a reload.
pub(super) fn report(outcome: Result<Changes, ConfigError>) -> ReloadReport {
    let keys = |keys: Vec<&str>| keys.into_iter().map(str::to_owned).collect();
    match outcome {
        Ok(Changes { applied, unchanged, needs_restart }) => ReloadReport {
            applied: keys(applied),
            unchanged: keys(unchanged),
            needs_restart: keys(needs_restart),
            error: None,
        },
        Err(error) => error.to_string().into(),
    }
}

/// What the admin port needs of a configuration.
fn facts(loaded: &Loaded) -> Result<Facts, Problem> {
    Ok(Facts {
        keys: AdminKeys::of(&loaded.config)?,
        message_bytes_max: loaded.config.limits.max_message_bytes,
        settings: explained(loaded),
    })
}

impl Hub {
    /// Goes on with other settings.
    pub(super) fn take_over(&mut self, settings: &Settings) {
        let _ = self.core.handle(Input::Rules(Box::new(settings.rules.clone())), self.now);
        self.pump();
        self.limits = settings.rules.limits.clone();
        self.outbox_limits = OutboxLimits::from(&self.limits);
        self.admission = settings.admission.clone();
        self.gate.set(settings.gate.clone());
        self.handshake_budget_us = settings.handshake_budget_us;
        self.set_tls(settings.tls.clone());
    }
}
