//! The CPU: its name, the extensions that matter here, and the size of its L2 cache. Asks the system, never this crate's
//! other modules.
use std::sync::OnceLock;

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

/// Bytes of a core's L2 cache, between 256 KB and 4 MB; 1 MB where the system does not say.
pub fn l2_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok();
        let kilobytes = size.and_then(|size| size.trim().strip_suffix('K')?.parse::<usize>().ok());
        kilobytes.unwrap_or(1024).clamp(256, 4096) * 1024
    })
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

/// Does the CPU have AMX for bfloat16 (and the AVX-512 that packing needs), and does the system let this process use it? The
/// first call asks the system to.
#[cfg(target_arch = "x86_64")]
pub fn has_amx_bf16() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        /// Leaf 7, EDX: AMX-BF16 and AMX-TILE.
        const AMX: u32 = 1 << 22 | 1 << 24;
        let has = is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
            && __cpuid(0).eax >= 7
            && __cpuid_count(7, 0).edx & AMX == AMX;
        has && request_amx_tiles()
    })
}

/// Linux gives a process the 8 KB of tile state only on request.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_amx_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn request_amx_tiles() -> bool {
    false
}

/// Is it a CPU of Intel's?
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
