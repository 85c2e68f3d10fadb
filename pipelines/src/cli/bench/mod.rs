//! `pipeline bench`: the speed of a training step.
//!
//! - [`mod@measure`]: one measurement; [`cpu`]: what CPU time went into, for `--leaves`; [`mod@sweep`]: many
//!   measurements, for `--sweep`; [`backends`]: products on every GEMM backend
//! - [`mod@generate`]: generation in every precision, for `--generate`
//! - [`processes`]: several processes against threads of one, for `--processes`; [`peers`]: these processes
mod backends;
mod cpu;
mod generate;
mod measure;
mod peers;
mod processes;
mod sweep;

use super::options::{Precision, named};
use super::{Command, Context};
use crate::machine::cores;
use crate::problem::Usage;
use anyhow::Result;
use clap::{Args, ValueEnum};
use compute::kernels::gemm::{self, rate::gemm_gflops};
use measure::{How, Measured, SHAPES, Training, measure};
use std::path::PathBuf;

/// Measure training speed on synthetic tokens, or the speed of a model that generates
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline bench --shape seed --steps 5 --workers 2
  pipeline bench --shape seed --steps 5 --model qwen3 --optimizer muon
  pipeline bench --shape seed --steps 5 --processes 1,2
  pipeline bench --generate runs/wiki --text README.md")]
pub struct Bench {
    /// The sizes of the model and its batch
    #[arg(long, value_enum, conflicts_with = "sweep")]
    shape: Option<Shape>,
    /// The model, with the defaults of its type (default: gpt2)
    #[arg(long, value_enum)]
    model: Option<Model>,
    /// Vary width, length, batch and workers instead of measuring one shape; print a table
    #[arg(long, conflicts_with_all = ["model", "batching", "optimizer", "workers", "leaves", "steps", "warmup", "processes"])]
    sweep: bool,
    /// Where `--sweep` writes plots of tokens/s and MFU, as a page for a browser
    #[arg(long, value_name = "FILE", requires = "sweep", conflicts_with = "shape")]
    plot: Option<PathBuf>,
    /// Measure generation with this run or checkpoint instead of training: tokens/s in f32, bf16 and int8, the share of
    /// the rate at which memory is read, and how far predictions agree with f32; print a table
    #[arg(long, value_name = "MODEL", requires = "text")]
    generate: Option<PathBuf>,
    /// The text that is predicted, one token at a time: one that the model was not trained on
    #[arg(long, value_name = "FILE", requires = "generate")]
    text: Option<PathBuf>,
    /// Tokens of it (default: 4096, or all)
    #[arg(long, value_name = "N", requires = "generate", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: Option<u32>,
    /// Precision of matrix products (default: f32)
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Steps to measure (default: 10)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Warm-up steps before them, which are not measured (default: 2)
    #[arg(long, value_name = "W")]
    warmup: Option<u64>,
    /// Worker threads (default: one per physical core; of each process with --processes, where the default is 1)
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Compare so many processes of this machine with as many threads of one process, in turn, and with the model of
    /// docs/scaling.md; print a table
    #[arg(long, value_name = "N,...", value_delimiter = ',', requires = "shape", value_parser = processes::number)]
    processes: Vec<u16>,
    /// Micro-batches of a batch (default: those of the shape, 2 or 4). Without --processes, also measures 2 workers, in
    /// turn, and prints how CPU time is distributed among workers and stages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    leaves: Option<u32>,
    /// Process a micro-batch at once or sequence by sequence (default: batched)
    #[arg(long, value_enum)]
    batching: Option<Batching>,
    /// The optimizer (default: adamw)
    #[arg(long, value_enum)]
    optimizer: Option<Optimizer>,
    /// GEMM backend: "auto" (the fastest available), "amx", "avx512", "avx2", "openblas" or "portable"; "all" compares
    /// large products on all of them
    #[arg(long, value_name = "NAME", default_value = "auto")]
    gemm: String,
    /// Print one line of JSON per measurement; without --sweep, --processes and --generate there is no other output
    #[arg(long)]
    json: bool,
    /// Take part in a measurement of `--processes`, which starts processes with this option
    #[arg(long, hide = true, requires = "shape", conflicts_with_all = ["sweep", "processes", "json"])]
    take_part: bool,
}

impl Command for Bench {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        if self.gemm == "all" {
            let why = "compares products alone, in f32 and bf16, without a training step";
            let generates = self.generate.as_ref().map(|_| "--generate");
            refuse(generates.or_else(|| self.of_a_training_step()), "--gemm all", why)?;
            return backends::compare(self.workers.unwrap_or_else(cores), self.json, context);
        }
        gemm::choose(&self.gemm).map_err(|error| Usage(error.to_string()))?;
        if let Some(model) = &self.generate {
            let why = "measures all precisions, without a training step";
            refuse(self.of_a_training_step(), "--generate", why)?;
            return generate::measure(self, model, context);
        }
        if self.take_part {
            let (shape, how) = self.shape_and_how()?;
            let training = Training::new(&SHAPES[shape as usize], &how)?;
            return context.out.json(&peers::take_part(training, how.warmup + how.steps)?);
        }
        match &*self.processes {
            [] if self.sweep => sweep::sweep(self, context),
            [] => context.out.json(&self.measure()?),
            numbers => processes::compare(self, numbers, context),
        }
    }
}

impl Bench {
    /// An option that was given and only applies to a training step.
    fn of_a_training_step(&self) -> Option<&'static str> {
        let given = [
            ("--shape", self.shape.is_some()),
            ("--model", self.model.is_some()),
            ("--sweep", self.sweep),
            ("--precision", self.precision.is_some()),
            ("--steps", self.steps.is_some()),
            ("--warmup", self.warmup.is_some()),
            ("--batching", self.batching.is_some()),
            ("--optimizer", self.optimizer.is_some()),
            ("--leaves", self.leaves.is_some()),
            ("--processes", !self.processes.is_empty()),
            ("--take-part", self.take_part),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }

    /// Measures the shape given by the options.
    ///
    /// # Errors
    /// [`Usage`] if no shape is given; otherwise if any stage fails.
    pub fn measure(&self) -> Result<Measured> {
        let (shape, how) = self.shape_and_how()?;
        let (shape, workers) = (&SHAPES[shape as usize], how.workers);
        match self.leaves {
            // The limit is measured after a step, so that its memory does not count.
            None => measure(shape, &how, || gemm_gflops(workers, contract::Precision::F32)),
            Some(_) => cpu::compared(shape, &how, gemm_gflops(workers, contract::Precision::F32)),
        }
    }

    /// The shape, and how it is measured.
    ///
    /// # Errors
    /// [`Usage`] if no shape is given.
    fn shape_and_how(&self) -> Result<(Shape, How)> {
        let Some(shape) = self.shape else {
            return Err(Usage("which --shape? (or --sweep, --gemm all, or --generate)".into()).into());
        };
        let how = How {
            model: self.model.unwrap_or(Model::Gpt2),
            precision: self.precision.unwrap_or(Precision::F32).into(),
            batching: self.batching.unwrap_or(Batching::Batched).into(),
            optimizer: self.optimizer.unwrap_or(Optimizer::Adamw),
            workers: self.workers.unwrap_or_else(|| if self.processes.is_empty() { cores() } else { 1 }),
            leaves: self.leaves,
            warmup: self.warmup.unwrap_or(2),
            steps: self.steps.unwrap_or(10),
        };
        Ok((shape, how))
    }

    /// The arguments of a process with so many workers that takes part in the measurement.
    fn of_process(&self, how: &How, workers: usize) -> Vec<String> {
        let shape = self.shape.map(|shape| shape.to_string());
        let precision = self.precision.map(|precision| precision.to_string());
        let batching = self.batching.map(|batching| batching.to_string());
        let options = [
            ("--shape", shape),
            ("--model", Some(how.model.to_string())),
            ("--precision", precision),
            ("--batching", batching),
            ("--optimizer", Some(how.optimizer.to_string())),
            ("--workers", Some(workers.to_string())),
            ("--leaves", how.leaves.map(|leaves| leaves.to_string())),
            ("--warmup", Some(how.warmup.to_string())),
            ("--steps", Some(how.steps.to_string())),
            ("--gemm", Some(gemm::chosen().to_owned())),
        ];
        let options = options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?]));
        ["bench".to_owned(), "--take-part".to_owned()].into_iter().chain(options.flatten()).collect()
    }
}

/// Refuses an option that would have no effect with the option `by`.
///
/// # Errors
/// [`Usage`] if there is one.
fn refuse(option: Option<&'static str>, by: &str, why: &str) -> Result<()> {
    option.map_or(Ok(()), |option| Err(Usage(format!("`{by}` {why}: leave out {option}")).into()))
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

/// The types of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// GPT-2
    Gpt2,
    /// Llama
    Llama,
    /// Qwen 3
    Qwen3,
    /// NanoChat
    Nanochat,
}

/// How a micro-batch is processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Batching {
    /// Whole
    Batched,
    /// Sequence by sequence, as the original did
    PerSequence,
}

/// The optimizer of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Optimizer {
    /// AdamW
    Adamw,
    /// Muon for the matrices inside blocks, AdamW for the other parameters
    Muon,
}

named!(Shape, Model, Batching, Optimizer);

impl From<Batching> for train::forward::Batching {
    fn from(batching: Batching) -> Self {
        match batching {
            Batching::Batched => Self::Batched,
            Batching::PerSequence => Self::PerSequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse;

    #[test]
    fn it_has_names_that_scripts_use() {
        let bench: Bench = parse("--shape gpt2 --batching per_sequence").unwrap();
        let shape = bench.shape.expect("it was given");
        assert_eq!((shape.to_string().as_str(), bench.batching), ("gpt2", Some(Batching::PerSequence)));
        assert_eq!(parse::<Bench>("--gemm all --steps 3").unwrap().of_a_training_step(), Some("--steps"));
        assert_eq!(parse::<Bench>("--gemm all --workers 1 --json").unwrap().of_a_training_step(), None);
        let bench: Bench = parse("--sweep --precision bf16 --plot sweep.html").unwrap();
        assert!(bench.sweep && bench.shape.is_none() && bench.plot.is_some());
        assert!(parse::<Bench>("--shape seed --plot sweep.html").is_err());
    }
}
