//! Dense row-major f32 tensors in pooled, cache-line aligned buffers.
//!
//! A dropped [`Buffer`] returns to a process-wide [`pool`](crate::pool), which serves the next ones. After its first
//! step, a training run therefore requests no memory from the system and causes no page faults.
use crate::pool::Piece;
use std::ops::{Deref, DerefMut};

/// Buffers shorter than this are not pooled: the allocator is just as fast for them.
const POOLED_FROM: usize = 1024;
/// Floats per cache line: every buffer starts on a cache line.
const LINE: usize = 16;

/// The memory of a buffer.
enum Storage {
    Heap { data: Vec<f32>, start: usize },
    Pooled(Piece),
}

/// A contiguous `f32` array that starts on a cache line and returns to the pool when dropped.
pub struct Buffer {
    storage: Storage,
    len: usize,
}

impl Buffer {
    /// `len` floats with unspecified (but initialised) values, for results that are overwritten completely.
    pub fn scratch(len: usize) -> Self {
        let storage = if len >= POOLED_FROM {
            Storage::Pooled(Piece::new(size_of::<f32>() * len))
        } else {
            let data = vec![0.0; len + LINE];
            let start = (data.as_ptr() as usize / size_of::<f32>()).wrapping_neg() % LINE;
            Storage::Heap { data, start }
        };
        Self { storage, len }
    }

    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::scratch(len);
        buffer.fill(0.0);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];
    #[inline]
    fn deref(&self) -> &[f32] {
        match &self.storage {
            Storage::Heap { data, start } => &data[*start..][..self.len],
            Storage::Pooled(piece) => bytemuck::cast_slice(&piece.bytes()[..size_of::<f32>() * self.len]),
        }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::Heap { data, start } => &mut data[*start..][..self.len],
            Storage::Pooled(piece) => bytemuck::cast_slice_mut(&mut piece.bytes_mut()[..size_of::<f32>() * self.len]),
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

/// A dense row-major f32 tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Extent of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values, the last dimension contiguous.
    pub data: Buffer,
}

impl Tensor {
    /// A tensor with unspecified values, to be overwritten completely.
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
    /// If the length of `values` is not the product of `shape`.
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
    }
}
