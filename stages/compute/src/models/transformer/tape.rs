//! The backward pass of a transformer, one block per call.
use super::SavedBlock;
use super::context::BlockContext;
use crate::kernels::embedding;
use crate::kernels::sum::add;
use crate::models::architecture::Positions;
use crate::models::saved::SavedActivation;
use contract::parameters::splitmix64;
use contract::{Result, Tape, Tensor, Turn};
use std::sync::Arc;

/// The activations that the final normalisation saves for backward.
pub struct LastNorm {
    pub x_rc: Tensor,
    pub statistics: Tensor,
    pub parameters: Vec<Arc<Tensor>>,
}

/// The activations that the normalisation of the embeddings saves for backward.
pub struct EmbeddingNorm {
    pub x_rc: SavedActivation,
    pub statistics: Tensor,
}

/// The saved activations of a batch.
pub struct TransformerTape {
    context: BlockContext,
    /// See [`Tape::round_with`].
    key: u64,
    /// If the embeddings are normalised.
    first: Option<EmbeddingNorm>,
    blocks: Vec<SavedBlock>,
    last: Option<LastNorm>,
    /// Gradient of the hidden states, then of the output of each block, from the last to the first.
    d_rc: Option<Tensor>,
    /// Gradient of the head's matrix.
    d_head: Option<Tensor>,
}

impl TransformerTape {
    /// A tape of the activations that a forward pass has saved.
    pub fn new(context: BlockContext, first: Option<EmbeddingNorm>, blocks: Vec<SavedBlock>, last: LastNorm) -> Self {
        Self { context, key: 0, first, blocks, last: Some(last), d_rc: None, d_head: None }
    }

    /// Backward of the final normalisation. Also passes on the gradient of an untied head, which follows it in
    /// parameter order.
    fn last_norm(&mut self, d_rc: &mut Tensor, give: &mut dyn FnMut(usize, Tensor)) {
        let Some(LastNorm { x_rc, statistics, parameters }) = self.last.take() else { return };
        let architecture = &self.context.architecture;
        let d_out_rc = std::mem::replace(d_rc, Tensor::zeros(x_rc.shape.clone()));
        let first = architecture.first_of_block(architecture.layers);
        let (x, d_out, d_x) = (&x_rc.data, &d_out_rc.data, &mut d_rc.data);
        architecture.norm.backward(
            &parameters,
            architecture.width,
            x,
            &statistics.data,
            d_out,
            d_x,
            &mut |index, gradient| {
                give(first + index, gradient);
            },
        );
        if !architecture.tied_head
            && let Some(d_head) = self.d_head.take()
        {
            give(architecture.head(), d_head);
        }
    }

    /// Backward of the normalisation of the embeddings.
    fn first_norm(&mut self, d_rc: &mut Tensor) {
        let (Some(norm), Some(EmbeddingNorm { x_rc, statistics })) =
            (self.context.architecture.embedding_norm(), self.first.take())
        else {
            return;
        };
        let (x_rc, width) = (x_rc.widen(), self.context.architecture.width);
        let d_out_rc = std::mem::replace(d_rc, Tensor::zeros(x_rc.shape.clone()));
        norm.backward(&[], width, &x_rc.data, &statistics.data, &d_out_rc.data, &mut d_rc.data, &mut |_, _| {});
    }

    /// Backward of the embeddings. If the head is tied, their gradient is added to that of the head.
    fn embeddings(&mut self, d_rc: &Tensor, give: &mut dyn FnMut(usize, Tensor)) {
        let (architecture, batch) = (&self.context.architecture, &self.context.batch);
        let width = architecture.width;
        let mut d_tokens = self.d_head.take().unwrap_or_else(|| Tensor::zeros([architecture.vocabulary, width]));
        match architecture.positions {
            Positions::Learned => {
                let mut d_positions = Tensor::scratch([architecture.length, width]);
                let (tokens, positions) = (&mut d_tokens.data, &mut d_positions.data);
                embedding::backward(&batch.tokens, batch.length, &d_rc.data, width, tokens, positions);
                give(0, d_tokens);
                give(1, d_positions);
            }
            Positions::Rotary { .. } => {
                for (d, token) in d_rc.data.chunks_exact(width).zip(&batch.tokens[..]) {
                    add(&mut d_tokens.data[*token as usize * width..][..width], d);
                }
                give(0, d_tokens);
            }
        }
    }
}

impl Tape for TransformerTape {
    fn round_with(&mut self, key: u64) {
        self.key = key;
    }

    fn start(&mut self, hidden: Tensor, head: Tensor) {
        (self.d_rc, self.d_head) = (Some(hidden), Some(head));
    }

    fn backward_layer(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn> {
        let mut d_rc = self.d_rc.take().expect("called after start, and not again after Turn::Done");
        self.last_norm(&mut d_rc, give);
        if let Some(block) = self.blocks.pop() {
            let first = self.context.architecture.first_of_block(self.blocks.len());
            self.context.key = splitmix64(self.key, self.blocks.len() as u64);
            block.backward(&self.context, &mut d_rc, &mut |index, gradient| give(first + index, gradient));
            self.d_rc = Some(d_rc);
            return Ok(Turn::More);
        }
        self.first_norm(&mut d_rc);
        self.embeddings(&d_rc, give);
        Ok(Turn::Done)
    }
}
