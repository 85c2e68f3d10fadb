//! The product on packed panels: how it is cut into blocks that stay in caches and tiles that stay in registers.
//!
//! After Goto and van de Geijn (2008): a block of `b` is packed into panels of columns and stays in a cache, and so does a
//! block of `a` in panels of rows; each panel of the one meets all of the other's. Where rows of `a` are contiguous they
//! may be read where they are, and the next panel's are fetched ahead. A [`Kernel`] says how large tiles and blocks are,
//! and multiplies a tile.
//!
//! An element of `c` is summed along `k` in blocks of [`Kernel::DEPTH`] at most, whatever its place in a tile: results do not
//! depend on the size of caches or on how many rows are multiplied at once.
use super::Done;
use super::factor::{AnyOperand, Factor, Half, Operand};
use super::panels::{LANES, Multiply, PACKED_ROWS, TILE_COLUMNS, apart};
use contract::Buffer;
use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::hint::black_box;

/// One product; see [`super::product_then`].
pub(super) struct Product<'a> {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub alpha: f32,
    pub a: AnyOperand,
    pub b: AnyOperand,
    /// Is `c` added to?
    pub add: bool,
    /// Where `c` lies, and floats between two of its rows; nowhere, if only its parts are wanted.
    pub c: Option<(*mut f32, usize)>,
    /// Floats' room for packed `b` that stays in the second cache.
    pub cached: usize,
    /// Called with what is complete and still in cache.
    pub then: &'a mut dyn FnMut(&mut Done),
}

impl<'a> Product<'a> {
    /// `c = alpha · a · b`, or `+=` if `add`; none if a factor has no unit stride.
    pub fn of(
        alpha: f32,
        a: &Factor<'_>,
        b: &Factor<'_>,
        add: bool,
        c: Option<(*mut f32, usize)>,
        cached: usize,
        then: &'a mut dyn FnMut(&mut Done),
    ) -> Option<Self> {
        let ((rows, depth), columns) = (a.dim(), b.dim().1);
        let (a, b) = (AnyOperand::of(a)?, AnyOperand::of(b)?);
        Some(Self { rows, columns, depth, alpha, a, b, add, c, cached, then })
    }
}

/// Where a tile's sums go.
pub(super) struct Tile {
    pub c: *mut f32,
    pub stride: usize,
    pub wide: usize,
    pub alpha: f32,
    pub add: bool,
}

/// How a CPU packs operands and multiplies a tile. Panels have two steps of `k` at a time; an odd one is filled up.
///
/// Whoever calls these has the CPU's features and buffers with room; they are inlined, so that they have them too.
pub(super) trait Kernel {
    /// Rows of a tile.
    const ROWS: usize;
    /// Columns of a tile, and of a panel of `b`: whole vectors.
    const COLUMNS: usize;
    /// May rows of `a` be read where they are?
    const IN_PLACE: bool;
    /// Do operands lie in panels as they were, neither rounded nor joined?
    const AS_THEY_ARE: bool;
    /// Which panel meets all of the other's, and so stays in the first cache: one of `b`, or one of `a`?
    const B_STAYS: bool;
    /// Most steps of `k` between two visits to `c`.
    const DEPTH: usize;
    /// Most rows of a block of `a`, and of `c` between two calls of [`Product::then`].
    const BLOCK_ROWS: usize;
    /// A block of `b` takes at most that many times [`Product::cached`].
    const BLOCK_CACHES: usize;
    /// Every how many vectors of a panel are some lines of the next block of `b` fetched to the second cache, if they are?
    const FETCHES_B: Option<usize>;
    /// Vectors that a pair of steps takes in a panel.
    const VECTORS: usize = 2;

    /// Do `steps` of `a` lie as they would lie in a panel, or in rows that are as good?
    #[inline(always)]
    fn takes(a: AnyOperand, steps: usize) -> bool {
        match a {
            AnyOperand::Single(_) => Self::AS_THEY_ARE,
            AnyOperand::Half(_) => Self::VECTORS == 1 && a.in_pairs(steps),
        }
    }
    /// Packs `rows` × `steps` of `a` into panels of at most [`Self::ROWS`] rows.
    unsafe fn pack_a(a: AnyOperand, rows: usize, steps: usize, out: *mut f32);
    /// Rounds `rows` × `steps` of `a`, whose rows are contiguous, into rows that are `apart` floats apart.
    unsafe fn round_rows(a: AnyOperand, rows: usize, steps: usize, out: *mut f32, apart: usize);
    /// Where in packed `a`, of `vectors` a column, the panel is that begins with `row` and is `high` rows high.
    unsafe fn panel(packed: *const f32, row: usize, high: usize, vectors: usize) -> Operand;
    /// Packs `steps` × `columns` of `b` into panels of at most [`Self::COLUMNS`] columns.
    unsafe fn pack_b(b: AnyOperand, steps: usize, columns: usize, out: *mut f32);
    /// Multiplies `high` rows of `a` by a panel of `b`, whose vectors of a step are `b_step` floats apart. Of `a`, either
    /// steps or rows are neighbours; which, is `ROWS_APART`. On the way it fetches its share of what is packed next.
    unsafe fn tile<const ROWS_APART: bool>(
        high: usize,
        vectors: usize,
        a: Operand,
        b: *const f32,
        b_step: usize,
        to: &Tile,
        ahead: &mut Ahead,
    );
}

/// Floats of packed `a` that may stay: 4 MB, which a third cache usually has to spare.
const A_STAYS: usize = 1 << 20;

/// Vectors that `steps` of `k` take in a panel.
#[inline(always)]
fn vectors_of<K: Kernel>(steps: usize) -> usize {
    steps.div_ceil(2) * K::VECTORS
}

/// `total` in pieces of at most `most`, all about as long: the length of one, a multiple of `step`.
pub(super) fn even(total: usize, most: usize, step: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).next_multiple_of(step)
}

/// No closures in here or below: the compiler gives them none of the CPU's features, and what they call would not be
/// inlined.
#[inline(always)]
pub(super) unsafe fn run<K: Kernel>(p: &mut Product<'_>) {
    let depth = even(p.depth, K::DEPTH, 8);
    let columns = even(p.columns, (p.cached * K::BLOCK_CACHES * 2 / K::VECTORS / depth).max(K::COLUMNS), K::COLUMNS);
    let rows = even(p.rows, K::BLOCK_ROWS, K::ROWS);
    let mut packed_b = Buffer::scratch(vectors_of::<K>(depth) * columns.min(p.columns.next_multiple_of(LANES)));
    // All of `a` stays packed where it is met more than once, if it is not too large.
    let all_rows = p.rows.next_multiple_of(K::ROWS);
    let whole = vectors_of::<K>(p.depth) * all_rows;
    // Where rows of it are read in place, a last block with an odd step may have to be packed.
    let by_rows = K::IN_PLACE && p.a.by_rows();
    let a_stays = !(by_rows && K::takes(p.a, depth)) && columns < p.columns && whole <= A_STAYS;
    let room = if a_stays { whole } else { vectors_of::<K>(depth) * rows };
    let mut packed_a = Buffer::scratch(if by_rows && K::takes(p.a, p.depth) { 0 } else { room });
    // Where only parts are wanted, each block of columns lies where the one before did.
    let mut part = Buffer::scratch(if p.c.is_none() { p.rows * columns } else { 0 });
    for column in (0..p.columns).step_by(columns) {
        let width = columns.min(p.columns - column);
        let (c, stride) = p.c.unwrap_or((part.as_mut_ptr().wrapping_sub(column), columns));
        for k in (0..p.depth).step_by(depth) {
            let steps = depth.min(p.depth - k);
            let last = k + steps == p.depth;
            let vectors = vectors_of::<K>(steps);
            let in_place = by_rows && K::takes(p.a.at(0, k), steps);
            // SAFETY: the block lies in `b`, and the buffer holds its columns, rounded up to whole vectors.
            unsafe { K::pack_b(p.b.at(k, column), steps, width, packed_b.as_mut_ptr()) };
            let (next_k, next_column) = if last { (0, column + columns) } else { (k + steps, column) };
            let tiles = p.rows.div_ceil(K::ROWS) * width.div_ceil(K::COLUMNS);
            let mut ahead = match K::FETCHES_B {
                Some(turns) if next_column < p.columns => {
                    let (steps, width) = (depth.min(p.depth - next_k), columns.min(p.columns - next_column));
                    Ahead::new(p.b.at(next_k, next_column), steps, width, tiles * vectors.div_ceil(turns))
                }
                _ => Ahead::NOTHING,
            };
            for row in (0..p.rows).step_by(rows) {
                let height = rows.min(p.rows - row);
                let at = if a_stays { vectors_of::<K>(k) * all_rows + row * vectors } else { 0 };
                // SAFETY: blocks of depth are a multiple of 8, so those before this one take `vectors_of(k)` a row; rows
                // before it are whole panels, and it is no longer than what is left of them.
                let packed_a = unsafe { packed_a.as_mut_ptr().add(at) };
                if !in_place && (column == 0 || !a_stays) {
                    // SAFETY: as above.
                    unsafe { K::pack_a(p.a.at(row, k), height, steps, packed_a) };
                }
                let (down, across) = ((height, K::ROWS), (width, K::COLUMNS));
                let (outer, inner) = if K::B_STAYS { (across, down) } else { (down, across) };
                for outer in (0..outer.0).step_by(outer.1) {
                    for inner in (0..inner.0).step_by(inner.1) {
                        let (i, j) = if K::B_STAYS { (inner, outer) } else { (outer, inner) };
                        let (high, wide) = (K::ROWS.min(height - i), K::COLUMNS.min(width - j));
                        // SAFETY: the tile lies in `c`, its panels in their buffers (or in `a`).
                        unsafe {
                            let c = c.wrapping_add((row + i) * stride + column + j);
                            let b = packed_b.as_ptr().add(j * vectors);
                            // What follows from it is computed for the tile that is chosen, not for each kind before.
                            let b_step = black_box(wide.next_multiple_of(LANES));
                            let to = Tile { c, stride, wide, alpha: p.alpha, add: p.add || k > 0 };
                            if in_place {
                                let (a, lanes) = (p.a.at(row + i, k).lanes(), steps * K::VECTORS / 2);
                                if row + i + 2 * K::ROWS <= p.rows {
                                    let (share, shares) = (j / K::COLUMNS, width.div_ceil(K::COLUMNS));
                                    fetch_share::<K>(a.at(K::ROWS, 0), lanes, share, shares);
                                }
                                K::tile::<true>(high, lanes, a, b, b_step, &to, &mut ahead);
                            } else {
                                let a = K::panel(packed_a, i, high, vectors);
                                K::tile::<false>(high, vectors, a, b, b_step, &to, &mut ahead);
                            }
                        }
                    }
                }
                if last {
                    let (rows, columns) = (row..row + height, column..column + width);
                    (p.then)(&mut Done { rows, columns, c, stride });
                }
            }
        }
    }
}

/// As [`super::panels::Panels::multiply`]. `a` is rounded a few rows at a time, if at all.
#[inline(always)]
pub(super) unsafe fn multiply_panels<K: Kernel>(m: &mut Multiply<'_>) {
    let (rows_apart, in_place, stride) = (m.a.by_rows(), K::takes(m.a, m.steps), apart(m.depth));
    // Tiles are about equally high, but where they are packed: there, two are at once.
    let rows = if rows_apart || in_place { even(m.rows, K::ROWS, 1) } else { PACKED_ROWS / K::ROWS * K::ROWS };
    let vectors = if in_place { m.steps * K::VECTORS / 2 } else { vectors_of::<K>(m.steps) };
    let (left, mut nothing) = (m.left.as_mut_ptr(), Ahead::NOTHING);
    for i in (0..m.rows).step_by(rows) {
        let (from, some) = (m.a.at(i, 0), rows.min(m.rows - i));
        // SAFETY: the caller's: rows and steps lie inside, and there is room for that many.
        unsafe {
            match (in_place, rows_apart) {
                (true, _) => (),
                (false, true) => K::round_rows(from, some, m.steps, left, stride),
                (false, false) => K::pack_a(from, some, m.steps, left),
            }
        }
        for row in (0..some).step_by(K::ROWS) {
            let high = K::ROWS.min(some - row);
            let a = match (in_place, rows_apart) {
                (true, _) => from.at(row, 0).lanes(),
                (false, true) => Operand { data: left, row: stride, column: 1 },
                // SAFETY: as above.
                (false, false) => unsafe { K::panel(left, row, high, vectors) },
            };
            for j in (m.columns.start..m.columns.end).step_by(K::COLUMNS) {
                let panel = j / TILE_COLUMNS * TILE_COLUMNS;
                // What follows from it is computed for the tile that is chosen, not for each kind before.
                let across = black_box(TILE_COLUMNS.min((m.panels - panel).next_multiple_of(LANES)));
                let wide = K::COLUMNS.min(m.columns.end - j);
                // SAFETY: the caller's: steps, rows and columns lie inside.
                unsafe {
                    let b = m.b.add(panel * vectors_of::<K>(m.depth) + vectors_of::<K>(m.first) * across + j - panel);
                    let c = m.c.add((i + row) * m.stride + j - m.columns.start);
                    let to = Tile { c, stride: m.stride, wide, alpha: m.alpha, add: m.add };
                    if rows_apart {
                        K::tile::<true>(high, vectors, a, b, across, &to, &mut nothing);
                    } else {
                        K::tile::<false>(high, vectors, a, b, across, &to, &mut nothing);
                    }
                }
            }
        }
    }
}

/// A block that is packed next, on its way to the second cache while tiles of this one are multiplied.
pub(super) struct Ahead {
    block: *const u8,
    /// Rows or columns whose elements are neighbours, and bytes between two of them.
    runs: usize,
    stride: usize,
    /// Lines of a run.
    lines: usize,
    /// The line that is fetched next.
    run: usize,
    line: usize,
    /// Lines that are fetched at once.
    share: usize,
}

impl Ahead {
    const NOTHING: Self = Self { block: std::ptr::null(), runs: 0, stride: 0, lines: 0, run: 0, line: 0, share: 0 };
    /// Bytes of a line.
    const LINE: usize = 64;

    /// The `steps` × `columns` of `b`, some lines each of that many times.
    fn new(b: AnyOperand, steps: usize, columns: usize, times: usize) -> Self {
        let (block, row, column, size) = match b {
            AnyOperand::Single(x) => (x.data.cast(), x.row, x.column, size_of::<f32>()),
            AnyOperand::Half(x) => (x.data.cast(), x.row, x.column, size_of::<Half>()),
        };
        let (runs, length, apart) = if column == 1 { (steps, columns, row) } else { (columns, steps, column) };
        let lines = (length * size).div_ceil(Self::LINE);
        let share = (runs * lines).div_ceil(times);
        Self { block, runs, stride: apart * size, lines, run: 0, line: 0, share }
    }

    /// Fetches the next lines.
    #[inline(always)]
    pub fn fetch(&mut self) {
        for _ in 0..self.share {
            if self.run == self.runs {
                return;
            }
            let at = self.block.wrapping_add(self.run * self.stride + self.line * Self::LINE);
            // SAFETY: a hint, which may point anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
            self.line += 1;
            if self.line == self.lines {
                (self.run, self.line) = (self.run + 1, 0);
            }
        }
    }
}

/// Fetches the `share`-th of `shares` parts of the next panel's rows.
#[inline(always)]
unsafe fn fetch_share<K: Kernel>(a: Operand, lanes: usize, share: usize, shares: usize) {
    let lines = lanes.div_ceil(LANES);
    let each = lines.div_ceil(shares);
    for line in (share * each..lines).take(each) {
        for row in 0..K::ROWS {
            // SAFETY: a hint, which may point anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(a.data.wrapping_add(row * a.row + line * LANES).cast()) };
        }
    }
}
