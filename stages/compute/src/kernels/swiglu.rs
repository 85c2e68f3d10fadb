//! SwiGLU (Shazeer 2020): `silu(gate) · up` with `silu(x) = x · sigmoid(x)`; a row holds gate, then up.
use crate::simd::sigmoid;
use crate::wide;

wide! {
    /// `out_rf = silu(gate_rf) · up_rf`, where a row of `gate_up` `[rows, 2 · width]` holds gate, then up.
    pub fn forward(gate_up: &[f32], width: usize, out_rf: &mut [f32]) {
        assert!(gate_up.len() == 2 * out_rf.len() && out_rf.len().is_multiple_of(width));
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out_rf.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * sigmoid(*gate) * up;
            }
        }
    }
}

wide! {
    /// Takes the gradient of the output in `d_out_rf` and replaces `gate_up` by its gradient. `d_out_rf` is overwritten
    /// with the recomputed output, which the weight gradient of the next linear layer needs.
    pub fn backward(gate_up: &mut [f32], width: usize, d_out_rf: &mut [f32]) {
        assert!(gate_up.len() == 2 * d_out_rf.len() && d_out_rf.len().is_multiple_of(width));
        for (row, d_out) in gate_up.chunks_exact_mut(2 * width).zip(d_out_rf.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at_mut(width);
            for ((d_out, gate), up) in d_out.iter_mut().zip(gate).zip(up) {
                let (d, g, u) = (*d_out, *gate, *up);
                let open = sigmoid(g);
                let silu = g * open;
                *d_out = silu * u;
                *gate = d * u * (silu.mul_add(1.0 - open, open));
                *up = d * silu;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
    use proptest::prelude::*;

    fn reference(gate_up: &[f64], width: usize) -> Vec<f64> {
        let rows = gate_up.chunks(2 * width);
        rows.flat_map(|row| (0..width).map(|i| row[i] / (1.0 + (-row[i]).exp()) * row[width + i])).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn agrees_with_the_reference(rows in 1usize..5, width in 1usize..40, scale in 0.5f32..8.0) {
            let mut gate_up: Vec<f32> = random(1, 2 * rows * width).iter().map(|x| x * scale).collect();
            let d_out = random(2, rows * width);
            let mut out = vec![f32::NAN; rows * width];
            forward(&gate_up, width, &mut out);
            assert_close(&out, &reference(&wide(&gate_up), width), 1e-5);
            let expected = gradient(&gate_up, |x| weighted(&reference(x, width), &d_out));
            let mut d = d_out.clone();
            backward(&mut gate_up, width, &mut d);
            prop_assert_eq!(out, d);
            assert_close(&gate_up, &expected, 1e-4);
        }
    }
}
