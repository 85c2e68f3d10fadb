//! Turns a plan into a timely dataflow and runs it. No other module uses timely, except differential dataflow's part in
//! [`crate::prepare`].
//!
//! - [`stage_runner`]: the order in which a stage is called, without a dataflow
//! - [`ports`], [`packet_batch`]: timely's channels with their types erased, and the container on them; [`position`]: to
//!   which workers packets go
//! - [`shared_queue`]: packets that any worker takes; [`pace`]: who should take the last ones
//! - [`operator`]: any stage as an operator; [`in_flight`]: one micro-batch at a time
//! - [`source`]: any source as an operator with a thread behind it
//! - [`graph`]: the operators and edges of a plan, with feedback, demand and throttle
//! - [`stop`]: how a run ends early, after the same step on every worker
//! - [`workers`]: worker threads, failures, the end
//! - [`distribution`]: which stages run where when several processes run a graph; [`connections`]: the sockets between
//!   them; [`wire_format`]: packets as bytes
//! - [`timing`]: time per stage from timely's log; [`cpu_time`]: CPU time; [`activity`]: whether workers make progress
mod activity;
mod connections;
mod cpu_time;
mod distribution;
mod failure;
mod gather;
mod graph;
mod in_flight;
mod operator;
mod pace;
mod packet_batch;
mod ports;
mod position;
mod shared_queue;
mod source;
pub mod stage_runner;
mod stop;
pub mod timing;
mod wire_format;
mod workers;

pub use activity::Activity;
pub use connections::{Broken, Cancellation, Cancelled, Connections, Traffic};
pub use cpu_time::MeasureCpu;
pub use failure::{Failure, InStage};
pub use gather::{Stages, gather, gather_wired};
pub use stop::Stop;
pub use timing::{StageTiming, WorkerTiming};
pub use workers::{Job, execute, execute_together, finish, threads};

#[cfg(test)]
mod tests;
