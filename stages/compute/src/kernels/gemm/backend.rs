//! What a GEMM backend is.
use super::matrix::{MatRef, Operand, OutputBlock};
use super::tile::PanelKernel;
use contract::Precision;

/// A way to multiply matrices: one file, and one line in [`backends`](super::backends).
///
/// Each result element of a backend depends only on its row of `a`, its column of `b` and the operands' precision, never
/// on how many rows and columns are multiplied at once, except on OpenBLAS, which does not promise it.
pub(super) trait Backend: Sync {
    /// The name that `run.gemm` and `bench --gemm` use.
    fn name(&self) -> &'static str;

    /// Can this machine run it?
    fn is_available(&self) -> bool;

    /// What products in `precision` run on, for people and for checkpoints: bits may differ between two descriptions.
    fn description(&self, precision: Precision) -> String;

    /// Computes `product`, operands rounded to `precision`, on the calling thread.
    ///
    /// # Safety
    /// [`is_available`](Self::is_available), and the operands and `c` must cover the product's sizes, none of which is 0.
    unsafe fn product(&self, precision: Precision, product: &mut Product<'_>);

    /// How [`Panels`](super::panels::Panels) are packed and multiplied in `precision`; needs an available backend.
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
    /// Is the product added to `c`?
    pub add: bool,
    /// The result and the floats between two of its rows; `None` if only [`Self::then`] uses it, block by block.
    pub c: Option<(*mut f32, usize)>,
    /// Floats of packed `b` that may stay in the L2 cache.
    pub cached: usize,
    /// Called once for each block of the result, when it is complete and still in cache.
    pub then: &'a mut dyn FnMut(&mut OutputBlock),
}

impl<'a> Product<'a> {
    /// The product of `a` and `b`, whose shapes fit; somewhat less than half of the L2 cache is for packed `b`.
    ///
    /// # Panics
    /// If an operand has no unit stride.
    pub fn new(
        alpha: f32,
        a: &MatRef<'_>,
        b: &MatRef<'_>,
        add: bool,
        c: Option<(*mut f32, usize)>,
        then: &'a mut dyn FnMut(&mut OutputBlock),
    ) -> Self {
        let ((rows, depth), columns) = (a.dim(), b.dim().1);
        let cached = crate::cpu::l2_bytes() / size_of::<f32>() * 4 / 9;
        Self { rows, columns, depth, alpha, a: Operand::of(a), b: Operand::of(b), add, c, cached, then }
    }
}
