//! Where buffers come from the system.

/// From now on buffers are allocated in huge pages where the system offers them: fewer page faults at the start, fewer
/// misses of the TLB ever after.
pub fn use_huge_pages() {
    #[cfg(target_os = "linux")]
    contract::pool::on_new_chunk(|chunk| {
        // SAFETY: the range is that of a slice, so it is mapped, and the advice does not change its contents. A refusal has
        // no effect.
        unsafe { libc::madvise(chunk.as_mut_ptr().cast(), chunk.len(), libc::MADV_HUGEPAGE) };
    });
}
