//! The CPU: its name, the relevant extensions, and the size of its L2 cache. Queries only the system, never other
//! modules of this crate.
use std::sync::OnceLock;
use std::time::Duration;

/// Name and vector extensions, for example `Intel Xeon Processor (AVX-512, AVX512-BF16)`.
pub fn description() -> String {
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

/// Bytes of a core's L2 cache, clamped to 256 KB to 4 MB; 1 MB if the system does not report it.
pub fn l2_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok();
        let kilobytes = size.and_then(|size| size.trim().strip_suffix('K')?.parse::<usize>().ok());
        kilobytes.unwrap_or(1024).clamp(256, 4096) * 1024
    })
}

/// Bytes of the L3 cache that the first core uses; 32 MB if the system does not report it.
pub fn l3_bytes() -> usize {
    let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").ok();
    let kilobytes = size.and_then(|size| size.trim().strip_suffix('K')?.parse::<usize>().ok());
    kilobytes.unwrap_or(32 << 10) * 1024
}

/// The CPU time that the calling thread has used.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` that lives until the call returns.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) } != 0;
    assert!(!failed, "the system does not measure the CPU time of threads");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
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
    if has_amx_bf16() {
        names.push("AMX");
    }
    names
}

#[cfg(not(target_arch = "x86_64"))]
fn extensions() -> Vec<&'static str> {
    if cfg!(target_arch = "aarch64") { vec!["NEON"] } else { Vec::new() }
}

/// Whether the CPU has AMX for bfloat16 (and AVX-512, which packing needs) and the system lets this process use it. The
/// first call requests permission from the system.
#[cfg(target_arch = "x86_64")]
pub fn has_amx_bf16() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
            && reports_amx(AMX_BF16)
            && request_amx_tiles()
    })
}

/// As [`has_amx_bf16`], for integers of eight bits.
#[cfg(target_arch = "x86_64")]
pub fn has_amx_int8() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
            && reports_amx(AMX_INT8)
            && request_amx_tiles()
    })
}

/// Bits of CPUID leaf 7, subleaf 0, EDX.
#[cfg(target_arch = "x86_64")]
const AMX_BF16: u32 = 1 << 22;
#[cfg(target_arch = "x86_64")]
const AMX_TILE: u32 = 1 << 24;
#[cfg(target_arch = "x86_64")]
const AMX_INT8: u32 = 1 << 25;

/// Whether the CPU reports AMX for this format.
#[cfg(target_arch = "x86_64")]
fn reports_amx(format: u32) -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let needed = format | AMX_TILE;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & needed == needed
}

/// Linux enables the 8 KB of tile state for a process only on request.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_amx_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and changes only the permissions of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn request_amx_tiles() -> bool {
    false
}

/// Whether the CPU is made by Intel.
#[cfg(target_arch = "x86_64")]
pub fn is_intel() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_described() {
        assert!(!description().is_empty());
        assert!((256 << 10..=4096 << 10).contains(&l2_bytes()));
    }
}
