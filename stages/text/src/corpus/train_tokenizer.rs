//! Trains a tokenizer on the documents of a corpus.
use crate::corpus::source_rows::SourceRows;
use crate::support::cache::{Cache, key, used};
use crate::support::on_all_cores::on_all_cores;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::train::{TRAINER, WordCounts, learn, tokenizer_json};
use anyhow::Result;
use contract::Unit;

/// The progress of training, as [`contract::Prepare::progress`] takes it: the work, its unit, how much is done, and of
/// how much.
pub type TrainingProgress<'a> = &'a mut dyn FnMut(&'static str, Unit, u64, u64);

/// A [`TrainingProgress`] that displays nothing.
pub fn no_progress() -> impl FnMut(&'static str, Unit, u64, u64) {
    |_, _, _, _| {}
}

/// A byte-level BPE with `size` ids, trained on the training documents of `sources`, with `end_of_text` as id 0. Stored
/// in the cache under a key of everything that it depends on.
pub fn train_tokenizer(
    sources: &[SourceRows],
    size: usize,
    end_of_text: &str,
    cache: &Cache,
    progress: TrainingProgress,
) -> Result<Tokenizer> {
    let mut made_of = vec![TRAINER.to_owned()];
    for source in sources {
        let mut rows = blake3::Hasher::new();
        source.survey.train().for_each(|row| _ = rows.update(&row.to_le_bytes()));
        made_of.extend([source.content_key(), rows.finalize().to_hex().to_string()]);
    }
    made_of.extend([size.to_string(), end_of_text.to_owned()]);
    let key = key(&made_of.iter().map(String::as_str).collect::<Vec<_>>());
    let path = cache.file("tokenizers", &key, "json");
    if let Ok(json) = std::fs::read_to_string(&path) {
        used(&[&path]);
        return Tokenizer::from_json(&path.display().to_string(), json, end_of_text);
    }
    let mut words = WordCounts::default();
    for source in sources {
        words.merge(count_words(source, progress)?);
    }
    let mut shown = |done, total| progress("Training the tokenizer", Unit::Things("token ids"), done, total);
    let learned = learn(words, size, end_of_text, &mut shown);
    let json = tokenizer_json(&learned.tokens, &learned.merges, (end_of_text, 0));
    let tokenizer = Tokenizer::from_json("trained", json, end_of_text)?;
    tokenizer.save(&path)?;
    Ok(tokenizer)
}

/// Counts words on every core: a sum does not depend on which thread counted what.
fn count_words(source: &SourceRows, progress: TrainingProgress) -> Result<WordCounts> {
    const CHUNK: usize = 256;
    let rows: Vec<u64> = source.survey.train().collect();
    let chunks: Vec<&[u64]> = rows.chunks(CHUNK).collect();
    let start = || Ok((source.stages.build()?, WordCounts::default()));
    let mut shown = |done, total| progress("Counting words", Unit::Things("documents"), done, total);
    let counts = on_all_cores(&chunks, &mut shown, rows.len() as u64, start, |(stages, words), _, rows| {
        stages.each(&source.store, rows.iter().copied(), |text, _| words.add(text))?;
        Ok(rows.len() as u64)
    })?;
    let mut all = WordCounts::default();
    counts.into_iter().for_each(|(_, words)| all.merge(words));
    Ok(all)
}
