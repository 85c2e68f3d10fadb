//! Gradients and updates by block of the model: the parameters of one layer, the embeddings, the head, and what else
//! there is.
use contract::{Env, Group, ParameterSpec, SectionChange};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What an update has done to a block. All norms are over the elements of all of its parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockLine {
    /// Norm of the mean gradient, before clipping.
    pub gradient_norm: f64,
    /// Norm of the parameters before the update.
    pub weight_norm: f64,
    /// Norm of the difference that the update makes, divided by that of the parameters; none if they were all zero.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub update_ratio: Option<f64>,
}

/// The block of each section.
pub(super) struct Blocks(Vec<String>);

impl Blocks {
    /// Those of the run's model, if it has one.
    pub fn of(env: &Env) -> Option<Self> {
        let (model, sections) = (env.model.as_ref()?, env.sections().ok()?);
        let names = names(&model.parameters);
        Some(Self(sections.iter().map(|section| names[section.tensor].clone()).collect()))
    }

    /// The blocks of a step, from the changes of sections: sums are added in the order of sections.
    pub fn lines(&self, changes: &BTreeMap<usize, SectionChange>) -> BTreeMap<String, BlockLine> {
        let mut sums: BTreeMap<&String, [f64; 3]> = BTreeMap::new();
        for (section, change) in changes {
            let sums = sums.entry(&self.0[*section]).or_default();
            let added = [change.gradient, change.weight, change.update];
            sums.iter_mut().zip(added).for_each(|(sum, added)| *sum += added);
        }
        let line = |(name, sums): (&String, [f64; 3])| {
            let [gradient_norm, weight_norm, update] = sums.map(f64::sqrt);
            let update_ratio = (weight_norm > 0.0).then(|| update / weight_norm);
            (name.clone(), BlockLine { gradient_norm, weight_norm, update_ratio })
        };
        sums.into_iter().map(line).collect()
    }
}

/// The block of each parameter. The first number in its name says which, as in `transformer.h.3.attn.c_attn.weight`
/// and `model.layers.3.mlp.up_proj.weight`. If different names precede the numbers, as in `encoder.3` and `decoder.3`,
/// they are part of the block's. Parameters without a number are blocks by their group.
fn names(parameters: &[ParameterSpec]) -> Vec<String> {
    let numbered = |spec: &ParameterSpec| {
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let number = spec.name.split('.').find(is_number)?;
        let before = spec.name.split('.').take_while(|part| !is_number(part)).collect::<Vec<_>>().join(".");
        Some((before, number.to_owned()))
    };
    let prefixes: BTreeSet<String> = parameters.iter().filter_map(|spec| Some(numbered(spec)?.0)).collect();
    let name = |spec: &ParameterSpec| match (numbered(spec), &spec.group) {
        (Some((_, number)), _) if prefixes.len() == 1 => number,
        (Some((before, number)), _) => format!("{before}.{number}").trim_start_matches('.').to_owned(),
        (None, Group::Embedding) => "embedding".into(),
        (None, Group::Head) => "head".into(),
        (None, Group::Matrix(_)) => "matrices".into(),
        (None, Group::Vector) => "vectors".into(),
    };
    parameters.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Init;

    fn parameters(names: &[(&str, Group)]) -> Vec<ParameterSpec> {
        let spec = |&(name, group): &(&str, Group)| ParameterSpec {
            name: name.to_owned(),
            shape: vec![2, 2],
            group,
            init: Init::Zeros,
        };
        names.iter().map(spec).collect()
    }

    #[test]
    fn the_first_number_of_a_name_is_that_of_its_block() {
        let matrix = || Group::Matrix([2, 2]);
        let decoder = [
            ("model.embed_tokens.weight", Group::Embedding),
            ("model.layers.0.self_attn.q_proj.weight", matrix()),
            ("model.layers.11.experts.3.weight", matrix()),
            ("model.norm.weight", Group::Vector),
            ("lm_head.weight", Group::Head),
            ("projection2.weight", matrix()),
        ];
        assert_eq!(names(&parameters(&decoder)), ["embedding", "0", "11", "vectors", "head", "matrices"]);
        let two = [("encoder.h.0.w", matrix()), ("decoder.h.0.w", matrix()), ("3.w", matrix())];
        assert_eq!(names(&parameters(&two)), ["encoder.h.0", "decoder.h.0", "3"]);
    }

    #[test]
    fn a_block_adds_the_squares_of_its_sections() {
        let blocks = Blocks(["embedding", "0", "0"].map(str::to_owned).into());
        let change = |section, gradient, weight, update| (section, SectionChange { section, gradient, weight, update });
        let changes = BTreeMap::from([change(0, 4.0, 0.0, 1.0), change(1, 9.0, 6.0, 0.06), change(2, 16.0, 3.0, 0.03)]);
        let lines = blocks.lines(&changes);
        assert_eq!(lines["embedding"], BlockLine { gradient_norm: 2.0, weight_norm: 0.0, update_ratio: None });
        assert_eq!((lines["0"].gradient_norm, lines["0"].weight_norm), (5.0, 3.0));
        assert!((lines["0"].update_ratio.unwrap() - 0.1).abs() < 1e-15, "{lines:?}");
        let text = serde_json::to_string(&lines["embedding"]).unwrap();
        assert_eq!(serde_json::from_str::<BlockLine>(&text).unwrap(), lines["embedding"]);
    }
}
