//! An allocator for large buffers. Chunks of memory are split into pieces and merged again, and are never returned to
//! the operating system. Phases of a step reuse memory whatever the sizes of their buffers: gradients are placed where
//! activations were.
//!
//! Each memory node of the machine has chunks of its own ([`use_node`]).
//!
//! An allocation takes the smallest free piece that is large enough and splits it (best fit; Knuth, volume 1, section
//! 2.5). Adjacent free pieces are merged immediately.
use bytes::BytesMut;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes of a cache line: pieces start and end at multiples of it.
const LINE: usize = 64;
/// Gap between the end of a piece and the next piece, in bytes. Sizes are often multiples of a page; if all pieces
/// started at a page boundary, the same offsets in them would map to the same sets of the L1 cache.
const APART: usize = 5 * LINE;
/// Bytes of a huge page: chunks start at multiples of it.
const HUGE_PAGE: usize = 2 << 20;
/// Minimum size of a chunk in bytes. Pages that have never been written to take no physical memory.
const CHUNK: usize = 1 << 30;

/// The location of a piece: its chunk, and the offset in bytes from the chunk's start.
type Location = (usize, usize);

/// An owned part of a chunk. Dropping it returns it to the pool.
pub struct Piece {
    location: Location,
    bytes: BytesMut,
}

impl Piece {
    /// Allocates at least `bytes` bytes. They are initialised, but with unspecified values.
    pub fn new(bytes: usize) -> Self {
        pool().take(NODE.get(), bytes.next_multiple_of(LINE) + APART)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its bytes, mutable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Splits off what begins at byte `at`, without copying.
    ///
    /// # Panics
    /// If `at` is not a multiple of a cache line, or greater than the length.
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at.is_multiple_of(LINE), "pieces start at cache lines, byte {at} is none");
        Self { location: (self.location.0, self.location.1 + at), bytes: self.bytes.split_off(at) }
    }

    /// Takes back what [`split_off`](Self::split_off) has returned.
    ///
    /// # Panics
    /// If `next` does not begin where this piece ends.
    pub fn unsplit(&mut self, mut next: Self) {
        assert_eq!(
            (self.location.0, self.location.1 + self.bytes.len()),
            next.location,
            "pieces that are not adjacent"
        );
        self.bytes.unsplit(std::mem::take(&mut next.bytes));
        std::mem::forget(next);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        pool().put(self.location, std::mem::take(&mut self.bytes));
    }
}

/// Peak number of allocated bytes since the last call of [`watch`].
pub fn most_bytes() -> u64 {
    pool().most as u64
}

/// Resets [`most_bytes`]; returns the number of bytes that are allocated now.
pub fn watch() -> u64 {
    let mut pool = pool();
    pool.most = pool.taken;
    pool.taken as u64
}

/// Sets a function that is called with each new chunk from now on, for example to ask the system for huge pages.
pub fn on_new_chunk(advise: fn(&mut [u8])) {
    let _ = ADVICE.set(advise);
}

/// From now on, the calling thread allocates from chunks that only threads of memory node `node` allocate from; the node
/// of other threads is 0. The system places memory on the node of the thread that uses it first.
pub fn use_node(node: usize) {
    NODE.set(node);
}

thread_local! {
    /// See [`use_node`].
    static NODE: Cell<usize> = const { Cell::new(0) };
}

static ADVICE: OnceLock<fn(&mut [u8])> = OnceLock::new();
static POOL: Mutex<Pool> = Mutex::new(Pool::new());

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Pool {
    free: BTreeMap<Location, BytesMut>,
    /// The free pieces by node and size.
    sizes: BTreeSet<(usize, usize, Location)>,
    /// The node of each chunk.
    nodes: Vec<usize>,
    taken: usize,
    most: usize,
}

impl Pool {
    const fn new() -> Self {
        Self { free: BTreeMap::new(), sizes: BTreeSet::new(), nodes: Vec::new(), taken: 0, most: 0 }
    }

    /// Allocates a piece of `need` bytes on a node.
    fn take(&mut self, node: usize, need: usize) -> Piece {
        let fit = self.sizes.range((node, need, (0, 0))..(node + 1, 0, (0, 0))).next();
        let location = fit.map(|(_, _, location)| *location).unwrap_or_else(|| self.grow(node, need));
        let mut bytes = self.remove(location);
        if bytes.len() > need {
            let rest = bytes.split_off(need);
            self.insert((location.0, location.1 + need), rest);
        }
        self.taken += need;
        self.most = self.most.max(self.taken);
        Piece { location, bytes }
    }

    fn put(&mut self, mut location: Location, mut bytes: BytesMut) {
        self.taken -= bytes.len();
        let before = self.free.range(..location).next_back().map(|(at, bytes)| (*at, bytes.len()));
        if let Some((at, _)) = before.filter(|(at, length)| (at.0, at.1 + length) == location) {
            let mut joined = self.remove(at);
            joined.unsplit(bytes);
            (location, bytes) = (at, joined);
        }
        let after = (location.0, location.1 + bytes.len());
        if self.free.contains_key(&after) {
            bytes.unsplit(self.remove(after));
        }
        self.insert(location, bytes);
    }

    /// Adds a chunk with room for `need` bytes to the free pieces of a node.
    fn grow(&mut self, node: usize, need: usize) -> Location {
        let size = need.next_multiple_of(HUGE_PAGE).max(CHUNK);
        let mut chunk = BytesMut::zeroed(size + HUGE_PAGE);
        let start = (chunk.as_ptr() as usize).wrapping_neg() % HUGE_PAGE;
        let mut chunk = chunk.split_off(start);
        chunk.truncate(size);
        if let Some(advise) = ADVICE.get() {
            advise(&mut chunk);
        }
        let location = (self.nodes.len(), 0);
        self.nodes.push(node);
        self.insert(location, chunk);
        location
    }

    fn insert(&mut self, location: Location, bytes: BytesMut) {
        self.sizes.insert((self.nodes[location.0], bytes.len(), location));
        self.free.insert(location, bytes);
    }

    fn remove(&mut self, location: Location) -> BytesMut {
        let bytes = self.free.remove(&location).unwrap_or_default();
        self.sizes.remove(&(self.nodes[location.0], bytes.len(), location));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns a piece to a pool other than the process's own.
    fn back(pool: &mut Pool, mut piece: Piece) {
        pool.put(piece.location, std::mem::take(&mut piece.bytes));
        std::mem::forget(piece);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Pieces do not overlap, are as large as requested and keep their content. When all have been returned, there
        /// is one piece again, at the address of the first.
        #[test]
        fn pieces_are_apart_and_join(steps in prop::collection::vec((1usize..400, 0usize..8, any::<bool>()), 1..120)) {
            let mut pool = Pool::new();
            let mut held: Vec<(u8, Piece)> = Vec::new();
            for (number, (lines, which, take)) in steps.into_iter().enumerate() {
                if take || held.is_empty() {
                    let mut piece = pool.take(0, lines * LINE);
                    prop_assert_eq!(piece.bytes.len(), lines * LINE);
                    prop_assert_eq!(piece.bytes.as_ptr() as usize % LINE, 0);
                    piece.bytes.fill(number as u8);
                    held.push((number as u8, piece));
                } else {
                    let (number, piece) = held.swap_remove(which % held.len());
                    prop_assert!(piece.bytes.iter().all(|byte| *byte == number));
                    back(&mut pool, piece);
                }
                let free: usize = pool.free.values().map(BytesMut::len).sum();
                let taken: usize = held.iter().map(|(_, piece)| piece.bytes.len()).sum();
                prop_assert_eq!(free + taken, CHUNK);
            }
            for (number, piece) in held {
                prop_assert!(piece.bytes.iter().all(|byte| *byte == number));
                back(&mut pool, piece);
            }
            prop_assert_eq!(pool.free.len(), 1);
            prop_assert_eq!(pool.sizes.into_iter().collect::<Vec<_>>(), [(0, CHUNK, (0, 0))]);
        }
    }

    #[test]
    fn a_split_piece_is_joined_in_place() {
        let mut piece = Piece::new(10 * LINE);
        let (address, length) = (piece.bytes().as_ptr(), piece.bytes().len());
        piece.bytes_mut()[3 * LINE..].fill(7);
        let mut rest = piece.split_off(2 * LINE);
        let last = rest.split_off(5 * LINE);
        assert_eq!([piece.bytes().len(), rest.bytes().len()], [2 * LINE, 5 * LINE]);
        rest.unsplit(last);
        piece.unsplit(rest);
        assert_eq!((piece.bytes().as_ptr(), piece.bytes().len()), (address, length));
        assert!(piece.bytes()[3 * LINE..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_is_larger_than_a_chunk_has_one_of_its_own() {
        let mut pool = Pool::new();
        let (small, large) = (pool.take(0, LINE), pool.take(0, CHUNK + LINE));
        assert_eq!((small.location, large.location), ((0, 0), (1, 0)));
        back(&mut pool, large);
        back(&mut pool, small);
        assert_eq!((pool.free.len(), pool.taken, pool.most), (2, 0, CHUNK + 2 * LINE));
    }

    /// Nodes share no chunk, and a piece returns to where it was, whoever drops it.
    #[test]
    fn nodes_have_chunks_of_their_own() {
        let mut pool = Pool::new();
        let pieces = [(0, LINE), (1, LINE), (1, 2 * LINE), (0, LINE)].map(|(node, need)| pool.take(node, need));
        assert_eq!(pieces.each_ref().map(|piece| piece.location), [(0, 0), (1, 0), (1, LINE), (0, LINE)]);
        pieces.into_iter().for_each(|piece| back(&mut pool, piece));
        assert_eq!(pool.sizes.into_iter().collect::<Vec<_>>(), [(0, CHUNK, (0, 0)), (1, CHUNK, (1, 0))]);
    }
}
