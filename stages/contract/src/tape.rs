//! What the forward pass leaves for the backward pass: a [`Tape`], the gradient of the head, and a [`Ticket`].
use crate::step::Turn;
use crate::tensor::Tensor;
use anyhow::Result;

/// What a forward pass saves for the backward pass, which runs one layer at a time.
pub trait Tape: Send {
    /// Sets what the random numbers depend on with which gradients are rounded in
    /// [`Precision::Int8`](crate::Precision::Int8); 0 if it is not called. To be called before [`start`](Self::start).
    fn round_with(&mut self, _key: u64) {}
    /// Starts the backward pass. `hidden` `[rows, width]` is the gradient of the summed loss with respect to the hidden
    /// states, `head` `[vocabulary, width]` with respect to the head's weights (with a tied head the model adds the
    /// embedding's share to it).
    fn start(&mut self, hidden: Tensor, head: HeadGradient);
    /// Runs the backward pass of one layer and passes each gradient that is complete to `give`, with the index of its
    /// tensor. Returns [`Turn::Done`] after the last layer, [`Turn::More`] after the others.
    ///
    /// A gradient may come in parts of whole rows, in order and in several calls: all but the last have a multiple of
    /// [`SECTION`](crate::sections::SECTION) elements.
    fn backward_layer(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn>;
}

/// The gradient of the summed loss with respect to the head's weights `[vocabulary, width]`.
pub enum HeadGradient {
    /// All of it.
    Whole(Tensor),
    /// Computed when it is needed, from something that takes less memory.
    Later {
        /// Vocabulary and width.
        shape: [usize; 2],
        /// The rows in order, in parts of [`rows_of_parts`](crate::sections::rows_of_parts) rows; the last may have fewer.
        parts: Box<dyn Iterator<Item = Tensor> + Send>,
    },
}

impl HeadGradient {
    /// All of it.
    pub fn whole(self) -> Tensor {
        let (shape, parts) = match self {
            Self::Whole(gradient) => return gradient,
            Self::Later { shape, parts } => (shape, parts),
        };
        let (mut whole, mut at) = (Tensor::scratch(shape), 0);
        for part in parts {
            whole.data[at..at + part.data.len()].copy_from_slice(&part.data);
            at += part.data.len();
        }
        assert_eq!(at, whole.data.len(), "the parts are not the whole gradient");
        whole
    }
}

/// Calls a function when dropped. [`Activations`](crate::Activations) and [`LossGradient`](crate::LossGradient) carry one:
/// when it is dropped, the stage that emitted them knows that their memory is free and that the next micro-batch may begin.
#[derive(Default)]
pub struct Ticket(Option<Box<dyn FnOnce() + Send>>);

impl Ticket {
    /// A ticket that calls `f` once, when dropped.
    pub fn new(f: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(f)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}
