//! Which entries of the cache running processes use, so that clearing it does not end them.
//!
//! Each process has a file in the folder `in-use` of the cache, locked for as long as the process lives, in which it
//! lists the files that it uses or is going to write. A file that can be locked belongs to a process that has ended.
//! Nothing is added to a list while entries are removed ([`clearing`]).
use anyhow::{Context, Result};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The folder of these files.
const FOLDER: &str = "in-use";
/// The file in it that is locked exclusively while entries are removed, and shared while a list grows.
const GATE: &str = "gate";
/// Age from which a list is ignored on a file system that does not support locks.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);

/// The list of this process for one cache. Closing the file at the end of the process unlocks it.
struct List {
    file: File,
    listed: BTreeSet<PathBuf>,
}

/// The lists of this process, by the root of the cache; `None` if the cache cannot be written.
static LISTS: Mutex<Option<HashMap<PathBuf, Option<List>>>> = Mutex::new(None);

/// Lists `path`, a file of the cache in `root`, as used by this process. In a cache that cannot be written this does
/// nothing: then nobody else can clear it either, except a user who may write it.
pub fn hold(root: &Path, path: &Path) {
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    let list = lists.get_or_insert_default().entry(root.to_owned()).or_insert_with(|| List::new(root).ok());
    let (Some(list), Ok(inside)) = (list, path.strip_prefix(root)) else { return };
    if list.listed.insert(inside.to_owned()) {
        let gate = gate(root);
        let _shared = gate.as_ref().map(File::lock_shared);
        let _ = list.file.write_all(format!("{}\n", inside.display()).as_bytes());
    }
}

/// Runs `remove`, which is given the files that running processes use, while no process begins to use another.
///
/// # Errors
/// Those of [`held`] and `remove`.
pub fn clearing<T>(root: &Path, remove: impl FnOnce(&BTreeSet<PathBuf>) -> Result<T>) -> Result<T> {
    let gate = gate(root);
    let _exclusive = gate.as_ref().map(File::lock);
    remove(&held(root)?)
}

/// `None` if the cache cannot be written.
fn gate(root: &Path) -> Option<File> {
    File::options().create(true).truncate(false).write(true).open(root.join(FOLDER).join(GATE)).ok()
}

impl List {
    fn new(root: &Path) -> io::Result<Self> {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder)?;
        // Lists of ended processes.
        let _ = held(root);
        for number in 0u64.. {
            let path = folder.join(format!("{}-{number}", std::process::id()));
            let file = match File::create_new(&path) {
                Ok(file) => file,
                // Of another container, or of an ended process with this number.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            file.lock()?;
            // Before it was locked, another process may have removed it.
            if path.exists() {
                return Ok(Self { file, listed: BTreeSet::new() });
            }
        }
        unreachable!("numbers do not end")
    }
}

/// The files of the cache in `root` that running processes use. Removes the lists of processes that have ended.
///
/// # Errors
/// If a list cannot be read.
pub fn held(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    let cannot = || format!("cannot read {}", root.join(FOLDER).display());
    let lists = match fs::read_dir(root.join(FOLDER)) {
        Ok(lists) => lists,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(all),
        Err(error) => return Err(error).with_context(cannot),
    };
    for list in lists {
        let path = list.with_context(cannot)?.path();
        if path.ends_with(GATE) {
            continue;
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(cannot),
        };
        let age = || file.metadata().and_then(|about| about.modified()).ok().and_then(|then| then.elapsed().ok());
        let has_ended = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(_)) => age().is_some_and(|age| age > FORGOTTEN),
        };
        if has_ended {
            let _ = fs::remove_file(&path);
        } else {
            all.extend(fs::read_to_string(&path).with_context(cannot)?.lines().map(|inside| root.join(inside)));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_until_its_process_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (root, path) = (folder.path(), folder.path().join("documents/k.parquet"));
        assert!(held(root).unwrap().is_empty());
        hold(root, &path);
        hold(root, &path);
        assert_eq!(held(root).unwrap(), BTreeSet::from([path.clone()]));
        let lists = || fs::read_dir(root.join(FOLDER)).unwrap().count() - 1;
        fs::write(root.join(FOLDER).join("1-0"), "documents/other.parquet\n").unwrap();
        assert_eq!((held(root).unwrap(), lists()), (BTreeSet::from([path]), 1));
        LISTS.lock().unwrap().as_mut().unwrap().remove(root);
        assert_eq!((held(root).unwrap().len(), lists()), (0, 0));
    }

    #[test]
    fn a_cache_that_cannot_be_written_can_be_used() {
        hold(Path::new("/proc/nowhere"), Path::new("/proc/nowhere/documents/k.parquet"));
        assert!(held(Path::new("/proc/nowhere")).unwrap().is_empty());
    }
}
