//! Products in eight bits with `tdpbsud` of AMX-INT8: 32 × 32 sums in four tile registers, as for the other formats.
//!
//! The instruction multiplies sixteen rows of signed bytes by sixteen columns of unsigned bytes over 64 steps of `k` in
//! the sixteen cycles in which `tdpbf16ps` takes 32 steps. Sixteen lines of a panel of `b` are a tile, those of `a` are
//! packed in another order ([`pack_tiles`]).
//!
//! No CPU with this instruction was at hand when this was written: tests run all of it except [`tiles`], in whose place
//! they use [`plain`]. So before its first use, a process compares the two ([`is_exact`]). If they differ, products are
//! computed as on a CPU without AMX-INT8.
use super::{BYTES, LINE, PANEL, TILE, configure, release};
use crate::kernels::gemm::avx512::quantise::pack_tiles;
use crate::kernels::gemm::avx512::vnni::put;
use crate::kernels::gemm::int8::pack::STEPS;
use crate::kernels::gemm::int8::{Kernel, Tile};
use crate::kernels::gemm::tile::LANES;
use contract::parameters::splitmix64;
use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Multiplies two panels of `a` by two of `b`: `(tiles in each panel, a, b, sums [PANEL, PANEL])`.
type Tiles = unsafe fn(usize, [*const u8; 2], [*const u8; 2], *mut i32);

/// The sums of a tile of the result.
#[repr(align(64))]
struct Sums([MaybeUninit<i32>; PANEL * PANEL]);

/// The kernel, if this CPU has the instruction and it computes what it should.
pub(super) fn kernel() -> Option<Kernel> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let works = *WORKS.get_or_init(|| {
        crate::cpu::has_amx_int8() && {
            configure();
            // SAFETY: the CPU has the instruction, and tile registers are configured.
            let exact = unsafe { is_exact(tiles) };
            release();
            exact
        }
    });
    works.then_some(Kernel { begin: configure, end: release, ..with_tiles("AMX-INT8", tile) })
}

/// The kernel with the instructions emulated, to test packing and loops on CPUs without them. They need AVX512-VNNI.
#[cfg(test)]
pub(in crate::kernels::gemm) fn emulated() -> Kernel {
    fn configure() {
        assert!(!CONFIGURED.replace(true), "tile registers are configured once");
    }
    fn release() {
        assert!(CONFIGURED.replace(false), "tile registers are configured before");
    }
    Kernel { begin: configure, end: release, ..with_tiles("AMX-INT8, emulated", tile_emulated) }
}

#[cfg(test)]
thread_local! {
    /// Whether emulated tile registers are configured.
    static CONFIGURED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Nothing is prefetched: that slows down the loads of tiles (see `benches/README.md`).
fn with_tiles(name: &'static str, tile: unsafe fn(&Tile)) -> Kernel {
    Kernel { prefetch: false, ..Kernel::new(name, [PANEL, PANEL], pack_tiles, tile) }
}

/// # Safety
/// The CPU must have the features, tile registers be configured, and the pointers of the tile be valid for its sizes.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile(t: &Tile) {
    // SAFETY: guaranteed by the caller.
    unsafe { multiply(t, tiles) }
}

/// # Safety
/// The CPU must have AVX-512, and the pointers of the tile must be valid for its sizes.
#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tile_emulated(t: &Tile) {
    assert!(CONFIGURED.get(), "tile registers are configured");
    // SAFETY: guaranteed by the caller.
    unsafe { multiply(t, plain) }
}

#[inline(always)]
unsafe fn multiply(t: &Tile, tiles: Tiles) {
    // If a side has only one panel, it is multiplied twice, since another may not exist. These sums are not used.
    let second = |lines: usize| if lines > TILE { t.apart } else { 0 };
    let (a, b) = (t.a.wrapping_add(LINE), t.b);
    let (a, b) = ([a, a.wrapping_add(second(t.high))], [b, b.wrapping_add(second(t.wide))]);
    let mut sums = Sums([MaybeUninit::uninit(); PANEL * PANEL]);
    let sums = sums.0.as_mut_ptr().cast::<i32>();
    // SAFETY: the caller guarantees panels with that many tiles, and results and integer sums of that size.
    unsafe {
        tiles(t.lines.div_ceil(TILE), a, b, sums);
        for row in 0..t.high {
            let start = t.a.add(row / TILE * t.apart + row % TILE * STEPS).cast::<i32>().read();
            for column in (0..t.wide).step_by(LANES) {
                let sum = _mm512_loadu_si512(sums.add(row * PANEL + column).cast());
                let mut sum = _mm512_add_epi32(sum, _mm512_set1_epi32(start));
                if !t.first {
                    let before = _mm512_loadu_si512(t.sums.add(row * t.sums_stride + column).cast());
                    sum = _mm512_add_epi32(sum, before);
                }
                put(t, row, column, sum);
            }
        }
    }
}

/// See [`Tiles`].
///
/// # Safety
/// The CPU must have AMX-INT8, tile registers be configured, panels have that many tiles, at least one, and there be room
/// for the sums.
unsafe fn tiles(blocks: usize, [a, other_a]: [*const u8; 2], [b, other_b]: [*const u8; 2], sums: *mut i32) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {line}]",
            "tileloadd tmm5, [{other_a} + {line}]",
            "tileloadd tmm6, [{b} + {line}]",
            "tileloadd tmm7, [{other_b} + {line}]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tdpbsud tmm1, tmm4, tmm7",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbsud tmm3, tmm5, tmm7",
            "add {a}, {tile}",
            "add {other_a}, {tile}",
            "add {b}, {tile}",
            "add {other_b}, {tile}",
            "dec {blocks}",
            "jnz 2b",
            "tilestored [{sums} + {stride}], tmm0",
            "tilestored [{sums} + {stride} + 64], tmm1",
            "tilestored [{lower} + {stride}], tmm2",
            "tilestored [{lower} + {stride} + 64], tmm3",
            a = inout(reg) a => _,
            other_a = inout(reg) other_a => _,
            b = inout(reg) b => _,
            other_b = inout(reg) other_b => _,
            blocks = inout(reg) blocks => _,
            tile = const BYTES,
            line = in(reg) LINE,
            sums = in(reg) sums,
            lower = in(reg) sums.add(TILE * PANEL),
            stride = in(reg) size_of::<i32>() * PANEL,
            options(nostack),
        );
    }
}

/// Computes what [`tiles`] computes, one product after the other.
///
/// # Safety
/// Panels must have that many tiles, and there be room for the sums.
unsafe fn plain(blocks: usize, a: [*const u8; 2], b: [*const u8; 2], sums: *mut i32) {
    for (row, column) in (0..PANEL).flat_map(|row| (0..PANEL).map(move |column| (row, column))) {
        let mut sum = 0i32;
        for step in 0..blocks * LINE {
            let tile = step / LINE * BYTES;
            let in_a = tile + row % TILE * LINE + step % LINE;
            let in_b = tile + step % LINE / STEPS * LINE + column % TILE * STEPS + step % STEPS;
            // SAFETY: guaranteed by the caller.
            let (x, y) = unsafe { (a[row / TILE].add(in_a).cast::<i8>().read(), b[column / TILE].add(in_b).read()) };
            sum = sum.wrapping_add(i32::from(x) * i32::from(y));
        }
        // SAFETY: as above.
        unsafe { sums.add(row * PANEL + column).write(sum) };
    }
}

/// Whether `tiles` computes what [`plain`] computes, of two tiles in each panel.
///
/// # Safety
/// The CPU must be able to run `tiles`, and tile registers be configured if it needs them.
unsafe fn is_exact(tiles: Tiles) -> bool {
    const BLOCKS: usize = 2;
    let mut panels = [[0u8; BLOCKS * BYTES]; 4];
    for (at, byte) in panels.as_flattened_mut().iter_mut().enumerate() {
        *byte = (splitmix64(1, at as u64) >> 56) as u8;
    }
    let [a, other_a, b, other_b] = panels.each_ref().map(|panel| panel.as_ptr());
    let [mut sums, mut expected] = [[0i32; PANEL * PANEL]; 2];
    // SAFETY: panels have so many tiles, and there is room for all sums.
    unsafe {
        tiles(BLOCKS, [a, other_a], [b, other_b], sums.as_mut_ptr());
        plain(BLOCKS, [a, other_a], [b, other_b], expected.as_mut_ptr());
    }
    sums == expected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::avx512::vnni;
    use crate::kernels::gemm::int8::pack::{Block, panel_bytes};
    use crate::kernels::gemm::int8::quantise::Lines;
    use crate::kernels::gemm::matrix::Operand;
    use crate::kernels::gemm::tests::Stored;
    use proptest::prelude::*;

    /// Signs of the other operand, operands in the other order, and too few steps.
    #[test]
    fn wrong_instructions_are_found() {
        unsafe fn other_signs(blocks: usize, a: [*const u8; 2], b: [*const u8; 2], sums: *mut i32) {
            let flipped = [a, b].map(|side| {
                // SAFETY: guaranteed by the caller.
                side.map(|panel| unsafe { std::slice::from_raw_parts(panel, blocks * BYTES) }.to_vec())
            });
            let flipped =
                flipped.map(|side| side.map(|panel| panel.iter().map(|byte| byte ^ 0x80).collect::<Vec<_>>()));
            let [a, b] = flipped.each_ref().map(|side| side.each_ref().map(|panel| panel.as_ptr()));
            // SAFETY: as above.
            unsafe { plain(blocks, a, b, sums) }
        }
        unsafe fn other_order(blocks: usize, a: [*const u8; 2], b: [*const u8; 2], sums: *mut i32) {
            // SAFETY: as above.
            unsafe { plain(blocks, b, a, sums) }
        }
        unsafe fn too_few(blocks: usize, a: [*const u8; 2], b: [*const u8; 2], sums: *mut i32) {
            // SAFETY: as above.
            unsafe { plain(blocks - 1, a, b, sums) }
        }
        // SAFETY: these functions run on every CPU.
        let exact = [plain as Tiles, other_signs, other_order, too_few].map(|tiles| unsafe { is_exact(tiles) });
        assert_eq!(exact, [true, false, false, false]);
    }

    proptest! {
        /// The integers of panels for other instructions, in the order of tiles, and zeros beyond them.
        #[test]
        fn packed_tiles_contain_the_integers(lines in 1usize..50, steps in 1usize..200, pad in 0usize..3, turned: bool,
                                             half: bool, key: Option<u64>, is_b: bool) {
            let Some(other) = vnni::kernel() else {
                println!("skipped: this CPU has no AVX512-VNNI");
                return Ok(());
            };
            let stored = Stored::random(1, lines, steps, pad, turned, half);
            let (x, size) = (Operand::of(&stored.view()), panel_bytes(steps) * lines.div_ceil(LANES));
            let (mut panels, mut tiles) = (vec![0u32; size / 4], vec![u32::MAX; size / 4]);
            // SAFETY: the CPU has the instructions, the matrix these sizes, and there is room for all panels.
            unsafe {
                let of = Lines::of(x, [lines, steps], None, 0, key, 1.0);
                let block = Block { x, count: lines, from: 0, steps, first: 0, of: &of, is_b };
                (other.pack)(&block, panels.as_mut_ptr().cast());
                pack_tiles(&block, tiles.as_mut_ptr().cast());
            }
            let group = |in_order: usize, line: usize| line / LANES * panel_bytes(steps) / 4 + in_order;
            for line in 0..lines {
                let start = group(line % LANES, line);
                prop_assert!(is_b || tiles[start] == panels[start]);
                for four in 0..steps.div_ceil(STEPS).next_multiple_of(TILE) {
                    let of_line = LANES + four * LANES + line % LANES;
                    let of_tile = LANES + (four / TILE * TILE + line % LANES) * LANES + four % TILE;
                    let expected = if four < steps.div_ceil(STEPS) { panels[group(of_line, line)] } else { 0 };
                    let found = tiles[group(if is_b { of_line } else { of_tile }, line)];
                    prop_assert_eq!(found, expected, "line {} steps {}", line, four * STEPS);
                }
            }
        }
    }
}
