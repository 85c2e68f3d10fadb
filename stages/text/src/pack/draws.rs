//! Which sequences each step draws, found by drawing their numbers instead of their tokens.
use crate::pack::pool::Pool;
use crate::pack::seed_of_lane;
use anyhow::{Context, Result};
use contract::{Allocation, BatchShape, Cuts, Drawn, Draws, Lane};

/// The sequences that each step draws from the pools.
pub struct PoolDraws {
    shape: BatchShape,
    /// Which sources fill the sequences of a step, if there are several.
    allocation: Option<Allocation>,
    /// By lane and source.
    lanes: Vec<Vec<Numbers>>,
    /// See [`Draws::cuts`].
    cuts: Box<dyn Fn(usize) -> Box<dyn Cuts>>,
}

/// The sequences of a source in a lane, by their numbers.
struct Numbers {
    /// Its windows have one token: the number of a sequence.
    pool: Pool,
    /// The number of the next sequence.
    next: u32,
}

impl PoolDraws {
    /// The draws from pools of so many sequences, by source, in an order that follows from `seed`.
    pub fn new(
        shape: BatchShape,
        pools: &[usize],
        seed: Option<u64>,
        allocation: Option<Allocation>,
        cuts: Box<dyn Fn(usize) -> Box<dyn Cuts>>,
    ) -> Self {
        let lane = |lane: Lane| {
            let numbers =
                |sequences: &usize| Numbers { pool: Pool::new(0, *sequences, seed_of_lane(seed, lane)), next: 0 };
            pools.iter().map(numbers).collect()
        };
        Self { shape, allocation, lanes: (0..shape.lanes).map(lane).collect(), cuts }
    }
}

impl Numbers {
    /// The next `sequences` sequences, up to `at_once` of them from a full pool.
    fn draw(&mut self, sequences: usize, at_once: usize) -> Result<Vec<u32>> {
        let mut drawn = Vec::with_capacity(sequences);
        while drawn.len() < sequences {
            let missing = self.pool.missing();
            let end = u32::try_from(missing).ok().and_then(|missing| self.next.checked_add(missing));
            let end = end.context("the run is too long: a lane has more than 2^32 sequences")?;
            self.pool.add(&(self.next..end).collect::<Vec<u32>>());
            self.next = end;
            drawn.extend(self.pool.draw(at_once.min(sequences - drawn.len())));
        }
        Ok(drawn)
    }
}

impl Draws for PoolDraws {
    fn next_step(&mut self) -> Result<Vec<Drawn>> {
        let sequences = self.shape.sequences;
        let all = self.shape.sequences_of_lane();
        let allocated = self.allocation.as_mut().map(|allocation| {
            let next = allocation.next().context("all sources of the mixture are used up")?;
            anyhow::Ok(next.by_lane)
        });
        let allocated = allocated.transpose()?;
        let mut step = Vec::with_capacity(self.lanes.len() * all);
        for (lane, sources) in (0..).zip(&mut self.lanes) {
            let mut of_lane = Vec::with_capacity(all);
            for (source, numbers) in sources.iter_mut().enumerate() {
                let (wanted, at_once) = match &allocated {
                    None => (all, all),
                    Some(by_lane) => (by_lane[lane as usize][source], 1),
                };
                of_lane.extend(numbers.draw(wanted, at_once)?.into_iter().map(|number| (source, number)));
            }
            step.extend(of_lane.into_iter().enumerate().map(|(at, (source, number))| {
                let leaf = self.shape.leaf(lane, (at / sequences) as u32);
                Drawn { leaf, row: at % sequences, lane, source, sequence: number.into() }
            }));
        }
        Ok(step)
    }

    fn cuts(&self, source: usize) -> Box<dyn Cuts> {
        (self.cuts)(source)
    }
}
