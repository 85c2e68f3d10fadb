//! Several runs, compared.
//!
//! - [`mod@file`]: the file of an experiment; [`cells`]: its runs, with their plans
//! - [`forecast`]: what they take, and which are done; [`halving`]: which variants go on; [`runner`]: runs the others; [`children`]: their processes
//! - [`measured`]: what runs have measured; [`statistics`]: differences of losses, and their intervals; [`verdict`]:
//!   the result; [`mod@text`]: the result as text
//! - [`existing`]: runs that exist already, as variants
pub mod cells;
pub mod children;
pub mod existing;
pub mod file;
pub mod forecast;
pub mod halving;
pub mod measured;
pub mod runner;
pub mod statistics;
pub mod text;
pub mod verdict;
