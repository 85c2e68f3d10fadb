//! Training on a file with millions of rows that are null: they are no documents, and take no memory.
use crate::support::{Scratch, corpus, tiny};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::Value;
use std::fs::File;
use std::sync::Arc;

const NULLS: usize = 6_000_000;

#[test]
fn null_rows_change_neither_weights_nor_memory() {
    let scratch = Scratch::new();
    let texts = corpus(60);
    let trained = |file: &str, nulls: usize| {
        let columns = [StringArray::from_iter_values(&texts), StringArray::new_null(nulls)];
        let batches =
            columns.map(|column| RecordBatch::try_from_iter([("text", Arc::new(column) as ArrayRef)]).unwrap());
        let nullable = batches[1].schema();
        let mut writer =
            ArrowWriter::try_new(File::create(scratch.path(file)).unwrap(), nullable.clone(), None).unwrap();
        for batch in batches {
            writer.write(&RecordBatch::try_new(nullable.clone(), batch.columns().to_vec()).unwrap()).unwrap();
        }
        writer.close().unwrap();
        let config = format!("{file}.toml");
        scratch.write(&config, tiny(&format!("paths = [{file:?}]")));
        let directory = format!("runs/{file}");
        let ran = scratch.pipeline(&["run", &config, "--run-dir", &directory, "--workers", "1"]).succeeds();
        let status: Value = serde_json::from_str(&scratch.read(&format!("{directory}/status.json"))).unwrap();
        let weights = scratch.last(&directory, "model.safetensors");
        (weights, scratch.losses(&directory), status["peak_rss_mb"].as_u64().unwrap(), ran.stderr)
    };
    let (plain, with_nulls) = (trained("plain.parquet", 1), trained("nulls.parquet", NULLS));
    assert!(plain.0 == with_nulls.0 && plain.1 == with_nulls.1);
    assert!(with_nulls.3.contains(&format!("{NULLS} empty documents are passed over")), "{}", with_nulls.3);
    // Of 8 bytes and a bit per decoded row, 256 MB are cached at most, and a piece of a million rows is made of batches that
    // take another 20 bytes per row. Nothing else may depend on the number of rows: this bound is 4 bytes per row.
    let (cached, more) = ((NULLS as u64 * 65 / 8) >> 20, with_nulls.2 - plain.2.min(with_nulls.2));
    assert!(more < cached + 20 + 24, "{more} MB more, of which {cached} are cached rows");
}
