//! What the settings of hooks must fulfil together. What is in the files is known when they are read, at the start.

use std::fmt::Display;
use std::time::Duration;

use crate::config::validate::{Problem, out_of_range};
use crate::hooks::{HookConfig, check_url};
use crate::telemetry::hooks::HOOK_CALLERS_MAX;

/// Everything that is wrong with them.
pub(super) fn check(hooks: &HookConfig, problems: &mut Vec<Problem>) {
    let mut problem = |key, what: String, remedy| problems.push(Problem::new(key, what, remedy));
    match &hooks.url {
        Some(url) => {
            if let Err(error) = check_url(url) {
                problem("hooks.url", error.to_string(), "write http:// or https://, a host and a path");
            }
            if hooks.events.is_empty() {
                let what = "the application hears of nothing".to_owned();
                problem("hooks.events", what, "name some of open, join, message and close, or leave hooks.url out");
            }
            if hooks.secret_file.is_none() {
                let what = "requests to the application are signed, and there is no key".to_owned();
                problem("hooks.secret_file", what, "write one into a file and name it: openssl rand -hex 32");
            }
        }
        None if !hooks.events.is_empty() => {
            problem(
                "hooks.url",
                "there is nobody to tell of hooks.events".to_owned(),
                "say where, or leave hooks.events out",
            );
        }
        None => {}
    }
    let text = humantime::format_duration;
    let (timeout, attempts) = (hooks.timeout, hooks.attempts);
    in_range("hooks.timeout", timeout, TIMEOUT_FLOOR, TIMEOUT_CEILING, text, problems);
    in_range("hooks.attempts", attempts, 1, ATTEMPTS_CEILING, |n| n, problems);
    in_range("hooks.concurrency", hooks.concurrency, 2, HOOK_CALLERS_MAX, |n| n, problems);
    in_range("hooks.queue", hooks.queue, 1, QUEUE_CEILING, |n| n, problems);
}

fn in_range<T: Copy + PartialOrd, D: Display>(
    key: &'static str,
    value: T,
    min: T,
    max: T,
    show: impl Fn(T) -> D,
    problems: &mut Vec<Problem>,
) {
    if !(min..=max).contains(&value) {
        problems.push(out_of_range(key, show(value), show(min), show(max)));
    }
}

const TIMEOUT_FLOOR: Duration = Duration::from_millis(10);
const TIMEOUT_CEILING: Duration = Duration::from_secs(60);
const ATTEMPTS_CEILING: u32 = 10;
const QUEUE_CEILING: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::hooks::HookEvent;

    fn keys(hooks: HookConfig) -> Vec<String> {
        Config { hooks, ..Config::default() }.validate().iter().map(|problem| problem.key.to_string()).collect()
    }

    fn usable() -> HookConfig {
        HookConfig {
            url: Some("https://app.example/hooks".into()),
            events: vec![HookEvent::Join],
            secret_file: Some("hooks.key".into()),
            ..HookConfig::default()
        }
    }

    #[test]
    fn hooks_need_a_place_a_reason_and_a_key() {
        assert_eq!(keys(usable()), [""; 0]);
        assert_eq!(
            keys(HookConfig { events: Vec::new(), secret_file: None, ..usable() }),
            ["hooks.events", "hooks.secret_file"]
        );
        assert_eq!(keys(HookConfig { url: None, ..usable() }), ["hooks.url"]);
        assert_eq!(keys(HookConfig { url: Some("app.example/hooks".into()), ..usable() }), ["hooks.url"]);
    }

    #[test]
    fn numbers_and_times_have_bounds() {
        let (timeout, attempts) = (Duration::from_secs(61), 0);
        let wrong = HookConfig { timeout, attempts, concurrency: 65, queue: 0, ..usable() };
        assert_eq!(keys(wrong), ["hooks.timeout", "hooks.attempts", "hooks.concurrency", "hooks.queue"]);
    }
}
