//! The family of sources: formats that other crates read, with the keys and behaviour of source `documents`.
use crate::corpus::read_documents::{MAX_BAD_FRACTION, Reader, check_found, check_goal, check_paths, provide};
use crate::corpus::source_rows::SourceFiles;
use crate::corpus::split::Split;
use crate::input::attribution::attributions;
use crate::input::decompress::{Codec, Decompressed};
use crate::input::document::EmitItem;
use crate::input::format::DocumentReader;
use crate::input::ingest::{Ingested, Reading, ingest};
use crate::input::paths::{Inputs, Recognizer, find};
use crate::input::quarantine::OnBadData;
use crate::parquet::documents::DocumentStore;
use crate::support::cache::Cache;
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

    /// Emits each document of a file's content, and a bad item for what cannot be read.
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
    /// What is read.
    #[serde(flatten)]
    selection: Selection,
    /// The format's own.
    #[serde(flatten)]
    format: R,
    /// What becomes of it.
    #[serde(flatten)]
    conversion: Conversion,
}

/// The keys that say which files and documents are used.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default)]
struct Selection {
    /// Files, folders and patterns, at least one; also compressed: .gz, .zst or .bz2.
    #[key(location)]
    paths: Vec<String>,
    /// How many files to use, or how many documents if there is only one file; selected by the seed, at least 1. All if
    /// not given.
    sample: Option<u64>,
    /// Fraction of the documents to hold out for validation, selected by a hash of their content; at least 0, below 1.
    /// 0.01 if neither this nor `validation_every` is given.
    validation_fraction: Option<f64>,
    /// Hold out every n-th document of the files instead (documents 0, n, 2n, …); at least 2.
    validation_every: Option<u64>,
}

/// The keys of conversion to document Parquet.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
struct Conversion {
    /// Folder for converted files; $MILLRACE_CACHE, $XDG_CACHE_HOME/millrace or ~/.cache/millrace if not given.
    #[key(location)]
    cache: Option<String>,
    /// What to do with records that cannot be read: "quarantine" (skip and list them) or "stop".
    #[key(failure)]
    on_bad_data: OnBadData,
    /// Largest fraction of the documents that may be unreadable; 0 to 1.
    #[key(failure, default = MAX_BAD_FRACTION, min = 0, max = 1)]
    max_bad_fraction: f64,
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

    fn split(&self) -> Split {
        Split::of(self.selection.validation_fraction, self.selection.validation_every)
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
        let Selection { paths, sample, validation_fraction, validation_every } = &self.selection;
        let mut problems = check_paths(paths, *sample);
        problems.extend(Split::check(*validation_fraction, *validation_every));
        problems.extend(self.format.check());
        problems
    }

    fn check_goal(&self, goal: Goal) -> Vec<Problem> {
        check_goal(goal, self.selection.validation_every)
    }

    fn check_files(&self, seed: u64) -> Vec<Problem> {
        check_found(self.find(seed))
    }

    fn reads(&self, seed: u64) -> Result<Vec<PathBuf>> {
        Ok(self.find(seed)?.files.into_iter().map(|file| file.path).collect())
    }

    /// Finds the files and converts them. Provides [`SourceFiles`], and source and licence of the texts.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        let (inputs, cache) = (self.find(before.seed())?, Cache::new(self.conversion.cache.as_deref()));
        let converted = || Reading::Converted(Box::new(self.clone()));
        let files: Vec<_> = inputs.files.iter().map(|file| (file, converted())).collect();
        let mut progress = |done, total| before.progress("Reading", Unit::Bytes, done, total);
        let Ingested { files, quarantine } = ingest(&files, self.conversion.on_bad_data, &cache, &mut progress)?;
        let found = SourceFiles {
            paths: self.selection.paths.clone(),
            attributions: attributions(&inputs)?,
            files,
            quarantine,
            sample: inputs.sample_documents,
            split: self.split(),
            on_bad_data: self.conversion.on_bad_data,
            max_bad_fraction: self.conversion.max_bad_fraction,
            cache,
        };
        provide(before, found)
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Source(Box::new(Reader::new(env)?)))
    }

    /// Decoded row groups, once the documents have been opened.
    fn memory(&self, env: &Env) -> Memory {
        let open = env.find::<DocumentStore>().map(|store| store.memory(env.workers));
        Memory { permanent: open.unwrap_or_default(), ..Memory::default() }
    }
}
