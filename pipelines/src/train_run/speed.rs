//! The machine's GEMM rate, which MFU is measured against.
use crate::process::cores;
use compute::machine;

/// GFLOP/s that MFU is measured against: `$MILLRACE_GEMM_GFLOPS`, or measured now, which takes about a second.
pub fn full_speed(workers: usize) -> f64 {
    given_speed().unwrap_or_else(|| machine::gemm_gflops(workers.min(cores())))
}

/// Bytes that [`full_speed`] takes for that.
pub fn full_speed_bytes(workers: usize) -> u64 {
    if given_speed().is_some() { 0 } else { machine::gemm_gflops_bytes(workers.min(cores())) }
}

fn given_speed() -> Option<f64> {
    let given = std::env::var("MILLRACE_GEMM_GFLOPS").ok().and_then(|text| text.parse().ok());
    given.filter(|speed| *speed > 0.0)
}
