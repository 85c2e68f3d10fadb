//! The output head: computes logits, the loss of each row and its gradient in chunks of rows, so that the logits of a
//! whole batch are never stored.
mod parts;

use crate::kernels::gemm::{Magnitudes, MatRef, Rounding, bf16, block, matrix, matrix_mut, product_in, round_in_place};
use crate::kernels::softcap;
use contract::parameters::splitmix64;
use contract::{Buffer, HeadGradient, IGNORED, Precision, Tensor};
use parts::HeadParts;
pub use parts::gradient_later;

/// The loss of one row, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowLossValue {
    /// The loss that is minimised.
    pub trained: f32,
    /// Plain cross-entropy, for comparison.
    pub cross_entropy: f32,
}

/// A loss, one row at a time.
pub trait RowLoss: Send + Sync {
    /// The loss of one row of logits `[vocabulary]`. If `gradient` is set, overwrites `logits` with the gradient of the
    /// *trained* loss with respect to them.
    fn row(&self, logits: &mut [f32], target: u32, gradient: bool) -> RowLossValue;
}

/// Sums over the rows whose target is not [`IGNORED`], in row order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadLoss {
    /// The trained loss, in nats.
    pub trained: f64,
    /// Cross-entropy, in nats.
    pub cross_entropy: f64,
    /// Number of these rows.
    pub targets: u64,
}

/// Floats of logits that are stored at once: enough to amortise reading the head's matrix for each chunk of rows.
const LOGITS_AT_ONCE: usize = 4 << 20;
/// Minimum number of rows for efficient products, whatever the vocabulary size. In bfloat16 it is larger, since packing
/// the head's matrix takes as long as in f32, but multiplying by it only half as long.
fn least_rows(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 128,
        Precision::Bf16 | Precision::Int8 => 256,
    }
}

/// Distinguishes the random numbers of the head from those of the blocks, which are numbered from 0.
const OF_HEAD: u64 = u64::MAX;

/// The hidden states of a batch, and how they become logits.
#[derive(Clone, Copy)]
pub struct Logits<'a> {
    /// `[rows, width]`: hidden states after the final normalisation.
    pub hidden: &'a Tensor,
    /// `[vocabulary, width]`: the matrix of the head.
    pub head: &'a Tensor,
    /// If set, logits are `cap · tanh(hidden · headᵀ / cap)`; see [`softcap`].
    pub softcap: Option<f32>,
    /// The precision that operands of products are rounded to.
    pub precision: Precision,
    /// The largest magnitudes of the head, if they are known. Only products in eight bits need them.
    pub magnitudes: Option<&'a Magnitudes>,
    /// What the random numbers depend on with which the gradient of the logits is rounded to eight bits.
    pub key: u64,
    /// Limits the number of rows per chunk; `None` derives it from the size of the vocabulary.
    pub rows_at_once: Option<usize>,
}

/// The loss, and the gradients of the summed loss with respect to the hidden states `[rows, width]` and the head
/// `[vocabulary, width]`.
///
/// # Panics
/// If shapes do not match, or a target that is not ignored is not in the vocabulary.
pub fn head_loss(loss: &dyn RowLoss, logits: &Logits<'_>, targets: &[u32]) -> (HeadLoss, Tensor, HeadGradient) {
    let &Logits { hidden, head, precision, .. } = logits;
    let (vocabulary, width) = (head.shape[0], head.shape[1]);
    let mut d_hidden = Tensor::scratch(hidden.shape.clone());
    let in_parts =
        logits.rows_at_once.is_none() && gradient_later(precision, targets.len(), vocabulary, width).is_some();
    let mut d_head = (!in_parts).then(|| Tensor::scratch(head.shape.clone()));
    let mut later = HeadParts::new(vocabulary, width);
    let mut beta = 0.0;
    let total = logits.chunks(
        loss,
        targets,
        true,
        |_, _| (),
        |first, d_logits| {
            let rows = first * width..(first + d_logits.dim().0) * width;
            let key = |product: u64| splitmix64(splitmix64(logits.key, OF_HEAD), 2 * first as u64 + product);
            let d_hidden = matrix_mut(&mut d_hidden.data[rows.clone()], width);
            product_in(Rounding::of_left_gradient(precision, key(0)), d_logits, logits.matrix(), 0.0, d_hidden);
            let (hidden, d_logits) = (matrix(&hidden.data[rows], width), d_logits.reversed_axes());
            match &mut d_head {
                Some(d_head) => {
                    let rounding = Rounding::of_left_gradient(precision, key(1));
                    product_in(rounding, d_logits, hidden, beta, matrix_mut(&mut d_head.data, width));
                    beta = 1.0;
                }
                None => later.add(d_logits, hidden.into(), key(1)),
            }
        },
    );
    let d_head = match d_head {
        Some(mut d_head) => {
            if targets.is_empty() {
                d_head.data.fill(0.0);
            }
            HeadGradient::Whole(d_head)
        }
        None => HeadGradient::Later { shape: [vocabulary, width], parts: Box::new(later) },
    };
    (total, d_hidden, d_head)
}

/// The loss without gradients, for validation; see [`head_loss`].
pub fn head_value(loss: &dyn RowLoss, logits: &Logits<'_>, targets: &[u32]) -> HeadLoss {
    head_values(loss, logits, targets, |_, _| ())
}

/// The same. Passes the loss of each row whose target is not [`IGNORED`] to `each`, with the index of the row.
pub fn head_values(
    loss: &dyn RowLoss,
    logits: &Logits<'_>,
    targets: &[u32],
    each: impl FnMut(usize, RowLossValue),
) -> HeadLoss {
    logits.chunks(loss, targets, false, each, |_, _| ())
}

/// Number of rows of logits that are stored at once.
pub fn rows_alive(rows: usize, vocabulary: usize, rows_at_once: Option<usize>, precision: Precision) -> usize {
    let most = (LOGITS_AT_ONCE / vocabulary).max(least_rows(precision)).min(rows_at_once.unwrap_or(usize::MAX)).max(1);
    let groups = rows.div_ceil(most).max(1);
    rows.div_ceil(groups).max(1)
}

impl<'a> Logits<'a> {
    /// Logits without a cap, in f32.
    pub fn new(hidden: &'a Tensor, head: &'a Tensor) -> Self {
        Self { hidden, head, softcap: None, precision: Precision::F32, magnitudes: None, key: 0, rows_at_once: None }
    }

    /// The head `[vocabulary, width]`.
    fn matrix(&self) -> MatRef<'a> {
        MatRef::from(matrix(&self.head.data, self.head.shape[1])).with_magnitudes(self.magnitudes)
    }

    /// Computes the logits of each chunk and passes them to `loss`, whose values go to `each` with the index of the row.
    /// Then calls `chunk` with the index of its first row and its logits, which have been replaced by their gradient if
    /// `gradient` is set.
    fn chunks(
        &self,
        loss: &dyn RowLoss,
        targets: &[u32],
        gradient: bool,
        mut each: impl FnMut(usize, RowLossValue),
        mut chunk: impl FnMut(usize, MatRef<'_>),
    ) -> HeadLoss {
        let &Self { hidden, head, precision, .. } = self;
        let (vocabulary, width) = (head.shape[0], head.shape[1]);
        assert_eq!(hidden.shape, [targets.len(), width], "the shapes of hidden states, targets and head match");
        let group = rows_alive(targets.len(), vocabulary, self.rows_at_once, precision);
        let mut scratch = Buffer::scratch(group * vocabulary);
        let mut capped = self.softcap.map(|cap| (cap, vec![0.0; vocabulary]));
        let halved = gradient && precision != Precision::F32;
        let mut total = HeadLoss::default();
        for (index, targets) in targets.chunks(group).enumerate() {
            let (first, rows) = (index * group, targets.len());
            let logits = &mut scratch[..rows * vocabulary];
            let hidden = matrix(&hidden.data[first * width..(first + rows) * width], width);
            product_in(precision, hidden, self.matrix().reversed_axes(), 0.0, matrix_mut(logits, vocabulary));
            let mut magnitudes =
                (gradient && precision == Precision::Int8).then(|| Magnitudes::of_zeros(rows, vocabulary));
            for (row_index, (logits, target)) in (first..).zip(logits.chunks_exact_mut(vocabulary).zip(targets)) {
                if *target == IGNORED {
                    logits.fill(0.0);
                    continue;
                }
                let value = row(loss, logits, *target, gradient, &mut capped);
                if halved {
                    round_in_place(logits);
                }
                if let Some(magnitudes) = &mut magnitudes {
                    magnitudes.include_row(row_index - first, &bytemuck::cast_slice(logits)[..vocabulary]);
                }
                total.trained += f64::from(value.trained);
                total.cross_entropy += f64::from(value.cross_entropy);
                total.targets += 1;
                each(row_index, value);
            }
            let logits: MatRef<'_> = if halved {
                block::<bf16>(bytemuck::cast_slice(logits), 0, rows, vocabulary, 2 * vocabulary).into()
            } else {
                matrix(logits, vocabulary).into()
            };
            chunk(first, logits.with_magnitudes(magnitudes.as_ref()));
        }
        total
    }
}

/// The loss of a row of logits before their cap, which become their gradient if `gradient` is set. `capped` is the cap
/// and scratch memory for a row.
fn row(
    loss: &dyn RowLoss,
    logits: &mut [f32],
    target: u32,
    gradient: bool,
    capped: &mut Option<(f32, Vec<f32>)>,
) -> RowLossValue {
    let Some((cap, capped)) = capped else { return loss.row(logits, target, gradient) };
    softcap::forward(*cap, logits);
    if gradient {
        capped.copy_from_slice(logits);
    }
    let value = loss.row(logits, target, gradient);
    if gradient {
        softcap::backward(*cap, capped, logits);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cross_entropy::CrossEntropy;
    use crate::kernels::testing::{assert_close, gradient, random, wide};
    use contract::Precision::Bf16;
    use proptest::prelude::*;

    fn reference(hidden: &[f64], head: &[f64], width: usize, softcap: Option<f32>, targets: &[u32]) -> f64 {
        let mut total = 0.0;
        let capped = |x: f64| softcap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh());
        for (h, target) in hidden.chunks(width).zip(targets).filter(|(_, t)| **t != IGNORED) {
            let logit = |w: &[f64]| capped(w.iter().zip(h).map(|(w, h)| w * h).sum());
            let logits: Vec<f64> = head.chunks(width).map(logit).collect();
            total += logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[*target as usize];
        }
        total
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn agrees_with_the_reference(rows in 1usize..9, width in 1usize..12, vocabulary in 1usize..20,
                                     ignored in 0usize..9, rows_at_once in prop::option::of(1usize..5),
                                     softcap in prop::option::of(0.3f32..4.0)) {
            let hidden = &Tensor::from_values([rows, width], &random(1, rows * width));
            let head = &Tensor::from_values([vocabulary, width], &random(2, vocabulary * width));
            let targets: Vec<u32> =
                (0..rows).map(|r| if r == ignored { IGNORED } else { (r * 7 % vocabulary) as u32 }).collect();
            let (h64, w64) = (wide(&hidden.data), wide(&head.data));
            let logits = Logits { softcap, rows_at_once, ..Logits::new(hidden, head) };
            let (total, d_hidden, d_head) = head_loss(&CrossEntropy, &logits, &targets);
            prop_assert_eq!(total, head_value(&CrossEntropy, &logits, &targets));
            prop_assert_eq!(total.targets as usize, rows - usize::from(ignored < rows));
            let expected = reference(&h64, &w64, width, softcap, &targets);
            prop_assert!((total.trained - expected).abs() <= 1e-5 * expected.abs().max(1.0));
            assert_close(&d_hidden.data, &gradient(&hidden.data, |h| reference(h, &w64, width, softcap, &targets)), 1e-4);
            assert_close(&d_head.whole().data, &gradient(&head.data, |w| reference(&h64, w, width, softcap, &targets)), 1e-4);
        }

        /// Gradients of logits are rounded in place: the same bits as if the products rounded them.
        #[test]
        fn gradients_may_be_rounded_in_place(rows in 1usize..40, width in 1usize..30, vocabulary in 2usize..90,
                                           ignored in 0usize..40) {
            let hidden = Tensor::from_values([rows, width], &random(1, rows * width));
            let head = Tensor::from_values([vocabulary, width], &random(2, vocabulary * width));
            let targets: Vec<u32> =
                (0..rows).map(|r| if r == ignored { IGNORED } else { (r * 7 % vocabulary) as u32 }).collect();
            let logits = Logits { precision: Bf16, ..Logits::new(&hidden, &head) };
            let (total, d_hidden, d_head) = head_loss(&CrossEntropy, &logits, &targets);
            prop_assert_eq!(total, head_value(&CrossEntropy, &logits, &targets));
            let (h, w) = (matrix(&hidden.data, width), matrix(&head.data, width));
            let mut d = vec![f32::NAN; rows * vocabulary];
            product_in(Bf16, h, w.reversed_axes(), 0.0, matrix_mut(&mut d, vocabulary));
            for (logits, target) in d.chunks_exact_mut(vocabulary).zip(&targets) {
                if *target == IGNORED {
                    logits.fill(0.0);
                } else {
                    CrossEntropy.row(logits, *target, true);
                }
            }
            let d = matrix(&d, vocabulary);
            let (mut of_hidden, mut of_head) = (vec![f32::NAN; rows * width], vec![f32::NAN; vocabulary * width]);
            product_in(Bf16, d, w, 0.0, matrix_mut(&mut of_hidden, width));
            product_in(Bf16, d.reversed_axes(), h, 0.0, matrix_mut(&mut of_head, width));
            prop_assert_eq!(&d_hidden.data[..], &of_hidden[..]);
            prop_assert_eq!(&d_head.whole().data[..], &of_head[..]);
        }
    }
}
