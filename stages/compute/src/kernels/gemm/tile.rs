//! Panels and tiles: how operands are packed, and how a tile of the result is computed.
//!
//! A *panel* holds a few rows of `a` or columns of `b`; their elements of one step of `k` are adjacent. A *tile* is the
//! part of the result whose sums stay in registers while a panel of `a` is multiplied by a panel of `b`.
use super::matrix::Operand;
#[cfg(target_arch = "x86_64")]
use super::matrix::{Strided, bf16};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Floats in an AVX-512 vector; panels are padded to a multiple of it on every CPU.
pub(super) const LANES: usize = 16;
/// Rows of a tile.
pub const TILE_ROWS: usize = 8;
/// Columns of a tile, and of a panel of `b`.
pub const TILE_COLUMNS: usize = 3 * LANES;
/// Rows of a left operand of [`Panels`](super::panels::Panels) that are packed at once.
pub(super) const PACKED_ROWS: usize = 2 * TILE_ROWS;

/// How a backend packs [`Panels`](super::panels::Panels) and multiplies by them.
#[derive(Clone, Copy)]
pub(super) struct PanelKernel {
    /// Packs `b` `[steps, columns]` into consecutive panels of [`TILE_COLUMNS`] columns; the last may be narrower. In
    /// each, the columns of one step are adjacent. Steps are padded with zeros to a multiple of two, columns to a
    /// multiple of [`LANES`]. The backend must be available, `b` must have that many steps and columns, and `out` must
    /// have room for the panels.
    pub pack: unsafe fn(b: Operand, steps: usize, columns: usize, out: *mut f32),
    /// Computes a [`PanelProduct`], whose ranges must be inside its operands; the backend must be available.
    pub multiply: unsafe fn(&mut PanelProduct<'_>),
}

/// A product with a part of packed panels.
pub(super) struct PanelProduct<'a> {
    pub rows: usize,
    pub columns: Range<usize>,
    /// The first step of `k`, which is even, and the number of steps.
    pub first: usize,
    pub steps: usize,
    pub alpha: f32,
    pub a: Operand,
    pub b: *const f32,
    /// Steps and columns of the whole packed operand.
    pub depth: usize,
    pub panels: usize,
    /// Scratch memory for [`PACKED_ROWS`] rows, [`padded_stride`] apart.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub left: &'a mut [f32],
    pub add: bool,
    pub c: *mut f32,
    pub stride: usize,
}

/// Floats between two rows of `columns` in scratch memory: rounded up to whole vectors, plus one vector, so that the
/// rows of a tile do not all map to the same cache sets when `columns` is a large power of two.
pub fn padded_stride(columns: usize) -> usize {
    columns.next_multiple_of(LANES) + LANES
}

/// The destination of a tile's sums: `c = alpha · sums`, or `+=` if `add`.
#[cfg(target_arch = "x86_64")]
pub(super) struct Tile {
    pub c: *mut f32,
    pub stride: usize,
    /// Columns.
    pub width: usize,
    pub alpha: f32,
    pub add: bool,
}

/// How a CPU packs operands and multiplies a tile. Panels hold pairs of steps of `k`; an odd last step is padded.
///
/// The functions are inlined into callers that enable the CPU features they need, so a caller must enable them, must
/// run on a CPU that has them, and must pass buffers that are large enough.
#[cfg(target_arch = "x86_64")]
pub(super) trait TileKernel {
    /// Rows of a tile.
    const ROWS: usize;
    /// Columns of a tile, and of a panel of `b`: whole vectors.
    const COLUMNS: usize;
    /// Whether rows of `a` can be read in place, without packing.
    const IN_PLACE: bool;
    /// Whether packed numbers have the same format as in memory, neither rounded nor paired.
    const UNCHANGED: bool;
    /// Whether a panel of `b` (rather than of `a`) stays in the L1 cache while it is multiplied by all panels of the
    /// other operand.
    const B_STAYS: bool;
    /// Largest number of steps of `k` between two accesses to `c`.
    const DEPTH: usize;
    /// Largest number of rows of a block of `a`, and of a block of `c` that is passed to the callback.
    const BLOCK_ROWS: usize;
    /// The size limit of a block of `b`, as a multiple of [`Product::cached`](super::backend::Product::cached).
    const BLOCK_CACHES: usize;
    /// If the next block of `b` is prefetched into the L2 cache: how many vectors of a panel are multiplied between two
    /// shares of the prefetch.
    const PREFETCH_B: Option<usize>;
    /// Vectors per pair of steps in a panel.
    const VECTORS: usize = 2;

    /// Whether `steps` of `a` can be read in place, because they are stored in the format of a panel.
    #[inline(always)]
    fn reads_in_place(a: Operand, steps: usize) -> bool {
        match a {
            Operand::F32(_) => Self::UNCHANGED,
            Operand::Bf16(_) => Self::VECTORS == 1 && a.in_pairs(steps),
        }
    }
    /// Packs `a` `[rows, steps]` into panels of at most [`Self::ROWS`] rows.
    unsafe fn pack_a(a: Operand, rows: usize, steps: usize, out: *mut f32);
    /// Rounds `a` `[rows, steps]`, whose rows are contiguous, into rows that are `stride` floats apart.
    unsafe fn round_rows(a: Operand, rows: usize, steps: usize, out: *mut f32, stride: usize);
    /// The panel of packed `a` that starts at row `row` and has `height` rows of `vectors` vectors.
    unsafe fn panel(packed: *const f32, row: usize, height: usize, vectors: usize) -> Strided;
    /// Packs `b` `[steps, columns]` into panels of at most [`Self::COLUMNS`] columns.
    unsafe fn pack_b(b: Operand, steps: usize, columns: usize, out: *mut f32);
    /// Multiplies `height` rows of `a` by a panel of `b`, whose steps are `b_step` floats apart. In `a`, steps are
    /// contiguous if `ROW_MAJOR`, otherwise rows are. Prefetches a share of the block that is packed next.
    unsafe fn tile<const ROW_MAJOR: bool>(
        height: usize,
        vectors: usize,
        a: Strided,
        b: *const f32,
        b_step: usize,
        to: &Tile,
        next: &mut Prefetch,
    );
}

/// The block that is packed next. While tiles are multiplied it is prefetched into the L2 cache, a share of its cache
/// lines at a time.
#[cfg(target_arch = "x86_64")]
pub(super) struct Prefetch {
    block: *const u8,
    /// Contiguous rows or columns, and bytes from one to the next.
    runs: usize,
    stride: usize,
    /// Cache lines per row or column.
    lines: usize,
    /// Position of the next line.
    run: usize,
    line: usize,
    /// Lines per share.
    share: usize,
}

#[cfg(target_arch = "x86_64")]
impl Prefetch {
    pub const NOTHING: Self = Self { block: std::ptr::null(), runs: 0, stride: 0, lines: 0, run: 0, line: 0, share: 0 };
    /// Bytes of a cache line.
    const LINE: usize = 64;

    /// Prefetches `b` `[steps, columns]` in `shares` shares.
    pub fn new(b: Operand, steps: usize, columns: usize, shares: usize) -> Self {
        let (block, row, column, size) = match b {
            Operand::F32(x) => (x.data.cast(), x.row, x.column, size_of::<f32>()),
            Operand::Bf16(x) => (x.data.cast(), x.row, x.column, size_of::<bf16>()),
        };
        let (runs, length, stride) = if column == 1 { (steps, columns, row) } else { (columns, steps, column) };
        let lines = (length * size).div_ceil(Self::LINE);
        let share = (runs * lines).div_ceil(shares);
        Self { block, runs, stride: stride * size, lines, run: 0, line: 0, share }
    }

    /// Prefetches the next share.
    #[inline(always)]
    pub fn fetch(&mut self) {
        for _ in 0..self.share {
            if self.run == self.runs {
                return;
            }
            let at = self.block.wrapping_add(self.run * self.stride + self.line * Self::LINE);
            // SAFETY: a prefetch is a hint that accepts any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
            self.line += 1;
            if self.line == self.lines {
                (self.run, self.line) = (self.run + 1, 0);
            }
        }
    }
}
