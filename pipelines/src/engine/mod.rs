//! The engine: a plan becomes a timely dataflow and runs. The only place that knows timely.
//!
//! - [`desk`]: the order in which one stage's work is done, without a dataflow
//! - [`ports`], [`parcel`]: timely's channels with their types erased, and the container on them
//! - [`operator`]: any stage as an operator
//! - [`source`]: any source as an operator with a thread behind it
//! - [`graph`]: the edges of a plan, feedback, wants and the throttle
//! - [`stop`]: how a run ends early, after the same step on every worker
//! - [`execute`](mod@execute): workers, failures, the end
//! - [`timing`]: time per stage from timely's log
pub mod desk;
mod execute;
mod failure;
mod graph;
mod operator;
mod parcel;
mod ports;
mod source;
mod stop;
pub mod timing;

pub use execute::{Job, execute, finish, threads};
pub use failure::Failure;
pub use stop::Stop;
pub use timing::{StageTiming, WorkerTiming};

#[cfg(test)]
mod tests;
