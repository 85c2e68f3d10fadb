//! Problems that a user can correct: what is wrong, where, the closest valid name, and what to do next.
//!
//! All problems of a configuration are collected in [`Problems`] and printed together:
//!
//! ```
//! # use millrace_pipelines::problem::{Diagnostic, Origin, Problems};
//! let place = Origin::File { file: "configs/wiki.toml".into(), line: 14 };
//! let wrong = Diagnostic::new("unknown stage type `tokenise`", place)
//!     .similar_to("tokenise", ["pack", "tokenize"])
//!     .next("`pipeline stages` lists all");
//! assert_eq!(
//!     Problems(vec![wrong]).to_string(),
//!     "error: unknown stage type `tokenise`\n  \
//!        configs/wiki.toml:14   similar: tokenize   (`pipeline stages` lists all)"
//! );
//! ```
use std::fmt;
use std::path::Path;

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The default.
    #[default]
    Default,
    /// A line of a file.
    File {
        /// The file, as the user named it.
        file: String,
        /// The line, from 1; 0 means the file as a whole.
        line: usize,
    },
    /// A line of a file that the option `--stage` names.
    StageFile {
        /// The file, as the user named it.
        file: String,
        /// The line, from 1; 0 means the file as a whole.
        line: usize,
    },
    /// An option of the command line, as written.
    Option(String),
    /// None: the plan was made in code.
    Code,
}

impl Origin {
    /// A whole file.
    pub fn file(file: impl Into<String>) -> Self {
        Self::File { file: file.into(), line: 0 }
    }

    /// The file, if it is one of the configuration.
    pub(crate) fn file_name(&self) -> Option<&str> {
        match self {
            Self::File { file, .. } => Some(file),
            _ => None,
        }
    }

    /// The same file with another line. Origins that are not files are returned unchanged.
    pub(crate) fn on_line(&self, line: usize) -> Self {
        match self {
            Self::File { file, .. } => Self::File { file: file.clone(), line },
            Self::StageFile { file, .. } => Self::StageFile { file: file.clone(), line },
            other => other.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line: 0 } => f.write_str(file),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::StageFile { file, line: 0 } => write!(f, "--stage {file}"),
            Self::StageFile { file, line } => write!(f, "--stage {file}:{line}"),
            Self::Option(text) => f.write_str(text),
            Self::Code => f.write_str("(made in code)"),
        }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, on one line.
    pub message: String,
    /// Where.
    pub origin: Origin,
    /// Valid names that are similar, the most similar first.
    pub similar: Vec<String>,
    /// What to do next.
    pub next: Option<String>,
    /// The lines of the file around it, formatted.
    pub excerpt: Option<String>,
    /// Whether the system failed, and nothing has to be corrected: exit code 1 instead of 2.
    pub failed: bool,
}

impl Diagnostic {
    /// A problem with `message` at `origin`.
    pub fn new(message: impl Into<String>, origin: Origin) -> Self {
        Self { message: message.into(), origin, similar: Vec::new(), next: None, excerpt: None, failed: false }
    }

    /// Adds the names in `known` that are similar to `wrong`.
    pub fn similar_to<'a>(mut self, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        self.similar = similar(wrong, known);
        self
    }

    /// Adds what to do next.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\n  {}", self.message, self.origin)?;
        if !self.similar.is_empty() {
            write!(f, "   similar: {}", self.similar.join(", "))?;
        }
        if let Some(next) = &self.next {
            write!(f, "   ({next})")?;
        }
        for line in self.excerpt.iter().flat_map(|excerpt| excerpt.lines()) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// All problems, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Diagnostic>);

impl Problems {
    /// Adds a problem.
    pub fn push(&mut self, problem: Diagnostic) {
        self.0.push(problem);
    }

    /// Whether there are no problems.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the system failed to read what would be checked.
    pub(crate) fn failed(&self) -> bool {
        self.0.iter().any(|problem| problem.failed)
    }

    /// Orders them by file and line; those of the command line come last.
    pub(crate) fn sort(&mut self) {
        self.0.sort_by_cached_key(|problem| match &problem.origin {
            Origin::File { file, line } => (0, file.clone(), *line),
            Origin::StageFile { file, line } => (1, file.clone(), *line),
            _ => (2, String::new(), 0),
        });
    }

    /// Returns `value` if there are no problems.
    pub fn or<T>(self, value: T) -> Result<T, Problems> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl From<Diagnostic> for Problems {
    fn from(problem: Diagnostic) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i > 0 { "\n" } else { "" })?;
        }
        if self.0.len() > 1 {
            write!(f, "\n{} problems", self.0.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// An error in how the program was called, which exits with code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Usage {
    /// The error that `path` followed by `why` states. If there is no such file, the most similar name in its folder is
    /// added.
    pub(crate) fn of(path: &Path, why: &str) -> Self {
        let near = text::support::problem::similar_file(path).filter(|_| !path.exists());
        Self(format!("{} {why}{}", path.display(), near.map(|name| format!("; similar: {name}")).unwrap_or_default()))
    }
}

/// The first value that a list has twice.
///
/// ```
/// # use millrace_pipelines::problem::repeated;
/// assert_eq!(repeated(&[3, 1, 2, 1, 3]), Some(&1));
/// assert_eq!(repeated(&["a", "b"]), None);
/// ```
pub fn repeated<T: PartialEq>(all: &[T]) -> Option<&T> {
    all.iter().enumerate().find(|(at, value)| all[..*at].contains(value)).map(|(_, value)| value)
}

/// Up to three names in `known` that are similar to `wrong`, the most similar first.
pub fn similar<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let wrong = plain(wrong);
    let mut found: Vec<(f64, &str)> = known
        .into_iter()
        .filter_map(|name| {
            let other = plain(name);
            let edits = strsim::damerau_levenshtein(&wrong, &other);
            let likeness = strsim::jaro_winkler(&wrong, &other);
            let part = wrong.len() >= 4 && other.contains(&wrong) || other.len() >= 4 && wrong.contains(&other);
            let near = edits <= wrong.chars().count().max(3) / 3 || likeness >= 0.88 || part;
            near.then_some((likeness + if part { 0.1 } else { 0.0 }, name))
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    found.dedup_by(|a, b| a.1 == b.1);
    found.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses() {
        let keys = ["learning_rate", "sequence_length", "micro_batch_size", "micro_batches", "layers", "heads"];
        for (wrong, right) in [
            ("learning-rate", "learning_rate"),
            ("learnign_rate", "learning_rate"),
            ("sequence_len", "sequence_length"),
            ("batch_size", "micro_batch_size"),
            ("head", "heads"),
            ("Layers", "layers"),
            ("layer", "layers"),
        ] {
            assert_eq!(similar(wrong, keys).first().map(String::as_str), Some(right), "{wrong}");
        }
        assert_eq!(similar("banana", keys), Vec::<String>::new());
        assert_eq!(similar("", keys), Vec::<String>::new());
    }

    #[test]
    fn several_are_counted() {
        let one = Diagnostic::new("no", Origin::Option("--set a.b=1".into()));
        insta::assert_snapshot!(Problems(vec![one.clone(), one]), @r"
        error: no
          --set a.b=1
        error: no
          --set a.b=1
        2 problems
        ");
    }
}
