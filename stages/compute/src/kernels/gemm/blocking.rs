//! Cache and register blocking: the loops over packed panels that the AVX-512 and AVX2 backends share.
//!
//! After Goto and van de Geijn (2008): a block of `b` is packed into panels of columns that stay in a cache, a block of
//! `a` into panels of rows, and each panel of one is multiplied by all panels of the other. If rows of `a` are
//! contiguous they can be read in place, and the next panel's rows are prefetched. A [`TileKernel`] sets the block
//! sizes and multiplies a tile.
//!
//! Each element of `c` is summed along `k` in blocks of at most [`TileKernel::DEPTH`],
//! whatever its position in a tile: results depend neither on cache sizes nor on how many rows are multiplied at once.
use super::backend::Product;
use super::matrix::{OutputBlock, Strided};
use super::tile::{LANES, PACKED_ROWS, PanelProduct, Prefetch, TILE_COLUMNS, Tile, TileKernel, padded_stride};
use contract::Buffer;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::hint::black_box;

/// Floats of packed `a` that are kept if `a` is needed more than once: 4 MB, which usually fit in the L3 cache.
const A_STAYS: usize = 1 << 20;

/// Number of vectors that `steps` of `k` occupy in a panel.
#[inline(always)]
fn vectors_of<K: TileKernel>(steps: usize) -> usize {
    steps.div_ceil(2) * K::VECTORS
}

/// Length of the pieces when `total` is split into equal pieces of at most `most`, rounded up to a multiple of `step`.
pub(super) fn even(total: usize, most: usize, step: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).next_multiple_of(step)
}

/// Computes a product.
///
/// This function and those it calls use no closures: the compiler would not enable the CPU features in them, and their
/// callees would not be inlined.
#[inline(always)]
pub(super) unsafe fn run<K: TileKernel>(p: &mut Product<'_>) {
    let depth = even(p.depth, K::DEPTH, 8);
    let columns = even(p.columns, (p.cached * K::BLOCK_CACHES * 2 / K::VECTORS / depth).max(K::COLUMNS), K::COLUMNS);
    let rows = even(p.rows, K::BLOCK_ROWS, K::ROWS);
    let mut packed_b = Buffer::scratch(vectors_of::<K>(depth) * columns.min(p.columns.next_multiple_of(LANES)));
    // All of `a` stays packed if it is needed more than once and is not too large.
    let all_rows = p.rows.next_multiple_of(K::ROWS);
    let whole = vectors_of::<K>(p.depth) * all_rows;
    // Even if rows of `a` are read in place, a last block with an odd number of steps may have to be packed.
    let row_major = K::IN_PLACE && p.a.is_row_major();
    let a_stays = !(row_major && K::reads_in_place(p.a, depth)) && columns < p.columns && whole <= A_STAYS;
    let room = if a_stays { whole } else { vectors_of::<K>(depth) * rows };
    let mut packed_a = Buffer::scratch(if row_major && K::reads_in_place(p.a, p.depth) { 0 } else { room });
    // If the caller needs no whole result, each block of columns overwrites the previous one.
    let mut part = Buffer::scratch(if p.c.is_none() { p.rows * columns } else { 0 });
    for column in (0..p.columns).step_by(columns) {
        let width = columns.min(p.columns - column);
        let (c, stride) = p.c.unwrap_or((part.as_mut_ptr().wrapping_sub(column), columns));
        for k in (0..p.depth).step_by(depth) {
            let steps = depth.min(p.depth - k);
            let last = k + steps == p.depth;
            let vectors = vectors_of::<K>(steps);
            let in_place = row_major && K::reads_in_place(p.a.at(0, k), steps);
            // SAFETY: the block is inside `b`, and the buffer has room for its columns, rounded up to whole vectors.
            unsafe { K::pack_b(p.b.at(k, column), steps, width, packed_b.as_mut_ptr()) };
            let (next_k, next_column) = if last { (0, column + columns) } else { (k + steps, column) };
            let tiles = p.rows.div_ceil(K::ROWS) * width.div_ceil(K::COLUMNS);
            let mut next = match K::PREFETCH_B {
                Some(turns) if next_column < p.columns => {
                    let (steps, width) = (depth.min(p.depth - next_k), columns.min(p.columns - next_column));
                    Prefetch::new(p.b.at(next_k, next_column), steps, width, tiles * vectors.div_ceil(turns))
                }
                _ => Prefetch::NOTHING,
            };
            for row in (0..p.rows).step_by(rows) {
                let height = rows.min(p.rows - row);
                let at = if a_stays { vectors_of::<K>(k) * all_rows + row * vectors } else { 0 };
                // SAFETY: depths of blocks are multiples of 8, so the blocks before this one take `vectors_of(k)` per
                // row; the rows before it are whole panels, and it is no longer than the rest of the buffer.
                let packed_a = unsafe { packed_a.as_mut_ptr().add(at) };
                if !in_place && (column == 0 || !a_stays) {
                    // SAFETY: as above.
                    unsafe { K::pack_a(p.a.at(row, k), height, steps, packed_a) };
                }
                let block = Block { row, column, k, height, width, steps, packed_a, in_place, c, stride };
                // SAFETY: the block is inside `a`, `b` and `c`, and its panels are inside their buffers (or `a`).
                unsafe { multiply_block::<K>(p, &block, packed_b.as_ptr(), &mut next) };
                if last {
                    let (rows, columns) = (row..row + height, column..column + width);
                    (p.then)(&mut OutputBlock { rows, columns, c, stride });
                }
            }
        }
    }
}

/// A block of rows of `a` times a block of columns of `b`, over a block of steps.
struct Block {
    row: usize,
    column: usize,
    k: usize,
    height: usize,
    width: usize,
    steps: usize,
    packed_a: *const f32,
    in_place: bool,
    c: *mut f32,
    stride: usize,
}

/// Multiplies all tiles of a block.
#[inline(always)]
unsafe fn multiply_block<K: TileKernel>(p: &Product<'_>, block: &Block, packed_b: *const f32, next: &mut Prefetch) {
    let &Block { row, column, k, height, width, steps, packed_a, in_place, c, stride } = block;
    let vectors = vectors_of::<K>(steps);
    let (down, across) = ((height, K::ROWS), (width, K::COLUMNS));
    let (outer, inner) = if K::B_STAYS { (across, down) } else { (down, across) };
    for outer in (0..outer.0).step_by(outer.1) {
        for inner in (0..inner.0).step_by(inner.1) {
            let (i, j) = if K::B_STAYS { (inner, outer) } else { (outer, inner) };
            let (high, wide) = (K::ROWS.min(height - i), K::COLUMNS.min(width - j));
            if p.upper && column + j + wide <= row + i {
                continue;
            }
            // SAFETY: the caller guarantees that the tile is inside `c`, and its panels inside their buffers (or `a`).
            unsafe {
                let c = c.wrapping_add((row + i) * stride + column + j);
                let b = packed_b.add(j * vectors);
                // Opaque to the compiler, which would otherwise precompute values that depend on it for every tile
                // size.
                let b_step = black_box(wide.next_multiple_of(LANES));
                let to = Tile { c, stride, width: wide, alpha: p.alpha, add: p.add || k > 0 };
                if in_place {
                    let (a, lanes) = (p.a.at(row + i, k).lanes(), steps * K::VECTORS / 2);
                    if row + i + 2 * K::ROWS <= p.rows {
                        let (share, shares) = (j / K::COLUMNS, width.div_ceil(K::COLUMNS));
                        prefetch_share::<K>(a.at(K::ROWS, 0), lanes, share, shares);
                    }
                    K::tile::<true>(high, lanes, a, b, b_step, &to, next);
                } else {
                    let a = K::panel(packed_a, i, high, vectors);
                    K::tile::<false>(high, vectors, a, b, b_step, &to, next);
                }
            }
        }
    }
}

/// Computes a [`PanelProduct`]. `a` is rounded a few rows at a time, if at all.
#[inline(always)]
pub(super) unsafe fn multiply_panels<K: TileKernel>(m: &mut PanelProduct<'_>) {
    let (row_major, in_place) = (m.a.is_row_major(), K::reads_in_place(m.a, m.steps));
    let stride = padded_stride(m.depth);
    // Tiles are of about equal height, unless they are packed: then two are packed at once.
    let rows = if row_major || in_place { even(m.rows, K::ROWS, 1) } else { PACKED_ROWS / K::ROWS * K::ROWS };
    let vectors = if in_place { m.steps * K::VECTORS / 2 } else { vectors_of::<K>(m.steps) };
    let (left, mut nothing) = (m.left.as_mut_ptr(), Prefetch::NOTHING);
    for i in (0..m.rows).step_by(rows) {
        let (from, some) = (m.a.at(i, 0), rows.min(m.rows - i));
        // SAFETY: the caller guarantees that rows and steps are inside `a`, and that the scratch memory has room for
        // them.
        unsafe {
            match (in_place, row_major) {
                (true, _) => (),
                (false, true) => K::round_rows(from, some, m.steps, left, stride),
                (false, false) => K::pack_a(from, some, m.steps, left),
            }
        }
        for row in (0..some).step_by(K::ROWS) {
            let high = K::ROWS.min(some - row);
            let a = match (in_place, row_major) {
                (true, _) => from.at(row, 0).lanes(),
                (false, true) => Strided { data: left, row: stride, column: 1 },
                // SAFETY: as above.
                (false, false) => unsafe { K::panel(left, row, high, vectors) },
            };
            for j in (m.columns.start..m.columns.end).step_by(K::COLUMNS) {
                let panel = j / TILE_COLUMNS * TILE_COLUMNS;
                // Opaque to the compiler, which would otherwise compute what follows from it for each kind of tile
                // first.
                let across = black_box(TILE_COLUMNS.min((m.panels - panel).next_multiple_of(LANES)));
                let width = K::COLUMNS.min(m.columns.end - j);
                // SAFETY: the caller guarantees that steps, rows and columns are inside the operands.
                unsafe {
                    let b = m.b.add(panel * vectors_of::<K>(m.depth) + vectors_of::<K>(m.first) * across + j - panel);
                    let c = m.c.add((i + row) * m.stride + j - m.columns.start);
                    let to = Tile { c, stride: m.stride, width, alpha: m.alpha, add: m.add };
                    if row_major {
                        K::tile::<true>(high, vectors, a, b, across, &to, &mut nothing);
                    } else {
                        K::tile::<false>(high, vectors, a, b, across, &to, &mut nothing);
                    }
                }
            }
        }
    }
}

/// Prefetches the `share`-th of `shares` parts of the next panel's rows.
#[inline(always)]
unsafe fn prefetch_share<K: TileKernel>(a: Strided, lanes: usize, share: usize, shares: usize) {
    let lines = lanes.div_ceil(LANES);
    let each = lines.div_ceil(shares);
    for line in (share * each..lines).take(each) {
        for row in 0..K::ROWS {
            // SAFETY: a prefetch is a hint that accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(a.data.wrapping_add(row * a.row + line * LANES).cast()) };
        }
    }
}
