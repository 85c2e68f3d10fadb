//! On loopback, with real sockets.
mod counting;
mod hosts;
mod links;
mod listener;
mod mesh;
mod processes;
mod transfer;

use std::time::{Duration, Instant};

/// A second.
pub const S: Duration = Duration::from_secs(1);

/// Waits for something that takes a moment. The limit is far longer than that, for a busy machine.
pub fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !happens() {
        assert!(begin.elapsed() < 60 * S, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
