//! GPT-2 (Radford et al. 2019) with Hugging Face's names and layouts.
mod decoder;
mod layer;

use crate::kernels::{embedding, layer_norm};
use crate::models::{ActivationMemory, Decoder, Forward, Model, saved};
use contract::{Batch, Init, ModelFacts, ParameterSpec, Parameters, Precision, Result, Tape, Tensor, Turn};
use layer::{Layer, Place};
use serde_json::json;
use std::sync::Arc;

/// The tensors before the first layer: token and position embeddings.
const EMBEDDINGS: usize = 2;

/// What shape of GPT-2 it is.
#[derive(Clone, Copy, Debug)]
pub struct Gpt2Shape {
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Columns of the residual stream.
    pub width: usize,
    /// Columns inside the feed-forward part, usually 4 × width.
    pub feed_forward: usize,
    /// Token ids.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub length: usize,
    /// Id of the end-of-text token, which goes into the configuration.
    pub end_of_text: u32,
    /// Does attention stop at the start of a token's document?
    pub document_mask: bool,
}

/// The model: a shape, and what follows from it.
pub struct Gpt2 {
    shape: Gpt2Shape,
    facts: ModelFacts,
}

impl Gpt2 {
    /// # Panics
    /// If the heads do not divide the width.
    pub fn new(shape: Gpt2Shape) -> Self {
        assert!(shape.heads > 0 && shape.width.is_multiple_of(shape.heads), "heads divide the width");
        Self { facts: facts(&shape), shape }
    }

    /// The same model with the operands of its products rounded to `precision`.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { facts: ModelFacts { precision, ..self.facts }, ..self }
    }
}

fn facts(shape: &Gpt2Shape) -> ModelFacts {
    let &Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text, .. } = shape;
    let mut parameters = vec![
        spec("transformer.wte.weight", &[vocabulary, width], Init::Normal(0.02)),
        spec("transformer.wpe.weight", &[length, width], Init::Normal(0.02)),
    ];
    for index in 0..layers {
        parameters.extend(layer::specs(index, shape));
    }
    parameters.push(spec("transformer.ln_f.weight", &[width], Init::Ones));
    parameters.push(spec("transformer.ln_f.bias", &[width], Init::Zeros));
    let in_products = layers * (4 * width * width + 2 * width * feed_forward) + vocabulary * width;
    ModelFacts {
        parameters,
        head: 0,
        flops_per_token: 6.0 * in_products as f64 + 12.0 * (layers * length * width) as f64,
        precision: Precision::F32,
        config: json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": vocabulary,
            "n_positions": length,
            "n_ctx": length,
            "n_embd": width,
            "n_layer": layers,
            "n_head": heads,
            "n_inner": feed_forward,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "tie_word_embeddings": true,
            "torch_dtype": "float32",
        }),
        summary: format!("GPT-2, {layers} layers, width {width}, {heads} heads"),
    }
}

/// Matrices decay, vectors do not.
fn spec(name: &str, shape: &[usize], init: Init) -> ParameterSpec {
    ParameterSpec { name: name.into(), shape: shape.into(), decay: shape.len() > 1, hidden: false, init }
}

impl Model for Gpt2 {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn forward(&self, parameters: &Parameters, batch: &Batch, keep: bool) -> Forward {
        let (shape, all) = (&self.shape, &parameters.0);
        assert_eq!(all.len(), self.facts.parameters.len(), "the parameters are this model's");
        assert!(batch.length <= shape.length, "sequences are no longer than the model's positions");
        let place = Place {
            batch: batch.clone(),
            heads: shape.heads,
            width: shape.width,
            feed_forward: shape.feed_forward,
            document_mask: shape.document_mask,
            precision: self.facts.precision,
            // What nothing waits for is not rounded.
            waiting: if keep { self.facts.precision } else { Precision::F32 },
        };
        let rows = place.rows();
        let mut x_rc = Tensor::scratch([rows, shape.width]);
        embedding::forward(&batch.tokens, batch.length, &all[0].data, &all[1].data, shape.width, &mut x_rc.data);
        let mut layers = Vec::new();
        for weights in all[EMBEDDINGS..all.len() - 2].chunks_exact(layer::TENSORS) {
            let (out_rc, layer) = Layer::forward(&place, weights, x_rc);
            x_rc = out_rc;
            if keep {
                layers.push(layer);
            }
        }
        let [gain, bias] = [&all[all.len() - 2], &all[all.len() - 1]];
        let (mut hidden, mut statistics) = (Tensor::scratch([rows, shape.width]), Tensor::scratch([rows, 2]));
        layer_norm::forward(&x_rc.data, &gain.data, &bias.data, &mut hidden.data, &mut statistics.data);
        let tape = keep.then(|| -> Box<dyn Tape> {
            Box::new(Gpt2Tape {
                place,
                layers,
                last: Some(Last { x_rc, statistics, gain: Arc::clone(gain) }),
                positions: shape.length,
                d_rc: None,
                d_head: None,
            })
        });
        Forward { hidden, tape }
    }

    fn activations(&self, sequences: usize, length: usize) -> ActivationMemory {
        let (Gpt2Shape { layers, heads, width: c, feed_forward: f, .. }, rows) = (self.shape, sequences * length);
        // Each layer keeps its `Layer`, the tape its input and that of the head.
        let activations = saved::floats(self.facts.precision, rows * (3 * c + 3 * c + f));
        let layer = rows * (4 + heads) + activations;
        // The gradient and that at the normalised activations lie where the tape's input and the head's were. Beside them
        // GELU and its gradient, or the gradient at what attention reads (and its output, no longer halved), for which
        // half of the layer has gone, while the gradients of the matrices behind it wait.
        let attention = match self.facts.precision {
            Precision::F32 => (2 * c).saturating_sub(f),
            Precision::Bf16 => (3 * c).saturating_sub(f / 2),
        };
        let waiting = 2 * c * f + c * c;
        let beside = (rows * 2 * f).max(rows * attention + waiting);
        ActivationMemory {
            saved: layers * layer + rows * (2 * c + 2),
            temporary: beside + saved::waiting_gradients(layers, layer, waiting + 3 * c * c),
        }
    }

    fn decoder(&self, parameters: Parameters) -> Decoder {
        assert_eq!(parameters.0.len(), self.facts.parameters.len(), "the parameters are this model's");
        decoder::decoder(&self.shape, parameters)
    }
}

/// The final normalisation.
struct Last {
    x_rc: Tensor,
    statistics: Tensor,
    gain: Arc<Tensor>,
}

struct Gpt2Tape {
    place: Place,
    layers: Vec<Layer>,
    last: Option<Last>,
    /// Rows of the position embedding.
    positions: usize,
    /// Gradient at the hidden states, then at each layer's output on the way down.
    d_rc: Option<Tensor>,
    d_head: Option<Tensor>,
}

impl Tape for Gpt2Tape {
    fn start(&mut self, hidden: Tensor, head: Tensor) {
        (self.d_rc, self.d_head) = (Some(hidden), Some(head));
    }

    fn turn(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn> {
        let mut d_rc = self.d_rc.take().expect("start comes before turn, and no turn after the last");
        if let Some(Last { x_rc, statistics, gain }) = self.last.take() {
            let d_out_rc = std::mem::replace(&mut d_rc, Tensor::zeros(x_rc.shape.clone()));
            let mut gradients = [(); 2].map(|()| Tensor::scratch([self.place.width]));
            let [d_gain, d_bias] = &mut gradients;
            let (x, d_x) = (&x_rc.data, &mut d_rc.data);
            layer_norm::backward(
                x,
                &gain.data,
                &statistics.data,
                &d_out_rc.data,
                d_x,
                &mut d_gain.data,
                &mut d_bias.data,
            );
            let first = EMBEDDINGS + self.layers.len() * layer::TENSORS;
            for (index, gradient) in gradients.into_iter().enumerate() {
                give(first + index, gradient);
            }
        }
        if let Some(layer) = self.layers.pop() {
            let first = EMBEDDINGS + self.layers.len() * layer::TENSORS;
            layer.backward(&self.place, &mut d_rc, &mut |index, gradient| give(first + index, gradient));
            self.d_rc = Some(d_rc);
            return Ok(Turn::More);
        }
        let width = self.place.width;
        let mut d_tokens = self.d_head.take().expect("start comes before turn");
        let mut d_positions = Tensor::scratch([self.positions, width]);
        let (tokens, length) = (&self.place.batch.tokens, self.place.batch.length);
        embedding::backward(tokens, length, &d_rc.data, width, &mut d_tokens.data, &mut d_positions.data);
        give(0, d_tokens);
        give(1, d_positions);
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(layers: usize, heads: usize, width: usize, vocabulary: usize, length: usize) -> Gpt2Shape {
        let (feed_forward, end_of_text, document_mask) = (4 * width, 0, false);
        Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text, document_mask }
    }

    #[test]
    fn flops_are_counted_as_the_project_counts_them() {
        for (shape, millions) in [
            (shape(2, 8, 256, 10_000, 128), 25.6),
            (shape(6, 6, 384, 16_384, 256), 108.5),
            (shape(12, 12, 768, 50_257, 256), 769.0),
        ] {
            let flops = Gpt2::new(shape).facts().flops_per_token;
            assert!((flops / 1e6 / millions - 1.0).abs() < 1e-3, "{flops}");
        }
    }

    #[test]
    fn gpt2_has_its_124_million_parameters_and_names() {
        let model = Gpt2::new(shape(12, 12, 768, 50_257, 1024));
        let facts = model.facts();
        assert_eq!(facts.parameter_count(), 124_439_808);
        assert_eq!(facts.parameters.len(), 148);
        assert_eq!(facts.parameters[2 + 12 + 10].name, "transformer.h.1.mlp.c_proj.weight");
        assert_eq!(facts.parameters[2 + 12 + 10].shape, [3072, 768]);
        assert_eq!(facts.parameters[147].name, "transformer.ln_f.bias");
        assert!(facts.parameters.iter().all(|p| p.decay == (p.shape.len() == 2)));
    }
}
