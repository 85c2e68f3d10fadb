//! Where the rows of a preparation come from: its sources, one after the other.
use crate::corpus::split::Split;
use serde::{Deserialize, Serialize};

/// One of several sources of a preparation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The id of its stage, which the ids of its documents begin with.
    pub stage: String,
    /// Number of its rows.
    pub rows: u64,
    /// The rule for holding out documents.
    pub split: Split,
}

/// The sources of a preparation, in the order in which their rows are numbered.
#[derive(Clone, Debug, PartialEq)]
pub enum Origins {
    /// There is one source, and nothing says so in the files. Its documents are held out by this rule.
    One(Split),
    /// Sources that a stage mixes. The first ones have priority when one of several duplicates is kept.
    Mixed(Vec<Origin>),
}

impl Origins {
    /// The names of sources that are mixed, in order.
    pub fn mixed(&self) -> &[Origin] {
        match self {
            Origins::One(_) => &[],
            Origins::Mixed(sources) => sources,
        }
    }

    /// Whether documents say which source they are from.
    pub fn are_mixed(&self) -> bool {
        matches!(self, Origins::Mixed(_))
    }

    /// The index of the source that the input's row `row` is from.
    pub fn index(&self, row: u64) -> usize {
        let ends = self.mixed().iter().scan(0, |end, source| {
            *end += source.rows;
            Some(*end)
        });
        ends.take_while(|end| *end <= row).count()
    }

    /// The source of the input's row `row`, if sources are mixed.
    pub fn of(&self, row: u64) -> Option<&Origin> {
        self.mixed().get(self.index(row))
    }

    /// The rule for holding out the input's row `row`.
    pub fn split(&self, row: u64) -> Split {
        match self {
            Origins::One(split) => *split,
            Origins::Mixed(_) => self.of(row).map_or(Split::Fraction(0.0), |source| source.split),
        }
    }
}

/// The id of the document `id` of the source `stage`, among those of all sources. Names of stages have no `/`.
pub fn id_of(stage: &str, id: &str) -> String {
    format!("{stage}/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_of_the_source_that_has_them() {
        let source = |stage: &str, rows| Origin { stage: stage.into(), rows, split: Split::Fraction(0.1) };
        let origins = Origins::Mixed(vec![source("a", 2), source("none", 0), source("b", 3)]);
        let stages: Vec<_> = (0..6).map(|row| origins.of(row).map(|source| source.stage.as_str())).collect();
        assert_eq!(stages, [Some("a"), Some("a"), Some("b"), Some("b"), Some("b"), None]);
        let one = Origins::One(Split::Fraction(0.5));
        assert_eq!((one.of(7), one.index(7), one.split(7)), (None, 0, Split::Fraction(0.5)));
    }
}
