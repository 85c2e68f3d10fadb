//! Stage `gopher_quality`: the quality heuristics of Gopher (Rae et al., 2021, "Scaling Language Models: Methods,
//! Analysis & Insights from Training Gopher", section A.1.1).
use super::{Filter, Rule, Verdict, characters, filter_settings, fractions, ratio, words};
use contract::{StageKeys, StageSettings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Settings of stage `gopher_quality`, and the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct GopherQuality {
    /// Fewest words; punctuation marks do not count.
    pub min_words: usize,
    /// Most words; punctuation marks do not count.
    pub max_words: usize,
    /// Smallest mean length of a word, in characters.
    pub min_mean_word_length: f64,
    /// Largest mean length of a word, in characters.
    pub max_mean_word_length: f64,
    /// Most `#`, and most `...`, per word.
    pub max_symbol_word_ratio: f64,
    /// Largest fraction of lines that begin with a bullet.
    pub max_bullet_line_fraction: f64,
    /// Largest fraction of lines that end with an ellipsis.
    pub max_ellipsis_line_fraction: f64,
    /// Smallest fraction of words that contain a letter.
    pub min_alphabetic_word_fraction: f64,
    /// Fewest different stop words in a text.
    pub min_stop_words: usize,
    /// The stop words.
    pub stop_words: Vec<String>,
}

impl Default for GopherQuality {
    fn default() -> Self {
        Self {
            min_words: 50,
            max_words: 100_000,
            min_mean_word_length: 3.0,
            max_mean_word_length: 10.0,
            max_symbol_word_ratio: 0.1,
            max_bullet_line_fraction: 0.9,
            max_ellipsis_line_fraction: 0.3,
            min_alphabetic_word_fraction: 0.8,
            min_stop_words: 2,
            stop_words: ["the", "be", "to", "of", "and", "that", "have", "with"].map(String::from).to_vec(),
        }
    }
}

impl StageSettings for GopherQuality {
    const SUMMARY: &'static str = "drops texts by the quality heuristics of Gopher (Rae et al., 2021)";
    const EXAMPLE: &'static str = "min_words = 50\nmin_stop_words = 2\n";
}

filter_settings!(
    GopherQuality,
    |s| fractions(&[
        ("max_symbol_word_ratio", s.max_symbol_word_ratio),
        ("max_bullet_line_fraction", s.max_bullet_line_fraction),
        ("max_ellipsis_line_fraction", s.max_ellipsis_line_fraction),
        ("min_alphabetic_word_fraction", s.min_alphabetic_word_fraction),
    ]),
    |s| Ok(Box::new(Filter::new("gopher_quality", s.clone())))
);

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
