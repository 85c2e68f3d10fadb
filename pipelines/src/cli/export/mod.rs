//! `pipeline export`: a model or a prepared corpus as files that other programs read. [`FORMATS`] lists the formats.
mod corpus;
mod gguf;
mod model;

use super::{Command, Context};
use crate::prepare::find_version;
use crate::problem::Usage;
use crate::show::human;
use crate::train_run::directory;
use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};
use text::tokenizer::bin_files::BinFormat;
use train::checkpoint;
use train::gguf::Dtype;

/// Export a model or a prepared corpus to files that other programs read
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline export runs/wiki wiki-bf16 --format safetensors-bf16
  pipeline export runs/wiki wiki.gguf --format gguf --dtype q8_0
  pipeline export runs/prepare-wiki/v1 bin --format nanogpt")]
pub struct Export {
    /// A run (its last checkpoint is used) or a checkpoint, ours or Hugging Face's; for formats of a corpus, a version
    /// of a prepared corpus, or a folder of versions (the last one is used)
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The folder for the files; for gguf, the file
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The format of the files
    #[arg(long, value_parser = format_parser())]
    format: &'static Format,
    /// Type of the matrices in a GGUF file
    #[arg(long, value_enum)]
    dtype: Option<MatrixType>,
    /// Replace the files of an earlier export
    #[arg(long)]
    overwrite: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// A format, by its name on the command line.
#[derive(Debug)]
struct Format {
    name: &'static str,
    help: &'static str,
    /// What is exported, and how.
    writer: Writer,
}

/// What a format is for.
#[derive(Clone, Copy, Debug)]
enum Writer {
    /// Tokens of a prepared corpus.
    Corpus(BinFormat),
    /// A model.
    Model(fn(&Export, &Context) -> Result<Vec<Exported>>),
}

/// All formats.
const FORMATS: &[Format] = &[
    Format {
        name: "safetensors-bf16",
        help: "A model: a folder that transformers loads, with weights in bfloat16",
        writer: Writer::Model(model::safetensors),
    },
    Format {
        name: "gguf",
        help: "A model: one file for llama.cpp, Ollama and LM Studio",
        writer: Writer::Model(gguf::export),
    },
    Format {
        name: "nanogpt",
        help: "A corpus for nanoGPT: uint16 ids, end-of-text after each document",
        writer: Writer::Corpus(BinFormat::NanoGpt),
    },
    Format {
        name: "llm.c",
        help: "A corpus for llm.c: a header of 256 int32, end-of-text before each document",
        writer: Writer::Corpus(BinFormat::LlmC),
    },
];

fn format_parser() -> impl TypedValueParser<Value = &'static Format> {
    let values = FORMATS.iter().map(|format| PossibleValue::new(format.name).help(format.help));
    let of_name = |name: String| FORMATS.iter().find(|format| format.name == name);
    PossibleValuesParser::new(values).try_map(move |name| of_name(name).ok_or("there is no such format"))
}

/// The type of a model's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MatrixType {
    /// Single precision, as in training
    F32,
    /// Half precision
    F16,
    /// bfloat16
    Bf16,
    /// Blocks of 32 bytes with a common scale
    #[value(name = "q8_0")]
    Q8_0,
}

impl From<MatrixType> for Dtype {
    fn from(matrices: MatrixType) -> Self {
        match matrices {
            MatrixType::F32 => Self::F32,
            MatrixType::F16 => Self::F16,
            MatrixType::Bf16 => Self::Bf16,
            MatrixType::Q8_0 => Self::Q8_0,
        }
    }
}

/// A file that was written.
#[derive(Debug, Serialize)]
struct Exported {
    path: PathBuf,
    #[serde(flatten)]
    content: Content,
}

/// What a file contains.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content {
    /// A part of a corpus, `train` or `val`.
    Tokens { part: &'static str, tokens: u64 },
    /// A part of a model.
    Model { bytes: u64 },
}

impl Command for Export {
    fn run(&self, context: &Context) -> Result<()> {
        let files = self.export(context)?;
        context.out.answer(self.json, &json!({ "out": self.out, "files": files }), |_| match self.format.writer {
            Writer::Corpus(_) => corpus::text(&files),
            Writer::Model(_) => files.iter().map(Exported::to_string).collect::<Vec<_>>().join("\n"),
        })
    }
}

impl std::fmt::Display for Exported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match self.content {
            Content::Tokens { tokens, .. } => write!(f, "{path}: {} tokens", human::count(tokens)),
            Content::Model { bytes } => write!(f, "{path}: {}", human::bytes(bytes)),
        }
    }
}

impl Export {
    /// # Errors
    /// [`Usage`] if the format does not fit the source, or there are files that are not to be replaced; if a file
    /// cannot be read or written.
    fn export(&self, context: &Context) -> Result<Vec<Exported>> {
        let name = self.format.name;
        if self.dtype.is_some() && name != "gguf" {
            return Err(Usage(format!("--dtype is for --format gguf; {name} has a fixed type")).into());
        }
        let (at, source) = (self.source.display(), &self.source);
        let is_corpus = find_version(source).is_ok();
        let (wrong, is) = match self.format.writer {
            Writer::Corpus(_) => (!is_corpus && has_model(source), "a model"),
            Writer::Model(_) => (is_corpus, "a prepared corpus"),
        };
        if wrong {
            let fits = |format: &&Format| is_for_model(format) != is_for_model(self.format);
            let names: Vec<&str> = FORMATS.iter().filter(fits).map(|format| format.name).collect();
            let names = names.join(", ");
            return Err(
                Usage(format!("{at} is {is}, which cannot be exported as {name}; formats for it: {names}")).into()
            );
        }
        match self.format.writer {
            Writer::Corpus(format) => corpus::export(self, format),
            Writer::Model(write) => write(self, context),
        }
    }

    /// Rejects a destination that exists and is not to be replaced.
    ///
    /// # Errors
    /// [`Usage`], unless `--overwrite` is given.
    fn check_replaceable(&self, path: &Path) -> Result<()> {
        match !self.overwrite && path.symlink_metadata().is_ok() {
            true => Err(Usage(format!("{} is of an earlier export: --overwrite replaces that", path.display())).into()),
            false => Ok(()),
        }
    }
}

/// Whether `path` is a model, or a run that trains one.
fn has_model(path: &Path) -> bool {
    let is_run = path.join(directory::CONFIG_FILE).is_file();
    is_run || path.join("config.json").is_file() || checkpoint::list(path).is_ok_and(|all| !all.is_empty())
}

fn is_for_model(format: &Format) -> bool {
    matches!(format.writer, Writer::Model(_))
}
