//! What decides which documents are held out.

/// What decides whether a document is held out for validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Split {
    /// Rows 0, n, 2n … of the files.
    Every(u64),
    /// Documents whose content hash falls into this share of all hashes: equal documents stay together, and a
    /// document stays where it is when others come or go.
    Fraction(f64),
}

impl Split {
    /// A name for cache keys.
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

/// The part of the corpus a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// Learned from.
    Train = 0,
    /// Held out.
    Validation = 1,
    /// Neither: null or empty.
    Skipped = 2,
    /// Neither: a stage drops it.
    Dropped = 3,
}

impl Part {
    /// All of them, by their number.
    pub const ALL: [Part; 4] = [Part::Train, Part::Validation, Part::Skipped, Part::Dropped];

    /// Its name in the files that preparation writes.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Validation => "validation",
            Part::Skipped => "skipped",
            Part::Dropped => "dropped",
        }
    }
}
