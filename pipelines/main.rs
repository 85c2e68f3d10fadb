//! The `pipeline` program.
use millrace_pipelines::{App, STAGES};

fn main() -> std::process::ExitCode {
    App::new(STAGES).version(env!("MILLRACE_VERSION")).main()
}
