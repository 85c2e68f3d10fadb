//! Which way this CPU multiplies: chosen once, in one place.
//!
//! It asks nobody but the CPU: whoever describes the machine asks here.
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512};
use contract::Precision;
use std::sync::OnceLock;

/// How this CPU multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// OpenBLAS.
    Blas,
    /// Packed panels, narrower.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Packed panels.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Packed panels, and `vdpbf16ps` for bfloat16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// Tiles of bfloat16.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// What a CPU has that decides.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Has {
    amx: bool,
    avx512: bool,
    avx512_bf16: bool,
    avx2: bool,
    intel: bool,
}

#[cfg(target_arch = "x86_64")]
impl Has {
    fn here() -> Self {
        let vendor = std::arch::x86_64::__cpuid(0);
        Self {
            amx: amx::available(),
            avx512: avx512::available(),
            avx512_bf16: avx512::multiplies_bf16(),
            avx2: avx2::available(),
            intel: [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel",
        }
    }

    fn path(self) -> Path {
        match self {
            Self { amx: true, .. } => Path::Amx,
            // Intel's cores have the instruction, at half the rate of single precision.
            Self { avx512: true, avx512_bf16: true, intel: false, .. } => Path::Avx512Bf16,
            Self { avx512: true, .. } => Path::Avx512,
            Self { avx2: true, .. } => Path::Avx2,
            _ => Path::Blas,
        }
    }
}

/// The one dispatch.
pub(super) fn path() -> Path {
    static PATH: OnceLock<Path> = OnceLock::new();
    *PATH.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        return Has::here().path();
        #[cfg(not(target_arch = "x86_64"))]
        Path::Blas
    })
}

/// Do products run on AMX?
pub fn on_amx() -> bool {
    #[cfg(target_arch = "x86_64")]
    return path() == Path::Amx;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Do products run on OpenBLAS?
pub fn on_blas() -> bool {
    path() == Path::Blas
}

/// What products in `precision` run on here, for people and checkpoints: bits may differ between two such names.
pub fn kernel(precision: Precision) -> String {
    match (path(), precision) {
        (Path::Blas, Precision::F32) => format!("OpenBLAS {}", crate::machine::blas_core()),
        (Path::Blas, Precision::Bf16) => format!("OpenBLAS {}, rounded to bfloat16", crate::machine::blas_core()),
        #[cfg(target_arch = "x86_64")]
        (Path::Amx, Precision::F32) => "AMX, f32 in three bfloat16 parts".into(),
        #[cfg(target_arch = "x86_64")]
        (Path::Amx, Precision::Bf16) => "AMX, bfloat16".into(),
        #[cfg(target_arch = "x86_64")]
        (Path::Avx512Bf16, Precision::Bf16) => "AVX512-BF16".into(),
        #[cfg(target_arch = "x86_64")]
        (Path::Avx2, Precision::F32) => "AVX2, f32".into(),
        #[cfg(target_arch = "x86_64")]
        (Path::Avx2, Precision::Bf16) => "AVX2, rounded to bfloat16".into(),
        #[cfg(target_arch = "x86_64")]
        (_, Precision::Bf16) => "AVX-512, rounded to bfloat16".into(),
        #[cfg(target_arch = "x86_64")]
        (_, Precision::F32) => "AVX-512, f32".into(),
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn each_cpu_takes_its_fastest_way() {
        let none = Has { amx: false, avx512: false, avx512_bf16: false, avx2: false, intel: false };
        let zen3 = Has { avx2: true, ..none };
        let zen4 = Has { avx512: true, avx512_bf16: true, ..zen3 };
        let skylake = Has { avx512: true, avx2: true, intel: true, ..none };
        let cooper_lake = Has { avx512_bf16: true, ..skylake };
        let sapphire_rapids = Has { amx: true, ..cooper_lake };
        let cpus = [none, zen3, zen4, skylake, cooper_lake, sapphire_rapids];
        let paths = [Path::Blas, Path::Avx2, Path::Avx512Bf16, Path::Avx512, Path::Avx512, Path::Amx];
        assert_eq!(cpus.map(Has::path), paths);
    }
}
