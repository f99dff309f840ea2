//! Points at which a test can have the process killed: `HUBBUB_FAULT=name:n` kills it with SIGKILL when it passes the
//! point for the `n`-th time. Absent from builds without debug assertions.

/// The names of all points, in the order of a life of the store.
pub const FAULT_POINTS: [&str; 9] = [
    "store.opened",
    "store.before_write",
    "store.after_write",
    "store.before_sync",
    "store.after_sync",
    "store.after_ack",
    "store.before_trim",
    "store.after_trim",
    "store.before_clean_mark",
];

/// Passes a point.
#[cfg(debug_assertions)]
pub(super) fn fault_point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    debug_assert!(FAULT_POINTS.contains(&name), "{name} is not in the list");
    let wanted = WANTED.get_or_init(|| parse(&std::env::var("HUBBUB_FAULT").ok()?));
    if wanted.as_ref().is_some_and(|(point, at)| point == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *at) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Passes a point.
#[cfg(not(debug_assertions))]
pub(super) fn fault_point(_name: &'static str) {}

/// Reads `name:n`; anything else is no wish.
#[cfg(debug_assertions)]
fn parse(text: &str) -> Option<(String, u64)> {
    let (name, at) = text.split_once(':')?;
    Some((name.to_owned(), at.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_name_and_a_number() {
        assert_eq!(parse("store.after_sync:3"), Some(("store.after_sync".to_owned(), 3)));
        assert_eq!((parse("store.after_sync"), parse("x:y")), (None, None));
    }
}
