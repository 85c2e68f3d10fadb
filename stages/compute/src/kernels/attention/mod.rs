//! Causal self-attention in tiles that fit in cache.
//!
//! The keys and values of a head are packed once. Each tile of [`TILE_ROWS`] queries is then multiplied only by the
//! keys up to its last row (and, with document masking, from the start of its first row's document); scores, softmax
//! and the product with the values follow while the tile is in the L1 cache. Above the diagonal, only the rest of the
//! tile that the diagonal crosses is computed. As in FlashAttention (Dao et al. 2022), backward recomputes the
//! probabilities from each row's log-sum-exp; no `length × length` matrix is stored, and masks are never materialised.
use crate::kernels::gemm::panels::{Panels, TILE_COLUMNS, TILE_ROWS, padded_stride};
use crate::kernels::gemm::{MatRef, SliceRef, block};
use crate::simd::{LANES, dot, exp, max, sum};
use crate::wide;
use contract::{Buffer, Precision};
use std::ops::Range;

/// Rows of queries per block in backward; the gradients of keys and values are accumulated over the blocks.
const QUERIES: usize = 64;

/// Shape and masking. `qkv` is `[rows, 3 · width]` with queries, keys and values side by side, each head having
/// `width / heads` adjacent columns; `rows = sequences · length`.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Number of sequences, which do not attend to each other.
    pub sequences: usize,
    /// Tokens per sequence.
    pub length: usize,
    /// Number of heads.
    pub heads: usize,
    /// Columns of all heads together.
    pub width: usize,
    /// `[rows]`: for each token, the first position in its sequence that it attends to (at most its own position, and
    /// non-decreasing along a sequence); `None` if every token attends to its whole past.
    pub starts: Option<&'a [u32]>,
    /// The precision that operands of matrix products are rounded to.
    pub precision: Precision,
}

/// The three parts of a row of `qkv`.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

/// One head of one sequence.
struct Head<'a> {
    shape: &'a Attention<'a>,
    sequence: usize,
    head: usize,
}

impl Attention<'_> {
    fn head_width(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }

    fn panels(&self, depth: usize, columns: usize) -> Panels {
        Panels::scratch(self.precision, depth, columns)
    }

    fn check(&self, qkv: &SliceRef<'_>, out_rc: &[f32], log_sums: &[f32]) {
        let rows = self.sequences * self.length;
        assert!(self.heads > 0 && self.width.is_multiple_of(self.heads), "heads divide the width");
        assert!(qkv.len() == 3 * rows * self.width && out_rc.len() == rows * self.width);
        assert!(log_sums.len() == rows * self.heads && self.starts.is_none_or(|s| s.len() == rows));
    }

    fn heads(&self) -> impl Iterator<Item = Head<'_>> {
        let of = move |sequence| (0..self.heads).map(move |head| Head { shape: self, sequence, head });
        (0..self.sequences).flat_map(of)
    }
}

impl Head<'_> {
    /// Offset in `qkv` of a part of this head at `position`.
    fn at(&self, part: Part, position: usize) -> usize {
        let row = self.sequence * self.shape.length + position;
        (row * 3 + part as usize) * self.shape.width + self.head * self.shape.head_width()
    }

    fn part<'q>(&self, part: Part, positions: &Range<usize>, qkv: SliceRef<'q>) -> MatRef<'q> {
        qkv.block(self.at(part, positions.start), positions.len(), self.shape.head_width(), 3 * self.shape.width)
    }

    /// Offset in a `[rows, width]` matrix of this head's columns at `position`.
    fn column(&self, position: usize) -> usize {
        (self.sequence * self.shape.length + position) * self.shape.width + self.head * self.shape.head_width()
    }

    fn columns<'q>(&self, positions: &Range<usize>, x_rc: SliceRef<'q>) -> MatRef<'q> {
        x_rc.block(self.column(positions.start), positions.len(), self.shape.head_width(), self.shape.width)
    }

    fn log_sums(&self, positions: &Range<usize>) -> Range<usize> {
        let at = (self.sequence * self.shape.heads + self.head) * self.shape.length;
        at + positions.start..at + positions.end
    }

    /// The first key that each of these queries attends to (empty if that is always key 0), and the start of the panel
    /// that contains the smallest of them.
    fn seen(&self, queries: &Range<usize>) -> (&[u32], usize) {
        let at = self.sequence * self.shape.length;
        let starts = self.shape.starts.map_or(&[][..], |s| &s[at + queries.start..at + queries.end]);
        (starts, starts.first().map_or(0, |s| *s as usize / TILE_COLUMNS * TILE_COLUMNS))
    }
}

/// Splits `positions` into pieces of `size`.
fn pieces(positions: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    positions.clone().step_by(size).map(move |from| from..(from + size).min(positions.end))
}

/// `out_rc = softmax(q kᵀ / √head width) v`, heads side by side. Saves the log-sum-exp of each row of scores in
/// `log_sums` `[sequences, heads, length]` for [`backward`].
pub fn forward(shape: &Attention<'_>, qkv: SliceRef<'_>, out_rc: &mut [f32], log_sums: &mut [f32]) {
    shape.check(&qkv, out_rc, log_sums);
    let (head_width, apart, all) = (shape.head_width(), padded_stride(shape.length), 0..shape.length);
    let (mut keys, mut values) = (shape.panels(head_width, shape.length), shape.panels(shape.length, head_width));
    let mut scores = Buffer::scratch(TILE_ROWS * apart);
    for head in shape.heads() {
        keys.pack(head.part(Part::Key, &all, qkv).reversed_axes());
        values.pack(head.part(Part::Value, &all, qkv));
        for tile in pieces(0..shape.length, TILE_ROWS) {
            let (starts, first) = head.seen(&tile);
            let seen = first..tile.end;
            let q = head.part(Part::Query, &tile, qkv);
            keys.multiply(shape.scale(), q, 0..head_width, seen.clone(), false, &mut scores, apart);
            let mut over_sums = [0.0; TILE_ROWS];
            exponentials(&mut scores, apart, &tile, starts, first, &mut log_sums[head.log_sums(&tile)], &mut over_sums);
            let probabilities = block(&scores, 0, tile.len(), seen.len(), apart);
            let out = &mut out_rc[head.column(tile.start)..];
            values.multiply(1.0, probabilities, seen, 0..head_width, false, out, shape.width);
            scale_rows(out, head_width, shape.width, &over_sums[..tile.len()]);
        }
    }
}

/// Masks the row of scores of the query at `position`, whose first column is key `first`: columns up to key `end` that
/// the query does not attend to become negative infinity, as do those up to the next whole vector, so that loops need
/// no remainder. Returns the number of columns, rounded up to whole vectors.
#[inline(always)]
fn hide(scores: &mut [f32], position: usize, start: Option<&u32>, first: usize, end: usize) -> usize {
    let whole = (end - first).next_multiple_of(LANES);
    scores[..start.map_or(0, |s| *s as usize - first)].fill(f32::NEG_INFINITY);
    scores[position + 1 - first..whole].fill(f32::NEG_INFINITY);
    whole
}

wide! {
    /// Replaces each row of a tile's scores by `e^(score - max)`, masked columns by 0.
    fn exponentials(
        scores: &mut [f32],
        apart: usize,
        tile: &Range<usize>,
        starts: &[u32],
        first: usize,
        log_sums: &mut [f32],
        over_sums: &mut [f32],
    ) {
        let rows = scores.chunks_exact_mut(apart).zip(tile.clone()).zip(log_sums.iter_mut().zip(over_sums));
        for (row, ((scores, position), (log_sum, over_sum))) in rows.enumerate() {
            let whole = hide(scores, position, starts.get(row), first, tile.end);
            let scores = &mut scores[..whole];
            let highest = max(scores);
            for chunk in scores.as_chunks_mut::<LANES>().0 {
                for x in chunk {
                    *x = exp(*x - highest);
                }
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

/// Takes the gradient of the output in `d_out_rc` and writes the gradient of `qkv`, in the layout of `qkv`, to `d_qkv`.
pub fn backward(
    shape: &Attention<'_>,
    qkv: SliceRef<'_>,
    out_rc: &[f32],
    log_sums: &[f32],
    d_out_rc: &[f32],
    d_qkv: &mut [f32],
) {
    shape.check(&qkv, out_rc, log_sums);
    assert!(d_qkv.len() == qkv.len() && d_out_rc.len() == out_rc.len());
    let (width, head_width, scale, apart) =
        (shape.width, shape.head_width(), shape.scale(), padded_stride(shape.length));
    // The gradients of keys and values are accumulated over blocks of queries.
    for row in d_qkv.chunks_exact_mut(3 * width) {
        row[width..].fill(0.0);
    }
    let all = 0..shape.length;
    let [mut across_keys, mut across_values] = [(); 2].map(|()| shape.panels(head_width, shape.length));
    let mut keys = shape.panels(shape.length, head_width);
    let [mut queries, mut d_outs] = [(); 2].map(|()| shape.panels(QUERIES, head_width));
    let [mut p, mut d_scores] = [(); 2].map(|()| Buffer::scratch(QUERIES * apart));
    for head in shape.heads() {
        across_keys.pack(head.part(Part::Key, &all, qkv).reversed_axes());
        across_values.pack(head.part(Part::Value, &all, qkv).reversed_axes());
        keys.pack(head.part(Part::Key, &all, qkv));
        for some in pieces(0..shape.length, QUERIES) {
            queries.pack(head.part(Part::Query, &some, qkv));
            d_outs.pack(head.columns(&some, d_out_rc.into()));
            let (_, first) = head.seen(&some);
            for tile in pieces(some.clone(), TILE_ROWS) {
                let seen = first..tile.end;
                let rows = (tile.start - some.start) * apart;
                let (p, d_scores) = (&mut p[rows..], &mut d_scores[rows..]);
                let (q, d_out) = (head.part(Part::Query, &tile, qkv), head.columns(&tile, d_out_rc.into()));
                across_keys.multiply(scale, q, 0..head_width, seen.clone(), false, p, apart);
                across_values.multiply(1.0, d_out, 0..head_width, seen.clone(), false, d_scores, apart);
                let mut along = [0.0; TILE_ROWS];
                let at = head.column(tile.start);
                row_dots(&out_rc[at..], &d_out_rc[at..], head_width, width, &mut along[..tile.len()]);
                let log_sums = &log_sums[head.log_sums(&tile)];
                through_softmax(p, d_scores, apart, &tile, head.seen(&tile).0, first, log_sums, &along);
                let d_scores = block(d_scores, 0, tile.len(), seen.len(), apart);
                let d_q = &mut d_qkv[head.at(Part::Query, tile.start)..];
                keys.multiply(scale, d_scores, seen, 0..head_width, false, d_q, 3 * width);
            }
            // All of these queries attend to earlier keys; a key on the diagonal is attended to by the queries from its
            // position.
            let past = first..some.start.max(first);
            for keys in std::iter::once(past).chain(pieces(some.start.max(first)..some.end, TILE_ROWS)) {
                let from = keys.start.max(some.start) - some.start;
                let seeing = from..some.len();
                let transposed = |scores: &[f32], to: &mut Panels, factor: f32, part: Part, d_qkv: &mut [f32]| {
                    let a = block(scores, from * apart + keys.start - first, seeing.len(), keys.len(), apart);
                    let d = &mut d_qkv[head.at(part, keys.start)..];
                    to.multiply(factor, a.reversed_axes(), seeing.clone(), 0..head_width, true, d, 3 * width);
                };
                transposed(&p, &mut d_outs, 1.0, Part::Value, d_qkv);
                transposed(&d_scores, &mut queries, scale, Part::Key, d_qkv);
            }
        }
    }
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
    /// Replaces scores by probabilities in `p`, and the gradient of the probabilities by that of the scores in `d`.
    #[allow(clippy::too_many_arguments)]
    fn through_softmax(
        p: &mut [f32],
        d: &mut [f32],
        apart: usize,
        tile: &Range<usize>,
        starts: &[u32],
        first: usize,
        log_sums: &[f32],
        along: &[f32],
    ) {
        let rows = p.chunks_exact_mut(apart).zip(d.chunks_exact_mut(apart)).zip(tile.clone());
        for (row, (((p, d), position), (log_sum, along))) in rows.zip(log_sums.iter().zip(along)).enumerate() {
            let whole = hide(p, position, starts.get(row), first, tile.end);
            // Two loops, since the compiler does not vectorise them as one.
            for (p, d) in p[..whole].as_chunks_mut::<LANES>().0.iter_mut().zip(d.as_chunks_mut::<LANES>().0) {
                for p in p.iter_mut() {
                    *p = exp(*p - log_sum);
                }
                for (d, p) in d.iter_mut().zip(p) {
                    *d = *p * (*d - along);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
