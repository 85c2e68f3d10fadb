//! `pipeline` with one stage more, of a crate of its own: `z_loss`.
mod z_loss;

use contract::stage_type;
use millrace_pipelines::{App, STAGES};

fn main() -> std::process::ExitCode {
    App::new(STAGES).with(stage_type::<z_loss::ZLoss>("z_loss")).main()
}
