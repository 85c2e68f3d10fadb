//! Options that several commands share.
use crate::plan::Overrides;
use crate::show::{Progress, Style};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Options of every command.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Print results, warnings and errors only: no progress and no notes
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// When to use colour; "auto": on a terminal, unless NO_COLOR is set or TERM is "dumb"
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Color::Auto, global = true, hide_possible_values = true)]
    pub color: Color,
    /// How to show progress; "auto": in place on a terminal, plain lines elsewhere
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Shown::Auto, global = true, hide_possible_values = true)]
    pub progress: Shown,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal that has it.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shown {
    /// In place on a terminal, plain lines elsewhere.
    Auto,
    /// A plain line now and then.
    Plain,
    /// Not at all.
    None,
}

impl Global {
    /// How standard error is written to.
    pub fn style(&self) -> Style {
        let progress = match self.progress {
            Shown::Auto if std::io::stderr().is_terminal() && !is_dumb() => Progress::InPlace,
            Shown::Auto | Shown::Plain => Progress::Lines,
            Shown::None => Progress::Off,
        };
        Style { quiet: self.quiet, color: self.color.on(std::io::stderr().is_terminal()), progress }
    }
}

impl Color {
    /// What `--color` says, in a command line that is not parsed yet: help and errors of parsing are in colour too.
    pub fn of(arguments: impl Iterator<Item = OsString>) -> Self {
        let words: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
        let apart = words.windows(2).find(|pair| pair[0] == "--color").map(|pair| pair[1].as_str());
        let given = words.iter().find_map(|word| word.strip_prefix("--color=")).or(apart);
        given.and_then(|value| Self::from_str(value, false).ok()).unwrap_or(Self::Auto)
    }

    /// Whether to use colour, on a terminal or not.
    pub fn on(self, terminal: bool) -> bool {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || is_dumb();
        match self {
            Self::Auto => terminal && !unwanted,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

impl From<Color> for clap::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

/// A terminal that can move no cursor.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// `--set` and `--stage`.
#[derive(Clone, Debug, Default, Args)]
pub struct Changes {
    /// Change a value: STAGE.KEY=VALUE or run.KEY=VALUE, in TOML (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<String>,
    /// Replace a stage's table by a file that holds another (repeatable)
    #[arg(long, value_name = "STAGE=FILE", value_parser = parse_stage)]
    stage: Vec<(String, PathBuf)>,
}

impl Changes {
    /// What the options change in the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides { set: self.set.clone(), stage: self.stage.clone(), ..Overrides::default() }
    }
}

fn parse_set(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if key.contains('.') => Ok(text.to_owned()),
        _ => Err("write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4".into()),
    }
}

fn parse_stage(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((id, file)) if !id.is_empty() && !file.is_empty() => Ok((id.to_owned(), file.into())),
        _ => Err("write STAGE=FILE, for example optimize=configs/stages/muon.toml".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_known_before_the_command_line_is_parsed() {
        let of = |line: &str| Color::of(line.split(' ').map(OsString::from));
        assert_eq!(of("run a.toml --color never"), Color::Never);
        assert_eq!(of("--color=always run --halp"), Color::Always);
        assert_eq!(of("run --color"), Color::Auto);
        assert!(Color::Always.on(false) && !Color::Never.on(true) && !Color::Auto.on(false));
    }
}
