//! The report for a browser: one file that needs nothing else, not even a script, and follows the reader's light or
//! dark setting. It is made from a result alone, so that it can be made again at any time.
//!
//! Invariant: whatever comes from outside passes through [`text::escape`] before it is written.

mod axis;
mod chart;
mod figures;
mod page;
mod text;

pub use page::page;
