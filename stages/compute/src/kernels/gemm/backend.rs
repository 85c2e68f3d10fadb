//! The interface of a GEMM backend.
use super::int8;
use super::matrix::{MatRef, Operand, OutputBlock};
use super::tile::PanelKernel;
use contract::Precision;

/// An implementation of matrix products: one file, and one line in [`backends`](super::backends).
///
/// Each result element depends only on its row of `a`, its column of `b` and the precision of the operands, never on
/// how many rows and columns are multiplied at once. OpenBLAS is the exception: it does not guarantee this.
pub(super) trait Backend: Sync {
    /// The name for `run.gemm` and `bench --gemm`.
    fn name(&self) -> &'static str;

    /// Whether this machine can run it.
    fn is_available(&self) -> bool;

    /// Description for products in `precision`, for messages and checkpoints. Backends with different descriptions may
    /// give different bits.
    fn description(&self, precision: Precision) -> String;

    /// Whether products in bfloat16 are faster than those in f32 on this CPU. The backend must be available.
    fn has_fast_bf16(&self) -> bool {
        false
    }

    /// How it multiplies in eight bits, if this CPU has an instruction for it. The backend must be available.
    fn int8(&self) -> Option<int8::Kernel> {
        None
    }

    /// Computes `product` on the calling thread, with operands rounded to `precision`, or to bfloat16 if that is
    /// [`Precision::Int8`].
    ///
    /// # Safety
    /// The backend must be [available](Self::is_available), and the operands and `c` must cover the product's sizes,
    /// none of which is 0.
    unsafe fn product(&self, precision: Precision, product: &mut Product<'_>);

    /// The functions that pack and multiply [`Panels`](super::panels::Panels) in `precision`; the backend must be
    /// available.
    fn panels(&self, precision: Precision) -> PanelKernel;
}

/// One product, `c = alpha · a · b` or `c += alpha · a · b`; see [`product_then`](super::product_then).
pub(super) struct Product<'a> {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub alpha: f32,
    pub a: Operand,
    pub b: Operand,
    /// Whether the product is added to `c`.
    pub add: bool,
    /// Whether only elements on and above the diagonal of `c` are needed. The others are then left as they are, or are
    /// computed too.
    pub upper: bool,
    /// The result and the number of floats between two of its rows; `None` if only [`Self::then`] uses it, block by
    /// block.
    pub c: Option<(*mut f32, usize)>,
    /// Floats of packed `b` that fit in the part of the L2 cache reserved for them.
    pub cached: usize,
    /// The bits of the largest magnitude of each row of `a` and of each column of `b`, if they are known.
    pub largest: [Option<&'a [u32]>; 2],
    /// Called once for each block of the result, when it is complete and still in cache. It may not compute products: tile
    /// registers are in use.
    pub then: &'a mut dyn FnMut(&mut OutputBlock),
}

impl<'a> Product<'a> {
    /// The product of `a` and `b`, whose shapes match.
    ///
    /// # Panics
    /// If an operand has no unit stride.
    pub fn new<'l: 'a, 'r: 'a>(
        alpha: f32,
        a: &MatRef<'l>,
        b: &MatRef<'r>,
        add: bool,
        c: Option<(*mut f32, usize)>,
        then: &'a mut dyn FnMut(&mut OutputBlock),
    ) -> Self {
        let ((rows, depth), columns) = (a.dim(), b.dim().1);
        let (largest, cached) = ([a.largest[0], b.largest[1]], Self::cached());
        let (a, b) = (Operand::of(a), Operand::of(b));
        Self { rows, columns, depth, alpha, a, b, add, upper: false, c, cached, largest, then }
    }

    /// Floats of packed `b` for which somewhat less than half of the L2 cache is used.
    pub fn cached() -> usize {
        crate::cpu::l2_bytes() / size_of::<f32>() * 4 / 9
    }
}
