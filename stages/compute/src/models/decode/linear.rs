//! Linear layers, distributed over the threads of the current rayon pool.
use crate::kernels::gemm::{matrix, matrix_mut, product};
use crate::kernels::matrix_vector::matrix_vector;
use contract::{Buffer, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Output columns per task when there are several rows. Fixed, so that results do not depend on the number of threads.
const COLUMNS: usize = 128;
/// Side of the square blocks that a matrix is transposed in.
const SQUARE: usize = 32;

/// `y = W x + b`.
pub struct Linear {
    /// `[out, in]`: a thread that computes some of the outputs reads one contiguous part of it.
    weight: Arc<Tensor>,
    bias: Option<Arc<Tensor>>,
}

impl Linear {
    /// A layer with the weight `[out, in]` and no bias.
    pub fn new(weight: Arc<Tensor>) -> Self {
        Self { weight, bias: None }
    }

    /// One layer from several weights with the same input, whose outputs are concatenated. Each is `[out, in]`, or
    /// `[in, out]` if `transposed`. A single weight that is not transposed is not copied.
    pub fn stacked(mut weights: Vec<Arc<Tensor>>, transposed: bool, bias: Option<Arc<Tensor>>) -> Self {
        if weights.len() == 1 && !transposed {
            return Self { weight: weights.remove(0), bias };
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
        Self { weight: Arc::new(all), bias }
    }

    /// Outputs per row.
    pub fn outputs(&self) -> usize {
        self.weight.shape[0]
    }

    /// `[rows, out]` of `x` `[rows, in]`.
    pub fn apply(&self, x: &[f32]) -> Buffer {
        let (outer, inner) = (self.weight.shape[0], self.weight.shape[1]);
        let rows = x.len() / inner;
        let mut out = Buffer::scratch(rows * outer);
        if rows == 1 {
            // Several tasks per thread, so that other threads can take over those of a delayed one.
            let share = outer.div_ceil(4 * rayon::current_num_threads()).max(1);
            let shares = out.par_chunks_mut(share).zip(self.weight.data.par_chunks(share * inner));
            shares.for_each(|(out, weight)| matrix_vector(weight, inner, x, out));
        } else {
            // Threads write to separate pieces, [out / COLUMNS][rows, COLUMNS], which are then assembled into rows.
            let mut pieces = Buffer::scratch(rows * outer);
            let weights = self.weight.data.par_chunks(COLUMNS * inner);
            pieces.par_chunks_mut(rows * COLUMNS).zip(weights).for_each(|(piece, weight)| {
                let columns = weight.len() / inner;
                product(1.0, matrix(x, inner), matrix(weight, inner).reversed_axes(), 0.0, matrix_mut(piece, columns));
            });
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn every_shape_multiplies(rows in 1usize..5, inner in 1usize..80, outer in 1usize..300, cut in 0usize..300) {
            let (x, w, b) = (random(1, rows * inner), random(2, outer * inner), random(3, outer));
            let naive: Vec<f64> = (0..rows * outer)
                .map(|at| {
                    let (row, o) = (at / outer, at % outer);
                    let term = |i: usize| f64::from(x[row * inner + i]) * f64::from(w[o * inner + i]);
                    (0..inner).map(term).sum()
                })
                .collect();
            let weight = Tensor::from_values([outer, inner], &w);
            assert_close(&Linear::new(Arc::new(weight.clone())).apply(&x), &naive, 1e-5);
            let (above, below) = w.split_at(cut.min(outer) * inner);
            let part = |x: &[f32]| Arc::new(Tensor::from_values([x.len() / inner, inner], x));
            assert_close(&Linear::stacked(vec![part(above), part(below)], false, None).apply(&x), &naive, 1e-5);
            let mut turned = Tensor::scratch([inner, outer]);
            turned.data.iter_mut().enumerate().for_each(|(at, t)| *t = w[at % outer * inner + at / outer]);
            let with_bias: Vec<f64> = naive.iter().enumerate().map(|(at, y)| y + f64::from(b[at % outer])).collect();
            let bias = Arc::new(Tensor::from_values([outer], &b));
            assert_close(&Linear::stacked(vec![Arc::new(turned)], true, Some(bias)).apply(&x), &with_bias, 1e-5);
        }
    }
}
