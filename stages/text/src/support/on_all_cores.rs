//! Processes many pieces of work on as many threads as there are cores.
use crate::{Progress, silent};
use anyhow::{Error, Result};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Calls `work` for each of `pieces`, on as many threads as there are cores. `start` creates a thread's accumulator;
/// the accumulators are returned in no particular order. `work` also gets the index of the piece, and returns how much
/// of `total` it has completed, for `progress`, which is called on this thread.
///
/// # Errors
/// The first error in the order of the pieces; no further piece is started after an error.
pub fn on_all_cores<P: Sync, A: Send>(
    pieces: &[P],
    progress: Progress,
    total: u64,
    start: impl Fn() -> Result<A> + Sync,
    work: impl Fn(&mut A, usize, &P) -> Result<u64> + Sync,
) -> Result<Vec<A>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(pieces.len());
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let thread = |progress: Progress| -> Result<A, (usize, Error)> {
        let mut accumulated = start().map_err(|error| (0, error))?;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(at) else { return Ok(accumulated) };
            let amount = work(&mut accumulated, at, piece).map_err(|error| {
                next.store(pieces.len(), Ordering::Relaxed);
                (at, error)
            })?;
            progress(done.fetch_add(amount, Ordering::Relaxed) + amount, total);
        }
    };
    let results = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| thread(&mut silent()))).collect();
        let mut results = vec![thread(progress)];
        let join = |other: std::thread::ScopedJoinHandle<_>| other.join().unwrap_or_else(|panic| resume_unwind(panic));
        results.extend(others.into_iter().map(join));
        results
    });
    let (mut all, mut first): (_, Option<(usize, Error)>) = (Vec::new(), None);
    for result in results {
        match result {
            Ok(accumulated) => all.push(accumulated),
            Err(error) if first.as_ref().is_none_or(|first| error.0 < first.0) => first = Some(error),
            Err(_) => {}
        }
    }
    first.map_or(Ok(all), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn every_piece_is_done_once_and_the_first_error_ends_it() {
        let pieces: Vec<u64> = (0..1000).collect();
        let (mut seen, start) = (0, || Ok(0));
        let (this, has_begun) = (std::thread::current().id(), AtomicBool::new(false));
        let add = |sum: &mut u64, at: usize, piece: &u64| {
            // Progress is reported by this thread, which must get a piece.
            has_begun.fetch_or(std::thread::current().id() == this, Ordering::Relaxed);
            while !has_begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            *sum += piece * at as u64;
            Ok(1)
        };
        let sums = on_all_cores(&pieces, &mut |done, _| seen = done.max(seen), 1000, start, add).unwrap();
        assert_eq!(sums.iter().sum::<u64>(), (0..1000).map(|n| n * n).sum::<u64>());
        assert!(seen > 0);
        let failing = |_: &mut u64, _: usize, piece: &u64| if *piece < 7 { Ok(1) } else { Err(anyhow!("no {piece}")) };
        assert_eq!(on_all_cores(&pieces, &mut silent(), 1000, start, failing).unwrap_err().to_string(), "no 7");
    }
}
