//! Compares products in eight bits with the definition, bit for bit, on every backend and kernel that this CPU has.
#[cfg(target_arch = "x86_64")]
use super::blocked;
use super::stored::{Quantised, product_of_quantised};
use super::{Kernel, Keys, quantise, through_floats};
use crate::kernels::gemm::backend::Product;
use crate::kernels::gemm::backends::backend;
use crate::kernels::gemm::tests::Stored;
use crate::kernels::gemm::{
    Magnitudes, Matrix, OutputBlock, Rounding, available, matrix, matrix_mut, product_in_blocks,
};
use crate::kernels::gemm::{product_in, product_then, with_backend};
use crate::kernels::testing::random;
use contract::Precision::Int8;
use contract::parameters::splitmix64;
use proptest::prelude::*;

/// A line as integers, and its scale.
fn quantised(line: &[f32], index: usize, key: Option<u64>) -> (Vec<i64>, f32) {
    let largest = line.iter().fold(0.0f32, |largest, x| if x.abs() > largest { x.abs() } else { largest });
    if line.iter().any(|x| !x.is_finite()) {
        return (vec![0; line.len()], f32::NAN);
    }
    if largest <= 1e-30 {
        return (vec![0; line.len()], 0.0);
    }
    let hash = key.map(|key| (splitmix64(key, index as u64) >> 32) as u32);
    let integer = |(step, x): (usize, &f32)| match hash {
        None => i64::from((*x * (127.0 / largest)).round_ties_even() as i8),
        Some(hash) => {
            let noise = quantise::noise(hash, step as u32);
            x.mul_add(127.0 / largest, noise).clamp(-127.0, 127.0).round_ties_even() as i64
        }
    };
    (line.iter().enumerate().map(integer).collect(), largest / 127.0)
}

/// The definition: `c = alpha · a · b`, added to `before` if there is one.
fn reference(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, keys: Keys, before: Option<&[f32]>) -> Vec<f32> {
    let lines = |x: Matrix<'_>, key| -> Vec<(Vec<i64>, f32)> {
        x.outer_iter().enumerate().map(|(index, line)| quantised(&line.to_vec(), index, key)).collect()
    };
    let (rows, columns) = (lines(a, keys[0]), lines(b.reversed_axes(), keys[1]));
    let mut c = Vec::new();
    for (a, row_scale) in &rows {
        for (b, column_scale) in &columns {
            let sum: i64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let value = sum as f32 * (alpha * row_scale) * column_scale;
            c.push(before.map_or(value, |before| before[c.len()] + value));
        }
    }
    c
}

/// Bits, with one value for all kinds of NaN.
fn bits(c: &[f32]) -> Vec<u32> {
    c.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
}

impl Stored {
    fn magnitudes(&self) -> Magnitudes {
        let values: Vec<f32> = self.matrix().iter().copied().collect();
        Magnitudes::new(&values, self.matrix().ncols())
    }

    fn transposed_magnitudes(&self) -> Magnitudes {
        let Magnitudes { rows, columns } = self.magnitudes();
        Magnitudes { rows: columns, columns: rows }
    }
}

/// All kernels that run on this CPU, and those that are emulated.
#[cfg(target_arch = "x86_64")]
fn kernels() -> Vec<Kernel> {
    let of = |name| with_backend(name, || backend().int8()).unwrap();
    let vnni = is_x86_feature_detected!("avx2").then(crate::kernels::gemm::avx2::vnni::emulated);
    let has_tiles = crate::kernels::gemm::avx512::vnni::kernel().is_some();
    let tiles = has_tiles.then(crate::kernels::gemm::amx::int8::emulated);
    available().into_iter().filter_map(of).chain(vnni).chain(tiles).collect()
}

/// Asserts that all backends and kernels compute `expected`.
fn check(a: &Stored, b: &Stored, keys: Keys, before: Option<&[f32]>, cached: usize) {
    let (rows, columns) = (a.view().dim().0, b.view().dim().1);
    let expected = bits(&reference(0.5, a.matrix(), b.matrix(), keys, before));
    let start = || before.map_or_else(|| vec![f32::NAN; rows * columns], <[f32]>::to_vec);
    let (of_a, of_b) = (a.magnitudes(), b.transposed_magnitudes());
    let known_a = a.view().with_magnitudes(Some(&of_a));
    let known_b = b.view().reversed_axes().with_magnitudes(Some(&of_b)).reversed_axes();
    for name in available() {
        let mut c = start();
        let (rounding, beta) = (Rounding { precision: Int8, keys }, f32::from(u8::from(before.is_some())));
        let multiply =
            || product_then(rounding, 0.5, a.view(), b.view(), beta, matrix_mut(&mut c, columns), &mut |_| ());
        with_backend(name, multiply).unwrap();
        assert!(bits(&c) == expected, "{name}");
        let mut c = start();
        let multiply = || product_then(rounding, 0.5, known_a, known_b, beta, matrix_mut(&mut c, columns), &mut |_| ());
        with_backend(name, multiply).unwrap();
        assert!(bits(&c) == expected, "{name}, with magnitudes");
        let mut c = start();
        let (a, b, add) = (a.view(), b.view(), before.is_some());
        let then: &mut dyn FnMut(&mut OutputBlock) = &mut |_| ();
        let mut product = Product::new(0.5, &a, &b, add, Some((c.as_mut_ptr(), columns)), then);
        // SAFETY: the backend is available, and the shapes match.
        with_backend(name, || unsafe { through_floats::run(backend(), keys, &mut product) }).unwrap();
        assert!(bits(&c) == expected, "{name}, through floats");
    }
    #[cfg(target_arch = "x86_64")]
    for kernel in kernels() {
        for (a, b) in [(a.view(), b.view()), (known_a, known_b)] {
            let mut c = start();
            let then: &mut dyn FnMut(&mut OutputBlock) = &mut |_| ();
            let product = Product::new(0.5, &a, &b, before.is_some(), Some((c.as_mut_ptr(), columns)), then);
            // SAFETY: `kernels` returns only kernels that the CPU can run, and the shapes match.
            unsafe { blocked::run(&kernel, keys, &mut Product { cached, ..product }) };
            assert!(bits(&c) == expected, "{}", kernel.name);
        }
    }
}

/// Asserts that operands that were quantised before have the same product, the left one in two parts, on all backends and
/// kernels.
fn check_stored(a: &Stored, b: &Stored, keys: Keys, before: Option<&[f32]>) {
    let (rows, columns) = (a.view().dim().0, b.view().dim().1);
    let expected = bits(&reference(1.0, a.matrix(), b.matrix(), keys, before));
    let middle = rows / 3;
    let (of_a, of_b) = (a.magnitudes(), b.transposed_magnitudes());
    let (a, b) = (a.view().with_magnitudes(Some(&of_a)), b.view().reversed_axes().with_magnitudes(Some(&of_b)));
    let computed = |kernel: Option<Kernel>| {
        let b = Quantised::right_for(kernel, b.reversed_axes(), keys[1]);
        let mut c = before.map_or_else(|| vec![f32::NAN; rows * columns], <[f32]>::to_vec);
        let (top, bottom) = c.split_at_mut(middle * columns);
        for (part, c) in [(0..middle, top), (middle..rows, bottom)] {
            if !part.is_empty() {
                let a = Quantised::left_for(kernel, a.rows(part.clone()), part.start, keys[0]);
                product_of_quantised(&a, &b, before.is_some(), matrix_mut(c, columns));
            }
        }
        bits(&c)
    };
    for name in available() {
        assert!(with_backend(name, || computed(backend().int8())).unwrap() == expected, "{name}, stored");
        assert!(with_backend(name, || computed(None)).unwrap() == expected, "{name}, stored, through floats");
    }
    #[cfg(target_arch = "x86_64")]
    for kernel in kernels() {
        assert!(computed(Some(kernel)) == expected, "{}, stored", kernel.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Odd shapes in every layout and with gaps, both kinds of numbers and of rounding, added to a result or not.
    #[test]
    fn every_backend_gives_the_bits_of_the_definition(
        m in 1usize..70, n in 1usize..120, k in 1usize..300, pad in 0usize..3, turned: [bool; 2], halves: [bool; 2],
        gradients: [bool; 2], add: bool,
    ) {
        let a = Stored::random(1, m, k, pad, turned[0], halves[0]);
        let b = Stored::random(2, k, n, pad, turned[1], halves[1]);
        let before = random(3, m * n);
        let keys = [gradients[0].then_some(17), gradients[1].then_some(18)];
        check(&a, &b, keys, add.then_some(&before[..]), 10_000);
        check_stored(&a, &b, keys, add.then_some(&before[..]));
    }

    /// Rows and columns of zeros, with one large number, with numbers near the limits of f32, infinite or NaN.
    #[test]
    fn unusual_numbers(
        m in 1usize..20, n in 1usize..40, k in 1usize..70, turned: [bool; 2], gradients: [bool; 2],
        numbers in prop::collection::vec(
            (any::<u16>(), prop::sample::select(vec![
                0.0, -0.0, 1e30, -3e38, 1e-40, 2e-30, f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY, f32::NAN,
            ])), 0..6),
        zero_row: Option<u8>,
    ) {
        let mut a = Stored::random(1, m, k, 0, turned[0], false);
        let mut b = Stored::random(2, k, n, 0, turned[1], false);
        if let Some(row) = zero_row {
            (0..k).for_each(|step| a.set(row as usize % m, step, 0.0));
        }
        for (at, number) in numbers {
            let at = at as usize;
            if at.is_multiple_of(2) { a.set(at / 2 % m, at / 7 % k, number) } else { b.set(at / 7 % k, at / 2 % n, number) }
        }
        let keys = [gradients[0].then_some(5), gradients[1].then_some(6)];
        check(&a, &b, keys, None, 10_000);
        check_stored(&a, &b, keys, None);
        let (a, b) = (a.matrix(), b.matrix());
        let c = reference(1.0, a, b, [None; 2], None);
        for (row, c) in a.outer_iter().zip(c.chunks(n)) {
            for (column, c) in b.columns().into_iter().zip(c) {
                let finite = row.iter().chain(column).all(|x| x.is_finite());
                prop_assert!(finite || c.is_nan());
            }
        }
    }
}

/// Several blocks of rows, columns and depth; the packed `a` is used again, or not.
#[test]
fn large_products_are_computed_in_blocks() {
    for (m, n, k, turned) in
        [(150, 310, 411, [false, false]), (150, 310, 2500, [false, true]), (20, 500, 4200, [true; 2])]
    {
        let (a, b) = (Stored::random(1, m, k, 0, turned[0], true), Stored::random(2, k, n, 0, turned[1], false));
        for cached in [1000, 100_000] {
            check(&a, &b, [Some(1), None], None, cached);
        }
        check_stored(&a, &b, [Some(1), None], None);
    }
}

/// Every element is passed to the callback once and complete, with or without a buffer for the whole result. Its bits
/// do not depend on how many other rows and columns are multiplied at the same time.
#[test]
fn blocks_are_complete() {
    let (m, n, k) = (300, 250, 70);
    let (a, b) = (random(1, m * k), random(2, k * n));
    let (a, b) = (matrix(&a, k), matrix(&b, n));
    for name in available() {
        let check = || {
            let (mut c, mut passed) = (vec![f32::NAN; m * n], vec![f32::NAN; m * n]);
            product_in_blocks(Int8, a.into(), b.into(), &mut |done| {
                for row in done.rows.clone() {
                    let out = &mut passed[row * n..][done.columns.clone()];
                    assert!(out.iter().all(|x| x.is_nan()), "passed more than once");
                    out.copy_from_slice(done.row(row));
                }
            });
            product_in(Int8, a, b, 0.0, matrix_mut(&mut c, n));
            assert_eq!(passed, c);
            let mut part = vec![f32::NAN; 37 * 41];
            let (a, b) = (a.slice_move(ndarray::s![..37, ..]), b.slice_move(ndarray::s![.., ..41]));
            product_in(Int8, a, b, 0.0, matrix_mut(&mut part, 41));
            part.chunks(41).zip(c.chunks(n)).for_each(|(part, c)| assert_eq!(part, &c[..41]));
        };
        with_backend(name, check).unwrap();
    }
}

/// The same for every kernel, in several blocks of rows, columns and depth, with results that are overwritten meanwhile.
#[cfg(target_arch = "x86_64")]
#[test]
fn blocks_of_kernels_are_complete() {
    for (m, n, k, cached) in [(1, 1, 1, 1000), (150, 310, 70, 1000), (300, 250, 1100, 10_000), (37, 1100, 4100, 10_000)]
    {
        let (a, b) = (Stored::random(1, m, k, 0, false, false), Stored::random(2, k, n, 0, true, true));
        let expected = bits(&reference(1.0, a.matrix(), b.matrix(), [None, Some(3)], None));
        for kernel in kernels() {
            let mut passed = vec![f32::NAN; m * n];
            let then: &mut dyn FnMut(&mut OutputBlock) = &mut |done| {
                for row in done.rows.clone() {
                    let out = &mut passed[row * n..][done.columns.clone()];
                    assert!(out.iter().all(|x| x.is_nan()), "passed more than once");
                    out.copy_from_slice(done.row(row));
                    done.row(row).fill(f32::NAN);
                }
            };
            let (a, b) = (a.view(), b.view());
            let mut product = Product { cached, ..Product::new(1.0, &a, &b, false, None, then) };
            // SAFETY: `kernels` returns only kernels that the CPU can run, and the shapes match.
            unsafe { blocked::run(&kernel, [None, Some(3)], &mut product) };
            assert!(bits(&passed) == expected, "{}", kernel.name);
        }
    }
}

/// The deepest sum of products, all of the same sign, and a deeper product, which is computed in bfloat16.
#[test]
fn the_deepest_sums_do_not_overflow() {
    let deep = vec![1.0; super::DEEPEST + 1];
    for name in available() {
        for depth in [super::DEEPEST, super::DEEPEST + 1] {
            let (mut c, x) = ([f32::NAN], &deep[..depth]);
            with_backend(name, || product_in(Int8, matrix(x, depth), matrix(x, 1), 0.0, matrix_mut(&mut c, 1)))
                .unwrap();
            assert!((c[0] / depth as f32 - 1.0).abs() < 1e-5, "{name}: {}", c[0]);
        }
    }
}

/// The error of an operand is at most half a step of its scale, or a whole step if it is rounded stochastically. So that
/// of a product is at most Σ (|a| · e_b + |b| · e_a + e_a · e_b), up to the rounding of the result.
#[test]
fn errors_are_within_the_bounds_of_rounding() {
    let (m, n, k) = (40, 50, 200);
    let (a, b) = (random(1, m * k), random(2, k * n));
    let (a, b) = (matrix(&a, k), matrix(&b, n));
    let largest = |line: ndarray::ArrayView1<'_, f32>| line.iter().fold(0.0f64, |l, x| l.max(f64::from(x.abs())));
    for keys in [[None; 2], [Some(1), None], [None, Some(2)]] {
        let mut c = vec![f32::NAN; m * n];
        product_in(Rounding { precision: Int8, keys }, a, b, 0.0, matrix_mut(&mut c, n));
        let part = |key: Option<u64>| if key.is_some() { 1.0 } else { 0.5 } / 127.0 * 1.001;
        for (i, row) in a.outer_iter().enumerate() {
            for (j, column) in b.columns().into_iter().enumerate() {
                let (e_a, e_b) = (part(keys[0]) * largest(row), part(keys[1]) * largest(column));
                let (mut exact, mut bound) = (0.0, 0.0);
                for (x, y) in row.iter().zip(column) {
                    let (x, y) = (f64::from(*x), f64::from(*y));
                    exact += x * y;
                    bound += x.abs() * e_b + y.abs() * e_a + e_a * e_b;
                }
                let error = (f64::from(c[i * n + j]) - exact).abs();
                assert!(error <= bound + 1e-6 * exact.abs(), "{i} {j}: {error}, at most {bound}");
            }
        }
    }
}

/// The mean over many keys approaches the product without rounding: the error shrinks as the root of their number.
#[test]
fn stochastic_rounding_is_unbiased() {
    let (m, n, k, keys) = (6, 7, 64, 4000);
    let a = random(1, m * k);
    // Integers, and 127 in each column, so that only `a` is rounded.
    let b: Vec<f32> = (0..k * n).map(|i| if i < n { 127.0 } else { (i * 37 % 201) as f32 - 100.0 }).collect();
    let (a, b) = (matrix(&a, k), matrix(&b, n));
    let mut mean = vec![0.0f64; m * n];
    for key in 0..keys {
        let mut c = vec![f32::NAN; m * n];
        product_in(Rounding::of_left_gradient(Int8, key), a, b, 0.0, matrix_mut(&mut c, n));
        mean.iter_mut().zip(&c).for_each(|(mean, c)| *mean += f64::from(*c) / keys as f64);
    }
    for (i, row) in a.outer_iter().enumerate() {
        let step = row.iter().fold(0.0f64, |l, x| l.max(f64::from(x.abs()))) / 127.0;
        for (j, column) in b.columns().into_iter().enumerate() {
            let exact: f64 = row.iter().zip(column).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            // The deviation of a number that is rounded is at most half a step, so five standard errors are at most:
            let squares: f64 = column.iter().map(|y| f64::from(*y).powi(2)).sum();
            let most = 5.0 * 0.5 * step * squares.sqrt() / f64::from(keys as u32).sqrt();
            assert!((mean[i * n + j] - exact).abs() <= most, "{i} {j}: {} {exact} {most}", mean[i * n + j]);
        }
    }
}
