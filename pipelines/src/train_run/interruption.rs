//! SIGINT, SIGTERM and SIGHUP: the first one ends training after the current step, with a checkpoint. A second SIGINT
//! or SIGTERM exits immediately, and so does any of the three before training starts.
//!
//! SIGHUP means that the terminal was closed. A shell may send it twice, so a second one changes nothing. If it is
//! ignored when the program starts (`nohup`), it stays ignored.
use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Signals that stop a run, and their names.
const STOPPING: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// Exit codes of programs that were stopped by a signal are above this.
pub const SIGNALLED: u8 = 128;

/// A run that was stopped by a signal and can be resumed: exit code 129, 130 or 143.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Interrupted {
    /// 128 and the signal's number, as shells count.
    pub code: u8,
    message: String,
}

impl Interrupted {
    /// By the signal of this number.
    pub fn by(signal: u8, message: String) -> Self {
        Self { code: SIGNALLED + signal, message }
    }
}

/// What signals do from here on.
pub struct Interruption {
    /// Does SIGINT or SIGTERM end the program at once?
    at_once: Arc<AtomicBool>,
    /// Does SIGHUP?
    idle: Arc<AtomicBool>,
    watched: Vec<(i32, &'static str)>,
    signal: Arc<AtomicUsize>,
}

impl Interruption {
    /// Signals end the program at once, with exit code 129, 130 or 143: files are whole or not there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn at_once() -> Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        let [at_once, idle] = [(); 2].map(|()| Arc::new(AtomicBool::new(true)));
        let watched: Vec<_> =
            STOPPING.into_iter().filter(|(number, _)| *number != SIGHUP || !ignores_hangup()).collect();
        let register = || -> std::io::Result<()> {
            for (number, _) in &watched {
                if *number == SIGHUP {
                    flag::register_conditional_shutdown(SIGHUP, 128 + SIGHUP, Arc::clone(&idle))?;
                } else {
                    // In this order: the first signal clears the way for the second.
                    flag::register_conditional_shutdown(*number, 128 + number, Arc::clone(&at_once))?;
                    flag::register(*number, Arc::clone(&at_once))?;
                }
                flag::register_usize(*number, Arc::clone(&signal), *number as usize)?;
            }
            // A file that would exceed the limit of its size is an error of who writes it, not the program's end.
            flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
            Ok(())
        };
        register().context("cannot watch for signals")?;
        Ok(Self { at_once, idle, watched, signal })
    }

    /// The first signal from here on calls `stop` with its number, and `say` tells that it did.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn ask(&self, stop: impl Fn(u8) + Send + 'static, say: impl Fn(&str) + Send + 'static) -> Result<()> {
        let mut signals =
            Signals::new(self.watched.iter().map(|(number, _)| number)).context("cannot watch for signals")?;
        let watch = move || {
            let first = signals.forever().next();
            if let Some((number, name)) = STOPPING.into_iter().find(|(number, _)| Some(*number) == first) {
                stop(u8::try_from(number).unwrap_or_default());
                say(&format!("{name}: stopping after this step; repeat to exit immediately"));
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch).context("cannot start a thread")?;
        self.set(false);
        Ok(())
    }

    /// To be called after training: from then on, any signal exits immediately.
    pub fn over(&self) {
        self.set(true);
    }

    fn set(&self, at_once: bool) {
        self.at_once.store(at_once, Ordering::SeqCst);
        self.idle.store(at_once, Ordering::SeqCst);
    }

    /// Several runs were stopped, of which so many are done; the same command goes on.
    pub fn several(&self, done: usize, runs: usize) -> Interrupted {
        let same = command(std::env::args_os().skip(1));
        let message = format!("Stopped after {done} of {runs} runs; the same command goes on\nresume with: {same}");
        Interrupted::by(u8::try_from(self.signal.load(Ordering::SeqCst)).unwrap_or_default(), message)
    }

    /// The run was stopped, by a signal if there was one, after `step` of `steps` updates and left `checkpoint`.
    pub fn interrupted(&self, step: u64, steps: u64, checkpoint: Option<PathBuf>) -> Interrupted {
        let signal = self.signal.load(Ordering::SeqCst);
        let message = match checkpoint {
            Some(path) => format!(
                "Stopped after step {step} of {steps}; the checkpoint is {}\nresume with: {}",
                path.display(),
                resuming(std::env::args_os().skip(1), signal == 0)
            ),
            None if step == 0 => "Stopped before the first step; nothing is kept".into(),
            None => format!(
                "Stopped after step {step} of {steps}; nothing is kept: the configuration has no stage that writes \
                 checkpoints"
            ),
        };
        Interrupted::by(u8::try_from(signal).unwrap_or_default(), message)
    }
}

/// The number of the last signal that would have stopped the program, from here on: 0 before there is one. It is up to the
/// caller to end.
///
/// # Errors
/// If the system refuses.
pub fn noticed() -> Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    for (number, _) in STOPPING {
        flag::register_usize(number, Arc::clone(&signal), number as usize).context("cannot watch for signals")?;
    }
    Ok(signal)
}

/// Does this process ignore SIGHUP, as under `nohup`? Where the system does not say, it does as far as we are
/// concerned.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask >> (SIGHUP - 1) & 1 == 1)
}

/// The command that resumes the run that the one with `arguments` started. If it was `done` up to `--stop-after`, the new
/// one goes on.
fn resuming(arguments: impl Iterator<Item = OsString>, done: bool) -> String {
    let (mut kept, mut is_value) = (Vec::new(), false);
    for argument in arguments {
        let text = argument.to_string_lossy();
        let (name, value) = text.split_once('=').map_or((&*text, None), |(name, value)| (name, Some(value)));
        let leave_out = is_value || name == "--resume" || done && name == "--stop-after";
        is_value = done && name == "--stop-after" && value.is_none();
        if !leave_out {
            kept.push(argument);
        }
    }
    command(kept.into_iter().chain(["--resume".into()]))
}

/// The command with these arguments, as one writes it in a shell.
fn command(arguments: impl Iterator<Item = OsString>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%".contains(c);
    let arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let quoted = arguments.map(|argument| match !argument.is_empty() && argument.chars().all(plain) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    });
    std::iter::once("pipeline".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_goes_on() {
        let of = |line: &[&str]| resuming(line.iter().map(OsString::from), false);
        let after = ["run", "--stop-after", "5", "c.toml", "--stop-after=7"];
        assert_eq!(of(&after), "pipeline run --stop-after 5 c.toml --stop-after=7 --resume");
        assert_eq!(resuming(after.iter().map(OsString::from), true), "pipeline run c.toml --resume");
        assert_eq!(of(&["run", "c.toml"]), "pipeline run c.toml --resume");
        assert_eq!(of(&["run", "--resume=runs/a/checkpoints/b", "c.toml"]), "pipeline run c.toml --resume");
        assert_eq!(
            of(&["run", "my runs/c.toml", "--resume", "--set", "a.b=\"it's\""]),
            r#"pipeline run 'my runs/c.toml' --set 'a.b="it'\''s"' --resume"#
        );
    }
}
