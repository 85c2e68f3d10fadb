//! The program: commands, errors and exit codes.
use crate::cli::{Cli, Command};
use crate::plan::Plan;
use crate::problem::Problems;
use crate::{report, run, show};
use anyhow::{Error, Result};
use clap::Parser;
use contract::StageType;
use std::io::IsTerminal;
use std::process::ExitCode;
use text::TextProblem;

/// A `pipeline` with the stages it knows. A crate with a stage of its own has a `main` of one line:
///
/// ```no_run
/// # use millrace_pipelines::{App, STAGES};
/// fn main() -> std::process::ExitCode {
///     App::new(STAGES).main()
/// }
/// ```
pub struct App {
    stages: Vec<StageType>,
}

impl App {
    /// A program that knows `stages`.
    pub fn new(stages: &[StageType]) -> Self {
        Self { stages: stages.to_vec() }
    }

    /// The same with one more.
    pub fn with(mut self, stage: StageType) -> Self {
        self.stages.push(stage);
        self
    }

    /// Does what the command line says. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 and 143
    /// stopped by SIGINT and SIGTERM.
    pub fn main(self) -> ExitCode {
        // A panic is a bug; it is reported as an error of its stage, without a backtrace.
        std::panic::set_hook(Box::new(|_| {}));
        let cli = Cli::parse();
        match self.command(&cli.command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let said = explain(&error);
                for line in said.lines() {
                    // A command to copy stays in one line.
                    let whole = !std::io::stderr().is_terminal() || line.starts_with("go on with: ");
                    eprintln!("{}", if whole { line.to_owned() } else { show::human::hang(line, show::columns()) });
                }
                ExitCode::from(exit_code(&error))
            }
        }
    }

    fn command(&self, command: &Command) -> Result<()> {
        use Command::{Bench, Evaluate, Explain, Generate, Run};
        if matches!(command, Run(_) | Evaluate(_) | Generate(_) | Bench(_) | Explain(_)) {
            start_again_with_fitting_kernels();
            compute::machine::huge_pages();
        }
        match command {
            Command::Run(asked) => run::run(asked, &self.stages)?,
            Command::Check(asked) => {
                let plan = Plan::load(&asked.config, &asked.changes.overrides(), &self.stages).map_err(Error::new)?;
                println!("{}", show::plan_summary(&plan).trim_end());
            }
            Command::Explain(asked) => println!("{}", run::explain(asked, &self.stages)?),
            Command::Stages(asked) => {
                println!("{}", show::stages(&self.stages, asked.name.as_deref()).map_err(Error::new)?.trim_end());
            }
            Command::Evaluate(asked) => {
                let found = run::evaluate(asked, &self.stages)?;
                if asked.json {
                    println!("{}", serde_json::to_string(&found)?);
                } else {
                    println!("{} after {} steps", found.run, found.step);
                    println!("  held out         {} documents, {} tokens", found.documents, found.tokens);
                    println!("  validation loss  {:.4} nats a token", found.validation_loss);
                    if let Some(bits) = found.bits_per_byte {
                        println!("  bits per byte    {bits:.4}");
                    }
                }
            }
            Command::Diff(asked) => {
                let found = run::diff(asked)?;
                match asked.json {
                    true => println!("{}", serde_json::to_string(&found)?),
                    false => print!("{}", run::render_diff(&found, show::columns())),
                }
            }
            Command::Stat(asked) => {
                let (version, stats) = run::stat(asked)?;
                match asked.json {
                    true => println!("{}", serde_json::to_string(&stats)?),
                    false => print!("{}", run::render_stat(&version, &stats, show::columns())),
                }
            }
            Command::Export(asked) => println!("{}", run::export(asked)?),
            Command::Import(asked) => println!("{}", run::import(asked)?),
            Command::Generate(asked) => run::generate_command(asked)?,
            Command::Runs(asked) => {
                let found = run::runs(asked)?;
                for run in found.iter().filter(|_| asked.json) {
                    println!("{}", serde_json::to_string(run)?);
                }
                if !asked.json {
                    println!("{}", run::listed(&found, show::columns(), run::status::now()));
                }
            }
            Command::Inspect(asked) => {
                let found = run::inspect(asked)?;
                match asked.json {
                    true => println!("{}", serde_json::to_string(&found)?),
                    false => println!("{}", found.text(show::columns()).trim_end()),
                }
            }
            Command::Report(asked) => println!("{}", report::write(&asked.run)?.display()),
            Command::Bench(asked) if asked.sweep => println!("{}", run::sweep(asked, 80)?),
            Command::Bench(asked) => {
                let (measured, _) = run::bench(asked)?;
                println!("{}", serde_json::to_string(&measured)?);
            }
            Command::Cache(asked) => println!("{}", run::cache(asked)?.trim_end()),
        }
        Ok(())
    }
}

/// An OpenBLAS that is older than the CPU computes with kernels made for another (0.3.21 takes an Emerald Rapids for a
/// Prescott: a fifth of its speed). It chooses when it is loaded, so the program starts itself again with the choice
/// made. Who has set `OPENBLAS_CORETYPE` keeps what they set.
#[cfg(unix)]
fn start_again_with_fitting_kernels() {
    use std::os::unix::process::CommandExt;
    if let (Some(core), Ok(program)) = (compute::machine::better_blas_core(), std::env::current_exe()) {
        let mut again = std::process::Command::new(program);
        // Only returns if it fails: then the banner says that OpenBLAS is held back.
        let _ = again.args(std::env::args_os().skip(1)).env("OPENBLAS_CORETYPE", core).exec();
    }
}

#[cfg(not(unix))]
fn start_again_with_fitting_kernels() {}

/// What people see of an error: problems of a configuration and interruptions as they are, anything else with its
/// causes.
fn explain(error: &Error) -> String {
    match (error.downcast_ref::<Problems>(), error.downcast_ref::<run::Interrupted>()) {
        (Some(problems), _) => problems.to_string(),
        (_, Some(interrupted)) => interrupted.to_string(),
        _ => format!("error: {error:#}"),
    }
}

fn exit_code(error: &Error) -> u8 {
    if let Some(interrupted) = error.downcast_ref::<run::Interrupted>() {
        return interrupted.code;
    }
    let usage = error.chain().any(|cause| {
        cause.is::<Problems>()
            || cause.is::<run::Usage>()
            || cause.downcast_ref::<TextProblem>().is_some_and(TextProblem::is_usage)
    });
    if usage { 2 } else { 1 }
}
