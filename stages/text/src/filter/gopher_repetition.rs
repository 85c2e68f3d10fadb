//! Stage `gopher_repetition`: texts that repeat themselves (Rae et al., 2021, "Scaling Language Models: Methods,
//! Analysis & Insights from Training Gopher", table A1).
use super::{Filter, Rule, Verdict, characters, duplicates, ratio, words};
use contract::{Result, StageKeys};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

/// Settings of stage `gopher_repetition`, and the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct GopherRepetition {
    /// Largest fraction of lines that repeat an earlier line; 0 to 1.
    #[key(default = 0.3, min = 0, max = 1)]
    pub max_duplicate_line_fraction: f64,
    /// Largest fraction of paragraphs that repeat an earlier paragraph; 0 to 1.
    #[key(default = 0.3, min = 0, max = 1)]
    pub max_duplicate_paragraph_fraction: f64,
    /// Largest fraction of characters in lines that repeat an earlier line; 0 to 1.
    #[key(default = 0.2, min = 0, max = 1)]
    pub max_duplicate_line_character_fraction: f64,
    /// Largest fraction of characters in paragraphs that repeat an earlier paragraph; 0 to 1.
    #[key(default = 0.2, min = 0, max = 1)]
    pub max_duplicate_paragraph_character_fraction: f64,
    /// Largest fractions of characters in the most frequent 2-gram, 3-gram, 4-gram, …; 0 to 1 each.
    #[key(default = vec![0.2, 0.18, 0.16], min = 0, max = 1)]
    pub max_top_ngram_character_fractions: Vec<f64>,
    /// Largest fractions of characters in repeated 5-grams, 6-grams, …; 0 to 1 each.
    #[key(default = vec![0.15, 0.14, 0.13, 0.12, 0.11, 0.1], min = 0, max = 1)]
    pub max_duplicate_ngram_character_fractions: Vec<f64>,
}

impl Filter for GopherRepetition {
    const SUMMARY: &'static str = "drops texts that repeat themselves, as Gopher does (Rae et al., 2021)";
    const EXAMPLE: &'static str = "max_duplicate_line_fraction = 0.3\n";
    type Rule = Self;

    fn rule(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Rule for GopherRepetition {
    fn judge(&self, text: &str) -> Verdict {
        let length = characters(text);
        let paragraphs: Vec<&str> =
            text.trim().split("\n\n").map(|part| part.trim_matches('\n')).filter(|p| !p.is_empty()).collect();
        let (count, inside) = duplicates(paragraphs.iter().copied());
        if ratio(count, paragraphs.len()) > self.max_duplicate_paragraph_fraction {
            return Verdict::Drop("repeated paragraphs");
        }
        if ratio(inside, length) > self.max_duplicate_paragraph_character_fraction {
            return Verdict::Drop("characters in repeated paragraphs");
        }
        let lines: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
        let (count, inside) = duplicates(lines.iter().copied());
        if ratio(count, lines.len()) > self.max_duplicate_line_fraction {
            return Verdict::Drop("repeated lines");
        }
        if ratio(inside, length) > self.max_duplicate_line_character_fraction {
            return Verdict::Drop("characters in repeated lines");
        }
        let (numbers, lengths) = numbered(&words(text));
        for (n, most) in (2..).zip(&self.max_top_ngram_character_fractions) {
            if ratio(top_ngram(&numbers, &lengths, n), length) > *most {
                return Verdict::Drop("a frequent n-gram");
            }
        }
        for (n, most) in (5..).zip(&self.max_duplicate_ngram_character_fractions) {
            if ratio(repeated_ngrams(&numbers, &lengths, n), length) > *most {
                return Verdict::Drop("repeated n-grams");
            }
        }
        Verdict::Keep
    }
}

/// Each word's index (equal words have the same) and its number of characters.
fn numbered(words: &[&str]) -> (Vec<u32>, Vec<usize>) {
    let mut known: FxHashMap<&str, u32> = FxHashMap::default();
    let numbers = words.iter().map(|word| {
        let next = known.len() as u32;
        *known.entry(word).or_insert(next)
    });
    (numbers.collect(), words.iter().map(|word| characters(word)).collect())
}

/// Characters in the most frequent `n`-gram, including the spaces between its words; the first one in case of a tie.
fn top_ngram(numbers: &[u32], lengths: &[usize], n: usize) -> usize {
    let mut counts: FxHashMap<&[u32], (usize, usize)> = FxHashMap::default();
    counts.reserve(numbers.len());
    for (at, ngram) in numbers.windows(n).enumerate() {
        counts.entry(ngram).or_insert((0, at)).0 += 1;
    }
    let top = counts.into_values().max_by_key(|(count, at)| (*count, std::cmp::Reverse(*at)));
    top.map_or(0, |(count, at)| count * (lengths[at..at + n].iter().sum::<usize>() + n - 1))
}

/// Characters in `n`-grams that have occurred before; none is counted twice.
fn repeated_ngrams(numbers: &[u32], lengths: &[usize], n: usize) -> usize {
    let mut seen: FxHashSet<&[u32]> = FxHashSet::default();
    seen.reserve(numbers.len());
    let (mut at, mut repeated) = (0, 0);
    while let Some(ngram) = numbers.get(at..at + n) {
        if seen.insert(ngram) {
            at += 1;
        } else {
            repeated += lengths[at..at + n].iter().sum::<usize>();
            at += n;
        }
    }
    repeated
}
