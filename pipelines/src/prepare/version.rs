//! The output folder: `v1`, `v2`, …, each whole or not there, and what the last one knows.
use super::card::{CARD_FILE, card};
use super::graph::Preparation;
use super::layout::{Layout, Verdict, Verdicts};
use super::stats::Stats;
use super::tables::{
    DUPLICATES, PAIRS, duplicates_schema, duplicates_table, pairs_schema, pairs_table, read_catalog, write_catalog,
};
use crate::problem::Usage;
use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, UInt32Type};
use contract::files::is_of_the_system;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use text::Tokenizer;
use text::corpus::split::Split;
use text::input::quarantine;
use text::parquet::table::read_parquet;
use text::prepare::catalog::{self, Catalog, Hash};
use text::prepare::dropped_lines::DroppedLines;
use text::prepare::write::files::{FORMAT, FileNote, write_file, write_table};
use text::support::cache::hash_of_file;

/// What a version is and what it consists of.
pub const MANIFEST: &str = "version.json";
/// What the name of an unfinished version begins with.
const DRAFT: &str = ".draft-";
/// The file that is locked by the run that writes.
const LOCK: &str = ".lock";
/// What is worth knowing.
pub const STATS: &str = "stats.json";

/// The kinds of files of a shard.
const SHARD_FILES: [&str; 5] =
    ["documents-train", "documents-validation", "sequences-train", "sequences-validation", "dropped"];

/// `version.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the files' format.
    pub format: u32,
    /// The program that wrote it.
    pub program: String,
    /// Names everything that the files follow from, but for what was read.
    pub configuration: String,
    /// Names what a line of the catalog follows from, but for its row.
    pub chain: String,
    /// Words of a shingle, where near-duplicates were looked for.
    pub shingle_words: Option<usize>,
    /// Similarity from which on documents are near-duplicates.
    pub threshold: Option<f64>,
    /// Hash of the tokenizer, if there are tokens.
    pub tokenizer: Option<String>,
    /// Number of shards.
    pub shards: u32,
    /// Are the texts of all rows that were dropped there?
    pub keep_dropped: bool,
    /// Which documents are held out for validation, and have files of their own. Those of format 1 have none.
    #[serde(default = "no_split")]
    pub split: Split,
    /// What was read.
    pub paths: Vec<String>,
    /// Names what each shard follows from.
    pub shard_keys: BTreeMap<u32, String>,
    /// Every other file: its size, and the blake3 of its content.
    pub files: BTreeMap<String, (u64, String)>,
}

fn no_split() -> Split {
    Split::Fraction(0.0)
}

/// The output folder, locked against other processes.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

/// A version in the making.
pub struct Draft {
    path: PathBuf,
    aside: PathBuf,
    number: u64,
    linked: BTreeMap<String, (u64, String)>,
}

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
    path: PathBuf,
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

impl Folder {
    /// Opens `path`, which is made if it is not there, for writing, and removes what a killed run has left.
    ///
    /// # Errors
    /// [`Usage`] if it contains anything but versions, or if another process writes to it.
    pub fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the output folder {}", path.display()))?;
        is_ours(path)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .with_context(|| format!("cannot write to {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = format!(
                    "another run writes to {} at this moment: wait for it, or choose another --run-dir",
                    path.display()
                );
                return Err(Usage(why).into());
            }
            // Some file systems cannot lock; then other runs go unnoticed.
            Err(TryLockError::Error(_)) => {}
        }
        for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?.flatten() {
            if drafted(&entry.file_name().to_string_lossy()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// The last version, if there is one that is whole. `note` is told of one that is not.
    ///
    /// # Errors
    /// If it cannot be read although it is there: it may be whole.
    pub fn last(&self, note: &mut dyn FnMut(&str)) -> Result<Option<Previous>> {
        let Some((number, path)) = versions(&self.path)?.pop() else { return Ok(None) };
        match Previous::read(number, &path, ReadFor::Update) {
            Ok(previous) if previous.manifest.format == FORMAT => Ok(Some(previous)),
            Ok(_) => {
                note(&format!(
                    "{} was written by another version of the program: everything is made anew",
                    path.display()
                ));
                Ok(None)
            }
            Err(error) if is_of_the_system(&error) => Err(error),
            Err(error) => {
                note(&format!("{} is damaged, so everything is made anew ({error:#})", path.display()));
                Ok(None)
            }
        }
    }

    /// Begins the next version.
    pub fn draft(&self) -> Result<Draft> {
        let number = versions(&self.path)?.pop().map_or(1, |(number, _)| number + 1);
        let path = self.path.join(format!("{DRAFT}v{number}"));
        let aside = path.join("aside");
        fs::create_dir_all(&aside).with_context(|| format!("cannot make the folder {}", aside.display()))?;
        Ok(Draft { path, aside, number, linked: BTreeMap::new() })
    }

    /// Makes `draft` the last version; its folder.
    pub fn appear(&self, mut draft: Draft) -> Result<PathBuf> {
        let path = self.path.join(format!("v{}", draft.number));
        fs::rename(&draft.path, &path).with_context(|| format!("cannot make {}", path.display()))?;
        draft.path = PathBuf::new();
        if let Ok(folder) = File::open(&self.path) {
            // The name is durable when the folder is; some file systems cannot say so.
            let _ = folder.sync_all();
        }
        Ok(path)
    }
}

/// Checks that the folder at `path`, if it exists, has versions or is empty, except for what a killed run has left before
/// it had a first version. In any other folder, a preparation could remove files of somebody else.
///
/// # Errors
/// [`Usage`] if it has something else; if it cannot be listed.
pub fn is_ours(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    // Made before the first draft.
    let locked = path.join(LOCK).metadata().is_ok_and(|lock| lock.is_file() && lock.len() == 0);
    let mut others = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", path.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if number(&name).is_some() && entry.path().join(MANIFEST).is_file() {
            return Ok(());
        }
        if !(locked && (name == LOCK || drafted(&name))) {
            others.push(name);
        }
    }
    others.sort();
    if others.is_empty() {
        return Ok(());
    }
    let (more, some) = (if others.len() > 3 { ", …" } else { "" }, others[..others.len().min(3)].join(", "));
    let why = "a preparation has a folder of its own; choose another with --run-dir";
    Err(Usage(format!("{} is not a folder of versions; it contains {some}{more}: {why}", path.display())).into())
}

/// The number of the version whose folder has this name.
fn number(name: &str) -> Option<u64> {
    name.strip_prefix('v').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// Whether an unfinished version has this name.
fn drafted(name: &str) -> bool {
    name.strip_prefix(DRAFT).is_some_and(|name| number(name).is_some())
}

/// Versions in `folder`, by number.
///
/// # Errors
/// If the folder cannot be listed.
pub fn versions(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found: Vec<_> =
        entries.flatten().filter_map(|e| Some((number(&e.file_name().to_string_lossy())?, e.path()))).collect();
    found.retain(|(_, path)| path.is_dir());
    found.sort();
    Ok(found)
}

impl Draft {
    /// Where its files go.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Directory of the stored texts.
    pub fn aside(&self) -> &Path {
        &self.aside
    }

    /// Takes the files of `shards` over from `last`, by hard link if the file system supports it.
    pub fn link(&mut self, last: &Previous, shards: &[u32]) -> Result<()> {
        for shard in shards {
            for kind in SHARD_FILES {
                let name = format!("{kind}-{shard:05}.parquet");
                let Some(about) = last.manifest.files.get(&name) else { continue };
                let (from, to) = (last.path.join(&name), self.path.join(&name));
                if fs::hard_link(&from, &to).is_err() {
                    fs::copy(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
                }
                self.linked.insert(name, about.clone());
            }
        }
        Ok(())
    }

    /// Writes everything except the shards, and makes it durable.
    #[allow(clippy::too_many_arguments, reason = "one call site, every argument a different thing")]
    pub fn finish(
        &mut self,
        prepared: &Preparation,
        (catalog, dropped): (&Catalog, &DroppedLines),
        verdicts: &Verdicts,
        counts: &BTreeMap<u32, u32>,
        shard_keys: BTreeMap<u32, String>,
        written: Vec<FileNote>,
        stats: &Stats,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<()> {
        let mut new = written;
        if self.path.join(quarantine::FILE).exists() {
            new.push(FileNote::of(&self.path, quarantine::FILE)?);
        }
        new.push(write_catalog(&self.path, (catalog, dropped), verdicts, counts)?);
        let tables = [(PAIRS, pairs_table(verdicts)?), (DUPLICATES, duplicates_table(catalog, verdicts)?)];
        for (name, table) in tables {
            new.push(write_table(&self.path, name, &table)?);
        }
        new.push(write_file(&self.path, STATS, format!("{}\n", serde_json::to_string_pretty(stats)?).as_bytes())?);
        if let Some(tokenizer) = tokenizer {
            new.push(write_file(&self.path, "tokenizer.json", tokenizer.json().as_bytes())?);
        }
        let mut files = std::mem::take(&mut self.linked);
        let noted = |file: &FileNote| (file.name.clone(), (file.bytes, file.blake3.clone()));
        files.extend(new.iter().map(noted));
        let card = write_file(&self.path, CARD_FILE, card(stats, &prepared.read.attributions, &files).as_bytes())?;
        files.extend([noted(&card)]);
        new.push(card);
        let manifest = Manifest {
            format: FORMAT,
            program: concat!("millrace ", env!("CARGO_PKG_VERSION")).into(),
            configuration: prepared.configuration.clone(),
            chain: prepared.chain.clone(),
            shingle_words: prepared.deduplicate.as_ref().map(|d| d.shingle_words),
            threshold: prepared.deduplicate.as_ref().map(|d| d.threshold),
            tokenizer: tokenizer.map(|tokenizer| tokenizer.hash().to_owned()),
            shards: prepared.write.shards,
            keep_dropped: prepared.write.keep_dropped,
            split: prepared.read.split,
            paths: prepared.read.paths.clone(),
            shard_keys,
            files,
        };
        new.push(write_file(
            &self.path,
            MANIFEST,
            format!("{}\n", serde_json::to_string_pretty(&manifest)?).as_bytes(),
        )?);
        fs::remove_dir_all(&self.aside).with_context(|| format!("cannot remove {}", self.aside.display()))?;
        for file in new {
            let path = self.path.join(&file.name);
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Ok(folder) = File::open(&self.path) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Draft {
    /// Removes a failed draft: its space may be needed on a full disk.
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
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
        let catalog = Catalog { rows: RecordBatch::try_new(catalog::schema(), columns)? };
        // The locations of texts follow from the verdicts, as they did when they were written.
        let name = |row: usize| outcomes.value(row);
        let layout = Layout::new(&catalog, name, manifest.split, manifest.shards, manifest.keep_dropped);
        Ok(Self { number, path: path.to_path_buf(), manifest, catalog, outcomes, tokens, layout })
    }

    /// The path of its file of `kind` and `shard`.
    pub fn file(&self, kind: &str, shard: u32) -> PathBuf {
        self.path.join(format!("{kind}-{shard:05}.parquet"))
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
