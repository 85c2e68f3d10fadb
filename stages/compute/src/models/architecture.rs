//! The description of a transformer. Training, decoding and the memory estimate all read it, so a new activation or
//! normalisation is one kernel and one enum variant.
use super::activation::Activation;
use super::norm::Norm;
use crate::kernels::rotary::RopeScaling;
use contract::{Group, Init, ParameterSpec};

/// A decoder-only transformer of pre-norm blocks: `x + attention(norm x)`, then `x + feed_forward(norm x)`.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key heads and of value heads; divides `heads`. If smaller than `heads`, positions must be rotary.
    pub kv_heads: usize,
    /// Columns per head, usually `width / heads`. If another number, positions must be rotary.
    pub head_width: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward layer.
    pub inner: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub length: usize,
    /// The normalisation before each part of a block and before the head.
    pub norm: Norm,
    /// The normalisation of each query head and each key head, before they are rotated (Henry et al. 2020), with
    /// parameters that all heads of a block share.
    pub query_key_norm: Option<Norm>,
    /// If set, embeddings are normalised by RMSNorm with a gain of 1 and this epsilon before the first block.
    pub embedding_epsilon: Option<f32>,
    /// If set, logits are limited to ±this number: `cap · tanh(logits / cap)` (Gemma Team 2024).
    pub logit_softcap: Option<f32>,
    /// How positions are encoded.
    pub positions: Positions,
    /// The activation function of the feed-forward layer.
    pub activation: Activation,
    /// How the weights of linear layers are stored.
    pub weights: WeightLayout,
    /// Which matrices linear layers consist of, for an optimizer that updates matrices.
    pub matrices: Matrices,
    /// Whether linear layers have a bias.
    pub bias: bool,
    /// Whether the head is the token embedding instead of a separate matrix.
    pub tied_head: bool,
    /// The distributions of the initial weights.
    pub initial: InitialWeights,
    /// Names of the parameters.
    pub names: &'static Names,
}

/// The distributions of a model's initial weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InitialWeights {
    /// Of the token and position embeddings.
    pub embeddings: Init,
    /// Of the head, if it is not tied.
    pub head: Init,
    /// Of the projections inside blocks, except those onto the residual stream.
    pub projections: Init,
    /// Of the projections onto the residual stream.
    pub onto_residual: Init,
}

/// How a model encodes positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector for each position, `[length, width]`, added to the token's embedding.
    Learned,
    /// Queries and keys are rotated (Su et al. 2021).
    Rotary {
        /// Base of the rotary frequencies.
        theta: f64,
        /// How the frequencies are scaled.
        scaling: RopeScaling,
        /// Whether the angles are negative, as in NanoChat.
        clockwise: bool,
    },
}

/// How the weights of linear layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[in, out]`, as in Hugging Face's GPT-2.
    InOut,
    /// `[out, in]`, as in PyTorch's `Linear`.
    OutIn,
}

/// The matrices of linear layers that optimizers update one by one ([`Group::Matrix`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrices {
    /// Those of queries, keys and values, and each other projection as a whole.
    Whole,
    /// Those of each head, and of each group of hidden units that is as wide as a head.
    PerHead,
}

/// Names of a model's parameters in Hugging Face's checkpoints, without `.weight` and `.bias`.
#[derive(Debug)]
pub struct Names {
    /// The token embedding.
    pub tokens: &'static str,
    /// The position embedding, for [`Positions::Learned`].
    pub positions: &'static str,
    /// The prefix before the index of a block.
    pub block: &'static str,
    /// The normalisation before attention.
    pub norm_1: &'static str,
    /// The projections to queries, keys and values: one combined, or three.
    pub qkv: &'static [&'static str],
    /// The normalisations of query heads and of key heads, for [`Architecture::query_key_norm`].
    pub query_key_norms: [&'static str; 2],
    /// The projection from the heads' outputs back to the residual stream.
    pub out: &'static str,
    /// The normalisation before the feed-forward layer.
    pub norm_2: &'static str,
    /// The projections into the feed-forward layer: up, or gate and up.
    pub up: &'static [&'static str],
    /// The projection back to the residual stream.
    pub down: &'static str,
    /// The final normalisation.
    pub norm: &'static str,
    /// The head, if it is not tied.
    pub head: &'static str,
}

/// The indices of a linear layer's tensors within a block. For each projection (their outputs are concatenated) there
/// is a matrix, followed by its bias if it has one.
#[derive(Clone, Copy, Debug)]
pub struct LinearLayout {
    /// Index of the first matrix.
    pub first: usize,
    /// Number of projections.
    pub projections: usize,
    /// How the matrices are stored.
    pub weights: WeightLayout,
    /// Whether each projection has a bias.
    pub bias: bool,
}

/// The indices of the tensors of a block.
#[derive(Clone, Copy, Debug)]
pub struct BlockLayout {
    /// The normalisation before attention.
    pub norm_1: usize,
    /// The projections to queries, keys and values.
    pub qkv: LinearLayout,
    /// The normalisations of query heads and of key heads, if there are any.
    pub query_key_norms: [usize; 2],
    /// The projection back to the residual stream.
    pub out: LinearLayout,
    /// The normalisation before the feed-forward layer.
    pub norm_2: usize,
    /// The projections into the feed-forward layer.
    pub up: LinearLayout,
    /// The projection back to the residual stream.
    pub down: LinearLayout,
    /// Number of tensors.
    pub tensors: usize,
}

impl InitialWeights {
    /// As in GPT-2: normally distributed with standard deviation 0.02; projections onto the residual stream are smaller
    /// by the square root of their number.
    pub fn gpt2(layers: usize) -> Self {
        let normal = Init::Normal(0.02);
        let onto_residual = Init::Normal(0.02 / (2.0 * layers as f32).sqrt());
        Self { embeddings: normal, head: normal, projections: normal, onto_residual }
    }
}

impl Architecture {
    /// # Panics
    /// If heads and widths do not match, or the parts cannot be combined.
    pub fn check(&self) {
        assert!(self.heads > 0, "there are heads");
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "kv_heads must divide heads");
        let rotary = self.positions != Positions::Learned;
        assert!(!rotary || self.head_width.is_multiple_of(2), "rotary positions need an even head width");
        assert!(rotary || self.kv_heads == self.heads, "grouped queries need rotary positions");
        assert!(rotary || self.query_width() == self.width, "heads of another width need rotary positions");
        assert_eq!(self.names.up.len(), self.activation.projections(), "one name per projection");
    }

    /// Columns of all query heads.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// The normalisation of the embeddings.
    pub fn embedding_norm(&self) -> Option<Norm> {
        self.embedding_epsilon.map(|epsilon| Norm::UnitRms { epsilon })
    }

    /// Columns of all key heads, which is also that of all value heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Number of tensors before the first block: the embeddings.
    pub fn embeddings(&self) -> usize {
        if self.positions == Positions::Learned { 2 } else { 1 }
    }

    /// Index of the first tensor of block `index`; for `index` equal to `layers`, that of the final normalisation.
    pub fn first_of_block(&self, index: usize) -> usize {
        self.embeddings() + index * self.block().tensors
    }

    /// Index of the head's tensor.
    pub fn head(&self) -> usize {
        if self.tied_head { 0 } else { self.first_of_block(self.layers) + self.norm.tensors() }
    }

    /// The indices of the tensors of a block.
    pub fn block(&self) -> BlockLayout {
        let linear = |first: usize, projections: usize| {
            let layout = LinearLayout { first, projections, weights: self.weights, bias: self.bias };
            (layout, first + projections * layout.tensors_each())
        };
        let norm_1 = 0;
        let (qkv, next) = linear(norm_1 + self.norm.tensors(), self.names.qkv.len());
        let per_head = self.query_key_norm.map_or(0, Norm::tensors);
        let query_key_norms = [next, next + per_head];
        let (out, norm_2) = linear(next + 2 * per_head, 1);
        let (up, next) = linear(norm_2 + self.norm.tensors(), self.names.up.len());
        let (down, tensors) = linear(next, 1);
        BlockLayout { norm_1, qkv, query_key_norms, out, norm_2, up, down, tensors }
    }

    /// The parameters in order, with Hugging Face's names. Weight decay applies to matrices, not to vectors.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let names = self.names;
        let mut all = Specs(Vec::new());
        all.matrix(names.tokens, [self.vocabulary, self.width], self.initial.embeddings, Group::Embedding);
        if self.positions == Positions::Learned {
            all.matrix(names.positions, [self.length, self.width], self.initial.embeddings, Group::Embedding);
        }
        for index in 0..self.layers {
            self.block_parameters(&format!("{}.{index}.", names.block), &mut all);
        }
        norm_parameters(self.norm, names.norm, self.width, &mut all);
        if !self.tied_head {
            all.matrix(names.head, [self.vocabulary, self.width], self.initial.head, Group::Head);
        }
        all.0
    }

    /// Adds the parameters of a block.
    fn block_parameters(&self, prefix: &str, all: &mut Specs) {
        let (names, c, q, kv) = (self.names, self.width, self.query_width(), self.kv_width());
        let InitialWeights { projections, onto_residual, .. } = self.initial;
        let linear = |all: &mut Specs, name: &str, [inputs, outputs]: [usize; 2], matrix: [usize; 2], init: Init| {
            let name = format!("{prefix}{name}");
            let stored = |[inputs, outputs]: [usize; 2]| match self.weights {
                WeightLayout::InOut => [inputs, outputs],
                WeightLayout::OutIn => [outputs, inputs],
            };
            all.matrix(&name, stored([inputs, outputs]), init, Group::Matrix(stored(matrix)));
            if self.bias {
                all.vector(&format!("{name}.bias"), outputs, Init::Zeros);
            }
        };
        let side = |whole: usize| match self.matrices {
            Matrices::Whole => whole,
            Matrices::PerHead => self.head_width,
        };
        norm_parameters(self.norm, &format!("{prefix}{}", names.norm_1), c, all);
        match names.qkv {
            [one] => linear(all, one, [c, q + 2 * kv], [c, side(q)], projections),
            three => three.iter().zip([q, kv, kv]).for_each(|(name, outputs)| {
                linear(all, name, [c, outputs], [c, side(outputs)], projections);
            }),
        }
        for (norm, name) in self.query_key_norm.iter().flat_map(|norm| names.query_key_norms.map(|name| (norm, name))) {
            norm_parameters(*norm, &format!("{prefix}{name}"), self.head_width, all);
        }
        linear(all, names.out, [q, c], [side(q), c], onto_residual);
        norm_parameters(self.norm, &format!("{prefix}{}", names.norm_2), c, all);
        names.up.iter().for_each(|name| linear(all, name, [c, self.inner], [c, side(self.inner)], projections));
        linear(all, names.down, [self.inner, c], [side(self.inner), c], onto_residual);
    }

    /// FLOPs per training token, counted as in PaLM: 6 × the weights of matrix products + 12 × layers × length × width
    /// of all query heads.
    pub fn flops_per_token(&self) -> f64 {
        let (c, q, inner) = (self.width, self.query_width(), self.inner);
        let attention = 2 * c * q + 2 * c * self.kv_width();
        let feed_forward = (self.activation.projections() + 1) * c * inner;
        let in_products = self.layers * (attention + feed_forward) + self.vocabulary * c;
        6.0 * in_products as f64 + 12.0 * (self.layers * self.length * q) as f64
    }
}

impl LinearLayout {
    /// Number of tensors per projection.
    pub fn tensors_each(&self) -> usize {
        1 + usize::from(self.bias)
    }

    /// Index of the matrix of a projection; its bias follows.
    pub fn matrix(&self, projection: usize) -> usize {
        self.first + projection * self.tensors_each()
    }
}

fn norm_parameters(norm: Norm, name: &str, width: usize, all: &mut Specs) {
    if norm.tensors() > 0 {
        all.vector(&format!("{name}.weight"), width, Init::Ones);
    }
    if norm.tensors() > 1 {
        all.vector(&format!("{name}.bias"), width, Init::Zeros);
    }
}

/// Collects parameters in order.
struct Specs(Vec<ParameterSpec>);

impl Specs {
    fn matrix(&mut self, name: &str, shape: [usize; 2], init: Init, group: Group) {
        let name = format!("{name}.weight");
        self.0.push(ParameterSpec { name, shape: shape.into(), group, init });
    }

    fn vector(&mut self, name: &str, size: usize, init: Init) {
        let name = name.to_owned();
        self.0.push(ParameterSpec { name, shape: [size].into(), group: Group::Vector, init });
    }
}
