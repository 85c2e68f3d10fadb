//! `reduce`: sums the gradients of all leaves for the sections that this worker owns, and computes the norms of the
//! sums.
pub mod tree;

use crate::reduce::tree::{LiveGradients, Tree, peak_live_gradients};
use anyhow::{Result, ensure};
use contract::{
    At, Built, Emit, Env, Gradient, Kind, Memory, Norms, Packet, Port, Route, Section, Settings, Stage, StageKeys,
    StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};

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
        let mine = |section: &Section| section.owner as usize == env.worker;
        let sums = env.sections()?.iter().map(|section| Sum { mine: mine(section), ..Sum::default() }).collect();
        Ok(Built::Stage(Box::new(ReduceStage { leaves: env.shape.micro_batches, sums, steps: env.schedule.steps })))
    }

    /// Memory of the partial sums that wait for their sibling, and for the head also of the gradients that backward
    /// holds.
    fn memory(&self, env: &Env) -> Memory {
        let Some(model) = &env.model else { return Memory::default() };
        let LiveGradients { before, after, with_leaves } = peak_live_gradients(env.shape.micro_batches, env.workers);
        let head = model.parameters[model.head].len();
        let others = model.parameter_count() - head;
        let bytes = |floats| (floats * size_of::<f32>()) as u64;
        let permanent = bytes(before * others + with_leaves * head);
        Memory { permanent, gradients: bytes((after - before) * others), ..Memory::default() }
    }
}

/// The partial sums of one section's gradient.
#[derive(Default)]
struct Sum {
    mine: bool,
    tree: Tree,
    targets: u64,
    complete: bool,
}

struct ReduceStage {
    leaves: u32,
    steps: Step,
    sums: Vec<Sum>,
}

impl Stage for ReduceStage {
    fn packet(&mut self, _at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Gradient(gradient) = packet else { return Ok(Turn::Done) };
        let Gradient { leaves, section, owner, targets, data } = gradient;
        let sum = &mut self.sums[section];
        sum.targets += targets;
        if let Some((data, blocks)) = sum.tree.add(self.leaves, leaves, data) {
            sum.complete = true;
            let targets = sum.targets;
            out.give(Packet::Norms(Norms { section, targets, blocks }));
            out.give(Packet::Gradient(Gradient { leaves: 0..self.leaves, section, owner, targets, data }));
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, _out: &mut dyn Emit) -> Result<()> {
        for (section, sum) in self.sums.iter_mut().enumerate().filter(|(_, sum)| sum.mine) {
            ensure!(step >= self.steps || sum.complete, "the gradient of section {section} is not complete");
            *sum = Sum { mine: true, ..Sum::default() };
        }
        Ok(())
    }
}
