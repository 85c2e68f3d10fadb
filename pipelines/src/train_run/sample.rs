//! What the samples of a run are generated with.
use crate::continuation::{Ends, NotFinite, continue_text, encode};
use crate::pretrained::of_config;
use anyhow::{Context, Result, ensure};
use compute::models::sampling::Sampler;
use contract::{Parameters, Precision, Resources, StageType};
use serde_json::Value;
use std::sync::Arc;
use text::Tokenizer;
use train::sample::{Continue, SampleSettings};

/// The model and the tokenizer of a run.
pub struct Continuer {
    /// The run's `config.json`.
    config: Value,
    stages: Vec<StageType>,
    tokenizer: Option<Arc<Tokenizer>>,
    seed: u64,
}

impl Continuer {
    /// `config` describes the model, whose type is one of `stages`; the tokenizer is among the resources of a stage.
    pub fn new(config: &Value, stages: &[StageType], resources: &Resources, seed: u64) -> Self {
        let tokenizer = resources.all::<Tokenizer>().next().map(|(_, tokenizer)| tokenizer);
        Self { config: config.clone(), stages: stages.to_vec(), tokenizer, seed }
    }

    fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer
            .as_deref()
            .context("the run has no tokenizer, which samples need: name it, or leave out `prompts`")
    }
}

impl Continue for Continuer {
    fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let tokens = encode(self.tokenizer()?, prompt)?;
        let model = of_config(&self.config, &self.stages).context("this model cannot generate text")?;
        let (length, context) = (tokens.len(), model.facts.context);
        ensure!(length <= context, "the prompt has {length} tokens, but the model's context is {context}");
        Ok(tokens)
    }

    fn text(&self, parameters: Parameters, prompt: &[u32], settings: &SampleSettings) -> Result<Option<String>> {
        let tokenizer = self.tokenizer()?;
        let model = of_config(&self.config, &self.stages)?;
        let mut decoder = (model.decoder)(Precision::F32, &mut parameters.load())?;
        let &SampleSettings { temperature, top_k, tokens } = settings;
        let mut sampler = Sampler { temperature, top_k, top_p: 1.0, seed: self.seed, drawn: 0 };
        let ends = Ends { tokens: &[tokenizer.end_of_text()], after: tokens };
        match continue_text(&mut *decoder, tokenizer, prompt, &mut sampler, &ends, &mut |_| Ok(())) {
            Ok(found) => Ok(Some(found.text)),
            Err(error) if error.is::<NotFinite>() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
