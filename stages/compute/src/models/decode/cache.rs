//! The key-value cache of one layer, and attention of new tokens to it.
use super::linear::side_by_side;
use crate::kernels::gemm::{block, matrix_mut, product};
use crate::kernels::matrix_vector::matrix_vector;
use crate::simd::{exp, max, sum};
use crate::wide;
use contract::Buffer;
use rayon::prelude::*;

/// Query rows that are processed at once.
const QUERIES: usize = 64;

/// Sizes of the cache.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Number of query heads.
    pub queries: usize,
    /// Number of key heads and of value heads; divides the number of query heads. Each serves equally many query heads.
    pub keys: usize,
    /// Columns per head.
    pub width: usize,
    /// Tokens that the cache can hold.
    pub capacity: usize,
}

/// One layer's keys and values.
pub struct Cache {
    heads: Heads,
    /// `[key heads, capacity, head width]`
    keys: Buffer,
    /// `[key heads, head width, capacity]`: transposed, so that a sum over tokens reads contiguous memory.
    values: Buffer,
}

impl Cache {
    /// An empty cache.
    pub fn new(heads: Heads) -> Self {
        let size = heads.keys * heads.capacity * heads.width;
        Self { heads, keys: Buffer::scratch(size), values: Buffer::scratch(size) }
    }

    /// Takes `qkv` `[rows, (query heads + 2 · key heads) · head width]`, queries, keys and values side by side. Stores
    /// the keys and values as those of tokens `length..length + rows`, and returns `[rows, query heads · head width]`:
    /// causal attention of each row's queries to the tokens up to its own.
    ///
    /// # Panics
    /// If the cache has no room for so many tokens.
    pub fn attend(&mut self, qkv: &[f32], length: usize) -> Buffer {
        let Heads { queries, keys, width, capacity } = self.heads;
        let stride = (queries + 2 * keys) * width;
        let rows = qkv.len() / stride;
        assert!(length + rows <= capacity, "the cache holds {capacity} tokens");
        for (position, row) in (length..).zip(qkv.chunks_exact(stride)) {
            let (new_keys, new_values) = row[queries * width..].split_at(keys * width);
            for (head, key) in new_keys.chunks_exact(width).enumerate() {
                self.keys[(head * capacity + position) * width..][..width].copy_from_slice(key);
            }
            for (i, value) in new_values.iter().enumerate() {
                self.values[i * capacity + position] = *value;
            }
        }
        let mut pieces = Buffer::scratch(rows * queries * width); // [query heads][rows, head width]
        pieces.par_chunks_mut(rows * width).enumerate().for_each(|(head, out)| {
            let own = head / (queries / keys) * capacity * width;
            let own = own..own + capacity * width;
            self.head(&qkv[head * width..], stride, (&self.keys[own.clone()], &self.values[own]), length, out);
        });
        if rows == 1 {
            return pieces;
        }
        let mut out = Buffer::scratch(pieces.len());
        side_by_side(&pieces, rows, width, &mut out);
        out
    }

    /// Attention of one head's queries, `stride` apart, to its keys `[capacity, width]` and values `[width, capacity]`.
    fn head(&self, queries: &[f32], stride: usize, (keys, values): (&[f32], &[f32]), length: usize, out: &mut [f32]) {
        let Heads { width, capacity, .. } = self.heads;
        let rows = out.len() / width;
        let scale = 1.0 / (width as f32).sqrt();
        let mut scratch = Buffer::scratch(rows.min(QUERIES) * (length + rows));
        for (tile, out) in out.chunks_mut(QUERIES * width).enumerate() {
            let (first, rows) = (tile * QUERIES, out.len() / width);
            let seen = length + first + rows;
            let scores = &mut scratch[..rows * seen];
            if rows == 1 {
                matrix_vector(keys, width, &queries[first * stride..][..width], scores);
                probabilities(scores, seen, scale);
                matrix_vector(values, capacity, scores, out);
            } else {
                let q = block(queries, first * stride, rows, width, stride);
                let k = block(keys, 0, seen, width, width);
                product(1.0, q, k.reversed_axes(), 0.0, matrix_mut(scores, seen));
                probabilities(scores, seen, scale);
                let v = block(values, 0, width, seen, capacity);
                product(1.0, block(scores, 0, rows, seen, seen), v.reversed_axes(), 0.0, matrix_mut(out, width));
            }
        }
    }
}

wide! {
    /// Replaces rows of scores by `softmax(scale · scores)`. The last row sees all `columns`, each row before it one
    /// less.
    fn probabilities(scores: &mut [f32], columns: usize, scale: f32) {
        let rows = scores.len() / columns;
        for (row, scores) in scores.chunks_exact_mut(columns).enumerate() {
            let (seen, unseen) = scores.split_at_mut(columns - (rows - 1 - row));
            unseen.fill(0.0);
            let highest = max(seen);
            for x in seen.iter_mut() {
                *x = exp((*x - highest) * scale);
            }
            let over_sum = 1.0 / sum(seen);
            for x in seen {
                *x *= over_sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};
    use proptest::prelude::*;

    /// Softmax attention of every row of `qkv` to all rows up to its own, in f64.
    fn naive(heads: Heads, qkv: &[f32]) -> Vec<f64> {
        let Heads { queries, keys, width, .. } = heads;
        let stride = (queries + 2 * keys) * width;
        let at = |row: usize, head: usize, i: usize| f64::from(qkv[row * stride + head * width + i]);
        let mut out = Vec::new();
        for row in 0..qkv.len() / stride {
            for head in 0..queries {
                let key = queries + head / (queries / keys);
                let score = |other: usize| (0..width).map(|i| at(row, head, i) * at(other, key, i)).sum::<f64>();
                let e: Vec<f64> = (0..=row).map(|other| (score(other) / (width as f64).sqrt()).exp()).collect();
                let total: f64 = e.iter().sum();
                let value = |i: usize| (0..=row).map(|other| e[other] * at(other, key + keys, i)).sum::<f64>() / total;
                out.extend((0..width).map(value));
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn rows_fed_at_once_or_one_by_one_attend_causally(
            keys in 1usize..4, group in 1usize..4, width in 1usize..20, rows in 1usize..90, cut in 0usize..90, spare in 0usize..3,
        ) {
            let heads = Heads { queries: keys * group, keys, width, capacity: rows + spare };
            let stride = (heads.queries + 2 * keys) * width;
            let qkv: Vec<f32> = random(1, rows * stride).iter().map(|x| 3.0 * x).collect();
            let expected = naive(heads, &qkv);
            let mut cache = Cache::new(heads);
            let (at_once, singly) = qkv.split_at(cut.min(rows) * stride);
            let mut found = if at_once.is_empty() { Vec::new() } else { cache.attend(at_once, 0).to_vec() };
            for (position, row) in (cut..).zip(singly.chunks_exact(stride)) {
                found.extend_from_slice(&cache.attend(row, position));
            }
            assert_close(&found, &expected, 2e-5);
        }
    }
}
