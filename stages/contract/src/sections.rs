//! Sections of tensors: what one worker sums and updates.
use crate::parameters::ModelFacts;
use crate::precision::Precision;
use std::ops::Range;

/// Elements of a section of a tensor that can be shared among workers (the last section may be shorter). A multiple of
/// the blocks in which squared norms are summed, so that the norm does not depend on it.
pub const SECTION: usize = 256 * 1024;

/// Largest number of elements of a part of a gradient, in [`rows_of_parts`].
const LARGEST_PART: usize = 16 * SECTION;

/// The number of rows of a matrix of this width in each part of its gradient but the last, if the gradient is given in
/// parts ([`Tape::backward_layer`](crate::Tape::backward_layer)): whole rows that are also whole sections. `None` if such
/// parts would be large.
///
/// ```
/// use millrace_contract::sections::{SECTION, rows_of_parts};
/// assert_eq!(rows_of_parts(768), Some(1024));
/// assert_eq!(1024 * 768 % SECTION, 0);
/// assert_eq!(rows_of_parts(1001), None);
/// ```
pub fn rows_of_parts(width: usize) -> Option<usize> {
    let common = 1 << width.trailing_zeros().min(SECTION.trailing_zeros());
    let rows = SECTION / common;
    (width > 0 && rows * width <= LARGEST_PART).then_some(rows)
}

/// How a stage updates the parameters of a model ([`Settings::updates`](crate::Settings::updates)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updates {
    /// One per tensor.
    pub tensors: Vec<TensorUpdate>,
    /// Precision of the products of updates, if there are any.
    pub precision: Option<Precision>,
}

/// How a tensor is updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorUpdate {
    /// Number of elements.
    pub elements: usize,
    /// The time that summing its gradient and updating it takes; an element that AdamW updates takes 1.
    pub cost: u64,
    /// Whether each element is updated on its own, so that workers can share the tensor.
    pub elementwise: bool,
}

/// A range of a tensor's elements with one owner, who sums their gradient, computes its squared norm and updates them.
/// If several processes run the graph, the owner in each of them sums the gradients of its process's leaves and updates
/// its copy of the elements; that of the section's home process completes the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Index into [`ModelFacts::parameters`].
    pub tensor: usize,
    /// Its elements.
    pub elements: Range<usize>,
    /// The worker of each process that owns it.
    pub owner: u32,
    /// The process that completes the sum of its gradient.
    pub home: u32,
}

impl Updates {
    /// Updates of whole tensors without products, of which each element costs the same.
    pub fn of_whole_tensors(model: &ModelFacts) -> Self {
        let tensors = model.parameters.iter().map(|spec| {
            let elements = spec.len();
            TensorUpdate { elements, cost: elements as u64, elementwise: false }
        });
        Self { tensors: tensors.collect(), precision: None }
    }

    /// The sections of all tensors, in order. Only owners and homes depend on the numbers of workers and processes: the
    /// most expensive section goes first, to the worker with the least to do; the largest one to the process with the
    /// least to sum. This only balances the load; results do not depend on it.
    pub fn sections(&self, workers: usize, processes: usize) -> Vec<Section> {
        let (mut sections, mut costs) = (Vec::new(), Vec::new());
        for (tensor, update) in self.tensors.iter().enumerate() {
            let length = if update.elementwise { SECTION } else { update.elements };
            // Also a tensor without elements has a section.
            for start in (0..update.elements.max(1)).step_by(length.max(1)) {
                let elements = start..update.elements.min(start + length);
                costs.push(u128::from(update.cost) * elements.len() as u128 / update.elements.max(1) as u128);
                sections.push(Section { tensor, elements, owner: 0, home: 0 });
            }
        }
        let owners = spread(&costs, workers);
        let sizes: Vec<u128> = sections.iter().map(|section| section.elements.len() as u128).collect();
        for ((section, owner), home) in sections.iter_mut().zip(owners).zip(spread(&sizes, processes)) {
            (section.owner, section.home) = (owner, home);
        }
        sections
    }
}

/// Who takes which section, so that all have about equally much to do.
fn spread(costs: &[u128], takers: usize) -> Vec<u32> {
    let mut by_cost: Vec<usize> = (0..costs.len()).collect();
    by_cost.sort_by_key(|i| (std::cmp::Reverse(costs[*i]), *i));
    let (mut load, mut taker) = (vec![0; takers], vec![0; costs.len()]);
    for section in by_cost {
        let (least, _) = load.iter().enumerate().min_by_key(|(_, l)| **l).expect("at least one taker");
        load[least] += costs[section];
        taker[section] = least as u32;
    }
    taker
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updates(tensors: &[(usize, u64, bool)]) -> Updates {
        let update = |&(elements, cost, elementwise)| TensorUpdate { elements, cost, elementwise };
        Updates { tensors: tensors.iter().map(update).collect(), precision: None }
    }

    #[test]
    fn owners_have_about_equally_much_to_do() {
        let updates = updates(&[3, 9, 1, 4, 4, 5].map(|cost| (7, cost, true)));
        let owners = |workers| updates.sections(workers, 1).iter().map(|section| section.owner).collect::<Vec<_>>();
        // 9 to the first; 5 and 4 to the second; then both have 9: 4 to the first; 3 and 1 to the second.
        assert_eq!(owners(2), [1, 0, 1, 1, 0, 1]);
        assert_eq!(owners(1), [0; 6]);
    }

    #[test]
    fn only_tensors_with_elementwise_updates_are_shared() {
        let elements = 2 * SECTION + 5;
        let updates = updates(&[(elements, 9, false), (elements, 9, true), (0, 0, true), (SECTION, 1, true)]);
        for workers in [1, 2, 7] {
            let sections = updates.sections(workers, 1);
            let ranges: Vec<_> = sections.iter().map(|s| (s.tensor, s.elements.clone())).collect();
            let expected = [
                (0, 0..elements),
                (1, 0..SECTION),
                (1, SECTION..2 * SECTION),
                (1, 2 * SECTION..elements),
                (2, 0..0),
                (3, 0..SECTION),
            ];
            assert_eq!(ranges, expected, "the ranges do not depend on the number of workers");
        }
    }
}
