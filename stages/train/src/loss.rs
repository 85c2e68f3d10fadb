//! `loss`: hidden states become logits, a loss and its gradient, a chunk of rows at a time.
//!
//! A loss of your own is a [`RowLoss`] and settings that build [`loss_stage`] of it: see `tests/outside_stage`.
use crate::diverged::finite;
use anyhow::Result;
use compute::kernels::cross_entropy::CrossEntropy;
use compute::kernels::head::{RowLoss, head_loss, head_value, rows_alive};
use contract::{
    At, Built, Emit, Env, Gather, Kind, LossGradient, Memory, Metric, Metrics, Packet, Port, Settings, Stage,
    StageKeys, StageSettings, Turn,
};
use serde::{Deserialize, Serialize};

/// Settings of `type = "cross_entropy"`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct CrossEntropyLoss {}

impl StageSettings for CrossEntropyLoss {
    const SUMMARY: &'static str = "cross-entropy of the next token, in nats";
    const EXAMPLE: &'static str = "type = \"cross_entropy\"\n";
}

impl Settings for CrossEntropyLoss {
    fn takes(&self) -> Vec<Port> {
        takes()
    }

    fn gives(&self) -> Vec<Kind> {
        gives()
    }

    fn build(&self, _env: &Env) -> Result<Built> {
        Ok(loss_stage(CrossEntropy))
    }

    fn memory(&self, env: &Env) -> Memory {
        memory(env)
    }
}

/// What every loss says of its logits: a chunk a worker, beside the gradient at the hidden states.
pub fn memory(env: &Env) -> Memory {
    let Some(model) = &env.model else { return Memory::default() };
    let [vocabulary, width] = model.parameters[model.head].shape[..] else { return Memory::default() };
    let busy = env.workers.min(env.shape.micro_batches as usize);
    let rows = env.shape.sequences * env.shape.length;
    let floats = rows_alive(rows, vocabulary, None, model.precision) * vocabulary + rows * width;
    Memory { turning: (busy * floats * size_of::<f32>()) as u64, ..Memory::default() }
}

/// What every loss takes.
pub fn takes() -> Vec<Port> {
    vec![Port::stream(Kind::Activations)]
}

/// What every loss gives.
pub fn gives() -> Vec<Kind> {
    vec![Kind::LossGradient, Kind::Metrics]
}

/// The stage that trains with `loss`. Plain cross-entropy is reported as `loss` whatever trains; a loss that
/// differs from it is reported beside it as `trained_loss`.
pub fn loss_stage(loss: impl RowLoss + 'static) -> Built {
    Built::Stage(Box::new(Loss { loss }))
}

struct Loss<L> {
    loss: L,
}

impl<L: RowLoss> Stage for Loss<L> {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Activations(activations) = packet else { return Ok(Turn::Done) };
        let a = *activations;
        let (rows, what) = (a.targets.len(), if a.tape.is_some() { "loss" } else { "validation loss" });
        let summed = match a.tape {
            Some(tape) => {
                let (summed, hidden, head) =
                    head_loss(&self.loss, &a.hidden, &a.head, &a.targets, a.rows_at_once, a.precision);
                let (leaf, targets, ticket) = (a.leaf, summed.targets, a.ticket);
                out.give(Packet::LossGradient(Box::new(LossGradient { leaf, targets, hidden, head, tape, ticket })));
                summed
            }
            None => head_value(&self.loss, &a.hidden, &a.head, &a.targets, a.rows_at_once, a.precision),
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
        out.give(Packet::Metrics(Metrics { purpose: a.purpose, from: (a.leaf, a.part), values }));
        Ok(Turn::Done)
    }
}
