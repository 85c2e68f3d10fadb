//! The program: commands, errors and exit codes.
use crate::cli::{COMMANDS, Color, Context, Global, Output, OutputError};
use crate::problem::{Problems, Usage};
use crate::train_run::Interrupted;
use crate::{cli, panics, show};
use anyhow::{Context as _, Error, Result};
use clap::FromArgMatches;
use clap_complete::CompleteEnv;
use contract::StageType;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use text::TextProblem;
use train::record::SinkType;

/// The program `pipeline` with a list of stage types. A crate that adds stage types has a `main` of one line:
///
/// ```no_run
/// # use millrace_pipelines::{App, STAGES};
/// fn main() -> std::process::ExitCode {
///     App::new(STAGES).main()
/// }
/// ```
pub struct App {
    stages: Vec<StageType>,
    version: &'static str,
}

impl App {
    /// A program that knows `stages`.
    pub fn new(stages: &[StageType]) -> Self {
        Self { stages: stages.to_vec(), version: env!("CARGO_PKG_VERSION") }
    }

    /// The same with one more.
    pub fn with(mut self, stage: StageType) -> Self {
        self.stages.push(stage);
        self
    }

    /// The same with one more sink of metrics and samples, which configurations name in `record.sinks`. Sinks are known
    /// to the whole process, not only to this value.
    pub fn with_sink(self, sink: SinkType) -> Self {
        train::record::sink::add(sink);
        self
    }

    /// The same with another version, which `--version` prints and every run directory records.
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// Does what the command line says. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 129, 130 and
    /// 143 stopped by SIGHUP, SIGINT and SIGTERM. A closed pipe on standard output is a normal end.
    pub fn main(self) -> ExitCode {
        panics::record();
        match panics::catch(|| self.command()) {
            Err(error) if !is_closed_pipe(&error) => {
                complain(&explain(&error));
                ExitCode::from(exit_code(&error))
            }
            _ => ExitCode::SUCCESS,
        }
    }

    fn command(&self) -> Result<()> {
        if self.complete()? {
            return Ok(());
        }
        let (out, color) = (Output::stdout(), Color::of(std::env::args_os()));
        let matches = match cli::definition(self.version).color(color.into()).try_get_matches() {
            Ok(matches) => matches,
            // Help that was asked for is output like any other.
            Err(asked) if !asked.use_stderr() => {
                let help = asked.render();
                let color = color.on(std::io::stdout().is_terminal());
                return match color {
                    true => out.piece(&format!("{}\n", help.ansi().to_string().trim_end())),
                    false => out.line(&help.to_string()),
                };
            }
            Err(wrong) => wrong.exit(),
        };
        let style = Global::from_arg_matches(&matches)?.style();
        let (name, options) = matches.subcommand().context("clap requires a command")?;
        let command = COMMANDS.iter().find(|command| command.name == name).context("clap knows the commands")?;
        if command.computes {
            compute::memory::use_huge_pages();
        }
        command.run(options, &Context { stages: &self.stages, version: self.version, out, style })
    }

    /// Whether it was a shell that asked for completions, which are then printed.
    fn complete(&self) -> Result<bool> {
        let definition = || cli::with_values(cli::definition(self.version), &self.stages);
        let shell = CompleteEnv::with_factory(definition).var(cli::VARIABLE);
        Ok(shell.try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref())?)
    }
}

fn is_closed_pipe(error: &Error) -> bool {
    error.downcast_ref::<OutputError>().is_some_and(OutputError::is_closed_pipe)
}

/// Prints an error on standard error, in lines that fit the terminal. Does not panic if standard error cannot be
/// written.
fn complain(text: &str) {
    let mut err = std::io::stderr();
    let color = Color::of(std::env::args_os()).on(err.is_terminal());
    for line in show::human::printable(text).lines() {
        // A command to copy stays in one line.
        let whole = !err.is_terminal() || line.starts_with("resume with: ");
        let line = if whole { line.to_owned() } else { show::human::hang(line, show::columns()) };
        let line = match line.strip_prefix("error:") {
            Some(rest) if color => format!("\x1b[1;31merror:\x1b[0m{rest}"),
            _ => line,
        };
        let _ = writeln!(err, "{line}");
    }
}

/// What people see of an error: problems of a configuration and interruptions as they are, anything else with its
/// causes.
fn explain(error: &Error) -> String {
    match (error.downcast_ref::<Problems>(), error.downcast_ref::<Interrupted>()) {
        (Some(problems), _) => problems.to_string(),
        (_, Some(interrupted)) => interrupted.to_string(),
        _ => format!("error: {error:#}"),
    }
}

fn exit_code(error: &Error) -> u8 {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        return interrupted.code;
    }
    let usage = error.chain().any(|cause| {
        cause.downcast_ref::<Problems>().is_some_and(|problems| !problems.failed())
            || cause.is::<Usage>()
            || cause.downcast_ref::<TextProblem>().is_some_and(TextProblem::is_usage)
    });
    if usage { 2 } else { 1 }
}
