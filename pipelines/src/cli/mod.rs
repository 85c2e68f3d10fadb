//! The command line. Each command is one file: its options, its work, and its output as text and as JSON.
//!
//! - [`COMMANDS`]: all commands; [`Command`]: the trait that each implements
//! - [`options`]: options that several commands share
//! - [`output`]: standard output, the one place through which commands print to it
pub mod bench;
mod cache;
mod check;
mod compare;
mod completions;
mod diff;
mod evaluate;
mod experiment;
mod explain;
mod export;
mod forget;
mod generate;
mod import;
mod inspect;
mod join;
mod launch;
mod man;
mod new;
mod options;
mod output;
mod report;
mod run;
mod run_groups;
mod runs;
mod schema;
mod serve;
mod stages;
mod stat;
mod status;
mod verify;
mod watch;
mod why;

pub use completions::{VARIABLE, with_values};
pub use options::{Changes, Color, Global};
pub use output::{Output, OutputError};

use crate::show::{Line, Style};
use anyhow::Result;
use clap::{ArgMatches, Args};
use contract::StageType;
use std::io::Write;

/// All commands, in the order in which `--help` lists them.
pub const COMMANDS: &[CommandType] = &[
    command_type::<run::Run>("run"),
    command_type::<launch::Launch>("launch"),
    command_type::<join::Join>("join"),
    command_type::<experiment::Experiment>("experiment"),
    command_type::<new::New>("new"),
    command_type::<check::Check>("check"),
    command_type::<explain::Explain>("explain"),
    command_type::<stages::Stages>("stages"),
    command_type::<schema::Schema>("schema"),
    command_type::<evaluate::Evaluate>("evaluate"),
    command_type::<generate::Generate>("generate"),
    command_type::<runs::Runs>("runs"),
    command_type::<watch::Watch>("watch"),
    command_type::<serve::Serve>("serve"),
    command_type::<compare::Compare>("compare"),
    command_type::<status::Status>("status"),
    command_type::<verify::Verify>("verify"),
    command_type::<why::Why>("why"),
    command_type::<forget::Forget>("forget"),
    command_type::<inspect::Inspect>("inspect"),
    command_type::<report::Report>("report"),
    command_type::<bench::Bench>("bench"),
    command_type::<diff::Diff>("diff"),
    command_type::<stat::Stat>("stat"),
    command_type::<export::Export>("export"),
    command_type::<import::Import>("import"),
    command_type::<cache::Cache>("cache"),
    command_type::<completions::Completions>("completions"),
    command_type::<man::Man>("man"),
];

/// A command: a struct of its options, whose doc comments are its help, and its implementation.
pub trait Command: Args {
    /// Whether it computes with a model, which requires the process to be set up for it.
    const COMPUTES: bool = false;

    /// Runs the command.
    ///
    /// # Errors
    /// [`Problems`](crate::problem::Problems) and [`Usage`](crate::problem::Usage) if its arguments or the
    /// configuration are invalid, [`OutputError`] if standard output cannot be written, or any other error.
    fn run(&self, context: &Context) -> Result<()>;
}

/// The environment of a command.
pub struct Context<'a> {
    /// The stage types that the program knows.
    pub stages: &'a [StageType],
    /// The version of the program.
    pub version: &'static str,
    /// Standard output.
    pub out: Output,
    /// How to write to standard error.
    pub style: Style,
}

impl Context<'_> {
    /// Starts a progress line on standard error.
    pub fn line(&self) -> Line {
        Line::stderr(self.style)
    }

    /// Prints a line on standard error, unless `--quiet` is given. Ignores errors of standard error.
    pub fn say(&self, text: &str) {
        if !self.style.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// An entry of [`COMMANDS`].
#[derive(Clone, Copy)]
pub struct CommandType {
    /// The name on the command line.
    pub name: &'static str,
    /// Whether it computes with a model.
    pub computes: bool,
    options: fn(clap::Command) -> clap::Command,
    run: fn(&ArgMatches, &Context) -> Result<()>,
}

/// The command `C`, called `name`.
pub const fn command_type<C: Command>(name: &'static str) -> CommandType {
    CommandType {
        name,
        computes: C::COMPUTES,
        options: C::augment_args,
        run: |matches, context| C::from_arg_matches(matches)?.run(context),
    }
}

impl CommandType {
    /// Runs the command with the parsed options.
    ///
    /// # Errors
    /// As [`Command::run`].
    pub fn run(&self, matches: &ArgMatches, context: &Context) -> Result<()> {
        (self.run)(matches, context)
    }
}

/// The command line, for clap, of a program with `version`.
pub fn definition(version: &'static str) -> clap::Command {
    let definition = clap::Command::new("pipeline")
        .version(version)
        .after_help("Example: pipeline run configs/wiki.toml --set optimize.learning_rate=1e-3")
        .max_term_width(80)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(COMMANDS.iter().map(|command| (command.options)(clap::Command::new(command.name))));
    // The doc comment of the options is not the description of the program.
    Global::augment_args(definition).about("Pretrains language models on CPUs, from raw text to checkpoints")
}

/// The options of one command, from the words of `line`.
///
/// # Errors
/// If they are none of its options.
pub fn parse<C: Command>(line: &str) -> clap::error::Result<C> {
    let definition = C::augment_args(clap::Command::new("pipeline").no_binary_name(true));
    C::from_arg_matches(&definition.try_get_matches_from(line.split_whitespace())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These commands print scripts and pages for other programs, or nothing but notes, or an address that answers in
    /// JSON.
    const NO_JSON: [&str; 5] = ["join", "completions", "man", "schema", "serve"];

    #[test]
    fn the_definitions_are_sound_and_every_help_has_an_example() {
        let mut command = definition("1");
        command.clone().debug_assert();
        assert!(command.clone().render_help().to_string().starts_with("Pretrains language models on CPUs"));
        for sub in command.get_subcommands_mut() {
            assert!(sub.get_about().is_some(), "{} says nothing of itself", sub.get_name());
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
        }
    }

    #[test]
    fn every_command_that_reports_has_json() {
        for command in definition("1").get_subcommands() {
            let json = command.get_arguments().any(|argument| argument.get_id() == "json");
            assert!(json || NO_JSON.contains(&command.get_name()), "{} has no --json", command.get_name());
        }
    }

    #[test]
    fn what_is_wrong_exits_with_2() {
        for line in [
            "pipeline rum c.toml",
            "pipeline run",
            "pipeline run c.toml --fast",
            "pipeline run c.toml --set a",
            "pipeline run c.toml --stage a",
            "pipeline run c.toml --sample 0",
            "pipeline bench --shape huge",
            "pipeline generate runs/x",
            "pipeline generate runs/x --prompt a --temperature -1",
            "pipeline generate runs/x --prompt a --top-p 0",
            "pipeline generate runs/x --prompt a --top-p 1.1",
            "pipeline bench --shape seed --precision f8",
            "pipeline bench --shape seed --sweep",
        ] {
            let parsed = definition("1").try_get_matches_from(line.split_whitespace());
            assert_eq!(parsed.map(|_| ()).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
