//! The GEMM rate of the machine, relative to which MFU is given. It is measured once a day per CPU and precision, and
//! cached.
use crate::machine::cores;
use compute::cpu;
use compute::kernels::gemm;
use contract::Precision;
use contract::files::write_whole;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use text::Cache;
use text::support::cache::hash_of;

/// How long a measured rate is valid.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A cached measurement.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct CachedRate {
    cpu: String,
    gemm: String,
    threads: usize,
    gflops: f64,
    /// When it was measured, in seconds since 1970 (UTC).
    measured: u64,
}

/// GFLOP/s of large products in `precision` on `workers` threads, as many as there are cores at most:
/// `$MILLRACE_GEMM_GFLOPS`, or the rate measured within the last day, or a new measurement, which takes about a second.
pub fn full_speed(workers: usize, precision: Precision) -> f64 {
    let threads = workers.min(cores());
    if let Some(known) = known(threads, precision) {
        return known;
    }
    let gflops = gemm::rate::gemm_gflops(threads, precision);
    let kept =
        CachedRate { cpu: cpu::description(), gemm: gemm::description(precision), threads, gflops, measured: now() };
    // A rate that cannot be kept is measured again next time.
    let _ = keep(&file(threads, precision), &kept);
    gflops
}

/// Bytes that a measurement by [`full_speed`] uses; 0 if none is needed.
pub fn full_speed_bytes(workers: usize, precision: Precision) -> u64 {
    let threads = workers.min(cores());
    if known(threads, precision).is_some() { 0 } else { gemm::rate::gemm_gflops_bytes(threads, precision) }
}

/// Makes the next run measure the rate anew if this one was faster: then the machine was busy when it was measured.
/// Returns whether it was. `most`: the rate of its fastest step, relative to [`full_speed`].
pub fn was_exceeded(workers: usize, precision: Precision, most: f64) -> bool {
    most > 1.0 && given().is_none() && std::fs::remove_file(file(workers.min(cores()), precision)).is_ok()
}

/// The rate that the user gives.
fn given() -> Option<f64> {
    let given = std::env::var("MILLRACE_GEMM_GFLOPS").ok().and_then(|text| text.parse().ok());
    given.filter(|speed| *speed > 0.0)
}

fn known(threads: usize, precision: Precision) -> Option<f64> {
    given().or_else(|| fresh(&file(threads, precision), now()))
}

/// The rate in `file`, if it was measured within a day before `now`.
fn fresh(file: &Path, now: u64) -> Option<f64> {
    let kept: CachedRate = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let age = now.checked_sub(kept.measured)?;
    (age < FRESH.as_secs() && kept.gflops > 0.0).then_some(kept.gflops)
}

fn keep(file: &Path, kept: &CachedRate) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(kept)?;
    write_whole(file, |out| Ok(out.write_all(text.as_bytes())?))
}

/// The cache file for this CPU, GEMM backend, precision and number of threads.
fn file(threads: usize, precision: Precision) -> PathBuf {
    let of = format!("{}\n{}\n{threads}", cpu::description(), gemm::description(precision));
    Cache::new(None).file("machine", &hash_of(of.as_bytes()), "json")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machine/rate.json");
        assert_eq!(fresh(&file, 0), None);
        let (cpu, gemm) = ("x".to_owned(), "AVX2, f32".to_owned());
        keep(&file, &CachedRate { cpu, gemm, threads: 2, gflops: 123.5, measured: 1_000_000 }).unwrap();
        assert_eq!(fresh(&file, 1_000_000 + 86_399), Some(123.5));
        assert_eq!(fresh(&file, 1_000_000 + 86_400), None);
        assert_eq!(fresh(&file, 999_999), None, "from the future: a clock was set");
        std::fs::write(&file, "{").unwrap();
        assert_eq!(fresh(&file, 1_000_000), None);
    }
}
