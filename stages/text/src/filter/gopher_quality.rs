//! Stage `gopher_quality`: the quality heuristics of Gopher (Rae et al., 2021, "Scaling Language Models: Methods,
//! Analysis & Insights from Training Gopher", section A.1.1).
use super::{Filter, Rule, Verdict, characters, ratio, words};
use contract::{Result, StageKeys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

/// Settings of stage `gopher_quality`, and the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct GopherQuality {
    /// Minimum number of words; punctuation marks do not count.
    #[key(default = 50)]
    pub min_words: usize,
    /// Maximum number of words; punctuation marks do not count.
    #[key(default = 100_000)]
    pub max_words: usize,
    /// Smallest mean length of a word, in characters.
    #[key(default = 3.0)]
    pub min_mean_word_length: f64,
    /// Largest mean length of a word, in characters.
    #[key(default = 10.0)]
    pub max_mean_word_length: f64,
    /// Maximum number of `#` per word, and of `...` per word.
    #[key(default = 0.1, min = 0, max = 1)]
    pub max_symbol_word_ratio: f64,
    /// Largest fraction of lines that begin with a bullet.
    #[key(default = 0.9, min = 0, max = 1)]
    pub max_bullet_line_fraction: f64,
    /// Largest fraction of lines that end with an ellipsis.
    #[key(default = 0.3, min = 0, max = 1)]
    pub max_ellipsis_line_fraction: f64,
    /// Smallest fraction of words that contain a letter.
    #[key(default = 0.8, min = 0, max = 1)]
    pub min_alphabetic_word_fraction: f64,
    /// Minimum number of different stop words in a text.
    #[key(default = 2)]
    pub min_stop_words: usize,
    /// The stop words.
    #[key(default = STOP_WORDS.map(String::from).to_vec())]
    pub stop_words: Vec<String>,
}

impl Filter for GopherQuality {
    const SUMMARY: &'static str = "drops texts by the quality heuristics of Gopher (Rae et al., 2021)";
    const EXAMPLE: &'static str = "min_words = 50\nmin_stop_words = 2\n";
    type Rule = Self;

    fn rule(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Rule for GopherQuality {
    fn judge(&self, text: &str) -> Verdict {
        let words = words(text);
        let spelled: Vec<&str> = words.iter().copied().filter(|word| word.chars().any(char::is_alphanumeric)).collect();
        if spelled.len() < self.min_words {
            return Verdict::Drop("too few words");
        }
        if spelled.len() > self.max_words {
            return Verdict::Drop("too many words");
        }
        let mean = ratio(spelled.iter().map(|word| characters(word)).sum(), spelled.len());
        if !spelled.is_empty() && mean < self.min_mean_word_length {
            return Verdict::Drop("words too short");
        }
        if mean > self.max_mean_word_length {
            return Verdict::Drop("words too long");
        }
        if ratio(text.matches('#').count(), words.len()) > self.max_symbol_word_ratio {
            return Verdict::Drop("too many number signs");
        }
        let ellipses = text.matches("...").count() + text.matches('…').count();
        if ratio(ellipses, words.len()) > self.max_symbol_word_ratio {
            return Verdict::Drop("too many ellipses");
        }
        let lines: Vec<&str> = text.lines().collect();
        let share = |is: fn(&str) -> bool| ratio(lines.iter().filter(|line| is(line)).count(), lines.len());
        if share(|line| line.trim_start().starts_with(['•', '-'])) > self.max_bullet_line_fraction {
            return Verdict::Drop("too many bullets");
        }
        if share(|line| line.trim_end().ends_with("...") || line.trim_end().ends_with('…'))
            > self.max_ellipsis_line_fraction
        {
            return Verdict::Drop("too many lines that end with an ellipsis");
        }
        let alphabetic = words.iter().filter(|word| word.chars().any(char::is_alphabetic)).count();
        if ratio(alphabetic, words.len()) < self.min_alphabetic_word_fraction {
            return Verdict::Drop("too few words with letters");
        }
        let found: BTreeSet<&str> =
            words.iter().copied().filter(|word| self.stop_words.iter().any(|stop| stop == word)).collect();
        if found.len() < self.min_stop_words {
            return Verdict::Drop("too few stop words");
        }
        Verdict::Keep
    }
}
