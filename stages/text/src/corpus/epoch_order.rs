//! The order of the training documents of an epoch: sorted by a hash of seed, epoch and content, so that it does not
//! depend on where documents are, and documents that are added or removed do not change the order of the others.
use crate::support::permutation::mix;
use contract::lock;
use std::sync::{Arc, Mutex, Weak};

/// The name in a run's fingerprint of what decides the order of a source's documents.
pub const ORDER: &str = "order of documents";
/// Its value: the order by [`epoch_order`]. Runs of programs that ordered documents by their positions have none.
pub const BY_CONTENT: &str = "by content";

/// Documents of a bucket that is sorted at once, on average.
const BUCKET: usize = 1 << 10;
/// Most bits of a key that select a bucket.
const MAX_BITS: u32 = 16;

/// What decides the order of an epoch: a permutation of all hashes.
#[derive(Clone, Copy, Debug)]
struct EpochKey([u64; 2]);

impl EpochKey {
    /// The key for `epoch` of a run with `seed`.
    fn new(seed: u64, epoch: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("millrace order of documents 1");
        hasher.update(&seed.to_le_bytes()).update(&epoch.to_le_bytes());
        let mut stream = hasher.finalize_xof();
        Self(std::array::from_fn(|_| {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        }))
    }

    /// By what the document with this hash is sorted: equal for equal hashes only.
    fn of(&self, hash: u64) -> u64 {
        let Self([first, second]) = self;
        mix(mix(hash ^ first).wrapping_add(*second))
    }
}

/// The documents with these content hashes in the order of `epoch` of a run with `seed`: indices into `hashes`. Documents
/// with equal hashes stay in their order. Takes 4 bytes per document; there must be at most 2^32.
///
/// ```
/// # use millrace_text::corpus::epoch_order::epoch_order;
/// let order = |hashes: &[u64]| epoch_order(hashes, 1, 0).into_iter().map(|at| hashes[at as usize]).collect::<Vec<_>>();
/// let all = order(&[11, 12, 13, 14, 15]);
/// let without_13: Vec<u64> = all.iter().copied().filter(|hash| *hash != 13).collect();
/// assert_eq!(order(&[15, 14, 12, 11]), without_13);
/// ```
pub fn epoch_order(hashes: &[u64], seed: u64, epoch: u64) -> Vec<u32> {
    let key = EpochKey::new(seed, epoch);
    let bits = (hashes.len() / BUCKET).checked_ilog2().map_or(0, |bits| bits + 1).min(MAX_BITS);
    // In two steps, because shifting by all 64 bits would overflow.
    let bucket = |hash: &u64| (key.of(*hash) >> 1 >> (u64::BITS - 1 - bits)) as usize;
    let mut starts = vec![0; (1 << bits) + 1];
    hashes.iter().for_each(|hash| starts[bucket(hash) + 1] += 1);
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let (mut order, mut next) = (vec![0; hashes.len()], starts.clone());
    for (document, hash) in (0..).zip(hashes) {
        let place: &mut usize = &mut next[bucket(hash)];
        order[*place] = document;
        *place += 1;
    }
    let mut sorted: Vec<(u64, u32)> = Vec::new();
    for range in starts.windows(2) {
        let documents = &mut order[range[0]..range[1]];
        sorted.clear();
        sorted.extend(documents.iter().map(|document| (key.of(hashes[*document as usize]), *document)));
        sorted.sort_unstable();
        documents.iter_mut().zip(&sorted).for_each(|(place, (_, document))| *place = *document);
    }
    order
}

/// The orders of the epochs that lanes are reading: each is computed once, by the first lane that gets there, and kept for
/// as long as a lane reads it.
#[derive(Debug, Default)]
pub struct EpochOrders(Mutex<Vec<CachedOrder>>);

/// Seed and epoch, and the order.
type CachedOrder = ((u64, u64), Weak<Vec<u32>>);

impl EpochOrders {
    /// The order of `epoch` of a run with `seed`: see [`epoch_order`]. All calls must have the same `hashes`.
    pub fn get(&self, hashes: &[u64], seed: u64, epoch: u64) -> Arc<Vec<u32>> {
        // Locked while it is computed, so that lanes of other workers wait for it.
        let mut kept = lock(&self.0);
        kept.retain(|(_, order)| order.strong_count() > 0);
        let known = kept.iter().find(|(of, _)| *of == (seed, epoch)).and_then(|(_, order)| order.upgrade());
        known.unwrap_or_else(|| {
            let order = Arc::new(epoch_order(hashes, seed, epoch));
            kept.push(((seed, epoch), Arc::downgrade(&order)));
            order
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The hashes in the order of an epoch.
    fn sorted(hashes: &[u64], seed: u64, epoch: u64) -> Vec<u64> {
        epoch_order(hashes, seed, epoch).into_iter().map(|document| hashes[document as usize]).collect()
    }

    /// Hashes as texts have them, of up to 3000 documents, some of which are equal.
    fn hashes() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(prop_oneof![any::<u64>(), 0u64..50], 0..3000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn each_document_is_read_once_and_equal_ones_in_their_order(hashes in hashes(), seed: u64, epoch in 0u64..5) {
            let order = epoch_order(&hashes, seed, epoch);
            prop_assert!(order.iter().copied().collect::<BTreeSet<_>>().into_iter().eq(0..hashes.len() as u32));
            for pair in order.windows(2).filter(|pair| hashes[pair[0] as usize] == hashes[pair[1] as usize]) {
                prop_assert!(pair[0] < pair[1]);
            }
        }

        /// Also if other documents have been removed or added, and whatever their number does to the buckets.
        #[test]
        fn documents_keep_their_relative_order_in_every_epoch(
            hashes in hashes(), seed: u64, epoch in 0u64..5, kept in any::<u64>(),
        ) {
            let is_kept = |hash: &u64| !mix(hash ^ kept).is_multiple_of(3);
            let left: Vec<u64> = hashes.iter().copied().filter(is_kept).collect();
            let expected: Vec<u64> = sorted(&hashes, seed, epoch).into_iter().filter(is_kept).collect();
            prop_assert_eq!(sorted(&left, seed, epoch), expected);
        }

        #[test]
        fn documents_may_be_anywhere(hashes in hashes(), seed: u64, epoch in 0u64..5, turn in 0usize..3000) {
            let mut moved = hashes.clone();
            moved.rotate_left(turn % hashes.len().max(1));
            moved.reverse();
            prop_assert_eq!(sorted(&moved, seed, epoch), sorted(&hashes, seed, epoch));
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_neighbours_part() {
        let hashes: Vec<u64> = (0..1000).map(mix).collect();
        let (a, b) = (epoch_order(&hashes, 1, 0), epoch_order(&hashes, 1, 1));
        let same = |one: &[u32], other: &[u32]| one.iter().zip(other).filter(|(one, other)| one == other).count();
        assert!(same(&a, &b) < 20 && same(&a, &epoch_order(&hashes, 2, 0)) < 20);
        assert!(a.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count() < 20);
        // Golden: the order of a run must not change between versions.
        assert_eq!(a[..8], [347, 650, 7, 870, 27, 287, 182, 936]);
    }

    #[test]
    fn an_order_is_computed_once_while_it_is_read() {
        let (orders, hashes) = (EpochOrders::default(), [7, 8, 9]);
        let first = orders.get(&hashes, 1, 0);
        assert!(Arc::ptr_eq(&first, &orders.get(&hashes, 1, 0)));
        let second = orders.get(&hashes, 1, 1);
        assert!(!Arc::ptr_eq(&first, &second));
        drop((first, second));
        drop(orders.get(&hashes, 2, 0));
        assert_eq!(lock(&orders.0).len(), 1, "orders that nobody reads are forgotten");
    }
}
