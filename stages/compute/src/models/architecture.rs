//! What a transformer is made of, as values. Training, decoding and the memory estimate read the same description, so a
//! new activation or normalisation is a kernel and a value.
use super::feed_forward::FeedForward;
use super::norm::Norm;
use contract::{Init, ParameterSpec};

/// A decoder-only transformer of pre-norm blocks: `x + attention(norm x)`, then `x + feed_forward(norm x)`.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// Number of blocks.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and of values. They divide `heads`; with fewer than `heads`, positions must be rotary.
    pub kv_heads: usize,
    /// Columns of the residual stream; `heads` divide them.
    pub width: usize,
    /// Columns inside the feed-forward part.
    pub inner: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub length: usize,
    /// The normalisation before each part of a block and before the head.
    pub norm: Norm,
    /// How the model knows where a token is.
    pub positions: Positions,
    /// The feed-forward part.
    pub feed_forward: FeedForward,
    /// How weights of linear layers are stored.
    pub weights: WeightLayout,
    /// Do linear layers have a bias?
    pub bias: bool,
    /// Is the head the token embedding, or a matrix of its own?
    pub tied_head: bool,
    /// Does attention stop at the start of a token's document?
    pub document_mask: bool,
    /// Names of the parameters.
    pub names: &'static Names,
}

/// How a model knows where a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// A learned vector for each position, `[length, width]`, added to the token's embedding.
    Learned,
    /// Queries and keys are rotated (Su et al. 2021).
    Rotary {
        /// Base of the frequencies.
        theta: f64,
    },
}

/// How the weights of linear layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[in, out]`, as GPT-2 has them.
    InOut,
    /// `[out, in]`, as PyTorch's `Linear` has them.
    OutIn,
}

/// Names of a model's parameters in Hugging Face's checkpoints, without `.weight` and `.bias`.
#[derive(Debug)]
pub struct Names {
    /// The token embedding.
    pub tokens: &'static str,
    /// The position embedding, for [`Positions::Learned`].
    pub positions: &'static str,
    /// What stands before a block's number.
    pub block: &'static str,
    /// The normalisation before attention.
    pub norm_1: &'static str,
    /// The projections to queries, keys and values: one for all, or one each.
    pub qkv: &'static [&'static str],
    /// The projection from the heads' outputs back to the residual stream.
    pub out: &'static str,
    /// The normalisation before the feed-forward part.
    pub norm_2: &'static str,
    /// The projections into the feed-forward part: up, or gate and up.
    pub up: &'static [&'static str],
    /// The projection back to the residual stream.
    pub down: &'static str,
    /// The last normalisation.
    pub norm: &'static str,
    /// The head, if it is not tied.
    pub head: &'static str,
}

/// Where the tensors of a linear layer are among those of a block: for each of its projections, whose outputs are side by
/// side, the matrix and then its bias, if it has one.
#[derive(Clone, Copy, Debug)]
pub struct LinearLayout {
    /// Index of the first matrix.
    pub first: usize,
    /// Number of projections.
    pub projections: usize,
    /// How matrices are stored.
    pub weights: WeightLayout,
    /// Does each projection have a bias?
    pub bias: bool,
}

/// Where the tensors of a block are.
#[derive(Clone, Copy, Debug)]
pub struct BlockLayout {
    /// The normalisation before attention.
    pub norm_1: usize,
    /// To queries, keys and values.
    pub qkv: LinearLayout,
    /// Back to the residual stream.
    pub out: LinearLayout,
    /// The normalisation before the feed-forward part.
    pub norm_2: usize,
    /// Into the feed-forward part.
    pub up: LinearLayout,
    /// Back to the residual stream.
    pub down: LinearLayout,
    /// Number of tensors.
    pub tensors: usize,
}

/// Standard deviation of initial weights.
const INIT: f32 = 0.02;

impl Architecture {
    /// # Panics
    /// If heads and widths do not fit each other, or the parts cannot be combined.
    pub fn check(&self) {
        assert!(self.heads > 0 && self.width.is_multiple_of(self.heads), "heads divide the width");
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "kv_heads divide the heads");
        let rotary = self.positions != Positions::Learned;
        assert!(!rotary || self.head_width().is_multiple_of(2), "rotary positions need heads of an even width");
        assert!(rotary || self.kv_heads == self.heads, "grouped queries need rotary positions");
        assert_eq!(self.names.up.len(), self.feed_forward.projections(), "a name for each projection");
    }

    /// Columns of a head.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Columns of all heads of keys, or of values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width()
    }

    /// Tensors before the first block: the embeddings.
    pub fn embeddings(&self) -> usize {
        if self.positions == Positions::Learned { 2 } else { 1 }
    }

    /// Index of the first tensor of block `index`, or of the last normalisation if there is no such block.
    pub fn first_of_block(&self, index: usize) -> usize {
        self.embeddings() + index * self.block().tensors
    }

    /// Index of the head's tensor.
    pub fn head(&self) -> usize {
        if self.tied_head { 0 } else { self.first_of_block(self.layers) + self.norm.tensors() }
    }

    /// Where the tensors of a block are.
    pub fn block(&self) -> BlockLayout {
        let linear = |first: usize, projections: usize| {
            let layout = LinearLayout { first, projections, weights: self.weights, bias: self.bias };
            (layout, first + projections * layout.tensors_each())
        };
        let norm_1 = 0;
        let (qkv, next) = linear(norm_1 + self.norm.tensors(), self.names.qkv.len());
        let (out, norm_2) = linear(next, 1);
        let (up, next) = linear(norm_2 + self.norm.tensors(), self.names.up.len());
        let (down, tensors) = linear(next, 1);
        BlockLayout { norm_1, qkv, out, norm_2, up, down, tensors }
    }

    /// The parameters in order, with Hugging Face's names. Matrices decay, vectors do not.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let names = self.names;
        let mut all = Specs(Vec::new());
        all.matrix(names.tokens, [self.vocabulary, self.width], INIT, false);
        if self.positions == Positions::Learned {
            all.matrix(names.positions, [self.length, self.width], INIT, false);
        }
        for index in 0..self.layers {
            self.block_parameters(&format!("{}.{index}.", names.block), &mut all);
        }
        self.norm_parameters(names.norm, &mut all);
        if !self.tied_head {
            all.matrix(names.head, [self.vocabulary, self.width], INIT, false);
        }
        all.0
    }

    /// Projections onto the residual stream start smaller, by the square root of their number.
    fn block_parameters(&self, prefix: &str, all: &mut Specs) {
        let (names, c) = (self.names, self.width);
        let onto_residual = INIT / (2.0 * self.layers as f32).sqrt();
        let linear = |all: &mut Specs, name: &str, inputs: usize, outputs: usize, deviation: f32| {
            let name = format!("{prefix}{name}");
            let shape = if self.weights == WeightLayout::InOut { [inputs, outputs] } else { [outputs, inputs] };
            all.matrix(&name, shape, deviation, true);
            if self.bias {
                all.vector(&format!("{name}.bias"), outputs, Init::Zeros);
            }
        };
        self.norm_parameters(&format!("{prefix}{}", names.norm_1), all);
        match names.qkv {
            [one] => linear(all, one, c, c + 2 * self.kv_width(), INIT),
            several => several.iter().zip([c, self.kv_width(), self.kv_width()]).for_each(|(name, outputs)| {
                linear(all, name, c, outputs, INIT);
            }),
        }
        linear(all, names.out, c, c, onto_residual);
        self.norm_parameters(&format!("{prefix}{}", names.norm_2), all);
        names.up.iter().for_each(|name| linear(all, name, c, self.inner, INIT));
        linear(all, names.down, self.inner, c, onto_residual);
    }

    fn norm_parameters(&self, name: &str, all: &mut Specs) {
        all.vector(&format!("{name}.weight"), self.width, Init::Ones);
        if self.norm.tensors() > 1 {
            all.vector(&format!("{name}.bias"), self.width, Init::Zeros);
        }
    }

    /// FLOPs of a trained token, counted as PaLM does: 6 × the weights of products + 12 × layers × length × width.
    pub fn flops_per_token(&self) -> f64 {
        let (c, inner) = (self.width, self.inner);
        let attention = 2 * c * c + 2 * c * self.kv_width();
        let feed_forward = (self.feed_forward.projections() + 1) * c * inner;
        let in_products = self.layers * (attention + feed_forward) + self.vocabulary * c;
        6.0 * in_products as f64 + 12.0 * (self.layers * self.length * c) as f64
    }
}

impl LinearLayout {
    /// Tensors of a projection.
    pub fn tensors_each(&self) -> usize {
        1 + usize::from(self.bias)
    }

    /// Index of the matrix of a projection; its bias comes next.
    pub fn matrix(&self, projection: usize) -> usize {
        self.first + projection * self.tensors_each()
    }
}

/// Parameters as they are listed.
struct Specs(Vec<ParameterSpec>);

impl Specs {
    fn matrix(&mut self, name: &str, shape: [usize; 2], deviation: f32, hidden: bool) {
        let (name, init) = (format!("{name}.weight"), Init::Normal(deviation));
        self.0.push(ParameterSpec { name, shape: shape.into(), decay: true, hidden, init });
    }

    fn vector(&mut self, name: &str, size: usize, init: Init) {
        let name = name.to_owned();
        self.0.push(ParameterSpec { name, shape: [size].into(), decay: false, hidden: false, init });
    }
}
