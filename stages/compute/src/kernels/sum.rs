//! Sums of gradients: elementwise addition, and squared norms in blocks.
use crate::simd::LANES;
use crate::wide;

/// Elements per block of [`block_squares`].
pub const NORM_BLOCK: usize = 64 * 1024;

/// `into += from`.
pub fn add(into: &mut [f32], from: &[f32]) {
    assert_eq!(into.len(), from.len(), "gradients of equal length");
    add_wide(into, from);
}

wide! {
    fn add_wide(into: &mut [f32], from: &[f32]) {
        for (a, b) in into.iter_mut().zip(from) {
            *a += b;
        }
    }
}

/// `into += from`; returns the [`block_squares`] of the sum, computed while it is in cache.
pub fn add_with_squares(into: &mut [f32], from: &[f32]) -> Vec<f64> {
    assert_eq!(into.len(), from.len(), "gradients of equal length");
    let blocks = into.chunks_mut(NORM_BLOCK).zip(from.chunks(NORM_BLOCK));
    blocks
        .map(|(into, from)| {
            add_wide(into, from);
            squares(into)
        })
        .collect()
}

/// The sum of squares of each block of [`NORM_BLOCK`] elements (the last may be shorter), in f64.
pub fn block_squares(x: &[f32]) -> Vec<f64> {
    x.chunks(NORM_BLOCK).map(squares).collect()
}

wide! {
    fn squares(x: &[f32]) -> f64 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut lanes = [0.0f64; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                let x = f64::from(chunk[i]);
                lanes[i] = x.mul_add(x, lanes[i]);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane = f64::from(*x).mul_add(f64::from(*x), *lane);
        }
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{random, wide};

    #[test]
    fn blocks_have_their_sums_of_squares() {
        let x = random(1, 2 * NORM_BLOCK + 77);
        let blocks = block_squares(&x);
        assert_eq!(blocks.len(), 3);
        for (block, x) in blocks.iter().zip(x.chunks(NORM_BLOCK)) {
            let naive: f64 = wide(x).iter().map(|x| x * x).sum();
            assert!((block / naive - 1.0).abs() < 1e-12);
        }
        assert!(block_squares(&[]).is_empty());
    }

    #[test]
    fn addition_adds() {
        let (mut a, b) = (random(1, 77), random(2, 77));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let mut same = a.clone();
        add(&mut a, &b);
        assert_eq!(a, expected);
        assert_eq!(add_with_squares(&mut same, &b), block_squares(&expected));
        assert_eq!(same, expected);
    }
}
