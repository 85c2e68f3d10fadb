//! `backward`: backpropagation through the model, one layer per call, one packet per section of a gradient.
use anyhow::Result;
use contract::{
    At, Built, Emit, Env, Gradient, Kind, LossGradient, Packet, Port, Section, Settings, Stage, StageKeys,
    StageSettings, Step, Tensor, Turn,
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
        let mut sections = vec![Vec::new(); env.model()?.parameters.len()];
        for (index, Section { tensor, elements, owner, .. }) in env.sections()?.into_iter().enumerate() {
            let owner = env.among_all(env.process, owner as usize) as u32;
            sections[tensor].push(SectionOfTensor { index, len: elements.len(), owner });
        }
        Ok(Built::Stage(Box::new(BackwardStage { sections, running: None })))
    }
}

struct BackwardStage {
    /// By tensor.
    sections: Vec<Vec<SectionOfTensor>>,
    running: Option<LossGradient>,
}

#[derive(Clone, Copy)]
struct SectionOfTensor {
    /// Index into [`Env::sections`].
    index: usize,
    len: usize,
    /// The owner in this process, among the workers of all processes.
    owner: u32,
}

/// The parts of a gradient that belong to these sections, without copying it.
fn split(gradient: Tensor, sections: &[SectionOfTensor]) -> Vec<Tensor> {
    match sections {
        [first, _, ..] => gradient.split(first.len),
        _ => vec![gradient],
    }
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
        let (leaf, targets) = (running.leaf, running.targets);
        let turn = running.tape.backward_layer(&mut |tensor, data| {
            let sections = &self.sections[tensor];
            for (SectionOfTensor { index, owner, .. }, data) in sections.iter().zip(split(data, sections)) {
                let (section, owner) = (*index, *owner);
                out.give(Packet::Gradient(Gradient { leaves: leaf..leaf + 1, section, owner, targets, data }));
            }
        })?;
        if turn == Turn::Done {
            self.running = None; // drops the ticket: the next micro-batch may begin
        }
        Ok(turn)
    }
}
