//! The filter `capitals`: drops texts in which too many letters are capitals, as in lists, headlines and boilerplate.
//! (RefinedWeb, Penedo et al. 2023, appendix G.2, removes single lines that are mainly upper case.)
use contract::{Result, StageKeys};
use serde::{Deserialize, Serialize};
use text::filter::{Filter, Rule, Verdict};

/// The keys of `capitals`, and its rule.
#[derive(Clone, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Capitals {
    /// Largest fraction of letters that are capitals.
    #[key(default = 0.3, min = 0, max = 1)]
    max_fraction: f64,
}

impl Filter for Capitals {
    const SUMMARY: &'static str = "drops texts of which too many letters are capitals";
    const EXAMPLE: &'static str = "max_fraction = 0.3\n";
    type Rule = Self;

    fn rule(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Rule for Capitals {
    fn judge(&self, text: &str) -> Verdict {
        let letters = text.chars().filter(|letter| letter.is_alphabetic()).count();
        let capitals = text.chars().filter(|letter| letter.is_uppercase()).count();
        match capitals as f64 > self.max_fraction * letters as f64 {
            true => Verdict::Drop("too many capitals"),
            false => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shouts_is_dropped() {
        let judge = |text| Capitals { max_fraction: 0.5 }.judge(text);
        assert_eq!(judge("STOP Stop"), Verdict::Drop("too many capitals"));
        for kept in ["ST op", "", "1 + 1 = 2"] {
            assert_eq!(judge(kept), Verdict::Keep, "{kept}");
        }
    }
}
