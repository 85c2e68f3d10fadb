//! A folder of derived files, each named by a hash of the data that it was made from.
pub use contract::files::write_whole;

use crate::support::cache_entries::KINDS;
use crate::support::cache_in_use::hold;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Hashes of files of at least this size, in bytes, are cached by the stamp of the file.
const REMEMBER_FROM: u64 = 64 << 20;

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    /// Kind and path of files that did not exist when their path was requested.
    missing: Arc<Mutex<Vec<(&'static str, PathBuf)>>>,
}

impl Cache {
    /// The cache in `folder`, or else in `$MILLRACE_CACHE`, `$XDG_CACHE_HOME/millrace` or `~/.cache/millrace`. For a
    /// user without a home directory it is `.millrace-cache` in the current directory, never a directory that other
    /// users can write to. The folder is created by the first write.
    pub fn new(folder: Option<&str>) -> Self {
        let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = folder
            .map(PathBuf::from)
            .or_else(|| from("MILLRACE_CACHE"))
            .or_else(|| from("XDG_CACHE_HOME").map(|p| p.join("millrace")))
            .or_else(|| std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".cache/millrace")))
            .unwrap_or_else(|| PathBuf::from(".millrace-cache"));
        Self { root, missing: Arc::default() }
    }

    /// The path of the file `key` of `kind` (one of [`KINDS`]), whether or not it exists. From then on this process
    /// [uses](hold) it.
    pub fn file(&self, kind: &str, key: &str, extension: &str) -> PathBuf {
        let path = self.root.join(kind).join(format!("{key}.{extension}"));
        // Before its existence is tested: from here on it is not removed.
        hold(&self.root, &path);
        let known = KINDS.iter().find(|(known, _)| *known == kind).map(|(known, _)| *known);
        debug_assert!(known.is_some(), "`{kind}` is not among cache_entries::KINDS");
        if let Some(kind) = known.filter(|_| !path.exists()) {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).push((kind, path.clone()));
        }
        path
    }

    /// The kinds of files that did not exist when their path was requested (from this value or a clone), and exist now.
    pub fn made(&self) -> BTreeSet<&'static str> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.iter().filter(|(_, path)| path.exists()).map(|(kind, _)| *kind).collect()
    }

    /// Checks that the folder is there or can be made, as far as that can be seen without making it.
    ///
    /// # Errors
    /// If something else is at its place or above it, or it is missing and cannot be made.
    pub fn check_folder(&self) -> Result<()> {
        let at = self.root.display();
        let there = self.root.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.exists());
        let Some(there) = there.filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
        ensure!(there.is_dir(), "the cache cannot be in {at}: {} is not a folder", there.display());
        if there != self.root {
            let probe = there.join(format!(".millrace-{}", std::process::id()));
            let made = std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe));
            made.with_context(|| format!("the cache {at} does not exist and cannot be made: {}", there.display()))?;
        }
        Ok(())
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The blake3 hash of a file's content.
    pub fn hash_file(&self, path: &Path) -> Result<String> {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let stamp = Stamp::of(path)?;
        let note = self.file("hashes", key(&[&stamp.0]).as_str(), "txt");
        let remember = file.metadata().is_ok_and(|about| about.len() >= REMEMBER_FROM);
        if remember
            && let Ok(known) = std::fs::read_to_string(&note)
            && known.len() == 64
        {
            used(&[&note]);
            return Ok(known);
        }
        let (_, hash) = hash_to_end(&mut file, path)?;
        stamp.check(path)?;
        if remember {
            write_whole(&note, |out| Ok(out.write_all(hash.as_bytes())?))?;
        }
        Ok(hash)
    }
}

/// Identifies the content of a file without reading it: by name, size and times, and on Unix by inode.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp(String);

impl Stamp {
    /// The stamp of the file at `path`.
    ///
    /// # Errors
    /// If the system cannot read it.
    pub fn of(path: &Path) -> Result<Self> {
        let about = std::fs::metadata(path).with_context(|| format!("cannot stat {}", path.display()))?;
        let changed = about.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
        let name = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let mut stamp = format!("{} {changed} {}", about.len(), name.display());
        // Programs that restore the time of modification cannot restore these.
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            stamp += &format!(" {} {} {}.{:09}", about.dev(), about.ino(), about.ctime(), about.ctime_nsec());
        }
        Ok(Self(stamp))
    }

    /// Checks that the file at `path` still has this stamp.
    ///
    /// # Errors
    /// If it has changed or no longer exists.
    pub fn check(&self, path: &Path) -> Result<()> {
        anyhow::ensure!(Self::of(path)? == *self, "{} has changed while it was read; run it again", path.display());
        Ok(())
    }
}

/// The size of the file at `path`, and the blake3 hash of its content, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn hash_of_file(path: &Path) -> Result<(u64, String)> {
    hash_to_end(&mut File::open(path).with_context(|| format!("cannot open {}", path.display()))?, path)
}

fn hash_to_end(file: &mut File, path: &Path) -> Result<(u64, String)> {
    let (mut hasher, mut buffer, mut bytes) = (blake3::Hasher::new(), vec![0; 1 << 20], 0);
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            return Ok((bytes, hasher.finalize().to_hex().to_string()));
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// The blake3 hash of `content`, in hexadecimal.
pub fn hash_of(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

/// Sets the time of access of files of the cache, which `pipeline cache` shows, to now.
pub fn used(paths: &[&Path]) {
    for path in paths {
        let now = FileTimes::new().set_accessed(SystemTime::now());
        // Errors are ignored, so that a read-only cache works.
        let _ = File::open(path).and_then(|file| file.set_times(now));
    }
}

/// The hash of several parts, which differs for any other division into parts.
pub fn key(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "one").unwrap();
        let (stamp, time) = (Stamp::of(&path).unwrap(), std::fs::metadata(&path).unwrap().modified().unwrap());
        stamp.check(&path).unwrap();
        // The same size, and the time of modification set back, as `cp -p` and `rsync -t` do.
        std::fs::rename(&path, folder.path().join("b")).unwrap();
        std::fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let said = stamp.check(&path).unwrap_err().to_string();
        assert!(said.contains("has changed while it was read"), "{said}");
    }

    #[test]
    fn keys_do_not_run_together() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
