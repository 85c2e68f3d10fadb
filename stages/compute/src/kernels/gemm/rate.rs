//! The machine's GEMM rate, the reference for model FLOPs utilization (MFU).
use super::backends::with_backend;
use super::{block, chosen, matrix, matrix_mut, product_in, round};
use contract::Precision;
use half::bf16;
use std::sync::Barrier;
use std::time::Instant;

/// `[m, n, k]` of the timed products.
const SIZES: [[usize; 3]; 3] = [[1024, 1024, 1024], [1536, 1536, 1536], [2048, 2048, 1024]];
/// Number of timed runs per product.
const REPEATS: usize = 6;

/// The best rate of a few large products in `precision` on the calling thread's backend, in GFLOP/s in total: `threads`
/// products run at the same time, each on one thread. Takes about a second.
pub fn gemm_gflops(threads: usize, precision: Precision) -> f64 {
    SIZES.iter().map(|size| rate(*size, threads, precision)).fold(0.0, f64::max)
}

/// Largest number of bytes that [`gemm_gflops`] allocates.
pub fn gemm_gflops_bytes(threads: usize, precision: Precision) -> u64 {
    let rounded = if precision == Precision::F32 { 0 } else { size_of::<bf16>() };
    let bytes = |[m, n, k]: &[usize; 3]| (m * k + k * n) * (size_of::<f32>() + rounded) + m * n * size_of::<f32>();
    (threads.max(1) * SIZES.iter().map(bytes).max().unwrap_or(0)) as u64
}

/// The best rate of `[m, n, k]` products in `precision` on the calling thread's backend, in GFLOP/s in total: `threads`
/// products start together, each on one thread. In bfloat16 and in eight bits both operands are stored in bfloat16, as
/// activations and gradients are in training.
pub fn rate([m, n, k]: [usize; 3], threads: usize, precision: Precision) -> f64 {
    let (threads, backend) = (threads.max(1), chosen());
    let barrier = Barrier::new(threads);
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let time = || with_backend(backend, || best_rate([m, n, k], precision, &barrier)).unwrap_or(0.0);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(time)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).collect()
    });
    rates.iter().sum()
}

fn best_rate([m, n, k]: [usize; 3], precision: Precision, barrier: &Barrier) -> f64 {
    // Not allocated from the pool, which would keep them.
    let (a, b, mut c) = (vec![0.5; m * k], vec![0.25; k * n], vec![0.0; m * n]);
    let rounded = |x: &[f32]| {
        let mut out = vec![bf16::ZERO; if precision != Precision::F32 { x.len() } else { 0 }];
        round(&x[..out.len()], &mut out);
        out
    };
    let (a_bf16, b_bf16) = (rounded(&a), rounded(&b));
    let mut best = 0.0f64;
    for _ in 0..REPEATS {
        barrier.wait();
        let start = Instant::now();
        let c = matrix_mut(&mut c, n);
        match precision {
            Precision::F32 => product_in(precision, matrix(&a, k), matrix(&b, n), 0.0, c),
            Precision::Bf16 | Precision::Int8 => {
                product_in(precision, block(&a_bf16, 0, m, k, k), block(&b_bf16, 0, k, n, n), 0.0, c)
            }
        }
        best = best.max(2.0 * (m * n * k) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}
