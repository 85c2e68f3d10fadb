//! From a configuration file to a running dataflow, and the command line around it.
#![forbid(unsafe_code)]

pub mod cli;
pub mod plan;
pub mod problem;
pub mod show;
