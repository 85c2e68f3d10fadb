//! Operands that are quantised once and kept for a later product.
//!
//! They are stored as the panels that the backend's kernel packs, with all steps in one block, so neither quantising nor
//! packing is left to do. They are multiplied by the same kernel.
use super::pack::{Block, LINE, OFFSET, STEPS, pack, panel_bytes};
use super::quantise::{Integers, Lines};
use super::through_floats::{self, Side, Target};
use super::{DEEPEST, Kernel};
#[cfg(target_arch = "x86_64")]
use super::{Tile, blocked};
#[cfg(target_arch = "x86_64")]
use crate::kernels::gemm::backend::Product;
use crate::kernels::gemm::backends::backend;
use crate::kernels::gemm::matrix::{MatRef, MatrixMut, Operand, bf16};
use crate::kernels::gemm::tile::LANES;
#[cfg(target_arch = "x86_64")]
use crate::kernels::gemm::tile::Prefetch;
use contract::Buffer;
use std::ops::Range;

/// Rows of the left operand that are multiplied at once by a block of the right one.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 128;

/// One operand of [`product_of_quantised`]: integers of eight bits with a scale for each *line*, which is a row of the
/// left operand or a column of the right one.
pub struct Quantised {
    panels: Buffer,
    scales: Vec<f32>,
    steps: usize,
    is_right: bool,
    /// What the panels are for; without a kernel they have the layout that [`pack`](super::pack) writes.
    kernel: Option<Kernel>,
}

impl Quantised {
    /// Largest number of steps of `k` that an operand can have.
    pub const DEEPEST: usize = DEEPEST;

    /// The left operand `a` `[rows, steps]`, rounded as [`product_in`](crate::kernels::gemm::product_in) does: to nearest,
    /// or stochastically with a key. For some rows of a larger operand, `first` is the index of the first, on which random
    /// numbers depend.
    ///
    /// # Panics
    /// If there are more than [`Self::DEEPEST`] steps.
    pub fn left(a: MatRef<'_>, first: usize, key: Option<u64>) -> Self {
        Self::left_for(backend().int8(), a, first, key)
    }

    /// The right operand `b` `[steps, columns]`; see [`Self::left`].
    ///
    /// # Panics
    /// If there are more than [`Self::DEEPEST`] steps.
    pub fn right(b: MatRef<'_>, key: Option<u64>) -> Self {
        Self::right_for(backend().int8(), b, key)
    }

    /// As [`Self::left`], for a kernel that this CPU can run, or for [`multiply_through_floats`].
    pub(super) fn left_for(kernel: Option<Kernel>, a: MatRef<'_>, first: usize, key: Option<u64>) -> Self {
        Self::new(kernel, a, first, key, false)
    }

    /// As [`Self::right`]; see [`Self::left_for`].
    pub(super) fn right_for(kernel: Option<Kernel>, b: MatRef<'_>, key: Option<u64>) -> Self {
        Self::new(kernel, b.reversed_axes(), 0, key, true)
    }

    /// `lines` are the rows of a left operand, or those of the transpose of a right one.
    fn new(kernel: Option<Kernel>, lines: MatRef<'_>, first: usize, key: Option<u64>, is_right: bool) -> Self {
        let (x, largest, (lines, steps)) = (Operand::of(&lines), lines.largest[0], lines.dim());
        assert!(steps <= DEEPEST, "sums of {steps} products of integers can overflow");
        let mut panels = Buffer::scratch(Self::floats(lines, steps));
        if lines == 0 || steps == 0 {
            return Self { panels, scales: vec![0.0; lines], steps, is_right, kernel };
        }
        // SAFETY: `x` has these sizes, the buffer room for its panels, and the kernel's backend is available.
        let of = unsafe {
            let of = Lines::of(x, [lines, steps], largest, first, key, 1.0);
            let block = Block { x, count: lines, from: 0, steps, first: 0, of: &of, is_b: is_right };
            let pack = kernel.map_or(pack as unsafe fn(&Block<'_>, *mut u8), |kernel| kernel.pack);
            pack(&block, panels.as_mut_ptr().cast());
            of
        };
        Self { panels, scales: of.scales, steps, is_right, kernel }
    }

    /// Number of floats whose memory the integers of `lines` lines occupy.
    pub fn floats(lines: usize, steps: usize) -> usize {
        lines.div_ceil(LANES) * panel_bytes(steps) / size_of::<f32>()
    }

    /// Number of lines: rows of a left operand, columns of a right one.
    pub fn lines(&self) -> usize {
        self.scales.len()
    }

    #[cfg(target_arch = "x86_64")]
    fn panel(&self, index: usize) -> *const u8 {
        self.panels.as_ptr().cast::<u8>().wrapping_add(index * panel_bytes(self.steps))
    }

    /// Some lines and steps in bfloat16, which is exact.
    fn widened(&self, lines: Range<usize>, steps: Range<usize>) -> Integers {
        let mut data = Buffer::scratch((lines.len() * steps.len()).div_ceil(2));
        let numbers: &mut [bf16] = bytemuck::cast_slice_mut(&mut data);
        let panels: &[u8] = bytemuck::cast_slice(&self.panels);
        for (line, numbers) in lines.zip(numbers.chunks_exact_mut(steps.len())) {
            let panel = &panels[line / LANES * panel_bytes(self.steps) + LINE..];
            for (step, number) in steps.clone().zip(numbers) {
                let byte = panel[step / STEPS * LINE + line % LANES * STEPS + step % STEPS];
                let integer = (if self.is_right { byte ^ OFFSET } else { byte }) as i8;
                *number = bf16::from_f32(f32::from(integer));
            }
        }
        Integers::of_lines(data, steps.len())
    }
}

/// `c = a · b`, or `c += a · b` if `add`, with the bits of a product of the same operands in eight bits.
///
/// # Panics
/// If the shapes do not match, an operand is on the wrong side, or they were quantised on different backends.
pub fn product_of_quantised(a: &Quantised, b: &Quantised, add: bool, mut c: MatrixMut<'_>) {
    let (rows, columns) = (a.lines(), b.lines());
    assert!(!a.is_right && b.is_right && a.steps == b.steps, "the operands match");
    let kernel = |x: &Quantised| x.kernel.map(|kernel| kernel.name);
    assert!(kernel(a) == kernel(b), "both operands are packed for {:?}, not {:?}", kernel(a), kernel(b));
    assert!(c.dim() == (rows, columns), "the shape of the result matches");
    let stride = if rows > 1 { c.strides()[0] } else { columns as isize };
    assert!((columns <= 1 || c.strides()[1] == 1) && stride >= columns as isize, "results are row-major");
    if rows == 0 || columns == 0 {
        return;
    }
    if a.steps == 0 {
        if !add {
            c.fill(0.0);
        }
        return;
    }
    let to = (c.as_mut_ptr(), stride as usize);
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = &a.kernel {
        // SAFETY: this CPU can run the kernel, for which both are packed, and `c` covers the result.
        return unsafe { multiply(kernel, a, b, add, to) };
    }
    // SAFETY: as above.
    unsafe { multiply_through_floats(a, b, add, to) }
}

/// See [`product_of_quantised`].
///
/// # Safety
/// The kernel's backend must be available, both operands be packed for it, the shapes match, and `c` cover the result, with
/// so many floats from one row to the next. No size may be 0.
#[cfg(target_arch = "x86_64")]
unsafe fn multiply(kernel: &Kernel, a: &Quantised, b: &Quantised, add: bool, (c, stride): (*mut f32, usize)) {
    let apart = panel_bytes(a.steps);
    // So many panels of `b` stay in the L2 cache.
    let cached = Product::cached() * size_of::<f32>() / apart * LANES;
    let columns = cached.max(kernel.columns) / kernel.columns * kernel.columns;
    // SAFETY: the kernel's backend is available.
    unsafe { (kernel.begin)() };
    for column in (0..b.lines()).step_by(columns) {
        for row in (0..a.lines()).step_by(ROWS) {
            let block = Tile {
                a: a.panel(row / LANES),
                b: b.panel(column / LANES).wrapping_add(LINE),
                apart,
                lines: a.steps.div_ceil(STEPS),
                high: ROWS.min(a.lines() - row),
                wide: columns.min(b.lines() - column),
                sums: std::ptr::null_mut(),
                sums_stride: 0,
                first: true,
                last: true,
                c: c.wrapping_add(row * stride + column),
                stride,
                add,
                row_scales: a.scales[row..].as_ptr(),
                column_scales: b.scales[column..].as_ptr(),
            };
            let mut nothing = Prefetch::NOTHING;
            // SAFETY: guaranteed by the caller.
            unsafe { blocked::multiply(kernel, &block, &mut nothing) };
        }
    }
    // SAFETY: as above.
    unsafe { (kernel.end)() };
}

/// See [`product_of_quantised`].
///
/// # Safety
/// As for [`multiply`], but both operands must be packed for no kernel; the backend is that of this thread.
unsafe fn multiply_through_floats(a: &Quantised, b: &Quantised, add: bool, to: (*mut f32, usize)) {
    let left = |lines, steps| a.widened(lines, steps);
    let right = |lines, steps| b.widened(lines, steps);
    let (left, right) = (Side { integers: &left, scales: &a.scales }, Side { integers: &right, scales: &b.scales });
    let to = &mut Target { add, c: Some(to), then: &mut |_| () };
    // SAFETY: guaranteed by the caller.
    unsafe { through_floats::multiply(backend(), &left, &right, [a.lines(), b.lines(), a.steps], to) }
}
