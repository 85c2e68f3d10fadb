//! Cache blocking: the loops over quantised panels, as in [`blocking`](crate::kernels::gemm::blocking).
//!
//! A block of `b` stays in the L2 cache while the panels of `a`, each of which stays in the L1 cache, are multiplied by
//! all of its panels. Meanwhile the numbers that become the next block of `b` are prefetched into the L2 cache. If the
//! depth takes several blocks, integer sums wait in memory.
use super::pack::{Block, LINE, STEPS, panel_bytes};
use super::quantise::Lines;
use super::{Kernel, Keys, Tile};
use crate::kernels::gemm::backend::Product;
use crate::kernels::gemm::blocking::even;
use crate::kernels::gemm::matrix::OutputBlock;
use crate::kernels::gemm::tile::{LANES, Prefetch};
use contract::Buffer;

/// Largest number of steps of `k` in a block.
const DEPTH: usize = 1024;
/// Largest number of rows of a block of `a`, and of a block of `c` that is passed to the callback.
const ROWS: usize = 128;
/// Bytes of packed `a` that are kept if `a` is needed more than once.
const A_STAYS: usize = 8 << 20;
/// Steps of `k` above which `a` is not kept either: packing wide blocks of `b` is faster then.
const DEEP: usize = 4096;
/// Largest number of columns of a block of `b` if `a` is not kept.
const WIDE: usize = 1024;

/// Memory for `bytes` bytes that starts on a cache line.
fn bytes(bytes: usize) -> Buffer {
    Buffer::scratch(bytes.div_ceil(size_of::<f32>()))
}

/// The sizes of the blocks of a product.
struct Sizes {
    depth: usize,
    columns: usize,
    rows: usize,
    /// Whether all of `a` stays packed.
    a_stays: bool,
}

impl Sizes {
    fn of(kernel: &Kernel, p: &Product<'_>) -> Self {
        let rows = even(p.rows, ROWS, LANES.max(kernel.rows));
        if p.depth > DEEP || p.rows * p.depth > A_STAYS {
            // `a` is packed once for each block of columns, so they are wide.
            let columns = even(p.columns, WIDE, kernel.columns);
            let depth = even(p.depth, (p.cached * size_of::<f32>() / columns).clamp(LINE, DEPTH), LINE);
            return Self { depth, columns, rows, a_stays: false };
        }
        let depth = even(p.depth, DEPTH, LINE);
        // So that the next block, of numbers of up to four bytes, fits beside it if it is prefetched.
        let room = if kernel.prefetch { p.cached } else { p.cached * size_of::<f32>() };
        let most = (room / depth).max(kernel.columns) / kernel.columns * kernel.columns;
        let columns = even(p.columns, most, kernel.columns);
        Self { depth, columns, rows, a_stays: columns < p.columns }
    }
}

/// Computes a product.
///
/// # Safety
/// As for [`Backend::product`](crate::kernels::gemm::backend::Backend::product), and the kernel's backend must be
/// available. The depth must be at most [`DEEPEST`](super::DEEPEST).
pub(super) unsafe fn run(kernel: &Kernel, keys: Keys, p: &mut Product<'_>) {
    let Sizes { depth, columns, rows, a_stays } = Sizes::of(kernel, p);
    let blocks = p.depth.div_ceil(depth);
    let row_panels = p.rows.div_ceil(LANES);
    let b = p.b.transposed();
    // SAFETY: the caller guarantees that the operands have these sizes, also below.
    let of_a = unsafe { Lines::of(p.a, [p.rows, p.depth], p.largest[0], 0, keys[0], p.alpha) };
    let column_panels = columns.min(p.columns.next_multiple_of(LANES)).div_ceil(LANES);
    let mut packed_b = bytes(panel_bytes(depth) * column_panels);
    let a_panels = if a_stays { row_panels * blocks } else { rows.div_ceil(LANES) };
    let mut packed_a = bytes(panel_bytes(depth) * a_panels);
    let mut sums = Buffer::scratch(if blocks > 1 { row_panels * LANES * column_panels * LANES } else { 0 });
    let mut part = Buffer::scratch(if p.c.is_none() { p.rows * columns } else { 0 });
    let packed_b = packed_b.as_mut_ptr().cast::<u8>();
    // SAFETY: the kernel's backend is available.
    unsafe { (kernel.begin)() };
    for column in (0..p.columns).step_by(columns) {
        let width = columns.min(p.columns - column);
        let (c, stride) = p.c.unwrap_or((part.as_mut_ptr().wrapping_sub(column), columns));
        let largest = p.largest[1].map(|largest| &largest[column..column + width]);
        // SAFETY: as above.
        let of_b = unsafe { Lines::of(b.at(column, 0), [width, p.depth], largest, column, keys[1], 1.0) };
        for (index, k) in (0..p.depth).step_by(depth).enumerate() {
            let steps = depth.min(p.depth - k);
            let block = Block { x: b.at(column, k), count: width, from: 0, steps, first: k, of: &of_b, is_b: true };
            // SAFETY: as above; the buffer has room for the block's panels.
            unsafe { (kernel.pack)(&block, packed_b) };
            let mut next = next_block(kernel, p, [k + steps, column], [depth, columns]);
            for row in (0..p.rows).step_by(rows) {
                let high = rows.min(p.rows - row);
                let panel = if a_stays { index * row_panels + row / LANES } else { 0 };
                let packed_a = packed_a.as_mut_ptr().cast::<u8>().wrapping_add(panel * panel_bytes(depth));
                if column == 0 || !a_stays {
                    let x = p.a.at(row, k);
                    let block = Block { x, count: high, from: row, steps, first: k, of: &of_a, is_b: false };
                    // SAFETY: as above.
                    unsafe { (kernel.pack)(&block, packed_a) };
                }
                let first = Tile {
                    a: packed_a,
                    b: packed_b.wrapping_add(LINE),
                    apart: panel_bytes(steps),
                    lines: steps.div_ceil(STEPS),
                    high,
                    wide: width,
                    sums: sums.as_mut_ptr().cast::<i32>().wrapping_add(row * column_panels * LANES),
                    sums_stride: column_panels * LANES,
                    first: k == 0,
                    last: k + steps == p.depth,
                    c: c.wrapping_add(row * stride + column),
                    stride,
                    add: p.add,
                    row_scales: of_a.scales[row..].as_ptr(),
                    column_scales: of_b.scales.as_ptr(),
                };
                // SAFETY: the caller guarantees that `c` covers the block, and the panels have been packed.
                unsafe { multiply(kernel, &first, &mut next) };
                if first.last {
                    let (rows, columns) = (row..row + high, column..column + width);
                    (p.then)(&mut OutputBlock { rows, columns, c, stride });
                }
            }
        }
    }
    // SAFETY: as above.
    unsafe { (kernel.end)() };
}

/// Prefetches the block of `b` after the one that ends before step `k` and starts at `column`, a share for each tile.
fn next_block(kernel: &Kernel, p: &Product<'_>, [k, column]: [usize; 2], [depth, columns]: [usize; 2]) -> Prefetch {
    let tiles = p.rows.div_ceil(kernel.rows) * columns.min(p.columns - column).div_ceil(kernel.columns);
    let (k, column) = if k < p.depth { (k, column) } else { (0, column + columns) };
    if column >= p.columns || !kernel.prefetch {
        return Prefetch::NOTHING;
    }
    Prefetch::new(p.b.at(k, column), depth.min(p.depth - k), columns.min(p.columns - column), tiles)
}

/// Computes all tiles of a block, which is given as one large tile.
///
/// # Safety
/// The kernel's backend must be available, the kernel have begun, and the pointers of the block be valid for its sizes.
pub(super) unsafe fn multiply(kernel: &Kernel, block: &Tile, next: &mut Prefetch) {
    // Rows of the panels that a tile can be in.
    let rows = LANES.max(kernel.rows);
    for panel in (0..block.high).step_by(rows) {
        for i in (panel..block.high.min(panel + rows)).step_by(kernel.rows) {
            for j in (0..block.wide).step_by(kernel.columns) {
                let tile = Tile {
                    a: block.a.wrapping_add(panel / LANES * block.apart + (i - panel) * STEPS),
                    b: block.b.wrapping_add(j / LANES * block.apart),
                    high: kernel.rows.min(block.high.min(panel + rows) - i),
                    wide: kernel.columns.min(block.wide - j),
                    sums: block.sums.wrapping_add(i * block.sums_stride + j),
                    c: block.c.wrapping_add(i * block.stride + j),
                    row_scales: block.row_scales.wrapping_add(i),
                    column_scales: block.column_scales.wrapping_add(j),
                    ..*block
                };
                next.fetch();
                // SAFETY: guaranteed by the caller.
                unsafe { (kernel.tile)(&tile) };
            }
        }
    }
}
