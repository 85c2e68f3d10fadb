//! What people see. Everything is a pure function to text, but for [`Line`], which writes.
//!
//! - [`Training`], [`Work`]: the progress line, and [`Line`], which draws it on a terminal or now and then in a log
//! - [`banner()`]: what a run says before it starts
//! - [`table()`], [`stage_times`]: plain tables
//! - [`graph`](graph()): the graph of a plan, drawn; [`Explanation`]: what `pipeline explain` says below it
//! - [`plan_summary`], [`stages`]: what `pipeline check` and `pipeline stages` print
//! - [`human`]: numbers as people read them
mod banner;
mod explanation;
mod graph;
pub mod human;
mod line;
mod progress;
mod summary;
mod table;

pub use banner::{Banner, banner};
pub use explanation::{Explanation, Length};
pub use graph::graph;
pub use line::{Cadence, Line};
pub use progress::{Training, Unit, Work, bar};
pub use summary::{plan_summary, stages};
pub use table::{Align, StageTime, Times, stage_times, table};
