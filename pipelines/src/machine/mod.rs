//! Cores, memory nodes and memory of the machine that this process may use, the memory that it uses, and processes that
//! it starts.
mod cgroup;
mod cores;
mod placement;
mod processes;

pub use cores::cores;
pub use placement::{place_worker, run_anywhere};
pub use processes::{Processes, end_with};

use std::path::Path;

/// The name of this machine; "host" where the system does not say.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "host".into())
}

/// Peak resident memory of this process in MB (2^20 bytes); 0 where the system does not say.
pub fn peak_rss_mb() -> u64 {
    kilobytes("/proc/self/status", "VmHWM:").unwrap_or(0) / 1024
}

/// Resident memory of this process in MB (2^20 bytes); 0 where the system does not say.
pub fn rss_mb() -> u64 {
    kilobytes("/proc/self/status", "VmRSS:").unwrap_or(0) / 1024
}

/// Bytes that can be allocated without swapping; `u64::MAX` where the system does not say. At most what is left of the
/// limits of this process's control groups.
pub fn available_memory() -> u64 {
    let available = kilobytes("/proc/meminfo", "MemAvailable:").map_or(u64::MAX, |kilobytes| kilobytes * 1024);
    available.min(cgroup::memory(Path::new("/")).available)
}

/// Bytes of memory and swap of the machine, at most the limit of this process's control groups; `u64::MAX` where the
/// system does not say.
pub fn total_memory() -> u64 {
    let total = ["MemTotal:", "SwapTotal:"].map(|line| kilobytes("/proc/meminfo", line));
    let total = total[0].map_or(u64::MAX, |memory| (memory + total[1].unwrap_or(0)) * 1024);
    total.min(cgroup::memory(Path::new("/")).limit)
}

fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()
}
