use super::*;
use crate::kernels::gemm::Scalar;
use crate::kernels::testing::{assert_close, random};
use proptest::prelude::*;

/// Every kernel that this CPU can run.
fn kernels() -> Vec<Kernel> {
    let mut all = vec![Kernel::Portable];
    #[cfg(target_arch = "x86_64")]
    all.extend(
        [(Kernel::Avx2, avx2::is_available()), (Kernel::Avx512Vnni, avx512::is_available())]
            .into_iter()
            .filter_map(|(kernel, available)| available.then_some(kernel)),
    );
    all
}

/// Pseudorandom bytes.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| contract::parameters::splitmix64(seed, i as u64) as u8).collect()
}

/// The sums in integers.
fn naive(weights: &[i8], x: &[i16]) -> Vec<f32> {
    let sum = |row: &[i8]| row.iter().zip(x).map(|(w, x)| i64::from(*w) * i64::from(*x)).sum::<i64>();
    weights.chunks_exact(x.len()).map(|row| sum(row) as f32).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn every_kernel_computes_the_sums(rows in 0usize..21, padded in 1usize..6, seed: u64) {
        let inner = padded * PADDING;
        let weights: Vec<i8> = bytes(seed, rows * inner).into_iter().map(|b| (b as i8).max(-127)).collect();
        let x: Vec<i16> = bytes(!seed, 2 * inner).chunks(2).map(|b| i16::from_le_bytes([b[0], b[1]]).max(-32_767)).collect();
        for kernel in kernels() {
            let mut out = vec![f32::NAN; rows];
            kernel.products(&weights, &x, &mut out);
            prop_assert_eq!(bits(&out), bits(&naive(&weights, &x)), "{:?}", kernel);
        }
    }

    /// Odd shapes, rows and vectors of zeros, and with one large number.
    #[test]
    fn products_are_those_of_the_integers(
        rows in 1usize..40, columns in 1usize..200, vectors in 1usize..4, zero in 0usize..40, large in 0usize..40,
    ) {
        let (mut weight, mut x) = (random(1, rows * columns), random(2, vectors * columns));
        weight.chunks_exact_mut(columns).skip(zero).take(1).for_each(|row| row.fill(0.0));
        weight.chunks_exact_mut(columns).skip(large).take(1).for_each(|row| row[columns / 2] = 1e6);
        x[columns / 3] = -300.0;
        let (matrix, quantised) = (Int8Matrix::new(&weight, columns), Int16Vectors::new(&x, columns));
        prop_assert_eq!((matrix.rows(), matrix.columns()), (rows, columns));
        let mut numbers = vec![0.0; rows * columns];
        numbers.chunks_exact_mut(columns).enumerate().for_each(|(row, out)| matrix.row(row, out));
        // A number is off by at most half a step, which is the largest of its row over 127.
        for (row, (numbers, weight)) in numbers.chunks_exact(columns).zip(weight.chunks_exact(columns)).enumerate() {
            let step = weight.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
            prop_assert!(numbers.iter().zip(weight).all(|(a, b)| (a - b).abs() <= 0.501 * step), "row {}", row);
        }
        let mut halves = vec![bf16::ZERO; rows * columns];
        matrix.integers(0, &mut halves);
        for (at, (half, number)) in halves.iter().zip(&numbers).enumerate() {
            prop_assert_eq!(half.widen() * matrix.scales()[at / columns], *number);
        }
        let first = rows / 3;
        for (vector, x) in x.chunks_exact(columns).enumerate() {
            let mut out = vec![f32::NAN; rows - first];
            matrix.multiply(first, &quantised, vector, &mut out);
            let exact = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
            // The error that is left is that of the vector: half a step of its largest number over 32767.
            let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (out, row) in out.iter().zip(numbers.chunks_exact(columns).skip(first)) {
                let bound = row.iter().map(|w| f64::from(w.abs())).sum::<f64>() * f64::from(most) / 32_767.0;
                prop_assert!((f64::from(*out) - exact(row)).abs() <= 0.501 * bound + 1e-6 * exact(row).abs());
            }
        }
    }
}

/// The sums of the largest numbers, around the length after which lanes are added up.
#[test]
fn no_sum_overflows() {
    for inner in [DEEPEST - PADDING, DEEPEST, DEEPEST + PADDING, 3 * DEEPEST + PADDING] {
        for sign in [1, -1] {
            let (weights, x) = (vec![127i8; 9 * inner], vec![sign * 32_767i16; inner]);
            for kernel in kernels() {
                let mut out = vec![f32::NAN; 9];
                kernel.products(&weights, &x, &mut out);
                assert_eq!(bits(&out), bits(&naive(&weights, &x)), "{kernel:?}, {inner}");
            }
        }
    }
}

#[test]
fn rows_and_vectors_that_are_not_finite_give_nan_and_only_they() {
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let mut weight = random(1, 5 * 70);
        weight[2 * 70 + 69] = bad;
        let matrix = Int8Matrix::new(&weight, 70);
        let mut x = random(2, 2 * 70);
        x[70] = bad;
        let x = Int16Vectors::new(&x, 70);
        let mut out = [0.0; 5];
        matrix.multiply(0, &x, 0, &mut out);
        assert_eq!(out.map(f32::is_nan), [false, false, true, false, false]);
        matrix.multiply(0, &x, 1, &mut out);
        assert!(out.iter().all(|out| out.is_nan()));
    }
    // Too small to be divided by.
    let tiny = Int8Matrix::new(&[1e-31, -1e-38, 0.0], 3);
    let mut out = [f32::NAN];
    tiny.multiply(0, &Int16Vectors::new(&[1.0, 2.0, 3.0], 3), 0, &mut out);
    assert_eq!(out, [0.0]);
}

/// Integers and scales are those of products in training.
#[test]
fn a_product_is_close_to_that_of_training() {
    use crate::kernels::gemm::{matrix, matrix_mut, product_in};
    let (weight, x) = (random(3, 33 * 130), random(4, 130));
    let mut trained = vec![0.0; 33];
    let w = matrix(&weight, 130);
    product_in(contract::Precision::Int8, matrix(&x, 130), w.reversed_axes(), 0.0, matrix_mut(&mut trained, 33));
    let mut out = vec![0.0; 33];
    Int8Matrix::new(&weight, 130).multiply(0, &Int16Vectors::new(&x, 130), 0, &mut out);
    assert_close(&out, &crate::kernels::testing::wide(&trained), 0.02);
}
