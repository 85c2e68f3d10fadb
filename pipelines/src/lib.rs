//! Millrace's engine and command line.
pub mod engine;
pub mod plan;
