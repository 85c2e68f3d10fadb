//! Parallel map over items, with results in the order of the items.
use anyhow::Result;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread::Result as Outcome;

/// Calls `give` with `work(item)` for each item that `next` returns, in order. `next` and `give` are called on this
/// thread; at most `4 × threads` items are in flight. A panic of `work` continues on this thread.
pub fn in_order<T: Send, U: Send>(
    threads: usize,
    mut next: impl FnMut() -> Result<Option<T>>,
    work: impl Fn(T) -> U + Sync,
    mut give: impl FnMut(U) -> Result<()>,
) -> Result<()> {
    let threads = threads.max(1);
    let (item_in, item_out) = channel::<(u64, T)>();
    let (result_in, result_out) = channel::<(u64, Outcome<U>)>();
    let item_out = Mutex::new(item_out);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let result_in = result_in.clone();
            let (item_out, work) = (&item_out, &work);
            scope.spawn(move || {
                loop {
                    let item = item_out.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
                    let Ok((number, item)) = item else { return };
                    let outcome = catch_unwind(AssertUnwindSafe(|| work(item)));
                    if result_in.send((number, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(result_in);
        // Dropped at the end of this closure in any case; the threads then end.
        let item_in = item_in;
        let (mut sent, mut given, mut ended) = (0, 0, false);
        let mut early = BTreeMap::new();
        loop {
            while !ended && sent - given < 4 * threads as u64 {
                match next()? {
                    Some(item) => {
                        item_in.send((sent, item)).map_err(|_| anyhow::anyhow!("the threads are gone"))?;
                        sent += 1;
                    }
                    None => ended = true,
                }
            }
            if given == sent {
                return Ok(());
            }
            let (number, result) = result_out.recv()?;
            early.insert(number, result.unwrap_or_else(|panic| resume_unwind(panic)));
            while let Some(result) = early.remove(&given) {
                given += 1;
                give(result)?;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_errors_end_it() {
        for threads in [1, 3] {
            let (mut n, mut seen) = (0, Vec::new());
            let next = || {
                n += 1;
                Ok((n <= 100).then_some(n))
            };
            in_order(
                threads,
                next,
                |n| n * 2,
                |n| {
                    seen.push(n);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (1..=100).map(|n| n * 2).collect::<Vec<i32>>());
            let stopped = in_order(threads, || Ok(Some(1)), |n| n, |_| anyhow::bail!("no more"));
            assert_eq!(stopped.unwrap_err().to_string(), "no more");
            let panicked = catch_unwind(|| in_order(threads, || Ok(Some(1)), |_| panic!("oh"), |()| Ok(())));
            assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"oh"));
        }
    }
}
