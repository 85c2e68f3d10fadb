//! `pipeline cache`.
use clap::Args;
use std::path::PathBuf;

/// `pipeline cache`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline cache
  pipeline cache --clear documents --older-than 30")]
pub struct Cache {
    /// Print one line of JSON an entry
    #[arg(long)]
    pub json: bool,
    /// Remove what is listed, or only this kind of it
    #[arg(long, value_name = "KIND", num_args = 0..=1, value_parser = kinds())]
    pub clear: Option<Option<String>>,
    /// Only what was last used more than DAYS days ago
    #[arg(long, value_name = "DAYS")]
    pub older_than: Option<u64>,
    /// The cache (default: $MILLRACE_CACHE, $XDG_CACHE_HOME/millrace or ~/.cache/millrace)
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

fn kinds() -> impl clap::builder::TypedValueParser<Value = String> {
    use clap::builder::{PossibleValue, PossibleValuesParser};
    let kinds = text::cache_entries::KINDS.map(|(kind, what)| PossibleValue::new(kind).help(what));
    PossibleValuesParser::new(kinds)
}
