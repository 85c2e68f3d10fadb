//! `pipeline completions`, and the completions that its scripts request: commands, options, stage types, and the ids
//! and keys of a configuration's stages.
use super::{Command, Context};
use crate::plan::{self, RunSettings};
use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use contract::{StageKeys, StageType};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The environment variable that a shell's script sets when it requests completions.
pub const VARIABLE: &str = "MILLRACE_COMPLETE";

/// Print a completion script for bash, zsh, fish and other shells
#[derive(Debug, Args)]
#[command(after_help = "The script asks the program, which knows the stages of the configuration on the
command line. In ~/.bashrc:  source <(pipeline completions bash)

Examples:
  pipeline completions bash
  pipeline completions zsh")]
pub struct Completions {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// A supported shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// Bash.
    Bash,
    /// Elvish.
    Elvish,
    /// Fish.
    Fish,
    /// PowerShell.
    Powershell,
    /// Zsh.
    Zsh,
}

impl Command for Completions {
    fn run(&self, context: &Context) -> Result<()> {
        let value = self.shell.to_possible_value().context("a shell has a name")?;
        let shells = Shells::builtins();
        let shell = shells.completer(value.get_name()).context("clap completes in this shell")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut script = Vec::new();
        shell.write_registration(VARIABLE, "pipeline", "pipeline", &program.to_string_lossy(), &mut script)?;
        context.out.line(&String::from_utf8_lossy(&script))
    }
}

/// `definition` with completers for stage types, and for the stage ids and keys of the configuration on the command
/// line.
pub fn with_values(definition: clap::Command, stages: &[StageType]) -> clap::Command {
    let names: Vec<&str> = definition.get_subcommands().map(clap::Command::get_name).collect();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.iter().fold(definition, |definition, name| {
        definition.mut_subcommand(name, |command| {
            let (stages, names) = (stages.to_vec(), names.clone());
            command.mut_args(move |argument| {
                let stages = stages.clone();
                match argument.get_id().as_str() {
                    "set" => argument.add(ArgValueCompleter::new(move |at: &OsStr| keys(at, &stages))),
                    "stage" => argument.add(ArgValueCompleter::new(ids)),
                    "name" => argument.add(ArgValueCompleter::new(move |at: &OsStr| types(at, &stages))),
                    "command" => argument.add(ArgValueCompleter::new(names_of(&names))),
                    _ => argument,
                }
            })
        })
    })
}

/// The commands, for `pipeline man`.
fn names_of(names: &[String]) -> impl Fn(&OsStr) -> Vec<CompletionCandidate> + 'static {
    let names = names.to_vec();
    move |at| starting(at, names.iter().map(|name| (name.clone(), "")))
}

/// `STAGE.KEY=` of every stage, and `run.KEY=`.
fn keys(at: &OsStr, stages: &[StageType]) -> Vec<CompletionCandidate> {
    let run = RunSettings::keys().into_iter().map(|key| (format!("run.{}=", key.name), key.documentation));
    let outline = configuration().map(|path| plan::outline(&path)).unwrap_or_default();
    let of_stages = outline.iter().flat_map(|(id, type_name)| {
        let known = stages.iter().find(|stage_type| stage_type.name == type_name);
        known.into_iter().flat_map(move |known| {
            known.keys().into_iter().map(move |key| (format!("{id}.{}=", key.name), key.documentation))
        })
    });
    starting(at, run.chain(of_stages))
}

/// `STAGE=` of every stage.
fn ids(at: &OsStr) -> Vec<CompletionCandidate> {
    let outline = configuration().map(|path| plan::outline(&path)).unwrap_or_default();
    starting(at, outline.into_iter().map(|(id, type_name)| (format!("{id}="), type_name)))
}

fn types(at: &OsStr, stages: &[StageType]) -> Vec<CompletionCandidate> {
    starting(at, stages.iter().map(|stage_type| (stage_type.name.to_owned(), stage_type.summary)))
}

fn starting(at: &OsStr, all: impl Iterator<Item = (String, impl AsRef<str>)>) -> Vec<CompletionCandidate> {
    let at = at.to_string_lossy();
    let candidate = |(value, about): (String, _)| {
        let about: &str = AsRef::as_ref(&about);
        CompletionCandidate::new(value).help(Some(about.to_owned().into()))
    };
    all.filter(|(value, _)| value.starts_with(&*at)).map(|(value, about)| candidate((value, about))).collect()
}

/// The configuration on the command line that is being completed.
fn configuration() -> Option<PathBuf> {
    let toml = |word: &String| word.ends_with(".toml") && Path::new(word).is_file();
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    words.into_iter().find(toml).map(PathBuf::from)
}
