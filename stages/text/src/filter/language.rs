//! Stage `language`: drops texts in other languages, as identified by the trigrams of the crate `whatlang` (Cavnar and
//! Trenkle, 1994, "N-Gram-Based Text Categorization").
use super::{Filter, Rule, Verdict};
use contract::{Problem, Result, StageKeys};
use serde::{Deserialize, Serialize};
use whatlang::Lang;

/// Bytes at the beginning of a text that are examined.
const LOOKED_AT: usize = 16 << 10;

/// Settings of stage `language`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Language {
    /// ISO 639-3 codes of the languages to keep, for example `["eng", "deu"]`.
    #[key(default = vec!["eng".into()])]
    pub languages: Vec<String>,
    /// Minimum confidence of the detected language; 0 to 1.
    #[key(default = 0.5, min = 0, max = 1)]
    pub min_confidence: f64,
}

impl Filter for Language {
    const SUMMARY: &'static str = "drops texts in languages other than the given ones";
    const EXAMPLE: &'static str = "languages = [\"eng\"]\nmin_confidence = 0.5\n";
    type Rule = InLanguage;

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.languages.is_empty() {
            problems.push(Problem::at("languages", "is empty: every text would be dropped"));
        }
        let known: Vec<&str> = Lang::all().iter().map(|lang| lang.code()).collect();
        for code in self.languages.iter().filter(|code| !known.contains(&code.as_str())) {
            let near = crate::support::problem::similar(code, &known)
                .map(|near| format!("; similar: {near}"))
                .unwrap_or_default();
            problems.push(Problem::at("languages", format!("\"{code}\" is not a known ISO 639-3 code{near}")));
        }
        problems
    }

    fn rule(&self) -> Result<InLanguage> {
        let languages = self.languages.iter().filter_map(Lang::from_code).collect();
        Ok(InLanguage { languages, min_confidence: self.min_confidence })
    }
}

/// The rule of stage `language`.
pub struct InLanguage {
    languages: Vec<Lang>,
    min_confidence: f64,
}

impl Rule for InLanguage {
    fn judge(&self, text: &str) -> Verdict {
        let end = (0..=LOOKED_AT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        match whatlang::detect(&text[..end]) {
            None => Verdict::Drop("no language recognised"),
            Some(found) if !self.languages.contains(&found.lang()) => Verdict::Drop("another language"),
            Some(found) if found.confidence() < self.min_confidence => Verdict::Drop("language uncertain"),
            Some(_) => Verdict::Keep,
        }
    }
}
