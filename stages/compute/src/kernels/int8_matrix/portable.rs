//! Sums for CPUs without a kernel of their own; vectorised by the compiler.
use super::DEEPEST;
use crate::simd::LANES;
use crate::wide;

wide! {
    /// See [`Kernel::products`](super::Kernel::products).
    pub(super) fn products(weights: &[i8], x: &[i16], out: &mut [f32]) {
        for (row, out) in weights.chunks_exact(x.len()).zip(out) {
            let mut total = 0;
            for (row, x) in row.chunks(DEEPEST).zip(x.chunks(DEEPEST)) {
                let mut lanes = [0i32; LANES];
                for (row, x) in row.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
                    for i in 0..LANES {
                        lanes[i] += i32::from(row[i]) * i32::from(x[i]);
                    }
                }
                total += lanes.into_iter().map(i64::from).sum::<i64>();
            }
            *out = total as f32;
        }
    }
}
