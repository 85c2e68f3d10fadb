//! Finds run directories.
use crate::problem::Usage;
use crate::train_run::CONFIG_FILE;
use crate::train_run::status::LOCK_FILE;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use train::record::METRICS_FILE;

/// Levels of folders in which `pipeline watch` and `serve` look for runs: `DIR/EXPERIMENT/RUN`, and one more.
pub const DEPTH: usize = 3;

/// Whether `folder` is a run directory.
pub fn is_run(folder: &Path) -> bool {
    [CONFIG_FILE, METRICS_FILE, LOCK_FILE].iter().any(|name| folder.join(name).is_file())
}

/// Rejects a folder that is no run directory.
///
/// # Errors
/// [`Usage`], with the closest name if there is no such folder.
pub fn require_run(folder: &Path) -> Result<()> {
    match is_run(folder) {
        true => Ok(()),
        false => Err(Usage::of(folder, "is not a run directory; `pipeline runs` lists the runs in runs/").into()),
    }
}

/// The run directories in `folder`, sorted, or `folder` itself if it is one. With a `depth` of 2, also those in folders
/// inside of it, such as experiments; hidden folders and links to folders are not entered.
///
/// # Errors
/// [`Usage`] if there is no such folder; if it cannot be listed.
pub fn find(folder: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    if is_run(folder) {
        return Ok(vec![folder.to_owned()]);
    }
    if !folder.is_dir() {
        let why = "is not a folder; `pipeline run` makes runs/ when it first runs";
        return Err(Usage::of(folder, why).into());
    }
    let mut found = Vec::new();
    add(folder, depth, &mut found).with_context(|| format!("cannot list {}", folder.display()))?;
    found.sort();
    Ok(found)
}

fn add(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if !kind.is_dir() && !kind.is_symlink() {
            continue;
        }
        if is_run(&path) {
            found.push(path);
        } else if depth > 1 && kind.is_dir() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            // It may be gone by now, or be none of our business.
            let _ = add(&path, depth - 1, found);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_experiments_are_found_and_runs_are_not_searched() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b", "a/one", "a/two", "a/deep/three", ".hidden/four", "b/inner"] {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
            std::fs::write(root.path().join(name).join(CONFIG_FILE), "").unwrap();
        }
        let found = |depth| -> Vec<String> {
            let found = find(root.path(), depth).unwrap();
            let names = found.iter().map(|path| path.strip_prefix(root.path()).unwrap().display().to_string());
            names.collect()
        };
        assert_eq!(found(1), ["b"]);
        assert_eq!(found(2), ["a/one", "a/two", "b"]);
        assert_eq!(find(&root.path().join("b"), 1).unwrap(), [root.path().join("b")]);
        let error = find(&root.path().join("none"), 1).unwrap_err().to_string();
        assert!(error.contains("is not a folder"), "{error}");
    }
}
