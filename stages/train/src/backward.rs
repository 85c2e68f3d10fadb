//! `backward`: backpropagation through the model, one layer per call, one packet per gradient.
use anyhow::Result;
use contract::{
    At, Built, Emit, Env, Gradient, Kind, LossGradient, Packet, Port, Settings, Stage, StageKeys, StageSettings, Step,
    Turn,
};
use serde::{Deserialize, Serialize};

/// Settings of `type = "backward"`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Backward {}

impl StageSettings for Backward {
    const SUMMARY: &'static str = "computes the gradients of all parameters, layer by layer";
    const EXAMPLE: &'static str = "type = \"backward\"\n";
}

impl Settings for Backward {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::LossGradient)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Gradient]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(BackwardStage { owners: env.owners()?, running: None })))
    }
}

struct BackwardStage {
    owners: Vec<u32>,
    running: Option<LossGradient>,
}

impl Stage for BackwardStage {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::LossGradient(gradient) = packet else { return Ok(Turn::Done) };
        let mut gradient = *gradient;
        let empty = || contract::Tensor::scratch([0]);
        let (hidden, head) =
            (std::mem::replace(&mut gradient.hidden, empty()), std::mem::replace(&mut gradient.head, empty()));
        gradient.tape.start(hidden, head);
        self.running = Some(gradient);
        self.more(at.step, out)
    }

    fn more(&mut self, _step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let Some(running) = &mut self.running else { return Ok(Turn::Done) };
        let (leaf, targets, owners) = (running.leaf, running.targets, &self.owners);
        let turn = running.tape.backward_layer(&mut |tensor, data| {
            let owner = owners[tensor];
            out.give(Packet::Gradient(Gradient { leaves: leaf..leaf + 1, tensor, owner, targets, data }));
        })?;
        if turn == Turn::Done {
            self.running = None; // drops the ticket: the next micro-batch may begin
        }
        Ok(turn)
    }
}
