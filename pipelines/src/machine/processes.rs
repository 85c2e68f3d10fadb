//! Processes that this one starts and that should not outlive it.
use anyhow::{Context, Result};
use std::process::Child;
use std::time::{Duration, Instant};

/// Processes of this machine. Those that still run are ended when this is dropped.
#[derive(Default)]
pub struct Processes(Vec<Child>);

impl Processes {
    /// Adds one.
    pub fn add(&mut self, process: Child) {
        self.0.push(process);
    }

    /// Waits until they have ended, for a few seconds.
    pub fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && self.0.iter_mut().any(|process| matches!(process.try_wait(), Ok(None))) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // Both fail if it has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// From now on this process is told to stop when process `parent`, which has started it, ends, however it does.
///
/// # Errors
/// If the system refuses, or `parent` has ended.
pub fn end_with(parent: u32) -> Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .context("cannot watch the process that started this one")?;
    let now = rustix::process::getppid();
    anyhow::ensure!(
        now.is_some() && now.map(|pid| pid.as_raw_nonzero().get()) == i32::try_from(parent).ok(),
        "the process {parent} that started this one has ended"
    );
    Ok(())
}
