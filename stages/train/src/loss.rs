//! `loss`: computes logits, a loss and its gradient from hidden states, a chunk of rows at a time.
//!
//! The trait [`Loss`] defines the value and gradient for one row of logits. [`LossSettings`] turns any loss into a
//! stage. `tests/outside_stage` contains a loss in an external crate.
use crate::diverged::finite;
use anyhow::Result;
use compute::kernels::cross_entropy::CrossEntropy;
use compute::kernels::gemm::Magnitudes;
use compute::kernels::head::{
    HeadLoss, Logits, RowLoss, gradient_later, head_loss, head_value, head_values, rows_alive,
};
use contract::{
    At, Built, DocumentLoss, Emit, Env, Gather, Key, Kind, LossGradient, Member, Memory, Metric, Metrics, Packet, Port,
    Precision, Problem, Settings, Stage, StageKeys, StageSettings, StageType, Step, Turn, stage_type,
};
use serde::{Deserialize, Serialize};

pub use compute::kernels::cross_entropy::{log_sum_exp, softmax};
pub use compute::kernels::head::RowLossValue;

/// A member of the family of losses: its configuration keys and its mathematics.
pub trait Loss: Member {
    /// A one-line description.
    const SUMMARY: &'static str;
    /// A valid example table for `pipeline stages` (TOML, without the header).
    const EXAMPLE: &'static str;

    /// Problems with the values, except for numbers out of range, which are found already. No I/O.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The loss of one row of logits `[vocabulary]`. If `gradient` is set, overwrites `logits` with the gradient of the
    /// *trained* loss with respect to them.
    fn row(&self, logits: &mut [f32], target: u32, gradient: bool) -> RowLossValue;
}

/// The registry entry of a loss.
pub const fn loss_type<L: Loss>(name: &'static str) -> StageType {
    stage_type::<LossSettings<L>>(name)
}

/// The member `cross_entropy`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct CrossEntropyLoss {}

impl Loss for CrossEntropyLoss {
    const SUMMARY: &'static str = "cross-entropy of the next token, in nats";
    const EXAMPLE: &'static str = "type = \"cross_entropy\"\n";

    fn row(&self, logits: &mut [f32], target: u32, gradient: bool) -> RowLossValue {
        CrossEntropy.row(logits, target, gradient)
    }
}

/// The settings of a loss stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent, bound = "L: Loss")]
pub struct LossSettings<L>(pub L);

impl<L: Loss> StageKeys for LossSettings<L> {
    fn keys() -> Vec<Key> {
        L::keys()
    }
}

impl<L: Loss> StageSettings for LossSettings<L> {
    const SUMMARY: &'static str = L::SUMMARY;
    const EXAMPLE: &'static str = L::EXAMPLE;
}

impl<L: Loss> Settings for LossSettings<L> {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Activations)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::LossGradient, Kind::Metrics]
    }

    fn check(&self) -> Vec<Problem> {
        self.0.check()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(LossStage {
            loss: self.0.clone(),
            worker: env.among_all(env.process, env.worker),
            last: env.schedule.steps,
        })))
    }

    /// Memory of a chunk of logits per worker, of the gradient of the hidden states, and of what the gradient of the head
    /// is computed from, if that is done later.
    fn memory(&self, env: &Env) -> Memory {
        let Some(model) = &env.model else { return Memory::default() };
        let [vocabulary, width] = model.parameters[model.head].shape[..] else { return Memory::default() };
        let busy = env.workers.min(env.shape.micro_batches as usize);
        let rows = env.shape.sequences * env.shape.length;
        let floats = rows_alive(rows, vocabulary, None, model.precision) * vocabulary + rows * width;
        let bytes = |floats: usize| (busy * floats * size_of::<f32>()) as u64;
        // If the head is tied, the operands of its gradient are there until the end, where each worker frees its own while
        // it passes on the gradient.
        let later = bytes(gradient_later(model.precision, rows, vocabulary, width).unwrap_or(0));
        let gradients = if model.head == 0 { later - later / busy.max(1) as u64 } else { 0 };
        Memory { loss: bytes(floats), activations: later, gradients, ..Memory::default() }
    }
}

/// Computes a loss. Plain cross-entropy is always reported as `loss`; a loss that differs from it is reported in
/// addition as `trained_loss`.
struct LossStage<L> {
    loss: L,
    worker: usize,
    /// The last step, which reports the loss of each held-out document.
    last: Step,
}

/// The validation loss of a batch, also that of each of its `documents`.
fn document_losses(
    loss: &dyn RowLoss,
    logits: &Logits<'_>,
    targets: &[u32],
    documents: &[u32],
) -> (HeadLoss, Vec<DocumentLoss>) {
    let empty = |document: &u32| DocumentLoss { document: *document, tokens: 0, nats: 0.0 };
    let mut losses: Vec<DocumentLoss> = documents.iter().map(empty).collect();
    let length = targets.len() / documents.len();
    let summed = head_values(loss, logits, targets, |row, value| {
        let window = &mut losses[row / length];
        window.tokens += 1;
        window.nats += f64::from(value.cross_entropy);
    });
    (summed, losses)
}

impl<L: Loss> RowLoss for LossStage<L> {
    fn row(&self, logits: &mut [f32], target: u32, gradient: bool) -> RowLossValue {
        self.loss.row(logits, target, gradient)
    }
}

impl<L: Loss> Stage for LossStage<L> {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Activations(activations) = packet else { return Ok(Turn::Done) };
        let a = *activations;
        let (rows, what) = (a.targets.len(), if a.tape.is_some() { "loss" } else { "validation loss" });
        let magnitudes = (a.precision == Precision::Int8).then(|| Magnitudes::of(&a.head));
        let logits = Logits {
            magnitudes: magnitudes.as_deref(),
            hidden: &a.hidden,
            head: &a.head,
            softcap: a.logit_softcap,
            precision: a.precision,
            key: a.key,
            rows_at_once: a.rows_at_once,
        };
        let mut documents = Vec::new();
        let summed = match a.tape {
            Some(tape) => {
                let (summed, hidden, head) = head_loss(self, &logits, &a.targets);
                let (leaf, targets, ticket) = (a.leaf, summed.targets, a.ticket);
                out.give(Packet::LossGradient(Box::new(LossGradient { leaf, targets, hidden, head, tape, ticket })));
                summed
            }
            None if at.step == self.last && !a.documents.is_empty() => {
                let (summed, losses) = document_losses(self, &logits, &a.targets, &a.documents);
                documents = losses;
                summed
            }
            None => head_value(self, &logits, &a.targets),
        };
        finite(what, summed.trained + summed.cross_entropy, at.step)?;
        let metric = |name, gather, value| Metric { name, gather, value };
        let mut values = vec![
            metric("loss", Gather::PerTarget, summed.cross_entropy),
            metric("targets", Gather::Sum, summed.targets as f64),
            metric("tokens", Gather::Sum, rows as f64),
            metric("data_wait_ms", Gather::Sum, a.waited.as_secs_f64() * 1e3),
        ];
        if summed.trained != summed.cross_entropy {
            values.push(metric("trained_loss", Gather::PerTarget, summed.trained));
        }
        let (purpose, from, worker) = (a.purpose, (a.leaf, a.part), self.worker);
        out.give(Packet::Metrics(Metrics { documents, ..Metrics::new(purpose, from, worker, values) }));
        Ok(Turn::Done)
    }
}
