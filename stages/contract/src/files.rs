//! Files that appear complete or not at all, even if the process is killed.
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes the file `path` atomically: under a temporary name in the same folder (`.NAME.PROCESS.NUMBER.part`), which is
/// synced and renamed. Creates the folder if needed. An existing regular file is replaced.
///
/// # Errors
/// If `path` is anything but a regular file, since renaming would replace a device, or a link instead of its target. If
/// `write` fails or the file cannot be written; then nothing is left of it.
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
        // Makes the rename durable. Some file systems cannot sync a folder.
        let _ = folder.sync_all();
    }
    written
}

/// Checks that `path` can be replaced: there is no file, or a regular one.
fn replaceable(path: &Path) -> Result<()> {
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

/// Creates a hidden file in `folder` that will be renamed to `path`. No other process uses it, not even one with the
/// same process number in another container.
fn temporary(folder: &Path, path: &Path) -> Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!(".{name}.{}.{number}.part", std::process::id()));
        match File::create_new(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            // A process with this number in another container is writing it, or a killed process has left it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write {}", temporary.display())),
        }
    }
}

/// The content of the file `path`; `None` if there is none.
///
/// # Errors
/// If it is there and cannot be read.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Whether the operating system failed, other than for a missing file, so that the error says nothing about the data.
pub fn is_of_the_system(error: &anyhow::Error) -> bool {
    system_errors(error).any(|kind| kind != ErrorKind::NotFound)
}

/// Whether the operating system failed to read a file that a configuration names, so that nothing has to be corrected
/// there. If the file is missing, may not be read, or is a folder, it is the wrong file.
pub fn is_not_of_the_configuration(error: &anyhow::Error) -> bool {
    use ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    system_errors(error).any(|kind| !matches!(kind, NotFound | PermissionDenied | IsADirectory | NotADirectory))
}

fn system_errors(error: &anyhow::Error) -> impl Iterator<Item = ErrorKind> {
    let errors = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    errors.filter(|error| error.raw_os_error().is_some()).map(std::io::Error::kind)
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
}
