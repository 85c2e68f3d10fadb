//! Reads the training rows of lanes in the order of the files, many at once, when the decoded corpus does not fit into
//! memory.
//!
//! A lane takes rows in random order, and a row can only be read by decoding the piece of the file that contains it. If
//! all pieces fit into the cache, each is decoded once. If not, nearly every row would decode a piece of several
//! megabytes. So the rows that the lane takes next are looked up (they are known in advance), and read in the order of the
//! files, which decodes each piece at most once for all of them.
use crate::corpus::lanes::{Chunk, LaneReader};
use anyhow::{Context, Result};
use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::take;
use contract::{Lane, Purpose};
use std::collections::BTreeMap;

/// Decoded bytes of the rows that are read at once, for all lanes together.
pub const WINDOW_BYTES: u64 = 64 << 20;

/// The rows that lanes take next.
pub struct ReadAhead {
    /// Decoded bytes of the rows of a lane that are read at once.
    bytes: u64,
    windows: BTreeMap<Lane, Window>,
}

/// Some rows that were read at once.
struct Window {
    /// Their numbers, ascending.
    rows: Vec<u64>,
    /// A value for each.
    values: ArrayRef,
}

impl ReadAhead {
    /// For `lanes` lanes.
    pub fn new(lanes: u32) -> Self {
        Self { bytes: WINDOW_BYTES / u64::from(lanes.max(1)), windows: BTreeMap::new() }
    }

    /// With windows of `bytes` bytes a lane.
    #[cfg(test)]
    pub fn with_bytes(bytes: u64) -> Self {
        Self { bytes, ..Self::new(1) }
    }

    /// The values of `rows`, in that order, for `lane`. If they have not been read yet, `fetch` reads them, together with
    /// the `next` ones that the lane will take: rows and their decoded bytes. It gets rows in ascending order.
    ///
    /// # Errors
    /// If `fetch` fails.
    fn take(
        &mut self,
        lane: Lane,
        rows: &[u64],
        next: impl Iterator<Item = (u64, u64)>,
        fetch: impl FnOnce(&[u64]) -> Result<ArrayRef>,
    ) -> Result<ArrayRef> {
        let known = self.windows.get(&lane).and_then(|window| window.indices(rows));
        let indices = match known {
            Some(indices) => indices,
            None => {
                self.windows.remove(&lane);
                let wanted = with_next(rows, next, self.bytes);
                let values = fetch(&wanted)?;
                let window = self.windows.entry(lane).insert_entry(Window { rows: wanted, values });
                window.get().indices(rows).context("rows were just read")?
            }
        };
        let window = self.windows.get(&lane).context("there is a window")?;
        Ok(take(&window.values, &indices, None)?)
    }
}

/// The values of the rows of `chunk`, in that order, for a lane of `lanes`, which `fetch` reads: those of training rows
/// `ahead`, if that is given.
///
/// # Errors
/// If `fetch` fails.
pub fn read(
    ahead: &mut Option<ReadAhead>,
    lanes: &LaneReader,
    lane: Lane,
    chunk: &Chunk,
    fetch: impl FnOnce(&[u64]) -> Result<ArrayRef>,
) -> Result<ArrayRef> {
    match ahead {
        Some(ahead) if chunk.purpose == Purpose::Train => ahead.take(lane, &chunk.rows, lanes.next_rows(lane), fetch),
        _ => fetch(&chunk.rows),
    }
}

impl Window {
    /// The index of each of `rows`, if all have been read.
    fn indices(&self, rows: &[u64]) -> Option<UInt64Array> {
        let index = |row: &u64| self.rows.binary_search(row).ok().map(|index| index as u64);
        rows.iter().map(index).collect::<Option<Vec<u64>>>().map(UInt64Array::from)
    }
}

/// `rows` and as many of the `next` ones as have `bytes` bytes, ascending, each once.
fn with_next(rows: &[u64], next: impl Iterator<Item = (u64, u64)>, bytes: u64) -> Vec<u64> {
    let mut wanted = rows.to_vec();
    let mut ahead = 0;
    // Rows are at least a byte, so this ends even if an endless order has no more than a few small ones.
    for (row, size) in next {
        ahead += size.max(1);
        if ahead > bytes {
            break;
        }
        wanted.push(row);
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::UInt64Type;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::sync::Arc;

    /// More bytes than all rows of an order have.
    const ALL: u64 = 7 * 200;

    proptest! {
        /// Each lane gets the values of its rows, whatever the sizes of chunks; rows are fetched in ascending order.
        #[test]
        fn lanes_get_their_rows(
            order in prop::collection::vec(0..50_u64, 1..200),
            chunks in prop::collection::vec(1..9_usize, 1..60),
            bytes in prop_oneof![0..100_u64, Just(ALL)],
        ) {
            let mut ahead = ReadAhead::with_bytes(bytes);
            let fetches = RefCell::new(0);
            let mut at = [0, order.len() / 2];
            for (number, chunk) in chunks.into_iter().enumerate() {
                let lane = (number % 2) as Lane;
                let at = &mut at[number % 2];
                let to = (*at + chunk).min(order.len());
                let next = order[to..].iter().map(|row| (*row, row % 7));
                let values = ahead.take(lane, &order[*at..to], next, |wanted| {
                    *fetches.borrow_mut() += 1;
                    assert!(wanted.is_sorted());
                    Ok(Arc::new(wanted.iter().map(|row| row * 10).collect::<UInt64Array>()))
                }).unwrap();
                let expected: Vec<u64> = order[*at..to].iter().map(|row| row * 10).collect();
                prop_assert_eq!(values.as_primitive::<UInt64Type>().values(), &expected[..]);
                *at = to;
            }
            prop_assert!(bytes < ALL || *fetches.borrow() <= 2, "a lane reads all its rows at once");
        }
    }

    /// A lane fetches once for as many rows as fit.
    #[test]
    fn a_window_lasts_as_long_as_its_bytes() {
        let (mut ahead, mut fetched) = (ReadAhead::with_bytes(1000), Vec::new());
        for row in 0..100_u64 {
            let next = (row + 1..).map(|row| (row, 100));
            let got = ahead.take(0, &[row], next, |rows| {
                fetched.push(rows.len());
                Ok(Arc::new(rows.iter().copied().collect::<UInt64Array>()))
            });
            assert_eq!(got.unwrap().len(), 1);
        }
        assert_eq!(fetched, [11; 10]);
    }
}
