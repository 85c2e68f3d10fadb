//! `forward`: computes hidden states from a batch and the parameters of its step.
//!
//! The trait [`ModelType`] defines how configuration keys become a [`Transformer`]. [`ModelSettings`] turns any model
//! into a stage. Members of the family are [`gpt2`], [`llama`], [`qwen3`] and [`nanochat`].
mod computation;
pub mod gpt2;
pub mod llama;
pub mod nanochat;
pub mod qwen3;

pub use computation::{Batching, Computation, ComputePrecision};

use anyhow::{Result, ensure};
use compute::models::{ActivationMemory, Forward as Forwarded, Model, Transformer, forward_per_sequence};
use contract::parameters::splitmix64;
use contract::{
    Activations, At, Batch, Built, Emit, Env, Facts, Kind, Member, Memory, ModelFacts, Packet, ParameterPiece,
    Parameters, Port, Pretrained, Problem, Purpose, Route, Settings, Stage, StageKeys, StageSettings, StageType, Step,
    Tensor, Ticket, Turn, stage_type,
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

    /// The sizes and the keys with which it is the model that a checkpoint's `config.json` describes; `None` if it is
    /// another type of model or not supported. Without this method a run that starts from the checkpoint
    /// (`run.initial_checkpoint`) must repeat the model's keys.
    fn keys_from_config(_config: &Value) -> Option<(Sizes, Self)> {
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
    /// Longest sequence that the model can process, in tokens; `pack.sequence_length` if not given. GPT-2 has a table
    /// of so many positions.
    #[key(min = 1, max = 16_777_216)]
    pub context: Option<usize>,
    /// Rows of the embedding; the number of the tokenizer's ids if not given. Other programs round it up.
    #[key(min = 1, max = 16_777_216)]
    pub vocabulary: Option<usize>,
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

impl Sizes {
    fn are_in_range(&self) -> bool {
        let table = serde_json::to_value(self).unwrap_or_default();
        Self::keys().iter().all(|key| key.out_of_range(&table[key.name]).is_none())
    }
}

impl<M: ModelType> ModelSettings<M> {
    fn model_for(&self, facts: &Facts) -> Transformer {
        let facts = Facts {
            vocabulary: self.vocabulary.unwrap_or(0).max(facts.vocabulary),
            length: self.context.unwrap_or(0).max(facts.length),
            ..*facts
        };
        self.model.model(&self.sizes, &facts).with_precision(self.computation.precision.chosen())
    }
}

impl<M: ModelType> StageSettings for ModelSettings<M> {
    const SUMMARY: &'static str = M::SUMMARY;
    const EXAMPLE: &'static str = M::EXAMPLE;

    fn from_config(config: &Value) -> Option<Result<Pretrained>> {
        let pretrained = |model: Transformer| {
            let forward = model.clone();
            Pretrained {
                facts: model.facts().clone(),
                forward: Box::new(move |precision| {
                    Arc::new(PretrainedForward(Arc::new(forward.clone().with_precision(precision))))
                }),
                decoder: Box::new(move |precision, parameters| Ok(Box::new(model.decoder(precision, parameters)?))),
            }
        };
        Some(M::from_config(config)?.map(pretrained))
    }

    fn keys_from_config(config: &Value) -> Option<Value> {
        let (sizes, model) = M::keys_from_config(config)?;
        let facts = M::from_config(config)?.ok()?.facts().clone();
        let (context, vocabulary) = (Some(facts.context), Some(facts.vocabulary()));
        let settings = Self { sizes, context, vocabulary, model, computation: Computation::default() };
        let mut keys = serde_json::to_value(settings).ok()?;
        let of_computation = Computation::keys();
        keys.as_object_mut()?
            .retain(|name, value| !value.is_null() && of_computation.iter().all(|key| key.name != name));
        Some(keys)
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
        // Advice about heads for a width that is out of range would be misleading.
        let heads = if self.sizes.are_in_range() { self.model.check_heads(&self.sizes) } else { None };
        heads.into_iter().chain(self.model.check(&self.sizes)).collect()
    }

    fn check_model(&self, model: &ModelFacts) -> Vec<Problem> {
        // Both are raised to what is needed, so that the model can be described before this is checked.
        let mut problems = Vec::new();
        if let Some(context) = self.context.filter(|context| *context < model.context) {
            let why = format!("is {context}, but a sequence has {} tokens", model.context);
            problems.push(Problem::at("context", why));
        }
        if let Some(vocabulary) = self.vocabulary.filter(|vocabulary| *vocabulary < model.vocabulary()) {
            let why = format!("is {vocabulary}, but the tokenizer has {} ids", model.vocabulary());
            problems.push(Problem::at("vocabulary", why));
        }
        problems
    }

    fn model(&self, facts: &Facts) -> Option<ModelFacts> {
        Some(self.model_for(facts).facts().clone())
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let facts = env.resource::<Facts>("the facts about the tokenizer's vocabulary")?;
        let model = Arc::new(self.model_for(&facts));
        Ok(Built::Stage(Box::new(Forward::new(model, self.computation.batching, env.seed))))
    }

    /// Memory of the activations of one micro-batch per worker.
    fn memory(&self, env: &Env) -> Memory {
        let Some(facts) = env.resources.get::<Facts>() else { return Memory::default() };
        memory(&self.model_for(&facts), env)
    }
}

/// The inputs of every model.
const PORTS: [Port; 2] =
    [Port::stream(Kind::Batch).by(Route::AnyWorker), Port::stream(Kind::Parameters).by(Route::Broadcast).state()];

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

    fn build(&self, env: &Env) -> Result<Built> {
        let model: Arc<dyn Model> = self.0.clone();
        Ok(Built::Stage(Box::new(Forward::new(model, Batching::Batched, env.seed))))
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
    seed: u64,
    /// The parameters that have arrived.
    pieces: Vec<Option<ParameterPiece>>,
}

impl Forward {
    fn new(model: Arc<dyn Model>, batching: Batching, seed: u64) -> Self {
        let pieces = vec![None; model.facts().parameters.len()];
        Self { model, batching, seed, pieces }
    }

    /// The parameters of the step for batches of this purpose.
    fn parameters(&self, purpose: Purpose) -> Result<Parameters> {
        let arrived: Vec<_> = self.pieces.iter().flatten().map(|piece| Arc::clone(piece.values(purpose))).collect();
        let missing = self.pieces.len() - arrived.len();
        ensure!(missing == 0, "{missing} of {} parameter tensors did not arrive", self.pieces.len());
        Ok(Parameters(arrived))
    }

    fn run(&self, batch: &Batch) -> Result<(Forwarded, Arc<Tensor>)> {
        let (model, parameters) = (&self.model, self.parameters(batch.purpose)?);
        let keep = batch.purpose == Purpose::Train;
        let forwarded = match self.batching {
            Batching::Batched => Arc::clone(model).forward(&parameters, batch, keep),
            Batching::PerSequence => forward_per_sequence(model, &parameters, batch, keep),
        };
        Ok((forwarded, Arc::clone(&parameters.0[model.facts().head])))
    }
}

impl Stage for Forward {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        match packet {
            Packet::Parameters(piece) => {
                let tensor = piece.tensor;
                self.pieces[tensor] = Some(piece);
            }
            Packet::Batch(batch) => {
                let (Forwarded { hidden, mut tape }, head) = self.run(&batch)?;
                let key = splitmix64(splitmix64(self.seed, at.step), batch.leaf.into());
                if let Some(tape) = &mut tape {
                    tape.round_with(key);
                }
                out.give(Packet::Activations(Box::new(Activations {
                    leaf: batch.leaf,
                    purpose: batch.purpose,
                    part: batch.part,
                    hidden,
                    targets: batch.targets,
                    documents: batch.documents,
                    head,
                    logit_softcap: self.model.facts().logit_softcap,
                    precision: self.model.facts().precision,
                    key,
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
        self.pieces.fill(None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::gpt2::Gpt2;
    use crate::forward::llama::Llama;
    use crate::forward::nanochat::NanoChat;
    use crate::forward::qwen3::Qwen3;
    use serde_json::json;

    /// A model whose keys have other values than by default describes itself in `config.json`, and that in keys.
    #[test]
    fn a_configuration_gives_the_keys_of_its_model() {
        let llama3 = json!({
            "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16.0,
        });
        let sizes =
            json!({ "layers": 3, "heads": 4, "width": 32, "feed_forward": 24, "context": 64, "vocabulary": 320 });
        let llama = json!({ "kv_heads": 2, "tied_head": true, "rms_epsilon": 0.25, "rope_theta": 7.0 });
        for (stage_type, more) in [
            (model_type::<Gpt2>("gpt2"), vec![]),
            (model_type::<Llama>("llama"), vec![llama.clone(), json!({ "rope_scaling": llama3, "head_width": 6 })]),
            (model_type::<Llama>("llama"), vec![json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } })]),
            (model_type::<Qwen3>("qwen3"), vec![llama.clone(), json!({ "head_width": 6 })]),
            (model_type::<NanoChat>("nanochat"), vec![llama, json!({ "logit_softcap": 3.0 })]),
            (model_type::<NanoChat>("nanochat"), vec![json!({ "logit_softcap": 0.0 })]),
        ] {
            let mut given = sizes.as_object().unwrap().clone();
            more.iter().for_each(|keys| given.extend(keys.as_object().unwrap().clone()));
            let facts = Facts { vocabulary: 300, length: 32, end_of_text: 7 };
            let model = |keys: Value| stage_type.parse(keys).unwrap().model(&facts).unwrap();
            let config = model(given.clone().into()).config;
            let keys = (stage_type.keys_from_config)(&config).unwrap();
            assert_eq!(model(keys.clone()).config, config);
            for (key, value) in given {
                assert_eq!(keys[&key], value, "{} {key}", stage_type.name);
            }
            for computed in Computation::keys() {
                assert!(keys.get(computed.name).is_none(), "{keys}");
            }
        }
    }
}
