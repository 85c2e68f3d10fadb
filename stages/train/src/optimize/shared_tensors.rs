//! The tensors that an update changes, which the owners of their sections change at the same time.
//!
//! Between updates a tensor is whole, and its readers share it. The first worker that updates a section splits it, each
//! owner has its section for itself while updating it, and the last one joins them. Nothing is copied, and no worker
//! waits for another one.
use contract::{Buffer, Tensor};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A parameter, and all tensors of the same shape that are updated with it.
#[derive(Default)]
pub struct SharedTensors(Mutex<State>);

#[derive(Default)]
enum State {
    /// Not read or initialised yet.
    #[default]
    Absent,
    /// Between updates.
    Whole(Vec<Arc<Tensor>>),
    /// During an update.
    Split(Split),
}

struct Split {
    shape: Vec<usize>,
    /// By section: its part of each tensor, unless a worker has them.
    sections: Vec<Option<Vec<Tensor>>>,
    /// Number of sections that have not been updated.
    left: usize,
}

impl SharedTensors {
    /// Sets the tensors at the beginning.
    pub fn set(&self, tensors: Vec<Arc<Tensor>>) {
        *self.lock() = State::Whole(tensors);
    }

    /// Takes section `section` out of the tensors, which have sections of `length` elements (the last may be shorter).
    /// `None` if a worker has it.
    ///
    /// If something else still holds a tensor, as a checkpoint that is being written does, the tensor is copied, and
    /// the other one keeps the old values.
    pub fn take(&self, section: usize, length: usize) -> Option<Vec<Tensor>> {
        let mut state = self.lock();
        if let State::Whole(tensors) = &mut *state {
            *state = State::Split(Split::new(std::mem::take(tensors), length));
        }
        let State::Split(split) = &mut *state else { return None };
        split.sections.get_mut(section)?.take()
    }

    /// Returns a section after its update. If it was the last one: the tensors, whole again.
    pub fn put(&self, section: usize, parts: Vec<Tensor>) -> Option<Vec<Arc<Tensor>>> {
        let mut state = self.lock();
        let State::Split(split) = &mut *state else { return None };
        split.sections[section] = Some(parts);
        split.left -= 1;
        if split.left > 0 {
            return None;
        }
        let whole = split.join();
        *state = State::Whole(whole.clone());
        Some(whole)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Split {
    fn new(tensors: Vec<Arc<Tensor>>, length: usize) -> Self {
        let shape = tensors.first().map(|tensor| tensor.shape.clone()).unwrap_or_default();
        let mut sections: Vec<Option<Vec<Tensor>>> = Vec::new();
        for tensor in tensors {
            let tensor = Arc::unwrap_or_clone(tensor);
            let parts = if tensor.data.len() <= length { vec![tensor] } else { tensor.split(length) };
            sections.resize_with(parts.len(), || Some(Vec::new()));
            sections.iter_mut().flatten().zip(parts).for_each(|(section, part)| section.push(part));
        }
        Self { shape, left: sections.len(), sections }
    }

    fn join(&mut self) -> Vec<Arc<Tensor>> {
        let mut sections: Vec<_> = self.sections.drain(..).flatten().map(Vec::into_iter).collect();
        let tensors = sections.first().map_or(0, ExactSizeIterator::len);
        let mut tensor = || {
            let parts = sections.iter_mut().filter_map(|section| Some(section.next()?.data)).collect();
            Arc::new(Tensor { shape: self.shape.clone(), data: Buffer::join(parts) })
        };
        (0..tensors).map(|_| tensor()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_updated_in_any_order_and_without_copies() {
        let (rows, columns, length) = (5, 1000, 1600);
        let tensor = |value| Arc::new(Tensor::from_values([rows, columns], &vec![value; rows * columns]));
        let shared = SharedTensors::default();
        assert!(shared.take(0, length).is_none(), "nothing has been set");
        let (first, second) = (tensor(1.0), tensor(2.0));
        let address = first.data.as_ptr();
        let reader = Arc::clone(&second);
        shared.set(vec![first, second]);
        for round in 1..=2 {
            let mut taken: Vec<_> = [2, 0, 3, 1].map(|k| (k, shared.take(k, length).unwrap())).into();
            assert!(shared.take(1, length).is_none() && shared.take(4, length).is_none());
            let (last, mut parts) = taken.pop().unwrap();
            for (k, mut parts) in taken {
                parts.iter_mut().for_each(|part| part.data.iter_mut().for_each(|x| *x += k as f32));
                assert!(shared.put(k, parts).is_none());
            }
            parts[1].data.fill(-1.0);
            let whole = shared.put(last, parts).unwrap();
            assert_eq!(whole.iter().map(|t| t.shape.clone()).collect::<Vec<_>>(), [[rows, columns]; 2]);
            assert_eq!(whole[0].data.as_ptr(), address, "copied");
            let at = |i: usize| [whole[0].data[i], whole[1].data[i]];
            let added = 2.0 * round as f32;
            assert_eq!([at(0), at(1600), at(3200)], [[1.0, 2.0], [1.0, -1.0], [1.0 + added, 2.0 + added]]);
        }
        assert!(reader.data.iter().all(|x| *x == 2.0), "a reader keeps the old values");
    }
}
