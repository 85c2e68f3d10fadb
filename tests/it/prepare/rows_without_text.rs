//! Rows that are null or empty: each is in the catalog, and in nothing else.
use super::{Documents, PLAN, documents, edit, prepare, rows, same};
use crate::support::{Random, Scratch};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs::File;
use std::sync::Arc;

/// Writes `documents`, each after `apart` rows that are null or, every third, empty. Only documents have ids. Returns the
/// number of rows.
fn write_apart(scratch: &Scratch, documents: &Documents, apart: usize) -> usize {
    let (mut ids, mut texts): (Vec<Option<&str>>, Vec<Option<&str>>) = (Vec::new(), Vec::new());
    for (id, text) in documents {
        for at in 0..apart {
            ids.push(None);
            texts.push((at % 3 == 0).then_some(""));
        }
        ids.push(Some(id));
        texts.push(Some(text));
    }
    let count = ids.len();
    let columns = [("id", ids), ("text", texts)].map(|(name, of)| (name, Arc::new(StringArray::from(of)) as ArrayRef));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(scratch.path("in.parquet")).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    count
}

#[test]
fn an_update_equals_a_run_from_nothing_and_no_row_is_lost() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    let mut random = Random(8);
    let mut corpus = documents(40, &mut random);
    for version in 1..=2 {
        let count = write_apart(&scratch, &corpus, 70);
        let empty = count - corpus.len();
        let workers = (version % 2 + 1).to_string();
        prepare(&scratch, "updated", &["--workers", &workers]).succeeds();
        let fresh = format!("fresh{version}");
        prepare(&scratch, &fresh, &["--workers", "1"]).succeeds();
        let folder = format!("updated/v{version}");
        same(&scratch, &folder, &format!("{fresh}/v1"));
        let stats: serde_json::Value = serde_json::from_str(&scratch.read(&format!("{folder}/stats.json"))).unwrap();
        assert_eq!(
            (&stats["read"]["documents"], &stats["dropped"]["empty"]["documents"]),
            (&count.into(), &empty.into())
        );
        let file = File::open(scratch.path(&format!("{folder}/catalog.parquet"))).unwrap();
        let mut next = 0;
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let order = UInt64Array::from_iter_values(next..next + batch.num_rows() as u64);
            assert_eq!(batch["input_row"].as_ref(), &order as &dyn Array);
            next += batch.num_rows() as u64;
            let (verdicts, reasons) = (batch["verdict"].as_string::<i32>(), batch["dropped"].as_string::<i32>());
            let (ids, bytes) =
                (batch["id"].as_string::<i32>(), batch["bytes"].as_primitive::<arrow::datatypes::UInt64Type>());
            for row in 0..batch.num_rows() {
                let (id, number) = (ids.value(row), order.value(row) as usize);
                let is_empty = number % 71 < 70;
                assert_eq!((bytes.value(row) == 0, reasons.is_valid(row)), (is_empty, is_empty), "row {number}");
                if is_empty {
                    assert_eq!((verdicts.value(row), reasons.value(row)), ("dropped", "empty"));
                    assert_eq!(id, format!("in.parquet/{number}"));
                } else {
                    assert_eq!(id, corpus.keys().nth(number / 71).unwrap());
                }
            }
        }
        assert_eq!(next, count as u64);
        let kept = rows(&scratch, &folder, "documents", "id");
        assert!(!kept.is_empty() && kept.iter().all(|id| corpus.contains_key(id)), "{kept:?}");
        edit(&mut corpus, &mut random);
    }
    // A version that stores the texts of dropped rows has one for each.
    let count = write_apart(&scratch, &corpus, 3);
    prepare(&scratch, "all", &["--set", "write.keep_dropped=true"]).succeeds();
    let stored = ["documents", "dropped"].map(|kind| rows(&scratch, "all/v1", kind, "id").len());
    assert_eq!(stored[0] + stored[1], count);
}
