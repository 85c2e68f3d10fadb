//! The command line of `pipeline`: definitions only.
mod bin_files;
mod diff;
mod explain;
mod generate;
mod inspect;
mod report;
mod runs;
mod stat;

pub use bin_files::{Export, Import};
pub use diff::Diff;
pub use explain::Explain;
pub use generate::Generate;
pub use inspect::Inspect;
pub use report::Report;
pub use runs::Runs;
pub use stat::Stat;

use crate::plan::Overrides;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

mod cache;
pub use cache::Cache;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "pipeline", version, about, max_term_width = 80)]
#[command(about = "Pretrains language models on CPUs, from raw text to checkpoints")]
#[command(after_help = "Example: pipeline run configs/wiki.toml --set optimize.learning_rate=1e-3")]
#[command(arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a configuration: prepare data, train, write checkpoints
    Run(Run),
    /// Check a configuration without running it; all problems at once
    Check(Check),
    /// Draw the graph; say what a run takes in memory and time
    Explain(Explain),
    /// List the stage types, or show one with its keys and defaults
    Stages(Stages),
    /// Measure a trained run on its validation split
    Evaluate(Evaluate),
    /// Continue a text with a trained model
    Generate(Generate),
    /// List what ran: state, step, loss, bits per byte, speed
    Runs(Runs),
    /// Look into a file: Parquet, tensors, a checkpoint, a tokenizer
    Inspect(Inspect),
    /// Write the report of a run again: one page of HTML
    Report(Report),
    /// Measure training speed on synthetic tokens; one line of JSON
    Bench(Bench),
    /// Show what has changed between two versions of a prepared corpus
    Diff(Diff),
    /// Show what a prepared corpus consists of, and what was dropped
    Stat(Stat),
    /// Write a prepared corpus as nanoGPT or llm.c read it (.bin)
    Export(Export),
    /// Make token Parquet of the .bin files of nanoGPT or llm.c
    Import(Import),
    /// List what the cache holds, or clear it
    Cache(Cache),
}

/// `pipeline run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline run configs/wiki.toml --sample 100 --epochs 1
  pipeline run configs/wiki.toml --stage optimize=configs/stages/muon.toml
  pipeline run configs/wiki.toml --dry-run
  pipeline run configs/wiki.toml --resume")]
pub struct Run {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// What it changes.
    #[command(flatten)]
    pub changes: Changes,
    /// Use N files of a folder, or N documents, chosen by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: Option<u64>,
    /// Length in passes over the corpus, instead of the configuration's
    #[arg(long, value_name = "N")]
    pub epochs: Option<f64>,
    /// Worker threads (default: the cores); changes no number
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Where the run keeps its files (default: runs/<run.name>)
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Go on from the last checkpoint of the run, or from this one
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1, require_equals = true)]
    pub resume: Option<Option<PathBuf>>,
    /// Prepare the data and say what would be done, without training
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
}

/// `--set` and `--stage`.
#[derive(Clone, Debug, Default, Args)]
pub struct Changes {
    /// Change a value: STAGE.KEY=VALUE or run.KEY=VALUE, in TOML (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<String>,
    /// Replace a stage's table by a file that holds another (repeatable)
    #[arg(long, value_name = "STAGE=FILE", value_parser = parse_stage)]
    pub stage: Vec<(String, PathBuf)>,
}

/// `pipeline check`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline check configs/wiki.toml --set forward.layers=4")]
pub struct Check {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// What it changes.
    #[command(flatten)]
    pub changes: Changes,
}

/// `pipeline stages`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline stages adamw")]
pub struct Stages {
    /// The type to show
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `pipeline evaluate`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline evaluate runs/wiki --json")]
pub struct Evaluate {
    /// The run's directory
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `pipeline bench`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline bench --shape seed --steps 5 --workers 2")]
pub struct Bench {
    /// The model and its batch
    #[arg(long, value_enum, required_unless_present = "sweep", conflicts_with = "sweep")]
    pub shape: Option<Shape>,
    /// Instead of a shape: many, in width, length, batch and workers, as a table
    #[arg(long, conflicts_with_all = ["batching", "workers", "steps", "warmup"])]
    pub sweep: bool,
    /// Where `--sweep` writes plots of tokens/s and MFU, as a page for a browser
    #[arg(long, value_name = "FILE", requires = "sweep", conflicts_with = "shape")]
    pub plot: Option<PathBuf>,
    /// What numbers are computed in
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Steps that count
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Steps before them
    #[arg(long, value_name = "W", default_value_t = 2)]
    pub warmup: u64,
    /// Worker threads (default: the cores)
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Whether a micro-batch is computed whole or sequence by sequence
    #[arg(long, value_enum, default_value_t = Batching::Batched)]
    pub batching: Batching,
}

/// The shapes that `pipeline bench` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// 2 layers, width 256, 128 tokens, vocabulary 10,000
    Seed,
    /// 6 layers, width 384, 256 tokens, vocabulary 16,384
    Small,
    /// 12 layers, width 768, 256 tokens, vocabulary 50,257
    Gpt2,
    /// 12 layers, width 768, 1,024 tokens, vocabulary 50,257
    Long,
}

/// What numbers are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32-bit floating point
    F32,
    /// Operands of products rounded to bfloat16, sums in 32 bits
    Bf16,
}

impl From<Precision> for contract::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// How a micro-batch is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Batching {
    /// Whole
    Batched,
    /// Sequence by sequence, as the original did
    PerSequence,
}

impl Run {
    /// What the options change in the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides { sample: self.sample, epochs: self.epochs, workers: self.workers, ..self.changes.overrides() }
    }
}

impl Changes {
    /// What the options change in the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides { set: self.set.clone(), stage: self.stage.clone(), ..Overrides::default() }
    }
}

macro_rules! named {
    ($($type:ty),*) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let value = self.to_possible_value();
                f.write_str(value.as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}
named!(Shape, Precision, Batching);

fn parse_set(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if key.contains('.') => Ok(text.to_owned()),
        _ => Err("write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4".into()),
    }
}

fn parse_stage(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((id, file)) if !id.is_empty() && !file.is_empty() => Ok((id.to_owned(), file.into())),
        _ => Err("write STAGE=FILE, for example optimize=configs/stages/muon.toml".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_definitions_are_sound_and_every_help_has_an_example() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
        }
    }

    #[test]
    fn run_takes_its_options() {
        let line = "pipeline run c.toml --set a.b=1 --set a.c=[1] --stage l=f.toml --sample 5 --epochs 1.5 --workers 2";
        let Ok(Command::Run(run)) = parse(line) else { panic!() };
        let overrides = run.overrides();
        assert_eq!(overrides.set, ["a.b=1", "a.c=[1]"]);
        assert_eq!(overrides.stage, [("l".to_owned(), PathBuf::from("f.toml"))]);
        assert_eq!((overrides.sample, overrides.epochs, overrides.workers), (Some(5), Some(1.5), Some(2)));
        assert_eq!(run.resume, None);
    }

    #[test]
    fn resume_may_name_a_checkpoint() {
        let resume = |line| match parse(line) {
            Ok(Command::Run(run)) => run.resume,
            other => panic!("{other:?}"),
        };
        assert_eq!(resume("pipeline run --resume c.toml"), Some(None));
        assert_eq!(resume("pipeline run --resume=x c.toml"), Some(Some("x".into())));
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
            "pipeline bench",
        ] {
            assert_eq!(parse(line).map(|_| ()).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn bench_has_names_that_scripts_use() {
        let Ok(Command::Bench(bench)) = parse("pipeline bench --shape gpt2 --batching per_sequence") else { panic!() };
        let shape = bench.shape.expect("it was given");
        assert_eq!(format!("{shape} {} {}", bench.precision, bench.batching), "gpt2 f32 per_sequence");
        let line = "pipeline bench --sweep --precision bf16 --plot sweep.html";
        let Ok(Command::Bench(bench)) = parse(line) else { panic!() };
        assert!(bench.sweep && bench.shape.is_none() && bench.plot.is_some());
        assert!(parse("pipeline bench --shape seed --plot sweep.html").is_err());
    }
}
