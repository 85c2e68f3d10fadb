//! Models as llama.cpp describes them: metadata, and the names and layouts of tensors.
//!
//! | `general.architecture` | layouts that differ from Hugging Face's |
//! |---|---|
//! | `gpt2` | matrices of linear layers are `[out, in]` |
//! | `llama` | rotary positions pair adjacent columns of a head, so the rows of queries and keys are permuted |
//! | `qwen3` | none: rotary positions pair the halves of a head (NEOX) |
use super::{Dtype, TensorInfo, Value};
use anyhow::{Context, Result, bail, ensure};
use compute::kernels::rotary::RopeScaling;
use compute::models::{Gpt2Shape, LlamaShape, Qwen3Shape};
use contract::{ModelFacts, ParameterSpec, Tensor};

/// A model as llama.cpp describes it.
pub struct GgufModel {
    /// Metadata of the architecture: its name, then its hyperparameters.
    pub metadata: Vec<(String, Value)>,
    /// The tensors of the file.
    pub tensors: Vec<GgufTensor>,
}

/// A tensor of a GGUF file.
pub struct GgufTensor {
    /// Its name, shape and type in the file.
    pub info: TensorInfo,
    /// Where its values come from.
    source: Source,
}

/// Where the values of a tensor come from.
enum Source {
    /// The parameter with this index, in another layout.
    Parameter(usize, Layout),
    /// They follow from the configuration.
    Values(Vec<f32>),
}

/// How the layout of a tensor differs from that of the parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Same,
    /// `[in, out]` becomes `[out, in]`.
    Transposed,
    /// The rows of this many heads, each of which is two halves, become pairs of one row of each half.
    Interleaved(usize),
}

/// Names of parameters outside blocks, without `.weight` and `.bias`: Hugging Face's, llama.cpp's.
const OUTSIDE: [(&str, &str); 7] = [
    ("transformer.wte", "token_embd"),
    ("transformer.wpe", "position_embd"),
    ("transformer.ln_f", "output_norm"),
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("rope_freqs", "rope_freqs"),
];

/// Names of parameters of a block.
const INSIDE: [(&str, &str); 17] = [
    ("ln_1", "attn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

impl GgufModel {
    /// The model that `facts` describe, with matrices of type `dtype`. Vectors and position embeddings are always in
    /// f32, as llama.cpp requires; matrices whose rows do not fit `dtype` are in f16.
    ///
    /// # Errors
    /// If llama.cpp has no such model; the error says why.
    pub fn new(facts: &ModelFacts, dtype: Dtype) -> Result<Self> {
        let config = &facts.config;
        let mut description = match config["model_type"].as_str() {
            Some("gpt2") => gpt2(&Gpt2Shape::from_config(config)?),
            Some("llama") => llama(&LlamaShape::from_config(config)?),
            Some("qwen3") => qwen3(&Qwen3Shape::from_config(config)?.0)?,
            Some("nanochat") => bail!(
                "llama.cpp has no architecture for NanoChat (it normalises without gains, also embeddings, and its \
                 feed-forward layer is ReLU²); a model with `type = \"qwen3\"` can be exported"
            ),
            _ => bail!("no GGUF architecture is known for models of type {}", config["model_type"]),
        };
        let tensor = |(index, spec): (usize, &ParameterSpec)| parameter(index, spec, dtype, &description.layout);
        let tensors: Result<Vec<GgufTensor>> = facts.parameters.iter().enumerate().map(tensor).collect();
        let mut tensors = tensors?;
        if let Some(factors) = description.rope_factors.take() {
            let info = TensorInfo { name: "rope_freqs.weight".into(), shape: vec![factors.len()], dtype: Dtype::F32 };
            tensors.push(GgufTensor { info, source: Source::Values(factors) });
        }
        let mut metadata = vec![("general.architecture".to_owned(), Value::String(description.name.to_owned()))];
        let prefixed = |(key, value): (&str, Value)| (format!("{}.{key}", description.name), value);
        metadata.extend(description.hyperparameters.into_iter().map(prefixed));
        Ok(Self { metadata, tensors })
    }

    /// How many matrices have another type than `dtype` because their rows do not fit.
    pub fn other_matrices(&self, dtype: Dtype) -> usize {
        let is_other = |tensor: &&GgufTensor| ![dtype, Dtype::F32].contains(&tensor.info.dtype);
        self.tensors.iter().filter(is_other).count()
    }
}

impl GgufTensor {
    /// Its values. `parameter` returns the parameter with this index.
    ///
    /// # Errors
    /// If `parameter` fails.
    pub fn values(&self, parameter: impl FnOnce(usize) -> Result<Tensor>) -> Result<Tensor> {
        match &self.source {
            Source::Values(values) => Ok(Tensor::from_values(self.info.shape.clone(), values)),
            Source::Parameter(index, layout) => Ok(layout.apply(parameter(*index)?)),
        }
    }
}

/// What distinguishes an architecture.
struct Description {
    /// Its name, which begins the keys of its hyperparameters.
    name: &'static str,
    hyperparameters: Vec<(&'static str, Value)>,
    /// The layout of a block's matrix with this (Hugging Face's) name.
    layout: Box<dyn Fn(&str) -> Layout>,
    /// What rotary frequencies are divided by.
    rope_factors: Option<Vec<f32>>,
}

fn number(size: usize) -> Value {
    Value::U32(size as u32)
}

/// The sizes that every architecture has.
fn sizes([vocabulary, context, width, layers, feed_forward, heads]: [usize; 6]) -> Vec<(&'static str, Value)> {
    vec![
        ("vocab_size", number(vocabulary)),
        ("context_length", number(context)),
        ("embedding_length", number(width)),
        ("block_count", number(layers)),
        ("feed_forward_length", number(feed_forward)),
        ("attention.head_count", number(heads)),
    ]
}

fn gpt2(shape: &Gpt2Shape) -> Description {
    let &Gpt2Shape { vocabulary, length, width, layers, feed_forward, heads, .. } = shape;
    let mut hyperparameters = sizes([vocabulary, length, width, layers, feed_forward, heads]);
    hyperparameters.push(("attention.layer_norm_epsilon", Value::F32(1e-5)));
    Description { name: "gpt2", hyperparameters, layout: Box::new(|_| Layout::Transposed), rope_factors: None }
}

/// What `llama` and `qwen3` have in common.
fn rotary(name: &'static str, shape: &LlamaShape) -> Description {
    let &LlamaShape { vocabulary, length, width, layers, feed_forward, heads, .. } = shape;
    let mut hyperparameters = sizes([vocabulary, length, width, layers, feed_forward, heads]);
    hyperparameters.extend([
        ("attention.head_count_kv", number(shape.kv_heads)),
        ("attention.key_length", number(shape.head_width)),
        ("attention.value_length", number(shape.head_width)),
        ("attention.layer_norm_rms_epsilon", Value::F32(shape.rms_epsilon as f32)),
        ("rope.dimension_count", number(shape.head_width)),
        ("rope.freq_base", Value::F32(shape.rope_theta as f32)),
    ]);
    if let RopeScaling::Linear { factor } = shape.rope_scaling {
        hyperparameters.push(("rope.scaling.type", Value::String("linear".into())));
        hyperparameters.push(("rope.scaling.factor", Value::F32(factor as f32)));
    }
    Description { name, hyperparameters, layout: Box::new(|_| Layout::Same), rope_factors: None }
}

fn llama(shape: &LlamaShape) -> Description {
    let &LlamaShape { heads, kv_heads, head_width, rope_theta, rope_scaling, .. } = shape;
    let factor = |pair: usize| {
        let frequency = rope_theta.powf(-2.0 * pair as f64 / head_width as f64);
        (frequency / rope_scaling.scaled(frequency)) as f32
    };
    let layout = move |name: &str| match name {
        "self_attn.q_proj" => Layout::Interleaved(heads),
        "self_attn.k_proj" => Layout::Interleaved(kv_heads),
        _ => Layout::Same,
    };
    let scaled = matches!(rope_scaling, RopeScaling::Llama3 { .. });
    Description {
        layout: Box::new(layout),
        rope_factors: scaled.then(|| (0..head_width / 2).map(factor).collect()),
        ..rotary("llama", shape)
    }
}

fn qwen3(shape: &LlamaShape) -> Result<Description> {
    let scaled = matches!(shape.rope_scaling, RopeScaling::Llama3 { .. });
    ensure!(!scaled, "llama.cpp does not scale the rotary frequencies of a Qwen 3 in the way of Llama 3");
    Ok(rotary("qwen3", shape))
}

/// The tensor for the parameter `spec`, which has this index.
fn parameter(index: usize, spec: &ParameterSpec, dtype: Dtype, layout: &dyn Fn(&str) -> Layout) -> Result<GgufTensor> {
    let unknown = || format!("llama.cpp has no tensor for the parameter `{}`", spec.name);
    let (stem, kind) = spec.name.rsplit_once('.').with_context(unknown)?;
    let find = |names: &[(&'static str, &'static str)], wanted: &str| {
        names.iter().find(|(name, _)| *name == wanted).map(|(_, name)| *name)
    };
    let inside = ["transformer.h.", "model.layers."].iter().find_map(|prefix| stem.strip_prefix(prefix));
    let (name, layout) = match inside.and_then(|rest| rest.split_once('.')) {
        Some((block, rest)) => {
            let name = find(&INSIDE, rest).with_context(unknown)?;
            (format!("blk.{block}.{name}.{kind}"), layout(rest))
        }
        None => (format!("{}.{kind}", find(&OUTSIDE, stem).with_context(unknown)?), Layout::Same),
    };
    let layout = if spec.shape.len() == 2 { layout } else { Layout::Same };
    let shape = layout.shape(&spec.shape);
    let columns = shape.last().copied().unwrap_or(1);
    let dtype = match shape.len() {
        2 if name != "position_embd.weight" => Some(dtype).filter(|dtype| dtype.fits(columns)).unwrap_or(Dtype::F16),
        _ => Dtype::F32,
    };
    Ok(GgufTensor { info: TensorInfo { name, shape, dtype }, source: Source::Parameter(index, layout) })
}

impl Layout {
    /// The shape in the file of a parameter of this shape.
    fn shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::Transposed => shape.iter().rev().copied().collect(),
            Self::Same | Self::Interleaved(_) => shape.to_vec(),
        }
    }

    /// The values in the layout of the file.
    fn apply(self, tensor: Tensor) -> Tensor {
        if self == Self::Same {
            return tensor;
        }
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        let mut changed = Tensor::scratch(self.shape(&tensor.shape));
        match self {
            Self::Same => {}
            Self::Transposed => {
                for (row, values) in tensor.data.chunks_exact(columns).enumerate() {
                    for (column, value) in values.iter().enumerate() {
                        changed.data[column * rows + row] = *value;
                    }
                }
            }
            Self::Interleaved(heads) => {
                let (width, half) = (rows / heads, rows / heads / 2);
                for (row, values) in changed.data.chunks_exact_mut(columns).enumerate() {
                    let (head, within) = (row / width, row % width);
                    let from = head * width + within % 2 * half + within / 2;
                    values.copy_from_slice(&tensor.data[from * columns..(from + 1) * columns]);
                }
            }
        }
        changed
    }
}
