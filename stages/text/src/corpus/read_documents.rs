//! Source `documents`: rows of text for every lane and step.
use crate::Progress;
use crate::corpus::index::CorpusIndex;
use crate::corpus::lanes::LaneReader;
use crate::corpus::source_rows::SourceFiles;
use crate::corpus::split::Split;
use crate::input::attribution::attributions;
use crate::input::format::{Access, Layout, WithLayout};
use crate::input::ingest::{Ingested, Reading, ingest};
use crate::input::paths::{InputFile, resolve};
use crate::input::quarantine::OnBadData;
use crate::parquet::documents::{DocumentStore, memory, records};
use crate::support::cache::Cache;
use crate::support::problem::TextProblem;
use anyhow::Result;
use contract::{
    Built, Emit, Env, Goal, Kind, Lane, Memory, Packet, Port, Prepare, Problem, Rows, Settings, Snapshot, Source,
    StageKeys, StageSettings, Step, Turn, Unit,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

/// 5 % of the documents. Damage in storage or in transit affects a few rows, or the end of a file. If more is
/// unreadable, the file is probably not what the user thinks it is, and training on the rest would not be what they
/// want.
pub(crate) const MAX_BAD_FRACTION: f64 = 0.05;

/// Settings of source `documents`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct ReadDocuments {
    /// Files, folders and patterns, at least one: .parquet, .jsonl, .ndjson, .json, .txt and .xml (MediaWiki dumps);
    /// all but .parquet also as .gz, .zst or .bz2.
    #[key(location)]
    pub paths: Vec<String>,
    /// The column (Parquet: string, large_string, string_view or a dictionary of them) or key (JSON Lines) with the
    /// text.
    pub column: String,
    /// How many files to use, or how many documents if there is only one file; selected by the seed, at least 1. All if
    /// not given.
    pub sample: Option<u64>,
    /// Fraction of the documents to hold out for validation, selected by a hash of their content; at least 0, below 1.
    /// 0.01 if neither this nor `validation_every` is given.
    pub validation_fraction: Option<f64>,
    /// Hold out every n-th row of the files instead (rows 0, n, 2n, …); at least 2.
    pub validation_every: Option<u64>,
    /// For plain text: the separator between documents. If not given, text is split at blank lines into documents of at
    /// least 4 KiB.
    pub separator: Option<String>,
    /// Folder for converted files; $MILLRACE_CACHE, $XDG_CACHE_HOME/millrace or ~/.cache/millrace if not given.
    #[key(location)]
    pub cache: Option<String>,
    /// What to do with rows, lines and pages that cannot be read: "quarantine" (skip and list them) or "stop".
    #[key(failure)]
    pub on_bad_data: OnBadData,
    /// Largest fraction of the documents that may be unreadable; 0 to 1. A lost row group counts with all its rows.
    #[key(failure)]
    pub max_bad_fraction: f64,
}

impl Default for ReadDocuments {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            column: "text".into(),
            sample: None,
            validation_fraction: None,
            validation_every: None,
            separator: None,
            cache: None,
            on_bad_data: OnBadData::Quarantine,
            max_bad_fraction: MAX_BAD_FRACTION,
        }
    }
}

impl StageSettings for ReadDocuments {
    const SUMMARY: &'static str = "reads documents from Parquet, JSON Lines, plain text and MediaWiki dumps";
    const EXAMPLE: &'static str = "paths = [\"data/wiki/*.parquet\"]\ncolumn = \"text\"\nvalidation_fraction = 0.01\n";
}

/// Problems with `paths` and `sample`.
pub(crate) fn check_paths(paths: &[String], sample: Option<u64>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if paths.is_empty() {
        problems.push(Problem::at("paths", "is empty; give files, folders or patterns, say [\"data/*.parquet\"]"));
    }
    if sample == Some(0) {
        problems.push(Problem::at("sample", "must be at least 1"));
    }
    problems
}

/// The problem if the files of `paths` could not be found.
pub(crate) fn check_found<T>(found: Result<T>) -> Vec<Problem> {
    found.err().map(|error| Problem::at("paths", format!("{error:#}"))).into_iter().collect()
}

impl ReadDocuments {
    /// The rule for holding out documents.
    pub fn split(&self) -> Split {
        Split::of(self.validation_fraction, self.validation_every)
    }

    /// The cache.
    pub fn cache(&self) -> Cache {
        Cache::new(self.cache.as_deref())
    }

    /// Finds the files, and converts those that are not Parquet to document Parquet. Progress is in bytes converted.
    ///
    /// # Errors
    /// If there is no such file, or one cannot be read, or one is damaged and `on_bad_data` is "stop".
    pub fn ingest(&self, seed: u64, progress: Progress) -> Result<SourceFiles> {
        let (inputs, cache) = (resolve(&self.paths, self.sample, seed)?, self.cache());
        let layout = Layout { column: &self.column, separator: self.separator.as_deref() };
        let reading = |file: &'_ InputFile| match &file.format.access {
            Access::InPlace => Reading::InPlace(&self.column),
            Access::Stream(reader) => Reading::Converted(Box::new(WithLayout(reader, layout))),
        };
        let files: Vec<_> = inputs.files.iter().map(|file| (file, reading(file))).collect();
        let Ingested { files, quarantine } = ingest(&files, self.on_bad_data, &cache, progress)?;
        Ok(SourceFiles {
            paths: self.paths.clone(),
            attributions: attributions(&inputs)?,
            files,
            quarantine,
            sample: inputs.sample_documents,
            split: self.split(),
            on_bad_data: self.on_bad_data,
            max_bad_fraction: self.max_bad_fraction,
            cache,
        })
    }
}

impl Settings for ReadDocuments {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = check_paths(&self.paths, self.sample);
        problems.extend(Split::check(self.validation_fraction, self.validation_every));
        if self.column.is_empty() {
            problems.push(Problem::at("column", "is empty; name the column with the text"));
        }
        if self.separator.as_deref() == Some("") {
            problems.push(Problem::at("separator", "is empty; leave it out to cut at blank lines"));
        }
        if !(0.0..=1.0).contains(&self.max_bad_fraction) {
            problems.push(Problem::at("max_bad_fraction", format!("{} is not from 0 to 1", self.max_bad_fraction)));
        }
        problems
    }

    fn check_goal(&self, goal: Goal) -> Vec<Problem> {
        check_goal(goal, self.validation_every)
    }

    fn check_files(&self, seed: u64) -> Vec<Problem> {
        check_found(resolve(&self.paths, self.sample, seed))
    }

    fn reads(&self, seed: u64) -> Result<Vec<PathBuf>> {
        Ok(resolve(&self.paths, self.sample, seed)?.files.into_iter().map(|file| file.path).collect())
    }

    /// Finds the files and converts them if necessary. Provides [`SourceFiles`], and source and licence of the texts.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        let seed = before.seed();
        let ingested = self.ingest(seed, &mut |done, total| before.progress("Reading", Unit::Bytes, done, total))?;
        provide(before, ingested)
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Source(Box::new(Reader::new(env)?)))
    }

    /// Decoded row groups. Before the documents are opened, their size is known only for files that are Parquet
    /// already.
    fn memory(&self, env: &Env) -> Memory {
        let closed = || {
            let inputs = resolve(&self.paths, self.sample, env.seed).ok()?;
            let paths: Vec<_> = inputs.files.into_iter().map(|file| file.path).collect();
            Some(memory(&paths, &self.column, env.workers))
        };
        let open = env.find::<DocumentStore>().map(|store| store.memory(env.workers));
        Memory { permanent: open.or_else(closed).unwrap_or_default(), ..Memory::default() }
    }
}

/// What is wrong with `validation_every` in a graph with this goal.
pub(crate) fn check_goal(goal: Goal, validation_every: Option<u64>) -> Vec<Problem> {
    let by_place = goal == Goal::PrepareCorpus && validation_every.is_some();
    let why = "holds out rows by their place, which changes with the input of a preparation: use `validation_fraction`";
    by_place.then(|| Problem::at("validation_every", why)).into_iter().collect()
}

/// Provides the files of a source, and whose text they hold.
pub(crate) fn provide(before: &mut Prepare, files: SourceFiles) -> Result<()> {
    if before.goal() == Goal::PrepareCorpus && files.sample.is_some() {
        let why = "`sample` of documents is for training; a preparation reads whole files";
        return Err(TextProblem::Unsuitable { key: format!("{}.sample", before.id()), why: why.into() }.into());
    }
    before.provide(Arc::new(files.attributions.clone()));
    before.provide(Arc::new(files.cache.clone()));
    before.provide(Arc::new(files));
    Ok(())
}

/// Reads the documents of lanes, once they are opened and counted.
pub(crate) struct Reader {
    store: Arc<DocumentStore>,
    lanes: LaneReader,
}

impl Reader {
    pub(crate) fn new(env: &Env) -> Result<Self> {
        let store = env.resource("the opened documents (DocumentStore)")?;
        let lanes = LaneReader::new(env.resource::<CorpusIndex>("the index of the corpus (CorpusIndex)")?, env);
        Ok(Self { store, lanes })
    }
}

impl Source for Reader {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        if let Some(chunk) = self.lanes.next(lane, step) {
            let records = records(self.store.take(chunk.rows)?)?;
            out.give(Packet::Rows(Rows { lane, purpose: chunk.purpose, last: chunk.last, records }));
        }
        Ok(Turn::Done)
    }

    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        Ok(self.lanes.save(lane))
    }

    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        self.lanes.load(lane, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::decompress::Codec;
    use crate::input::formats::FORMATS;

    #[test]
    fn every_format_is_documented() {
        let paths = ReadDocuments::keys().iter().find(|key| key.name == "paths").unwrap().documentation;
        for format in FORMATS {
            assert!(ReadDocuments::SUMMARY.contains(format.name), "the summary of `documents` lacks {}", format.name);
            for suffix in format.suffixes.iter().filter(|suffix| !suffix.ends_with('*')) {
                assert!(paths.contains(suffix), "the documentation of `paths` lacks {suffix}");
            }
        }
        assert!(Codec::suffixes().all(|suffix| paths.contains(suffix)), "{paths}");
    }
}
