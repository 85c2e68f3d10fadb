//! Answers to questions about a run, as JSON has them.
use contract::Step;
use serde::Serialize;
use text::About;

/// An answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The documents of a step.
    Step(OfStep),
    /// Documents, and the steps that have seen them.
    Documents(OfDocuments),
}

/// The documents of a step.
#[derive(Debug, Serialize)]
pub struct OfStep {
    /// The run's directory, as it was named.
    pub run: String,
    /// The step, counted from 1.
    pub step: Step,
    /// Steps of the whole run.
    pub steps: Step,
    /// Whether the run has got there.
    pub trained: bool,
    /// Sequences of the step.
    pub sequences: usize,
    /// Tokens of a sequence that the model reads; the one after them is its last target.
    pub sequence_length: usize,
    /// The documents, in the order of micro-batches and sequences.
    pub documents: Vec<InStep>,
}

/// A document of a step.
#[derive(Debug, Serialize)]
pub struct InStep {
    /// The id of its source in the configuration.
    pub source: String,
    /// Its row in the source.
    pub row: Option<u64>,
    /// Id, title, URL, …
    #[serde(flatten)]
    pub about: About,
    /// Its tokens, with the one that ends it.
    pub document_tokens: u32,
    /// Its parts in the step.
    pub passages: Vec<Passage>,
}

/// A part of a document in a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passage {
    /// The micro-batch.
    pub micro_batch: u32,
    /// The sequence in the micro-batch, from 0.
    pub sequence: usize,
    /// Where in the sequence the part begins, in tokens.
    pub position: usize,
    /// The tokens of the document: from, up to.
    pub tokens: [u32; 2],
    /// How often the document has been read completely before.
    pub epoch: u64,
}

/// Documents, and the steps that have seen them.
#[derive(Debug, Serialize)]
pub struct OfDocuments {
    /// The run's directory, as it was named.
    pub run: String,
    /// Steps so far.
    pub steps: Step,
    /// The documents, in the order of sources and rows.
    pub documents: Vec<OfDocument>,
}

/// A document, and the steps that have seen it.
#[derive(Debug, Default, Serialize)]
pub struct OfDocument {
    /// The id of its source in the configuration.
    pub source: String,
    /// Its row in the source, if it is there.
    pub row: Option<u64>,
    /// Id, title, URL, …
    #[serde(flatten)]
    pub about: About,
    /// Its tokens, with the one that ends it; 0 if it is not used.
    pub document_tokens: u32,
    /// "train", "validation" or "not used".
    pub fate: &'static str,
    /// Why it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The document that is kept in its place, if it is a duplicate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<String>,
    /// How often the text occurs in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<usize>,
    /// The first occurrence, with some text before and after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excerpt: Option<String>,
    /// The tokens of the first occurrence: from, up to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<[u32; 2]>,
    /// The steps so far that have seen it, or the first occurrence of the text.
    pub seen: Vec<Seen>,
    /// The source's index in the mixture, and the document's among its training documents.
    #[serde(skip)]
    pub train: Option<(usize, usize)>,
}

/// A part of a document in a step.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The step, counted from 1.
    pub step: Step,
    /// The part.
    #[serde(flatten)]
    pub passage: Passage,
}

impl Passage {
    /// From a passage of the lineage.
    pub fn of(passage: &text::Passage) -> Self {
        let text::Passage { leaf, row, position, epoch, ref tokens, .. } = *passage;
        Self { micro_batch: leaf, sequence: row, position, tokens: [tokens.start, tokens.end], epoch }
    }
}
