//! Small products with a right operand that is packed once and used many times, for attention. Tiles of at most
//! [`TILE_ROWS`] × [`TILE_COLUMNS`] sums stay in registers; the caller chooses which part of the packed matrix to use.
use super::backends::backend;
use super::matrix::{MatRef, Operand};
use super::tile::{LANES, PACKED_ROWS, PanelKernel, PanelProduct};
pub use super::tile::{TILE_COLUMNS, TILE_ROWS, padded_stride};
use contract::{Buffer, Precision};
use std::ops::Range;

/// A packed right operand `[depth, columns]`. In [`Precision::Bf16`] both operands are rounded.
pub struct Panels {
    data: Buffer,
    depth: usize,
    columns: usize,
    kernel: PanelKernel,
    /// Scratch memory for rows of a left operand.
    left: Buffer,
}

impl Panels {
    /// Panels of `depth` × `columns` with unspecified content.
    pub fn scratch(precision: Precision, depth: usize, columns: usize) -> Self {
        Self::with(backend().panels(precision), depth, columns)
    }

    fn with(kernel: PanelKernel, depth: usize, columns: usize) -> Self {
        let depth = depth.next_multiple_of(2);
        let data = Buffer::scratch(depth * columns.next_multiple_of(LANES));
        Self { data, depth, columns, kernel, left: Buffer::scratch(PACKED_ROWS * padded_stride(depth)) }
    }

    /// Packs `b`, which may have fewer rows and columns than the panels.
    ///
    /// # Panics
    /// If `b` is larger than the panels, or has no unit stride.
    pub fn pack<'b>(&mut self, b: impl Into<MatRef<'b>>) {
        let b = b.into();
        let (steps, columns) = b.dim();
        let (depth, room) = (steps.next_multiple_of(2), self.data.len());
        assert!(
            depth * columns.next_multiple_of(LANES) <= room && PACKED_ROWS * padded_stride(depth) <= self.left.len(),
            "there is room"
        );
        (self.depth, self.columns) = (depth, columns);
        let b = Operand::of(&b);
        // SAFETY: the backend is available, and there is room.
        unsafe { (self.kernel.pack)(b, steps, columns, self.data.as_mut_ptr()) }
    }

    /// `c = alpha · a · b[steps, columns]`, or `+=` if `add`. Rows of `c` are `stride` apart; its first column is the
    /// first of `columns`. `columns` must start at a multiple of [`TILE_COLUMNS`], `steps` at an even number. Where
    /// operands are rounded, an odd number of steps is extended by one that is multiplied by zero.
    ///
    /// # Panics
    /// If the shapes do not match.
    #[allow(clippy::too_many_arguments)]
    pub fn multiply<'a>(
        &mut self,
        alpha: f32,
        a: impl Into<MatRef<'a>>,
        steps: Range<usize>,
        columns: Range<usize>,
        add: bool,
        c: &mut [f32],
        stride: usize,
    ) {
        let a = a.into();
        let (rows, depth) = a.dim();
        if rows == 0 || columns.is_empty() {
            return;
        }
        assert!(columns.start.is_multiple_of(TILE_COLUMNS) && columns.end <= self.columns, "columns inside the panels");
        assert!(
            steps.start.is_multiple_of(2) && steps.end <= self.depth && depth == steps.len(),
            "steps inside the panels"
        );
        assert!((rows - 1) * stride + columns.len() <= c.len() && columns.len() <= stride, "room for the result in c");
        let mut multiply = PanelProduct {
            rows,
            columns,
            first: steps.start,
            steps: steps.len(),
            alpha,
            a: Operand::of(&a),
            b: self.data.as_ptr(),
            depth: self.depth,
            panels: self.columns,
            left: &mut self.left,
            add,
            c: c.as_mut_ptr(),
            stride,
        };
        // SAFETY: the backend is available, and the shapes fit.
        unsafe { (self.kernel.multiply)(&mut multiply) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::kernels::gemm::avx512;
    use crate::kernels::gemm::backends::{available, with_backend};
    use crate::kernels::gemm::round_to_bf16;
    use crate::kernels::gemm::tests::Stored;
    use crate::kernels::testing::{assert_close, random};
    use proptest::prelude::*;

    /// The panel kernels of every backend that this CPU has.
    fn kernels() -> Vec<(Precision, PanelKernel)> {
        let both =
            |name| [Precision::F32, Precision::Bf16].map(|p| (p, with_backend(name, || backend().panels(p)).unwrap()));
        let mut all: Vec<_> = available().into_iter().flat_map(both).collect();
        #[cfg(target_arch = "x86_64")]
        if avx512::has_bf16() {
            // Not used by Intel's CPUs.
            all.push((Precision::Bf16, avx512::PAIRS));
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn every_part_is_multiplied_in_every_layout(
            rows in 1usize..40, depth in 1usize..70, columns in 1usize..120, pad in 0usize..5, add: bool,
            turned: [bool; 2], halves: [bool; 2], from in (0usize..35, 0usize..2), to in (0usize..9, 0usize..9),
        ) {
            let part = |start: usize, all: usize, less: usize| start..all.saturating_sub(less).max(start + 1);
            let steps = part((2 * from.0).min((depth - 1) / 2 * 2), depth, to.0);
            let across = part((from.1 * TILE_COLUMNS).min((columns - 1) / TILE_COLUMNS * TILE_COLUMNS), columns, to.1);
            let (a, b) = (Stored::random(1, rows, depth, pad, turned[0], halves[0]), Stored::random(2, depth, columns, pad, turned[1], halves[1]));
            let (left, right) = (a.matrix().slice_move(ndarray::s![.., steps.clone()]), b.matrix());
            let stride = across.len() + pad;
            let before = random(3, rows * stride);
            for (precision, kernel) in kernels() {
                let round = |x: f32| f64::from(if precision == Precision::Bf16 { round_to_bf16(x) } else { x });
                let expected: Vec<f64> = (0..rows * stride)
                    .map(|i| {
                        let (row, column) = (i / stride, i % stride);
                        let old = f64::from(before[i]);
                        if column >= across.len() {
                            return old;
                        }
                        let terms = steps.clone().zip(left.row(row));
                        let sum: f64 = terms.map(|(k, a)| round(*a) * round(right[(k, across.start + column)])).sum();
                        0.5 * sum + if add { old } else { 0.0 }
                    })
                    .collect();
                let mut panels = Panels::with(kernel, depth, columns);
                panels.pack(b.view());
                let mut c = before.clone();
                panels.multiply(0.5, a.view().columns(steps.clone()), steps.clone(), across.clone(), add, &mut c, stride);
                assert_close(&c, &expected, 1e-5);
            }
        }
    }
}
