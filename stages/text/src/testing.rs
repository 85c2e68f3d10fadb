//! Helpers for this crate's tests: an environment, a corpus, compressed and damaged input.
use crate::corpus::index::CorpusIndex;
use crate::corpus::split::Part;
use crate::corpus::survey::Survey;
use crate::input::codec::Codec;
use crate::input::decompress::Decompressed;
use crate::input::document::{EmitItem, ReaderItem};
use crate::input::ingest::DocumentFile;
use crate::input::quarantine::Unreadable;
use crate::parquet::decode::failing;
use crate::parquet::documents::records;
use crate::support::problem::TextProblem;
use anyhow::Result;
use arrow::array::LargeStringArray;
use contract::{BatchShape, Env, Resources};
use parquet::arrow::ArrowWriter;
use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

/// One worker, one micro-batch per lane, `steps` steps, no validation, no checkpoint.
pub fn env(lanes: u32, sequences: usize, length: usize, steps: u64) -> Env {
    Env {
        seed: 42,
        shape: BatchShape { micro_batches: lanes, lanes, sequences, length },
        ..Env::without_training(1, lanes, steps, Resources::default())
    }
}

/// A corpus of training documents followed by validation documents, with these numbers of tokens.
pub fn index(train: &[u32], validation: &[u32]) -> Arc<CorpusIndex> {
    let parts = [vec![Part::Train; train.len()], vec![Part::Validation; validation.len()]].concat();
    let (all_rows, bytes) = (parts.len() as u64, vec![1; parts.len()]);
    let rows: Vec<u64> = (0..all_rows).collect();
    let survey = Survey { all_rows, hashes: rows.clone(), rows, bytes, parts, ..Survey::default() };
    Arc::new(CorpusIndex::new(&survey, &[train, validation].concat()).unwrap())
}

/// `content` as one member, frame or stream, with its checksum.
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

/// Writes document Parquet with these row groups to `path`, like an input that is read in place.
pub fn document_file(path: &Path, groups: &[Vec<String>]) -> DocumentFile {
    let batch = |texts: &Vec<String>| records(LargeStringArray::from_iter_values(texts)).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch(&groups[0]).schema(), None).unwrap();
    for texts in groups {
        writer.write(&batch(texts)).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
    DocumentFile::new(path, "text")
}

/// Runs `f` once per read of Parquet, with that read failing: `f` must return the system's error each time. Returns the
/// result without a failing read, and the number of reads.
pub fn with_failing_reads<T: std::fmt::Debug>(f: impl Fn() -> Result<T>) -> (T, u64) {
    let mut sound = 0;
    loop {
        let (result, failed) = failing::after(sound, &f);
        if !failed {
            return (result.unwrap(), sound);
        }
        let error = result.unwrap_err();
        let of_the_system = |cause: &(dyn std::error::Error + 'static)| {
            let error: Option<&std::io::Error> = cause.downcast_ref();
            error.is_some_and(|error| error.raw_os_error() == Some(failing::ERROR))
        };
        assert!(error.chain().any(of_the_system), "read {sound}: {error:#}");
        assert!(!error.chain().any(|cause| cause.is::<TextProblem>()), "read {sound}: {error:#}");
        assert!(format!("{error:#}").contains("cannot read"), "read {sound}: {error:#}");
        sound += 1;
    }
}

/// Offsets and texts of the documents that `read` emits for `content`, and its bad items.
pub fn found_at(
    content: &[u8],
    codec: Codec,
    read: impl FnOnce(Decompressed, EmitItem) -> Result<()>,
) -> Result<(Vec<(u64, String)>, Vec<Unreadable>)> {
    let (mut documents, mut bad) = (Vec::new(), Vec::new());
    let input = Decompressed::new(Cursor::new(content.to_vec()), codec)?;
    read(input, &mut |found| {
        match found {
            ReaderItem::Document(document) => documents.push((document.offset, document.text.to_string())),
            ReaderItem::Unreadable(one) => bad.push(one),
        }
        Ok(())
    })?;
    Ok((documents, bad))
}

/// The same without the offsets.
pub fn found(
    content: &[u8],
    codec: Codec,
    read: impl FnOnce(Decompressed, EmitItem) -> Result<()>,
) -> Result<(Vec<String>, Vec<Unreadable>)> {
    let (documents, bad) = found_at(content, codec, read)?;
    Ok((documents.into_iter().map(|(_, text)| text).collect(), bad))
}
