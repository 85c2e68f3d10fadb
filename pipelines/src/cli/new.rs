//! `pipeline new`: writes a configuration for existing data.
use super::{Command, Context};
use crate::machine::cores;
use crate::plan::{Overrides, Plan, Scope};
use crate::problem::Usage;
use crate::show::human::{bytes, count};
use anyhow::{Context as _, Error, Result};
use clap::Args;
use parquet::basic::{LogicalType, Type as Physical};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use text::input::decompress::Decompressed;
use text::input::format::KeySizes;
use text::{Access, InputFile, TextShare};

/// Write a configuration for your data, with a model size that fits it
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline new my.toml --data data/cache/wiki

It looks into the data, but reads little of it. The configuration is a start, with
comments; what it extends is part of the program (`extends = \"builtin:base\"`).")]
pub struct New {
    /// The configuration to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A file or folder with the data: Parquet, JSON Lines, text, or a wiki dump
    #[arg(long, value_name = "DIR")]
    data: String,
    /// Print one line of JSON: the file, and what was found in the data
    #[arg(long)]
    json: bool,
}

impl Command for New {
    fn run(&self, context: &Context) -> Result<()> {
        let data = Data::of(&self.data)?;
        let text = configuration(&self.file, &self.data, &data);
        write_new(&self.file, &text)?;
        // For example, if the file name is not a valid name of a run, or a file of the data is damaged.
        if let Err(problems) = Plan::checked(&self.file, &Overrides::default(), context.stages, Scope::Run) {
            let _ = fs::remove_file(&self.file);
            return Err(Error::new(problems));
        }
        let file = self.file.display();
        context.out.answer(self.json, &data.as_json(&self.file), |_| {
            format!(
                "{file}: {}\nNow: pipeline explain {file}   (estimates memory and time)\n     pipeline run {file}",
                data.summary()
            )
        })
    }
}

/// Writes a file that must not exist yet.
fn write_new(path: &Path, text: &str) -> Result<()> {
    let at = path.display();
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::new(Usage(format!("{at} already exists: choose another name"))),
        _ => Error::new(error).context(format!("cannot write {at}")),
    })?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {at}"))
}

/// The result of inspecting the data.
#[derive(Debug, Default)]
struct Data {
    files: usize,
    /// Approximate bytes of text; [`BYTES_PER_TOKEN`] per token of token Parquet.
    text_bytes: u64,
    /// The column with the text, if there are columns.
    column: Option<String>,
    /// The other text columns.
    others: Vec<String>,
    /// Its documents are token ids.
    is_tokens: bool,
}

/// Approximate number of bytes of text per byte of compressed text.
const COMPRESSION: f64 = 3.5;
/// Approximate number of bytes of text per token.
const BYTES_PER_TOKEN: u64 = 4;
/// Bytes at the beginning of a file that are searched for the keys of records.
const LOOK: u64 = 1 << 20;
/// Usual names of a column with documents, in order of preference.
const TEXT_NAMES: [&str; 6] = ["text", "content", "body", "document", "markdown", "article"];

impl Data {
    /// Inspects the file, folder or pattern `path`.
    fn of(path: &str) -> Result<Self> {
        let inputs = text::resolve(&[path.to_owned()], None, 0)?;
        let mut data = Data { files: inputs.files.len(), ..Data::default() };
        let first = inputs.files.first().context("there is a file")?;
        let share = match &first.format.access {
            Access::InPlace => data.look_at_columns(&first.path)?,
            Access::Stream(reader) => match reader.share {
                TextShare::Fraction(share) => share,
                TextShare::Keys(sizes) => data.look_at_keys(&first.path, sizes)?,
            },
        };
        for InputFile { path, format, .. } in &inputs.files {
            data.text_bytes += match format.is_in_place() {
                true => column_bytes(path, data.is_tokens, data.column.as_deref())?,
                false => (decompressed_bytes(path)? as f64 * share) as u64,
            };
        }
        Ok(data)
    }

    /// The text column with the most bytes in Parquet; or its tokens.
    fn look_at_columns(&mut self, path: &Path) -> Result<f64> {
        let reader = open(path)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let is_text = |i: &usize| {
            let column = schema.column(*i);
            let logical = column.logical_type_ref();
            column.max_rep_level() == 0
                && column.physical_type() == Physical::BYTE_ARRAY
                && (logical.is_none() || matches!(logical, Some(LogicalType::String)))
        };
        let name = |i: usize| schema.get_column_root(i).name().to_owned();
        self.is_tokens =
            (0..schema.num_columns()).any(|i| name(i) == "tokens" && schema.column(i).max_rep_level() == 1);
        let groups = reader.metadata().row_groups();
        let size = |i: usize| groups.iter().map(|group| group.column(i).uncompressed_size().unsigned_abs()).sum();
        let columns = (0..schema.num_columns()).filter(is_text).map(|i| (name(i), size(i))).collect();
        if !self.is_tokens {
            self.choose(columns, path)?;
        }
        Ok(1.0)
    }

    /// The key with the most text in the first records, and its share of all bytes.
    fn look_at_keys(&mut self, path: &Path, sizes: impl Fn(&mut dyn BufRead) -> io::Result<KeySizes>) -> Result<f64> {
        let mut start = BufReader::new(Decompressed::open(path)?.take(LOOK));
        let KeySizes { keys, records } =
            sizes(&mut start).with_context(|| format!("cannot read {}", path.display()))?;
        let size = self.choose(keys, path)?;
        Ok(size as f64 / records.max(1) as f64)
    }

    /// The column with the documents, and its size, out of all columns with their sizes.
    fn choose(&mut self, columns: Vec<(String, u64)>, path: &Path) -> Result<u64> {
        let known = |name: &str| TEXT_NAMES.iter().rev().position(|known| known.eq_ignore_ascii_case(name));
        let Some((name, size)) = columns.iter().max_by_key(|(name, size)| (known(name), *size)).cloned() else {
            let at = path.display();
            return Err(Usage(format!("{at} has no column of text; `pipeline inspect {at}` shows what it has")).into());
        };
        self.others = columns.into_iter().map(|(other, _)| other).filter(|other| *other != name).collect();
        self.column = Some(name);
        Ok(size)
    }

    /// Approximate number of tokens.
    fn tokens(&self, sizes: &Sizes) -> u64 {
        let bytes_per_token = if self.is_tokens { BYTES_PER_TOKEN as f64 } else { sizes.bytes_per_token };
        (self.text_bytes as f64 / bytes_per_token) as u64
    }

    fn summary(&self) -> String {
        let files = if self.files == 1 { "1 file".into() } else { format!("{} files", count(self.files as u64)) };
        let size = match self.is_tokens {
            true => format!("{} tokens", count(self.text_bytes / BYTES_PER_TOKEN)),
            false => format!("{} of text", bytes(self.text_bytes)),
        };
        let column = self.column.as_ref().map(|name| format!(", column \"{name}\"")).unwrap_or_default();
        format!("{files}, about {size}{column}")
    }

    fn as_json(&self, file: &Path) -> Value {
        json!({
            "file": file,
            "files": self.files,
            "text_bytes": self.text_bytes,
            "column": self.column,
            "tokens": self.is_tokens,
        })
    }
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let at = || format!("cannot read {}", path.display());
    SerializedFileReader::new(File::open(path).with_context(at)?).with_context(at)
}

/// Bytes of `column`, or of the text that its tokens represent.
fn column_bytes(path: &Path, is_tokens: bool, column: Option<&str>) -> Result<u64> {
    let reader = open(path)?;
    let chunks = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
    let size = chunks.map(|chunk| match chunk.column_path().parts().first() {
        Some(name) if is_tokens && name == "tokens" => BYTES_PER_TOKEN as i64 * chunk.num_values(),
        Some(name) if Some(name.as_str()) == column => chunk.uncompressed_size(),
        _ => 0,
    });
    Ok(size.sum::<i64>().unsigned_abs())
}

/// Approximate size of a file after decompression, in bytes.
fn decompressed_bytes(path: &Path) -> Result<u64> {
    let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    let packed = Decompressed::open(path)?.is_packed();
    Ok(if packed { (size as f64 * COMPRESSION) as u64 } else { size })
}

/// Sizes for this amount of text.
struct Sizes {
    up_to_bytes: u64,
    vocabulary: u64,
    bytes_per_token: f64,
    model: [u64; 3],
    length: u64,
    /// Micro-batches, and tokens of each.
    batch: [u64; 2],
    epochs: f64,
    learning_rate: &'static str,
}

/// Layers, heads, width. More text supports a larger model and vocabulary; a small corpus is used for several epochs.
/// Micro-batches have up to 1,024 tokens, enough rows for matrix products to be efficient, but fewer in a small batch, so
/// that 16 cores have work.
const SIZES: [Sizes; 5] = [
    sizes(1_000_000, (1024, 2.6), [2, 4, 128], 64, ([16, 256], 8.0), "3e-3"),
    sizes(10_000_000, (4096, 3.3), [2, 8, 256], 128, ([16, 256], 4.0), "1e-3"),
    sizes(100_000_000, (8192, 3.7), [4, 6, 384], 256, ([16, 512], 2.0), "1e-3"),
    sizes(1_000_000_000, (16_384, 4.0), [6, 8, 512], 256, ([16, 1024], 1.0), "6e-4"),
    sizes(u64::MAX, (32_768, 4.3), [12, 12, 768], 512, ([32, 1024], 1.0), "6e-4"),
];

const fn sizes(
    up_to_bytes: u64,
    (vocabulary, bytes_per_token): (u64, f64),
    model: [u64; 3],
    length: u64,
    (batch, epochs): ([u64; 2], f64),
    learning_rate: &'static str,
) -> Sizes {
    Sizes { up_to_bytes, vocabulary, bytes_per_token, model, length, batch, epochs, learning_rate }
}

/// The configuration, with comments.
fn configuration(file: &Path, path: &str, data: &Data) -> String {
    let sizes = SIZES.iter().find(|sizes| data.text_bytes < sizes.up_to_bytes).unwrap_or(&SIZES[SIZES.len() - 1]);
    let &Sizes { vocabulary, model: [layers, heads, width], length, epochs, learning_rate, .. } = sizes;
    let [leaves, leaf] = sizes.batch;
    let leaves = leaves.max(cores().next_power_of_two() as u64);
    let steps = ((data.tokens(sizes) as f64 * epochs) as u64 / (leaves * leaf)).max(1);
    let ids = if data.is_tokens { GPT2_IDS } else { vocabulary };
    let parameters = count(ids * width + length * width + 12 * layers * width * width);
    let (file, summary, sequences) = (file.display(), data.summary(), leaf / length);
    let (steps_said, batch, every) = (count(steps), count(leaves * leaf), nice(steps / 20));
    // The built-in graph tokenizes, so tokens need another one.
    let graph = if data.is_tokens { "" } else { "extends = \"builtin:base\"\n" };
    let mut text = format!(
        "# Written by `pipeline new`: a start for {summary}.
# `pipeline check {file}` checks it, `pipeline explain {file}` estimates memory and time.
# `pipeline stages` lists the stage types, `pipeline stages adamw` shows one with all its keys.
{graph}
[run]
max_epochs = {epochs:.1}   # passes over the training documents, about {steps_said} steps; or max_steps
"
    );
    let mut stage = |id: &str, type_name: &str, keys: &str| {
        let is_base = !data.is_tokens;
        if is_base && keys.is_empty() {
            return;
        }
        let type_line = if is_base { String::new() } else { format!("type = \"{type_name}\"\n") };
        text += &format!("\n[stage.{id}]\n{type_line}{keys}");
    };
    stage("read", "tokens", &read_keys(path, data));
    if !data.is_tokens {
        let other = "a BPE trained on the data; or tokenizer = \"gpt2\"";
        stage("tokenize", "bpe", &format!("vocabulary_size = {vocabulary}   # {other}\n"));
    }
    let pack = format!(
        "sequence_length = {length}\nmicro_batch_size = {sequences}   # sequences in a micro-batch, the unit of work\n\
         micro_batches = {leaves}   # in a batch, which is {batch} tokens on any number of workers\n"
    );
    stage("pack", "concat", &pack);
    let model = format!("layers = {layers}   # about {parameters} parameters\nheads = {heads}\nwidth = {width}\n");
    stage("forward", "gpt2", &model);
    for (id, type_name) in [("loss", "cross_entropy"), ("backward", "backward"), ("reduce", "tree_sum")] {
        stage(id, type_name, "");
    }
    let warmup = (steps / 20).clamp(1, 2000);
    stage("optimize", "adamw", &format!("learning_rate = {learning_rate}\nwarmup_steps = {warmup}\n"));
    for id in ["evaluate", "checkpoint"] {
        stage(id, id, &format!("interval = {every}   # steps\n"));
    }
    stage("record", "record", "");
    text
}

/// Number of ids of GPT-2's tokenizer, which most token files were made with.
const GPT2_IDS: u64 = 50_257;

/// The keys of the source.
fn read_keys(path: &str, data: &Data) -> String {
    let others =
        if data.others.is_empty() { String::new() } else { format!("   # others: {}", data.others.join(", ")) };
    let column = data.column.as_ref().map(|name| format!("column = {}{others}\n", Value::from(name.as_str())));
    format!(
        "paths = [{}]\n{}validation_fraction = 0.05   # of the documents, by content hash\n",
        Value::from(path),
        column.unwrap_or_default()
    )
}

/// A round number of steps close to this, at least 10.
fn nice(steps: u64) -> u64 {
    let steps = steps.max(10);
    let power = 10u64.pow(steps.ilog10());
    power * [5, 2, 1].into_iter().find(|factor| steps >= factor * power).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!([0, 10, 19, 20, 49, 123, 999, 5000].map(nice), [10, 10, 10, 20, 20, 100, 500, 5000]);
    }

    #[test]
    fn every_size_is_one_that_the_model_takes() {
        for sizes in &SIZES {
            let [_, heads, width] = sizes.model;
            let [leaves, leaf] = sizes.batch;
            assert!(width.is_multiple_of(heads) && leaf.is_multiple_of(sizes.length) && leaves >= 16);
        }
    }

    #[test]
    fn a_column_is_known_by_its_name_or_by_its_size() {
        let choose = |columns: &[(&str, u64)]| {
            let mut data = Data::default();
            let columns = columns.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
            data.choose(columns, Path::new("a.parquet")).map(|size| (data.column.unwrap_or_default(), size))
        };
        assert_eq!(choose(&[("url", 900), ("Text", 10), ("title", 3)]).unwrap(), ("Text".into(), 10));
        assert_eq!(choose(&[("url", 900), ("prose", 1000)]).unwrap(), ("prose".into(), 1000));
        assert!(choose(&[]).unwrap_err().to_string().contains("no column of text"));
    }
}
