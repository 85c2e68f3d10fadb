//! Stage `fineweb`: the heuristics that FineWeb adds (Penedo et al., 2024, "The FineWeb Datasets: Decanting the Web for
//! the Finest Text Data at Scale", section 3.6).
use super::{Filter, Rule, Verdict, characters, duplicates, ratio, words};
use contract::{Result, StageKeys};
use serde::{Deserialize, Serialize};

/// The characters a line may end with: sentence-final marks of the Basic Multilingual Plane.
const TERMINAL: &str = "\
    !.?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚\
    ᭛᭞᭟᭽᭾᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗\
    ！．？｡";

/// Settings of stage `fineweb`, and the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct FineWeb {
    /// Smallest fraction of lines that end with a punctuation mark; 0 to 1.
    #[key(default = 0.12, min = 0, max = 1)]
    pub min_punctuated_line_fraction: f64,
    /// Largest fraction of short lines; 0 to 1.
    #[key(default = 0.67, min = 0, max = 1)]
    pub max_short_line_fraction: f64,
    /// A line of at most this many characters is short.
    #[key(default = 30)]
    pub short_line_characters: usize,
    /// Largest fraction of characters in lines that repeat an earlier line; 0 to 1.
    #[key(default = 0.01, min = 0, max = 1)]
    pub max_duplicate_line_character_fraction: f64,
    /// Maximum number of line breaks per word; 0 to 1.
    #[key(default = 0.3, min = 0, max = 1)]
    pub max_line_break_word_ratio: f64,
}

impl Filter for FineWeb {
    const SUMMARY: &'static str = "drops texts by the heuristics of FineWeb (Penedo et al., 2024)";
    const EXAMPLE: &'static str = "min_punctuated_line_fraction = 0.12\n";
    type Rule = Self;

    fn rule(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Rule for FineWeb {
    fn judge(&self, text: &str) -> Verdict {
        let lines: Vec<&str> = text.split('\n').filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return Verdict::Drop("empty");
        }
        let ended = lines.iter().filter(|line| line.ends_with(|c| TERMINAL.contains(c))).count();
        if ratio(ended, lines.len()) < self.min_punctuated_line_fraction {
            return Verdict::Drop("too few lines that end with punctuation");
        }
        let short = lines.iter().filter(|line| characters(line) <= self.short_line_characters).count();
        if ratio(short, lines.len()) > self.max_short_line_fraction {
            return Verdict::Drop("too many short lines");
        }
        let breaks = text.matches('\n').count();
        let (_, repeated) = duplicates(lines.iter().copied());
        if ratio(repeated, characters(text) - breaks) > self.max_duplicate_line_character_fraction {
            return Verdict::Drop("characters in repeated lines");
        }
        if ratio(breaks, words(text).len()) > self.max_line_break_word_ratio {
            return Verdict::Drop("too many line breaks");
        }
        Verdict::Keep
    }
}
