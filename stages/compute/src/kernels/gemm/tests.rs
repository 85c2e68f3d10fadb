//! Compares products with f64, on every backend and kernel that this CPU has.
use super::*;
#[cfg(target_arch = "x86_64")]
use super::{
    amx::{self, Amx},
    avx2::{self, Avx2},
    avx512,
    backend::{self, Backend as _},
};
use crate::kernels::testing::{assert_close, random};
use contract::Precision;
use proptest::prelude::*;

fn naive(alpha: f64, a: Matrix<'_>, b: Matrix<'_>, beta: f64, c: &[f32]) -> Vec<f64> {
    let columns = b.ncols();
    (0..a.nrows() * columns)
        .map(|i| {
            let (row, column) = (i / columns, i % columns);
            let inner: f64 = (0..a.ncols()).map(|k| f64::from(a[(row, k)]) * f64::from(b[(k, column)])).sum();
            alpha * inner + if beta == 0.0 { 0.0 } else { beta * f64::from(c[i]) }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_layout_multiplies(m in 1usize..40, n in 1usize..40, k in 1usize..40, pad in 0usize..5,
                               a_t: bool, b_t: bool, beta in prop::sample::select(vec![0.0f32, 1.0])) {
        let (a_rows, a_columns) = if a_t { (k, m) } else { (m, k) };
        let (b_rows, b_columns) = if b_t { (n, k) } else { (k, n) };
        let a = random(1, (a_rows + 1) * (a_columns + pad));
        let b = random(2, (b_rows + 1) * (b_columns + pad));
        let c = if beta == 0.0 { vec![f32::NAN; m * n] } else { random(3, m * n) };
        let a = block(&a, pad, a_rows, a_columns, a_columns + pad);
        let b = block(&b, pad, b_rows, b_columns, b_columns + pad);
        let (a, b) = (if a_t { a.reversed_axes() } else { a }, if b_t { b.reversed_axes() } else { b });
        let expected = naive(0.5, a, b, f64::from(beta), &c);
        for backend in available() {
            let mut c = c.clone();
            with_backend(backend, || product(0.5, a, b, beta, matrix_mut(&mut c, n))).unwrap();
            assert_close(&c, &expected, 1e-5);
        }
    }
}

/// Every element is passed to the callback once, complete, with or without a buffer for the whole result. Its bits do
/// not depend on how many other rows and columns are multiplied at the same time.
fn check_that_blocks_are_complete(precision: Precision, a: Matrix<'_>, b: Matrix<'_>, expected: &[f64], cut: usize) {
    let (m, n) = (a.nrows(), b.ncols());
    let mut c = vec![f32::NAN; m * n];
    let mut passed = vec![f32::NAN; m * n];
    product_then(precision, 1.0, a.into(), b.into(), 0.0, matrix_mut(&mut c, n), &mut |done| {
        for row in done.rows.clone() {
            let out = &mut passed[row * n..][done.columns.clone()];
            assert!(out.iter().all(|x| x.is_nan()), "passed more than once");
            out.copy_from_slice(done.row(row));
        }
    });
    assert_eq!(&passed, &c);
    let mut parts = vec![f32::NAN; m * n];
    product_in_blocks(precision, a.into(), b.into(), &mut |done| {
        for row in done.rows.clone() {
            parts[row * n..][done.columns.clone()].copy_from_slice(done.row(row));
        }
    });
    assert_eq!(&parts, &c);
    assert_close(&c, expected, 1e-5);
    // An element's bits do not depend on how many other rows and columns are multiplied at the same time.
    let (rows, columns) = (m.div_ceil(cut), n.div_ceil(cut));
    let (a, b) = (a.slice_move(ndarray::s![..rows, ..]), b.slice_move(ndarray::s![.., ..columns]));
    let mut part = vec![f32::NAN; rows * columns];
    product_then(precision, 1.0, a.into(), b.into(), 0.0, matrix_mut(&mut part, columns), &mut |_| ());
    if chosen() != "openblas" {
        for (row, part) in part.chunks(columns).enumerate() {
            assert_eq!(part, &c[row * n..][..columns]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Several blocks of rows, columns and depth. In bfloat16 the result is that of operands rounded in advance.
    #[test]
    fn blocks_are_complete_and_operands_are_rounded(m in 100usize..300, n in 1usize..130, k in 300usize..900,
                                                 a_t: bool, b_t: bool, rounded: bool, cut in 1usize..4) {
        let precision = if rounded { Precision::Bf16 } else { Precision::F32 };
        let (a, b) = (random(1, m * k), random(2, k * n));
        let (a, b) = (matrix(&a, if a_t { m } else { k }), matrix(&b, if b_t { k } else { n }));
        let (a, b) = (if a_t { a.reversed_axes() } else { a }, if b_t { b.reversed_axes() } else { b });
        let to = |x: &f32| if rounded { round_to_bf16(*x) } else { *x };
        let expected = naive(1.0, a.map(to).view(), b.map(to).view(), 0.0, &[]);
        for backend in available() {
            with_backend(backend, || check_that_blocks_are_complete(precision, a, b, &expected, cut)).unwrap();
        }
    }

    /// Every kernel that this CPU can run, including those that `auto` would not choose here, with incomplete blocks on
    /// every side and operands stored in either precision.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_kernel_multiplies(m in 1usize..70, n in 1usize..120, k in 1usize..500, pad in 0usize..3,
                               turned: [bool; 2], halves: [bool; 2], add: bool) {
        let (a, b) = (Stored::random(1, m, k, pad, turned[0], halves[0]), Stored::random(2, k, n, pad, turned[1], halves[1]));
        let before = if add { random(3, m * n) } else { vec![f32::NAN; m * n] };
        let beta = f64::from(u8::from(add));
        let exact = naive(0.5, a.matrix(), b.matrix(), beta, &before);
        let round = |x: &f32| round_to_bf16(*x);
        let rounded = naive(0.5, a.matrix().map(round).view(), b.matrix().map(round).view(), beta, &before);
        for (precision, kernel) in kernels() {
            let mut c = before.clone();
            run(kernel, 0.5, a.view(), b.view(), add, &mut c);
            assert_close(&c, if precision == Precision::F32 { &exact } else { &rounded }, 1e-5);
        }
        for (backend, precision) in available().into_iter().flat_map(|b| [(b, Precision::F32), (b, Precision::Bf16)]) {
            let mut c = before.clone();
            let out = matrix_mut(&mut c, n);
            let multiply = || product_then(precision, 0.5, a.view(), b.view(), beta as f32, out, &mut |_| ());
            with_backend(backend, multiply).unwrap();
            assert_close(&c, if precision == Precision::F32 { &exact } else { &rounded }, 1e-5);
        }
    }

    /// Operands that are rounded in advance give the same bits as those rounded while they are packed.
    #[test]
    fn operands_are_rounded_before_or_while_packed(m in 1usize..70, n in 1usize..120, k in 1usize..900, pad in 0usize..3,
                                                turned: [bool; 2]) {
        let [a, b] = [false, true].map(|half| Stored::random(1, m, k, pad, turned[0], half));
        let [x, y] = [false, true].map(|half| Stored::random(2, k, n, pad, turned[1], half));
        for backend in available() {
            let results = [(&a, &x), (&a, &y), (&b, &x), (&b, &y)].map(|(a, b)| {
                let mut c = vec![f32::NAN; m * n];
                let out = matrix_mut(&mut c, n);
                with_backend(backend, || product_in(Precision::Bf16, a.view(), b.view(), 0.0, out)).unwrap();
                c
            });
            for other in &results[1..] {
                prop_assert_eq!(other, &results[0], "{}", backend);
            }
        }
    }
}

/// The memory of a test matrix, in row or column order, with `pad` unused elements before the first line and between
/// lines.
pub(super) struct Stored {
    single: Vec<f32>,
    half: Option<Vec<bf16>>,
    shape: (usize, usize),
    /// Number of unused elements before the first line and between lines.
    pad: usize,
    turned: bool,
}

impl Stored {
    /// Pseudorandom numbers that depend on seed and shape only; stored in bfloat16 if `half`.
    pub fn random(seed: u64, rows: usize, columns: usize, pad: usize, turned: bool, half: bool) -> Self {
        let (lines, length) = if turned { (columns, rows) } else { (rows, columns) };
        let mut single = random(seed, pad + lines * (length + pad));
        let half = half.then(|| single.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>());
        if let Some(half) = &half {
            single = half.iter().map(|x| x.to_f32()).collect();
        }
        Self { single, half, shape: (lines, length), pad, turned }
    }

    pub fn view(&self) -> MatRef<'_> {
        let numbers = self.half.as_ref().map_or(SliceRef::F32(&self.single), |half| SliceRef::Bf16(half));
        let factor = numbers.block(self.pad, self.shape.0, self.shape.1, self.shape.1 + self.pad);
        if self.turned { factor.reversed_axes() } else { factor }
    }

    /// Changes an element of a matrix that is stored in f32.
    pub fn set(&mut self, row: usize, column: usize, value: f32) {
        let (line, at) = if self.turned { (column, row) } else { (row, column) };
        self.single[self.pad + line * (self.shape.1 + self.pad) + at] = value;
    }

    pub fn matrix(&self) -> Matrix<'_> {
        let matrix = block(&self.single, self.pad, self.shape.0, self.shape.1, self.shape.1 + self.pad);
        if self.turned { matrix.reversed_axes() } else { matrix }
    }
}

#[cfg(target_arch = "x86_64")]
type Kernel = unsafe fn(&mut backend::Product<'_>);

/// All kernels that run on this CPU.
#[cfg(target_arch = "x86_64")]
fn kernels() -> Vec<(Precision, Kernel)> {
    let mut kernels: Vec<(Precision, Kernel)> = Vec::new();
    if Avx2.is_available() {
        kernels.push((Precision::F32, avx2::single));
        kernels.push((Precision::Bf16, avx2::rounded));
    }
    if avx512::available() {
        kernels.push((Precision::F32, avx512::single));
        kernels.push((Precision::Bf16, avx512::rounded));
        kernels.push((Precision::Bf16, avx512::pairs_emulated));
    }
    if avx512::has_bf16() {
        kernels.push((Precision::Bf16, avx512::pairs));
        kernels.push((Precision::Bf16, amx::emulated::<1>));
        kernels.push((Precision::F32, amx::emulated::<3>));
    }
    if Amx.is_available() {
        kernels.push((Precision::F32, amx::single));
        kernels.push((Precision::Bf16, amx::rounded));
    }
    kernels
}

#[cfg(target_arch = "x86_64")]
fn run(kernel: Kernel, alpha: f32, a: MatRef<'_>, b: MatRef<'_>, add: bool, c: &mut [f32]) {
    let columns = b.dim().1;
    run_then(kernel, alpha, a, b, add, Some((c.as_mut_ptr(), columns)), &mut |_| ());
}

#[cfg(target_arch = "x86_64")]
fn run_then(
    kernel: Kernel,
    alpha: f32,
    a: MatRef<'_>,
    b: MatRef<'_>,
    add: bool,
    c: Option<(*mut f32, usize)>,
    then: &mut dyn FnMut(&mut OutputBlock),
) {
    let mut product = backend::Product { cached: 10_000, ..backend::Product::new(alpha, &a, &b, add, c, then) };
    // SAFETY: `kernels` returns only kernels that the CPU can run, and the shapes match.
    unsafe { kernel(&mut product) };
}

/// Several blocks each way, so that what stays packed of `a` is met again, and an odd last step after blocks whose rows
/// are read in pairs.
#[cfg(target_arch = "x86_64")]
#[test]
fn every_kernel_multiplies_in_blocks() {
    let (m, n, k) = (150, 310, 411);
    for (halves, pad, turned) in [(false, 0, false), (true, 0, true), (true, 1, false), (true, 3, false)] {
        // Rows that start at even and at odd offsets.
        let (a, b) = (Stored::random(1, m, k, pad, turned, halves), Stored::random(2, k, n, 0, false, halves));
        let round = |x: &f32| round_to_bf16(*x);
        let exact = naive(1.0, a.matrix(), b.matrix(), 0.0, &[]);
        let rounded = naive(1.0, a.matrix().map(round).view(), b.matrix().map(round).view(), 0.0, &[]);
        for (precision, kernel) in kernels() {
            let mut c = vec![f32::NAN; m * n];
            run(kernel, 1.0, a.view(), b.view(), false, &mut c);
            assert_close(&c, if precision == Precision::F32 { &exact } else { &rounded }, 1e-5);
            let mut parts = vec![f32::NAN; m * n];
            run_then(kernel, 1.0, a.view(), b.view(), false, None, &mut |done| {
                for row in done.rows.clone() {
                    parts[row * n..][done.columns.clone()].copy_from_slice(done.row(row));
                    done.row(row).fill(f32::NAN);
                }
            });
            assert_eq!(parts, c);
        }
    }
}

/// Compares errors against f64, relative to the sum of the magnitudes. AMX's single precision has smaller errors than
/// f32 multiply-adds, both in root mean square and in the worst case, and about equal ones where exponents differ so
/// much that one product dominates the sum.
#[cfg(target_arch = "x86_64")]
#[test]
fn three_parts_are_as_exact_as_f32() {
    let single = match (Amx.is_available(), avx512::has_bf16()) {
        (true, _) => amx::single as Kernel,
        (false, true) => amx::emulated::<3>,
        _ => return println!("skipped: this CPU has neither AMX nor AVX512-BF16"),
    };
    for (m, n, k, range, factor) in
        [(64, 64, 40, 0, 1.0), (64, 64, 1000, 0, 1.0), (64, 64, 300, 20, 1.25), (32, 32, 5000, 60, 1.25)]
    {
        let number = |seed: u64, len: usize| -> Vec<f32> {
            let scales = random(seed + 10, len);
            random(seed, len).iter().zip(scales).map(|(x, s)| x * (range as f32 * s).exp2()).collect()
        };
        let (a, b) = (number(1, m * k), number(2, k * n));
        let (a, b) = (matrix(&a, k), matrix(&b, n));
        let exact = naive(1.0, a, b, 0.0, &[]);
        let sizes = naive(1.0, a.map(|x| x.abs()).view(), b.map(|x| x.abs()).view(), 0.0, &[]);
        let [f32, parts] = [avx512::single as Kernel, single].map(|kernel| {
            let mut c = vec![f32::NAN; m * n];
            run(kernel, 1.0, a.into(), b.into(), false, &mut c);
            let errors = c.iter().zip(&exact).zip(&sizes).map(|((c, e), size)| (f64::from(*c) - e).abs() / size);
            let (worst, squares) = errors.fold((0.0f64, 0.0), |(w, s), e| (w.max(e), s + e * e));
            (worst, (squares / c.len() as f64).sqrt())
        });
        assert!(parts.1 <= factor * f32.1 && parts.0 <= factor * f32.0, "{m} {n} {k} {range}: {parts:?} {f32:?}");
    }
}

#[test]
fn rounding_is_to_nearest_even() {
    for (x, bits) in
        [(1.0f32, 0x3F80), (1.003_906_2, 0x3F80), (1.003_907, 0x3F81), (1.011_718_8, 0x3F82), (f32::MAX, 0x7F80)]
    {
        assert_eq!(round_to_bf16(x).to_bits() >> 16, bits, "{x}");
        assert_eq!(round_to_bf16(-x).to_bits() >> 16, bits | 0x8000, "{x}");
    }
    assert!(round_to_bf16(f32::NAN).is_nan() && round_to_bf16(f32::from_bits(0x7F80_0001)).is_nan());
}
