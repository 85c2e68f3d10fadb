//! Texts that `evaluate` has the model generate at each validation: how it continues given prompts.
use anyhow::{Context, Result};
use contract::{Env, ParameterPiece, Parameters, Problem, Purpose, Sample, StageKeys, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The keys of `evaluate` for samples.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Sampling {
    /// Texts that the model continues at each validation, such as `["The history of", ""]`; an empty one begins a new
    /// document. The samples are shown, and written to `samples.jsonl` of the run directory.
    pub prompts: Vec<String>,
    /// Maximum number of tokens of a sample; if not given, 60.
    #[key(min = 1, max = 65_536)]
    pub sample_tokens: Option<usize>,
    /// Sampling temperature; 0 always selects the most probable token. If not given, 0.8.
    #[key(min = 0, max = 1e6)]
    pub temperature: Option<f64>,
    /// Sample from this many of the most probable tokens; 0: from all. If not given, 40.
    pub top_k: Option<usize>,
}

/// How tokens are sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleSettings {
    /// Maximum number of tokens.
    pub tokens: usize,
    /// Sampling temperature.
    pub temperature: f64,
    /// Number of most probable tokens to choose from; 0: all.
    pub top_k: usize,
}

impl Sampling {
    /// How samples are generated, with the defaults of what is not given.
    pub fn settings(&self) -> SampleSettings {
        SampleSettings {
            tokens: self.sample_tokens.unwrap_or(60),
            temperature: self.temperature.unwrap_or(0.8),
            top_k: self.top_k.unwrap_or(40),
        }
    }

    /// Problems of the keys in a run that validates every `interval` steps (0: never).
    pub(crate) fn check(&self, interval: u64) -> Vec<Problem> {
        let given = [
            ("sample_tokens", self.sample_tokens.is_some()),
            ("temperature", self.temperature.is_some()),
            ("top_k", self.top_k.is_some()),
        ];
        if !self.prompts.is_empty() {
            let why = "samples are generated at validations, and there are none with `interval = 0`";
            return if interval == 0 { vec![Problem::at("prompts", why)] } else { Vec::new() };
        }
        let given = given.into_iter().filter(|(_, given)| *given);
        given
            .map(|(key, _)| Problem::at(key, "there are no samples without `prompts`: leave it out, or set that"))
            .collect()
    }
}

/// Continues prompts with the model of a run.
pub trait Continue: Send + Sync {
    /// The tokens of a prompt.
    ///
    /// # Errors
    /// If the run has no tokenizer, the prompt is longer than the model's context, or the model cannot generate text.
    fn encode(&self, prompt: &str) -> Result<Vec<u32>>;

    /// The text with which the model of these parameters continues `prompt`, which [`encode`](Self::encode) has
    /// returned; `None` if its logits are not finite, which the loss of the next step reports.
    ///
    /// # Errors
    /// If the tokenizer fails.
    fn text(&self, parameters: Parameters, prompt: &[u32], settings: &SampleSettings) -> Result<Option<String>>;
}

/// The run's [`Continue`], as a resource.
pub struct Continuation(pub Box<dyn Continue>);

/// Generates the samples of a run, from the parameters that a step begins with.
pub(crate) struct Sampler {
    continuation: Arc<Continuation>,
    settings: SampleSettings,
    /// Each with its tokens.
    prompts: Vec<(String, Vec<u32>)>,
    /// The parameters that have arrived at this step, if samples are due.
    pieces: Vec<Option<Arc<Tensor>>>,
}

impl Sampler {
    /// `None` if there is nothing to sample: without prompts, and in commands that do not train.
    ///
    /// # Errors
    /// See [`Continue::encode`].
    pub fn new(sampling: &Sampling, env: &Env) -> Result<Option<Self>> {
        let Some(continuation) = env.resources.get::<Continuation>().filter(|_| !sampling.prompts.is_empty()) else {
            return Ok(None);
        };
        let encoded = |(at, prompt): (usize, &String)| -> Result<(String, Vec<u32>)> {
            let tokens = continuation.0.encode(prompt).with_context(|| format!("`prompts`, item {}", at + 1))?;
            Ok((prompt.clone(), tokens))
        };
        let prompts = sampling.prompts.iter().enumerate().map(encoded).collect::<Result<_>>()?;
        let pieces = vec![None; env.model()?.parameters.len()];
        Ok(Some(Self { continuation, settings: sampling.settings(), prompts, pieces }))
    }

    /// Takes a parameter; when it has all of them, it generates the samples. Then it drops them, so that the optimizer
    /// can update them in place.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn take(&mut self, piece: &ParameterPiece) -> Result<Vec<Sample>> {
        self.pieces[piece.tensor] = Some(Arc::clone(piece.values(Purpose::Validate)));
        if self.pieces.iter().any(Option::is_none) {
            return Ok(Vec::new());
        }
        let parameters = Parameters(self.pieces.iter_mut().filter_map(Option::take).collect());
        let mut samples = Vec::new();
        for (prompt, tokens) in &self.prompts {
            let text = self.continuation.0.text(parameters.clone(), tokens, &self.settings);
            let text = text.with_context(|| format!("cannot continue {prompt:?}"))?;
            samples.extend(text.map(|text| Sample { prompt: prompt.clone(), text }));
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Continues with the sum of all parameters and the number of tokens.
    struct Sums;

    impl Continue for Sums {
        fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
            Ok(prompt.bytes().map(u32::from).collect())
        }
        fn text(&self, parameters: Parameters, prompt: &[u32], settings: &SampleSettings) -> Result<Option<String>> {
            let sum: f32 = parameters.0.iter().flat_map(|tensor| tensor.data.iter()).sum();
            Ok(sum.is_finite().then(|| format!("{sum} {} {}", prompt.len(), settings.tokens)))
        }
    }

    #[test]
    fn every_prompt_is_continued_once_all_parameters_are_there() {
        let prompt = |text: &str| (text.to_owned(), text.bytes().map(u32::from).collect());
        let prompts = vec![prompt("ab"), prompt("")];
        let settings = Sampling { sample_tokens: Some(7), ..Sampling::default() }.settings();
        assert_eq!(settings, SampleSettings { tokens: 7, temperature: 0.8, top_k: 40 });
        let continuation = Arc::new(Continuation(Box::new(Sums)));
        let mut sampler = Sampler { continuation, settings, prompts, pieces: vec![None; 2] };
        let piece = |tensor, value| {
            let [data, average] = [0.0, value].map(|value| Arc::new(Tensor::from_values([1], &[value])));
            ParameterPiece { tensor, data, average: Some(average) }
        };
        let sample = |prompt: &str, text: &str| Sample { prompt: prompt.into(), text: text.into() };
        for _ in 0..2 {
            let last = piece(0, 2.5);
            assert_eq!(sampler.take(&piece(1, 1.0)).unwrap(), []);
            assert_eq!(sampler.take(&last).unwrap(), [sample("ab", "3.5 2 7"), sample("", "3.5 0 7")]);
            assert_eq!(Arc::strong_count(last.average.as_ref().unwrap()), 1, "it keeps no parameter");
        }
        sampler.take(&piece(1, f32::NAN)).unwrap();
        assert_eq!(sampler.take(&piece(0, 1.0)).unwrap(), [], "the loss reports that a model has diverged");
    }

    #[test]
    fn keys_without_effect_are_rejected() {
        let keys = |sampling: Sampling, interval| -> Vec<_> {
            sampling.check(interval).into_iter().filter_map(|problem| problem.key).collect()
        };
        let prompts = vec![String::new()];
        assert_eq!(keys(Sampling { prompts: prompts.clone(), top_k: Some(1), ..Sampling::default() }, 5), [""; 0]);
        assert_eq!(keys(Sampling { prompts, ..Sampling::default() }, 0), ["prompts"]);
        let others = Sampling { temperature: Some(0.8), top_k: Some(1), sample_tokens: Some(3), ..Sampling::default() };
        assert_eq!(keys(others, 5), ["sample_tokens", "temperature", "top_k"]);
    }
}
