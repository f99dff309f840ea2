//! The keys of a running server: one thread, `hubbub-keys`, publishes a [`Generation`] after the other, and every shard
//! follows at its own pace without a lock.
//!
//! Generations form a chain: each has a place for the next, which is filled once. Who follows holds the one it knows and
//! steps on; what everyone has left is freed. The thread alone writes. It fetches one URL at a time, so that any number of
//! unknown keys at once leads to one fetch; a fetch that fails, or gives no usable key, leaves the keys as they are.
//!
//! Start it before the shards split their descriptor tables, or after, but not meanwhile: it opens sockets.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender};

use crate::clock::Clock;
use crate::config::{Problem, TokenConfig};
use crate::limits::KEY_WAITERS_MAX;
use crate::telemetry::keys::KeyMetrics;
use crate::token::key::{Key, KeySet, Origin};
use crate::token::schedule::Schedule;
use crate::token::source::Source;
use crate::token::verifier::Verifier;

/// A verifier and its place in the order of verifiers.
#[derive(Debug)]
pub struct Generation {
    /// Counts from 1. Another number means other keys or rules.
    pub number: u64,
    /// Decides about tokens.
    pub verifier: Verifier,
}

/// Gives orders to the thread. The thread ends when this and all [`Keys`] are dropped.
#[derive(Clone)]
pub struct KeyRing {
    orders: Sender<Order>,
    /// A place for the newest configuration, until the thread takes it: it goes before all orders.
    replacement: (Sender<Replacement>, Receiver<Replacement>),
}

type Replacement = (Source, Schedule);

/// Follows the generations. One per shard; clones begin where theirs is.
#[derive(Clone)]
pub struct Keys {
    link: Arc<Link>,
    orders: Sender<Order>,
    /// Whether asking for more keys may be of use: there is a URL, and its cooldown is over.
    may_ask: Arc<AtomicBool>,
}

/// Why there is no key ring.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// A file cannot be used.
    #[error("{0}")]
    Config(#[from] Problem),
    /// No thread.
    #[error("the thread for keys cannot be started: {0}")]
    Thread(#[from] io::Error),
}

struct Link {
    generation: Generation,
    next: OnceLock<Arc<Link>>,
}

enum Order {
    /// Fetch keys, for a token names one that is not known.
    Refresh { kid: Option<Box<str>>, notify: Box<dyn FnOnce() + Send> },
    /// Look for another configuration.
    Replace,
}

impl KeyRing {
    /// Reads the files, and waits for the first fetch if there is a URL, at most its timeout. If that fails the server
    /// may start all the same: the log says so, and the thread tries again.
    pub fn start(config: &TokenConfig, figures: &'static KeyMetrics) -> Result<(Self, Keys), KeyRingError> {
        let source = Source::read(config)?;
        let (orders, received) = flume::bounded(KEY_WAITERS_MAX);
        let generation =
            Generation { number: 1, verifier: Verifier::shared(source.keys.clone(), source.rules.clone()) };
        let link = Arc::new(Link { generation, next: OnceLock::new() });
        let may_ask = Arc::new(AtomicBool::new(false));
        let replacement = flume::bounded(1);
        let thread = KeyThread {
            orders: received,
            replacement: replacement.1.clone(),
            link: link.clone(),
            may_ask: may_ask.clone(),
            schedule: Schedule::new(config.jwks_refresh, config.jwks_cooldown),
            source,
            fetched: Vec::new(),
            body: Vec::new(),
            clock: Clock::start(),
            figures,
        };
        let (ready, is_ready) = flume::bounded(1);
        std::thread::Builder::new().name("hubbub-keys".into()).spawn(move || thread.run(&ready))?;
        // An error would mean that the thread has ended, which it does not while we hold `orders`.
        let _ = is_ready.recv();
        let mut keys = Keys { link, orders: orders.clone(), may_ask };
        keys.advance();
        Ok((Self { orders, replacement }, keys))
    }

    /// Reads the files anew and works with this configuration from now on. A file that cannot be used changes nothing.
    /// Keys that came from a URL are kept if the URL is still the same; a new one is fetched soon after.
    pub fn reload(&self, config: &TokenConfig) -> Result<(), Problem> {
        let source = Source::read(config)?;
        let schedule = Schedule::new(config.jwks_refresh, config.jwks_cooldown);
        let (put, take) = &self.replacement;
        let _ = take.try_recv();
        // There is room: only reloads put something here, one after the other.
        let _ = put.try_send((source, schedule));
        // A thread that has other orders finds it by itself.
        let _ = self.orders.try_send(Order::Replace);
        Ok(())
    }
}

impl Keys {
    /// The newest generation. Costs one load if it is the one before.
    pub fn current(&mut self) -> &Generation {
        self.advance();
        &self.link.generation
    }

    /// Asks for keys because a token names one that is not known ([`crate::token::TokenError::UnknownKey`]). `notify` is
    /// called from another thread when there may be more keys, also if there are none: then look at the token once more.
    /// At once `false`, and `notify` is never called, if there is nothing to wait for: no URL, it was asked a moment ago,
    /// or [`KEY_WAITERS_MAX`] wait already. Then the token is refused.
    #[must_use]
    pub fn refresh_for(&self, kid: Option<&str>, notify: impl FnOnce() + Send + 'static) -> bool {
        let order = || Order::Refresh { kid: kid.map(Into::into), notify: Box::new(notify) };
        self.may_ask.load(Ordering::Acquire) && self.orders.try_send(order()).is_ok()
    }

    fn advance(&mut self) {
        while let Some(next) = self.link.next.get() {
            self.link = next.clone();
        }
    }
}

impl Drop for Keys {
    /// Steps to the end first, for dropping a long chain from its beginning would recurse.
    fn drop(&mut self) {
        self.advance();
    }
}

struct KeyThread {
    orders: Receiver<Order>,
    replacement: Receiver<Replacement>,
    /// The newest.
    link: Arc<Link>,
    may_ask: Arc<AtomicBool>,
    schedule: Schedule,
    source: Source,
    /// What the URL gave, and the text it was in.
    fetched: Vec<Arc<Key>>,
    body: Vec<u8>,
    clock: Clock,
    figures: &'static KeyMetrics,
}

impl KeyThread {
    fn run(mut self, ready: &Sender<()>) {
        self.figures.keys.set(self.link.generation.verifier.keys() as u64);
        loop {
            if let Ok((source, schedule)) = self.replacement.try_recv() {
                self.replace(source, schedule);
            }
            let now_ms = self.clock.now().ms();
            let has_url = self.source.fetcher.is_some();
            if has_url && self.schedule.is_due(now_ms) {
                self.fetch();
                continue;
            }
            self.say_whether_to_ask();
            // Only the first counts.
            let _ = ready.try_send(());
            let pause = if has_url { self.schedule.next_change(now_ms) } else { NEVER };
            match self.orders.recv_timeout(pause) {
                Ok(Order::Refresh { kid, notify }) => self.refresh(kid.as_deref(), notify),
                Ok(Order::Replace) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Fetches unless the key has come meanwhile, or the cooldown forbids it. So of many who ask for the same, one leads to
    /// a fetch and the others find what it brought.
    fn refresh(&mut self, kid: Option<&str>, notify: Box<dyn FnOnce() + Send>) {
        let has_come = kid.is_some_and(|kid| self.fetched.iter().any(|key| key.kid() == Some(kid)));
        if !has_come && self.source.fetcher.is_some() && self.schedule.may_fetch(self.clock.now().ms()) {
            self.fetch();
            // Before anyone looks again, or those whose key has not come would ask for ever.
            self.say_whether_to_ask();
        }
        notify();
    }

    fn say_whether_to_ask(&self) {
        let may_ask = self.source.fetcher.is_some() && self.schedule.may_fetch(self.clock.now().ms());
        self.may_ask.store(may_ask, Ordering::Release);
    }

    fn replace(&mut self, source: Source, schedule: Schedule) {
        let url = |source: &Source| source.fetcher.as_ref().map(|fetcher| fetcher.url().to_owned());
        if url(&source) != url(&self.source) {
            self.fetched.clear();
            self.body.clear();
        }
        self.schedule = schedule;
        self.source = source;
        self.publish();
    }

    fn fetch(&mut self) {
        let Some(fetcher) = &self.source.fetcher else { return };
        self.figures.fetches_total.inc();
        let fetched = fetcher.fetch().and_then(|body| usable_keys(&body).map(|keys| (keys, body)));
        self.schedule.fetched(self.clock.now().ms(), fetched.is_ok());
        match fetched {
            // The same text again: what was verified with these keys stays verified.
            Ok((_, body)) if body == self.body => {}
            Ok((keys, body)) => {
                tracing::info!(url = fetcher.url(), keys = keys.len(), "keys for tokens fetched");
                self.fetched = keys.into_iter().map(Arc::new).collect();
                self.body = body;
                self.publish();
            }
            Err(error) => {
                self.figures.fetch_failures_total.inc();
                let kept = self.link.generation.verifier.keys();
                tracing::warn!(url = fetcher.url(), %error, kept, "keys for tokens cannot be fetched");
            }
        }
    }

    fn publish(&mut self) {
        let keys: Vec<Arc<Key>> = self.source.keys.iter().chain(&self.fetched).cloned().collect();
        self.figures.keys.set(keys.len() as u64);
        let verifier = Verifier::shared(keys, self.source.rules.clone());
        let number = self.link.generation.number + 1;
        let next = Arc::new(Link { generation: Generation { number, verifier }, next: OnceLock::new() });
        // Empty until now, for only this thread fills it.
        let _ = self.link.next.set(next.clone());
        self.link = next;
    }
}

/// The keys in an answer. One without any is taken for a mistake of its server, and not for an order to trust no one.
pub(super) fn usable_keys(body: &[u8]) -> Result<Vec<Key>, String> {
    let KeySet { keys, unusable } = KeySet::from_json(body, Origin::Url).map_err(|error| error.to_string())?;
    for why in &unusable {
        tracing::debug!("{why}");
    }
    if keys.is_empty() { Err(format!("no usable key in the answer: {}", unusable.join("; "))) } else { Ok(keys) }
}

/// Without a URL the thread waits for orders alone.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
