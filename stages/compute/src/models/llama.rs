//! Llama (Touvron et al. 2023) with Hugging Face's names and layouts: RMS normalisation, rotary positions, grouped-query
//! attention, SwiGLU, no biases; the head is a matrix of its own or the embedding's.
mod decoder;
mod layer;

use crate::kernels::rms_norm;
use crate::kernels::rotary::{Groups, Rotary};
use crate::kernels::sum::add;
use crate::models::{ActivationMemory, Decoder, Forward, Model, saved};
use contract::{Batch, Init, ModelFacts, ParameterSpec, Parameters, Precision, Result, Tape, Tensor, Turn};
use layer::{Layer, Place};
use serde_json::json;
use std::sync::Arc;

/// What shape of Llama it is.
#[derive(Clone, Debug)]
pub struct LlamaShape {
    /// Transformer blocks.
    pub layers: usize,
    /// Heads of queries; they divide the width, into heads of an even width.
    pub heads: usize,
    /// Heads of keys and of values; they divide `heads`.
    pub kv_heads: usize,
    /// Columns of the residual stream.
    pub width: usize,
    /// Columns inside the feed-forward part.
    pub feed_forward: usize,
    /// Token ids.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub length: usize,
    /// Is the head the token embedding, or a matrix of its own?
    pub tied_head: bool,
    /// Added to the mean square in normalisations.
    pub rms_epsilon: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Id of the end-of-text token, which goes into the configuration.
    pub end_of_text: u32,
    /// Does attention stop at the start of a token's document?
    pub document_mask: bool,
}

impl LlamaShape {
    fn groups(&self) -> Groups {
        Groups { heads: self.heads, kv_heads: self.kv_heads }
    }

    /// Columns of all heads of keys.
    fn narrow(&self) -> usize {
        self.kv_heads * (self.width / self.heads)
    }
}

/// The model: a shape, and what follows from it.
pub struct Llama {
    shape: Arc<LlamaShape>,
    rotary: Arc<Rotary>,
    facts: ModelFacts,
}

impl Llama {
    /// # Panics
    /// If the heads do not divide the width into an even width each, or `kv_heads` does not divide the heads.
    pub fn new(shape: LlamaShape) -> Self {
        assert!(shape.heads > 0 && shape.width.is_multiple_of(2 * shape.heads), "heads of an even width");
        assert!(shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads), "kv_heads divide the heads");
        let rotary = Rotary::new(shape.width / shape.heads, shape.length, shape.rope_theta);
        Self { facts: facts(&shape), rotary: Arc::new(rotary), shape: Arc::new(shape) }
    }

    /// The same, with the operands of its products rounded to `precision`.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { facts: ModelFacts { precision, ..self.facts }, ..self }
    }
}

fn facts(shape: &LlamaShape) -> ModelFacts {
    let &LlamaShape { layers, heads, kv_heads, width, feed_forward, vocabulary, length, .. } = shape;
    let mut parameters = vec![spec("model.embed_tokens.weight", &[vocabulary, width], Init::Normal(0.02))];
    for index in 0..layers {
        parameters.extend(layer::specs(index, shape));
    }
    parameters.push(spec("model.norm.weight", &[width], Init::Ones));
    if !shape.tied_head {
        parameters.push(spec("lm_head.weight", &[vocabulary, width], Init::Normal(0.02)));
    }
    let in_layer = 2 * width * width + 2 * width * shape.narrow() + 3 * width * feed_forward;
    let in_products = layers * in_layer + vocabulary * width;
    ModelFacts {
        head: if shape.tied_head { 0 } else { parameters.len() - 1 },
        parameters,
        flops_per_token: 6.0 * in_products as f64 + 12.0 * (layers * length * width) as f64,
        precision: Precision::F32,
        config: json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "hidden_size": width,
            "intermediate_size": feed_forward,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": width / heads,
            "hidden_act": "silu",
            "rms_norm_eps": shape.rms_epsilon,
            "rope_theta": shape.rope_theta,
            "attention_bias": false,
            "mlp_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "bos_token_id": shape.end_of_text,
            "eos_token_id": shape.end_of_text,
            "tie_word_embeddings": shape.tied_head,
            "torch_dtype": "float32",
        }),
        summary: format!("Llama, {layers} layers, width {width}, {heads} heads, {kv_heads} of keys and values"),
    }
}

/// Matrices decay, vectors do not.
fn spec(name: &str, shape: &[usize], init: Init) -> ParameterSpec {
    ParameterSpec { name: name.into(), shape: shape.into(), decay: shape.len() > 1, hidden: false, init }
}

impl Model for Llama {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn forward(&self, parameters: &Parameters, batch: &Batch, keep: bool) -> Forward {
        let (shape, all) = (&self.shape, &parameters.0);
        assert_eq!(all.len(), self.facts.parameters.len(), "the parameters are this model's");
        assert!(batch.length <= shape.length, "sequences are no longer than the model's positions");
        let (shape_of, rotary) = (Arc::clone(shape), Arc::clone(&self.rotary));
        let place = Place {
            batch: batch.clone(),
            shape: shape_of,
            rotary,
            precision: self.facts.precision,
            // What nothing waits for is not rounded.
            waiting: if keep { self.facts.precision } else { Precision::F32 },
        };
        let (rows, width) = (place.rows(), shape.width);
        let mut x_rc = Tensor::scratch([rows, width]);
        for (row, token) in x_rc.data.chunks_exact_mut(width).zip(&batch.tokens[..]) {
            row.copy_from_slice(&all[0].data[*token as usize * width..][..width]);
        }
        let mut layers = Vec::new();
        for weights in all[1..=shape.layers * layer::TENSORS].chunks_exact(layer::TENSORS) {
            let (out_rc, layer) = Layer::forward(&place, weights, x_rc);
            x_rc = out_rc;
            if keep {
                layers.push(layer);
            }
        }
        let gain = &all[1 + shape.layers * layer::TENSORS];
        let (mut hidden, mut factors) = (Tensor::scratch([rows, width]), Tensor::scratch([rows]));
        rms_norm::forward(&x_rc.data, &gain.data, shape.rms_epsilon as f32, &mut hidden.data, &mut factors.data);
        let tape = keep.then(|| -> Box<dyn Tape> {
            let last = Some(Last { x_rc, factors, gain: Arc::clone(gain) });
            Box::new(LlamaTape { place, layers, last, d_rc: None, d_head: None })
        });
        Forward { hidden, tape }
    }

    fn activations(&self, sequences: usize, length: usize) -> ActivationMemory {
        let (&LlamaShape { layers, heads, width: c, feed_forward: f, .. }, rows) = (&*self.shape, sequences * length);
        // Each layer keeps its `Layer`, the tape its input and that of the head.
        let activations = saved::floats(self.facts.precision, rows * (3 * c + 3 * c + 2 * f));
        let layer = rows * (2 + heads) + activations;
        // As GPT-2: the gradient at SwiGLU and then its output, whole and halved, or the gradients of queries, keys and values
        // and those behind the turn of positions, for which gate and up have gone.
        let (feed_forward, attention) = match self.facts.precision {
            Precision::F32 => (f, (2 * c).saturating_sub(2 * f)),
            Precision::Bf16 => (3 * f / 2, (7 * c / 2).saturating_sub(f)),
        };
        let waiting = 3 * c * f + c * c;
        let beside = (rows * feed_forward).max(rows * attention + waiting);
        let all = waiting + c * (c + 2 * self.shape.narrow());
        ActivationMemory {
            saved: layers * layer + rows * (2 * c + 1),
            temporary: beside + saved::waiting_gradients(layers, layer, all),
        }
    }

    fn decoder(&self, parameters: Parameters) -> Decoder {
        assert_eq!(parameters.0.len(), self.facts.parameters.len(), "the parameters are this model's");
        decoder::decoder(&self.shape, &self.rotary, self.facts.head, parameters)
    }
}

/// The final normalisation.
struct Last {
    x_rc: Tensor,
    factors: Tensor,
    gain: Arc<Tensor>,
}

struct LlamaTape {
    place: Place,
    layers: Vec<Layer>,
    last: Option<Last>,
    /// Gradient at the hidden states, then at each layer's output on the way down.
    d_rc: Option<Tensor>,
    d_head: Option<Tensor>,
}

impl Tape for LlamaTape {
    fn start(&mut self, hidden: Tensor, head: Tensor) {
        (self.d_rc, self.d_head) = (Some(hidden), Some(head));
    }

    fn turn(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn> {
        let mut d_rc = self.d_rc.take().expect("start comes before turn, and no turn after the last");
        let (width, tied) = (self.place.shape.width, self.place.shape.tied_head);
        if let Some(Last { x_rc, factors, gain }) = self.last.take() {
            let d_out_rc = std::mem::replace(&mut d_rc, Tensor::zeros(x_rc.shape.clone()));
            let mut d_gain = Tensor::scratch([width]);
            let (x, d_x) = (&x_rc.data, &mut d_rc.data);
            rms_norm::backward(x, &gain.data, &factors.data, &d_out_rc.data, d_x, &mut d_gain.data);
            let index = 1 + self.layers.len() * layer::TENSORS;
            give(index, d_gain);
            if !tied && let Some(d_head) = self.d_head.take() {
                give(index + 1, d_head);
            }
        }
        if let Some(layer) = self.layers.pop() {
            let first = 1 + self.layers.len() * layer::TENSORS;
            layer.backward(&self.place, &mut d_rc, &mut |index, gradient| give(first + index, gradient));
            self.d_rc = Some(d_rc);
            return Ok(Turn::More);
        }
        // A tied head has left its share in what becomes the embedding's gradient.
        let mut d_tokens = self.d_head.take().unwrap_or_else(|| Tensor::zeros([self.place.shape.vocabulary, width]));
        for (d, token) in d_rc.data.chunks_exact(width).zip(&self.place.batch.tokens[..]) {
            add(&mut d_tokens.data[*token as usize * width..][..width], d);
        }
        give(0, d_tokens);
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untied_head_is_a_tensor_of_its_own() {
        let shape = LlamaShape {
            layers: 2,
            heads: 8,
            kv_heads: 2,
            width: 64,
            feed_forward: 96,
            vocabulary: 100,
            length: 16,
            tied_head: false,
            rms_epsilon: 1e-5,
            rope_theta: 10_000.0,
            end_of_text: 0,
            document_mask: false,
        };
        let untied = Llama::new(shape.clone()).facts().clone();
        let tied = Llama::new(LlamaShape { tied_head: true, ..shape }).facts().clone();
        assert_eq!((untied.head, &*untied.parameters[untied.head].name), (20, "lm_head.weight"));
        assert_eq!((tied.head, &*tied.parameters[tied.head].name), (0, "model.embed_tokens.weight"));
        assert_eq!(untied.parameter_count() - tied.parameter_count(), 6_400);
        assert_eq!(untied.flops_per_token, tied.flops_per_token);
        assert_eq!(untied.parameters[3].name, "model.layers.0.self_attn.k_proj.weight");
        assert_eq!(untied.parameters[3].shape, [16, 64]);
    }
}
