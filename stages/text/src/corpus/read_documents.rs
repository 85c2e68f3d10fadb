//! Source `documents`: rows of text for every lane and step.
use crate::Progress;
use crate::corpus::index::CorpusIndex;
use crate::corpus::lanes::{Chunk, LaneReader};
use crate::corpus::read_ahead::{self, ReadAhead, WINDOW_BYTES};
use crate::corpus::source_keys::{Conversion, HoldOut, input_problem, look_at};
use crate::corpus::source_rows::SourceFiles;
use crate::corpus::split::HoldOutAll;
use crate::corpus::withdrawal::Withdrawal;
use crate::filter::with_column;
use crate::input::decompress::Decompressed;
use crate::input::format::{Access, Format, Layout, StreamReader, WithLayout};
use crate::input::ingest::Reading;
use crate::input::paths::{InputFile, Inputs, resolve};
use crate::input::plain_text::MIN_BYTES;
use crate::input::{json_lines, plain_text};
use crate::parquet::columns::{COUNTED, field};
use crate::parquet::documents::{DocumentStore, memory, records};
use crate::support::problem::TextProblem;
use anyhow::Result;
use arrow::array::{ArrayRef, AsArray, LargeStringArray};
use arrow::datatypes::DataType;
use contract::{
    Built, Emit, Env, Goal, Kind, Lane, Memory, Packet, Port, Prepare, Problem, Rows, Settings, Snapshot, Source,
    StageKeys, StageSettings, Step, Turn, Unit,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

/// Files with more bytes are not opened to tell whether they are compressed: they fill any sequence.
const MOST_COUNTED: u64 = 64 << 20;

/// Settings of source `documents`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct ReadDocuments {
    /// Files, folders and patterns, at least one: .parquet, .jsonl, .ndjson, .json, .txt and .xml (MediaWiki dumps);
    /// all but .parquet also as .gz, .zst or .bz2.
    #[key(location)]
    pub paths: Vec<String>,
    /// The column (Parquet: string, large_string, string_view or a dictionary of them) or key (JSON Lines) with the
    /// text.
    #[key(default = "text".into())]
    pub column: String,
    /// How many files to use, or how many documents if there is only one file; selected by the seed, at least 1. All if
    /// not given.
    #[key(min = 1)]
    pub sample: Option<u64>,
    /// The validation split.
    #[serde(flatten)]
    pub hold_out: HoldOut,
    /// Documents that are left out.
    #[serde(flatten)]
    pub withdrawal: Withdrawal,
    /// For plain text: the separator between documents. If not given, text is split at blank lines into documents of at
    /// least 4 KiB.
    pub separator: Option<String>,
    /// Conversion to document Parquet.
    #[serde(flatten)]
    pub conversion: Conversion,
}

impl StageSettings for ReadDocuments {
    const SUMMARY: &'static str = "reads documents from Parquet, JSON Lines, plain text and MediaWiki dumps";
    const EXAMPLE: &'static str = "paths = [\"data/wiki/*.parquet\"]\ncolumn = \"text\"\nvalidation_fraction = 0.01\n";
}

/// The problem if `paths` is empty.
pub(crate) fn check_paths(paths: &[String]) -> Vec<Problem> {
    let why = "is empty; give files, folders or patterns, say [\"data/*.parquet\"]";
    paths.is_empty().then(|| Problem::at("paths", why)).into_iter().collect()
}

impl ReadDocuments {
    /// Finds the files, and converts those that are not Parquet to document Parquet. Progress is in bytes converted.
    ///
    /// # Errors
    /// If there is no such file, or one cannot be read, or one is damaged and `on_bad_data` is "stop".
    pub fn ingest(&self, seed: u64, progress: Progress) -> Result<SourceFiles> {
        let inputs = resolve(&self.paths, self.sample, seed)?;
        let selected = (self.hold_out.split(), self.withdrawal.read()?);
        self.conversion.convert(&self.paths, &inputs, selected, |file| self.reading(file), progress)
    }

    fn reading(&self, file: &InputFile) -> Reading<'_> {
        let layout = Layout { column: &self.column, separator: self.separator.as_deref() };
        match &file.format.access {
            Access::InPlace => Reading::InPlace(&self.column),
            Access::Stream(reader) => Reading::Converted(Box::new(WithLayout(reader, layout))),
        }
    }

    /// Problems with keys that none of the files needs.
    fn check_needed(&self, inputs: &Inputs) -> Vec<Problem> {
        let is_any = |formats: &[&Format]| inputs.files.iter().any(|file| formats.contains(&file.format));
        let mut problems = Vec::new();
        if self.separator.is_some() && !is_any(&[&plain_text::FORMAT]) {
            problems.push(Problem::at("separator", "is for plain text, and none of the files is; remove it"));
        }
        if self.column != Self::default().column && !is_any(&[&Format::PARQUET, &json_lines::FORMAT]) {
            let why = "is for Parquet and JSON Lines, and none of the files is; remove it";
            problems.push(Problem::at("column", why));
        }
        problems
    }
}

/// The problem if `documents`, a sample of the documents of a single file, is for a preparation.
pub(crate) fn check_sample(goal: Goal, documents: Option<u64>) -> Option<Problem> {
    let why = "selects documents of a single file, which is for training; a preparation reads whole files";
    (goal == Goal::PrepareCorpus && documents.is_some()).then(|| Problem::at("sample", why))
}

/// The most tokens of plain text and JSON Lines that are not compressed: each byte of a text is one, and one ends each
/// document. `None`: not known, or more than any sequence.
fn most_tokens(inputs: &Inputs) -> Option<u64> {
    let mut tokens = 0u64;
    for file in &inputs.files {
        let Access::Stream(StreamReader { is_verbatim: true, .. }) = &file.format.access else { return None };
        let bytes = std::fs::metadata(&file.path).ok()?.len();
        // A document of plain text has a separator, or 4 KiB, or is the last of its file.
        tokens += bytes + bytes / MIN_BYTES as u64 + 1;
        if tokens > MOST_COUNTED || Decompressed::open(&file.path).ok()?.is_packed() {
            return None;
        }
    }
    Some(tokens)
}

impl Settings for ReadDocuments {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = check_paths(&self.paths);
        problems.extend(self.hold_out.check());
        if self.column.is_empty() {
            problems.push(Problem::at("column", "is empty; name the column with the text"));
        }
        if self.separator.as_deref() == Some("") {
            problems.push(Problem::at("separator", "is empty; leave it out to cut at blank lines"));
        }
        problems
    }

    fn check_goal(&self, goal: Goal) -> Vec<Problem> {
        self.hold_out.check_goal(goal)
    }

    fn check_files(&self, goal: Goal, seed: u64) -> Vec<Problem> {
        let mut problems = match resolve(&self.paths, self.sample, seed) {
            Err(error) => vec![input_problem(&error, "column")],
            Ok(inputs) => {
                let looked = look_at(&inputs, |file| self.reading(file));
                let content = looked.err().map(|error| input_problem(&error, "column"));
                let sample = check_sample(goal, inputs.sample_documents);
                content.into_iter().chain(sample).chain(self.check_needed(&inputs)).collect()
            }
        };
        problems.extend(self.withdrawal.check_files());
        problems.extend(self.conversion.check_files());
        problems
    }

    fn most_tokens(&self, seed: u64, _: u64) -> Option<u64> {
        most_tokens(&resolve(&self.paths, self.sample, seed).ok()?)
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
        Memory { permanent: memory_of_open(env).or_else(closed).unwrap_or_default(), ..Memory::default() }
    }
}

/// Provides the files of a source, and source and licence of the texts.
pub(crate) fn provide(before: &mut Prepare, files: SourceFiles) -> Result<()> {
    if let Some(problem) = check_sample(before.goal(), files.sample) {
        return Err(TextProblem::Unsuitable { key: format!("{}.sample", before.id()), why: problem.message }.into());
    }
    let files = SourceFiles { split: HoldOutAll::or(files.split, before.resources()), ..files };
    before.provide(Arc::new(files.attributions.clone()));
    before.provide(Arc::new(files.cache.clone()));
    before.provide(Arc::new(files));
    Ok(())
}

/// Bytes of all texts.
fn bytes(index: &CorpusIndex) -> u64 {
    index.corpus.train.with(&index.corpus.validation).bytes
}

/// Bytes that reading the opened documents takes, with those that are [read ahead](ReadAhead); `None` if they are not
/// opened yet.
pub(crate) fn memory_of_open(env: &Env) -> Option<u64> {
    let store = env.find::<DocumentStore>()?;
    let bytes = env.find::<CorpusIndex>().map_or(0, |index| bytes(&index));
    Some(store.memory(env.workers) + if store.fit_in_cache(bytes) { 0 } else { WINDOW_BYTES })
}

/// Reads the documents of lanes, once they are opened and counted.
pub(crate) struct Reader {
    store: Arc<DocumentStore>,
    lanes: LaneReader,
    /// If the texts do not fit into the store's cache.
    ahead: Option<ReadAhead>,
}

impl Reader {
    pub(crate) fn new(env: &Env) -> Result<Self> {
        let store: Arc<DocumentStore> = env.resource("the opened documents (DocumentStore)")?;
        let index = env.resource::<CorpusIndex>("the index of the corpus (CorpusIndex)")?;
        let ahead = (!store.fit_in_cache(bytes(&index))).then(|| ReadAhead::new(env.shape.lanes));
        let lanes = LaneReader::new(index, env);
        Ok(Self { store, lanes, ahead })
    }

    fn texts(&mut self, lane: Lane, chunk: &Chunk) -> Result<LargeStringArray> {
        let fetch = |rows: &[u64]| Ok(Arc::new(self.store.take(rows.iter().copied())?) as ArrayRef);
        Ok(read_ahead::read(&mut self.ahead, &self.lanes, lane, chunk, fetch)?.as_string().clone())
    }
}

impl Source for Reader {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        if let Some(chunk) = self.lanes.next(lane, step)? {
            let counted = Arc::new(self.lanes.counted(&chunk));
            let records = records(self.texts(lane, &chunk)?)?;
            let records = with_column(&records, field(COUNTED, DataType::UInt32, false), counted)?;
            out.give(Packet::Rows(Rows { lane, source: 0, purpose: chunk.purpose, last: chunk.last, records }));
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
    use crate::input::codec::Codec;
    use crate::input::formats::FORMATS;
    use crate::support::cache::Cache;
    use crate::testing::{document_file, env, index};
    use contract::Purpose;
    use contract::testing::Collect;

    /// What lanes get does not depend on whether it is read ahead, nor on how far.
    #[test]
    fn documents_are_the_same_when_they_are_read_ahead() {
        let folder = tempfile::tempdir().unwrap();
        let text = |row: usize| format!("{row} {}", "x".repeat(row % 13));
        let groups: Vec<Vec<String>> = (0..4).map(|group| (group * 9..group * 9 + 9).map(text).collect()).collect();
        let file = document_file(&folder.path().join("a.parquet"), &groups);
        let store = DocumentStore::open(&[file], &Cache::new(folder.path().to_str())).unwrap();
        let (store, index, mut env) = (Arc::new(store), index(&[5; 30], &[3; 6]), env(2, 1, 16, 40));
        env.schedule.evaluate = Some(7);
        let given = |ahead: Option<ReadAhead>| {
            let lanes = LaneReader::new(Arc::clone(&index), &env);
            let mut reader = Reader { store: Arc::clone(&store), lanes, ahead };
            let mut out = Collect::default();
            for (step, lane) in (0..40).flat_map(|step| [(step, 0), (step, 1)]) {
                assert_eq!(reader.next(lane, step, &mut out).unwrap(), Turn::Done);
            }
            let rows = out.0.into_iter().map(|packet| match packet {
                Packet::Rows(rows) => (rows.lane, rows.purpose, rows.last, rows.records),
                _ => unreachable!(),
            });
            rows.collect::<Vec<_>>()
        };
        let expected = given(None);
        assert!(expected.len() == 80 && expected.iter().any(|(_, purpose, ..)| *purpose == Purpose::Validate));
        for bytes in [0, 40, 1000] {
            assert_eq!(given(Some(ReadAhead::with_bytes(bytes))), expected, "{bytes}");
        }
    }

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
