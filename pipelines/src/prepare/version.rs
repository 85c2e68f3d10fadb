//! The output folder: `v1`, `v2`, …, each whole or not there.
use super::card::{CARD_FILE, card};
use super::graph::Preparation;
use super::layout::Verdicts;
use super::previous::{Previous, ReadFor};
use super::stats::Stats;
use super::tables::{DUPLICATES, PAIRS, duplicates_table, pairs_table, write_catalog};
use crate::problem::Usage;
use anyhow::{Context, Result};
use contract::files::is_of_the_system;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use text::Tokenizer;
use text::corpus::split::{Part, Split};
use text::input::quarantine;
use text::prepare::catalog::Catalog;
use text::prepare::dropped_lines::DroppedLines;
use text::prepare::origins::{Origin, Origins};
use text::prepare::write::files::{FORMAT, FileNote, OF_PARTS, kind_of_part, shard_file_name, write_file, write_table};

/// What a version is and what it consists of.
pub const MANIFEST: &str = "version.json";
/// What the name of an unfinished version begins with.
const DRAFT: &str = ".draft-";
/// The file that is locked by the run that writes.
const LOCK: &str = ".lock";
/// What is worth knowing.
pub const STATS: &str = "stats.json";

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
    /// Which documents are held out for validation, and have files of their own. Those of format 1 have none. Not given
    /// if sources are mixed, each of which has its own rule.
    #[serde(default = "no_split", skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// The sources that were mixed, if any, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Origin>,
    /// What was read.
    pub paths: Vec<String>,
    /// Names what each shard follows from.
    pub shard_keys: BTreeMap<u32, String>,
    /// Every other file: its size, and the blake3 of its content.
    pub files: BTreeMap<String, (u64, String)>,
}

fn no_split() -> Option<Split> {
    Some(Split::Fraction(0.0))
}

impl Manifest {
    /// Where the rows of its input came from.
    pub fn origins(&self) -> Origins {
        match &self.sources[..] {
            [] => Origins::One(self.split.unwrap_or(Split::Fraction(0.0))),
            sources => Origins::Mixed(sources.to_vec()),
        }
    }
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
            let of_parts = OF_PARTS.into_iter().flat_map(|kind| Part::ALL.map(|part| kind_of_part(kind, part)));
            for kind in of_parts.chain(["dropped".into()]) {
                let name = shard_file_name(&kind, *shard);
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
        let card = write_file(&self.path, CARD_FILE, card(stats, &prepared.attributions(), &files).as_bytes())?;
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
            split: match &*catalog.origins {
                Origins::One(split) => Some(*split),
                Origins::Mixed(_) => None,
            },
            sources: catalog.origins.mixed().to_vec(),
            paths: prepared.sources.iter().flat_map(|source| source.read.paths.clone()).collect(),
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
