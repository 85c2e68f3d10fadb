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

    /// Splits it into parts of `len` floats (the last may be shorter), which can be joined again. Without copying, if
    /// it is long enough to be pooled.
    ///
    /// # Panics
    /// If `len` is not a multiple of 16, the floats of a cache line.
    pub fn split(self, len: usize) -> Vec<Self> {
        assert!(len > 0 && len.is_multiple_of(LINE), "parts start at cache lines, not after {len} floats");
        if self.len <= len {
            return vec![self];
        }
        let mut rest = match self.storage {
            Storage::Heap { .. } => return self.chunks(len).map(Self::copied).collect(),
            Storage::Pooled(piece) => piece,
        };
        let mut parts = Vec::new();
        let mut left = self.len;
        while left > len {
            let next = rest.split_off(size_of::<f32>() * len);
            parts.push(Self { storage: Storage::Pooled(std::mem::replace(&mut rest, next)), len });
            left -= len;
        }
        parts.push(Self { storage: Storage::Pooled(rest), len: left });
        parts
    }

    /// Joins what [`split`](Self::split) has returned, in the same order. Without copying, if that did not copy either.
    ///
    /// # Panics
    /// If the parts are not those of one buffer in order.
    pub fn join(parts: Vec<Self>) -> Self {
        let join = |mut joined: Self, part: Self| {
            let len = joined.len + part.len;
            if let (Storage::Heap { .. }, Storage::Heap { .. }) = (&joined.storage, &part.storage) {
                return Self::copied(&[&joined[..], &part[..]].concat());
            }
            match (&mut joined.storage, part.storage) {
                (Storage::Pooled(piece), Storage::Pooled(next)) => piece.unsplit(next),
                _ => panic!("parts of different buffers"),
            }
            Self { len, ..joined }
        };
        parts.into_iter().reduce(join).unwrap_or_else(|| Self::scratch(0))
    }

    fn copied(values: &[f32]) -> Self {
        let mut copy = Self::scratch(values.len());
        copy.copy_from_slice(values);
        copy
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
        Self::copied(self)
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

    /// Splits it into vectors of `len` elements (the last may be shorter): see [`Buffer::split`].
    pub fn split(self, len: usize) -> Vec<Self> {
        self.data.split(len).into_iter().map(|data| Self { shape: vec![data.len()], data }).collect()
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

    #[test]
    fn a_buffer_that_is_split_and_joined_is_the_same() {
        for (len, part) in [(5, 16), (100, 16), (100, 112), (5000, 1024), (4096, 1024), (3 << 20, 1 << 18)] {
            let mut buffer = Buffer::scratch(len);
            buffer.iter_mut().enumerate().for_each(|(i, x)| *x = i as f32);
            let address = buffer.as_ptr();
            let mut parts = buffer.split(part);
            assert_eq!(parts.len(), len.div_ceil(part));
            assert!(parts.iter().all(|part| (part.as_ptr() as usize).is_multiple_of(64)));
            parts.iter_mut().for_each(|part| part.iter_mut().for_each(|x| *x += 1.0));
            let joined = Buffer::join(parts);
            assert!(len < POOLED_FROM || joined.as_ptr() == address, "{len} floats were copied");
            assert_eq!(joined.len(), len);
            assert!(joined.iter().enumerate().all(|(i, x)| *x == i as f32 + 1.0));
        }
    }
}
