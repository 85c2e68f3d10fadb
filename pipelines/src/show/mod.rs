//! What people see. Everything is a pure function to text, but for [`Line`], which writes.
//!
//! - [`Training`], [`Work`]: the progress line, and [`Line`], which draws it on a terminal or now and then in a log
//! - [`banner()`]: what a run says before it starts
//! - [`table()`], [`stage_times`]: plain tables
//! - [`plan_summary`], [`stages`]: what `pipeline check` and `pipeline stages` print
//! - [`human`]: numbers as people read them
mod banner;
pub mod human;
mod line;
mod progress;
mod summary;
mod table;

pub use banner::{Banner, banner, held_back};
pub use line::{Cadence, Line};
pub use progress::{Training, Unit, Work, bar};
pub use summary::{plan_summary, stages};
pub use table::{Align, StageTime, Times, stage_times, table};
