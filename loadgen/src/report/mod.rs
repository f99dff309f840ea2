//! The result of a run: what it holds, how it is judged, and how people see it.

mod judge;
mod outcome;
mod table;

pub use judge::{Measured, ServerSamples};
pub use outcome::Outcome;

#[cfg(test)]
pub mod tests;
