//! SIGINT and SIGTERM: the first ends training after its step, with a checkpoint; a second, or one while there is
//! nothing to keep yet, leaves at once.
use crate::engine::Stop;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A run that was stopped by a signal and can be resumed: exit code 130 or 143.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Interrupted {
    /// 128 and the signal's number, as shells count.
    pub code: u8,
    message: String,
}

/// What signals do from here on.
pub struct Interruption {
    at_once: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interruption {
    /// Signals end the program at once, with exit code 130 or 143: files are whole or not there.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn at_once() -> Result<Self> {
        let (at_once, signal) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let register = || -> std::io::Result<()> {
            for number in [SIGINT, SIGTERM] {
                // In this order: the first signal clears the way for the second.
                flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&at_once))?;
                flag::register(number, Arc::clone(&at_once))?;
                flag::register_usize(number, Arc::clone(&signal), number as usize)?;
            }
            // A file that would exceed the limit of its size is an error of who writes it, not the program's end.
            flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
            Ok(())
        };
        register().context("cannot watch for signals")?;
        Ok(Self { at_once, signal })
    }

    /// The first signal from here on asks `stop`, and `say` tells that it did.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn ask(&self, stop: Arc<Stop>, say: impl Fn(&str) + Send + 'static) -> Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot watch for signals")?;
        let watch = move || {
            if let Some(number) = signals.forever().next() {
                stop.ask();
                let name = if number == SIGINT { "SIGINT" } else { "SIGTERM" };
                say(&format!("{name}: stopping after this step; repeat to exit immediately"));
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch).context("cannot start a thread")?;
        self.at_once.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Training is over: there is nothing to wait for any more.
    pub fn over(&self) {
        self.at_once.store(true, Ordering::SeqCst);
    }

    /// The run was stopped after `step` of `steps` updates and left `checkpoint`.
    pub fn interrupted(&self, step: u64, steps: u64, checkpoint: Option<PathBuf>) -> Interrupted {
        let signal = self.signal.load(Ordering::SeqCst);
        let message = match checkpoint {
            Some(path) => format!(
                "Stopped after step {step} of {steps}; the checkpoint is {}\nresume with: {}",
                path.display(),
                resuming(std::env::args_os().skip(1))
            ),
            None => format!(
                "Stopped after step {step} of {steps}; nothing is kept: the configuration has no stage that writes \
                 checkpoints"
            ),
        };
        Interrupted { code: 128 + u8::try_from(signal).unwrap_or_default(), message }
    }
}

/// The command that resumes the run that the one with `arguments` started.
fn resuming(arguments: impl Iterator<Item = OsString>) -> String {
    let arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let kept = arguments.filter(|argument| argument != "--resume" && !argument.starts_with("--resume="));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+:,@%".contains(c);
    let quoted = kept.map(|argument| match !argument.is_empty() && argument.chars().all(plain) {
        true => argument,
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    });
    std::iter::once("pipeline".to_owned()).chain(quoted).chain(["--resume".to_owned()]).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_goes_on() {
        let of = |line: &[&str]| resuming(line.iter().map(OsString::from));
        assert_eq!(of(&["run", "c.toml"]), "pipeline run c.toml --resume");
        assert_eq!(of(&["run", "--resume=runs/a/checkpoints/b", "c.toml"]), "pipeline run c.toml --resume");
        assert_eq!(
            of(&["run", "my runs/c.toml", "--resume", "--set", "a.b=\"it's\""]),
            r#"pipeline run 'my runs/c.toml' --set 'a.b="it'\''s"' --resume"#
        );
    }
}
