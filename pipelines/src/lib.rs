//! From a configuration file to a finished run.
//!
//! - [`App`]: the program; [`cli`]: its commands, a file each; [`STAGES`]: the stage types it comes with
//! - [`mod@panics`]: bugs, reported with their line
//! - [`plan`]: TOML to a checked plan; [`problem`]: what is wrong with it, all at once
//! - [`engine`]: a plan as a timely dataflow
//! - [`prepare_stages`]: what stages do before the graph runs
//! - [`train_run`]: a training run; [`prepare`]: a version of a prepared corpus
//! - [`mod@inspect`]: what is in a file
//! - [`show`]: what people see; [`report`]: the page that a run leaves behind
#![forbid(unsafe_code)]

mod app;
pub mod cli;
pub mod engine;
mod inspect;
mod panics;
pub mod plan;
mod prepare;
mod prepare_stages;
mod pretrained;
pub mod problem;
mod process;
#[cfg(test)]
mod readme;
pub mod report;
pub mod show;
mod stages;
mod train_run;

pub use app::App;
pub use stages::STAGES;

/// README.md, so that its Rust is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
