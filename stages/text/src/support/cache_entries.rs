//! Lists and removes the entries of the cache.
use crate::support::cache::Cache;
use crate::support::cache_in_use::{clearing, held};
use anyhow::{Context, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The footer metadata key of converted files that names the file they were made from.
pub const SOURCE_KEY: &str = "millrace.source";

/// Folders of the cache, with a description of their content. Nothing else in the cache folder is read or removed.
pub const KINDS: [(&str, &str); 6] = [
    ("documents", "dumps, JSON Lines and plain text, converted to Parquet"),
    ("surveys", "which rows are learned from, and their bytes"),
    ("indices", "tokens of every row"),
    ("tokenizers", "trained or unpacked tokenizers"),
    ("hashes", "content hashes of large files"),
    ("machine", "rates of matrix products, measured once a day"),
];

/// Minimum age at which a temporary file may be removed although no process seems to use it: the file system may not
/// support locks.
const UNFINISHED: Duration = Duration::from_secs(3600);

/// An entry of the cache: a file, and the files that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// The common stem of its files' names.
    pub key: String,
    /// Its files.
    pub files: Vec<PathBuf>,
    /// The file it was made from, if known.
    pub source: Option<String>,
    /// Total size of its files.
    pub bytes: u64,
    /// When it was last used, or created.
    pub used: SystemTime,
    /// Whether it is a temporary file.
    pub unfinished: bool,
    /// Whether a running process uses or writes it.
    pub in_use: bool,
}

impl Cache {
    /// All entries of the cache, by kind, the most recently used first.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        self.entries_among(&held(self.root())?)
    }

    /// Removes the entries that `is_meant` selects, except for those that running processes use or may be writing. Returns
    /// the removed entries, and how many were in use.
    ///
    /// # Errors
    /// If an entry cannot be listed or removed.
    pub fn remove(&self, is_meant: impl Fn(&Entry) -> bool, now: SystemTime) -> Result<(Vec<Entry>, u64)> {
        clearing(self.root(), |held| {
            let mut meant = self.entries_among(held)?;
            meant.retain(is_meant);
            let in_use = meant.iter().filter(|entry| entry.in_use).count() as u64;
            meant.retain(|entry| entry.is_removable(now));
            meant.iter().try_for_each(Entry::remove)?;
            Ok((meant, in_use))
        })
    }

    fn entries_among(&self, held: &BTreeSet<PathBuf>) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        for (kind, _) in KINDS {
            let folder = self.root().join(kind);
            let Ok(files) = std::fs::read_dir(&folder) else { continue };
            let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
            for file in files {
                let file = file.with_context(|| format!("cannot list {}", folder.display()))?;
                // Another process may be clearing the cache, too.
                let Ok(about) = file.metadata() else { continue };
                if !about.is_file() {
                    continue;
                }
                let (path, name) = (file.path(), file.file_name().to_string_lossy().into_owned());
                let unfinished = name.starts_with('.');
                let key = if unfinished { name } else { name.split('.').next().unwrap_or_default().to_string() };
                let used =
                    [about.accessed(), about.modified()].into_iter().flatten().max().unwrap_or(SystemTime::UNIX_EPOCH);
                let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
                    kind,
                    key,
                    files: Vec::new(),
                    source: None,
                    bytes: 0,
                    used,
                    unfinished,
                    in_use: false,
                });
                entry.in_use |= held.contains(&path) || unfinished_of(&path).is_some_and(|path| held.contains(&path));
                entry.source = entry.source.take().or_else(|| source(kind, &path));
                entry.files.push(path);
                entry.bytes += about.len();
                entry.used = entry.used.max(used);
            }
            let mut entries: Vec<Entry> = entries.into_values().collect();
            entries.iter_mut().for_each(|entry| entry.files.sort());
            entries.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.key.cmp(&b.key)));
            all.extend(entries);
        }
        Ok(all)
    }
}

impl Entry {
    /// Time since it was last used.
    pub fn idle(&self, now: SystemTime) -> Duration {
        now.duration_since(self.used).unwrap_or_default()
    }

    /// Whether it may be removed, as no process uses it or can still be writing it.
    pub fn is_removable(&self, now: SystemTime) -> bool {
        !self.in_use && (!self.unfinished || self.idle(now) > UNFINISHED)
    }

    /// Removes its files.
    pub fn remove(&self) -> Result<()> {
        for file in &self.files {
            match std::fs::remove_file(file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The file that the temporary file `path` is going to be, if it is one: see [`contract::files::write_whole`].
fn unfinished_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix(".part")?;
    let name = name.rsplitn(3, '.').nth(2)?;
    Some(path.with_file_name(name))
}

fn source(kind: &str, path: &Path) -> Option<String> {
    if kind == "tokenizers" && path.file_stem()?.to_str()?.starts_with("gpt2-") {
        return Some("GPT-2, built in".into());
    }
    if kind != "documents" || !path.extension()?.eq("parquet") {
        return None;
    }
    let file = File::open(path).ok()?;
    let used = file.metadata().and_then(|about| about.accessed());
    let reader = SerializedFileReader::new(file.try_clone().ok()?);
    // Looking at an entry must not count as using it.
    let _ = used.and_then(|used| file.set_times(FileTimes::new().set_accessed(used)));
    let reader = reader.ok()?;
    let notes = reader.metadata().file_metadata().key_value_metadata()?;
    notes.iter().find(|note| note.key == SOURCE_KEY)?.value.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::document::Document;
    use crate::input::document_writer::DocumentWriter;
    use crate::support::cache::{used, write_whole};

    #[test]
    fn what_there_is_and_when_it_was_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_str());
        assert!(cache.entries().unwrap().is_empty());
        let (made, kept) =
            (cache.file("documents", "k", "parquet"), cache.file("documents", "k", "quarantine.parquet"));
        write_whole(&made, |out| {
            let mut writer = DocumentWriter::new(out, Path::new("/data/a.txt"))?;
            writer.push(&Document { text: "one", ..Document::default() })?;
            writer.close()
        })
        .unwrap();
        write_whole(&kept, |_| Ok(())).unwrap();
        let part = folder.path().join("surveys/.x.1.0.part");
        write_whole(&part, |_| Ok(())).unwrap();
        std::fs::write(folder.path().join("mine.txt"), "kept").unwrap();
        let old = SystemTime::now() - Duration::from_secs(10 * 24 * 3600);
        for path in [&made, &kept, &part] {
            let times = FileTimes::new().set_accessed(old).set_modified(old);
            File::open(path).unwrap().set_times(times).unwrap();
        }
        for _ in 0..2 {
            let entries = cache.entries().unwrap();
            assert_eq!(entries.len(), 2);
            assert_eq!((entries[0].files.len(), entries[0].source.as_deref()), (2, Some("/data/a.txt")));
            assert!(
                entries.iter().all(|e| e.idle(SystemTime::now()).as_secs() / 3600 / 24 == 10),
                "looking is not using"
            );
            assert!(entries[1].unfinished && entries[1].is_removable(SystemTime::now()));
            assert!(!entries[1].is_removable(old));
            // This process has asked for their paths.
            assert!(entries[0].in_use && !entries[0].is_removable(SystemTime::now()) && !entries[1].in_use);
        }
        let writing = folder.path().join("documents/.k.parquet.77.3.part");
        std::fs::write(&writing, "").unwrap();
        let unfinished = |entry: &&Entry| entry.files.contains(&writing);
        assert!(cache.entries().unwrap().iter().find(unfinished).unwrap().in_use);
        std::fs::remove_file(&writing).unwrap();
        used(&[&made]);
        let entries = cache.entries().unwrap();
        assert!(entries[0].idle(SystemTime::now()) < Duration::from_secs(60));
        entries.iter().for_each(|entry| entry.remove().unwrap());
        assert!(cache.entries().unwrap().is_empty() && folder.path().join("mine.txt").exists());
    }
}
