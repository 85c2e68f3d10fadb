//! Attention against a naive reference in f64.
use super::*;
use crate::kernels::gemm::bf16;
use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
use proptest::prelude::*;

fn reference(shape: &Attention<'_>, qkv: &[f64]) -> Vec<f64> {
    let (c, d) = (shape.width, shape.head_width());
    let mut out = vec![0.0; shape.sequences * shape.length * c];
    for row in 0..shape.sequences * shape.length {
        let base = row / shape.length * shape.length;
        let first = base + shape.starts.map_or(0, |s| s[row] as usize);
        for head in 0..shape.heads {
            let of = |row: usize, part: usize, i: usize| qkv[(row * 3 + part) * c + head * d + i];
            let score = |key: usize| (0..d).map(|i| of(row, 0, i) * of(key, 1, i)).sum::<f64>() / (d as f64).sqrt();
            let e: Vec<f64> = (first..=row).map(|key| score(key).exp()).collect();
            let total: f64 = e.iter().sum();
            for i in 0..d {
                let mixed = e.iter().zip(first..).map(|(e, key)| e * of(key, 2, i)).sum::<f64>();
                out[row * c + head * d + i] = mixed / total;
            }
        }
    }
    out
}

/// For each token the start of its document; documents begin at pseudorandom positions.
fn starts(sequences: usize, length: usize, seed: u64) -> Vec<u32> {
    let cut = random(seed, sequences * length);
    let mut starts: Vec<u32> = Vec::new();
    for (row, cut) in cut.iter().enumerate() {
        let position = (row % length) as u32;
        let new = position == 0 || *cut > 0.8;
        starts.push(if new { position } else { *starts.last().expect("not the first") });
    }
    starts
}

fn compare(sequences: usize, length: usize, heads: usize, head_width: usize, masked: bool, differences: bool) {
    let width = heads * head_width;
    let (starts, precision) = (starts(sequences, length, 9), Precision::F32);
    let shape = Attention { sequences, length, heads, width, starts: masked.then_some(&starts[..]), precision };
    let rows = sequences * length;
    let qkv: Vec<f32> = random(1, rows * 3 * width).iter().map(|x| 2.0 * x).collect();
    let (mut out, mut log_sums) = (vec![f32::NAN; rows * width], vec![f32::NAN; rows * heads]);
    forward(&shape, qkv[..].into(), &mut out, &mut log_sums);
    assert_close(&out, &reference(&shape, &wide(&qkv)), 1e-5);
    let (d_out, mut d_qkv) = (random(2, out.len()), vec![f32::NAN; qkv.len()]);
    backward(&shape, qkv[..].into(), &out, &log_sums, &d_out, &mut d_qkv);
    if differences {
        assert_close(&d_qkv, &gradient(&qkv, |qkv| weighted(&reference(&shape, qkv), &d_out)), 1e-4);
    } else {
        // Too large for a finite difference per element: check one directional derivative.
        let direction = random(3, qkv.len());
        let along = |t: f64| -> f64 {
            let moved: Vec<f64> = qkv.iter().zip(&direction).map(|(x, d)| f64::from(*x) + t * f64::from(*d)).collect();
            weighted(&reference(&shape, &moved), &d_out)
        };
        let expected = (along(1e-6) - along(-1e-6)) / 2e-6;
        let actual: f64 = d_qkv.iter().zip(&direction).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((actual - expected).abs() < 1e-4 * expected.abs().max(1.0), "{actual} {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn agrees_with_the_reference(sequences in 1usize..3, length in 1usize..9, heads in 1usize..4,
                                 head_width in 1usize..6, masked: bool) {
        compare(sequences, length, heads, head_width, masked, true);
    }

    /// bfloat16 rounds each operand by at most one part in 512, so results stay close to those in f32.
    #[test]
    fn bfloat16_is_close_to_f32(length in 1usize..150, head_width in 1usize..70, masked: bool) {
        let (heads, starts) = (2, starts(2, length, 9));
        let starts = masked.then_some(&starts[..]);
        let shape = Attention { sequences: 2, length, heads, width: heads * head_width, starts, precision: Precision::F32 };
        let rows = 2 * length;
        let (qkv, d_out) = (random(1, rows * 3 * shape.width), random(2, rows * shape.width));
        let [(out, d_qkv), (rounded_out, rounded_d_qkv)] = [Precision::F32, Precision::Bf16].map(|precision| {
            let shape = Attention { precision, ..shape };
            let (mut out, mut log_sums) = (vec![f32::NAN; d_out.len()], vec![f32::NAN; rows * heads]);
            let mut d_qkv = vec![f32::NAN; qkv.len()];
            forward(&shape, qkv[..].into(), &mut out, &mut log_sums);
            backward(&shape, qkv[..].into(), &out, &log_sums, &d_out, &mut d_qkv);
            (out, d_qkv)
        });
        for (rounded, exact) in [(rounded_out, out), (rounded_d_qkv, d_qkv)] {
            let size = exact.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let off = rounded.iter().zip(&exact).fold(0.0f32, |m, (r, e)| m.max((r - e).abs()));
            prop_assert!(off <= 0.02 * size && (off > 0.0 || size < 1e-3), "{off} of {size}");
        }
    }

    /// Operands that are stored in bfloat16 give the same bits as f32 operands that are rounded when packed.
    #[test]
    fn operands_may_be_rounded_in_advance(length in 1usize..150, head_width in 1usize..40, masked: bool) {
        let (heads, starts) = (2, starts(1, length, 9));
        let (width, starts, precision) = (heads * head_width, masked.then_some(&starts[..]), Precision::Bf16);
        let shape = Attention { sequences: 1, length, heads, width, starts, precision };
        let (qkv, d_out) = (random(1, length * 3 * width), random(2, length * width));
        let halves: Vec<bf16> = qkv.iter().map(|x| bf16::from_f32(*x)).collect();
        let [one, other] = [SliceRef::F32(&qkv), SliceRef::Bf16(&halves)].map(|numbers| {
            let (mut out, mut log_sums) = (vec![f32::NAN; d_out.len()], vec![f32::NAN; length * heads]);
            let mut d_qkv = vec![f32::NAN; qkv.len()];
            forward(&shape, numbers, &mut out, &mut log_sums);
            backward(&shape, numbers, &out, &log_sums, &d_out, &mut d_qkv);
            (out, log_sums, d_qkv)
        });
        prop_assert_eq!(one, other);
    }

    #[test]
    fn agrees_over_several_blocks(length in 60usize..200, head_width in 1usize..70, masked: bool) {
        compare(2, length, 2, head_width, masked, false);
    }
}
