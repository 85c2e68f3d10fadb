//! The way back through a transformer, one block a turn.
use super::SavedBlock;
use super::context::BlockContext;
use crate::kernels::embedding;
use crate::kernels::sum::add;
use crate::models::architecture::Positions;
use contract::{Result, Tape, Tensor, Turn};
use std::sync::Arc;

/// What the last normalisation saves for backward.
pub struct LastNorm {
    pub x_rc: Tensor,
    pub statistics: Tensor,
    pub parameters: Vec<Arc<Tensor>>,
}

/// The saved activations of a batch.
pub struct TransformerTape {
    context: BlockContext,
    blocks: Vec<SavedBlock>,
    last: Option<LastNorm>,
    /// Gradient at the hidden states, then at each block's output on the way down.
    d_rc: Option<Tensor>,
    /// Gradient at the head's matrix.
    d_head: Option<Tensor>,
}

impl TransformerTape {
    /// What a forward pass has saved.
    pub fn new(context: BlockContext, blocks: Vec<SavedBlock>, last: LastNorm) -> Self {
        Self { context, blocks, last: Some(last), d_rc: None, d_head: None }
    }

    /// Back through the last normalisation, to whose parameters a head of its own is next.
    fn last_norm(&mut self, d_rc: &mut Tensor, give: &mut dyn FnMut(usize, Tensor)) {
        let Some(LastNorm { x_rc, statistics, parameters }) = self.last.take() else { return };
        let architecture = &self.context.architecture;
        let d_out_rc = std::mem::replace(d_rc, Tensor::zeros(x_rc.shape.clone()));
        let first = architecture.first_of_block(architecture.layers);
        let (x, d_out, d_x) = (&x_rc.data, &d_out_rc.data, &mut d_rc.data);
        architecture.norm.backward(&parameters, x, &statistics.data, d_out, d_x, &mut |index, gradient| {
            give(first + index, gradient);
        });
        if !architecture.tied_head
            && let Some(d_head) = self.d_head.take()
        {
            give(architecture.head(), d_head);
        }
    }

    /// Back through the embeddings. A tied head has left its share in the gradient of the tokens'.
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
    fn start(&mut self, hidden: Tensor, head: Tensor) {
        (self.d_rc, self.d_head) = (Some(hidden), Some(head));
    }

    fn turn(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn> {
        let mut d_rc = self.d_rc.take().expect("start comes before turn, and no turn after the last");
        self.last_norm(&mut d_rc, give);
        if let Some(block) = self.blocks.pop() {
            let first = self.context.architecture.first_of_block(self.blocks.len());
            block.backward(&self.context, &mut d_rc, &mut |index, gradient| give(first + index, gradient));
            self.d_rc = Some(d_rc);
            return Ok(Turn::More);
        }
        self.embeddings(&d_rc, give);
        Ok(Turn::Done)
    }
}
