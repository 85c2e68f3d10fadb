//! `forward`: a batch and the parameters of its step become hidden states.
pub mod llama;

use anyhow::{Result, ensure};
use compute::models::{ActivationMemory, Forward as Forwarded, Gpt2Shape, Model, Transformer, forward_per_sequence};
use contract::{
    Activations, At, Batch, Built, Emit, Env, Facts, Kind, Memory, ModelFacts, Packet, Parameters, Port, Precision,
    Problem, Purpose, Route, Settings, Stage, StageKeys, StageSettings, Step, Tensor, Ticket, Turn,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of `type = "gpt2"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Gpt2Forward {
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads a block; they divide `width`.
    pub heads: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward layer; 4 × `width` if not given.
    pub feed_forward: Option<usize>,
    /// Attend only within a token's own document.
    pub document_mask: bool,
    /// "batched", or "per_sequence": one sequence at a time, to measure what batching is worth.
    pub batching: Batching,
    /// "f32", or "bf16": operands of products are rounded to bfloat16, sums are in f32.
    pub precision: Precision,
}

/// How the sequences of a micro-batch go through the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// All at once.
    #[default]
    Batched,
    /// One after the other, as the trainer that this project began as did.
    PerSequence,
}

impl Default for Gpt2Forward {
    fn default() -> Self {
        Self {
            layers: 2,
            heads: 8,
            width: 256,
            feed_forward: None,
            document_mask: false,
            batching: Batching::Batched,
            precision: Precision::F32,
        }
    }
}

impl StageSettings for Gpt2Forward {
    const SUMMARY: &'static str = "GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, tied head";
    const EXAMPLE: &'static str = "type = \"gpt2\"\nlayers = 6\nheads = 6\nwidth = 384\n";
}

impl Gpt2Forward {
    fn model_of(&self, facts: &Facts) -> Transformer {
        Gpt2Shape {
            layers: self.layers,
            heads: self.heads,
            width: self.width,
            feed_forward: self.feed_forward.unwrap_or(4 * self.width),
            vocabulary: facts.vocabulary,
            length: facts.length,
            end_of_text: facts.end_of_text,
            document_mask: self.document_mask,
        }
        .model()
        .with_precision(self.precision)
    }
}

/// What every `forward` takes and gives, whatever its model.
pub fn ports() -> Vec<Port> {
    vec![Port::stream(Kind::Batch), Port::stream(Kind::Parameters).by(Route::Broadcast).state()]
}

impl Settings for Gpt2Forward {
    fn takes(&self) -> Vec<Port> {
        ports()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Activations]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let sizes = [("layers", self.layers), ("heads", self.heads), ("width", self.width)];
        for (key, _) in sizes.iter().filter(|(_, size)| *size == 0) {
            problems.push(Problem::at(key, format!("`{key}` is 0: at least 1 is needed")));
        }
        if self.heads > 0 && !self.width.is_multiple_of(self.heads) {
            let near: Vec<String> =
                (1..=self.width).filter(|h| self.width.is_multiple_of(*h)).map(|h| h.to_string()).collect();
            let message =
                format!("{} heads do not divide width {}; these do: {}", self.heads, self.width, near.join(", "));
            problems.push(Problem::at("heads", message));
        }
        if self.feed_forward == Some(0) {
            problems.push(Problem::at("feed_forward", "`feed_forward` is 0: at least 1 is needed"));
        }
        problems
    }

    fn model(&self, facts: &Facts) -> Option<ModelFacts> {
        Some(self.model_of(facts).facts().clone())
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let facts = env.resource::<Facts>("what the tokenizer says of its vocabulary")?;
        let stage = Forward::new(Arc::new(self.model_of(&facts)), self.batching);
        Ok(Built::Stage(Box::new(stage)))
    }

    fn memory(&self, env: &Env) -> Memory {
        let model = env.resources.get::<Facts>().map(|facts| self.model_of(&facts));
        model.map_or_else(Memory::default, |model| memory(&model, env))
    }
}

/// What every `forward` says of the activations of `model`: a micro-batch a worker.
pub fn memory(model: &dyn Model, env: &Env) -> Memory {
    let busy = env.workers.min(env.shape.micro_batches as usize);
    let ActivationMemory { saved, temporary } = model.activations(env.shape.sequences, env.shape.length);
    let bytes = |floats| (busy * floats * size_of::<f32>()) as u64;
    Memory { passing: bytes(saved), working: bytes(temporary), ..Memory::default() }
}

/// Runs a model forward on batches. It holds a step's parameters from their arrival to the step's end.
pub struct Forward {
    model: Arc<dyn Model>,
    batching: Batching,
    pieces: Vec<Option<Arc<Tensor>>>,
    parameters: Option<Parameters>,
}

impl Forward {
    /// A stage that runs `model`.
    pub fn new(model: Arc<dyn Model>, batching: Batching) -> Self {
        let pieces = vec![None; model.facts().parameters.len()];
        Self { model, batching, pieces, parameters: None }
    }

    fn parameters(&mut self) -> Result<&Parameters> {
        if self.parameters.is_none() {
            let missing = self.pieces.iter().filter(|piece| piece.is_none()).count();
            ensure!(missing == 0, "{missing} of {} parameter tensors did not arrive", self.pieces.len());
            self.parameters = Some(Parameters(self.pieces.iter_mut().filter_map(Option::take).collect()));
        }
        self.parameters.as_ref().ok_or_else(|| anyhow::anyhow!("no parameters"))
    }

    fn run(&mut self, batch: &Batch) -> Result<(Forwarded, Arc<Tensor>)> {
        let (model, batching) = (Arc::clone(&self.model), self.batching);
        let parameters = self.parameters()?;
        let keep = batch.purpose == Purpose::Train;
        let forwarded = match batching {
            Batching::Batched => model.forward(parameters, batch, keep),
            Batching::PerSequence => forward_per_sequence(&model, parameters, batch, keep),
        };
        Ok((forwarded, Arc::clone(&parameters.0[model.facts().head])))
    }
}

impl Stage for Forward {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        match packet {
            Packet::Parameters(piece) => self.pieces[piece.tensor] = Some(piece.data),
            Packet::Batch(batch) => {
                let (Forwarded { hidden, tape }, head) = self.run(&batch)?;
                out.give(Packet::Activations(Box::new(Activations {
                    leaf: batch.leaf,
                    purpose: batch.purpose,
                    part: batch.part,
                    hidden,
                    targets: batch.targets,
                    head,
                    precision: self.model.facts().precision,
                    rows_at_once: (self.batching == Batching::PerSequence).then_some(batch.length),
                    tape,
                    waited: at.waited,
                    ticket: Ticket::default(),
                })));
            }
            _ => {}
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, _step: Step, _out: &mut dyn Emit) -> Result<()> {
        self.parameters = None;
        self.pieces.fill(None);
        Ok(())
    }
}
