//! From a configuration file to a finished run.
//!
//! - [`App`]: the program; [`cli`]: its commands, one file each; [`STAGES`]: the stage types that it comes with
//! - [`plan`]: from TOML to a checked plan; [`problem`]: configuration problems, reported together
//! - `prepare_stages`: what stages prepare before the graph runs
//! - [`engine`]: runs a plan as a timely dataflow
//! - [`hosts`]: the protocol for several hosts and its network, which no command uses yet
//! - `train_run`: a training run; `prepare`: a version of a prepared corpus
//! - `experiment`: several runs, compared
//! - `inspect`: the contents of files
//! - `run_files`: what the files of a run say; `curves`: from measured points to what is drawn
//! - [`show`]: output in the terminal; [`report`]: `report.html`
//! - `machine`: cores and memory; `panics`: panics become error messages
#![forbid(unsafe_code)]

mod app;
pub mod cli;
mod continuation;
mod curves;
pub mod engine;
mod experiment;
pub mod hosts;
mod inspect;
mod machine;
mod panics;
pub mod plan;
mod prepare;
mod prepare_stages;
mod pretrained;
pub mod problem;
#[cfg(test)]
mod readme;
pub mod report;
mod run_files;
mod serve;
pub mod show;
mod stages;
mod train_run;
mod watch;

pub use app::App;
pub use stages::STAGES;

/// README.md, so that its Rust is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
