//! `pipeline generate`: a checkpoint continues a text.
use super::{Command, Context};
use crate::plan::types_giving;
use crate::problem::Usage;
use crate::process::cores;
use crate::show;
use crate::train_run::directory;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;
use compute::models::config::end_of_text;
use compute::models::sampling::Sampler;
use contract::{Decode, Kind, Parameters, Pretrained, StageType};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use text::Tokenizer;
use text::tokenizer::text_stream::TextStream;
use train::checkpoint;
use train::weights::{Start, StartFiles};

/// Continue a text with a trained model
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline generate runs/wiki --prompt \"The history of\"
  pipeline generate runs/wiki --prompt \"The history of\" --temperature 0 --json")]
pub struct Generate {
    /// A run, for its last checkpoint; or a checkpoint, ours or Hugging Face's
    #[arg(value_name = "RUN_OR_CHECKPOINT")]
    model: PathBuf,
    /// The text to go on from; an empty one is the start of a document
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Most tokens to add
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_tokens: usize,
    /// 1: as the model says; lower: more of what is likely; 0: only that
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = temperature)]
    temperature: f64,
    /// Choose among the K most probable tokens; 0: among all
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: usize,
    /// Choose among the most probable tokens that have probability P together
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    top_p: f64,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Threads (default: the cores); changes no token
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Print one line of JSON at the end, instead of text as it comes
    #[arg(long)]
    json: bool,
}

impl Command for Generate {
    const COMPUTES: bool = true;

    /// Text goes to standard output as it comes, speeds to standard error.
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

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stop {
    /// The model said that it ends.
    EndOfText,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The model has no positions left.
    Context,
}

/// What was generated.
#[derive(Clone, Debug, Serialize)]
struct Generated {
    /// The checkpoint.
    pub checkpoint: String,
    /// What it went on from.
    pub prompt: String,
    /// What it added.
    pub text: String,
    /// The same as token ids.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
    /// Positions of the model: prompt and text have room there.
    pub context: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Speed of reading the prompt, which is one pass.
    pub prompt_tok_per_sec: f64,
    /// Speed of adding tokens, one a pass.
    pub tok_per_sec: f64,
}

/// Continues the prompt; `show` is given the prompt and then text as it comes.
///
/// # Errors
/// [`Usage`] if there is no such run or checkpoint, or the prompt has no room; if a file is missing or broken; if `show`
/// fails.
fn generate(
    asked: &Generate,
    stages: &[StageType],
    show: &mut (dyn FnMut(&str) -> Result<()> + Send),
) -> Result<Generated> {
    let threads = asked.workers.unwrap_or_else(cores).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("cannot start threads")?;
    pool.install(|| {
        let checkpoint = find(&asked.model)?;
        let (mut decoder, tokenizer) =
            open(&checkpoint, stages).with_context(|| format!("cannot generate from {}", checkpoint.display()))?;
        go_on(asked, &checkpoint, &mut *decoder, &tokenizer, show)
    })
}

/// The checkpoint itself, or the last one of a run.
fn find(path: &Path) -> Result<PathBuf> {
    if path.join("config.json").is_file() {
        return Ok(path.to_owned());
    }
    let at = path.display();
    if let Some((_, last)) = checkpoint::list(path)?.pop() {
        return Ok(last);
    }
    Err(Usage(if path.join(directory::CONFIG_FILE).exists() {
        format!("{at} has no checkpoint yet; see `checkpoint.interval`")
    } else if path.exists() {
        format!("{at} is no run and no checkpoint: it has neither checkpoints/ nor config.json")
    } else {
        let near =
            text::support::problem::similar_file(path).map(|name| format!("; similar: {name}")).unwrap_or_default();
        format!("there is no run or checkpoint {at}{near}")
    })
    .into())
}

fn open(folder: &Path, stages: &[StageType]) -> Result<(Box<dyn Decode>, Tokenizer)> {
    let text = std::fs::read_to_string(folder.join("config.json")).context("cannot read config.json")?;
    let config = serde_json::from_str(&text).context("config.json is not JSON")?;
    let model = pretrained(&config, stages).context("config.json is of a model that is not known here")?;
    let tokenizer = Tokenizer::from_folder(folder, end_of_text(&config))?;
    let files = StartFiles::open(&Start::Weights(folder.to_owned()), 0)?;
    let specs = &model.facts.parameters;
    let parameters = specs.iter().map(|spec| files.parameter(spec).map(Arc::new)).collect::<Result<_>>()?;
    let decoder = (model.decoder)(Parameters(parameters));
    let (ids, there) = (tokenizer.vocabulary_size() as usize, decoder.vocabulary());
    ensure!(ids <= there, "the tokenizer has {ids} ids, the model only {there}");
    Ok((decoder, tokenizer))
}

/// The model that `config` describes, of the first of `stages` that has such a model.
///
/// # Errors
/// If there is none; then with the reason of a stage that has models of its kind.
fn pretrained(config: &Value, stages: &[StageType]) -> Result<Pretrained> {
    let mut reason = None;
    for stage_type in stages {
        match (stage_type.from_config)(config) {
            Some(Ok(model)) => return Ok(model),
            Some(Err(error)) => reason = reason.or(Some(error)),
            None => {}
        }
    }
    let kind = &config["model_type"];
    let known = || types_giving(stages, Kind::Activations).join(", ");
    Err(reason.unwrap_or_else(|| match kind.as_str() {
        Some(kind) => anyhow!("models of type `{kind}` are not known here; known: {}", known()),
        None => anyhow!("it does not say its `model_type`"),
    }))
}

fn go_on(
    asked: &Generate,
    checkpoint: &Path,
    decoder: &mut dyn Decode,
    tokenizer: &Tokenizer,
    show: &mut (dyn FnMut(&str) -> Result<()> + Send),
) -> Result<Generated> {
    let mut prompt = tokenizer.encode(&asked.prompt)?;
    if prompt.is_empty() {
        prompt.push(tokenizer.end_of_text()); // after which documents begin
    }
    let context = decoder.capacity();
    if prompt.len() > context {
        let tokens = prompt.len();
        return Err(Usage(format!("the prompt has {tokens} tokens, but the model's context is {context}")).into());
    }
    let mut sampler =
        Sampler { temperature: asked.temperature, top_k: asked.top_k, top_p: asked.top_p, seed: asked.seed, drawn: 0 };
    show(&asked.prompt)?;
    let began = Instant::now();
    let mut logits = decoder.feed(&prompt);
    let prompt_time = began.elapsed();
    let mut stream = TextStream::new(tokenizer);
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut say = |new: String| -> Result<()> {
        text.push_str(&new);
        if new.is_empty() { Ok(()) } else { show(&new) }
    };
    let began = Instant::now();
    let mut fed = 0;
    let stop = loop {
        if tokens.len() == asked.max_tokens {
            break Stop::MaxTokens;
        }
        let Some(token) = sampler.next(&logits) else {
            bail!("after {} tokens the model's logits are not numbers: its weights are broken", tokens.len())
        };
        if token == tokenizer.end_of_text() {
            break Stop::EndOfText;
        }
        tokens.push(token);
        say(stream.push(token)?)?;
        if decoder.length() == context {
            break Stop::Context;
        }
        if tokens.len() < asked.max_tokens {
            logits = decoder.feed(&[token]);
            fed += 1;
        }
    };
    let time = began.elapsed();
    say(stream.finish()?)?;
    Ok(Generated {
        checkpoint: checkpoint.display().to_string(),
        prompt: asked.prompt.clone(),
        text,
        tokens,
        stop,
        context,
        prompt_tokens: prompt.len(),
        prompt_tok_per_sec: rate(prompt.len(), prompt_time),
        tok_per_sec: rate(fed, time),
    })
}

/// Per second, to a tenth.
fn rate(count: usize, time: Duration) -> f64 {
    (count as f64 / time.as_secs_f64().max(1e-9) * 10.0).round() / 10.0
}
