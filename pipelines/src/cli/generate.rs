//! `pipeline generate`.
use clap::Args;
use std::path::PathBuf;

/// `pipeline generate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline generate runs/wiki --prompt \"The history of\"
  pipeline generate runs/wiki --prompt \"The history of\" --temperature 0 --json")]
pub struct Generate {
    /// A run, for its last checkpoint; or a checkpoint, ours or Hugging Face's
    #[arg(value_name = "RUN_OR_CHECKPOINT")]
    pub model: PathBuf,
    /// The text to go on from; an empty one is the start of a document
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: String,
    /// Most tokens to add
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub max_tokens: usize,
    /// 1: as the model says; lower: more of what is likely; 0: only that
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = temperature)]
    pub temperature: f64,
    /// Choose among the K most probable tokens; 0: among all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Choose among the most probable tokens that have probability P together
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability)]
    pub top_p: f64,
    /// The same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Threads (default: the cores); changes no token
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Print one line of JSON at the end, instead of text as it comes
    #[arg(long)]
    pub json: bool,
}

fn temperature(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value.filter(|t| (0.0..=1e6).contains(t)).ok_or_else(|| "give a number from 0 on, for example 0.8".into())
}

fn probability(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value.filter(|p| *p > 0.0 && *p <= 1.0).ok_or_else(|| "give a number above 0, up to 1, for example 0.95".into())
}
