//! `pipeline watch`: a run in the terminal, as its files tell.
//!
//! - [`View`]: what is known of the run; [`draw`]: the screen, a pure function of it
//! - [`terminal`]: keys and signals, until somebody ends it; [`plain`]: lines for logs and pipes, until the run ends
mod charts;
mod draw;
pub mod plain;
pub mod terminal;
mod view;

pub use view::{View, choose};

use std::time::Duration;

/// Time between two looks at a run.
const LOOK: Duration = Duration::from_millis(500);
