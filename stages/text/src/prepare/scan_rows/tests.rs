//! Rows are the same however they are cut.
use super::*;
use crate::corpus::split::Split;
use crate::input::ingest::DocumentFile;
use crate::input::quarantine::OnBadData;
use crate::parquet::columns;
use crate::testing::{document_file, with_failing_reads};

fn source(files: &[DocumentFile]) -> RowSource {
    let (on_bad_data, split) = (OnBadData::Quarantine, Split::Fraction(0.0));
    RowSource { files: files.to_vec(), on_bad_data, withdrawn: None, split, mixed: None }
}

#[test]
fn rows_are_the_same_in_pieces_of_any_size() {
    let folder = tempfile::tempdir().unwrap();
    let group = |of: &str| (0..150).map(|row| format!("{of} {row} ").repeat(row % 9)).collect();
    let files = [document_file(&folder.path().join("a.parquet"), &[group("a"), group("b")])];
    let read = |bytes: usize| {
        let mut store = RowStore::open(vec![source(&files)]).unwrap();
        store.groups = store.groups.with_piece_bytes(bytes);
        let (mut batches, mut largest) = (Vec::new(), 0);
        for chunk in 0..store.chunks() {
            let (read, bad) = store.chunk(chunk).unwrap();
            assert!(bad.is_empty());
            let size = |rows: &RecordBatch| rows["text"].as_string::<i64>().iter().flatten().map(str::len).sum();
            largest = read.iter().map(|read| size(&read.rows)).fold(largest, usize::max);
            batches.extend(read.into_iter().map(|read| read.rows));
        }
        assert_eq!(store.position(170), Some(("a.parquet", 170)));
        (arrow::compute::concat_batches(&columns::documents(), &batches).unwrap(), largest)
    };
    let (all, _) = read(1 << 20);
    assert_eq!((all.num_rows(), all["id"].as_string::<i32>().value(299)), (300, "a.parquet/299"));
    let (pieces, largest) = read(700);
    assert_eq!(pieces, all);
    assert!((100..=700).contains(&largest), "{largest} bytes of text in one batch");
}

#[test]
fn a_read_that_fails_ends_the_scan() {
    let folder = tempfile::tempdir().unwrap();
    let group = |of: &str| (0..100).map(|row| format!("text {row} of {of}")).collect();
    let file = document_file(&folder.path().join("a.parquet"), &[group("a"), group("b")]);
    let scan = || {
        let store = RowStore::open(vec![source(std::slice::from_ref(&file))])?;
        let chunks: Vec<_> = (0..store.chunks()).map(|chunk| store.chunk(chunk)).collect::<Result<_>>()?;
        let bad = chunks.iter().map(|(_, bad)| bad.len()).sum::<usize>();
        Ok((chunks.iter().flat_map(|(read, _)| read).map(|read| read.rows.num_rows()).sum::<usize>(), bad))
    };
    let (found, reads) = with_failing_reads(scan);
    assert_eq!(found, (200, 0));
    assert!(reads > 4, "{reads} reads");
}
