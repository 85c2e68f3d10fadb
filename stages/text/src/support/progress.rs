//! The progress callback of long operations.

/// Called now and then with `(done, total)`.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A [`Progress`] that displays nothing.
pub fn silent() -> impl FnMut(u64, u64) {
    |_, _| {}
}
