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
    /// When to use colour; auto: on a terminal, unless NO_COLOR is set or TERM is dumb
    #[arg(long, value_enum, value_name = "auto|always|never", default_value_t = Color::Auto, global = true, hide_possible_values = true)]
    pub color: Color,
    /// How to show progress; auto: in place on a terminal, plain lines elsewhere
    #[arg(long, value_enum, value_name = "auto|plain|none", default_value_t = Shown::Auto, global = true, hide_possible_values = true)]
    pub progress: Shown,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// If it is a terminal that supports it.
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
    /// Plain lines from time to time.
    Plain,
    /// Not at all.
    None,
}

impl Global {
    /// How to write to standard error.
    pub fn style(&self) -> Style {
        let terminal = std::io::stderr().is_terminal();
        let progress = self.progress.on(terminal, &Environment::read());
        Style { quiet: self.quiet, color: self.color.on(terminal), progress }
    }
}

impl Color {
    /// The value of `--color` in a command line that is not parsed yet, since help and parse errors use colour too.
    pub fn of(arguments: impl Iterator<Item = OsString>) -> Self {
        let words: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
        let apart = words.windows(2).find(|pair| pair[0] == "--color").map(|pair| pair[1].as_str());
        let given = words.iter().find_map(|word| word.strip_prefix("--color=")).or(apart);
        given.and_then(|value| Self::from_str(value, false).ok()).unwrap_or(Self::Auto)
    }

    /// Whether to use colour, on a terminal or not.
    pub fn on(self, terminal: bool) -> bool {
        self.given(terminal, &Environment::read())
    }

    fn given(self, terminal: bool, environment: &Environment) -> bool {
        match self {
            Self::Auto => terminal && !environment.no_color && !environment.dumb,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

impl Shown {
    fn on(self, terminal: bool, environment: &Environment) -> Progress {
        match self {
            Self::Auto if terminal && !environment.dumb => Progress::InPlace,
            Self::Auto | Self::Plain => Progress::Lines,
            Self::None => Progress::Off,
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

/// Environment variables about terminals.
struct Environment {
    /// `NO_COLOR` is set, to anything (<https://no-color.org>).
    no_color: bool,
    /// `TERM=dumb`: a terminal that cannot move its cursor.
    dumb: bool,
}

impl Environment {
    fn read() -> Self {
        Self {
            no_color: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
            dumb: std::env::var_os("TERM").is_some_and(|term| term == "dumb"),
        }
    }
}

/// The precision of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32-bit floating point
    F32,
    /// Operands of products rounded to bfloat16, sums in 32 bits
    Bf16,
    /// Eight bits with a scale per row in products with parameters, everything else as in bf16
    Int8,
}

impl From<Precision> for contract::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::Int8 => Self::Int8,
        }
    }
}

/// Formats the values of options as on the command line.
macro_rules! named {
    ($($type:ty),*) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let value = self.to_possible_value();
                f.write_str(value.as_ref().map_or("", |value| value.get_name()))
            }
        }
    )*};
}
named!(Precision);
pub(super) use named;

/// `--set` and `--stage`.
#[derive(Clone, Debug, Default, Args)]
pub struct Changes {
    /// Change a value: STAGE.KEY=VALUE or run.KEY=VALUE, in TOML (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<String>,
    /// Replace a stage's table by the contents of a file (repeatable)
    #[arg(long, value_name = "STAGE=FILE", value_parser = parse_stage)]
    stage: Vec<(String, PathBuf)>,
}

impl Changes {
    /// The changes of the configuration.
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
    }

    #[test]
    fn the_environment_may_want_no_colour_and_no_cursor_movement() {
        let plain = Environment { no_color: false, dumb: false };
        let no_color = Environment { no_color: true, dumb: false };
        let dumb = Environment { no_color: false, dumb: true };
        assert!(Color::Auto.given(true, &plain) && !Color::Auto.given(false, &plain));
        assert!(!Color::Auto.given(true, &no_color) && !Color::Auto.given(true, &dumb));
        assert!(Color::Always.given(false, &dumb) && !Color::Never.given(true, &plain));
        assert_eq!(Shown::Auto.on(true, &plain), Progress::InPlace);
        assert_eq!(Shown::Auto.on(true, &no_color), Progress::InPlace);
        assert_eq!([Shown::Auto.on(true, &dumb), Shown::Auto.on(false, &plain)], [Progress::Lines; 2]);
        assert_eq!([Shown::Plain, Shown::None].map(|how| how.on(true, &plain)), [Progress::Lines, Progress::Off]);
    }
}
