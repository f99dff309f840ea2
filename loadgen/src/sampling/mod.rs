//! What is looked at once a second while a run lasts, all on one time axis that begins at the first connect: what the
//! workers measured, this process, the server's process and the server's metrics.
//!
//! A second in which something could not be read is missing from its series; nothing is filled in.

pub mod process;
pub mod recorder;
pub mod scrape;
pub mod timeline;
