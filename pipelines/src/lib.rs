//! From a configuration file to a finished run.
//!
//! - [`App`]: the program; [`cli`]: its command line; [`STAGES`]: the stage types it comes with
//! - [`plan`]: TOML to a checked plan; [`problem`]: what is wrong with it, all at once
//! - [`engine`]: a plan as a timely dataflow
//! - [`run`]: what each command does
//! - [`show`]: what people see; [`report`]: the page that a run leaves behind
#![forbid(unsafe_code)]

mod app;
pub mod cli;
pub mod engine;
pub mod plan;
pub mod problem;
pub mod report;
pub mod run;
pub mod show;
mod stages;

pub use app::App;
pub use stages::STAGES;

/// README.md, so that its Rust is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
