//! Dense row-major f32 tensors in pooled, cache-line aligned buffers.
//!
//! A dropped [`Buffer`] goes back to a process-wide pool and the next one of its size comes from there, so
//! after the first step a training run asks the system for no memory and meets no page fault.
use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buffers shorter than this are not pooled: the allocator is as good.
const POOLED_FROM: usize = 1024;
/// Floats in a cache line: every buffer starts on one.
const LINE: usize = 16;
/// Floats in a huge page: buffers from this size on are memory maps of their own, in huge pages where the system has
/// them, which saves page faults at the start and address translation ever after.
const HUGE_PAGE: usize = (2 << 20) / size_of::<f32>();

/// Bytes of all buffers that the pool has ever made: it never gives one back to the system.
static POOLED: AtomicU64 = AtomicU64::new(0);
static POOL: Mutex<BTreeMap<usize, Vec<Storage>>> = Mutex::new(BTreeMap::new());

/// Where floats lie.
enum Storage {
    Heap(Vec<f32>),
    Map(MmapMut),
}

impl Storage {
    fn new(capacity: usize) -> Self {
        // Half a page lost is too much for small ones.
        if capacity >= 2 * HUGE_PAGE
            && let Ok(map) = MmapMut::map_anon((capacity + HUGE_PAGE) * size_of::<f32>())
        {
            // A wish: without it, everything works.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Self::Map(map);
        }
        Self::Heap(vec![0.0; capacity])
    }

    /// The first float at a multiple of which buffers start.
    fn start(&self) -> usize {
        let (data, align) = match self {
            Self::Heap(data) => (data.as_ptr() as usize, LINE),
            Self::Map(map) => (map.as_ptr() as usize, HUGE_PAGE),
        };
        (align - data / size_of::<f32>() % align) % align
    }
}

impl Deref for Storage {
    type Target = [f32];
    #[inline]
    fn deref(&self) -> &[f32] {
        match self {
            Self::Heap(data) => data,
            Self::Map(map) => bytemuck::cast_slice(map),
        }
    }
}

impl DerefMut for Storage {
    #[inline]
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Heap(data) => data,
            Self::Map(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

/// A run of f32 that starts on a cache line and returns to the pool when dropped.
pub struct Buffer {
    storage: Storage,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` floats of unspecified (but initialised) content: for results that are written whole.
    pub fn scratch(len: usize) -> Self {
        let capacity = capacity(len);
        let reused = if len >= POOLED_FROM { pool().get_mut(&capacity).and_then(Vec::pop) } else { None };
        let storage = reused.unwrap_or_else(|| {
            if len >= POOLED_FROM {
                let pages = if capacity >= 2 * HUGE_PAGE { HUGE_PAGE } else { 1 };
                POOLED.fetch_add((capacity.next_multiple_of(pages) * size_of::<f32>()) as u64, Ordering::Relaxed);
            }
            Storage::new(capacity)
        });
        Self { start: storage.start(), storage, len }
    }

    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::scratch(len);
        buffer.fill(0.0);
        buffer
    }
}

/// Floats to ask for where `len` are needed: the key of the pool.
fn capacity(len: usize) -> usize {
    if len < POOLED_FROM { len + LINE } else { (len + LINE).next_multiple_of(POOLED_FROM) }
}

impl Deref for Buffer {
    type Target = [f32];
    #[inline]
    fn deref(&self) -> &[f32] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len >= POOLED_FROM {
            let storage = std::mem::replace(&mut self.storage, Storage::Heap(Vec::new()));
            pool().entry(capacity(self.len)).or_default().push(storage);
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::scratch(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().take(8)).finish()
    }
}

/// Bytes that pooled buffers take in this process, in use or not.
pub fn pooled_bytes() -> u64 {
    POOLED.load(Ordering::Relaxed)
}

fn pool() -> std::sync::MutexGuard<'static, BTreeMap<usize, Vec<Storage>>> {
    POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A dense row-major f32 tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Extent of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values, the last dimension contiguous.
    pub data: Buffer,
}

impl Tensor {
    /// A tensor of unspecified content, to be written whole.
    pub fn scratch(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        Self { data: Buffer::scratch(shape.iter().product()), shape }
    }

    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        Self { data: Buffer::zeroed(shape.iter().product()), shape }
    }

    /// A tensor with these values.
    ///
    /// # Panics
    /// If `values` has not as many elements as `shape` asks for.
    pub fn from_values(shape: impl Into<Vec<usize>>, values: &[f32]) -> Self {
        let mut tensor = Self::scratch(shape);
        tensor.data.copy_from_slice(values);
        tensor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        for len in [1, 15, 1024, 5000, 3 << 20] {
            let buffer = Buffer::zeroed(len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0, "{len}");
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|x| *x == 0.0));
        }
        let odd = 777_777; // a size nobody else uses
        let first = Buffer::scratch(odd);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(Buffer::scratch(odd).as_ptr(), address);
    }
}
