//! A miniature data-parallel training pipeline: `read → pack → forward → backward → optimize → checkpoint`.
use super::Setup;
pub use super::plain::*;
use crate::plan::PlannedStage;
use contract::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// The observable result of the pipeline.
#[derive(Default)]
pub struct Outcome {
    /// The last parameters.
    pub parameters: Mutex<BTreeMap<usize, Vec<f32>>>,
    /// At each checkpoint: what was saved, and the parameters.
    pub checkpoints: Mutex<BTreeMap<Step, (Vec<Saved>, BTreeMap<usize, Vec<f32>>)>>,
    /// Number of activations alive on each worker, and their maximum.
    alive: [AtomicUsize; 8],
    pub most_alive: AtomicUsize,
}

/// The stages of the pipeline.
pub fn training(setup: &Setup, outcome: &Arc<Outcome>, parameters: Values) -> Vec<PlannedStage> {
    let batch = Port::stream(Kind::Batch);
    let fed_back = Port::stream(Kind::Parameters).by(Route::Broadcast).state();
    let gradient = Port::stream(Kind::Gradient).by(Route::Owners);
    let kept = [Kind::Saved, Kind::OptimizerState].map(|kind| Port::stream(kind).by(Route::Exchange));
    let [a, b, c] = [0; 3].map(|_| Arc::clone(outcome));
    let stage = |make: fn(&Env) -> Box<dyn Stage>| Box::new(move |env: &Env| Ok(Built::Stage(make(env))));
    vec![
        setup.stage(
            "read",
            &[],
            &[],
            Box::new(|env| Ok(Built::Source(Box::new(Read { last: env.schedule.steps, cursors: BTreeMap::new() })))),
        ),
        setup.stage("pack", &[batch], &[&[(0, false)]], stage(|_| Box::new(Pack::default()))),
        setup.stage(
            "forward",
            &[fed_back, batch.by(Route::AnyWorker)],
            &[&[(4, true)], &[(1, false)]],
            Box::new(move |env| {
                let (outcome, worker) = (Arc::clone(&a), env.worker);
                Ok(Built::Stage(Box::new(Forward { parameters: BTreeMap::new(), outcome, worker })))
            }),
        ),
        setup.stage(
            "backward",
            &[Port::stream(Kind::Activations)],
            &[&[(2, false)]],
            stage(|env| Box::new(Backward { at: None, workers: env.workers })),
        ),
        setup.stage(
            "optimize",
            &[gradient],
            &[&[(3, false)]],
            Box::new(move |env| {
                let own = (0..TENSORS).filter(|t| t % env.workers == env.worker);
                let own = own.map(|t| (t, (parameters[t].clone(), BTreeMap::new()))).collect();
                Ok(Built::Stage(Box::new(Optimize { own, schedule: env.schedule, outcome: Arc::clone(&b) })))
            }),
        ),
        setup.stage(
            "checkpoint",
            &kept,
            &[&[], &[(4, false)]],
            Box::new(move |_| {
                let outcome = Arc::clone(&c);
                Ok(Built::Stage(Box::new(Checkpoint { outcome, saved: Vec::new(), parameters: BTreeMap::new() })))
            }),
        ),
    ]
}

pub fn batch(leaf: Lane, tokens: Vec<u32>) -> Packet {
    let (purpose, length, same) = (Purpose::Train, tokens.len(), arrow::buffer::ScalarBuffer::from(tokens));
    let (targets, document_starts) = (same.clone(), same.clone());
    let documents = Vec::new().into();
    Packet::Batch(Batch {
        leaf,
        purpose,
        part: 0,
        sequences: 1,
        length,
        tokens: same,
        targets,
        document_starts,
        documents,
    })
}

struct Read {
    last: Step,
    cursors: BTreeMap<Lane, u64>,
}

impl Source for Read {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        if step == self.last {
            return Ok(Turn::Done);
        }
        let cursor = self.cursors.entry(lane).or_default();
        for _ in 0..packets(*cursor) {
            out.give(batch(lane, tokens(lane, *cursor)));
            *cursor += 1;
        }
        Ok(Turn::More)
    }
    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        Ok(Snapshot::of(self.cursors.get(&lane).copied()))
    }
    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        self.cursors.insert(lane, serde_json::from_value(state)?);
        Ok(())
    }
}

#[derive(Default)]
struct Pack(BTreeMap<Lane, (Vec<u32>, Option<Step>)>);

impl Stage for Pack {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Batch(given) = packet else { anyhow::bail!("no batch") };
        let (rest, packed) = self.0.entry(given.leaf).or_default();
        rest.extend(&given.tokens[..]);
        if *packed != Some(at.step) && rest.len() >= LENGTH {
            *packed = Some(at.step);
            out.give(batch(given.leaf, rest.drain(..LENGTH).collect()));
        }
        Ok(if *packed == Some(at.step) { Turn::Done } else { Turn::Starved })
    }
    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        Ok(Snapshot::of(self.0.get(&lane).map(|(rest, _)| rest.clone())))
    }
    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        self.0.insert(lane, (serde_json::from_value(state)?, None));
        Ok(())
    }
}

struct Forward {
    parameters: BTreeMap<usize, Arc<Tensor>>,
    outcome: Arc<Outcome>,
    worker: usize,
}

/// Remembers what backward needs.
struct Memory {
    tokens: Vec<u32>,
    parameters: Vec<Arc<Tensor>>,
    next: usize,
    outcome: Arc<Outcome>,
    worker: usize,
}

impl Tape for Memory {
    fn start(&mut self, _: Tensor, _: HeadGradient) {}
    fn backward_layer(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn> {
        let t = self.next;
        give(t, Tensor::from_values([WIDTH], &gradient(&self.parameters[t].data, t, &self.tokens)));
        self.next += 1;
        Ok(if self.next == TENSORS { Turn::Done } else { Turn::More })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.outcome.alive[self.worker].fetch_sub(1, SeqCst);
    }
}

impl Stage for Forward {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        match packet {
            Packet::Parameters(piece) => drop(self.parameters.insert(piece.tensor, piece.data)),
            Packet::Batch(batch) => {
                anyhow::ensure!(self.parameters.len() == TENSORS, "parameters are missing");
                let alive = self.outcome.alive[self.worker].fetch_add(1, SeqCst) + 1;
                self.outcome.most_alive.fetch_max(alive, SeqCst);
                let parameters: Vec<_> = self.parameters.values().cloned().collect();
                let (outcome, worker, head) = (Arc::clone(&self.outcome), self.worker, Arc::clone(&parameters[0]));
                let tape = Memory { tokens: batch.tokens.to_vec(), parameters, next: 0, outcome, worker };
                out.give(Packet::Activations(Box::new(Activations {
                    leaf: batch.leaf,
                    purpose: batch.purpose,
                    part: 0,
                    hidden: Tensor::zeros([1]),
                    targets: batch.targets,
                    documents: batch.documents,
                    head,
                    logit_softcap: None,
                    rows_at_once: None,
                    precision: Default::default(),
                    key: 0,
                    tape: Some(Box::new(tape)),
                    waited: std::time::Duration::ZERO,
                    ticket: Ticket::default(),
                })));
            }
            _ => anyhow::bail!("neither parameters nor a batch"),
        }
        Ok(Turn::Done)
    }
    fn step_done(&mut self, _: Step, _: &mut dyn Emit) -> Result<()> {
        self.parameters.clear();
        Ok(())
    }
}

struct Backward {
    at: Option<Box<Activations>>,
    workers: usize,
}

impl Stage for Backward {
    fn packet(&mut self, _: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        let Packet::Activations(activations) = packet else { anyhow::bail!("no activations") };
        anyhow::ensure!(self.at.is_none(), "two micro-batches at a time");
        self.at = Some(activations);
        Ok(Turn::More)
    }
    fn more(&mut self, _: Step, out: &mut dyn Emit) -> Result<Turn> {
        let Some((leaf, tape)) = self.at.as_mut().and_then(|a| Some((a.leaf, a.tape.as_mut()?))) else {
            anyhow::bail!("called without work")
        };
        let (leaves, workers) = (leaf..leaf + 1, self.workers);
        let turn = tape.backward_layer(&mut |tensor, data| {
            let owner = (tensor % workers) as u32;
            out.give(Packet::Gradient(Gradient { leaves: leaves.clone(), section: tensor, owner, targets: 1, data }));
        })?;
        if turn == Turn::Done {
            self.at = None;
        }
        Ok(turn)
    }
}

struct Optimize {
    own: BTreeMap<usize, (Vec<f32>, BTreeMap<Lane, Vec<f32>>)>,
    schedule: Schedule,
    outcome: Arc<Outcome>,
}

impl Optimize {
    fn give(&self, out: &mut dyn Emit) {
        for (tensor, (values, _)) in &self.own {
            let data = Arc::new(Tensor::from_values([WIDTH], values));
            out.give(Packet::Parameters(ParameterPiece { tensor: *tensor, data, average: None }));
        }
    }
}

impl Stage for Optimize {
    fn start(&mut self, out: &mut dyn Emit) -> Result<()> {
        self.give(out);
        Ok(())
    }
    fn packet(&mut self, _: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        let Packet::Gradient(gradient) = packet else { anyhow::bail!("no gradient") };
        let Some((_, gradients)) = self.own.get_mut(&gradient.section) else { anyhow::bail!("somebody else's") };
        gradients.insert(gradient.leaves.start, gradient.data.data.to_vec());
        Ok(Turn::Done)
    }
    fn step_done(&mut self, step: Step, out: &mut dyn Emit) -> Result<()> {
        if self.schedule.trains(step) {
            for (parameter, gradients) in self.own.values_mut() {
                update(parameter, &std::mem::take(gradients));
            }
            self.give(out);
            for (tensor, (values, _)) in &self.own {
                let parameter = Arc::new(Tensor::from_values([WIDTH], values));
                out.give(Packet::OptimizerState(OptimizerState { tensor: *tensor, parameter, state: Vec::new() }));
            }
        }
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        let values = self.own.iter().map(|(tensor, (values, _))| (*tensor, values.clone()));
        self.outcome.parameters.lock().unwrap().extend(values);
        Ok(())
    }
}

struct Checkpoint {
    outcome: Arc<Outcome>,
    saved: Vec<Saved>,
    parameters: BTreeMap<usize, Vec<f32>>,
}

impl Stage for Checkpoint {
    fn packet(&mut self, _: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        match packet {
            Packet::Saved(saved) => self.saved.push(saved),
            Packet::OptimizerState(state) => drop(self.parameters.insert(state.tensor, state.parameter.data.to_vec())),
            _ => anyhow::bail!("neither saved state nor parameters"),
        }
        Ok(Turn::Done)
    }
    fn step_done(&mut self, step: Step, _: &mut dyn Emit) -> Result<()> {
        let kept = (std::mem::take(&mut self.saved), std::mem::take(&mut self.parameters));
        if !kept.1.is_empty() {
            self.outcome.checkpoints.lock().unwrap().insert(step, kept);
        }
        Ok(())
    }
}
