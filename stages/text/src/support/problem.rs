//! Problems with input. Each message says what is wrong, where, the most similar name, and what to do next.
use std::path::{Path, PathBuf};

/// A problem with input that the user can correct. `downcast_ref` finds it in an [`anyhow::Error`].
#[derive(Debug, thiserror::Error)]
pub enum TextProblem {
    /// A path in the configuration does not exist.
    #[error("there is no file or folder {}{}{}", path.display(), near(similar), elsewhere(path))]
    Missing {
        /// The path.
        path: PathBuf,
        /// The most similar name in its folder.
        similar: Option<String>,
    },
    /// A folder or pattern without files to read.
    #[error("{place} holds no file to read; what can be read: {readable}")]
    Nothing {
        /// The folder or pattern.
        place: String,
        /// Suffixes of files that are read.
        readable: String,
    },
    /// A file of a format that is not read.
    #[error("{} is not of a format that can be read ({why}); what can be read: {readable}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// How that was seen.
        why: String,
        /// Suffixes of files that are read.
        readable: String,
    },
    /// A file of another format than the one it has to have.
    #[error("{} is not {format}: {why}", path.display())]
    NotOfFormat {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// How that was seen, or what to do.
        why: String,
    },
    /// A Parquet file without the column.
    #[error("no column \"{column}\" in {}; columns: {}{}", file.display(), columns.join(", "), near(&similar(column, columns)))]
    Column {
        /// The file.
        file: PathBuf,
        /// What was asked for.
        column: String,
        /// What there is.
        columns: Vec<String>,
    },
    /// A column of a type that cannot be used.
    #[error("column \"{column}\" of {} is of type {found}, not {expected}", file.display())]
    Type {
        /// The file.
        file: PathBuf,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// Nothing to learn from.
    #[error("the corpus is empty: {why}")]
    Empty {
        /// How it came to that.
        why: String,
    },
    /// A key whose value cannot be used in this graph, or with these files.
    #[error("`{key}`: {why}")]
    Unsuitable {
        /// The key, with its stage.
        key: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A tokenizer that cannot be used.
    #[error("tokenizer {name}: {why}")]
    Tokenizer {
        /// Its path or name.
        name: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A token file that was made with something else.
    #[error("{}: its {what} is {found}, but {expected} is expected", file.display())]
    Mismatch {
        /// The token file.
        file: PathBuf,
        /// What disagrees.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// A file that is not what it says it is.
    #[error("{}{}: {why}; restore the file, or leave it out of `paths`", file.display(), place(*row_group))]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it, if that is known.
        row_group: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// The first unreadable piece of data, with `on_bad_data = "stop"`.
    #[error("{}{}: {why}; `on_bad_data = \"quarantine\"` sets such data aside and goes on", file.display(), place(*row_group))]
    Stopped {
        /// The file.
        file: PathBuf,
        /// The row group, of Parquet.
        row_group: Option<u64>,
        /// The place in it, and what is wrong.
        why: String,
    },
    /// More data that cannot be read than is allowed.
    #[error("{summary}; more than `max_bad_fraction` = {limit} allows; the first: {first}")]
    TooMuchUnreadable {
        /// How many of how many documents, by reason.
        summary: String,
        /// What is allowed.
        limit: f64,
        /// Where the first is, and what is wrong with it.
        first: String,
    },
    /// Documents with the id of an earlier one but another text, with `repeated_ids = "error"`.
    #[error("{summary}; `{key} = \"drop\"` keeps the first of each id, `{key} = \"keep\"` all")]
    RepeatedIds {
        /// How many there are, and an example.
        summary: String,
        /// The key that decides, with its stage.
        key: String,
    },
    /// A list of documents that cannot be used.
    #[error("{}: {why}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A token id that the vocabulary has not.
    #[error("{}, row group {row_group}, row {row}: token id {id} is not below the vocabulary size {vocabulary}", file.display())]
    Id {
        /// The token file.
        file: PathBuf,
        /// The row group.
        row_group: usize,
        /// The row within the row group.
        row: usize,
        /// The id.
        id: u32,
        /// Number of ids there are.
        vocabulary: u32,
    },
}

impl TextProblem {
    /// Whether it is a problem of the configuration (exit code 2), not of the data (1).
    pub fn is_usage(&self) -> bool {
        use TextProblem::*;
        !matches!(self, Corrupt { .. } | Stopped { .. } | TooMuchUnreadable { .. } | RepeatedIds { .. } | Id { .. })
    }

    /// The message; that of [`Stopped`](Self::Stopped) without the advice.
    pub fn place_and_cause(&self) -> String {
        match self {
            Self::Stopped { file, row_group, why } => format!("{}{}: {why}", file.display(), place(*row_group)),
            other => other.to_string(),
        }
    }
}

fn near(similar: &Option<String>) -> String {
    similar.as_ref().map(|name| format!("; similar: {name}")).unwrap_or_default()
}

/// The advice for a path that looks like a URL, or like the name of something on the Hugging Face hub.
fn elsewhere(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    let is_name = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    // "Llama-3.2-1B" has none: what follows its dot is no suffix.
    let has_suffix = |path: &Path| {
        path.extension()
            .is_some_and(|suffix| suffix.to_string_lossy().chars().all(|c| c.is_ascii_lowercase() || c == '2'))
    };
    match text.split_once('/') {
        _ if text.starts_with('~') || text.contains('$') => {
            "; `~` and variables are not expanded: write the whole path"
        }
        _ if text.contains("://") => "; only local files are read: download it first",
        Some((user, name)) if is_name(user) && is_name(name) && !has_suffix(path) => {
            "; if it is a name on the Hugging Face hub, download it (`hf download NAME tokenizer.json`) and give the path of \
             the file"
        }
        _ => "",
    }
}

fn place(row_group: Option<impl std::fmt::Display>) -> String {
    row_group.map(|group| format!(", row group {group}")).unwrap_or_default()
}

/// How much two names are like each other, from 0 to 1.
pub fn likeness(one: &str, other: &str) -> f64 {
    strsim::jaro_winkler(&one.to_lowercase(), &other.to_lowercase())
}

/// The candidate most like `word`, if any is like it.
pub fn similar<S: AsRef<str>>(word: &str, candidates: &[S]) -> Option<String> {
    candidates
        .iter()
        .map(|c| (likeness(word, c.as_ref()), c.as_ref()))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_string())
}

/// The entry of `path`'s folder whose name is most like its own.
pub fn similar_file(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut names: Vec<String> =
        std::fs::read_dir(folder).ok()?.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    similar(path.file_name()?.to_str()?, &names)
}

/// Runs `f`; a panic in it (of a decoder, on damaged input) becomes an error message.
pub fn shielded<T>(f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
        Ok(result) => result,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(anyhow::anyhow!("the decoder gave up: {said}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_here_says_what_to_do() {
        for (path, said) in [
            ("~/d.jsonl", "`~` and variables are not expanded"),
            ("$HOME/d.jsonl", "`~` and variables are not expanded"),
            ("https://example.org/d.jsonl", "download it first"),
            ("meta-llama/Llama-3.2-1B", "a name on the Hugging Face hub"),
            ("data/d.jsonl", ""),
        ] {
            let problem = TextProblem::Missing { path: path.into(), similar: None }.to_string();
            assert!(problem.contains(said) && problem.contains(';') != said.is_empty(), "{problem}");
        }
    }

    #[test]
    fn a_wrong_column_names_the_near_miss() {
        let columns = ["id", "url", "title", "text"].map(String::from).to_vec();
        let problem = TextProblem::Column { file: "X.parquet".into(), column: "txt".into(), columns };
        assert_eq!(problem.to_string(), "no column \"txt\" in X.parquet; columns: id, url, title, text; similar: text");
        assert!(problem.is_usage());
    }

    #[test]
    fn a_panic_becomes_an_error() {
        assert!(shielded(|| -> anyhow::Result<()> { panic!("row {}", 7) }).unwrap_err().to_string().contains("row 7"));
    }
}
