//! `forward`: computes hidden states from a batch and the parameters of its step.
//!
//! The trait [`ModelType`] defines how configuration keys become a [`Transformer`]. [`ModelSettings`] turns any model
//! into a stage. Members of the family are [`gpt2`], [`llama`], [`qwen3`] and [`nanochat`].
pub mod gpt2;
pub mod llama;
pub mod nanochat;
pub mod qwen3;

use anyhow::{Result, ensure};
use compute::kernels::gemm;
use compute::models::{ActivationMemory, Forward as Forwarded, Model, Transformer, forward_per_sequence};
use contract::{
    Activations, At, Batch, Built, Emit, Env, Facts, Kind, Member, Memory, ModelFacts, Packet, Parameters, Port,
    Precision, Pretrained, Problem, Purpose, Route, Settings, Stage, StageKeys, StageSettings, StageType, Step, Tensor,
    Ticket, Turn, stage_type,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// A member of the family of models: its configuration keys, and the transformer that they describe.
pub trait ModelType: Member {
    /// A one-line description.
    const SUMMARY: &'static str;
    /// A valid example table for `pipeline stages` (TOML, without the header).
    const EXAMPLE: &'static str;

    /// Problems with the values, except for numbers out of range and those of [`check_heads`](Self::check_heads), which
    /// are found already. No I/O.
    fn check(&self, _sizes: &Sizes) -> Vec<Problem> {
        Vec::new()
    }

    /// A problem if the width cannot be divided among the heads.
    fn check_heads(&self, sizes: &Sizes) -> Option<Problem> {
        let &Sizes { heads, width, .. } = sizes;
        (heads > 0 && !width.is_multiple_of(heads)).then(|| {
            let near = candidates(width, |heads| width.is_multiple_of(heads));
            Problem::at("heads", format!("{heads} heads do not divide width {width}; {near}"))
        })
    }

    /// The model of these sizes, with the vocabulary and sequence length of `facts`.
    fn model(&self, sizes: &Sizes, facts: &Facts) -> Transformer;

    /// The model that a checkpoint's `config.json` describes, or an error if a property is not supported; `None` if it
    /// is another type of model. Without this method `pipeline generate` cannot open checkpoints.
    fn from_config(_config: &Value) -> Option<Result<Transformer>> {
        None
    }
}

/// The registry entry of a model.
pub const fn model_type<M: ModelType>(name: &'static str) -> StageType {
    stage_type::<ModelSettings<M>>(name)
}

/// The settings of a model stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(bound = "M: ModelType")]
pub struct ModelSettings<M> {
    /// How large it is.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// The member's own keys.
    #[serde(flatten)]
    pub model: M,
    /// How it is computed.
    #[serde(flatten)]
    pub computation: Computation,
}

/// The sizes that every model has.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Sizes {
    /// Transformer blocks.
    #[key(default = 2, min = 1, max = 10_000)]
    pub layers: usize,
    /// Attention heads per block (query heads, if `kv_heads` is given); must divide `width`.
    #[key(default = 8, min = 1, max = 65_536)]
    pub heads: usize,
    /// Width of the residual stream.
    #[key(default = 256, min = 1, max = 1_048_576)]
    pub width: usize,
}

/// How a model is computed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Computation {
    /// Attend only within a token's own document.
    pub document_mask: bool,
    /// "batched", or "per_sequence": one sequence at a time, as a baseline that shows the benefit of batching.
    pub batching: Batching,
    /// "f32"; "bf16": operands of matrix products are rounded to bfloat16, sums are f32; or "auto": bf16 if the CPU
    /// multiplies it faster than f32.
    pub precision: ComputePrecision,
}

/// The precision of the operands of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputePrecision {
    /// Operands are not rounded.
    #[default]
    F32,
    /// Operands are rounded to bfloat16.
    Bf16,
    /// bfloat16 if the GEMM backend multiplies it faster than f32. Checkpoints record the backend and its precision.
    Auto,
}

impl From<Precision> for ComputePrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

impl ComputePrecision {
    fn chosen(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Auto => gemm::fast_precision(),
        }
    }
}

/// How the sequences of a micro-batch go through the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// All sequences at once.
    #[default]
    Batched,
    /// One sequence at a time, as in the trainer that this project started from.
    PerSequence,
}

impl<M: ModelType> ModelSettings<M> {
    fn model_for(&self, facts: &Facts) -> Transformer {
        let Computation { document_mask, precision, .. } = self.computation;
        self.model.model(&self.sizes, facts).with_document_mask(document_mask).with_precision(precision.chosen())
    }
}

impl<M: ModelType> StageSettings for ModelSettings<M> {
    const SUMMARY: &'static str = M::SUMMARY;
    const EXAMPLE: &'static str = M::EXAMPLE;

    fn from_config(config: &Value) -> Option<Result<Pretrained>> {
        let pretrained = |model: Transformer| {
            let model = Arc::new(model);
            Pretrained {
                facts: model.facts().clone(),
                context: model.context(),
                forward: Arc::new(PretrainedForward(Arc::clone(&model))),
                decoder: Box::new(move |parameters| Box::new(model.decoder(parameters))),
            }
        };
        Some(M::from_config(config)?.map(pretrained))
    }
}

impl<M: ModelType> Settings for ModelSettings<M> {
    fn takes(&self) -> Vec<Port> {
        PORTS.to_vec()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Activations]
    }

    fn check(&self) -> Vec<Problem> {
        self.model.check_heads(&self.sizes).into_iter().chain(self.model.check(&self.sizes)).collect()
    }

    fn model(&self, facts: &Facts) -> Option<ModelFacts> {
        Some(self.model_for(facts).facts().clone())
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let facts = env.resource::<Facts>("the facts about the tokenizer's vocabulary")?;
        let model = Arc::new(self.model_for(&facts));
        Ok(Built::Stage(Box::new(Forward::new(model, self.computation.batching))))
    }

    /// Memory of the activations of one micro-batch per worker.
    fn memory(&self, env: &Env) -> Memory {
        let Some(facts) = env.resources.get::<Facts>() else { return Memory::default() };
        memory(&self.model_for(&facts), env)
    }
}

/// The inputs of every model.
const PORTS: [Port; 2] = [Port::stream(Kind::Batch), Port::stream(Kind::Parameters).by(Route::Broadcast).state()];

/// Memory of the activations of one micro-batch per worker.
fn memory(model: &Transformer, env: &Env) -> Memory {
    let busy = env.workers.min(env.shape.micro_batches as usize);
    let ActivationMemory { saved, temporary } = model.activations(env.shape.sequences, env.shape.length);
    let bytes = |floats| (busy * floats * size_of::<f32>()) as u64;
    Memory { activations: bytes(saved), scratch: bytes(temporary), ..Memory::default() }
}

/// The stage of a model that a `config.json` describes: see [`Pretrained::forward`].
struct PretrainedForward(Arc<Transformer>);

impl Settings for PretrainedForward {
    fn takes(&self) -> Vec<Port> {
        PORTS.to_vec()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Activations]
    }

    fn model(&self, _: &Facts) -> Option<ModelFacts> {
        Some(self.0.facts().clone())
    }

    fn build(&self, _: &Env) -> Result<Built> {
        let model: Arc<dyn Model> = self.0.clone();
        Ok(Built::Stage(Box::new(Forward::new(model, Batching::Batched))))
    }

    fn memory(&self, env: &Env) -> Memory {
        memory(&self.0, env)
    }
}

/// The smallest numbers up to `most` that satisfy `fits`, as part of a message. (Looks at no more than the range of the
/// keys of [`Sizes`]: a value out of range is reported as well.)
pub fn candidates(most: usize, fits: impl Fn(usize) -> bool) -> String {
    const SHOWN: usize = 24;
    let mut near: Vec<String> =
        (1..=most.min(1 << 20)).filter(|n| fits(*n)).map(|n| n.to_string()).take(SHOWN + 1).collect();
    if near.len() > SHOWN {
        near[SHOWN] = "…".into();
    }
    if near.is_empty() { "none do".into() } else { format!("these do: {}", near.join(", ")) }
}

/// Runs the forward pass of a model on batches. It holds the parameters of a step from their arrival to the end of the
/// step.
struct Forward {
    model: Arc<dyn Model>,
    batching: Batching,
    pieces: Vec<Option<Arc<Tensor>>>,
    parameters: Option<Parameters>,
}

impl Forward {
    fn new(model: Arc<dyn Model>, batching: Batching) -> Self {
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
                    logit_softcap: self.model.facts().logit_softcap,
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
