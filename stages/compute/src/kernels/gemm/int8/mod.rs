//! Products in eight bits: `c[i, j] = (Σ a[i, k] · b[k, j]) · scale_a[i] · scale_b[j]`, where `a` and `b` are integers
//! from -127 to 127.
//!
//! - `quantise`: the scale of each row of `a` and each column of `b`, and how numbers become integers
//! - `pack`: quantised panels; `blocked`: the loops over them for backends that have a [`Kernel`]
//! - `through_floats`: for the other backends
//! - `magnitudes`: the largest magnitudes of operands of several products, found once
//! - `stored`: operands that are quantised once and kept
//!
//! The sum of integers is exact, and the result is converted to f32 and multiplied by the two scales in this order. So
//! it has the same bits on every backend and every CPU, whatever the sizes of blocks and tiles. (In a step of training,
//! everything else still depends on the backend.) If a row of `a` or a column of `b` has an infinity or a NaN, that row
//! or column of the result is NaN.
#[cfg(target_arch = "x86_64")]
mod blocked;
pub(super) mod magnitudes;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) mod pack;
pub(super) mod quantise;
pub(super) mod stored;
mod through_floats;

use super::backend::{Backend, Product};
use contract::Precision;

#[cfg(test)]
mod tests;

/// Largest depth of a product in eight bits: the sum of so many products of integers, each at most 127², is below 2³¹.
/// Deeper products are computed in bfloat16.
const DEEPEST: usize = 1 << 17;

/// The keys of the operands that are rounded stochastically; see [`Rounding`](super::Rounding).
pub(super) type Keys = [Option<u64>; 2];

/// How a backend multiplies quantised panels.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Kernel {
    /// The instruction set, for messages and checkpoints.
    pub name: &'static str,
    /// Rows of a tile: at most [`LANES`](super::tile::LANES), or whole panels of so many.
    pub rows: usize,
    /// Columns of a tile: whole panels of [`LANES`](super::tile::LANES).
    pub columns: usize,
    /// Packs a block of an operand, which must cover it, into panels, for which there must be memory; the backend must
    /// be available.
    pub pack: unsafe fn(&pack::Block<'_>, *mut u8),
    /// Computes a [`Tile`], whose panels `pack` has written and whose pointers must be valid for its sizes, between
    /// `begin` and `end`; the backend must be available.
    pub tile: unsafe fn(&Tile),
    /// Called before and after the tiles of a product; the backend must be available.
    pub begin: unsafe fn(),
    pub end: unsafe fn(),
    /// Whether the block of `b` that is packed next is prefetched into the L2 cache, where it takes up to four times the
    /// room of the packed one, while tiles are computed.
    pub prefetch: bool,
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
impl Kernel {
    /// A kernel whose tiles have so many rows and columns and need no preparation.
    pub const fn new(
        name: &'static str,
        [rows, columns]: [usize; 2],
        pack: unsafe fn(&pack::Block<'_>, *mut u8),
        tile: unsafe fn(&Tile),
    ) -> Self {
        const fn nothing() {}
        Self { name, rows, columns, pack, tile, begin: nothing, end: nothing, prefetch: true }
    }
}

/// A tile of a result: some rows of a panel of `a`, or whole panels, times some panels of `b`.
///
/// A panel consists of lines of 64 bytes: four steps of `k` of sixteen rows or columns, the four bytes of each
/// adjacent. Those of `a` are signed, those of `b` are unsigned, 128 more than the number. The first line of a panel of
/// `a` has sixteen 32-bit integers, what the sums of each row start with to make up for the 128. There is memory for
/// sixteen, 32, 48 … lines, without the first. A kernel may keep the bytes of a panel of `a` in another order, which only
/// its own `tile` reads.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Tile {
    /// The tile's first row in the first line of a panel of `a`.
    pub a: *const u8,
    /// The first line of the first panel of `b`.
    pub b: *const u8,
    /// Bytes from a panel of `a` or of `b` to the next.
    pub apart: usize,
    /// Number of lines, without the first of `a`.
    pub lines: usize,
    /// Rows and columns.
    pub high: usize,
    pub wide: usize,
    /// Sums over the steps before, if this is not the first block of steps, and after, if it is not the last; with the
    /// number of integers between two rows. There is memory for whole panels.
    pub sums: *mut i32,
    pub sums_stride: usize,
    pub first: bool,
    pub last: bool,
    /// The result and the number of floats between two rows; whether it is added to.
    pub c: *mut f32,
    pub stride: usize,
    pub add: bool,
    /// The scales of the rows and of the columns.
    pub row_scales: *const f32,
    pub column_scales: *const f32,
}

/// Computes a product in eight bits.
///
/// # Safety
/// As for [`Backend::product`].
pub(super) unsafe fn product(backend: &dyn Backend, keys: Keys, p: &mut Product<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if p.depth > DEEPEST {
            return backend.product(Precision::Bf16, p);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = backend.int8() {
            return blocked::run(&kernel, keys, p);
        }
        through_floats::run(backend, keys, p);
    }
}
