//! What an operator decides about hooks.

use std::path::PathBuf;
use std::time::Duration;

use ureq::http::Uri;

use crate::telemetry::hooks::HookEvent;

/// How the application is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookConfig {
    /// Where; without one nobody is called.
    pub url: Option<String>,
    /// What it hears of.
    pub events: Vec<HookEvent>,
    /// The file with the key of the signatures.
    pub secret_file: Option<PathBuf>,
    /// The file with the certificates that vouch for an `https` URL, instead of those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// For each attempt, from the name's lookup to the answer's last byte.
    pub timeout: Duration,
    /// How often a call is tried in all.
    pub attempts: u32,
    /// Requests at once.
    pub concurrency: usize,
    /// Calls that may wait: so many questions, and as many notices.
    pub queue: usize,
    /// What a call without a usable answer means.
    pub on_failure: OnFailure,
}

/// What a call without a usable answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The client may go on.
    Allow,
    /// It may not, and is told to try later.
    Refuse,
}

/// Why a text is no place to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not `http` or `https`, or not a URL.
    #[error("this is not an http or https URL")]
    Scheme,
    /// A user name or password.
    #[error("a URL with a user name or password would be logged by others")]
    User,
}

impl HookConfig {
    /// Whether the application is called for this.
    #[must_use]
    pub fn asks(&self, event: HookEvent) -> bool {
        self.url.is_some() && self.events.contains(&event)
    }

    /// The longest that a question takes from being asked to being answered: every attempt, and every pause between.
    /// Questions wait in order and each within its own time, so waiting in the queue is within it too.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let pauses: Duration = (1..self.attempts).map(pause_max).sum();
        self.timeout * self.attempts + pauses
    }

    /// How many threads ask, and how many tell: a quarter of them, if both are wanted, so that neither holds up the
    /// other.
    pub(super) fn shares(&self) -> (usize, usize) {
        let tells = self.asks(HookEvent::Close);
        let asks = HookEvent::ALL.into_iter().any(|event| event != HookEvent::Close && self.asks(event));
        match (asks, tells) {
            (true, true) => {
                let telling = (self.concurrency / 4).max(1);
                (self.concurrency.saturating_sub(telling).max(1), telling)
            }
            (true, false) => (self.concurrency, 0),
            (false, true) => (0, self.concurrency),
            (false, false) => (0, 0),
        }
    }
}

impl Default for HookConfig {
    fn default() -> Self {
        Self {
            url: None,
            events: Vec::new(),
            secret_file: None,
            ca_file: None,
            timeout: Duration::from_secs(2),
            attempts: 3,
            concurrency: 16,
            queue: 1_024,
            on_failure: OnFailure::Refuse,
        }
    }
}

/// Whether this can be called.
pub fn check_url(url: &str) -> Result<(), UrlError> {
    parse_url(url).map(drop)
}

pub(super) fn parse_url(url: &str) -> Result<Uri, UrlError> {
    let uri: Uri = url.parse().map_err(|_| UrlError::Scheme)?;
    let authority = uri.authority().filter(|_| matches!(uri.scheme_str(), Some("http" | "https")));
    match authority {
        None => Err(UrlError::Scheme),
        Some(authority) if authority.as_str().contains('@') => Err(UrlError::User),
        Some(_) => Ok(uri),
    }
}

/// The longest pause after so many attempts; a pause is at least half as long.
pub(super) fn pause_max(attempts: u32) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(PAUSE_CEILING)
}

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_CEILING: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_web_addresses_can_be_called() {
        for good in ["http://127.0.0.1:8080/hooks?a=b", "https://app.example", "http://[::1]:1/"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/hooks",
            "app.example",
            "app.example:80",
            "ftp://app.example/",
            "unix:/run/app",
            "http://",
            "http:///x",
            "h t",
        ] {
            assert_eq!(check_url(bad), Err(UrlError::Scheme), "{bad}");
        }
        assert_eq!(check_url("http://ann:secret@app.example/"), Err(UrlError::User));
    }

    #[test]
    fn the_deadline_is_all_attempts_and_pauses() {
        let config = HookConfig::default();
        assert_eq!(config.deadline(), Duration::from_millis(3 * 2_000 + 100 + 200));
        let once = HookConfig { attempts: 1, ..config };
        assert_eq!(once.deadline(), once.timeout);
        assert_eq!(pause_max(40), PAUSE_CEILING);
    }

    #[test]
    fn threads_are_shared_out_by_what_is_wanted() {
        let shares = |events: &[HookEvent], concurrency| {
            let url = Some("http://a/".to_owned());
            HookConfig { url, events: events.to_vec(), concurrency, ..HookConfig::default() }.shares()
        };
        assert_eq!(shares(&HookEvent::ALL, 16), (12, 4));
        assert_eq!(shares(&HookEvent::ALL, 2), (1, 1));
        assert_eq!(shares(&[HookEvent::Join], 16), (16, 0));
        assert_eq!(shares(&[HookEvent::Close], 16), (0, 16));
    }
}
