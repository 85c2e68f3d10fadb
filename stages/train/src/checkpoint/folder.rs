//! The checkpoints of a run directory: their names, integrity, and which of them are kept.
use super::{CHECKPOINTS, FORMAT, STATE_FILE, SUMS_FILE, State};
use anyhow::{Context, Result, bail, ensure};
use contract::Step;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Name suffix of a checkpoint that is being written or removed.
pub(super) const UNFINISHED: &str = ".unfinished";
/// Name prefix of checkpoints that are later than the one a run was resumed from.
const ABANDONED: &str = "abandoned-";

/// The folder name of the checkpoint after `step` updates.
pub(super) fn name_of(step: Step) -> String {
    format!("step-{step:08}")
}

/// The content of [`SUMS_FILE`]: the hash of every file of `folder`, ordered by name.
pub(super) fn sums(folder: &Path) -> Result<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let line = |name: &String| Ok(format!("{}  {name}\n", hash(&folder.join(name))?));
    names.iter().map(line).collect()
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(drop))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Verifies the hashes of all files of `checkpoint`.
///
/// # Errors
/// If a file is missing or differs (the message has its name), or the directory is not a checkpoint of this program.
pub fn verify(checkpoint: &Path) -> Result<()> {
    let at = checkpoint.display();
    let listed = match fs::read_to_string(checkpoint.join(SUMS_FILE)) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let whole = checkpoint.join(STATE_FILE).exists();
            ensure!(whole, "{at} is not a checkpoint of this program: it has no {STATE_FILE}");
            bail!("checkpoint {at} is damaged: its {SUMS_FILE} is missing");
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            bail!("checkpoint {at} is damaged: its {SUMS_FILE} is not text");
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {at}/{SUMS_FILE}")),
    };
    for line in listed.lines() {
        let Some((written, name)) = line.split_once("  ") else {
            bail!("checkpoint {at} is damaged: its {SUMS_FILE} says {line:?}");
        };
        ensure!(checkpoint.join(name).exists(), "checkpoint {at} is damaged: its {name} is missing");
        ensure!(
            hash(&checkpoint.join(name))? == written,
            "checkpoint {at} is damaged: its {name} is not what was written (the hashes differ)"
        );
    }
    ensure!(listed.contains(STATE_FILE), "checkpoint {at} is damaged: its {SUMS_FILE} is incomplete");
    Ok(())
}

/// The names of the files that differ between two checkpoints, or that one of them lacks, by the hashes that were written
/// with them: see [`verify`].
///
/// # Errors
/// If the hashes of a checkpoint cannot be read.
pub fn differing_files(one: &Path, other: &Path) -> Result<Vec<String>> {
    let hashes = |checkpoint: &Path| -> Result<BTreeMap<String, String>> {
        let path = checkpoint.join(SUMS_FILE);
        let listed = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let hash_of = |line: &str| line.split_once("  ").map(|(hash, name)| (name.to_owned(), hash.to_owned()));
        Ok(listed.lines().filter_map(hash_of).collect())
    };
    let (one, other) = (hashes(one)?, hashes(other)?);
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    Ok(names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned().collect())
}

/// The last intact checkpoint in `folder` with fewer than `step` updates.
pub fn before(folder: &Path, step: Step) -> Option<PathBuf> {
    let earlier = list(folder.parent()?).ok()?.into_iter().rev().filter(|(at, _)| *at < step);
    earlier.map(|(_, path)| path).find(|path| verify(path).is_ok())
}

/// The checkpoints of a run, oldest first.
///
/// # Errors
/// If the folder exists but cannot be read.
pub fn list(run_dir: &Path) -> Result<Vec<(Step, PathBuf)>> {
    let folder = run_dir.join(CHECKPOINTS);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(step) = name.to_str().and_then(|n| n.strip_prefix("step-")).and_then(|n| n.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the state of the run at `checkpoint`.
///
/// # Errors
/// If it is not a checkpoint of this program, or has another format version.
pub fn read_state(checkpoint: &Path) -> Result<State> {
    let path = checkpoint.join(STATE_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{} is not a checkpoint of this program: it has no {STATE_FILE}", checkpoint.display())
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let state: State = serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(state.format == FORMAT, "{} has format {}; this program reads {FORMAT}", path.display(), state.format);
    Ok(state)
}

/// Removes all but the last `keep` checkpoints of `folder`.
pub(super) fn prune(folder: &Path, keep: usize) -> Result<()> {
    let Some(run_dir) = folder.parent() else { return Ok(()) };
    let found = list(run_dir)?;
    for (_, path) in &found[..found.len().saturating_sub(keep)] {
        remove(path).with_context(|| format!("cannot remove old checkpoint {}", path.display()))?;
    }
    Ok(())
}

/// Removes a checkpoint. Even if the process is killed meanwhile, a checkpoint with this name is complete or missing.
fn remove(checkpoint: &Path) -> Result<()> {
    let mut name = checkpoint.as_os_str().to_owned();
    name.push(UNFINISHED);
    fs::rename(checkpoint, &name)?;
    Ok(fs::remove_dir_all(&name)?)
}

/// Renames the checkpoints of `run_dir` that were written after `step`, because the run resumes from `step`. They are
/// no longer part of the run: `keep` does not count them, and no command uses them as the model. Returns their new
/// paths, oldest first.
///
/// # Errors
/// If one cannot be renamed.
pub fn set_aside_after(run_dir: &Path, step: Step) -> Result<Vec<PathBuf>> {
    let later = list(run_dir)?.into_iter().filter(|(at, _)| *at > step);
    let aside = |(_, path): (Step, PathBuf)| -> Result<PathBuf> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut names = (1_u32..).map(|n| path.with_file_name(format!("{ABANDONED}{n}-{name}")));
        let Some(new) = names.find(|path| !path.exists()) else { bail!("there is no name for {}", path.display()) };
        fs::rename(&path, &new).with_context(|| format!("cannot rename {}", path.display()))?;
        Ok(new)
    };
    let moved = later.map(aside).collect::<Result<Vec<_>>>()?;
    if !moved.is_empty() {
        File::open(run_dir.join(CHECKPOINTS))?.sync_all()?;
    }
    Ok(moved)
}

/// Removes what killed runs left in `folder`: checkpoints that were not completely written or removed.
pub(super) fn discard_unfinished(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::CHECKPOINTS;
    use crate::weights::MODEL_FILE;

    #[test]
    fn later_checkpoints_are_set_aside_and_stay() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let make = |step| -> Result<()> {
            let path = folder.path().join(CHECKPOINTS).join(name_of(step));
            fs::create_dir_all(&path)?;
            Ok(fs::write(path.join("model"), step.to_string())?)
        };
        let steps = || list(folder.path()).map(|all| all.into_iter().map(|(step, _)| step).collect::<Vec<_>>());
        (1..=4).try_for_each(|step| make(step * 10))?;
        assert_eq!(set_aside_after(folder.path(), 20)?.len(), 2);
        assert_eq!(steps()?, [10, 20]);
        make(30)?;
        let again = set_aside_after(folder.path(), 20)?;
        assert_eq!(again, [folder.path().join(CHECKPOINTS).join("abandoned-2-step-00000030")]);
        assert_eq!(fs::read_to_string(again[0].join("model"))?, "30");
        assert!(set_aside_after(folder.path(), 20)?.is_empty());
        prune(&folder.path().join(CHECKPOINTS), 1)?;
        assert_eq!(steps()?, [20]);
        assert_eq!(fs::read_dir(folder.path().join(CHECKPOINTS))?.count(), 4, "abandoned ones stay");
        Ok(())
    }

    #[test]
    fn damage_is_detected_and_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        assert!(verify(path).unwrap_err().to_string().contains("not a checkpoint of this program"));
        fs::write(path.join(STATE_FILE), "{}")?;
        assert!(verify(path).unwrap_err().to_string().contains("B3SUMS is missing"));
        fs::write(path.join(MODEL_FILE), "some bytes")?;
        fs::write(path.join(SUMS_FILE), sums(path)?)?;
        verify(path)?;
        fs::write(path.join(MODEL_FILE), "some bytez")?;
        assert!(verify(path).unwrap_err().to_string().contains("model.safetensors is not what was written"));
        fs::remove_file(path.join(MODEL_FILE))?;
        assert!(verify(path).unwrap_err().to_string().contains("model.safetensors is missing"));
        fs::write(path.join(SUMS_FILE), [0xff])?;
        assert!(verify(path).unwrap_err().to_string().contains("its B3SUMS is not text"));
        Ok(())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_the_system_fails_to_read_is_not_damaged() -> Result<()> {
        let folder = tempfile::tempdir()?;
        // Reading the memory of a process at address 0 is an I/O error.
        for (name, of) in
            [(SUMS_FILE, verify as fn(&Path) -> Result<()>), (STATE_FILE, |path| read_state(path).map(drop))]
        {
            std::os::unix::fs::symlink("/proc/self/mem", folder.path().join(name))?;
            let said = format!("{:#}", of(folder.path()).unwrap_err());
            assert!(said.starts_with("cannot read") && said.contains(name) && !said.contains("damaged"), "{said}");
        }
        Ok(())
    }
}
