//! What the tests of this folder share.
#![allow(dead_code)] // each of them uses a part
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use contract::{BatchShape, Env, Resources, Schedule};
use millrace_text::corpus::source_keys::Conversion;
use millrace_text::input::quarantine::OnBadData;
use millrace_text::{DocumentStore, ReadDocuments, silent};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of the shared data; `None`, and a line that says so, where there is none.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(path);
    if !path.exists() {
        println!("skipped: {} is not here", path.display());
        return None;
    }
    Some(path)
}

/// Worker `worker` of `workers`.
pub fn env(worker: usize, workers: usize, shape: BatchShape, schedule: Schedule, resources: &Resources) -> Env {
    let resources = resources.clone();
    Env { worker, seed: 42, schedule, shape, ..Env::without_training(workers, shape.lanes, schedule.steps, resources) }
}

/// A Parquet file of these columns, `rows` rows a row group.
pub fn write_parquet(path: &Path, rows: usize, columns: &[(&str, ArrayRef)]) {
    let batch = RecordBatch::try_from_iter(columns.iter().cloned()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows)).build();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A Parquet file with a column `text`.
pub fn write_texts(path: &Path, rows: usize, texts: &[Option<&str>]) {
    write_parquet(path, rows, &[("text", Arc::new(StringArray::from(texts.to_vec())))]);
}

/// `content` in each packing, in two parts, with check sums; and how such a file's name ends.
pub fn pack_all(content: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let halves = content.split_at(content.len() / 2);
    let (mut gzip, mut zst, mut bzip2) = (Vec::new(), Vec::new(), Vec::new());
    for part in [halves.0, halves.1] {
        let mut encoder = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
        let mut encoder = zstd::Encoder::new(&mut zst, 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
        let mut encoder = bzip2::write::BzEncoder::new(&mut bzip2, bzip2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    [("gz", gzip), ("zst", zst), ("bz2", bzip2)]
}

/// Settings that read `paths`, with a cache of the test.
pub fn settings(paths: &[&Path], cache: &Path) -> ReadDocuments {
    let text = |p: &Path| p.to_str().unwrap().to_string();
    let conversion = Conversion { cache: Some(text(cache)), ..Default::default() };
    ReadDocuments { paths: paths.iter().map(|p| text(p)).collect(), conversion, ..Default::default() }
}

/// The same settings with another `max_bad_fraction`.
pub fn with_limit(max_bad_fraction: f64, settings: ReadDocuments) -> ReadDocuments {
    ReadDocuments { conversion: Conversion { max_bad_fraction, ..settings.conversion }, ..settings }
}

/// The same settings with a `separator`.
pub fn separated(settings: ReadDocuments) -> ReadDocuments {
    ReadDocuments { separator: Some("\n===\n".into()), ..settings }
}

/// The same settings with `on_bad_data = "stop"`.
pub fn stopping(settings: ReadDocuments) -> ReadDocuments {
    let conversion = Conversion { on_bad_data: OnBadData::Stop, ..settings.conversion };
    ReadDocuments { conversion, ..settings }
}

/// Their documents.
pub fn store(paths: &[&Path], cache: &Path) -> anyhow::Result<DocumentStore> {
    settings(paths, cache).ingest(1, &mut silent()).and_then(|found| found.open(1))
}

/// All texts.
pub fn texts(store: &DocumentStore) -> Vec<Option<String>> {
    (0..store.rows()).map(|row| store.get(row).unwrap()).collect()
}
