//! The fixed binary tree along which the gradients of leaves (micro-batches) are summed.
//!
//! `n` leaves are split at the largest power of two below `n`, recursively. The shape depends only on `n`, so a sum has
//! the same bits whichever worker adds which parts, and in whatever order the leaves arrive.
//!
//! A process that computes some of the leaves can sum the nodes of which it has both children: what is left are the sums
//! over the largest nodes that lie in its range of leaves, a single one if the range is a node itself.
use compute::kernels::sum::{add, add_with_squares, block_squares};
use contract::{Lane, Tensor};
use std::collections::BTreeMap;
use std::ops::Range;

/// Partial sums of one section's gradient, each over a node of the tree.
#[derive(Default)]
pub struct Tree {
    parts: BTreeMap<Lane, Node>,
}

/// The sum over one node.
pub struct Node {
    /// Its leaves.
    pub leaves: Range<Lane>,
    /// Number of targets of these leaves that are not ignored.
    pub targets: u64,
    /// The sum of their gradients.
    pub sum: Tensor,
}

impl Tree {
    /// Adds a node of the tree over `all` leaves. Returns the total when it is complete, and its sums of squares by block.
    pub fn add(&mut self, all: Lane, mut node: Node) -> Option<(Node, Vec<f64>)> {
        while node.leaves != (0..all) {
            let mut squares = None;
            let is_last = |leaves: &Range<Lane>| *leaves == (0..all);
            node = self.join(all, node, |leaves, left, right| match is_last(leaves) {
                true => squares = Some(add_with_squares(left, right)),
                false => add(left, right),
            })?;
            if let Some(squares) = squares {
                return Some((node, squares));
            }
        }
        let squares = block_squares(&node.sum.data);
        Some((node, squares))
    }

    /// Adds a node of the tree over `all` leaves that lies in the range `within`. Returns the sum over a largest node in
    /// this range when it is complete.
    pub fn add_within(&mut self, all: Lane, within: &Range<Lane>, mut node: Node) -> Option<Node> {
        let has_sibling = |node: &Node| {
            node.leaves != (0..all) && {
                let sibling = sibling(all, &node.leaves);
                within.start <= sibling.start && sibling.end <= within.end
            }
        };
        while has_sibling(&node) {
            node = self.join(all, node, |_, left, right| add(left, right))?;
        }
        Some(node)
    }

    /// Number of sums that wait for their sibling.
    pub fn waiting(&self) -> usize {
        self.parts.len()
    }

    /// The parent of `node`, summed by `add`, if its other child is there; otherwise `node` waits for it.
    fn join(&mut self, all: Lane, node: Node, add: impl FnOnce(&Range<Lane>, &mut [f32], &[f32])) -> Option<Node> {
        let sibling = sibling(all, &node.leaves);
        let there = self.parts.get(&sibling.start).is_some_and(|other| other.leaves == sibling);
        let Some(other) = there.then(|| self.parts.remove(&sibling.start)).flatten() else {
            self.parts.insert(node.leaves.start, node);
            return None;
        };
        // The right part is always added to the left one.
        let (mut left, right) = if node.leaves.start < sibling.start { (node, other) } else { (other, node) };
        left.leaves.end = right.leaves.end;
        left.targets += right.targets;
        add(&left.leaves, &mut left.sum.data, &right.sum.data);
        Some(left)
    }
}

/// Peak number of gradients of one tensor that are in memory at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveGradients {
    /// Partial sums that wait in the tree when the workers begin their next leaves.
    pub before: usize,
    /// Partial sums that wait in the tree, or the total, when the workers have finished their leaves.
    pub after: usize,
    /// Partial sums in the tree plus one gradient per worker, if each worker holds that of its leaf all the time.
    pub with_leaves: usize,
    /// Partial sums that can wait in the tree if some workers are late: those over the largest nodes without one of the
    /// leaves that the workers compute.
    pub late: usize,
}

/// The peaks when `workers` process their leaves almost in lockstep: of more than two that compute at the same time, some
/// finish long before the worker with the sibling of their leaf does. Up to half as many sums wait for that. `late` is
/// the peak if the system does not run some workers while the others process all other leaves.
pub fn peak_live_gradients(leaves: Lane, workers: usize) -> LiveGradients {
    let (mut tree, mut alive) = (Tree::default(), LiveGradients { before: 0, after: 1, with_leaves: 1, late: 0 });
    for first in (0..leaves).step_by(workers) {
        let round = first..leaves.min(first + workers as Lane);
        alive.before = alive.before.max(tree.waiting());
        alive.with_leaves = alive.with_leaves.max(tree.waiting() + round.len());
        for leaf in round {
            tree.add(leaves, Node { leaves: leaf..leaf + 1, targets: 0, sum: Tensor::zeros([1]) });
        }
        alive.after = alive.after.max(tree.waiting()).max(alive.before);
    }
    let early = (workers.min(leaves as usize) / 2).saturating_sub(1);
    let (before, after) = (alive.before + early, alive.after + early);
    // A single worker is never late.
    let late = if workers == 1 { after } else { most_waiting(leaves, workers).into_iter().fold(after, usize::max) };
    LiveGradients { before, after, late, ..alive }
}

/// The largest number of sums that wait in the tree over `leaves` leaves while 0, 1, …, up to `workers` of its leaves are
/// missing and there is no other one: as many as it has largest nodes without a missing leaf.
fn most_waiting(leaves: Lane, workers: usize) -> Vec<usize> {
    if leaves == 1 {
        return vec![1, 0];
    }
    let (left, right) = (most_waiting(split(leaves), workers), most_waiting(leaves - split(leaves), workers));
    let mut most = vec![0; (left.len() + right.len() - 1).min(workers + 1)];
    for (in_left, of_left) in left.iter().enumerate() {
        for (most, of_right) in most[in_left..].iter_mut().zip(&right) {
            *most = (*most).max(of_left + of_right);
        }
    }
    most[0] = 1;
    most
}

/// Number of the largest nodes of the tree over `all` leaves that lie in the range `within` and together make it up: so
/// many partial sums are left when a process has summed the gradients of these leaves.
///
/// ```
/// # use millrace_train::reduce::tree::largest_nodes;
/// assert_eq!([0..8, 0..5, 5..10, 10..16, 3..3].map(|within| largest_nodes(16, &within)), [1, 2, 3, 2, 0]);
/// ```
pub fn largest_nodes(all: Lane, within: &Range<Lane>) -> usize {
    fn count(node: Range<Lane>, within: &Range<Lane>) -> usize {
        if node.end <= within.start || within.end <= node.start {
            return 0;
        }
        if within.start <= node.start && node.end <= within.end {
            return 1;
        }
        let middle = node.start + split(node.end - node.start);
        count(node.start..middle, within) + count(middle..node.end, within)
    }
    count(0..all, within)
}

/// The other child of the parent of `node` in the tree over `all` leaves.
fn sibling(all: u32, node: &Range<Lane>) -> Range<Lane> {
    let mut parent = 0..all;
    loop {
        let middle = parent.start + split(parent.end - parent.start);
        let (left, right) = (parent.start..middle, middle..parent.end);
        if *node == left {
            return right;
        }
        if *node == right {
            return left;
        }
        parent = if node.start < middle { left } else { right };
        assert!(parent.end - parent.start > 1, "{node:?} is not a node of the tree over {all} leaves");
    }
}

/// Number of leaves in the left child of a node with `leaves` leaves: the largest power of two below it.
fn split(leaves: u32) -> u32 {
    debug_assert!(leaves > 1);
    1 << (leaves - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A literal implementation of the definition.
    fn reference(values: &[f32]) -> f32 {
        if values.len() == 1 {
            return values[0];
        }
        let (left, right) = values.split_at(split(values.len() as u32) as usize);
        reference(left) + reference(right)
    }

    #[test]
    fn the_split_is_the_largest_power_of_two_below() {
        assert_eq!([2, 3, 4, 5, 6, 8, 9, 17].map(split), [1, 2, 2, 4, 4, 4, 8, 16]);
    }

    #[test]
    fn peak_live_gradients_of_workers_in_lockstep_and_of_late_ones() {
        for (leaves, workers, [before, after, with_leaves, late]) in [
            (1, 1, [0, 1, 1, 1]),
            (2, 1, [1, 1, 2, 1]),
            (2, 2, [0, 1, 2, 1]),
            (4, 1, [2, 2, 3, 2]),
            (4, 2, [1, 1, 3, 2]),
            (8, 2, [2, 2, 4, 4]),
            (3, 8, [0, 1, 3, 2]),
            (16, 8, [4, 4, 9, 8]),
            (16, 2, [3, 3, 5, 6]),
        ] {
            let expected = LiveGradients { before, after, with_leaves, late };
            assert_eq!(peak_live_gradients(leaves, workers), expected, "{leaves} leaves on {workers}");
        }
    }

    #[test]
    fn most_waiting_is_the_most_over_all_sets_of_missing_leaves() {
        for leaves in 1u32..=10 {
            let mut expected = vec![0; leaves as usize + 1];
            for missing in 0u32..1 << leaves {
                let mut tree = Tree::default();
                for leaf in (0..leaves).filter(|leaf| missing >> leaf & 1 == 0) {
                    tree.add(leaves, Node { leaves: leaf..leaf + 1, targets: 0, sum: Tensor::zeros([1]) });
                }
                let most = &mut expected[missing.count_ones() as usize];
                *most = tree.waiting().max(*most);
            }
            // The total does not wait.
            expected[0] = 1;
            assert_eq!(most_waiting(leaves, leaves as usize), expected, "{leaves} leaves");
            assert_eq!(most_waiting(leaves, 1), expected[..2]);
        }
    }

    proptest! {
        #[test]
        fn the_sum_does_not_depend_on_the_order_of_arrival(
            leaves in (1usize..20).prop_flat_map(|n| Just((0..n).collect::<Vec<_>>()).prop_shuffle()),
            seed in any::<u64>(),
        ) {
            let n = leaves.len();
            let value = |leaf: usize| (contract::parameters::splitmix64(seed, leaf as u64) >> 40) as f32 * 1e-3;
            let mut tree = Tree::default();
            let mut whole = None;
            for leaf in &leaves {
                prop_assert!(whole.is_none());
                let sum = Tensor::from_values([1], &[value(*leaf)]);
                whole = tree.add(n as u32, Node { leaves: *leaf as u32..*leaf as u32 + 1, targets: 3, sum });
            }
            let expected = reference(&(0..n).map(value).collect::<Vec<_>>());
            let (whole, _) = whole.expect("the sum is complete");
            prop_assert_eq!((whole.sum.data[0].to_bits(), whole.targets), (expected.to_bits(), 3 * n as u64));
        }

        /// First within processes and then across them, the sum has the same bits.
        #[test]
        fn the_sum_does_not_depend_on_how_leaves_are_divided(
            leaves in 1u32..40, shares in prop::collection::vec(1u32..5, 1..6),
        ) {
            let processes = shares.len();
            let value = |leaf: Lane| (contract::parameters::splitmix64(7, u64::from(leaf)) >> 40) as f32 * 1e-3;
            let (mut across, mut whole, mut sent) = (Tree::default(), None, 0);
            for process in 0..processes {
                let (own, mut within) = (contract::leaves_of(process, &shares, leaves), Tree::default());
                let before = sent;
                for leaf in own.clone() {
                    let node = Node { leaves: leaf..leaf + 1, targets: 3, sum: Tensor::from_values([1], &[value(leaf)]) };
                    if let Some(node) = within.add_within(leaves, &own, node) {
                        prop_assert!(whole.is_none());
                        whole = across.add(leaves, node);
                        sent += 1;
                    }
                }
                prop_assert_eq!(within.waiting(), 0);
                prop_assert_eq!(sent - before, largest_nodes(leaves, &own));
            }
            prop_assert!(sent <= processes * 12 && (!leaves.is_power_of_two() || processes != 2 || shares[0] != shares[1] || sent <= 2));
            let expected = reference(&(0..leaves).map(value).collect::<Vec<_>>());
            let (whole, _) = whole.expect("the sum is complete");
            prop_assert_eq!((whole.sum.data[0].to_bits(), whole.targets), (expected.to_bits(), 3 * u64::from(leaves)));
        }
    }
}
