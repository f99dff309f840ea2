//! Whether the server takes connections: set by whoever starts and stops it, read by the admin port.

use std::sync::atomic::{AtomicU8, Ordering};

/// The server's stage, shared by all threads.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

/// A stage of the server's life, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not all listeners are open.
    Starting,
    /// Connections are welcome.
    Ready,
    /// The server stops and refuses new connections.
    Draining,
}

impl Readiness {
    /// Enters a stage. Stages never go back: a signal during start-up must not be forgotten by its end.
    pub fn enter(&self, stage: Stage) {
        self.0.fetch_max(stage as u8, Ordering::Release);
    }

    /// The stage now.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.0.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Ready,
            _ => Stage::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_never_go_back() {
        let readiness = Readiness::default();
        assert_eq!(readiness.stage(), Stage::Starting);
        readiness.enter(Stage::Draining);
        readiness.enter(Stage::Ready);
        assert_eq!(readiness.stage(), Stage::Draining);
    }
}
