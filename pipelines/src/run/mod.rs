//! What each command does.
//!
//! - [`prepare`]: documents, tokenizer, counts: all that must be known before training
//! - [`session`]: a plan and its data become a graph with everything its stages may know
//! - [`train`](mod@train): `pipeline run`; [`directory`]: what it leaves behind
//! - [`corpus`]: `pipeline run` of a graph that ends in `parquet`; `pipeline diff` and `pipeline stat`
//! - [`evaluate`](mod@evaluate): `pipeline evaluate`
//! - [`bench`](mod@bench): `pipeline bench`
mod bench;
mod corpus;
mod directory;
mod evaluate;
mod prepare;
mod session;
mod train;

pub use bench::{Measured, SHAPES, bench};
pub use corpus::diff::{Difference, diff, render as render_diff};
pub use corpus::stat::{render as render_stat, stat};
pub use evaluate::{Evaluated, evaluate};
pub use train::run;

/// A command that cannot be carried out as it was given: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Most memory that this process has had in use, in MB (2^20 bytes); 0 where the system does not say.
pub fn peak_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}
