//! Small products with an operand that is packed once and met many times, as attention needs: tiles of at most
//! [`TILE_ROWS`] × [`TILE_COLUMNS`] whose sums stay in registers, in parts of a matrix that the caller chooses.
use super::{Matrix, Operand, Path};
use crate::wide;
use contract::Buffer;
use std::ops::Range;

pub(super) const LANES: usize = 16;
/// Rows of a tile.
pub const TILE_ROWS: usize = 8;
/// Columns of a tile, and of a panel.
pub const TILE_COLUMNS: usize = 3 * LANES;

/// A right operand `[depth, columns]`, packed.
pub struct Panels {
    data: Buffer,
    depth: usize,
    columns: usize,
}

/// Which part of a product, and where it goes.
pub(super) struct Multiply {
    pub rows: usize,
    pub columns: Range<usize>,
    /// First step of `k`, and how many.
    pub first: usize,
    pub steps: usize,
    pub alpha: f32,
    pub a: Operand,
    pub b: *const f32,
    /// Steps and columns that the panels have in all.
    pub depth: usize,
    pub panels: usize,
    pub add: bool,
    pub c: *mut f32,
    pub stride: usize,
}

impl Panels {
    /// Room for `depth` × `columns`; what it holds is unspecified.
    pub fn scratch(depth: usize, columns: usize) -> Self {
        let depth = depth.next_multiple_of(2);
        Self { data: Buffer::scratch(depth * columns.next_multiple_of(LANES)), depth, columns }
    }

    /// Packs `b`, which may have fewer rows and columns than there is room for.
    ///
    /// # Panics
    /// If `b` does not fit, or has no unit stride.
    pub fn pack(&mut self, b: Matrix<'_>) {
        let (steps, columns) = b.dim();
        let room = self.data.len();
        assert!(steps.next_multiple_of(2) * columns.next_multiple_of(LANES) <= room, "there is room");
        (self.depth, self.columns) = (steps.next_multiple_of(2), columns);
        let b = Operand::of(&b).expect("a unit stride in one direction");
        match super::path() {
            Path::Blas => portable_pack(b, steps, columns, &mut self.data),
            // SAFETY: the CPU has AVX2, and there is room.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { super::avx2::pack_panels(b, steps, columns, self.data.as_mut_ptr()) },
            // SAFETY: the others have AVX-512.
            #[cfg(target_arch = "x86_64")]
            _ => unsafe { super::avx512::pack_panels(b, steps, columns, self.data.as_mut_ptr()) },
        }
    }

    /// `c = alpha · a · b[steps, columns]`, or `+=` if `add`. `c` begins with the first of `columns`, its rows `stride`
    /// apart; `columns` begin at a multiple of [`TILE_COLUMNS`].
    ///
    /// # Panics
    /// If shapes do not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn multiply(
        &self,
        alpha: f32,
        a: Matrix<'_>,
        steps: Range<usize>,
        columns: Range<usize>,
        add: bool,
        c: &mut [f32],
        stride: usize,
    ) {
        let rows = a.nrows();
        if rows == 0 || columns.is_empty() {
            return;
        }
        assert!(columns.start.is_multiple_of(TILE_COLUMNS) && columns.end <= self.columns, "columns of the panels");
        assert!(steps.end <= self.depth && a.ncols() == steps.len(), "steps of the panels");
        assert!((rows - 1) * stride + columns.len() <= c.len() && columns.len() <= stride, "c holds the result");
        let a = Operand::of(&a).expect("a unit stride in one direction");
        let multiply = Multiply {
            rows,
            columns,
            first: steps.start,
            steps: steps.len(),
            alpha,
            a,
            b: self.data.as_ptr(),
            depth: self.depth,
            panels: self.columns,
            add,
            c: c.as_mut_ptr(),
            stride,
        };
        match super::path() {
            Path::Blas => portable_multiply(&multiply),
            // SAFETY: the CPU has AVX2, and the shapes fit.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { super::avx2::multiply_panels(&multiply) },
            // SAFETY: the others have AVX-512.
            #[cfg(target_arch = "x86_64")]
            _ => unsafe { super::avx512::multiply_panels(&multiply) },
        }
    }
}

/// Panels of [`TILE_COLUMNS`] columns, the last of as many whole vectors as it needs, one after the other; in each, its
/// columns of one step side by side. Steps are a multiple of two, columns of [`LANES`]: zeros fill up.
pub(super) fn portable_pack(b: Operand, steps: usize, columns: usize, out: &mut [f32]) {
    let depth = steps.next_multiple_of(2);
    for panel in (0..columns).step_by(TILE_COLUMNS) {
        let wide = TILE_COLUMNS.min((columns - panel).next_multiple_of(LANES));
        for step in 0..depth {
            let at = panel * depth + step * wide;
            for (column, out) in out[at..at + wide].iter_mut().enumerate() {
                let inside = step < steps && panel + column < columns;
                // SAFETY: the element lies in the matrix that the operand was made of.
                *out = if inside { unsafe { *b.at(step, panel + column).data } } else { 0.0 };
            }
        }
    }
}

wide! {
    /// [`Panels::multiply`] for any CPU.
    pub(super) fn portable_multiply(m: &Multiply) {
        for j in (m.columns.start..m.columns.end).step_by(LANES) {
            let panel = j / TILE_COLUMNS * TILE_COLUMNS;
            let across = TILE_COLUMNS.min((m.panels - panel).next_multiple_of(LANES));
            let wide = LANES.min(m.columns.end - j);
            for i in (0..m.rows).step_by(4) {
                let high = 4.min(m.rows - i);
                let mut sums = [[0.0f32; LANES]; 4];
                for step in 0..m.steps {
                    // SAFETY: `Panels::multiply` has checked that steps, rows and columns lie inside; sums of rows
                    // that are not there are made of the last one.
                    unsafe {
                        let b = m.b.add(panel * m.depth + (m.first + step) * across + j - panel).cast::<[f32; LANES]>();
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let a = *m.a.at(i + row.min(high - 1), step).data;
                            for (sum, b) in sums.iter_mut().zip(*b) {
                                *sum = a.mul_add(b, *sum);
                            }
                        }
                    }
                }
                for (row, sums) in sums.iter().enumerate().take(high) {
                    // SAFETY: as above.
                    let c = unsafe {
                        std::slice::from_raw_parts_mut(m.c.add((i + row) * m.stride + j - m.columns.start), wide)
                    };
                    for (c, sum) in c.iter_mut().zip(sums) {
                        *c = if m.add { sum.mul_add(m.alpha, *c) } else { sum * m.alpha };
                    }
                }
            }
        }
    }
}
