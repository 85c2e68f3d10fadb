//! For this crate's tests: an environment and a corpus.
use crate::corpus::{CorpusIndex, Part, Survey};
use contract::{BatchShape, Calendar, Env, Resources};
use std::sync::Arc;

/// One worker, `steps` steps, no validation, no checkpoint.
pub fn env(lanes: u32, sequences: usize, length: usize, steps: u64) -> Env {
    Env {
        worker: 0,
        workers: 1,
        seed: 42,
        calendar: Calendar { first: 0, steps, evaluate: None, checkpoint: None },
        shape: BatchShape { micro_batches: lanes, sequences, length },
        model: None,
        corpus: None,
        run_dir: None,
        resources: Resources::default(),
    }
}

/// A corpus of training rows and then validation rows of so many tokens.
pub fn index(train: &[u32], validation: &[u32]) -> Arc<CorpusIndex> {
    let parts = [vec![Part::Train; train.len()], vec![Part::Validation; validation.len()]].concat();
    let survey = Survey { bytes: vec![1; parts.len()], parts };
    Arc::new(CorpusIndex::new(survey, [train, validation].concat()).unwrap())
}
