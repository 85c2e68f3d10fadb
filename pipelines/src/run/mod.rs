//! What each command does.
//!
//! - [`prepare`]: documents, tokenizer, counts: all that must be known before training
//! - [`session`]: a plan and its data become a graph with everything its stages may know
//! - [`train`](mod@train): `pipeline run`; [`directory`]: what it leaves behind; [`status`]: how it stands
//! - [`corpus`]: `pipeline run` of a graph that ends in `parquet`; `pipeline diff` and `pipeline stat`
//! - [`interruption`]: what SIGINT and SIGTERM do
//! - [`evaluate`](mod@evaluate): `pipeline evaluate`
//! - [`generate`](mod@generate): `pipeline generate`
//! - [`runs`](mod@runs): `pipeline runs`; [`inspect`](mod@inspect): `pipeline inspect`
//! - [`bench`](mod@bench): `pipeline bench`; [`sweep`](mod@sweep): its `--sweep`
//! - [`cache`](mod@cache): `pipeline cache`
mod bench;
mod cache;
mod corpus;
mod directory;
mod evaluate;
mod generate;
mod inspect;
mod interruption;
mod prepare;
mod runs;
mod session;
pub mod status;
mod sweep;
mod train;

pub use bench::{Measured, SHAPES, bench};
pub use cache::cache;
pub use corpus::diff::{Difference, diff, render as render_diff};
pub use corpus::stat::{render as render_stat, stat};
pub use directory::{CONFIG_FILE, ENVIRONMENT_FILE};
pub use evaluate::{Evaluated, evaluate};
pub use generate::{Generated, Stop, generate, generate_command};
pub use inspect::{Inspected, inspect};
pub use interruption::Interrupted;
pub use runs::{Ran, listed, runs};
pub use sweep::sweep;
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
