//! `backward`: backpropagation through the model, one layer per call, one packet per section of a gradient.
use anyhow::Result;
use contract::{
    At, Built, Emit, Env, Gradient, HeadGradient, Kind, LossGradient, Packet, Port, Section, Settings, Stage,
    StageKeys, StageSettings, Step, Tensor, Turn,
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
        let given = vec![Given::default(); sections.len()];
        Ok(Built::Stage(Box::new(BackwardStage { sections, running: None, given })))
    }
}

struct BackwardStage {
    /// By tensor.
    sections: Vec<Vec<SectionOfTensor>>,
    running: Option<LossGradient>,
    /// By tensor: what of the running leaf's gradient has been given.
    given: Vec<Given>,
}

#[derive(Clone, Copy)]
struct SectionOfTensor {
    /// Index into [`Env::sections`].
    index: usize,
    len: usize,
    /// The owner in this process, among the workers of all processes.
    owner: u32,
}

/// What has been given of a tensor's gradient.
#[derive(Clone, Default)]
struct Given {
    /// Number of sections that have been emitted.
    sections: usize,
    /// The beginning of the gradient, with the number of elements that it has so far, if it comes in parts but its tensor
    /// is a single section.
    joined: Option<(Tensor, usize)>,
}

impl Given {
    /// Takes the gradient of a tensor with these sections, or the next part of it. Returns the gradient of the sections
    /// that are complete, without copying if that is possible, and the first of them.
    fn take(&mut self, gradient: Tensor, sections: &[SectionOfTensor]) -> (usize, Vec<Tensor>) {
        let first = self.sections;
        let parts = match sections {
            [whole] => self.join(gradient, whole.len).into_iter().collect(),
            [section, ..] => gradient.split(section.len),
            [] => Vec::new(),
        };
        self.sections += parts.len();
        let lengths = sections.iter().skip(first).map(|section| section.len);
        assert!(
            self.sections <= sections.len() && parts.iter().map(|part| part.data.len()).eq(lengths.take(parts.len())),
            "a part of a gradient is not made of whole sections"
        );
        (first, parts)
    }

    /// The gradient of `len` elements when its last part has been given.
    fn join(&mut self, part: Tensor, len: usize) -> Option<Tensor> {
        if part.data.len() == len {
            return Some(part);
        }
        let columns = part.shape[1..].iter().product::<usize>().max(1);
        let (mut joined, at) = self.joined.take().unwrap_or_else(|| (Tensor::scratch([len / columns, columns]), 0));
        let end = at + part.data.len();
        joined.data[at..end].copy_from_slice(&part.data);
        if end == len {
            return Some(joined);
        }
        self.joined = Some((joined, end));
        None
    }
}

impl Stage for BackwardStage {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::LossGradient(gradient) = packet else { return Ok(Turn::Done) };
        let mut gradient = *gradient;
        let hidden = std::mem::replace(&mut gradient.hidden, Tensor::scratch([0]));
        let head = std::mem::replace(&mut gradient.head, HeadGradient::Whole(Tensor::scratch([0])));
        gradient.tape.start(hidden, head);
        self.running = Some(gradient);
        self.more(at.step, out)
    }

    fn more(&mut self, _step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let Some(running) = &mut self.running else { return Ok(Turn::Done) };
        let (leaf, targets) = (running.leaf, running.targets);
        let turn = running.tape.backward_layer(&mut |tensor, data| {
            let sections = &self.sections[tensor];
            let (first, parts) = self.given[tensor].take(data, sections);
            for (SectionOfTensor { index, owner, .. }, data) in sections[first..].iter().zip(parts) {
                let (section, owner) = (*index, *owner);
                out.give(Packet::Gradient(Gradient { leaves: leaf..leaf + 1, section, owner, targets, data }));
            }
        })?;
        if turn == Turn::Done {
            self.running = None; // drops the ticket: the next micro-batch may begin
            self.given.fill(Given::default());
        }
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Parts of whole sections are emitted as they come; if there is a single section, they are joined.
        #[test]
        fn parts_of_a_gradient(rows in prop::collection::vec(1usize..5, 1..6), last in 1usize..50, shared: bool) {
            const COLUMNS: usize = 16;
            let section = if shared { COLUMNS } else { usize::MAX };
            let len = COLUMNS * (rows.iter().sum::<usize>() + last);
            let starts = (0..len).step_by(section.min(len));
            let of = |(index, start): (usize, usize)| SectionOfTensor { index, len: section.min(len - start), owner: 0 };
            let sections: Vec<_> = starts.enumerate().map(of).collect();
            let (mut given, mut emitted, mut at) = (Given::default(), Vec::new(), 0);
            for rows in rows.into_iter().chain([last]) {
                let values: Vec<f32> = (at..at + rows * COLUMNS).map(|x| x as f32).collect();
                at += values.len();
                let (first, parts) = given.take(Tensor::from_values([rows, COLUMNS], &values), &sections);
                prop_assert_eq!(first, emitted.len());
                emitted.extend(parts);
            }
            prop_assert!(given.joined.is_none());
            prop_assert_eq!(emitted.len(), sections.len());
            let mut expected = 0..len;
            for (part, section) in emitted.iter().zip(&sections) {
                prop_assert_eq!(part.data.len(), section.len);
                prop_assert!(shared || part.shape == [len / COLUMNS, COLUMNS]);
                prop_assert!(part.data.iter().all(|x| Some(*x as usize) == expected.next()));
            }
        }
    }
}
