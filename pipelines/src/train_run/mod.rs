//! A training run, from a checked plan to its last checkpoint.
//!
//! - [`session`]: a plan and its data become a graph, with everything its stages may know
//! - [`mixing`]: what it trains on of each source
//! - [`mod@train`]: runs the graph; [`printer`]: what a terminal shows meanwhile
//! - [`sample`]: what the stage of that name generates text with
//! - [`directory`]: the files a run leaves behind; [`status`]: whether it is running, and how it ended
//! - [`resume_checks`]: what must be the same for a run to go on
//! - [`interruption`]: what SIGINT, SIGTERM and SIGHUP do
//! - [`hosts`]: a run on several hosts
//! - [`evaluate`]: a step that only validates, for a run or for any model
//! - [`verify`]: replays parts of a run and compares; [`mod@why`]: which documents it has trained on, and when
//!   ([`lineage`]); [`forget`]: makes it a run without some of them
//! - [`mod@explain`]: the graph, memory and time of a run; [`calibrate`]: measures a micro-batch for it;
//!   [`scaling`]: the same run on several hosts
//! - [`speed`]: the machine's GEMM rate, which MFU is measured against
pub(crate) mod calibrate;
pub(crate) mod directory;
pub(crate) mod evaluate;
pub(crate) mod explain;
pub(crate) mod forget;
pub mod hosts;
mod interruption;
mod lineage;
mod mixing;
mod printer;
pub(crate) mod resume_checks;
mod sample;
pub(crate) mod scaling;
pub(crate) mod session;
pub(crate) mod speed;
pub mod status;
mod train;
pub(crate) mod verify;
pub(crate) mod why;

pub use directory::{CONFIG_FILE, ENVIRONMENT_FILE};
pub use interruption::{Interrupted, Interruption, noticed};
pub use train::{Assessment, Options, assess, choose_gemm, dry_run, train};
