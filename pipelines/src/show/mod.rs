//! Output in the terminal. Everything is a pure function that returns text, except for [`Line`], which writes.
//!
//! - [`Training`], [`Work`]: the progress line; [`Line`]: draws it on a terminal, or prints it from time to time to a
//!   log
//! - [`banner()`]: the facts that a run prints before it starts
//! - [`table()`], [`stage_times`]: plain tables
//! - [`graph`](graph()): a drawing of a plan; [`Explanation`]: the estimates that `pipeline explain` prints below it;
//!   [`Scaling`]: those of a run on several hosts; [`inputs`](inputs()): the files that a plan reads
//! - [`sources`](sources()): what a run trains on of each source
//! - [`plan_summary`], [`stages`]: the output of `pipeline check` and `pipeline stages`
//! - [`human`]: numbers with units
mod banner;
mod explanation;
mod graph;
pub mod human;
mod inputs;
mod line;
mod progress;
mod scaling;
mod sources;
mod summary;
mod table;

pub use banner::{Banner, banner};
pub use explanation::{Explanation, Length};
pub use graph::graph;
pub use inputs::inputs;
pub use line::{Cadence, Line, Progress, Style};
pub use progress::{Training, Unit, Work, bar};
pub use scaling::{HostShare, Scaling};
pub use sources::{SourceUse, sources};
pub use summary::{plan_summary, stages};
pub use table::{Align, StageTime, Times, Wait, stage_times, table};

/// Columns of what is printed to standard output: the terminal's, between 40 and 80; 80 elsewhere.
pub fn columns() -> usize {
    terminal_size::terminal_size_of(std::io::stdout()).map_or(80, |(width, _)| usize::from(width.0).clamp(40, 80))
}
