//! Panics are bugs. They end a command with a message that asks for a report and says where in the source to look.
use anyhow::{Error, Result, anyhow};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

/// A panic that has happened.
struct Panic {
    message: String,
    /// `file:line`.
    location: String,
}

/// The last panics. A caught panic carries only its message; the hook alone is told the location.
static SEEN: Mutex<VecDeque<Panic>> = Mutex::new(VecDeque::new());
/// How many are kept.
const KEPT: usize = 16;

/// From here on, a panic in any thread is recorded instead of printed.
pub fn record() {
    set_hook(Box::new(|info| {
        let location = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == KEPT {
            seen.pop_front();
        }
        seen.push_back(Panic { message: message(info.payload()), location });
    }));
}

/// Runs `work`; a panic in it becomes an error ([`error`]).
///
/// # Errors
/// If `work` fails or panics.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(error(&*payload)))
}

/// The error for a caught panic: its message, its location where it was recorded, and a request to report it.
pub fn error(payload: &(dyn Any + Send)) -> Error {
    let message = message(payload);
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let location = seen.iter().rev().find(|panic| panic.message == message).map(|panic| panic.location.as_str());
    describe(&message, location)
}

/// The error for a panic of which only that it happened is known: the last one that was recorded.
pub fn last() -> Error {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let last = seen.back();
    describe(last.map_or("a thread panicked", |panic| &panic.message), last.map(|panic| panic.location.as_str()))
}

fn describe(message: &str, location: Option<&str>) -> Error {
    let at = location.filter(|at| !at.is_empty()).map(|at| format!(" at {at}")).unwrap_or_default();
    anyhow!("internal error{at}: {message} (please report this)")
}

fn message(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::take_hook;

    #[test]
    fn the_message_names_the_line_whichever_thread_panicked() {
        let before = take_hook();
        record();
        let (here, line) = (catch(|| -> Result<()> { panic!("asked to, {}", 1) }), line!());
        let there = std::thread::scope(|threads| threads.spawn(|| panic!("asked to, 2")).join().unwrap_err());
        let (there, next) = (error(&*there), line!() - 1);
        let known_to_have_happened = last();
        set_hook(before);
        let of = |line: u32, n: u32| {
            format!("internal error at pipelines/src/panics.rs:{line}: asked to, {n} (please report this)")
        };
        assert_eq!(here.unwrap_err().to_string(), of(line, 1));
        assert_eq!(there.to_string(), of(next, 2));
        assert!(known_to_have_happened.to_string().starts_with("internal error at "));
    }
}
