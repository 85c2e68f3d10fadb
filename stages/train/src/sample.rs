//! `sample`: shows how the model continues a prompt, every so many steps.
use crate::record::Reporter;
use anyhow::{Context, Result};
use contract::{
    At, Built, Emit, Env, Kind, Packet, Parameters, Port, Purpose, Route, Schedule, Settings, Stage, StageKeys,
    StageSettings, Step, Tensor, Turn,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of `type = "sample"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// Steps between samples. There is also one at the end of the run.
    #[key(default = 100, min = 1)]
    pub interval: u64,
    /// The text to continue; if empty, a new document is started.
    pub prompt: String,
    /// Maximum number of tokens to generate.
    #[key(default = 60, min = 1, max = 65_536)]
    pub max_tokens: usize,
    /// Sampling temperature; 0 always selects the most probable token.
    #[key(default = 0.8, min = 0, max = 1e6)]
    pub temperature: f64,
    /// Sample from this many of the most probable tokens; 0: from all.
    #[key(default = 40)]
    pub top_k: usize,
}

/// Continues prompts with the model of a run.
pub trait Continue: Send + Sync {
    /// The tokens of a prompt.
    ///
    /// # Errors
    /// If the run has no tokenizer, the prompt is longer than the model's context, or the model cannot generate text.
    fn encode(&self, prompt: &str) -> Result<Vec<u32>>;

    /// The text with which the model of these parameters continues `prompt`, which [`encode`](Self::encode) has returned;
    /// `None` if its logits are not finite, which the loss of the next step reports.
    ///
    /// # Errors
    /// If the tokenizer fails.
    fn text(&self, parameters: Parameters, prompt: &[u32], settings: &Sample) -> Result<Option<String>>;
}

/// The run's [`Continue`], as a resource.
pub struct Continuation(pub Box<dyn Continue>);

impl StageSettings for Sample {
    const SUMMARY: &'static str = "shows text that the model generates, every so many steps";
    const OBSERVES: bool = true;
    const EXAMPLE: &'static str = "type = \"sample\"\ninterval = 100\nprompt = \"The history of\"\n";
}

impl Settings for Sample {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Parameters).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        // The parameters are sent to the first worker.
        let continuation = env.resources.get::<Continuation>().filter(|_| env.worker == 0);
        let prompt = continuation.as_ref().map_or(Ok(Vec::new()), |of_run| of_run.0.encode(&self.prompt))?;
        Ok(Built::Stage(Box::new(SampleStage {
            settings: self.clone(),
            schedule: env.schedule,
            // Parameters of the same step have had its update; those that come by a feedback edge have not.
            updated: u64::from(!env.upstream.is_empty()),
            pieces: vec![None; env.model()?.parameters.len()],
            continuation,
            prompt,
            reporter: env.resources.get(),
        })))
    }
}

struct SampleStage {
    settings: Sample,
    schedule: Schedule,
    /// Updates that the parameters have had since the beginning of the step: 0 or 1.
    updated: u64,
    pieces: Vec<Option<Arc<Tensor>>>,
    /// `None` on the other workers, and in commands that do not train.
    continuation: Option<Arc<Continuation>>,
    /// The tokens of the prompt.
    prompt: Vec<u32>,
    reporter: Option<Arc<Reporter>>,
}

impl Stage for SampleStage {
    /// Generates as soon as all parameters of the step are there, and drops them, so that the optimizer can update them in
    /// place.
    fn packet(&mut self, at: At, packet: Packet, _out: &mut dyn Emit) -> Result<Turn> {
        let updates = at.step + self.updated;
        let (Packet::Parameters(piece), Some(continuation), Some(reporter)) =
            (packet, &self.continuation, &self.reporter)
        else {
            return Ok(Turn::Done);
        };
        if !self.schedule.is_due(self.settings.interval, updates) {
            return Ok(Turn::Done);
        }
        self.pieces[piece.tensor] = Some(Arc::clone(piece.values(Purpose::Validate)));
        if self.pieces.iter().all(Option::is_some) {
            let parameters = Parameters(self.pieces.iter_mut().filter_map(Option::take).collect());
            let text = continuation.0.text(parameters, &self.prompt, &self.settings);
            if let Some(text) = text.context("cannot generate a sample")? {
                reporter.0.sampled(updates, &format!("{}{text}", self.settings.prompt));
            }
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, _step: Step, _out: &mut dyn Emit) -> Result<()> {
        self.pieces.fill(None);
        Ok(())
    }
}
