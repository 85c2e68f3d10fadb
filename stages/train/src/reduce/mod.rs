//! `reduce`: sums the gradients of all leaves for the sections that this worker owns, and computes the norms of the
//! sums. If several processes run the graph, it sums those of its process's leaves, and a second stage ([across
//! processes](Settings::across_processes)) adds what comes of that.
pub mod tree;

use crate::reduce::tree::{LiveGradients, Node, Tree, peak_live_gradients};
use anyhow::{Result, ensure};
use compute::kernels::head::gradient_later;
use contract::{
    At, Built, Emit, Env, Gradient, Kind, Lane, Memory, ModelFacts, Norms, Packet, Port, Route, Section, Settings,
    Stage, StageKeys, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Settings of `type = "tree_sum"`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Reduce {}

impl StageSettings for Reduce {
    const SUMMARY: &'static str = "sums the gradients of micro-batches in a fixed order, for any number of workers";
    const EXAMPLE: &'static str = "type = \"tree_sum\"\n";
}

impl Settings for Reduce {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Gradient).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Gradient, Kind::Norms]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let sums = if env.processes() == 1 { Sums::Whole } else { Sums::OfProcess };
        Ok(Built::Stage(Box::new(ReduceStage::new(sums, env)?)))
    }

    fn across_processes(&self) -> Option<Arc<dyn Settings>> {
        Some(Arc::new(AcrossProcesses))
    }

    /// Memory of the partial sums that wait for their sibling, and for the head also of the gradients that backward
    /// holds, if it does not compute them later, in parts.
    fn memory(&self, env: &Env) -> Memory {
        let Some(model) = &env.model else { return Memory::default() };
        let leaves = env.leaves().len();
        let LiveGradients { before, after, with_leaves, late } = peak_live_gradients(leaves as Lane, env.workers);
        let head = model.parameters[model.head].len();
        // If backward passes on the gradient of the head in parts, only sums of it are held: from the beginning of backward
        // on, or, if the head is tied, when all layers have been computed.
        let [held, first, last] = match (computed_later(model, env), model.head) {
            (false, _) => [head, 0, 0],
            (true, 0) => [0, 0, head],
            (true, _) => [0, head, 0],
        };
        let others = model.parameter_count() - head;
        let bytes = |floats| (floats * size_of::<f32>()) as u64;
        let late_with_leaves = late + env.workers.min(leaves);
        Memory {
            permanent: bytes(before * (others + last) + with_leaves * held + after * first),
            gradients: bytes((after - before) * others),
            scratch: bytes((after - before) * last),
            late: bytes((late - after) * (others + first + last) + late_with_leaves.saturating_sub(with_leaves) * held),
            ..Memory::default()
        }
    }
}

/// Whether the gradient of the head is computed in parts, one after the other, when it is passed on.
fn computed_later(model: &ModelFacts, env: &Env) -> bool {
    let [vocabulary, width] = model.parameters[model.head].shape[..] else { return false };
    gradient_later(model.precision, env.shape.sequences * env.shape.length, vocabulary, width).is_some()
}

/// What completes the sums when several processes run the graph: takes the partial sums of all processes, on the home
/// process of each section.
struct AcrossProcesses;

impl Settings for AcrossProcesses {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Gradient).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Gradient, Kind::Norms]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(ReduceStage::new(Sums::Whole, env)?)))
    }
}

/// How far a stage sums.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sums {
    /// Over all leaves.
    Whole,
    /// Over the largest nodes of the tree in the range of this process's leaves.
    OfProcess,
}

/// The partial sums of one section's gradient.
#[derive(Default)]
struct Sum {
    /// Whether this worker sums it.
    mine: bool,
    tree: Tree,
    /// Number of leaves in the sums that have been emitted.
    emitted: u32,
}

struct ReduceStage {
    sums: Sums,
    /// Number of leaves of a step.
    all: Lane,
    /// Those that are summed here.
    leaves: Range<Lane>,
    /// By section.
    sections: Vec<Sum>,
    /// By section, if it is summed further: the worker that does, among those of all processes.
    homes: Vec<u32>,
    steps: Step,
}

impl ReduceStage {
    fn new(sums: Sums, env: &Env) -> Result<Self> {
        let all = env.shape.micro_batches;
        let at_home = |section: &Section| sums == Sums::OfProcess || section.home as usize == env.process;
        let mine = |section: &Section| section.owner as usize == env.worker && at_home(section);
        let home = |section: &Section| env.among_all(section.home as usize, section.owner as usize) as u32;
        let sections = env.sections()?;
        Ok(Self {
            sums,
            all,
            leaves: if sums == Sums::Whole { 0..all } else { env.leaves() },
            homes: sections.iter().map(home).collect(),
            sections: sections.iter().map(|section| Sum { mine: mine(section), ..Sum::default() }).collect(),
            steps: env.schedule.steps,
        })
    }

    /// Adds a node to the sum of a section. Emits the sum when it is complete, with its norms if it is that of all leaves.
    fn add(&mut self, section: usize, owner: u32, node: Node, out: &mut dyn Emit) {
        let Sum { tree, emitted, .. } = &mut self.sections[section];
        let (node, owner) = match self.sums {
            Sums::OfProcess => (tree.add_within(self.all, &self.leaves, node), self.homes[section]),
            Sums::Whole => {
                let whole = tree.add(self.all, node).map(|(node, blocks)| {
                    out.give(Packet::Norms(Norms { section, targets: node.targets, blocks }));
                    node
                });
                (whole, owner)
            }
        };
        if let Some(Node { leaves, targets, sum: data }) = node {
            *emitted += leaves.end - leaves.start;
            out.give(Packet::Gradient(Gradient { leaves, section, owner, targets, data }));
        }
    }
}

impl Stage for ReduceStage {
    fn packet(&mut self, _at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        if let Packet::Gradient(Gradient { leaves, section, owner, targets, data: sum }) = packet {
            self.add(section, owner, Node { leaves, targets, sum }, out);
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, _out: &mut dyn Emit) -> Result<()> {
        let leaves = self.leaves.end - self.leaves.start;
        for (section, sum) in self.sections.iter_mut().enumerate().filter(|(_, sum)| sum.mine) {
            let complete = sum.emitted == leaves && sum.tree.waiting() == 0;
            ensure!(step >= self.steps || complete, "the gradient of section {section} is not complete");
            *sum = Sum { mine: true, ..Sum::default() };
        }
        Ok(())
    }
}
