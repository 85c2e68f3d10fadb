//! What the last version knows.
use super::card::CARD_FILE;
use super::layout::{Layout, Verdict};
use super::tables::{DUPLICATES, PAIRS, duplicates_schema, pairs_schema, read_catalog};
use super::version::{MANIFEST, Manifest};
use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, UInt32Type};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text::Tokenizer;
use text::corpus::split::Part;
use text::parquet::table::read_parquet;
use text::prepare::catalog::{self, Catalog, Hash};
use text::prepare::write::files::{kind_of_part, shard_file_name};
use text::support::cache::hash_of_file;

/// What a version is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFor {
    /// To make the next one.
    Update,
    /// To compare it with another one.
    Comparison,
}

/// The last version.
pub struct Previous {
    /// Its number.
    pub number: u64,
    /// Its folder.
    pub path: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// What it knows of every row.
    pub catalog: Catalog,
    /// What became of each.
    pub outcomes: StringArray,
    /// Tokens of each; 0 where there are none.
    pub tokens: Vec<u32>,
    /// Where its texts are.
    pub layout: Layout,
}

impl Previous {
    /// Reads the version in `path`. For an update, every file is verified against its hash, and rows that were dropped
    /// although there was nothing in them are left out: they are processed again, which takes less than finding them.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn read(number: u64, path: &Path, purpose: ReadFor) -> Result<Self> {
        let at = path.join(MANIFEST);
        let text = fs::read_to_string(&at).with_context(|| format!("cannot read {}", at.display()))?;
        let manifest: Manifest =
            serde_json::from_str(&text).with_context(|| format!("cannot understand {}", at.display()))?;
        // Whoever publishes a version may edit its card.
        let checked = |(name, _): &(&String, _)| purpose == ReadFor::Update && *name != CARD_FILE;
        for (name, (bytes, blake3)) in manifest.files.iter().filter(checked) {
            let path = path.join(name);
            let same = hash_of_file(&path)? == (*bytes, blake3.clone());
            ensure!(same, "{} is not as it was written", path.display());
        }
        let table = read_catalog(path, purpose == ReadFor::Comparison || manifest.keep_dropped)?;
        let outcomes = table["verdict"].as_string::<i32>().clone();
        let tokens = table["n_tokens"].as_primitive::<UInt32Type>();
        let tokens = tokens.iter().map(Option::unwrap_or_default).collect();
        let columns = table.columns()[..catalog::schema().fields().len()].to_vec();
        let rows = RecordBatch::try_new(catalog::schema(), columns)?;
        let catalog = Catalog { rows, origins: Arc::new(manifest.origins()) };
        // The locations of texts follow from the verdicts, as they did when they were written.
        let name = |row: usize| outcomes.value(row);
        let layout = Layout::new(&catalog, name, manifest.shards, manifest.keep_dropped);
        Ok(Self { number, path: path.to_path_buf(), manifest, catalog, outcomes, tokens, layout })
    }

    /// The path of its file of `kind` and `shard`.
    pub fn file(&self, kind: &str, shard: u32) -> PathBuf {
        self.path.join(shard_file_name(kind, shard))
    }

    /// The path of its file of the documents of `part` in `shard`.
    pub fn documents(&self, part: Part, shard: u32) -> PathBuf {
        self.file(&kind_of_part("documents", part), shard)
    }

    /// Its rows by their hash in the input. (A row whose id occurs earlier has no stored text, so it is not included.)
    pub fn known(&self) -> HashMap<Hash, u32> {
        let rows = (0..self.catalog.len()).filter(|row| self.outcomes.value(*row) != Verdict::DuplicateId.name());
        rows.map(|row| (self.catalog.input(row), row as u32)).collect()
    }

    /// Whether it has tokens made by `tokenizer`.
    pub fn has_tokens_of(&self, tokenizer: &Tokenizer) -> bool {
        self.manifest.tokenizer.as_deref() == Some(tokenizer.hash())
    }

    /// Pairs whose similarity is known, if words are compared as they were.
    pub fn pairs(&self, shingle_words: usize) -> Result<Vec<(Hash, Hash, f64)>> {
        if self.manifest.shingle_words != Some(shingle_words) {
            return Ok(Vec::new());
        }
        let table = read_parquet(&self.path.join(PAIRS), &pairs_schema())?;
        let hash = |column: &ArrayRef, row: usize| -> Hash {
            let value = column.as_fixed_size_binary().value(row);
            std::array::from_fn(|i| value[i])
        };
        let similarities = table["similarity"].as_primitive::<Float64Type>();
        let pair = |row| (hash(table.column(0), row), hash(table.column(1), row), similarities.value(row));
        Ok((0..table.num_rows()).map(pair).collect())
    }

    /// What has become of a row: the name of its verdict, or why a stage has dropped it.
    pub fn outcome(&self, row: usize) -> String {
        match self.outcomes.value(row) {
            "dropped" => format!("dropped: {}", self.catalog.dropped(row).unwrap_or_default()),
            outcome => outcome.to_owned(),
        }
    }

    /// Every duplicate: what is kept in its place, the document it was compared with, and their similarity.
    pub fn duplicates(&self) -> Result<HashMap<String, (String, String, f64)>> {
        let table = read_parquet(&self.path.join(DUPLICATES), &duplicates_schema())?;
        let string = |name: &str, row: usize| table[name].as_string::<i32>().value(row).to_owned();
        let similarities = table["similarity"].as_primitive::<Float64Type>();
        let line = |row| (string("id", row), (string("kept", row), string("neighbour", row), similarities.value(row)));
        Ok((0..table.num_rows()).map(line).collect())
    }
}
