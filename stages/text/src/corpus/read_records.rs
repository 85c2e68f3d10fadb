//! The family of sources: formats that other crates read, with the keys and behaviour of source `documents`.
use crate::corpus::read_documents::{Reader, check_paths, check_sample, memory_of_open, provide};
use crate::corpus::source_keys::{Conversion, HoldOut, input_problem, look_at};
use crate::corpus::withdrawal::Withdrawal;
use crate::input::codec::Codec;
use crate::input::decompress::Decompressed;
use crate::input::document::EmitItem;
use crate::input::format::DocumentReader;
use crate::input::ingest::Reading;
use crate::input::paths::{Inputs, Recognizer, find};
use anyhow::Result;
use contract::{
    Built, Env, Goal, Kind, Member, Memory, Port, Prepare, Problem, Settings, StageKeys, StageSettings, StageType,
    Unit, stage_type,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A member of the family of sources: a file format with documents, its keys, and its reader. Files may be compressed.
/// What cannot be read is quarantined.
pub trait RecordFormat: Member {
    /// What it reads, on one line.
    const SUMMARY: &'static str;
    /// A table that parses, for `pipeline stages` (TOML, without the header).
    const EXAMPLE: &'static str;
    /// Suffixes of the files that are read in folders, in lower case, without that of a compression.
    const SUFFIXES: &'static [&'static str];
    /// Must be increased when [`read`](Self::read) emits different documents for the same file: converted files are
    /// cached.
    const VERSION: u32;

    /// Problems with the values, other than numbers out of range. No I/O.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Emits each document of a file's content, and an item for each piece that cannot be read.
    ///
    /// # Errors
    /// If the file cannot be read, or `emit` fails.
    fn read(&self, input: Decompressed, emit: EmitItem) -> Result<()>;
}

/// The registry entry for a source.
pub const fn source_type<R: RecordFormat>(name: &'static str) -> StageType {
    stage_type::<RecordSettings<R>>(name)
}

/// Settings of a source of any format: files to rows.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(bound = "R: RecordFormat")]
pub struct RecordSettings<R> {
    /// The stage type, which is part of the cache key of converted files.
    #[serde(skip)]
    type_name: &'static str,
    /// Files and documents.
    #[serde(flatten)]
    selection: Selection,
    /// The validation split.
    #[serde(flatten)]
    hold_out: HoldOut,
    /// Documents that are left out.
    #[serde(flatten)]
    withdrawal: Withdrawal,
    /// The keys of the format.
    #[serde(flatten)]
    format: R,
    /// Conversion to document Parquet.
    #[serde(flatten)]
    conversion: Conversion,
}

/// The keys that select files and documents.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default)]
struct Selection {
    /// Files, folders and patterns, at least one; also compressed: .gz, .zst or .bz2.
    #[key(location)]
    paths: Vec<String>,
    /// How many files to use, or how many documents if there is only one file; selected by the seed, at least 1. All if
    /// not given.
    #[key(min = 1)]
    sample: Option<u64>,
}

impl<R: RecordFormat> RecordSettings<R> {
    fn find(&self, seed: u64) -> Result<Inputs<()>> {
        let has_suffix = |path: &Path| {
            let name = path.file_name()?.to_string_lossy().to_lowercase();
            let (stem, _) = Codec::stem(&name);
            R::SUFFIXES.iter().any(|suffix| stem.ends_with(suffix)).then_some(())
        };
        let readable = format!("{}, also compressed", R::SUFFIXES.join(", "));
        let recognizer = Recognizer { by_name: &has_suffix, of_file: &|_| Ok(()), readable };
        find(&self.selection.paths, self.selection.sample, seed, &recognizer)
    }

    fn reading(&self) -> Reading<'static> {
        Reading::Converted(Box::new(self.clone()))
    }
}

impl<R: RecordFormat> DocumentReader for RecordSettings<R> {
    fn version(&self) -> String {
        let keys = serde_json::to_string(&self.format).unwrap_or_default();
        format!("{} {} {keys}", self.type_name, R::VERSION)
    }

    fn read(&self, input: Decompressed, _path: &Path, emit: EmitItem) -> Result<()> {
        self.format.read(input, emit)
    }
}

impl<R: RecordFormat> StageSettings for RecordSettings<R> {
    const SUMMARY: &'static str = R::SUMMARY;
    const EXAMPLE: &'static str = R::EXAMPLE;

    fn named(self, type_name: &'static str) -> Self {
        Self { type_name, ..self }
    }
}

impl<R: RecordFormat> Settings for RecordSettings<R> {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = check_paths(&self.selection.paths);
        problems.extend(self.hold_out.check());
        problems.extend(self.format.check());
        problems
    }

    fn check_goal(&self, goal: Goal) -> Vec<Problem> {
        self.hold_out.check_goal(goal)
    }

    fn check_files(&self, goal: Goal, seed: u64) -> Vec<Problem> {
        let looked = self.find(seed).and_then(|inputs| {
            look_at(&inputs, |_| self.reading())?;
            Ok(check_sample(goal, inputs.sample_documents))
        });
        let mut problems: Vec<_> =
            looked.unwrap_or_else(|error| Some(input_problem(&error, "paths"))).into_iter().collect();
        problems.extend(self.withdrawal.check_files());
        problems.extend(self.conversion.check_files());
        problems
    }

    fn reads(&self, seed: u64) -> Result<Vec<PathBuf>> {
        Ok(self.find(seed)?.files.into_iter().map(|file| file.path).collect())
    }

    /// Finds the files and converts them. Provides [`SourceFiles`](crate::corpus::source_rows::SourceFiles), and source and licence of the texts.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        let inputs = self.find(before.seed())?;
        let mut progress = |done, total| before.progress("Reading", Unit::Bytes, done, total);
        let (paths, selected) = (&self.selection.paths, (self.hold_out.split(), self.withdrawal.read()?));
        let found = self.conversion.convert(paths, &inputs, selected, |_| self.reading(), &mut progress)?;
        provide(before, found)
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Source(Box::new(Reader::new(env)?)))
    }

    /// Decoded row groups, once the documents have been opened.
    fn memory(&self, env: &Env) -> Memory {
        Memory { permanent: memory_of_open(env).unwrap_or_default(), ..Memory::default() }
    }
}
