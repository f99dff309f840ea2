//! What the server says about itself: figures, log lines and its readiness.

pub mod audit;
pub mod histogram;
pub mod hooks;
pub mod keys;
pub mod log;
pub mod login;
pub mod metrics;
pub mod process;
pub mod readiness;
pub mod render;
pub mod store;
