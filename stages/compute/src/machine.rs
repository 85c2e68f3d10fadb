//! What this machine is: its CPU, the kernel OpenBLAS chose for it, and how fast it multiplies.
use crate::kernels::gemm::{self, matrix, matrix_mut, product};
use std::ffi::{CStr, c_char, c_int};
use std::sync::Barrier;
use std::time::Instant;

unsafe extern "C" {
    fn openblas_set_num_threads(threads: c_int);
    fn openblas_get_corename() -> *const c_char;
}

/// From here on each product runs on the thread that asks for it: a worker is one thread, and one worker a core is
/// faster than one worker with threaded products. [`product`] sees to it itself.
pub fn single_threaded_blas() {
    // SAFETY: OpenBLAS's own function, which takes any positive number.
    unsafe { openblas_set_num_threads(1) }
}

/// From here on buffers lie in huge pages, where the system gives them to who asks: fewer page faults at the start, and
/// less translation of addresses ever after.
pub fn huge_pages() {
    #[cfg(target_os = "linux")]
    contract::pool::on_new_chunk(|chunk| {
        // SAFETY: the range is a slice's, so it is mapped, and the advice changes nothing that is in it. Refused, it is
        // as if it had not been given.
        unsafe { libc::madvise(chunk.as_mut_ptr().cast(), chunk.len(), libc::MADV_HUGEPAGE) };
    });
}

/// The kernel OpenBLAS uses, for example `SkylakeX` or `Haswell`. Results are bit-identical for one kernel only.
pub fn blas_core() -> String {
    // SAFETY: returns a static, NUL-terminated string.
    unsafe { CStr::from_ptr(openblas_get_corename()) }.to_string_lossy().into_owned()
}

/// Bytes of a core's second cache; 1 MB where the system does not say.
pub fn second_cache() -> usize {
    let said = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok();
    let kilobytes = said.and_then(|size| size.trim().strip_suffix('K')?.parse::<usize>().ok());
    kilobytes.unwrap_or(1024).clamp(256, 4096) * 1024
}

/// The processor and the vector extensions that matter, for example `Intel Xeon Processor (AVX-512, AVX512-BF16)`.
pub fn cpu() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|info| {
            let line = info.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.replace("(R)", "").replace("(TM)", "").trim().to_string())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_string());
    match extensions().as_slice() {
        [] => model,
        extensions => format!("{model} ({})", extensions.join(", ")),
    }
}

#[cfg(target_arch = "x86_64")]
fn extensions() -> Vec<&'static str> {
    let mut names = Vec::new();
    if is_x86_feature_detected!("avx512f") {
        names.push("AVX-512");
    } else if is_x86_feature_detected!("avx2") {
        names.push("AVX2");
    }
    if is_x86_feature_detected!("avx512bf16") {
        names.push("AVX512-BF16");
    }
    if gemm::on_amx() {
        names.push("AMX");
    }
    names
}

#[cfg(not(target_arch = "x86_64"))]
fn extensions() -> Vec<&'static str> {
    if cfg!(target_arch = "aarch64") { vec!["NEON"] } else { Vec::new() }
}

/// Bits of the vectors that an OpenBLAS kernel computes with.
fn vector_bits(core: &str) -> u32 {
    match core.to_ascii_lowercase().as_str() {
        "skylakex" | "cooperlake" | "sapphirerapids" => 512,
        "haswell" | "zen" | "excavator" => 256,
        "sandybridge" | "bulldozer" | "piledriver" | "steamroller" => 255, // AVX without FMA3 or wide integers
        _ => 128,
    }
}

/// The value of `OPENBLAS_CORETYPE` that fits this CPU's vectors; `None` where OpenBLAS needs no help.
fn best_blas_core_for_cpu() -> Option<&'static str> {
    match extensions().first() {
        Some(&"AVX-512") => Some("SkylakeX"),
        Some(&"AVX2") => Some("Haswell"),
        _ => None,
    }
}

/// If products run on OpenBLAS and it uses a kernel with narrower vectors than the CPU has: what to say to the user, remedy included.
///
/// Either the variable `OPENBLAS_CORETYPE` says so, or this OpenBLAS is older than the CPU and does not know it
/// (0.3.21 takes an Emerald Rapids for a Prescott: a fifth of the speed). OpenBLAS reads the variable when it is
/// loaded, so it has to be set before the process starts.
pub fn blas_held_back() -> Option<String> {
    let (core, best) = (blas_core(), best_blas_core_for_cpu()?);
    if !gemm::on_blas() {
        return None;
    }
    if vector_bits(&core) >= vector_bits(best) {
        return None;
    }
    let cause = match std::env::var("OPENBLAS_CORETYPE") {
        Ok(asked) => format!("OPENBLAS_CORETYPE={asked} holds OpenBLAS to its {core} kernel"),
        Err(_) => format!("OpenBLAS does not know this CPU and uses its {core} kernel"),
    };
    Some(format!("{cause} on {}; products may run at half speed or less. Set OPENBLAS_CORETYPE={best}", cpu()))
}

/// The kernel to start again with where OpenBLAS was left to choose and chose one that is narrower than the CPU, because
/// it is older than it; `None` where its choice fits, or somebody made it with `OPENBLAS_CORETYPE`.
pub fn better_blas_core() -> Option<&'static str> {
    if !gemm::on_blas() {
        return None;
    }
    let best = best_blas_core_for_cpu()?;
    let chosen = std::env::var_os("OPENBLAS_CORETYPE").is_none();
    (chosen && vector_bits(&blas_core()) < vector_bits(best)).then_some(best)
}

/// `[m, n, k]` of the products that [`gemm_gflops`] times.
const LARGE: [[usize; 3]; 3] = [[1024, 1024, 1024], [1536, 1536, 1536], [2048, 2048, 1024]];

/// The speed that MFU is measured against, in GFLOP/s: the best of a few large products, `threads` of them at a time,
/// one thread each; takes about a second.
pub fn gemm_gflops(threads: usize) -> f64 {
    let threads = threads.max(1);
    let mut best = 0.0f64;
    for [m, n, k] in LARGE {
        let barrier = Barrier::new(threads);
        let rates: Vec<f64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| rate(m, n, k, &barrier))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(0.0)).collect()
        });
        best = best.max(rates.iter().sum());
    }
    best
}

/// Bytes that [`gemm_gflops`] takes at most.
pub fn gemm_gflops_bytes(threads: usize) -> u64 {
    let most = LARGE.iter().map(|[m, n, k]| m * k + k * n + m * n).max().unwrap_or(0);
    (threads.max(1) * most * size_of::<f32>()) as u64
}

/// The best of a few products, all threads starting each together.
fn rate(m: usize, n: usize, k: usize, barrier: &Barrier) -> f64 {
    // Not from the pool, which would keep them.
    let (a, b, mut c) = (vec![0.5; m * k], vec![0.25; k * n], vec![0.0; m * n]);
    let mut best = 0.0f64;
    for _ in 0..6 {
        barrier.wait();
        let start = Instant::now();
        product(1.0, matrix(&a, k), matrix(&b, n), 0.0, matrix_mut(&mut c, n));
        best = best.max(2.0 * (m * n * k) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        single_threaded_blas();
        assert!(!blas_core().is_empty());
        assert!(!cpu().is_empty());
        if let Some(message) = blas_held_back() {
            assert!(message.contains("Set OPENBLAS_CORETYPE="), "{message}");
        }
        assert!(vector_bits("SkylakeX") > vector_bits("Zen") && vector_bits("Haswell") > vector_bits("Nehalem"));
    }
}
