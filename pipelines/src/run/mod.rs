//! What each command does.
//!
//! - [`prepare`]: documents, tokenizer, counts: all that must be known before training
//! - [`session`]: a plan and its data become a graph with everything its stages may know
//! - [`train`](mod@train): `pipeline run`; [`directory`]: what it leaves behind; [`status`]: how it stands
//! - [`corpus`]: `pipeline run` of a graph that ends in `parquet`; `pipeline diff` and `pipeline stat`
//! - [`mod@bin_files`]: `pipeline export` and `pipeline import`
//! - [`interruption`]: what SIGINT and SIGTERM do
//! - [`evaluate`](mod@evaluate): `pipeline evaluate`
//! - [`explain`](mod@explain): `pipeline explain` and `--dry-run`; [`calibrate`]: a few seconds of the model
//! - [`generate`](mod@generate): `pipeline generate`
//! - [`runs`](mod@runs): `pipeline runs`; [`inspect`](mod@inspect): `pipeline inspect`
//! - [`bench`](mod@bench): `pipeline bench`; [`sweep`](mod@sweep): its `--sweep`
//! - [`cache`](mod@cache): `pipeline cache`
mod bench;
mod bin_files;
mod cache;
mod calibrate;
mod corpus;
mod directory;
mod evaluate;
mod explain;
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
pub use bin_files::{export, import};
pub use cache::cache;
pub use corpus::diff::{Difference, diff, render as render_diff};
pub use corpus::stat::{render as render_stat, stat};
pub use directory::{CONFIG_FILE, ENVIRONMENT_FILE};
pub use evaluate::{Evaluated, evaluate};
pub use explain::explain;
pub use generate::{Generated, Stop, generate, generate_command};
pub use inspect::{Inspected, inspect};
pub use interruption::Interrupted;
pub use runs::{Ran, listed, runs};
pub use sweep::sweep;
pub use train::run;

use std::path::Path;

/// A command that cannot be carried out as it was given: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Usage {
    /// `why` of a path, and if nothing is there at all, what has nearly that name.
    pub(crate) fn of(path: &Path, why: &str) -> Self {
        let near = text::problem::similar_file(path).filter(|_| !path.exists());
        Self(format!("{} {why}{}", path.display(), near.map(|name| format!("; similar: {name}")).unwrap_or_default()))
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Most memory that this process has had in use, in MB (2^20 bytes); 0 where the system does not say.
pub fn peak_rss_mb() -> u64 {
    kilobytes("/proc/self/status", "VmHWM:").unwrap_or(0) / 1024
}

/// Memory that this process has in use, in MB (2^20 bytes); 0 where the system does not say.
fn rss_mb() -> u64 {
    kilobytes("/proc/self/status", "VmRSS:").unwrap_or(0) / 1024
}

/// Bytes that could be had without swapping, as far as the system says.
fn available_memory() -> u64 {
    kilobytes("/proc/meminfo", "MemAvailable:").map_or(u64::MAX, |kilobytes| kilobytes * 1024)
}

fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()
}
