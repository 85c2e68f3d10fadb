//! The largest magnitudes of a matrix's rows and columns.
//!
//! A product in eight bits needs those of the rows of its left operand and of the columns of its right one. To search for
//! them is a pass over numbers that are not in cache, for every product. So those of weights are found once per step, and
//! those of gradients that are operands of two products once for both. The integers of weights are not kept: those of
//! both directions would take two bytes per parameter, an eighth of the memory of a step.
use super::quantise::magnitude;
use crate::kernels::gemm::matrix::{Scalar, bf16};
use crate::wide;
use contract::Tensor;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// The bits of the largest magnitude of each row and of each column of a matrix.
pub struct Magnitudes {
    /// By row.
    pub rows: Vec<u32>,
    /// By column.
    pub columns: Vec<u32>,
}

/// What is known of a tensor that somebody holds.
struct Entry {
    tensor: Weak<Tensor>,
    found: Arc<OnceLock<Arc<Magnitudes>>>,
}

/// By the address of the tensor.
static KNOWN: OnceLock<Mutex<HashMap<usize, Entry>>> = OnceLock::new();

impl Magnitudes {
    /// Of a matrix of zeros `[rows, columns]`, whose rows [`include_row`](Self::include_row) replaces.
    pub fn of_zeros(rows: usize, columns: usize) -> Self {
        Self { rows: vec![0; rows], columns: vec![0; columns] }
    }

    /// Includes the values of a row, which has not been included before.
    ///
    /// # Panics
    /// If the matrix has no such row, or rows of another length.
    pub fn include_row(&mut self, row: usize, values: &[bf16]) {
        assert_eq!(values.len(), self.columns.len(), "a row has an element in each column");
        raise(values, &mut self.rows[row], &mut self.columns);
    }

    /// Of a matrix `[rows, columns]` with so many columns.
    pub fn new(data: &[f32], columns: usize) -> Self {
        let mut of_columns = vec![0; columns];
        let mut of_rows = vec![0; data.len() / columns.max(1)];
        if columns > 0 {
            largest(data, &mut of_rows, &mut of_columns);
        }
        Self { rows: of_rows, columns: of_columns }
    }

    /// Of a parameter, a matrix. They are found by whoever asks first, while others wait, and are forgotten when nobody
    /// holds the tensor any more.
    ///
    /// They are those of its current values: as long as there is a weak reference to the contents of an [`Arc`], these
    /// cannot be modified, only moved out of it, after which the reference is dead. Until it is dropped, its address is
    /// not given to another tensor.
    pub fn of(parameter: &Arc<Tensor>) -> Arc<Self> {
        let found = {
            let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
            let address = Arc::as_ptr(parameter) as usize;
            let entry = known.get(&address).filter(|entry| entry.tensor.strong_count() > 0);
            match entry.map(|entry| Arc::clone(&entry.found)) {
                Some(found) => found,
                None => {
                    known.retain(|_, entry| entry.tensor.strong_count() > 0);
                    let (tensor, found) = (Arc::downgrade(parameter), Arc::default());
                    known.insert(address, Entry { tensor, found: Arc::clone(&found) });
                    found
                }
            }
        };
        Arc::clone(found.get_or_init(|| Arc::new(Self::new(&parameter.data, parameter.shape[1]))))
    }
}

wide! {
    /// Raises `of_rows` and `of_columns` to the bits of the largest magnitudes of `data`.
    fn largest(data: &[f32], of_rows: &mut [u32], of_columns: &mut [u32]) {
        for (row, of_row) in data.chunks_exact(of_columns.len()).zip(of_rows) {
            raise_to(row, of_row, of_columns);
        }
    }
}

wide! {
    /// Raises `of_row` and `of_columns` to the bits of the magnitudes of a row.
    fn raise(row: &[bf16], of_row: &mut u32, of_columns: &mut [u32]) {
        raise_to(row, of_row, of_columns);
    }
}

#[inline(always)]
fn raise_to<E: Scalar>(row: &[E], of_row: &mut u32, of_columns: &mut [u32]) {
    let mut most = *of_row;
    for (x, of_column) in row.iter().zip(of_columns) {
        let bits = magnitude(*x);
        *of_column = bits.max(*of_column);
        most = bits.max(most);
    }
    *of_row = most;
}

#[cfg(test)]
mod tests {
    use super::super::quantise::Lines;
    use super::*;
    use crate::kernels::gemm::matrix::{Operand, matrix};
    use crate::kernels::testing::random;
    use proptest::prelude::*;

    proptest! {
        /// The same as those that a product finds for itself.
        #[test]
        fn magnitudes_are_those_of_products(rows in 1usize..40, columns in 1usize..90, at: u16,
                                             unusual in proptest::num::f32::ANY) {
            let mut values = random(1, rows * columns);
            values[at as usize % (rows * columns)] = unusual;
            let found = Magnitudes::new(&values, columns);
            let x = Operand::of(&matrix(&values, columns).into());
            // SAFETY: the matrix has these rows and columns.
            let (known, searched) = unsafe {
                let known = [Some(&found.rows[..]), Some(&found.columns[..])];
                let of = |known: [Option<&[u32]>; 2]| {
                    let of_rows = Lines::of(x, [rows, columns], known[0], 0, None, 1.0);
                    [of_rows, Lines::of(x.transposed(), [columns, rows], known[1], 0, None, 1.0)]
                };
                (of(known), of([None; 2]))
            };
            let bits = |scales: &[f32]| scales.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for (known, searched) in known.iter().zip(&searched) {
                prop_assert_eq!(bits(&known.scales), bits(&searched.scales));
                prop_assert_eq!(bits(&known.inverses), bits(&searched.inverses));
            }
        }

        /// Rows may be included in any order, and those that are not count as zeros.
        #[test]
        fn magnitudes_of_rows_are_those_of_the_whole(
            rows in 1usize..20, columns in 1usize..90, at: u16, unusual in proptest::num::f32::ANY, skipped: u8,
        ) {
            let mut values: Vec<bf16> = random(1, rows * columns).into_iter().map(bf16::from_f32).collect();
            values[at as usize % (rows * columns)] = bf16::from_f32(unusual);
            let mut found = Magnitudes::of_zeros(rows, columns);
            for (row, values) in values.chunks_exact_mut(columns).enumerate().rev() {
                if row == skipped as usize { values.fill(bf16::ZERO) } else { found.include_row(row, values) }
            }
            let widened: Vec<f32> = values.iter().map(|x| x.widen()).collect();
            let expected = Magnitudes::new(&widened, columns);
            prop_assert_eq!((found.rows, found.columns), (expected.rows, expected.columns));
        }
    }

    /// As an update does: the tensor is taken out of its `Arc`, modified, and put into another one.
    #[test]
    fn values_that_change_are_looked_at_again() {
        let mut tensor = Arc::new(Tensor::from_values([2, 2], &[1.0, 2.0, 3.0, 4.0]));
        for round in 1..50 {
            let found = Magnitudes::of(&tensor);
            assert_eq!(found.rows, [2.0, 4.0].map(|x: f32| (x * round as f32).to_bits()));
            assert!(Arc::ptr_eq(&found, &Magnitudes::of(&tensor)), "found once");
            assert!(Arc::get_mut(&mut tensor).is_none(), "cannot be modified in place");
            let mut values = Arc::unwrap_or_clone(tensor);
            let step = [1.0, 2.0, 3.0, 4.0];
            values.data.iter_mut().zip(step).for_each(|(x, step)| *x += step);
            tensor = Arc::new(values);
        }
    }

    #[test]
    fn several_threads_find_the_same() {
        let tensor = Arc::new(Tensor::from_values([300, 50], &random(1, 15_000)));
        let found: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Magnitudes::of(&tensor))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|other| Arc::ptr_eq(other, &found[0])));
    }
}
