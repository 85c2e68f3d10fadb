//! Causal self-attention, tiled over blocks of queries.
//!
//! A block of [`QUERIES`] rows of one head meets only the keys up to its own end (and from its first document's start,
//! where documents are masked), so nothing above the diagonal is computed but inside its last tile, and scores live in
//! one scratch block that stays in cache. Backward recomputes the probabilities from each row's log-sum-exp, as
//! FlashAttention does (Dao et al. 2022); no `length × length` matrix is kept, and masks never exist as data.
use crate::kernels::gemm::{Matrix, MatrixMut, block, block_mut, matrix, matrix_mut, product};
use crate::simd::{LANES, dot, exp, max, sum};
use crate::wide;
use contract::Buffer;

/// Rows of queries worked on at once.
pub const QUERIES: usize = 64;

/// What is attended to. `qkv` is `[rows, 3 · width]` with queries, keys and values side by side, each head a run of
/// `width / heads` columns; `rows = sequences · length`.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Sequences, which do not see each other.
    pub sequences: usize,
    /// Tokens a sequence.
    pub length: usize,
    /// Heads.
    pub heads: usize,
    /// Columns of all heads together.
    pub width: usize,
    /// `[rows]`: for each token the position in its sequence before which it does not look (never after the token,
    /// never falling along a sequence); `None` if it sees all of its past.
    pub starts: Option<&'a [u32]>,
}

/// One head's block of queries and the keys that it sees.
struct Tile<'a> {
    /// Row of the sequence's first token in the batch.
    base: usize,
    head: usize,
    /// Positions in the sequence: queries `from..to`, keys `first..to`.
    from: usize,
    to: usize,
    first: usize,
    /// Of each query; empty if nothing is masked.
    starts: &'a [u32],
}

impl Attention<'_> {
    fn head_width(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }

    fn check(&self, qkv: &[f32], out_rc: &[f32], log_sums: &[f32]) {
        let rows = self.sequences * self.length;
        assert!(self.heads > 0 && self.width.is_multiple_of(self.heads), "heads divide the width");
        assert!(qkv.len() == 3 * rows * self.width && out_rc.len() == rows * self.width);
        assert!(log_sums.len() == rows * self.heads && self.starts.is_none_or(|s| s.len() == rows));
    }

    fn tiles(&self, mut work: impl FnMut(&Tile<'_>)) {
        for sequence in 0..self.sequences {
            let base = sequence * self.length;
            for head in 0..self.heads {
                for from in (0..self.length).step_by(QUERIES) {
                    let to = (from + QUERIES).min(self.length);
                    let starts = self.starts.map_or(&[][..], |s| &s[base + from..base + to]);
                    let first = starts.first().map_or(0, |s| *s as usize);
                    work(&Tile { base, head, from, to, first, starts });
                }
            }
        }
    }

    /// Where in `qkv` the part (0 queries, 1 keys, 2 values) of a tile's head starts, at `position`.
    fn offset(&self, tile: &Tile<'_>, part: usize, position: usize) -> usize {
        ((tile.base + position) * 3 + part) * self.width + tile.head * self.head_width()
    }

    fn part<'q>(&self, tile: &Tile<'_>, part: usize, from: usize, qkv: &'q [f32]) -> Matrix<'q> {
        block(qkv, self.offset(tile, part, from), tile.to - from, self.head_width(), 3 * self.width)
    }

    fn part_mut<'q>(&self, tile: &Tile<'_>, part: usize, from: usize, qkv: &'q mut [f32]) -> MatrixMut<'q> {
        block_mut(qkv, self.offset(tile, part, from), tile.to - from, self.head_width(), 3 * self.width)
    }

    fn queries_at(&self, tile: &Tile<'_>) -> usize {
        (tile.base + tile.from) * self.width + tile.head * self.head_width()
    }

    fn log_sums_at(&self, tile: &Tile<'_>) -> std::ops::Range<usize> {
        let at = tile.base * self.heads + tile.head * self.length;
        at + tile.from..at + tile.to
    }
}

/// `out_rc = softmax(q kᵀ / √head width) v`, heads side by side; keeps `log_sums` `[sequences, heads, length]`, the
/// log-sum-exp of each row of scores, for [`backward`].
pub fn forward(shape: &Attention<'_>, qkv: &[f32], out_rc: &mut [f32], log_sums: &mut [f32]) {
    shape.check(qkv, out_rc, log_sums);
    let mut scratch = Buffer::scratch(QUERIES * shape.length);
    shape.tiles(|tile| {
        let (queries, keys) = (tile.to - tile.from, tile.to - tile.first);
        let scores = &mut scratch[..queries * keys];
        let k = shape.part(tile, 1, tile.first, qkv);
        product(shape.scale(), shape.part(tile, 0, tile.from, qkv), k.reversed_axes(), 0.0, matrix_mut(scores, keys));
        let mut over_sums = [0.0; QUERIES];
        let shift = tile.from - tile.first;
        exponentials(
            scores,
            keys,
            shift,
            tile.first,
            tile.starts,
            &mut log_sums[shape.log_sums_at(tile)],
            &mut over_sums,
        );
        let out = &mut out_rc[shape.queries_at(tile)..];
        let v = shape.part(tile, 2, tile.first, qkv);
        product(1.0, matrix(scores, keys), v, 0.0, block_mut(out, 0, queries, shape.head_width(), shape.width));
        scale_rows(out, shape.head_width(), shape.width, &over_sums[..queries]);
    });
}

/// Of a row of a tile's scores: unseen columns up to the end of the last register that holds a seen one become
/// negative infinity, so that loops need no edges; the rest becomes 0. Gives how many columns are left to work on.
#[inline(always)]
fn hide(scores: &mut [f32], row: usize, shift: usize, first: usize, starts: &[u32]) -> usize {
    let (start, end) = (starts.get(row).map_or(0, |s| *s as usize - first), row + shift + 1);
    let whole = end.next_multiple_of(LANES).min(scores.len());
    scores[..start].fill(f32::NEG_INFINITY);
    scores[end..whole].fill(f32::NEG_INFINITY);
    scores[whole..].fill(0.0);
    whole
}

wide! {
    /// Each row of scores to `e^(score - max)`, unseen columns to 0.
    fn exponentials(
        scores: &mut [f32],
        keys: usize,
        shift: usize,
        first: usize,
        starts: &[u32],
        log_sums: &mut [f32],
        over_sums: &mut [f32],
    ) {
        for (row, (scores, (log_sum, over_sum))) in
            scores.chunks_exact_mut(keys).zip(log_sums.iter_mut().zip(over_sums)).enumerate()
        {
            let whole = hide(scores, row, shift, first, starts);
            let scores = &mut scores[..whole];
            let highest = max(scores);
            let (chunks, rest) = scores.as_chunks_mut::<LANES>();
            for chunk in chunks {
                for x in chunk {
                    *x = exp(*x - highest);
                }
            }
            for x in rest {
                *x = exp(*x - highest);
            }
            let total = sum(scores);
            *over_sum = 1.0 / total;
            *log_sum = highest + total.ln();
        }
    }
}

wide! {
    fn scale_rows(rows: &mut [f32], width: usize, stride: usize, factors: &[f32]) {
        for (row, factor) in rows.chunks_mut(stride).zip(factors) {
            for x in &mut row[..width] {
                *x *= factor;
            }
        }
    }
}

/// From `d_out_rc`, the gradient at `out_rc`: the gradient at `qkv`, in its layout.
pub fn backward(
    shape: &Attention<'_>,
    qkv: &[f32],
    out_rc: &[f32],
    log_sums: &[f32],
    d_out_rc: &[f32],
    d_qkv: &mut [f32],
) {
    shape.check(qkv, out_rc, log_sums);
    assert!(d_qkv.len() == qkv.len() && d_out_rc.len() == out_rc.len());
    let (width, head_width, scale) = (shape.width, shape.head_width(), shape.scale());
    // Keys and values sum over the blocks of queries that saw them.
    for row in d_qkv.chunks_exact_mut(3 * width) {
        row[width..].fill(0.0);
    }
    let mut scratch = Buffer::scratch(2 * QUERIES * shape.length);
    let (p_scratch, d_scratch) = scratch.split_at_mut(QUERIES * shape.length);
    shape.tiles(|tile| {
        let (queries, keys) = (tile.to - tile.from, tile.to - tile.first);
        let (p, d_scores) = (&mut p_scratch[..queries * keys], &mut d_scratch[..queries * keys]);
        let q = shape.part(tile, 0, tile.from, qkv);
        let k = shape.part(tile, 1, tile.first, qkv);
        let v = shape.part(tile, 2, tile.first, qkv);
        let at = shape.queries_at(tile);
        let d_out = block(d_out_rc, at, queries, head_width, width);
        product(scale, q, k.t(), 0.0, matrix_mut(p, keys));
        product(1.0, d_out, v.reversed_axes(), 0.0, matrix_mut(d_scores, keys));
        let mut along = [0.0; QUERIES];
        row_dots(&out_rc[at..], &d_out_rc[at..], head_width, width, &mut along[..queries]);
        let log_sums = &log_sums[shape.log_sums_at(tile)];
        through_softmax(p, d_scores, keys, tile.from - tile.first, tile.first, tile.starts, log_sums, &along);
        let (p, d_scores) = (matrix(p, keys), matrix(d_scores, keys));
        product(1.0, p.reversed_axes(), d_out, 1.0, shape.part_mut(tile, 2, tile.first, d_qkv));
        product(scale, d_scores.reversed_axes(), q, 1.0, shape.part_mut(tile, 1, tile.first, d_qkv));
        product(scale, d_scores, k, 0.0, shape.part_mut(tile, 0, tile.from, d_qkv));
    });
}

wide! {
    /// `dots[r] = a[r] · b[r]` over the first `width` of each `stride` columns.
    fn row_dots(a: &[f32], b: &[f32], width: usize, stride: usize, dots: &mut [f32]) {
        for ((a, b), out) in a.chunks(stride).zip(b.chunks(stride)).zip(dots) {
            *out = dot(&a[..width], &b[..width]);
        }
    }
}

wide! {
    /// Scores to probabilities in `p`, and the gradient at the probabilities to that at the scores in `d`.
    #[allow(clippy::too_many_arguments)]
    fn through_softmax(
        p: &mut [f32],
        d: &mut [f32],
        keys: usize,
        shift: usize,
        first: usize,
        starts: &[u32],
        log_sums: &[f32],
        along: &[f32],
    ) {
        let rows = p.chunks_exact_mut(keys).zip(d.chunks_exact_mut(keys)).zip(log_sums.iter().zip(along));
        for (row, ((p, d), (log_sum, along))) in rows.enumerate() {
            let whole = hide(p, row, shift, first, starts);
            d[whole..].fill(0.0);
            let (p, d) = (&mut p[..whole], &mut d[..whole]);
            let ((p, p_rest), (d, d_rest)) = (p.as_chunks_mut::<LANES>(), d.as_chunks_mut::<LANES>());
            for (p, d) in p.iter_mut().zip(d) {
                for i in 0..LANES {
                    p[i] = exp(p[i] - log_sum);
                    d[i] = p[i] * (d[i] - along);
                }
            }
            for (p, d) in p_rest.iter_mut().zip(d_rest) {
                *p = exp(*p - log_sum);
                *d = *p * (*d - along);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
    use proptest::prelude::*;

    fn reference(shape: &Attention<'_>, qkv: &[f64]) -> Vec<f64> {
        let (c, d) = (shape.width, shape.head_width());
        let mut out = vec![0.0; shape.sequences * shape.length * c];
        for row in 0..shape.sequences * shape.length {
            let base = row / shape.length * shape.length;
            let first = base + shape.starts.map_or(0, |s| s[row] as usize);
            for head in 0..shape.heads {
                let of = |row: usize, part: usize, i: usize| qkv[(row * 3 + part) * c + head * d + i];
                let score = |key: usize| (0..d).map(|i| of(row, 0, i) * of(key, 1, i)).sum::<f64>() / (d as f64).sqrt();
                let e: Vec<f64> = (first..=row).map(|key| score(key).exp()).collect();
                let total: f64 = e.iter().sum();
                for i in 0..d {
                    let mixed = e.iter().zip(first..).map(|(e, key)| e * of(key, 2, i)).sum::<f64>();
                    out[row * c + head * d + i] = mixed / total;
                }
            }
        }
        out
    }

    /// Documents that start where `cut` says.
    fn starts(sequences: usize, length: usize, seed: u64) -> Vec<u32> {
        let cut = random(seed, sequences * length);
        let mut starts: Vec<u32> = Vec::new();
        for (row, cut) in cut.iter().enumerate() {
            let position = (row % length) as u32;
            let new = position == 0 || *cut > 0.8;
            starts.push(if new { position } else { *starts.last().expect("not the first") });
        }
        starts
    }

    fn compare(sequences: usize, length: usize, heads: usize, head_width: usize, masked: bool, differences: bool) {
        let width = heads * head_width;
        let starts = starts(sequences, length, 9);
        let shape = Attention { sequences, length, heads, width, starts: masked.then_some(&starts[..]) };
        let rows = sequences * length;
        let qkv: Vec<f32> = random(1, rows * 3 * width).iter().map(|x| 2.0 * x).collect();
        let (mut out, mut log_sums) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * heads]);
        forward(&shape, &qkv, &mut out, &mut log_sums);
        assert_close(&out, &reference(&shape, &wide(&qkv)), 1e-5);
        let (d_out, mut d_qkv) = (random(2, out.len()), vec![f32::NAN; qkv.len()]);
        backward(&shape, &qkv, &out, &log_sums, &d_out, &mut d_qkv);
        if differences {
            assert_close(&d_qkv, &gradient(&qkv, |qkv| weighted(&reference(&shape, qkv), &d_out)), 1e-4);
        } else {
            // Too large for all differences: along one direction.
            let direction = random(3, qkv.len());
            let along = |t: f64| -> f64 {
                let moved: Vec<f64> =
                    qkv.iter().zip(&direction).map(|(x, d)| f64::from(*x) + t * f64::from(*d)).collect();
                weighted(&reference(&shape, &moved), &d_out)
            };
            let expected = (along(1e-6) - along(-1e-6)) / 2e-6;
            let actual: f64 = d_qkv.iter().zip(&direction).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((actual - expected).abs() < 1e-4 * expected.abs().max(1.0), "{actual} {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn agrees_with_the_reference(sequences in 1usize..3, length in 1usize..9, heads in 1usize..4,
                                     head_width in 1usize..6, masked: bool) {
            compare(sequences, length, heads, head_width, masked, true);
        }

        #[test]
        fn agrees_over_several_blocks(length in 60usize..200, masked: bool) {
            compare(2, length, 2, 5, masked, false);
        }
    }
}
