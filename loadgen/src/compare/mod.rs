//! Whether one build differs from another: results on both sides, the difference with its confidence, and a claim only
//! where the difference is both sure and large enough to matter.
//!
//! Two runs of one build never agree exactly. Within a run, seconds vary, and neighbours vary together; a moving-block
//! bootstrap over the seconds says how far that alone moves a figure (see [`bootstrap`]). Between runs, caches, pages
//! and neighbours on the machine differ, which seconds of one run cannot show; so a change must also exceed a margin,
//! and with several runs on each side the runs are resampled first.

mod bootstrap;
mod figure;
mod run;
mod table;
mod verdict;

pub use figure::{MarginSetting, Margins};
pub use verdict::compare;
