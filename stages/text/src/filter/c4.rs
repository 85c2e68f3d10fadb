//! Stage `c4`: the line and page heuristics of C4 (Raffel et al., 2020, "Exploring the Limits of Transfer Learning with
//! a Unified Text-to-Text Transformer", section 2.2). Lines are removed from a text; a text with too few remaining
//! sentences, or with content that is not allowed on any page, is dropped.
use super::{Filter, Rule, Verdict, characters};
use contract::{Result, StageKeys};
use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

/// Lines that contain one of these are removed.
const POLICIES: &[&str] =
    &["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"];

/// Settings of stage `c4`, and the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct C4 {
    /// Minimum number of sentences in the lines that are kept.
    #[key(default = 5)]
    pub min_sentences: usize,
    /// Lines with fewer words are removed.
    #[key(default = 3)]
    pub min_words_per_line: usize,
    /// Lines that contain a word with more characters are removed.
    #[key(default = 1000)]
    pub max_word_length: usize,
    /// Remove lines that do not end with one of .?!"'
    #[key(default = true)]
    pub terminal_punctuation: bool,
    /// Drop texts with a curly bracket, {.
    #[key(default = true)]
    pub drop_curly_brackets: bool,
    /// Drop texts with "lorem ipsum".
    #[key(default = true)]
    pub drop_lorem_ipsum: bool,
}

impl Filter for C4 {
    const SUMMARY: &'static str = "removes lines and drops texts by the heuristics of C4 (Raffel et al., 2020)";
    const EXAMPLE: &'static str = "min_sentences = 5\nterminal_punctuation = true\n";
    type Rule = Self;

    fn rule(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Rule for C4 {
    fn judge(&self, text: &str) -> Verdict {
        let mut sentences = 0;
        let mut kept = Vec::new();
        for line in text.lines().map(str::trim) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.iter().any(|word| characters(word) > self.max_word_length) {
                continue;
            }
            let line = without_citations(line);
            let ends = line.ends_with(['.', '?', '!', '"', '\'']) && !line.ends_with("...");
            if self.terminal_punctuation && !ends || words.len() < self.min_words_per_line {
                continue;
            }
            let lower = line.to_lowercase();
            if self.drop_lorem_ipsum && lower.contains("lorem ipsum") {
                return Verdict::Drop("lorem ipsum");
            }
            if lower.contains("javascript") {
                continue;
            }
            if self.drop_curly_brackets && line.contains('{') {
                return Verdict::Drop("curly brackets");
            }
            if POLICIES.iter().any(|policy| lower.contains(policy)) {
                continue;
            }
            sentences += line.unicode_sentences().count();
            kept.push(line);
        }
        if sentences < self.min_sentences {
            return Verdict::Drop("too few sentences");
        }
        let kept = kept.join("\n");
        if kept == text { Verdict::Keep } else { Verdict::Replace(kept.trim().to_string()) }
    }
}

/// Removes `[1]`, `[edit]` and `[citation needed]`.
fn without_citations(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('[') {
        out.push_str(&rest[..at]);
        let inside = rest[at + 1..].find(']').map(|end| &rest[at + 1..at + 1 + end]).filter(|inside| {
            inside.bytes().all(|b| b.is_ascii_digit()) || matches!(*inside, "edit" | "citation needed")
        });
        match inside {
            Some(inside) => rest = &rest[at + inside.len() + 2..],
            None => {
                out.push('[');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}
