//! `pipeline generate`: continues a text with a model from a checkpoint.
use super::options::Precision;
use super::{Command, Context};
use crate::continuation::{Ends, Stop, continue_text, encode};
use crate::machine::cores;
use crate::pretrained::{ModelFolder, find};
use crate::problem::Usage;
use crate::show;
use anyhow::{Context as _, Result};
use clap::Args;
use compute::models::sampling::Sampler;
use contract::{Decode, StageType};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use text::Tokenizer;

/// Continue a text with a trained model
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline generate runs/wiki --prompt \"The history of\"
  pipeline generate runs/wiki --prompt \"The history of\" --temperature 0 --json
  pipeline generate runs/wiki --prompt \"The history of\" --precision int8")]
pub struct Generate {
    /// A run (its last checkpoint is used), or a checkpoint, ours or Hugging Face's
    #[arg(value_name = "RUN_OR_CHECKPOINT")]
    model: PathBuf,
    /// The text to continue; if empty, a new document is started
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Maximum number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_tokens: usize,
    /// Sampling temperature; 1 leaves the distribution unchanged, lower values sharpen it, 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = temperature)]
    temperature: f64,
    /// Sample from the K most probable tokens; 0: from all
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,
    /// Sample from the most probable tokens whose total probability is P
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    top_p: f64,
    /// Seed of the sampling; the same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Precision of the weights; fewer bits are read faster, and f32 is the model as it is stored
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Threads (default: one per core); does not affect the tokens
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Print one line of JSON at the end instead of streaming the text
    #[arg(long)]
    json: bool,
}

impl Command for Generate {
    const COMPUTES: bool = true;

    /// The text is streamed to standard output; speeds are printed to standard error.
    fn run(&self, context: &Context) -> Result<()> {
        if self.json {
            return context.out.json(&generate(self, context.stages, &mut |_| Ok(()))?);
        }
        let found = generate(self, context.stages, &mut |text| context.out.generated(text))?;
        context.out.line("")?;
        let Generated { prompt_tokens, prompt_tok_per_sec, tok_per_sec, context: positions, .. } = found;
        if found.stop == Stop::Context {
            context.say(&format!("note: the text fills the model's context of {positions} tokens, so it ends here"));
        }
        let tokens = found.tokens.len();
        context.say(&format!(
            "Prompt: {prompt_tokens} tokens, {} | Text: {tokens} tokens, {}",
            show::human::rate(prompt_tok_per_sec, "tok"),
            show::human::rate(tok_per_sec, "tok")
        ));
        Ok(())
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value.filter(|t| (0.0..=1e6).contains(t)).ok_or_else(|| "give a number from 0 on, for example 0.8".into())
}

fn probability(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value.filter(|p| *p > 0.0 && *p <= 1.0).ok_or_else(|| "give a number above 0, up to 1, for example 0.95".into())
}

/// The result.
#[derive(Clone, Debug, Serialize)]
struct Generated {
    /// The checkpoint.
    pub checkpoint: String,
    /// The prompt.
    pub prompt: String,
    /// The generated text.
    pub text: String,
    /// The generated token ids. If one of them ends the text, it is the last, and not part of `text`.
    pub tokens: Vec<u32>,
    /// Why generation ended.
    pub stop: Stop,
    /// The size of the model's context, in tokens: prompt and generated text must fit into it.
    pub context: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Precision of the weights.
    pub precision: contract::Precision,
    /// Speed of processing the prompt (in a single pass).
    pub prompt_tok_per_sec: f64,
    /// Speed of generating tokens (one pass each).
    pub tok_per_sec: f64,
}

/// Continues the prompt. `show` is called with the prompt, and then with text as it is generated.
///
/// # Errors
/// [`Usage`] if there is no such run or checkpoint, or the prompt does not fit the context; if a file is missing or
/// corrupt; if `show` fails.
fn generate(
    asked: &Generate,
    stages: &[StageType],
    show: &mut (dyn FnMut(&str) -> Result<()> + Send),
) -> Result<Generated> {
    let threads = asked.workers.unwrap_or_else(cores).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("cannot start threads")?;
    pool.install(|| {
        let checkpoint = find(&asked.model)?;
        let opened = open(&checkpoint, stages, asked.precision.into());
        let opened = opened.with_context(|| format!("cannot generate from {}", checkpoint.display()))?;
        go_on(asked, &checkpoint, opened, show)
    })
}

/// What texts are continued with.
struct Opened {
    decoder: Box<dyn Decode>,
    tokenizer: Tokenizer,
    /// Tokens that end a text.
    ends: Vec<u32>,
}

fn open(folder: &Path, stages: &[StageType], precision: contract::Precision) -> Result<Opened> {
    let opened = ModelFolder::open(folder, stages)?;
    let tokenizer = opened.tokenizer()?;
    let (decoder, ends) = (opened.decoder(precision)?, opened.ends_of_text(&tokenizer)?);
    Ok(Opened { decoder, tokenizer, ends })
}

fn go_on(
    asked: &Generate,
    checkpoint: &Path,
    opened: Opened,
    show: &mut (dyn FnMut(&str) -> Result<()> + Send),
) -> Result<Generated> {
    let Opened { mut decoder, tokenizer, ends } = opened;
    let prompt = encode(&tokenizer, &asked.prompt)?;
    let context = decoder.capacity();
    if prompt.len() > context {
        let tokens = prompt.len();
        return Err(Usage(format!("the prompt has {tokens} tokens, but the model's context is {context}")).into());
    }
    let mut sampler =
        Sampler { temperature: asked.temperature, top_k: asked.top_k, top_p: asked.top_p, seed: asked.seed, drawn: 0 };
    show(&asked.prompt)?;
    let ends = Ends { tokens: &ends, after: asked.max_tokens };
    let found = continue_text(&mut *decoder, &tokenizer, &prompt, &mut sampler, &ends, show)?;
    Ok(Generated {
        checkpoint: checkpoint.display().to_string(),
        prompt: asked.prompt.clone(),
        precision: asked.precision.into(),
        prompt_tok_per_sec: rate(prompt.len(), found.prompt_time),
        tok_per_sec: rate(found.fed, found.time),
        text: found.text,
        tokens: found.tokens,
        stop: found.stop,
        context,
        prompt_tokens: prompt.len(),
    })
}

/// Tokens per second, rounded to a tenth.
fn rate(count: usize, time: Duration) -> f64 {
    (count as f64 / time.as_secs_f64().max(1e-9) * 10.0).round() / 10.0
}
