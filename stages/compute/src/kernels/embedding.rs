//! Token and position embeddings.
use crate::kernels::sum::add;
use crate::wide;
use std::ops::Range;

/// `out_rc[r] = tokens_vc[token r] + positions_tc[r mod length]`.
///
/// # Panics
/// If a token id is not in the vocabulary, or there are fewer positions than `length`.
pub fn forward(
    tokens: &[u32],
    length: usize,
    tokens_vc: &[f32],
    positions_tc: &[f32],
    width: usize,
    out_rc: &mut [f32],
) {
    assert_eq!(out_rc.len(), tokens.len() * width);
    for (row, (out, token)) in out_rc.chunks_exact_mut(width).zip(tokens).enumerate() {
        let (token, position) = (*token as usize * width, row % length * width);
        let (token, position) = (&tokens_vc[token..token + width], &positions_tc[position..position + width]);
        add_both(token, position, out);
    }
}

wide! {
    fn add_both(token: &[f32], position: &[f32], out: &mut [f32]) {
        for ((out, t), p) in out.iter_mut().zip(token).zip(position) {
            *out = t + p;
        }
    }
}

/// Takes the gradient of the output in `d_out_rc`. *Adds* each row to the row of its token, in row order, if that is one
/// of the rows `some` of the embedding, whose gradient is in `d_some`.
pub fn backward_tokens(tokens: &[u32], some: &Range<usize>, d_out_rc: &[f32], width: usize, d_some: &mut [f32]) {
    assert_eq!(d_out_rc.len(), tokens.len() * width);
    for (d, token) in d_out_rc.chunks_exact(width).zip(tokens) {
        if some.contains(&(*token as usize)) {
            add(&mut d_some[(*token as usize - some.start) * width..][..width], d);
        }
    }
}

/// Takes the gradient of the output in `d_out_rc` and writes the sum over sequences of `length` rows to `d_positions_tc`
/// (zero beyond `length`).
pub fn backward_positions(length: usize, d_out_rc: &[f32], width: usize, d_positions_tc: &mut [f32]) {
    d_positions_tc.fill(0.0);
    for (row, d) in d_out_rc.chunks_exact(width).enumerate() {
        add(&mut d_positions_tc[row % length * width..][..width], d);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
    use proptest::prelude::*;

    fn reference(tokens: &[u32], length: usize, wte: &[f64], wpe: &[f64], width: usize) -> Vec<f64> {
        let of = |row: usize, c: usize| wte[tokens[row] as usize * width + c] + wpe[row % length * width + c];
        (0..tokens.len() * width).map(|i| of(i / width, i % width)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn agrees_with_the_reference(sequences in 1usize..4, length in 1usize..6, width in 1usize..20, spare in 0usize..3) {
            let vocabulary = 7;
            let tokens: Vec<u32> = (0..sequences * length).map(|i| (i * i * 5 % vocabulary) as u32).collect();
            let (wte, wpe) = (random(1, vocabulary * width), random(2, (length + spare) * width));
            let (wte64, wpe64) = (wide(&wte), wide(&wpe));
            let mut out = vec![0.0; tokens.len() * width];
            forward(&tokens, length, &wte, &wpe, width, &mut out);
            assert_close(&out, &reference(&tokens, length, &wte64, &wpe64, width), 1e-6);

            let (d_out, head) = (random(3, out.len()), random(4, wte.len()));
            let (mut d_wte, mut d_wpe) = (head.clone(), vec![f32::NAN; wpe.len()]);
            let (top, bottom) = d_wte.split_at_mut(3 * width);
            backward_tokens(&tokens, &(0..3), &d_out, width, top);
            backward_tokens(&tokens, &(3..vocabulary), &d_out, width, bottom);
            backward_positions(length, &d_out, width, &mut d_wpe);
            let mut expected = gradient(&wte, |w| weighted(&reference(&tokens, length, w, &wpe64, width), &d_out));
            expected.iter_mut().zip(&head).for_each(|(d, head)| *d += f64::from(*head));
            assert_close(&d_wte, &expected, 1e-5);
            assert_close(&d_wpe, &gradient(&wpe, |w| weighted(&reference(&tokens, length, &wte64, w, width), &d_out)), 1e-5);
        }
    }
}
