//! Stage `block_list`: drops texts that contain unwanted words or phrases.
use super::{Filter, Rule, Verdict};
use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::Context;
use contract::{Problem, Result, StageKeys};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Settings of stage `block_list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct BlockList {
    /// Words and phrases; they match whole words, in upper or lower case.
    pub phrases: Vec<String>,
    /// A file with more words and phrases, one per line; none if empty.
    #[key(location)]
    pub path: String,
    /// Drop a text that contains at least this many occurrences of them, counted together; at least 1.
    #[key(default = 1, min = 1)]
    pub occurrences: usize,
}

impl Filter for BlockList {
    const SUMMARY: &'static str = "drops texts that contain words or phrases of a list";
    const EXAMPLE: &'static str = "phrases = [\"lorem ipsum\"]\noccurrences = 1\n";
    type Rule = Listed;

    fn files(&self) -> Vec<(&'static str, PathBuf)> {
        (!self.path.is_empty()).then(|| ("path", PathBuf::from(&self.path))).into_iter().collect()
    }

    fn check(&self) -> Vec<Problem> {
        let nothing = self.phrases.is_empty() && self.path.is_empty();
        let why = "is empty, and there is no `path`: nothing would be dropped";
        nothing.then(|| Problem::at("phrases", why)).into_iter().collect()
    }

    fn rule(&self) -> Result<Listed> {
        Listed::open(self)
    }
}

/// The rule of stage `block_list`.
pub struct Listed {
    searcher: AhoCorasick,
    occurrences: usize,
}

impl Listed {
    fn open(settings: &BlockList) -> Result<Self> {
        let mut phrases = settings.phrases.clone();
        if !settings.path.is_empty() {
            let file = std::fs::read_to_string(&settings.path);
            let file = file.with_context(|| format!("block_list: cannot read `path` {}", settings.path))?;
            phrases.extend(file.lines().map(str::to_string));
        }
        let phrases: Vec<String> =
            phrases.iter().map(|phrase| phrase.trim().to_lowercase()).filter(|phrase| !phrase.is_empty()).collect();
        let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(phrases);
        Ok(Self { searcher: searcher.context("block_list: the list is too long")?, occurrences: settings.occurrences })
    }
}

impl Rule for Listed {
    fn judge(&self, text: &str) -> Verdict {
        let lower = text.to_lowercase();
        let outside = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
        let whole = self.searcher.find_iter(&lower).filter(|found| {
            outside(lower[..found.start()].chars().next_back()) && outside(lower[found.end()..].chars().next())
        });
        match whole.take(self.occurrences).count() {
            n if n == self.occurrences => Verdict::Drop("a phrase of the list"),
            _ => Verdict::Keep,
        }
    }
}
