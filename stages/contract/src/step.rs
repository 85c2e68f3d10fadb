//! Steps, lanes and leaves.
//!
//! A run is a sequence of optimizer steps; the dataflow's timestamp is the step. The unit of work and of
//! determinism is the micro-batch. The micro-batches of a global batch are its *leaves*, numbered `0..micro_batches`.
//! A *lane* is a stream of documents that fills equally many leaves at every step: lane `l` of `L` fills the leaves `l`,
//! `l + L`, `l + 2L` … A lane belongs to a worker by [`leaf_owner`]. Nothing is ever derived from the number of workers.
use std::ops::Range;
use std::time::Duration;

/// The dataflow's timestamp: the number of updates that the parameters have had when they are applied to the step's
/// batches. Step `t` turns the parameters after `t` updates into those after `t + 1`.
pub type Step = u64;

/// Index of a stream of documents, or of a leaf.
pub type Lane = u32;

/// The worker that owns lane or leaf `leaf`, out of `workers`. Leaves are assigned round-robin: adjacent leaves are
/// computed at the same time, so their gradients can soon be summed.
///
/// ```
/// # use millrace_contract::leaf_owner;
/// let owners: Vec<usize> = (0..6).map(|leaf| leaf_owner(leaf, 4)).collect();
/// assert_eq!(owners, [0, 1, 2, 3, 0, 1]);
/// ```
pub fn leaf_owner(leaf: Lane, workers: usize) -> usize {
    leaf as usize % workers
}

/// The leaves that process `process` computes, of `leaves`, if they are divided in these `shares`: adjacent ones, so that
/// most of their gradients can be summed in the process.
///
/// ```
/// # use millrace_contract::leaves_of;
/// assert_eq!([0, 1, 2].map(|process| leaves_of(process, &[1, 1, 1], 16)), [0..5, 5..10, 10..16]);
/// assert_eq!([0, 1].map(|process| leaves_of(process, &[3, 1], 16)), [0..12, 12..16]);
/// ```
pub fn leaves_of(process: usize, shares: &[u32], leaves: Lane) -> Range<Lane> {
    let sum = |shares: &[u32]| shares.iter().copied().map(u64::from).sum::<u64>();
    let start = |process: usize| (u64::from(leaves) * sum(&shares[..process]) / sum(shares).max(1)) as Lane;
    start(process)..start(process + 1)
}

/// The process that computes leaf `leaf`, if leaves are divided in these shares.
pub fn process_of_leaf(leaf: Lane, shares: &[u32], leaves: Lane) -> usize {
    (0..shares.len()).find(|process| leaves_of(*process, shares, leaves).contains(&leaf)).unwrap_or_default()
}

/// Where and when a packet arrives at a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// The step the packet belongs to.
    pub step: Step,
    /// Index into the settings' [`takes`](crate::Settings::takes).
    pub port: usize,
    /// How long the stage had nothing to do before this packet came (zero unless it takes
    /// [`Role::State`](crate::Role::State)).
    pub waited: Duration,
}

/// What a stage returns when it has been called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Done with this packet.
    Done,
    /// Call [`Stage::more`](crate::Stage::more) to continue; other operators have their turn first.
    More,
    /// Done with this packet, but the lane needs another one from its source for this step (only if
    /// [`Settings::pulls`](crate::Settings::pulls)).
    Starved,
}

/// When validations and checkpoints are due. Known before the graph runs, the same on every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The first step of this run: 0, or the step of the checkpoint that it resumes from.
    pub first: Step,
    /// Updates in the whole run. Steps `first..=steps` pass through the graph; the last one only validates.
    pub steps: Step,
    /// Number of updates between validations. There is always one after the last update.
    pub evaluate: Option<u64>,
    /// Number of updates between checkpoints. There is always one after the last update.
    pub checkpoint: Option<u64>,
}

impl Schedule {
    /// Whether step `step` trains. All but the last do.
    pub fn trains(&self, step: Step) -> bool {
        step < self.steps
    }

    /// Whether validation batches are processed at `step`, with the parameters after `step` updates.
    pub fn validates(&self, step: Step) -> bool {
        self.evaluate.is_some_and(|interval| self.is_due(interval, step))
    }

    /// Whether the state after the update of `step` (that is, after `step + 1` updates) is saved in a checkpoint.
    pub fn checkpoints(&self, step: Step) -> bool {
        step < self.steps && self.checkpoint.is_some_and(|interval| self.is_due(interval, step + 1))
    }

    /// Whether what happens every `interval` updates, and after the last one, is due after `updates` updates.
    pub fn is_due(&self, interval: u64, updates: u64) -> bool {
        updates > 0 && (updates == self.steps || updates.is_multiple_of(interval))
    }
}

/// How validation documents that are longer than a sequence are cut into windows, as a resource of the run. Each window
/// after the first begins this many tokens after the one before it, and only the tokens that no window before it has
/// scored are its targets: the others are their context. At least 1 and at most the length of a sequence, which is the
/// value if the run has no such resource: windows then do not overlap, except for the first token of each, which is the
/// last target of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidationStride(pub usize);

/// The token that precedes every validation document, as a resource of the run; the one that ends documents if it has
/// none. Models of other programs were trained on documents that begin with a token of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentStart(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_is_computed_by_one_process() {
        let even = |processes: usize| vec![2; processes];
        let cases =
            [(1, 1), (3, 1), (2, 16), (3, 16), (5, 7), (16, 16), (7, 65_536)].map(|(n, leaves)| (even(n), leaves));
        let uneven = [(vec![1, 3], 16), (vec![16, 2, 2], 7), (vec![1, 1, 64], 16), (vec![u32::MAX, 1], 65_536)];
        for (shares, leaves) in cases.into_iter().chain(uneven) {
            let processes = 0..shares.len();
            let all: Vec<Lane> = processes.clone().flat_map(|process| leaves_of(process, &shares, leaves)).collect();
            assert_eq!(all, (0..leaves).collect::<Vec<_>>());
            for process in processes {
                let mut own = leaves_of(process, &shares, leaves);
                assert!(own.all(|leaf| process_of_leaf(leaf, &shares, leaves) == process));
            }
        }
    }

    #[test]
    fn the_last_step_only_validates_and_the_last_update_is_kept() {
        let c = Schedule { first: 0, steps: 7, evaluate: Some(3), checkpoint: Some(2) };
        assert_eq!((0..=7).filter(|s| c.validates(*s)).collect::<Vec<_>>(), [3, 6, 7]);
        assert_eq!((0..=7).filter(|s| c.checkpoints(*s)).collect::<Vec<_>>(), [1, 3, 5, 6]);
        assert_eq!((0..=7).filter(|s| c.trains(*s)).count(), 7);
    }
}
