//! What goes wrong while a run runs, and around its directory: it is said, and nothing that was whole is lost.
use crate::support::{Ran, Scratch};
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(scratch: &Scratch, more: &[&str]) -> Ran {
    scratch.pipeline(&[&["run", "run.toml", "--run-dir", "r"][..], more].concat())
}

/// The same command in a shell that says something first.
fn after(scratch: &Scratch, first: &str, arguments: &[&str]) -> Ran {
    let plain = scratch.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first}; exec \"$@\""), "sh"]).arg(plain.get_program()).args(plain.get_args());
    shell.current_dir(plain.get_current_dir().expect("a scratch directory"));
    shell.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().expect("a shell");
    Ran {
        command: format!("{first}; pipeline {}", arguments.join(" ")),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A file system of its own, until dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this may not be done.
    fn at(path: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path);
        let done = mount.output().is_ok_and(|output| output.status.success());
        if !done {
            println!("skipped: tmpfs cannot be mounted here");
        }
        done.then(|| Self(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before() {
    let scratch = Scratch::new();
    scratch.train("fill-the-cache", &[]);
    let Some(_mounted) = Mounted::at(&scratch.path("r"), "size=800k") else { return };
    // A checkpoint is about 500 kB, and the next is written before the last is removed.
    let ran = run(&scratch, &["--set", "checkpoint.keep=1"]);
    ran.fails(1, &["cannot write checkpoint step-00000006", "step-00000003 is intact", "--resume", "No space left"]);
    assert_eq!(scratch.checkpoints("r"), ["step-00000003"], "nothing half-written is left");
    let more = Command::new("mount").args(["-o", "remount,size=4m"]).arg(scratch.path("r")).status();
    assert!(more.is_ok_and(|status| status.success()));
    run(&scratch, &["--resume", "--set", "checkpoint.keep=1"]).succeeds();
    assert_eq!(scratch.numbers("r"), scratch.numbers("fill-the-cache"));
    assert!(scratch.last("r", "optimizer.safetensors") == scratch.last("fill-the-cache", "optimizer.safetensors"));
}

#[test]
#[cfg(unix)]
fn a_file_that_grows_beyond_its_limit_leaves_the_checkpoint_before() {
    let scratch = Scratch::new();
    scratch.train("r", &["--set", "run.max_steps=3", "--set", "optimize.schedule_steps=6"]);
    // Blocks of 512 bytes: the model fits, the optimizer's state does not.
    let ran = after(&scratch, "ulimit -f 400", &["run", "run.toml", "--run-dir", "r", "--resume"]);
    ran.fails(1, &["cannot write checkpoint step-00000006", "step-00000003 is intact", "optimizer.safetensors"]);
    assert_eq!(scratch.checkpoints("r"), ["step-00000003"], "nothing half-written is left");
    run(&scratch, &["--resume"]).succeeds();
    let ran = after(&scratch, "ulimit -f 400", &["run", "run.toml", "--run-dir", "first"]);
    ran.fails(1, &["cannot write checkpoint step-00000003, the first of this run"]);
    assert_eq!(scratch.checkpoints("first"), [""; 0]);
}

#[test]
fn a_loss_that_is_not_finite_names_its_step_and_the_run_goes_on_from_before() {
    let scratch = Scratch::new();
    let wild = [
        ["--set", "optimize.learning_rate=1e3"],
        ["--set", "optimize.clip_norm=0"],
        ["--set", "optimize.schedule=constant"],
        ["--set", "optimize.weight_decay=900"],
        ["--set", "checkpoint.interval=1"],
        ["--set", "run.max_steps=60"],
    ]
    .concat();
    let ran = run(&scratch, &wild);
    let ran = ran.fails(1, &["not finite", "nothing was updated", "optimize.learning_rate", "step "]);
    let kept = scratch.checkpoints("r").pop().expect("a checkpoint");
    let (_, update) = ran.stderr.split_once("of update ").expect("which update");
    let update: u64 = update.split(' ').next().and_then(|n| n.parse().ok()).expect("its number");
    let last: u64 = kept.trim_start_matches("step-").parse().expect("its number");
    assert!(last < update, "{kept} was written after update {update} failed");
    // Every line is JSON with a loss, none of a step that was not done.
    assert!(scratch.metrics("r").iter().all(|line| line["loss"].is_f64() && line["step"].as_u64() < Some(update)));
    // From there on it fails at the same update.
    let again = [&wild[..], &["--resume"]].concat();
    run(&scratch, &again).fails(1, &[&format!("of update {update} is not finite")]);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("thesis")).unwrap();
    scratch.write("thesis/chapter.txt", "mine");
    for more in [&[][..], &["--resume"]] {
        let ran = scratch.pipeline(&[&["run", "run.toml", "--run-dir", "thesis"][..], more].concat());
        ran.fails(2, &["thesis is not a run directory; it contains chapter.txt", "--run-dir"]);
    }
    assert_eq!(std::fs::read_dir(scratch.path("thesis")).unwrap().count(), 1);
    std::fs::create_dir(scratch.path("empty")).unwrap();
    scratch.train("empty", &[]);
}

#[test]
#[cfg(unix)]
fn a_directory_that_exists_and_cannot_be_written_is_refused_before_any_work() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("r")).unwrap();
    std::fs::set_permissions(scratch.path("r"), std::fs::Permissions::from_mode(0o555)).unwrap();
    let mut mounted = None;
    if std::fs::write(scratch.path("r/probe"), "").is_ok() {
        // Who may do everything is stopped by the file system only.
        std::fs::remove_file(scratch.path("r/probe")).unwrap();
        mounted = Mounted::at(&scratch.path("r"), "ro");
        if mounted.is_none() {
            return;
        }
    }
    let ran = run(&scratch, &[]).fails(1, &["cannot write into the run directory r"]);
    assert!(!ran.stderr.contains("Splitting"), "{}", ran.stderr);
    drop(mounted);
}

/// What a flipped bit, a cut or a missing file is.
fn damage(scratch: &Scratch, file: &str, how: fn(&mut Vec<u8>)) {
    let mut bytes = scratch.bytes(file);
    how(&mut bytes);
    match bytes.is_empty() {
        true => std::fs::remove_file(scratch.path(file)).unwrap(),
        false => scratch.write(file, bytes),
    }
}

#[test]
fn a_damaged_checkpoint_is_named_with_the_whole_one_before_it() {
    let scratch = Scratch::new();
    let flip: fn(&mut Vec<u8>) = |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 16;
    };
    let cut: fn(&mut Vec<u8>) = |bytes| bytes.truncate(bytes.len() / 2);
    let remove: fn(&mut Vec<u8>) = Vec::clear;
    scratch.train("whole", &[]);
    for (file, how) in [
        ("model.safetensors", flip),
        ("optimizer.safetensors", flip),
        ("state.json", flip),
        ("model.safetensors", cut),
        ("optimizer.safetensors", remove),
        ("tokenizer.json", remove),
        ("B3SUMS", remove),
    ] {
        let _ = std::fs::remove_dir_all(scratch.path("r"));
        copy(&scratch.path("whole"), &scratch.path("r"));
        damage(&scratch, &format!("r/checkpoints/step-00000006/{file}"), how);
        let known = ["r/checkpoints/step-00000006 is damaged", file, "--resume=r/checkpoints/step-00000003"];
        run(&scratch, &["--resume"]).fails(1, &known);
        scratch.pipeline(&["evaluate", "r"]).fails(1, &known);
        run(&scratch, &["--resume=r/checkpoints/step-00000003"]).succeeds();
        assert!(scratch.last("r", "optimizer.safetensors") == scratch.last("whole", "optimizer.safetensors"), "{file}");
    }
    damage(&scratch, "r/checkpoints/step-00000006/model.safetensors", flip);
    damage(&scratch, "r/checkpoints/step-00000003/model.safetensors", flip);
    run(&scratch, &["--resume"]).fails(1, &["step-00000006 is damaged", "no earlier checkpoint is intact"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let there = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &there),
            false => drop(std::fs::copy(entry.path(), there).unwrap()),
        }
    }
}

#[test]
fn what_a_killed_run_was_writing_is_removed() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    scratch.write("r/.config.toml.4711.0.part", "half");
    std::fs::create_dir(scratch.path("r/checkpoints/step-00000009.unfinished")).unwrap();
    run(&scratch, &["--resume"]).succeeds();
    assert!(!scratch.path("r/.config.toml.4711.0.part").exists());
    assert_eq!(scratch.checkpoints("r"), ["step-00000003", "step-00000006"]);
}
