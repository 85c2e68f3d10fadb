//! The gradient of the head in eight bits, computed in parts of rows when backward asks for them.
use super::rows_alive;
use crate::kernels::gemm::{MatRef, Quantised, matrix_mut, product_of_quantised};
use contract::sections::rows_of_parts;
use contract::{Precision, Tensor};

/// The gradient of the head in parts. What a part is computed from is freed with it.
pub struct HeadParts {
    chunks: Vec<HeadChunk>,
    /// Vocabulary and width.
    shape: [usize; 2],
    /// The first row that has not been returned.
    next: usize,
}

/// What a chunk of rows contributes to the gradient of the head.
struct HeadChunk {
    /// The gradient of the logits, transposed, for each of the remaining parts.
    d_logits: std::vec::IntoIter<Quantised>,
    hidden: Quantised,
}

impl HeadParts {
    /// Of a head `[vocabulary, width]`, without a chunk.
    pub fn new(vocabulary: usize, width: usize) -> Self {
        Self { chunks: Vec::new(), shape: [vocabulary, width], next: 0 }
    }

    /// Adds a chunk: the gradient of its logits `[vocabulary, rows]`, which is rounded with `key`, and the hidden states.
    pub fn add(&mut self, d_logits: MatRef<'_>, hidden: MatRef<'_>, key: u64) {
        let parts = (0..self.shape[0]).step_by(self.rows());
        let part = |first: usize| {
            let rows = first..self.shape[0].min(first + self.rows());
            Quantised::left(d_logits.rows(rows), first, Some(key))
        };
        let d_logits = parts.map(part).collect::<Vec<_>>().into_iter();
        self.chunks.push(HeadChunk { d_logits, hidden: Quantised::right(hidden, None) });
    }

    /// Rows of a part.
    fn rows(&self) -> usize {
        rows_of_parts(self.shape[1]).unwrap_or(self.shape[0]).max(1)
    }
}

impl Iterator for HeadParts {
    type Item = Tensor;

    fn next(&mut self) -> Option<Tensor> {
        let [vocabulary, width] = self.shape;
        let rows = self.next..vocabulary.min(self.next + self.rows());
        if rows.is_empty() {
            return None;
        }
        self.next = rows.end;
        let mut gradient = Tensor::scratch([rows.len(), width]);
        for (index, HeadChunk { d_logits, hidden }) in self.chunks.iter_mut().enumerate() {
            let d_logits = d_logits.next().expect("a chunk has as many parts as the gradient");
            product_of_quantised(&d_logits, hidden, index > 0, matrix_mut(&mut gradient.data, width));
        }
        if self.chunks.is_empty() {
            gradient.data.fill(0.0);
        }
        Some(gradient)
    }
}

/// If [`head_loss`](super::head_loss) of `rows` rows keeps the operands of the head's gradient in eight bits, because they
/// take less memory than the gradient: the number of floats whose memory they occupy.
pub fn gradient_later(precision: Precision, rows: usize, vocabulary: usize, width: usize) -> Option<usize> {
    let chunk = rows_alive(rows, vocabulary, None, precision);
    let part = rows_of_parts(width)?;
    if precision != Precision::Int8 || chunk > Quantised::DEEPEST {
        return None;
    }
    let of_logits = vocabulary / part * Quantised::floats(part, chunk) + Quantised::floats(vocabulary % part, chunk);
    let floats = of_logits + Quantised::floats(width, chunk);
    let floats = rows.div_ceil(chunk) * floats;
    (floats < vocabulary * width).then_some(floats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cross_entropy::CrossEntropy;
    use crate::kernels::gemm::{Rounding, matrix, product_in};
    use crate::kernels::head::{Logits, OF_HEAD, head_loss};
    use crate::kernels::testing::random;
    use contract::Precision::Int8;
    use contract::parameters::splitmix64;
    use contract::{HeadGradient, IGNORED};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        /// In eight bits the gradient of the head is computed later, in parts, with the bits of the product of each chunk.
        #[test]
        fn the_gradient_of_the_head_is_computed_later(rows in 0usize..70, more in 0usize..200, few: bool,
                                                       ignored in 0usize..70, softcap in prop::option::of(0.3f32..4.0)) {
            // So that a part has 256 rows.
            const WIDTH: usize = 1024;
            let vocabulary = 400 + more;
            let hidden = Tensor::from_values([rows, WIDTH], &random(1, rows * WIDTH));
            let head = Tensor::from_values([vocabulary, WIDTH], &random(2, vocabulary * WIDTH));
            let targets: Vec<u32> =
                (0..rows).map(|r| if r == ignored { IGNORED } else { (r * 7 % vocabulary) as u32 }).collect();
            // Rows beyond this number are another chunk, as with a large vocabulary; `head_loss` then computes at once.
            let at_once = if few { Some(16) } else { None };
            let logits =
                Logits { precision: Int8, softcap, key: 9, rows_at_once: at_once, ..Logits::new(&hidden, &head) };
            let (mut expected, mut beta) = (vec![0.0; vocabulary * WIDTH], 0.0);
            logits.chunks(&CrossEntropy, &targets, true, |_, _| (), |first, d_logits| {
                let rows = first * WIDTH..(first + d_logits.dim().0) * WIDTH;
                let key = splitmix64(splitmix64(9, OF_HEAD), 2 * first as u64 + 1);
                let (hidden, d_logits) = (matrix(&hidden.data[rows], WIDTH), d_logits.reversed_axes());
                let rounding = Rounding::of_left_gradient(Int8, key);
                // The product searches for the largest magnitudes.
                let d_logits = d_logits.without_magnitudes();
                product_in(rounding, d_logits, hidden, beta, matrix_mut(&mut expected, WIDTH));
                beta = 1.0;
            });
            // The parts of several chunks, which `head_loss` only has of more rows than a test has time for.
            let mut parts = HeadParts::new(vocabulary, WIDTH);
            logits.chunks(&CrossEntropy, &targets, true, |_, _| (), |first, d_logits| {
                let rows = first * WIDTH..(first + d_logits.dim().0) * WIDTH;
                let key = splitmix64(splitmix64(9, OF_HEAD), 2 * first as u64 + 1);
                parts.add(d_logits.reversed_axes(), matrix(&hidden.data[rows], WIDTH).into(), key);
            });
            prop_assert!(!few || parts.chunks.len() == rows.div_ceil(16));
            let in_parts: Vec<f32> = parts.flat_map(|part| part.data.to_vec()).collect();
            prop_assert_eq!(&in_parts, &expected);
            let (_, _, d_head) = head_loss(&CrossEntropy, &logits, &targets);
            let later = matches!(d_head, HeadGradient::Later { .. });
            prop_assert_eq!(later, !few && gradient_later(Int8, rows, vocabulary, WIDTH).is_some());
            prop_assert!(later || few);
            prop_assert_eq!(&d_head.whole().data[..], &expected[..]);
        }
    }
}
