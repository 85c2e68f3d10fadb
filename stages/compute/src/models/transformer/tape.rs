//! The backward pass of a transformer, one block per call.
use super::SavedBlock;
use super::context::BlockContext;
use crate::kernels::embedding;
use crate::models::architecture::Positions;
use crate::models::compact::CompactActivation;
use contract::parameters::splitmix64;
use contract::{HeadGradient, Result, Tape, Tensor, Turn};
use std::ops::Range;
use std::sync::Arc;

/// The activations that the final normalisation saves for backward.
pub struct LastNorm {
    pub x_rc: Tensor,
    pub statistics: Tensor,
    pub parameters: Vec<Arc<Tensor>>,
}

/// The activations that the normalisation of the embeddings saves for backward.
pub struct EmbeddingNorm {
    pub x_rc: CompactActivation,
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
    /// Gradient of the head's matrix, and the number of its rows that have been passed on.
    d_head: Option<HeadGradient>,
    head_rows: usize,
}

impl TransformerTape {
    /// A tape of the activations that a forward pass has saved.
    pub fn new(context: BlockContext, first: Option<EmbeddingNorm>, blocks: Vec<SavedBlock>, last: LastNorm) -> Self {
        Self { context, key: 0, first, blocks, last: Some(last), d_rc: None, d_head: None, head_rows: 0 }
    }

    /// Backward of the final normalisation.
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
    }

    /// Passes on the gradient of the head, or a part of it, after `add` has added to these rows. Returns whether more of
    /// it is left.
    fn head(
        &mut self,
        index: usize,
        add: impl FnOnce(&Range<usize>, &mut Tensor),
        give: &mut dyn FnMut(usize, Tensor),
    ) -> Turn {
        let (mut part, vocabulary) = match self.d_head.take() {
            None => return Turn::Done,
            Some(HeadGradient::Whole(whole)) => {
                let rows = whole.shape[0];
                (whole, rows)
            }
            Some(HeadGradient::Later { shape, mut parts }) => {
                let Some(part) = parts.next() else { return Turn::Done };
                self.d_head = Some(HeadGradient::Later { shape, parts });
                (part, shape[0])
            }
        };
        let rows = self.head_rows..self.head_rows + part.shape[0];
        add(&rows, &mut part);
        give(index, part);
        self.head_rows = rows.end;
        if rows.end < vocabulary {
            return Turn::More;
        }
        (self.d_head, self.head_rows) = (None, 0);
        Turn::Done
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

    /// Backward of the embeddings, or of some rows of them. If the head is tied, their gradient is added to that of the
    /// head. Returns whether more is left.
    fn embeddings(&mut self, d_rc: &Tensor, give: &mut dyn FnMut(usize, Tensor)) -> Turn {
        let (architecture, batch) = (Arc::clone(&self.context.architecture), self.context.batch.clone());
        let (vocabulary, width) = (architecture.vocabulary, architecture.width);
        if !architecture.tied_head {
            self.d_head = Some(HeadGradient::Whole(Tensor::zeros([vocabulary, width])));
        }
        let tokens = |rows: &Range<usize>, part: &mut Tensor| {
            embedding::backward_tokens(&batch.tokens, rows, &d_rc.data, width, &mut part.data);
        };
        if self.head(0, tokens, give) == Turn::More {
            return Turn::More;
        }
        if architecture.positions == Positions::Learned {
            let mut d_positions = Tensor::scratch([architecture.length, width]);
            embedding::backward_positions(batch.length, &d_rc.data, width, &mut d_positions.data);
            give(1, d_positions);
        }
        Turn::Done
    }
}

impl Tape for TransformerTape {
    fn round_with(&mut self, key: u64) {
        self.key = key;
    }

    fn start(&mut self, hidden: Tensor, head: HeadGradient) {
        (self.d_rc, self.d_head) = (Some(hidden), Some(head));
    }

    fn backward_layer(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn> {
        let mut d_rc = self.d_rc.take().expect("called after start, and not again after Turn::Done");
        self.last_norm(&mut d_rc, give);
        // The gradient of an untied head follows that of the final normalisation in parameter order.
        let architecture = Arc::clone(&self.context.architecture);
        if !architecture.tied_head && self.head(architecture.head(), |_, _| (), give) == Turn::More {
            self.d_rc = Some(d_rc);
            return Ok(Turn::More);
        }
        if let Some(block) = self.blocks.pop() {
            let first = self.context.architecture.first_of_block(self.blocks.len());
            self.context.key = splitmix64(self.key, self.blocks.len() as u64);
            block.backward(&self.context, &mut d_rc, &mut |index, gradient| give(first + index, gradient));
            self.d_rc = Some(d_rc);
            return Ok(Turn::More);
        }
        self.first_norm(&mut d_rc);
        let turn = self.embeddings(&d_rc, give);
        if turn == Turn::More {
            self.d_rc = Some(d_rc);
        }
        Ok(turn)
    }
}
