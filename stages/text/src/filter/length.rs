//! Stage `length`: texts that are too short or too long.
use super::{Filter, Rule, Verdict, characters, words};
use contract::{Problem, Result, StageKeys};
use serde::{Deserialize, Serialize};

/// Settings of stage `length`, and the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Length {
    /// Minimum number of characters.
    #[key(default = 1)]
    pub min_characters: usize,
    /// Maximum number of characters; unlimited if not given.
    pub max_characters: Option<usize>,
    /// Minimum number of words (Unicode Standard Annex 29; punctuation marks count).
    pub min_words: usize,
    /// Maximum number of words; unlimited if not given.
    pub max_words: Option<usize>,
}

impl Filter for Length {
    const SUMMARY: &'static str = "drops texts that are too short or too long";
    const EXAMPLE: &'static str = "min_characters = 200\nmax_words = 100000\n";
    type Rule = Self;

    fn check(&self) -> Vec<Problem> {
        let least = [
            ("max_characters", self.min_characters, self.max_characters),
            ("max_words", self.min_words, self.max_words),
        ];
        let wrong = least.into_iter().filter_map(|(key, min, max)| Some((key, min, max.filter(|max| *max < min)?)));
        wrong.map(|(key, min, max)| Problem::at(key, format!("{max} is below the least, {min}"))).collect()
    }

    fn rule(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Rule for Length {
    fn judge(&self, text: &str) -> Verdict {
        let long = characters(text);
        if long < self.min_characters {
            return Verdict::Drop("too few characters");
        }
        if self.max_characters.is_some_and(|max| long > max) {
            return Verdict::Drop("too many characters");
        }
        if self.min_words == 0 && self.max_words.is_none() {
            return Verdict::Keep;
        }
        match words(text).len() {
            n if n < self.min_words => Verdict::Drop("too few words"),
            n if self.max_words.is_some_and(|max| n > max) => Verdict::Drop("too many words"),
            _ => Verdict::Keep,
        }
    }
}
