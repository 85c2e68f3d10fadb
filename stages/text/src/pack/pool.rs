//! The training sequences of a lane, in random order.
//!
//! Consecutive sequences come from the same document, so a batch of them represents the corpus less well than one of
//! sequences from many documents. A pool collects a block of sequences and hands them out in random order, each exactly
//! once, while it collects the next block. Both blocks together always have the same number of sequences: for each that
//! is handed out, one is collected. A pool as large as the corpus draws an epoch without replacement.
use crate::pack::saved_tokens::{self, SavedTokens};
use crate::support::permutation::Permutation;
use contract::lock;
use serde::{Deserialize, Serialize, Serializer};
use std::sync::{Arc, Mutex};

/// Sequences of one length, each stored as a *window*: its tokens and the token after them.
#[derive(Debug)]
pub struct Pool {
    /// Tokens of a window.
    window: usize,
    /// Number of windows that the pool must hold before some are drawn.
    capacity: usize,
    /// Seed of the random order; `None`: windows are drawn in the order in which they were collected.
    seed: Option<u64>,
    /// The number of blocks so far; each has an order of its own.
    blocks: u64,
    /// The windows of the block in the order in which they are drawn, `[windows, window]`.
    block: Arc<Vec<u32>>,
    /// How many of them have been drawn.
    drawn: usize,
    /// The windows of the next block in the order in which they arrived. Windows are only added, and a new block gets a
    /// new vector: snapshots share it, and know how long it was.
    next: Arc<Mutex<Vec<u32>>>,
}

/// The contents of a pool at some moment, for a checkpoint. It copies nothing until it is serialised.
#[derive(Debug)]
pub struct PoolSnapshot {
    blocks: u64,
    block: Arc<Vec<u32>>,
    /// Tokens of `block` that had been drawn.
    drawn: usize,
    next: Arc<Mutex<Vec<u32>>>,
    /// Tokens that `next` had.
    collected: usize,
}

/// What a checkpoint says of a pool.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPool<T = SavedTokens> {
    blocks: u64,
    /// The windows of the block that have not been drawn, in the order in which they will be.
    block: T,
    /// The windows collected for the next block.
    next: T,
}

impl Serialize for PoolSnapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let block = saved_tokens::text(&self.block[self.drawn..]);
        let next = saved_tokens::text(&lock(&self.next)[..self.collected]);
        SavedPool { blocks: self.blocks, block, next }.serialize(serializer)
    }
}

impl Pool {
    /// An empty pool of sequences of `length` tokens, which holds `capacity` of them.
    pub fn new(length: usize, capacity: usize, seed: Option<u64>) -> Self {
        let (block, next) = (Arc::default(), Arc::default());
        Self { window: length + 1, capacity, seed, blocks: 0, block, drawn: 0, next }
    }

    /// Number of windows in the block that have not been drawn.
    fn left(&self) -> usize {
        self.block.len() / self.window - self.drawn
    }

    /// Number of windows that must be added before some can be drawn.
    pub fn missing(&self) -> usize {
        self.capacity.saturating_sub(self.left() + lock(&self.next).len() / self.window)
    }

    /// Adds windows, `[windows, length + 1]`.
    pub fn add(&mut self, windows: &[u32]) {
        let mut next = lock(&self.next);
        // All that it will hold, so that it is never copied to grow.
        let missing = (self.capacity * self.window).saturating_sub(next.len());
        next.reserve_exact(missing);
        next.extend_from_slice(windows);
    }

    /// Removes `sequences` windows, at most the capacity: `[sequences, length + 1]`. Nothing may be [`missing`].
    ///
    /// [`missing`]: Self::missing
    pub fn draw(&mut self, sequences: usize) -> Vec<u32> {
        let mut drawn = Vec::with_capacity(sequences * self.window);
        while drawn.len() < sequences * self.window {
            if self.left() == 0 {
                self.begin_block();
            }
            let wanted = (sequences - drawn.len() / self.window).min(self.left());
            assert!(wanted > 0, "a pool is full before windows are drawn");
            drawn.extend_from_slice(&self.block[self.drawn * self.window..][..wanted * self.window]);
            self.drawn += wanted;
        }
        drawn
    }

    /// Makes a block of the windows collected so far.
    fn begin_block(&mut self) {
        // First of all, so that its memory is free for the next one.
        self.block = Arc::default();
        let collected = std::mem::take(&mut self.next);
        let collected = lock(&collected);
        let windows = collected.len() / self.window;
        let order = self.seed.map(|seed| Permutation::new(windows as u64, seed, self.blocks));
        let mut block = Vec::with_capacity(collected.len());
        for i in 0..windows {
            let at = order.as_ref().map_or(i, |order| order.at(i as u64) as usize);
            block.extend_from_slice(&collected[at * self.window..][..self.window]);
        }
        (self.block, self.drawn, self.blocks) = (Arc::new(block), 0, self.blocks + 1);
    }

    /// The contents of the pool now.
    pub fn snapshot(&self) -> PoolSnapshot {
        let (block, next) = (Arc::clone(&self.block), Arc::clone(&self.next));
        let collected = lock(&next).len();
        PoolSnapshot { blocks: self.blocks, block, drawn: self.drawn * self.window, next, collected }
    }

    /// Replaces the contents of the pool by those of a checkpoint.
    ///
    /// # Errors
    /// If they are not whole windows.
    pub fn restore(&mut self, saved: SavedPool) -> anyhow::Result<()> {
        let windows = |tokens: SavedTokens| {
            let tokens = tokens.0;
            let whole = tokens.len().is_multiple_of(self.window);
            anyhow::ensure!(whole, "{} tokens are not whole windows of {}", tokens.len(), self.window);
            Ok(tokens)
        };
        let (block, next) = (windows(saved.block)?, windows(saved.next)?);
        (self.blocks, self.block, self.drawn) = (saved.blocks, Arc::new(block), 0);
        self.next = Arc::new(Mutex::new(next));
        Ok(())
    }

    /// Memory in bytes of a pool of `tokens` tokens of a vocabulary: its two blocks, and the text of a checkpoint, first as
    /// a value and then as JSON.
    pub fn memory(tokens: usize, vocabulary: usize) -> usize {
        tokens * 2 * (size_of::<u32>() + saved_tokens::most_text(vocabulary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::Range;

    const LENGTH: usize = 2;

    /// Windows of which each token is their number.
    fn windows(numbers: Range<u32>) -> Vec<u32> {
        numbers.flat_map(|number| [number; LENGTH + 1]).collect()
    }

    /// Draws `sequences` windows in each of `steps` steps from a pool that is given consecutive numbers.
    fn draw(pool: &mut Pool, given: &mut u32, sequences: usize, steps: usize) -> Vec<u32> {
        let step = |_| {
            let more = *given..*given + pool.missing() as u32;
            pool.add(&windows(more.clone()));
            *given = more.end;
            pool.draw(sequences).chunks(LENGTH + 1).map(|window| window[0]).collect::<Vec<_>>()
        };
        (0..steps).flat_map(step).collect()
    }

    #[test]
    fn an_epoch_is_drawn_without_replacement() {
        let mut pool = Pool::new(LENGTH, 60, Some(1));
        let drawn = draw(&mut pool, &mut 0, 4, 45);
        for (epoch, drawn) in drawn.chunks(60).enumerate() {
            let mut sorted = drawn.to_vec();
            sorted.sort();
            assert!(sorted.iter().copied().eq(60 * epoch as u32..60 * (epoch as u32 + 1)), "{epoch}");
            assert_ne!(drawn, sorted);
        }
        let (first, second) = (drawn[..60].iter(), drawn[60..120].iter().map(|number| number - 60));
        assert!(!second.eq(first.copied()), "each epoch has an order of its own");
    }

    #[test]
    fn without_a_seed_the_order_is_that_of_arrival() {
        let mut pool = Pool::new(LENGTH, 5, None);
        assert!(draw(&mut pool, &mut 0, 3, 7).into_iter().eq(0..21));
    }

    #[test]
    fn a_pool_of_another_length_is_an_error() {
        let (mut pool, mut other) = (Pool::new(LENGTH, 5, None), Pool::new(LENGTH + 1, 5, None));
        draw(&mut pool, &mut 0, 2, 1);
        let saved = serde_json::to_value(pool.snapshot()).unwrap();
        let error = other.restore(serde_json::from_value(saved).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "9 tokens are not whole windows of 4");
    }

    proptest! {
        /// Each window is drawn once, after at most two blocks; a pool that was saved and restored draws the same.
        #[test]
        fn draws_each_window_once_and_resumes_anywhere(
            capacity in 1usize..40, wanted in 1usize..40, seed: Option<u64>, before in 0usize..30, after in 1usize..30,
        ) {
            let sequences = wanted.min(capacity);
            let (mut pool, mut given) = (Pool::new(LENGTH, capacity, seed), 0);
            let mut drawn = draw(&mut pool, &mut given, sequences, before);
            let snapshot = pool.snapshot();
            let mut given_again = given;
            let rest = draw(&mut pool, &mut given, sequences, after);
            let saved = serde_json::to_value(snapshot).unwrap();
            let mut resumed = Pool::new(LENGTH, capacity, seed);
            resumed.restore(serde_json::from_value(saved).unwrap()).unwrap();
            prop_assert_eq!(&draw(&mut resumed, &mut given_again, sequences, after), &rest);
            prop_assert_eq!(
                serde_json::to_value(resumed.snapshot()).unwrap(), serde_json::to_value(pool.snapshot()).unwrap()
            );
            drawn.extend(rest);
            let late = |(at, number): (usize, &u32)| (at + 1).saturating_sub(*number as usize + 1) >= 2 * capacity;
            prop_assert!(!drawn.iter().enumerate().any(late));
            drawn.sort();
            let distinct = drawn.windows(2).all(|pair| pair[0] < pair[1]);
            prop_assert!(distinct && drawn.last() < Some(&given));
        }
    }
}
