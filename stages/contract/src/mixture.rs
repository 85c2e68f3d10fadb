//! How the sequences of a run are divided among several sources.
//!
//! A [`Mixture`] gives the share of each source at every step. An [`Allocation`] turns shares into whole sequences: how
//! many of a step's sequences come from each source, and in which lane. It is computed from the first step of the run
//! by every stage that needs it, and depends only on the configuration and the sizes of the sources.
use crate::env::Env;
use crate::packet::Packet;
use crate::settings::{BatchShape, Corpus};
use crate::step::Step;
use std::collections::VecDeque;
use std::sync::Arc;

/// The number of steps over which the sequences of a source differ from its share by at most one.
pub const WINDOW: usize = 64;

/// Numbers closer to each other than this are the same but for rounding.
const ROUNDING: f64 = 1e-9;

/// The weights between two steps of a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Between {
    /// Those of the earlier step.
    #[default]
    Constant,
    /// On a line from those of the earlier to those of the later step.
    Linear,
}

/// The shares of several sources, as a resource of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mixture {
    /// The ids of the sources. Everything else lists them in this order.
    pub sources: Vec<String>,
    /// Weights of the sources from a step on. The first step is 0, and steps ascend.
    pub weights: Vec<(Step, Vec<f64>)>,
    /// What they are between these steps.
    pub between: Between,
    /// The most passes over a source's training documents; `None`: any number.
    pub max_epochs: Vec<Option<f64>>,
}

/// The size of every source, as a resource of the run, in the order in which sources are prepared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceSizes(pub Vec<(String, Corpus)>);

impl SourceSizes {
    /// The size of the source `id`.
    pub fn of(&self, id: &str) -> Option<Corpus> {
        self.0.iter().find(|(source, _)| source == id).map(|(_, corpus)| *corpus)
    }

    /// The passes over the training documents of the source `id` that so many tokens are; `None` if its size is not
    /// known.
    pub fn epochs(&self, id: &str, tokens: u64) -> Option<f64> {
        let all = self.of(id)?.train.tokens;
        (all > 0).then(|| tokens as f64 / all as f64)
    }
}

impl Mixture {
    /// The index of the source `id`.
    pub fn position(&self, id: &str) -> Option<usize> {
        self.sources.iter().position(|source| source == id)
    }

    /// The weights at `step`; they need not add up to one.
    pub fn weights_at(&self, step: Step) -> Vec<f64> {
        let next = self.weights.partition_point(|(from, _)| *from <= step);
        let (from, before) = &self.weights[next - 1];
        match (self.between, self.weights.get(next)) {
            (Between::Linear, Some((to, after))) => {
                let gone = (step - from) as f64 / (to - from) as f64;
                before.iter().zip(after).map(|(before, after)| before + (after - before) * gone).collect()
            }
            _ => before.clone(),
        }
    }
}

impl Packet {
    /// The source of packets that flow from a source to `pack`; 0 for all others.
    pub fn source(&self) -> usize {
        match self {
            Packet::Rows(rows) => rows.source,
            Packet::Tokens(tokens) => tokens.source,
            _ => 0,
        }
    }
}

/// The sequences of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepAllocation {
    /// By source.
    pub sequences: Vec<u64>,
    /// By lane and source.
    pub by_lane: Vec<Vec<usize>>,
}

/// The sequences of each source, step by step.
///
/// ```
/// # use millrace_contract as contract;
/// use contract::{BatchShape, SourceSizes, mixture::{Allocation, Between, Mixture}};
/// use std::sync::Arc;
///
/// let mixture = Mixture {
///     sources: vec!["books".into(), "wiki".into()],
///     weights: vec![(0, vec![0.3, 0.7]), (2, vec![1.0, 0.0])],
///     between: Between::Constant,
///     max_epochs: vec![None, None],
/// };
/// let shape = BatchShape { micro_batches: 2, lanes: 2, sequences: 4, length: 16 };
/// let mut allocation = Allocation::new(Arc::new(mixture), shape, &SourceSizes::default());
/// let steps: Vec<Vec<u64>> = std::iter::from_fn(|| Some(allocation.next()?.sequences)).take(3).collect();
/// assert_eq!(steps, [[2, 6], [3, 5], [8, 0]]);
/// ```
#[derive(Clone, Debug)]
pub struct Allocation {
    mixture: Arc<Mixture>,
    lanes: usize,
    sequences: u64,
    /// Sequences that a source has, with all its epochs.
    limits: Vec<u64>,
    /// The next step.
    step: Step,
    /// Sequences so far, by source.
    used: Vec<u64>,
    /// How many more sequences a source has got than its shares add up to.
    surplus: Vec<f64>,
    /// The surplus before each of the last steps, the oldest first.
    earlier: VecDeque<Vec<f64>>,
    /// By source and lane: how many more sequences the lane has got than the mean of the lanes, times their number.
    ahead: Vec<Vec<i64>>,
}

impl Allocation {
    /// The allocation from step 0 on. The number of passes over a source of unknown size is not limited.
    pub fn new(mixture: Arc<Mixture>, shape: BatchShape, sizes: &SourceSizes) -> Self {
        let limit = |(source, most): (&String, &Option<f64>)| {
            let limit = most.zip(sizes.of(source)).map(|(most, size)| most * size.train.tokens as f64);
            limit.map_or(u64::MAX, |tokens| tokens as u64 / shape.length as u64)
        };
        let limits = mixture.sources.iter().zip(&mixture.max_epochs).map(limit).collect();
        let (sources, lanes) = (mixture.sources.len(), shape.lanes as usize);
        Self {
            mixture,
            lanes,
            sequences: u64::from(shape.micro_batches) * shape.sequences as u64,
            limits,
            step: 0,
            used: vec![0; sources],
            surplus: vec![0.0; sources],
            earlier: VecDeque::from([vec![0.0; sources]]),
            ahead: vec![vec![0; lanes]; sources],
        }
    }

    /// The allocation of the run, if it mixes several sources.
    pub fn of(env: &Env) -> Option<Self> {
        let sizes = env.resources.get::<SourceSizes>().unwrap_or_default();
        Some(Self::new(env.resources.get::<Mixture>()?, env.shape, &sizes))
    }

    /// Sequences so far, by source.
    pub fn used(&self) -> &[u64] {
        &self.used
    }

    /// Whether source `source` has been used as often as it may be.
    pub fn is_used_up(&self, source: usize) -> bool {
        self.used[source] >= self.limits[source]
    }

    /// The allocation of `step`, which must not come before that of an earlier call.
    ///
    /// # Errors
    /// If the sources are used up before.
    pub fn at(&mut self, step: Step) -> anyhow::Result<StepAllocation> {
        loop {
            let at = self.step;
            let next = self.next();
            let next = next.ok_or_else(|| anyhow::anyhow!("all sources of the mixture are used up at step {at}"))?;
            if at >= step {
                return Ok(next);
            }
        }
    }

    /// The wanted number of sequences of each source at the next step; `None` if all are used up.
    fn wanted(&self) -> Option<Vec<f64>> {
        let weights = self.mixture.weights_at(self.step);
        let left: Vec<u64> = self.limits.iter().zip(&self.used).map(|(limit, used)| limit - used).collect();
        let mut wanted = vec![0.0; weights.len()];
        let mut open: Vec<usize> =
            (0..weights.len()).filter(|source| weights[*source] > 0.0 && left[*source] > 0).collect();
        let mut sequences = self.sequences as f64;
        // A source that cannot fill its share gives what it has, and the others share the rest.
        loop {
            let sum: f64 = open.iter().map(|source| weights[*source]).sum();
            let full = open.iter().position(|source| sequences * weights[*source] / sum > left[*source] as f64);
            let Some(full) = full else {
                open.iter().for_each(|source| wanted[*source] = sequences * weights[*source] / sum);
                return (!open.is_empty()).then_some(wanted);
            };
            let source = open.remove(full);
            wanted[source] = left[source] as f64;
            sequences -= left[source] as f64;
        }
    }

    /// Rounds `wanted` to whole sequences: each source gets the number below or above.
    ///
    /// The sources that get the number above are first those that would otherwise lack more than one sequence of the
    /// last [`WINDOW`] steps, and last those that would then have more than one too many; otherwise those that lack
    /// most since the beginning. As long as weights are constant, what was done so many steps before is always possible
    /// again, so no such window is wrong by more than one.
    fn round(&mut self, wanted: &[f64]) -> Vec<u64> {
        let whole = |wanted: &f64| (wanted + ROUNDING).floor() as u64;
        let mut sequences: Vec<u64> = wanted.iter().map(whole).collect();
        let rest = (self.sequences - sequences.iter().sum::<u64>()) as usize;
        let surplus: Vec<f64> =
            (0..wanted.len()).map(|source| self.surplus[source] + sequences[source] as f64 - wanted[source]).collect();
        let left = |source: usize| self.limits[source] - self.used[source] > sequences[source];
        let has_fraction = |source: &usize| wanted[*source] - sequences[*source] as f64 > ROUNDING && left(*source);
        let urgency = |source: usize| {
            let in_window = surplus[source] - self.earlier[0][source];
            let class = if in_window < ROUNDING - 1.0 { 0 } else { 1 + u8::from(in_window > ROUNDING) };
            (class, surplus[source])
        };
        let mut candidates: Vec<usize> = (0..wanted.len()).filter(has_fraction).collect();
        candidates.sort_by(|one, other| {
            let (one, other) = (urgency(*one), urgency(*other));
            one.0.cmp(&other.0).then(one.1.total_cmp(&other.1))
        });
        candidates.iter().take(rest).for_each(|source| sequences[*source] += 1);
        for source in 0..wanted.len() {
            self.surplus[source] += sequences[source] as f64 - wanted[source];
        }
        if self.earlier.len() == WINDOW {
            self.earlier.pop_front();
        }
        self.earlier.push_back(self.surplus.clone());
        sequences
    }

    /// Distributes the sequences of each source over the lanes, which all get equally many. Of those that cannot be
    /// divided evenly, the next one always goes to the source and lane where most are missing for an even distribution
    /// so far.
    fn over_lanes(&mut self, sequences: &[u64]) -> Vec<Vec<usize>> {
        let lanes = self.lanes as u64;
        let evenly = |sequences: &u64| sequences / lanes;
        let mut by_lane =
            vec![sequences.iter().map(evenly).map(|sequences| sequences as usize).collect::<Vec<_>>(); self.lanes];
        let mut room = vec![(self.sequences / lanes - sequences.iter().map(evenly).sum::<u64>()) as usize; self.lanes];
        let mut left: Vec<u64> = sequences.iter().map(|sequences| sequences % lanes).collect();
        while let Some((source, lane)) = self.most_missing(&left, &room) {
            by_lane[lane][source] += 1;
            left[source] -= 1;
            room[lane] -= 1;
            self.ahead[source].iter_mut().for_each(|ahead| *ahead -= 1);
            self.ahead[source][lane] += self.lanes as i64;
        }
        by_lane
    }

    /// Of the sources of which sequences are left and the lanes with room, the pair where most are missing.
    fn most_missing(&self, left: &[u64], room: &[usize]) -> Option<(usize, usize)> {
        let sources = (0..left.len()).filter(|source| left[*source] > 0);
        let pairs = sources.flat_map(|source| (0..room.len()).map(move |lane| (source, lane)));
        pairs
            .filter(|(_, lane)| room[*lane] > 0)
            .min_by_key(|(source, lane)| (self.ahead[*source][*lane], *source, *lane))
    }
}

impl Iterator for Allocation {
    type Item = StepAllocation;

    /// The allocation of the next step; `None` if all sources are used up.
    fn next(&mut self) -> Option<StepAllocation> {
        let wanted = self.wanted()?;
        let sequences = self.round(&wanted);
        if sequences.iter().sum::<u64>() < self.sequences {
            return None;
        }
        let by_lane = self.over_lanes(&sequences);
        self.used.iter_mut().zip(&sequences).for_each(|(used, more)| *used += more);
        self.step += 1;
        Some(StepAllocation { sequences, by_lane })
    }
}

#[cfg(test)]
mod tests;
