//! How buffers are allocated from the system.

/// Makes all later buffers use huge pages if the system offers them: fewer page faults at the start and fewer TLB
/// misses later.
pub fn use_huge_pages() {
    #[cfg(target_os = "linux")]
    contract::pool::on_new_chunk(|chunk| {
        // SAFETY: the range is that of a slice, so it is mapped, and the advice does not change its contents. A refusal
        // has no effect.
        unsafe { libc::madvise(chunk.as_mut_ptr().cast(), chunk.len(), libc::MADV_HUGEPAGE) };
    });
}
