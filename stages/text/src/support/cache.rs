//! A folder of files that are made once: each is named after the content it was made of, and is whole or not there.
use crate::support::cache_entries::KINDS;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// From this size on, a file's hash is remembered together with its size and time of change.
const REMEMBER_FROM: u64 = 64 << 20;

/// The cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    /// Kind and path of files that were not there when they were asked for.
    missing: Arc<Mutex<Vec<(&'static str, PathBuf)>>>,
}

impl Cache {
    /// `folder`, or `$MILLRACE_CACHE`, or `$XDG_CACHE_HOME/millrace`, or `~/.cache/millrace`, or for a user without a home
    /// `.millrace-cache` here: never a folder that others may have filled. Made when first written to.
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

    /// Where the file `key` of `kind` (one of [`KINDS`]) is or would be.
    pub fn file(&self, kind: &str, key: &str, extension: &str) -> PathBuf {
        let known = KINDS.iter().find(|(known, _)| *known == kind).map(|(known, _)| *known);
        debug_assert!(known.is_some(), "`{kind}` is not among cache_entries::KINDS");
        let path = self.root.join(kind).join(format!("{key}.{extension}"));
        if let Some(kind) = known.filter(|_| !path.exists()) {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).push((kind, path.clone()));
        }
        path
    }

    /// The kinds of the files that were missing when they were asked for, by this or a clone, and are there now.
    pub fn made(&self) -> BTreeSet<&'static str> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.iter().filter(|(_, path)| path.exists()).map(|(kind, _)| *kind).collect()
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
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
        }
        stamp.check(path)?;
        let hash = hasher.finalize().to_hex().to_string();
        if remember {
            write_whole(&note, |out| Ok(out.write_all(hash.as_bytes())?))?;
        }
        Ok(hash)
    }
}

/// What tells a file from what it was before, without reading it: its name, size and times, and on Unix its inode.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp(String);

impl Stamp {
    /// That of the file at `path`.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn of(path: &Path) -> Result<Self> {
        let about = std::fs::metadata(path).with_context(|| format!("cannot stat {}", path.display()))?;
        let changed = about.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
        let name = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let mut stamp = format!("{} {changed} {}", about.len(), name.display());
        // Who sets the time of modification back does not set these.
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            stamp += &format!(" {} {} {}.{:09}", about.dev(), about.ino(), about.ctime(), about.ctime_nsec());
        }
        Ok(Self(stamp))
    }

    /// An error if the file at `path` is another now.
    ///
    /// # Errors
    /// If it is, or is gone.
    pub fn check(&self, path: &Path) -> Result<()> {
        anyhow::ensure!(Self::of(path)? == *self, "{} has changed while it was read; run it again", path.display());
        Ok(())
    }
}

/// The blake3 hash of `content`, in hexadecimal.
pub fn hash_of(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

/// Notes that files of the cache have just been used: their time of access, which `pipeline cache` shows.
pub fn used(paths: &[&Path]) {
    for path in paths {
        let now = FileTimes::new().set_accessed(SystemTime::now());
        // Only a note: a cache that may only be read is as good.
        let _ = File::open(path).and_then(|file| file.set_times(now));
    }
}

/// A key made of several parts.
pub fn key(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes a file that appears whole or not at all: temporary name, fsync, rename. An existing regular file is replaced.
///
/// # Errors
/// If something other than a regular file is at `path`: renaming would destroy a device, or a link instead of what it
/// leads to. If `write` fails or the file cannot be written; then nothing is left of it.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    replaceable(path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let (temporary, file) = temporary(folder, path)?;
    let mut out = BufWriter::new(file);
    let written = write(&mut out).and_then(|()| {
        let done = out.flush().and_then(|()| out.get_ref().sync_all()).and_then(|()| std::fs::rename(&temporary, path));
        done.with_context(|| format!("cannot write {}", path.display()))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    } else if let Ok(folder) = File::open(folder) {
        // The name is durable when the folder is; some file systems cannot say so.
        let _ = folder.sync_all();
    }
    written
}

/// Checks that a file may be written at `path`: there is none, or a regular one.
///
/// # Errors
/// If something else is there, or it cannot be examined.
pub fn replaceable(path: &Path) -> Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot write {}", path.display())),
    };
    let what = match (kind.is_file(), kind.is_symlink(), kind.is_dir()) {
        (true, ..) => return Ok(()),
        (_, true, _) => "a symbolic link: name the file it leads to, or remove it",
        (.., true) => "a folder",
        _ => "a device, pipe or socket: name a file",
    };
    bail!("cannot write {}: it is {what}", path.display())
}

/// A new file in `folder`, hidden, for what will be `path`. No other process has it, in whatever container it runs.
fn temporary(folder: &Path, path: &Path) -> Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{name}.{}.{number}.part", std::process::id()));
        match File::create_new(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            // That of another container whose process has the same number, or of a killed one.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write {}", temporary.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.txt");
        assert!(write_whole(&path, |_| anyhow::bail!("no")).is_err());
        assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 0);
        write_whole(&path, |out| Ok(out.write_all(b"yes")?)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"yes");
    }

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
    fn only_regular_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, dangling, inner] = ["a", "link", "dangling", "folder"].map(|name| folder.path().join(name));
        std::fs::write(&file, "before").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &dangling).unwrap();
        std::fs::create_dir(&inner).unwrap();
        for (path, why) in [(&link, "a symbolic link"), (&dangling, "a symbolic link"), (&inner, "a folder")] {
            let error = write_whole(path, |_| panic!("not called")).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let error = write_whole(Path::new("/dev/null"), |_| panic!("not called")).unwrap_err().to_string();
        assert!(error.contains("/dev/null: it is a device"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), b"before");
        write_whole(&file, |out| Ok(out.write_all(b"after")?)).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"after");
    }

    #[test]
    fn a_temporary_file_of_another_container_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let (first, _file) = temporary(folder.path(), &path).unwrap();
        let number: u64 = first.to_str().unwrap().rsplit('.').nth(1).unwrap().parse().unwrap();
        for taken in number..number + 50 {
            let _ = std::fs::write(folder.path().join(format!(".a.{}.{taken}.part", std::process::id())), "theirs");
        }
        write_whole(&path, |out| Ok(out.write_all(b"ours")?)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"ours");
        let theirs = std::fs::read_dir(folder.path()).unwrap().flatten().filter(|entry| entry.path() != path);
        assert_eq!(theirs.filter(|entry| std::fs::read(entry.path()).unwrap() == b"theirs").count(), 50);
    }

    #[test]
    fn keys_do_not_run_together() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
