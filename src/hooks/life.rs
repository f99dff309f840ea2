//! The hooks from their start to their end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ureq::tls::RootCerts;

use super::caller::Caller;
use super::client::{Client, read_roots};
use super::config::{UrlError, parse_url};
use super::line::{HookPort, Job, Shared};
use super::sign::Secret;
use crate::clock::Clock;
use crate::telemetry::log::Throttle;

/// Threads that call the application. Dropped, they are told to end.
pub struct Hooks {
    shared: Arc<Shared>,
    client: Client,
    clock: Clock,
    /// What tells each thread to end: its queue.
    queues: Vec<flume::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    /// Dropped so that nobody pauses any more.
    closing: Option<flume::Sender<()>>,
    /// Disconnected when all threads have ended.
    running: flume::Receiver<()>,
}

/// Why the hooks cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is nobody to call.
    #[error("{0}")]
    Url(#[from] UrlError),
    /// There is no key to sign with.
    #[error("requests are signed, and there is no key")]
    NoSecret,
    /// A file cannot be used.
    #[error("{} cannot be used: {why}", path.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The operating system refuses a thread.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}

impl HookError {
    /// The setting to look at.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Url(_) => "hooks.url",
            Self::NoSecret => SECRET_FILE,
            Self::File { key, .. } => key,
            Self::Thread(_) => "hooks.concurrency",
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Url(_) => "write http:// or https://, a host and a path",
            Self::File { key, .. } if *key == CA_FILE => "name a file with certificates in PEM",
            Self::NoSecret | Self::File { .. } => "write a key into a file and name it: openssl rand -hex 32",
            Self::Thread(_) => "write a lower number, or allow more tasks (TasksMax=)",
        }
    }
}

impl Hooks {
    /// Reads the files and starts the threads. They open connections when they first call.
    pub fn start(port: HookPort) -> Result<Self, HookError> {
        let config = &port.config;
        let url = parse_url(config.url.as_deref().unwrap_or_default())?;
        let secret_file = config.secret_file.as_ref().ok_or(HookError::NoSecret)?;
        let secret = Secret::read(secret_file).map_err(|error| unusable(SECRET_FILE, secret_file, error))?;
        let roots = match &config.ca_file {
            None => RootCerts::WebPki,
            Some(path) => {
                let pem = std::fs::read(path).map_err(|error| unusable(CA_FILE, path, error))?;
                read_roots(&pem).map_err(|error| unusable(CA_FILE, path, error))?
            }
        };
        let client = Client::new(url, secret, roots, config.concurrency);
        let (closing, is_closing) = flume::bounded(0);
        let (alive, running) = flume::bounded(0);
        let mut hooks = Self {
            shared: port.shared.clone(),
            client,
            clock: port.clock.clone(),
            queues: Vec::new(),
            threads: Vec::new(),
            closing: Some(closing),
            running,
        };
        let (asking, telling) = config.shares();
        for (index, metrics) in port.metrics.callers.iter().enumerate().take(asking + telling) {
            let (queue, jobs) =
                if index < asking { (&port.questions, &port.asked) } else { (&port.notices, &port.told) };
            let caller = Caller {
                jobs: jobs.clone(),
                shared: port.shared.clone(),
                outlets: port.outlets.clone(),
                client: hooks.client.clone(),
                node: port.node.clone(),
                timeout: config.timeout,
                attempts: config.attempts,
                deadline: config.deadline(),
                closing: is_closing.clone(),
                _running: alive.clone(),
                clock: port.clock.clone(),
                metrics,
                throttle: Throttle::default(),
            };
            let thread = std::thread::Builder::new().name("hooks".to_owned()).spawn(|| caller.run());
            // A failure drops the hooks, which ends the threads that run by then.
            hooks.threads.push(thread.map_err(HookError::Thread)?);
            hooks.queues.push(queue.clone());
        }
        Ok(hooks)
    }

    /// Ends. Requests under way are finished, and notices that wait are tried once more, as far as `within` allows; what is
    /// left is given up. Questions that wait are not asked any more: whoever had asked is gone.
    pub fn close(mut self, within: Duration) {
        self.end(within);
    }

    fn end(&mut self, within: Duration) {
        self.shared.close();
        self.closing = None;
        let until_us = self.clock.us() + within.as_micros() as u64;
        let left = |clock: &Clock| Duration::from_micros(until_us.saturating_sub(clock.us()));
        for queue in self.queues.drain(..) {
            // A queue that stays full until then is given up with the rest.
            let _ = queue.send_timeout(Job::End, left(&self.clock));
        }
        let mut all_ended = self.has_ended(left(&self.clock));
        if !all_ended {
            self.client.shutdown();
            all_ended = self.has_ended(GIVING_UP);
        }
        if !all_ended {
            // They end with the process, or when their connect does.
            self.threads.clear();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the hooks broke off");
            }
        }
    }

    /// Whether all threads end in that time.
    fn has_ended(&self, within: Duration) -> bool {
        self.running.recv_timeout(within) == Err(flume::RecvTimeoutError::Disconnected)
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end(Duration::ZERO);
        }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

fn unusable(key: &'static str, path: &Path, why: impl std::fmt::Display) -> HookError {
    HookError::File { key, path: path.to_owned(), why: why.to_string() }
}

const SECRET_FILE: &str = "hooks.secret_file";
const CA_FILE: &str = "hooks.ca_file";
/// Time for requests to notice that their connections are gone.
const GIVING_UP: Duration = Duration::from_millis(200);
