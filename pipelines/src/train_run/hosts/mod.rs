//! A run on several hosts: what [`hosts`](crate::hosts) decides, done with the engine, the run directory and checkpoints.
//!
//! Every host updates its own copy of the parameters, so the head has the complete state of the run, and a commit is what
//! its `checkpoint` stage gathers. Hosts that join obtain a commit in the form of a checkpoint's files.
//!
//! - [`engine`]: runs generations on a host
//! - [`job`]: what a host that joins has to know to take part
//! - [`commits`]: the head's commits, in memory and on disk
//! - [`head`], [`member`]: the two kinds of hosts
//! - [`status`]: who takes part, for `pipeline status`
mod commits;
mod engine;
mod head;
mod job;
mod member;
pub mod status;

pub use head::{HeadOptions, HeadRun, Hosted};
pub use member::{JoinOptions, join};
pub use status::HostsStatus;

use crate::hosts::Hello;
use crate::machine;
use compute::kernels::gemm;
use contract::Precision;

/// How this process introduces itself.
fn hello(version: &str, address: String, workers: usize) -> Hello {
    let [f32, bf16] = [Precision::F32, Precision::Bf16].map(gemm::description);
    let backend = if f32 == bf16 { f32 } else { format!("{f32}, {bf16}") };
    Hello {
        name: format!("{}/{}", machine::host_name(), std::process::id()),
        address,
        version: version.into(),
        backend,
        workers: u32::try_from(workers).unwrap_or(u32::MAX),
    }
}
