//! The rule that decides which documents are held out for validation.
use contract::{Problem, Resources};
use serde::{Deserialize, Serialize};

/// The fraction of documents that is held out by default.
const FRACTION: f64 = 0.01;

/// The rule that decides whether a document is held out for validation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Rows 0, n, 2n … of the files.
    Every(u64),
    /// Documents whose content hash falls into this fraction of all hashes: equal documents stay in the same part, and
    /// a document does not change its part when others are added or removed.
    Fraction(f64),
}

impl Split {
    /// The split that the keys `validation_fraction` and `validation_every` describe.
    pub fn of(fraction: Option<f64>, every: Option<u64>) -> Self {
        every.map_or(Self::Fraction(fraction.unwrap_or(FRACTION)), Self::Every)
    }

    /// Problems with these keys.
    pub(crate) fn check(fraction: Option<f64>, every: Option<u64>) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(fraction) = fraction.filter(|fraction| !(0.0..1.0).contains(fraction)) {
            problems.push(Problem::at("validation_fraction", format!("is {fraction}, but must be from 0 to below 1")));
        }
        if every.is_some_and(|n| n < 2) {
            problems.push(Problem::at("validation_every", "must be at least 2, or nothing is left to learn from"));
        }
        if fraction.is_some() && every.is_some() {
            let why = "holds out rows by their number, and `validation_fraction` documents by their content: give one";
            problems.push(Problem::at("validation_every", why));
        }
        problems
    }

    /// A string for cache keys.
    pub fn key(&self) -> String {
        format!("{self:?}")
    }

    pub(crate) fn holds_out(&self, row: u64, hash: u64) -> bool {
        match self {
            Split::Every(n) => row.is_multiple_of((*n).max(1)),
            Split::Fraction(share) => (hash as f64) < share * 2f64.powi(64),
        }
    }

    pub(crate) fn holds_out_something(&self) -> bool {
        !matches!(self, Split::Fraction(share) if *share <= 0.0)
    }
}

/// A resource of the run: nothing is trained, so that every document is held out, whatever the keys of its source say.
pub struct HoldOutAll;

impl HoldOutAll {
    /// `split`, unless the run holds out all documents.
    pub fn or(split: Split, resources: &Resources) -> Split {
        resources.get::<Self>().map_or(split, |_| Split::Every(1))
    }
}

/// The part of the corpus a document belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Part {
    /// Training.
    Train = 0,
    /// Validation.
    Validation = 1,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// Its name in the files that preparation writes.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Validation => "validation",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_decides() {
        let wrong =
            |fraction, every| Split::check(fraction, every).into_iter().map(|problem| problem.message).collect();
        let none: Vec<String> = Vec::new();
        for (fraction, every, split) in [
            (None, None, Split::Fraction(0.01)),
            (Some(0.2), None, Split::Fraction(0.2)),
            (Some(0.0), None, Split::Fraction(0.0)),
            (None, Some(5), Split::Every(5)),
        ] {
            assert_eq!((Split::of(fraction, every), wrong(fraction, every)), (split, none.clone()));
        }
        let both = wrong(Some(0.2), Some(5));
        assert!(both.len() == 1 && both[0].contains("give one"), "{both:?}");
    }
}
