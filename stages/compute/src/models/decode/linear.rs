//! Linear layers, distributed over the threads of the current rayon pool.
use super::weights::Weights;
use contract::{Buffer, Precision, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Output columns per task when there are several rows. Fixed, so that results do not depend on the number of threads.
const COLUMNS: usize = 128;
/// Side of the square blocks that a matrix is transposed in.
const SQUARE: usize = 32;

/// `y = W x + b`.
pub struct Linear {
    weights: Weights,
    bias: Option<Arc<Tensor>>,
}

impl Linear {
    /// A layer with the weight `[out, in]`, stored in `precision`, and no bias.
    pub fn new(weight: Arc<Tensor>, precision: Precision) -> Self {
        Self { weights: Weights::new(weight, precision), bias: None }
    }

    /// One layer from several weights with the same input, whose outputs are concatenated, stored in `precision`. Each is
    /// `[out, in]`, or `[in, out]` if `transposed`. A single weight that is not transposed is not copied in f32.
    pub fn stacked(
        mut weights: Vec<Arc<Tensor>>,
        transposed: bool,
        bias: Option<Arc<Tensor>>,
        precision: Precision,
    ) -> Self {
        if weights.len() == 1 && !transposed {
            return Self { weights: Weights::new(weights.remove(0), precision), bias };
        }
        let (inner, outer) = if transposed { (0, 1) } else { (1, 0) };
        let width = weights[0].shape[inner];
        let mut all = Tensor::scratch([weights.iter().map(|w| w.shape[outer]).sum(), width]);
        let mut rest = &mut all.data[..];
        for weight in weights {
            let (here, after) = rest.split_at_mut(weight.data.len());
            match transposed {
                true => transpose(&weight, here),
                false => here.copy_from_slice(&weight.data),
            }
            rest = after;
        }
        Self { weights: Weights::new(Arc::new(all), precision), bias }
    }

    /// The stored weights, `[out, in]`.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// `[rows, out]` of `x` `[rows, in]`.
    pub fn apply(&self, x: &[f32]) -> Buffer {
        let outer = self.weights.rows();
        let rows = x.len() / self.weights.columns();
        let input = self.weights.input(x);
        let mut out = Buffer::scratch(rows * outer);
        // Threads write to separate pieces, [out / columns][rows, columns], which are then assembled into rows.
        let multiply = |columns: usize, pieces: &mut [f32]| {
            pieces.par_chunks_mut(rows * columns).enumerate().for_each(|(index, piece)| {
                self.weights.multiply(&input, index * columns, piece.len() / rows, piece);
            });
        };
        if rows == 1 {
            // Several tasks per thread, so that other threads can take over those of a delayed one.
            multiply(outer.div_ceil(4 * rayon::current_num_threads()).max(1), &mut out);
        } else {
            let mut pieces = Buffer::scratch(rows * outer);
            multiply(COLUMNS, &mut pieces);
            side_by_side(&pieces, rows, COLUMNS, &mut out);
        }
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(outer) {
                crate::kernels::sum::add(row, &bias.data);
            }
        }
        out
    }
}

/// Transposes `x` `[rows, columns]` into `out` `[columns, rows]`, block by block.
fn transpose(x: &Tensor, out: &mut [f32]) {
    let (inner, outer) = (x.shape[0], x.shape[1]);
    out.par_chunks_mut(SQUARE * inner).enumerate().for_each(|(band, rows)| {
        for from in (0..inner).step_by(SQUARE) {
            for (row, out) in rows.chunks_exact_mut(inner).enumerate() {
                for (i, out) in (from..).zip(&mut out[from..(from + SQUARE).min(inner)]) {
                    *out = x.data[i * outer + band * SQUARE + row];
                }
            }
        }
    });
}

/// Concatenates `pieces`, each `[rows, columns]` (the last may be narrower), into the rows of `out` `[rows, n]`.
pub fn side_by_side(pieces: &[f32], rows: usize, columns: usize, out: &mut [f32]) {
    let whole = out.len() / rows;
    for (index, piece) in pieces.chunks(rows * columns).enumerate() {
        let columns_here = piece.len() / rows;
        for (out, piece) in out.chunks_exact_mut(whole).zip(piece.chunks_exact(columns_here)) {
            out[index * columns..index * columns + columns_here].copy_from_slice(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};
    use proptest::prelude::*;

    /// The weights `[outer, inner]` as they are stored.
    fn stored(layer: &Linear) -> Vec<f64> {
        let mut row = vec![0.0; layer.weights.columns()];
        let mut all = Vec::new();
        for index in 0..layer.weights.rows() {
            layer.weights.row(index, &mut row);
            all.extend(row.iter().map(|x| f64::from(*x)));
        }
        all
    }

    fn naive(x: &[f32], weights: &[f64], inner: usize) -> Vec<f64> {
        let dot = |x: &[f32], w: &[f64]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * w).sum();
        x.chunks(inner).flat_map(|x| weights.chunks(inner).map(move |w| dot(x, w))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn every_shape_multiplies(rows in 1usize..8, inner in 1usize..80, outer in 1usize..300, cut in 0usize..300) {
            let (x, w, b) = (random(1, rows * inner), random(2, outer * inner), random(3, outer));
            let weight = Arc::new(Tensor::from_values([outer, inner], &w));
            let (above, below) = w.split_at(cut.min(outer) * inner);
            let part = |x: &[f32]| Arc::new(Tensor::from_values([x.len() / inner, inner], x));
            let mut turned = Tensor::scratch([inner, outer]);
            turned.data.iter_mut().enumerate().for_each(|(at, t)| *t = w[at % outer * inner + at / outer]);
            let (turned, bias) = (Arc::new(turned), Arc::new(Tensor::from_values([outer], &b)));
            // The largest error of a weight, and that of a product of the weights as they are stored: in bfloat16, and
            // in eight bits with several rows, the other operand is rounded to bfloat16.
            for (precision, of_weight, of_product) in
                [(Precision::F32, 0.0, 1e-5), (Precision::Bf16, 0.002, 0.01), (Precision::Int8, 0.004, 0.01)]
            {
                let layer = Linear::new(Arc::clone(&weight), precision);
                let (weights, halves) = (stored(&layer), if precision == Precision::F32 { 4 } else { 2 });
                prop_assert!(weights.iter().zip(&w).all(|(stored, w)| (stored - f64::from(*w)).abs() <= of_weight));
                prop_assert!(precision == Precision::Int8 || layer.weights.bytes() == outer * inner * halves);
                prop_assert!(layer.weights.bytes() <= outer * (inner.next_multiple_of(64) + 4) || precision != Precision::Int8);
                let expected = naive(&x, &weights, inner);
                assert_close(&layer.apply(&x), &expected, of_product);
                let parts = vec![part(above), part(below)];
                assert_close(&Linear::stacked(parts, false, None, precision).apply(&x), &expected, of_product);
                let with_bias: Vec<f64> =
                    expected.iter().enumerate().map(|(at, y)| y + f64::from(b[at % outer])).collect();
                let layer = Linear::stacked(vec![Arc::clone(&turned)], true, Some(Arc::clone(&bias)), precision);
                assert_close(&layer.apply(&x), &with_bias, of_product);
            }
        }
    }
}
