//! From a configuration file to a finished run.
//!
//! - [`cli`]: the command line
//! - [`plan`]: TOML to a checked plan; [`problem`]: what is wrong with it, all at once
//! - [`engine`]: a plan as a timely dataflow
//! - [`run`]: what each command does
//! - [`show`]: what people see
pub mod cli;
pub mod engine;
pub mod plan;
pub mod problem;
pub mod run;
pub mod show;
