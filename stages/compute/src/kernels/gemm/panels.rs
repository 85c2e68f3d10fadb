//! Small products with an operand that is packed once and met many times, as attention needs: tiles of at most
//! [`TILE_ROWS`] × [`TILE_COLUMNS`] whose sums stay in registers, in parts of a matrix that the caller chooses.
use super::factor::{AnyOperand, Factor};
use super::path::Path;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use contract::{Buffer, Precision};
use std::ops::Range;

pub(super) const LANES: usize = 16;
/// Rows of a tile.
pub const TILE_ROWS: usize = 8;
/// Rows of a left operand that are packed at once.
pub(super) const PACKED_ROWS: usize = 2 * TILE_ROWS;
/// Columns of a tile, and of a panel.
pub const TILE_COLUMNS: usize = 3 * LANES;

/// A right operand `[depth, columns]`, packed; rounded to [`Precision::Bf16`] if told to, and so are the left ones.
pub struct Panels {
    data: Buffer,
    depth: usize,
    columns: usize,
    ways: Ways,
    /// Room for rows of a left operand.
    left: Buffer,
}

/// Which part of a product, and where it goes.
pub(super) struct Multiply<'a> {
    pub rows: usize,
    pub columns: Range<usize>,
    /// First step of `k`, an even one, and how many.
    pub first: usize,
    pub steps: usize,
    pub alpha: f32,
    pub a: AnyOperand,
    pub b: *const f32,
    /// Steps and columns that the panels have in all.
    pub depth: usize,
    pub panels: usize,
    /// Room for [`PACKED_ROWS`] rows, [`apart`].
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub left: &'a mut [f32],
    pub add: bool,
    pub c: *mut f32,
    pub stride: usize,
}

/// Floats between two rows of `columns` in scratch memory: whole vectors, one more than it takes, so that the rows of a
/// tile do not all fall into the same sets of a cache where `columns` is a large power of two.
pub fn apart(columns: usize) -> usize {
    columns.next_multiple_of(LANES) + LANES
}

/// How a CPU packs panels and multiplies by them.
#[derive(Clone, Copy)]
struct Ways {
    pack: unsafe fn(AnyOperand, usize, usize, *mut f32),
    multiply: unsafe fn(&mut Multiply<'_>),
}

impl Ways {
    fn portable(precision: Precision) -> Self {
        match precision {
            Precision::F32 => {
                Self { pack: portable::pack_panels::<false>, multiply: portable::multiply_panels::<false> }
            }
            Precision::Bf16 => {
                Self { pack: portable::pack_panels::<true>, multiply: portable::multiply_panels::<true> }
            }
        }
    }

    /// For CPUs with AVX2.
    #[cfg(target_arch = "x86_64")]
    fn avx2(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self { pack: avx2::pack_panels::<false>, multiply: avx2::multiply_panels::<false> },
            Precision::Bf16 => Self { pack: avx2::pack_panels::<true>, multiply: avx2::multiply_panels::<true> },
        }
    }

    /// For CPUs with AVX-512.
    #[cfg(target_arch = "x86_64")]
    fn avx512(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self { pack: avx512::pack_panels::<false>, multiply: avx512::multiply_panels::<false> },
            Precision::Bf16 => Self { pack: avx512::pack_panels::<true>, multiply: avx512::multiply_panels::<true> },
        }
    }

    /// In bfloat16, for CPUs that [multiply it](avx512::multiplies_bf16).
    #[cfg(target_arch = "x86_64")]
    fn pairs() -> Self {
        Self { pack: avx512::pack_pairs, multiply: avx512::multiply_pairs }
    }

    /// Those of the path that products take, but on AMX: its tiles are too large, and the CPU's `vdpbf16ps` is slow.
    fn here(precision: Precision) -> Self {
        match (super::path(), precision) {
            (Path::Blas, _) => Self::portable(precision),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx2, _) => Self::avx2(precision),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx512Bf16, Precision::Bf16) => Self::pairs(),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx512 | Path::Avx512Bf16 | Path::Amx, _) => Self::avx512(precision),
        }
    }
}

impl Panels {
    /// Room for `depth` × `columns`; what it holds is unspecified.
    pub fn scratch(precision: Precision, depth: usize, columns: usize) -> Self {
        Self::with(Ways::here(precision), depth, columns)
    }

    fn with(ways: Ways, depth: usize, columns: usize) -> Self {
        let depth = depth.next_multiple_of(2);
        let data = Buffer::scratch(depth * columns.next_multiple_of(LANES));
        Self { data, depth, columns, ways, left: Buffer::scratch(PACKED_ROWS * apart(depth)) }
    }

    /// Packs `b`, which may have fewer rows and columns than there is room for.
    ///
    /// # Panics
    /// If `b` does not fit, or has no unit stride.
    pub fn pack<'b>(&mut self, b: impl Into<Factor<'b>>) {
        let b = b.into();
        let (steps, columns) = b.dim();
        let (depth, room) = (steps.next_multiple_of(2), self.data.len());
        assert!(
            depth * columns.next_multiple_of(LANES) <= room && PACKED_ROWS * apart(depth) <= self.left.len(),
            "there is room"
        );
        (self.depth, self.columns) = (depth, columns);
        let b = AnyOperand::of(&b).expect("a unit stride in one direction");
        // SAFETY: the CPU has what its ways need, and there is room.
        unsafe { (self.ways.pack)(b, steps, columns, self.data.as_mut_ptr()) }
    }

    /// `c = alpha · a · b[steps, columns]`, or `+=` if `add`. `c` begins with the first of `columns`, its rows `stride`
    /// apart; `columns` begin at a multiple of [`TILE_COLUMNS`], `steps` with an even one. Where operands are rounded an
    /// odd number of steps takes in one more, times zero.
    ///
    /// # Panics
    /// If shapes do not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn multiply<'a>(
        &mut self,
        alpha: f32,
        a: impl Into<Factor<'a>>,
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
        assert!(columns.start.is_multiple_of(TILE_COLUMNS) && columns.end <= self.columns, "columns of the panels");
        assert!(steps.start.is_multiple_of(2) && steps.end <= self.depth && depth == steps.len(), "steps of them");
        assert!((rows - 1) * stride + columns.len() <= c.len() && columns.len() <= stride, "c holds the result");
        let mut multiply = Multiply {
            rows,
            columns,
            first: steps.start,
            steps: steps.len(),
            alpha,
            a: AnyOperand::of(&a).expect("a unit stride in one direction"),
            b: self.data.as_ptr(),
            depth: self.depth,
            panels: self.columns,
            left: &mut self.left,
            add,
            c: c.as_mut_ptr(),
            stride,
        };
        // SAFETY: the CPU has what its ways need, and the shapes fit.
        unsafe { (self.ways.multiply)(&mut multiply) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::bf16;
    use crate::kernels::gemm::tests::Stored;
    use crate::kernels::testing::{assert_close, random};
    use proptest::prelude::*;

    /// Whatever this CPU can.
    fn ways() -> Vec<(Precision, Ways)> {
        let both = |ways: fn(Precision) -> Ways| [Precision::F32, Precision::Bf16].map(|p| (p, ways(p)));
        let mut all = Vec::from(both(Ways::portable));
        #[cfg(target_arch = "x86_64")]
        {
            if avx2::available() {
                all.extend(both(Ways::avx2));
            }
            if avx512::available() {
                all.extend(both(Ways::avx512));
            }
            if avx512::multiplies_bf16() {
                all.push((Precision::Bf16, Ways::pairs()));
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn parts_multiply_every_way(
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
            for (precision, ways) in ways() {
                let round = |x: f32| f64::from(if precision == Precision::Bf16 { bf16(x) } else { x });
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
                let mut panels = Panels::with(ways, depth, columns);
                panels.pack(b.factor());
                let mut c = before.clone();
                panels.multiply(0.5, a.factor().columns(steps.clone()), steps.clone(), across.clone(), add, &mut c, stride);
                assert_close(&c, &expected, 1e-5);
            }
        }
    }
}
