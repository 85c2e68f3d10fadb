//! Causal self-attention in tiles that stay in cache.
//!
//! Keys and values of a head are packed once; a tile of [`TILE_ROWS`] queries then meets only the keys up to its own end
//! (and from its first document's start, where documents are masked): scores, softmax and values while they lie in the
//! first cache. Nothing above the diagonal is computed but inside its last tile. Backward recomputes the probabilities
//! from each row's log-sum-exp, as FlashAttention does (Dao et al. 2022); no `length × length` matrix is kept, and masks
//! never exist as data.
use crate::kernels::gemm::panels::{Panels, TILE_COLUMNS, TILE_ROWS, padded_stride};
use crate::kernels::gemm::{MatRef, SliceRef, block};
use crate::simd::{LANES, dot, exp, max, sum};
use crate::wide;
use contract::{Buffer, Precision};
use std::ops::Range;

/// Rows of queries that keys and values gather gradients from at once.
const QUERIES: usize = 64;

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
    /// What operands of products are rounded to.
    pub precision: Precision,
}

/// The parts of a row of `qkv`.
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
    /// Where in `qkv` a part of position `position` starts.
    fn at(&self, part: Part, position: usize) -> usize {
        let row = self.sequence * self.shape.length + position;
        (row * 3 + part as usize) * self.shape.width + self.head * self.shape.head_width()
    }

    fn part<'q>(&self, part: Part, positions: &Range<usize>, qkv: SliceRef<'q>) -> MatRef<'q> {
        qkv.block(self.at(part, positions.start), positions.len(), self.shape.head_width(), 3 * self.shape.width)
    }

    /// Where in a `[rows, width]` matrix the head's columns of a position start.
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

    /// Of some queries: the first key that each sees (empty if that is always the first), and where the panel starts
    /// that holds the first of all.
    fn seen(&self, queries: &Range<usize>) -> (&[u32], usize) {
        let at = self.sequence * self.shape.length;
        let starts = self.shape.starts.map_or(&[][..], |s| &s[at + queries.start..at + queries.end]);
        (starts, starts.first().map_or(0, |s| *s as usize / TILE_COLUMNS * TILE_COLUMNS))
    }
}

/// `positions` in pieces of `size`.
fn pieces(positions: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    positions.clone().step_by(size).map(move |from| from..(from + size).min(positions.end))
}

/// `out_rc = softmax(q kᵀ / √head width) v`, heads side by side; keeps `log_sums` `[sequences, heads, length]`, the
/// log-sum-exp of each row of scores, for [`backward`].
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

/// Of the row of scores of the query at `position`, which begins with key `first`: unseen columns up to `end` become
/// negative infinity, and more, up to the end of its last vector, so that loops need no edges. Gives that end.
#[inline(always)]
fn hide(scores: &mut [f32], position: usize, start: Option<&u32>, first: usize, end: usize) -> usize {
    let whole = (end - first).next_multiple_of(LANES);
    scores[..start.map_or(0, |s| *s as usize - first)].fill(f32::NEG_INFINITY);
    scores[position + 1 - first..whole].fill(f32::NEG_INFINITY);
    whole
}

wide! {
    /// Each row of a tile's scores to `e^(score - max)`, unseen columns to 0.
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

/// From `d_out_rc`, the gradient at `out_rc`: the gradient at `qkv`, in its layout.
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
    // Keys and values sum over the blocks of queries that saw them.
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
            // Keys of the past are seen by all of these queries, those on the diagonal by the queries from there on.
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
    /// Scores to probabilities in `p`, and the gradient at the probabilities to that at the scores in `d`.
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
            // Each in a loop of its own: together the compiler takes them one number at a time.
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
