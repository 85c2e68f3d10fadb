//! Processes that this one starts and that should not outlive it.
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
