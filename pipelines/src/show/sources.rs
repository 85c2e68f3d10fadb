//! The sources of a mixture as a table: what a run trains on.
use super::human::{count, decimal};
use super::table::{Align, table};
use contract::Step;
use serde::Serialize;

/// What a run trains on of a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceUse {
    /// The stage.
    pub source: String,
    /// Its share of all tokens.
    pub share: f64,
    /// Tokens that the run trains on.
    pub tokens: u64,
    /// Passes over its training documents, if their size is known.
    pub epochs: Option<f64>,
    /// The number of updates after which it is used up, if its epochs are limited and it is.
    pub used_up_after: Option<Step>,
}

/// The table, one line per source.
pub fn sources(uses: &[SourceUse], columns: usize) -> String {
    let heads = [
        ("Source", Align::Left),
        ("share", Align::Right),
        ("tokens", Align::Right),
        ("epochs", Align::Right),
        ("used up after", Align::Right),
    ];
    let row = |one: &SourceUse| {
        vec![
            one.source.clone(),
            format!("{:.1} %", 100.0 * one.share),
            count(one.tokens),
            decimal(one.epochs, 2),
            one.used_up_after.map_or("-".into(), |step| format!("{step} steps")),
        ]
    };
    table(&heads, &uses.iter().map(row).collect::<Vec<_>>(), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_per_source() {
        let of = |source: &str, share, tokens, epochs, used_up_after| SourceUse {
            source: source.into(),
            share,
            tokens,
            epochs,
            used_up_after,
        };
        let uses =
            [of("books", 0.212, 1_300_000, Some(4.0), Some(1520)), of("wikipedia", 0.788, 4_850_000, None, None)];
        insta::assert_snapshot!(sources(&uses, 80), @r"
        Source      share  tokens  epochs  used up after
        books      21.2 %   1.3 M    4.00     1520 steps
        wikipedia  78.8 %   4.8 M       -              -
        ");
    }
}
