//! Sums of gradients: elementwise addition, and squared norms in blocks, also of differences.
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

/// The sum of squared differences of each block of [`NORM_BLOCK`] elements (the last may be shorter), in f64.
pub fn block_distances(a: &[f32], b: &[f32]) -> Vec<f64> {
    assert_eq!(a.len(), b.len(), "vectors of equal length");
    a.chunks(NORM_BLOCK).zip(b.chunks(NORM_BLOCK)).map(|(a, b)| squared_distance(a, b)).collect()
}

wide! {
    fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
        let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let mut lanes = [0.0f64; LANES];
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES {
                let x = f64::from(a[i]) - f64::from(b[i]);
                lanes[i] = x.mul_add(x, lanes[i]);
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
            let x = f64::from(*a) - f64::from(*b);
            *lane = x.mul_add(x, *lane);
        }
        lanes.iter().sum()
    }
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
    fn blocks_have_their_squared_distances() {
        let (a, b) = (random(1, NORM_BLOCK + 77), random(2, NORM_BLOCK + 77));
        let blocks = block_distances(&a, &b);
        assert_eq!(blocks.len(), 2);
        for (at, block) in blocks.iter().enumerate() {
            let range = at * NORM_BLOCK..a.len().min((at + 1) * NORM_BLOCK);
            let (a, b) = (wide(&a[range.clone()]), wide(&b[range]));
            let naive: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
            assert!((block / naive - 1.0).abs() < 1e-12);
        }
        assert_eq!(block_distances(&a, &a), [0.0, 0.0]);
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
