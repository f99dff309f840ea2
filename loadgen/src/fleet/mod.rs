//! Several processes, on one machine or many, that share one run.
//!
//! A coordinator (`loadgen run --agents`) speaks with agents (`loadgen agent`) over TCP, one JSON object a line. It tells
//! each which workers of the whole it has, and when to start; they send back what they measure, histograms included.
//! All planned times are readings of the coordinator's clock: each agent is told how far its own clock is from it.
//! An agent that is lost ends the run. No encryption: the token keeps strangers out, not eavesdroppers.

pub mod agent;
pub mod coordinator;
pub mod offset;
mod wire;
