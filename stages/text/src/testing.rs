//! For this crate's tests: an environment and a corpus.
use crate::corpus::index::CorpusIndex;
use crate::corpus::split::Part;
use crate::corpus::survey::Survey;
use crate::input::decompress::{Codec, Decompressed};
use crate::input::document::{Found, Give};
use crate::input::quarantine::Bad;
use anyhow::Result;
use contract::{BatchShape, Env, Resources, Schedule};
use std::io::{Cursor, Write};
use std::sync::Arc;

/// One worker, `steps` steps, no validation, no checkpoint.
pub fn env(lanes: u32, sequences: usize, length: usize, steps: u64) -> Env {
    Env {
        stage: String::new(),
        upstream: Vec::new(),
        worker: 0,
        workers: 1,
        seed: 42,
        schedule: Schedule { first: 0, steps, evaluate: None, checkpoint: None },
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
    let survey = Survey { bytes: vec![1; parts.len()], parts, ..Survey::default() };
    Arc::new(CorpusIndex::new(survey, [train, validation].concat()).unwrap())
}

/// `content` as one member, frame or stream, with its check sum.
pub fn pack(codec: Codec, content: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Plain => content.to_vec(),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Codec::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Codec::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// Places and texts of the documents that `read` finds in `content`, and what it sets aside.
pub fn found_at(
    content: &[u8],
    codec: Codec,
    read: impl FnOnce(Decompressed, Give) -> Result<()>,
) -> Result<(Vec<(u64, String)>, Vec<Bad>)> {
    let (mut documents, mut bad) = (Vec::new(), Vec::new());
    let input = Decompressed::new(Cursor::new(content.to_vec()), codec)?;
    read(input, &mut |found| {
        match found {
            Found::Document(document) => documents.push((document.offset, document.text.to_string())),
            Found::Bad(one) => bad.push(one),
        }
        Ok(())
    })?;
    Ok((documents, bad))
}

/// The same without the places.
pub fn found(
    content: &[u8],
    codec: Codec,
    read: impl FnOnce(Decompressed, Give) -> Result<()>,
) -> Result<(Vec<String>, Vec<Bad>)> {
    let (documents, bad) = found_at(content, codec, read)?;
    Ok((documents.into_iter().map(|(_, text)| text).collect(), bad))
}
